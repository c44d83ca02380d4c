"""Starts of a relaxation compared: how far above their own minimum they begin, and how many gradients they need."""

import numpy as np

from molkit.chem.bond_orders import bond_orders
from molkit.metrics.statistics import Interval, ratio_interval

SAME_RMSD = 0.2  # angstrom; two end points further apart are different minima
SAME_ENERGY = 0.5  # kcal/mol, likewise


def same_minimum(rmsd: np.ndarray, energies: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether pairs of runs ended in the same minimum: RMSD within 0.2 angstrom, energies within 0.5 kcal/mol, [B]."""
    return (rmsd <= SAME_RMSD) & (np.abs(energies - others) <= SAME_ENERGY)


def excess_ratio(reference: np.ndarray, other: np.ndarray, **options: float) -> Interval:
    """Mean excess of the reference over that of the other start, [B] each, with a bootstrap over molecules."""
    return ratio_interval(reference, other, **options)


def step_ratio(reference: np.ndarray, other: np.ndarray, **options: float) -> Interval:
    """Total gradient evaluations from the reference over those from the other start, with a bootstrap over pairs."""
    return ratio_interval(reference, other, **options)


def dihedral_angles(positions: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """Dihedral angles in degrees, (-180, 180], of quadruples of atoms [Q, 4] in positions [..., A, 3]."""
    first, second, third = (positions[..., atoms[:, k + 1], :] - positions[..., atoms[:, k], :] for k in range(3))
    left, right = np.cross(first, second), np.cross(second, third)
    sine = (np.cross(left, right) * second).sum(-1) / np.linalg.norm(second, axis=-1)
    return np.degrees(np.arctan2(sine, (left * right).sum(-1)))


def dihedrals(positions: np.ndarray, atomic_numbers: np.ndarray) -> np.ndarray:
    """Quadruples [Q, 4] of atoms in a bonded row, by distance; hydrogens only at the end and not on carbon.

    Turning a methyl group by a third changes nothing, so hydrogens on carbon do not count. Rows with an angle above 170
    degrees are left out, since they have no dihedral.
    """
    bonded = bond_orders(positions, atomic_numbers) > 0
    found = []
    for j, k in zip(*np.nonzero(np.triu(bonded)), strict=True):
        for i in np.flatnonzero(bonded[j]):
            for m in np.flatnonzero(bonded[k]):
                ends = [(i, j), (m, k)]
                plain = any(atomic_numbers[end] == 1 and atomic_numbers[inner] == 6 for end, inner in ends)
                if len({i, j, k, m}) == 4 and not plain and _bent(positions, i, j, k) and _bent(positions, j, k, m):
                    found.append((i, j, k, m))
    return np.array(found, dtype=np.int64).reshape(-1, 4)


def _bent(positions: np.ndarray, i: int, j: int, k: int) -> bool:
    one, two = positions[i] - positions[j], positions[k] - positions[j]
    return float(one @ two) > -0.985 * float(np.linalg.norm(one) * np.linalg.norm(two))


def largest_turn(positions: np.ndarray, reference: np.ndarray, atomic_numbers: np.ndarray) -> float:
    """Largest change of a dihedral between two geometries of one molecule, degrees; 0 where there is none.

    Above 30 degrees another conformer was reached.
    """
    atoms = dihedrals(reference, atomic_numbers)
    if len(atoms) == 0:
        return 0.0
    change = dihedral_angles(positions, atoms) - dihedral_angles(reference, atoms)
    return float(np.abs((change + 180.0) % 360.0 - 180.0).max())
