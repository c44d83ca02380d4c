"""Basis functions on a quadrature grid, evaluated once, and PBE exchange-correlation on it."""

from dataclasses import dataclass

import numpy as np
from pyscf import dft, gto
from pyscf.dft import libxc

from molkit.errors import InvalidInput
from molkit.molecule import Molecule
from molkit.ofdft.basis import density_mole, orbital_mole

FUNCTIONAL = "pbe,pbe"
LARGEST_GIB = 6.0
BLOCK = 5000  # points


@dataclass(frozen=True, eq=False)
class Grid:
    """Weights [G]; values and first derivatives of orbital [4, G, N] and density functions [4, G, M]."""

    points: np.ndarray  # [G, 3], bohr
    weights: np.ndarray
    orbitals: np.ndarray
    density_functions: np.ndarray

    def fields_of_matrices(self, matrices: np.ndarray) -> np.ndarray:
        """Density and its gradient of symmetric density matrices [S, N, N]; [S, 4, G]."""
        return np.stack([self._fields_of_matrix(matrix) for matrix in matrices])

    def _fields_of_matrix(self, matrix: np.ndarray) -> np.ndarray:
        half = self.orbitals[0] @ matrix
        fields = np.einsum("dgn,gn->dg", self.orbitals, half)
        fields[1:] *= 2.0
        return fields

    def fields(self, coefficients: np.ndarray) -> np.ndarray:
        """Density and its gradient of coefficients [S, M]; [S, 4, G]."""
        return np.moveaxis(self.density_functions @ coefficients.T, 2, 0)

    def pull_back(self, by_density: np.ndarray, by_sigma: np.ndarray, fields: np.ndarray) -> np.ndarray:
        """Derivative by the coefficients of an integral, from those of its density by rho and |grad rho|^2; [S, M].

        integral w_g [v_rho omega_m + 2 v_sigma grad rho . grad omega_m]
        """
        local = np.concatenate([by_density[:, None], 2.0 * by_sigma[:, None] * fields[:, 1:]], axis=1) * self.weights
        return np.tensordot(local, self.density_functions, axes=([1, 2], [0, 1]))


def build_grid(molecule: Molecule, *, level: int = 2) -> Grid:
    """PySCF's grid of the level with NWChem pruning. Raises InvalidInput where its tables would not fit in memory."""
    orbitals, density = orbital_mole(molecule), density_mole(molecule)
    points, weights = grid_points(molecule, level=level)
    size = 32 * len(weights) * (orbitals.nao + density.nao) / 2**30
    if size > LARGEST_GIB:
        raise InvalidInput(
            f"{molecule.formula}: basis functions on the grid take {size:.1f} GiB, at most {LARGEST_GIB}"
        )
    return Grid(points, weights, values_at(orbitals, points), values_at(density, points))


def grid_points(molecule: Molecule, *, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [G, 3] in bohr and weights [G] of PySCF's grid of the level with NWChem pruning."""
    grid = dft.gen_grid.Grids(orbital_mole(molecule))
    grid.level, grid.prune = level, dft.gen_grid.nwchem_prune
    grid.build(with_non0tab=False)
    return grid.coords, grid.weights


def values_at(mole: gto.Mole, points: np.ndarray) -> np.ndarray:
    """Values and first derivatives of basis functions at points [G, 3] in bohr; [4, G, functions].

    PySCF's arrays run along the points; they are turned block by block, which takes a quarter of the time.
    """
    found = np.empty((4, len(points), mole.nao))
    for start in range(0, len(points), BLOCK):
        found[:, start : start + BLOCK] = dft.numint.eval_ao(mole, points[start : start + BLOCK], deriv=1)
    return found


def exchange_correlation(grid: Grid, fields: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """PBE energies [S], and derivatives of the energy density by rho and |grad rho|^2, [S, G] each."""
    count, _, points = fields.shape
    flat = np.ascontiguousarray(np.moveaxis(fields, 1, 0).reshape(4, count * points))
    per_electron, (by_density, by_sigma, *_), _, _ = libxc.eval_xc(FUNCTIONAL, flat, spin=0, deriv=1)
    energy = (per_electron.reshape(count, points) * fields[:, 0]) @ grid.weights
    return energy, by_density.reshape(count, points), by_sigma.reshape(count, points)


def coefficient_exchange_correlation(grid: Grid, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """PBE energies [S] of coefficients [S, M], and their derivatives [S, M]."""
    fields = grid.fields(coefficients)
    energy, by_density, by_sigma = exchange_correlation(grid, fields)
    return energy, grid.pull_back(by_density, by_sigma, fields)


def matrix_exchange_correlation(grid: Grid, matrix: np.ndarray) -> tuple[float, np.ndarray]:
    """PBE energy of a density matrix [N, N], and its matrix V_xc."""
    fields = grid.fields_of_matrices(matrix[None])
    energy, by_density, by_sigma = exchange_correlation(grid, fields)
    local = np.concatenate([0.5 * by_density[0][None], 2.0 * by_sigma[0] * fields[0, 1:]]) * grid.weights
    half = grid.orbitals[0].T @ np.einsum("dg,dgn->gn", local, grid.orbitals)
    return float(energy[0]), half + half.T
