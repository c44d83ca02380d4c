"""Integrals of the density basis, and its natural coordinates."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import scipy.linalg
from pyscf import df, gto

from molkit.chem.threads import one_thread
from molkit.errors import InvalidInput
from molkit.molecule import Molecule
from molkit.ofdft.basis import NUM_FUNCTIONS, density_mole, orbital_mole

Roots = Literal["molecule", "atoms"]
SMALLEST_OVERLAP = 1e-7  # eigenvalue of the overlap below which the basis counts as linearly dependent


@dataclass(frozen=True, eq=False)
class DensityIntegrals:
    """What the energy of a density needs, apart from a functional; M density functions, hartree.

    basis_integrals w [M]; overlap W [M, M]; coulomb J [M, M]; external v_ext [M]; nuclear: repulsion of the nuclei.
    """

    molecule: Molecule
    basis_integrals: np.ndarray
    overlap: np.ndarray
    coulomb: np.ndarray
    external: np.ndarray
    nuclear: float

    @property
    def num_electrons(self) -> int:
        """Electrons of the neutral molecule."""
        return int(self.molecule.atomic_numbers.sum())

    @cached_property
    def roots(self) -> tuple[np.ndarray, np.ndarray]:
        """Symmetric W^(1/2) and W^(-1/2). Raises InvalidInput for a linearly dependent basis."""
        return symmetric_roots(self.overlap, self.molecule.formula)

    @cached_property
    def atom_roots(self) -> tuple[np.ndarray, np.ndarray]:
        """Symmetric roots of every atom's own block of W alone, as matrices that are zero between atoms."""
        blocks, start = [], 0
        for symbol in self.molecule.symbols:
            stop = start + NUM_FUNCTIONS[symbol]
            blocks.append(symmetric_roots(self.overlap[start:stop, start:stop], symbol))
            start = stop
        root, inverse = zip(*blocks, strict=True)
        return scipy.linalg.block_diag(*root), scipy.linalg.block_diag(*inverse)

    def natural(self, roots: Roots) -> tuple[np.ndarray, np.ndarray]:
        """The map into natural coordinates and back: by the root of the whole overlap, or of its atomic blocks."""
        return self.atom_roots if roots == "atoms" else self.roots

    def classical_energy(self, coefficients: np.ndarray) -> np.ndarray:
        """Hartree and external energy of coefficients [..., M]."""
        return (
            0.5 * np.einsum("...m,...m->...", coefficients @ self.coulomb, coefficients) + coefficients @ self.external
        )

    def classical_gradient(self, coefficients: np.ndarray) -> np.ndarray:
        """Its derivative J p + v_ext, [..., M]."""
        return coefficients @ self.coulomb + self.external


def symmetric_roots(overlap: np.ndarray, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric W^(1/2) and W^(-1/2) of an overlap [M, M]. Raises InvalidInput for a linearly dependent basis."""
    values, vectors = np.linalg.eigh(overlap)
    if values[0] < SMALLEST_OVERLAP:
        raise InvalidInput(f"{label}: the density basis is linearly dependent ({values[0]:.1e})")
    root = np.sqrt(values)
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T


@one_thread()
def density_integrals(molecule: Molecule) -> DensityIntegrals:
    """Integrals of a molecule's density basis, float64. Raises InvalidInput for a molecule that is not supported."""
    orbitals = orbital_mole(molecule)
    density = density_mole(molecule)
    charges = gto.fakemol_for_charges(density.atom_coords())
    return DensityIntegrals(
        molecule=molecule,
        basis_integrals=basis_integrals(density),
        overlap=density.intor("int1e_ovlp"),
        coulomb=density.intor("int2c2e"),
        external=-gto.intor_cross("int2c2e", density, charges) @ density.atom_charges().astype(float),
        nuclear=float(orbitals.energy_nuc()),
    )


def basis_integrals(density: gto.Mole) -> np.ndarray:
    """Integral of every density function over space, [M]; only s functions have one.

    A normalised radial part N r^0 exp(-a r^2) Y_00 integrates to N Y_00 (pi / a)^(3/2).
    """
    found, start = np.zeros(density.nao), 0
    for shell in range(density.nbas):
        width = (2 * density.bas_angular(shell) + 1) * density.bas_nctr(shell)
        if density.bas_angular(shell) == 0:
            exponent = float(density.bas_exp(shell)[0])
            found[start] = gto.gto_norm(0, exponent) / np.sqrt(4 * np.pi) * (np.pi / exponent) ** 1.5
        start += width
    return found


def three_centre(orbitals: gto.Mole, density: gto.Mole, kind: str) -> np.ndarray:
    """(eta_a eta_b | omega_m) for kind `coulomb`, its overlap analogue for `overlap`; [N, N, M]."""
    names = {"coulomb": "int3c2e", "overlap": "int3c1e"}
    return df.incore.aux_e2(orbitals, density, names[kind], aosym="s1")
