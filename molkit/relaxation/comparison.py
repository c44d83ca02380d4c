"""Starts of a relaxation compared: how far above their own minimum they begin, and how many gradients they need."""

from itertools import combinations

import numpy as np

from molkit.chem.bond_orders import bond_orders
from molkit.metrics.statistics import Interval, ratio_interval
from molkit.relaxation.boltzmann import Modes

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


def bonds_and_angles(positions: np.ndarray, atomic_numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of bonded atoms [N, 2] and angles [M, 3] between them, the middle atom second, by distance."""
    bonded = bond_orders(positions, atomic_numbers) > 0
    angles = [(i, j, k) for j, row in enumerate(bonded) for i, k in combinations(np.flatnonzero(row).tolist(), 2)]
    return np.argwhere(np.triu(bonded)), np.array(angles, dtype=np.int64).reshape(-1, 3)


def parts_of_excess(moved: np.ndarray, minimum: np.ndarray, atomic_numbers: np.ndarray, found: Modes) -> np.ndarray:
    """What the bonds, and what the angles of a structure [A, 3] cost beside a minimum [A, 3]: [2], in eV.

    Bonds: the least energy of any structure with the same bond lengths; angles: how much more the least energy of one
    with the same bond lengths and angles is. With J = dq/dx at the minimum and its harmonic energy x H x / 2 the least
    energy with q = q0 + dq is dq (J H^-1 J^T)^-1 dq / 2. What a structure's energy has beyond both is in its torsions
    and in what is not harmonic. `found` are the modes of the minimum. Source: derived here.
    """
    bonds, angles = bonds_and_angles(minimum, atomic_numbers)
    changes = _bonds_angles(moved, bonds, angles) - _bonds_angles(minimum, bonds, angles)
    step = 1e-4  # angstrom
    ways = [_bonds_angles(minimum + sign * step * found.vectors, bonds, angles) for sign in (1.0, -1.0)]
    soft = (ways[0] - ways[1]) / (2.0 * step) / np.sqrt(found.constants)[:, None]  # [modes, coordinates]
    least = []
    for count in (len(bonds), len(changes)):
        compliance = soft[:, :count].T @ soft[:, :count]
        least.append(0.5 * changes[:count] @ np.linalg.pinv(compliance, rcond=1e-6, hermitian=True) @ changes[:count])
    return np.array([least[0], least[1] - least[0]])


def _bonds_angles(positions: np.ndarray, bonds: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Lengths (angstrom) and angles (radians) [..., N + M] of positions [..., A, 3]."""
    ways = positions[..., bonds[:, 0], :] - positions[..., bonds[:, 1], :]
    one, two = (positions[..., angles[:, end], :] - positions[..., angles[:, 1], :] for end in (0, 2))
    cosines = (one * two).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(two, axis=-1)
    return np.concatenate([np.linalg.norm(ways, axis=-1), np.arccos(np.clip(cosines, -1.0, 1.0))], axis=-1)
