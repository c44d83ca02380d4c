"""What a density says: dipole moment, charges of atoms, values at points."""

from functools import cache

import numpy as np
from pyscf import dft, gto
from pyscf.scf import atom_ks

from molkit.chem.threads import one_thread
from molkit.molecule import ATOMIC_NUMBER, Molecule
from molkit.ofdft.basis import ORBITAL_BASIS, density_mole
from molkit.ofdft.grid import BLOCK, FUNCTIONAL, grid_points
from molkit.ofdft.integrals import basis_integrals
from molkit.units import ANGSTROM_TO_BOHR

DEBYE_PER_ATOMIC_UNIT = 2.541746473  # e bohr
CHARGE_GRID = 2  # level of the grid that charges are integrated on
ATOM_GRID = (75, 50)  # radii, and directions, which are exact for products of two f functions
FAINT = 1e-30  # electrons per cubic bohr, where no atom has any


@one_thread()
def dipole(molecule: Molecule, coefficients: np.ndarray) -> np.ndarray:
    """Dipole moment of density coefficients [M] in debye, about the centre of the nuclear charges; [3]."""
    density = density_mole(molecule)
    charges = molecule.atomic_numbers.astype(float)
    positions = molecule.positions * ANGSTROM_TO_BOHR
    centre = charges @ positions / charges.sum()
    first_moments = moments(molecule)
    electrons = first_moments @ coefficients - centre * float(basis_integrals(density) @ coefficients)
    return DEBYE_PER_ATOMIC_UNIT * (charges @ (positions - centre) - electrons)


def moments(molecule: Molecule) -> np.ndarray:
    """Integrals of r omega_m, [3, M], bohr; s functions have theirs from the centre they sit on."""
    density = density_mole(molecule)
    found, start = np.zeros((3, density.nao)), 0
    zeroth = basis_integrals(density)
    for shell in range(density.nbas):
        momentum = density.bas_angular(shell)
        centre = density.atom_coord(density.bas_atom(shell))
        stop = start + 2 * momentum + 1
        if momentum == 0:
            found[:, start] = zeroth[start] * centre
        elif momentum == 1:
            found[:, start:stop] = np.eye(3) * _first_moment(float(density.bas_exp(shell)[0]))
        start = stop
    return found


def _first_moment(exponent: float) -> float:
    """Integral of x times a normalised p_x function: N sqrt(3 / (4 pi)) times that of x^2 exp(-a r^2)."""
    return gto.gto_norm(1, exponent) * np.sqrt(3.0 / (4.0 * np.pi)) * (np.pi / exponent) ** 1.5 / (2.0 * exponent)


@cache
def pro_atom(symbol: str) -> tuple[gto.Mole, np.ndarray]:
    """A neutral atom at the origin, and its spherical density matrix: PBE in the orbital basis of the labels.

    Open shells are occupied in equal parts, so that the density is round. Source: PySCF's spherically averaged atoms,
    with the configurations of neutral atoms in their ground state.
    """
    atom = gto.M(atom=[(symbol, (0.0, 0.0, 0.0))], basis=ORBITAL_BASIS, spin=ATOMIC_NUMBER[symbol] % 2, verbose=0)
    with one_thread():
        _, _, orbitals, occupations = atom_ks.get_atm_nrks(atom, xc=FUNCTIONAL, grid=ATOM_GRID)[symbol]
    return atom, (orbitals * occupations) @ orbitals.T


def pro_atom_densities(molecule: Molecule, points: np.ndarray) -> np.ndarray:
    """Density of every atom alone at points [G, 3] in bohr, [A, G]."""
    found = np.empty((molecule.num_atoms, len(points)))
    for row, (symbol, place) in enumerate(zip(molecule.symbols, molecule.positions * ANGSTROM_TO_BOHR, strict=True)):
        atom, matrix = pro_atom(symbol)
        values = dft.numint.eval_ao(atom, points - place)
        found[row] = np.einsum("gn,nm,gm->g", values, matrix, values, optimize=True)
    return found


@one_thread()
def hirshfeld_charges(molecule: Molecule, coefficients: np.ndarray, *, level: int = CHARGE_GRID) -> np.ndarray:
    """Hirshfeld's charges of density coefficients [M], [A], electrons.

    q_a = - integral of rho_a / sum_b rho_b times (rho - sum_b rho_b), rho_a the density of the neutral atom alone.
    Electrons that a fitted density lacks (a few thousandths) are given to the atoms in proportion to what they have,
    so that the charges sum to zero. Source: Hirshfeld, Theor. Chim. Acta 44, 129 (1977). The grid is PySCF's.
    """
    points, weights = grid_points(molecule, level=level)
    moved, owned = np.zeros((2, molecule.num_atoms))
    for start in range(0, len(points), BLOCK):
        block = slice(start, start + BLOCK)
        alone = pro_atom_densities(molecule, points[block])
        together, density = alone.sum(0), density_at(molecule, coefficients, points[block])
        shares = alone * (weights[block] / np.maximum(together, FAINT))
        moved += shares @ (density - together)
        owned += shares @ density
    return owned / owned.sum() * moved.sum() - moved


def density_at(molecule: Molecule, coefficients: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Density at points [G, 3] in bohr, electrons per cubic bohr; [G]."""
    density, found = density_mole(molecule), np.empty(len(points))
    for start in range(0, len(points), BLOCK):
        block = slice(start, start + BLOCK)
        found[block] = dft.numint.eval_ao(density, points[block]) @ coefficients
    return found
