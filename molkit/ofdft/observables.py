"""What a density says: dipole moment, charges of atoms, values at points."""

import numpy as np
from pyscf import gto

from molkit.molecule import Molecule
from molkit.ofdft.basis import density_mole
from molkit.ofdft.grid import values_at
from molkit.ofdft.integrals import basis_integrals
from molkit.units import ANGSTROM_TO_BOHR

DEBYE_PER_ATOMIC_UNIT = 2.541746473  # e bohr


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


def atomic_charges(molecule: Molecule, coefficients: np.ndarray) -> np.ndarray:
    """Nuclear charge minus the electrons in the functions of each atom, [A]: as arbitrary as Mulliken's charges."""
    density = density_mole(molecule)
    electrons = basis_integrals(density) * coefficients
    slices = density.aoslice_by_atom()[:, 2:]
    return np.array([z - electrons[a:b].sum() for z, (a, b) in zip(molecule.atomic_numbers, slices, strict=True)])


def density_at(molecule: Molecule, coefficients: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Density at points [G, 3] in bohr, electrons per cubic bohr; [G]."""
    return values_at(density_mole(molecule), points)[0] @ coefficients
