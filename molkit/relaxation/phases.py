"""Two phases of a chain: from which step on something no longer changes, and how far atoms and bonds move."""

import numpy as np

from molkit.chem.bond_orders import packed_bonds
from molkit.errors import InvalidInput
from molkit.molecule import PackedMolecules


def final_step(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The step (counted down) from which on values [F, ...] stay as they are at the end; shape [...].

    The largest entry of `steps` [F], which fall, whose frame and all later ones equal the last frame. Source: the
    "final" curves of Rothchild et al. 2024, read in the authors' code. Raises InvalidInput for other lengths.
    """
    values, steps = np.asarray(values), np.asarray(steps)
    if len(values) != len(steps) or len(steps) == 0 or (np.diff(steps) >= 0).any():
        raise InvalidInput(f"expected one falling step for each frame, got {len(values)} frames and {len(steps)} steps")
    same = values == values[-1]
    settled = np.flip(np.logical_and.accumulate(np.flip(same, axis=0), axis=0), axis=0)
    return steps[settled.argmax(axis=0)]


def share_final(settled: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Share of the entries of `settled` (from `final_step`) that are final at each of `steps`, [F]."""
    return (np.asarray(settled).reshape(1, -1) >= np.asarray(steps)[:, None]).mean(axis=1)


def molecule_final(settled: np.ndarray) -> np.ndarray:
    """The step at which all atoms of a molecule are final: [B, A] -> [B]."""
    return settled.min(axis=-1)


def step_sizes(positions: np.ndarray) -> np.ndarray:
    """Mean over atoms of the displacement between a frame and the next, angstrom: [F, A, 3] -> [F - 1]."""
    return np.linalg.norm(np.diff(positions, axis=0), axis=-1).mean(axis=-1)


def bond_length_errors(positions: np.ndarray, atomic_numbers: np.ndarray) -> np.ndarray:
    """Mean over the bonds of the last frame of |d - d at the end|, angstrom: [F, A, 3] -> [F]; NaN without a bond.

    Bonds by the distance rule. Source: Rothchild et al. 2024, the later of two definitions in the authors' code; the
    earlier one rounds distances to whole angstrom.
    """
    last = PackedMolecules(np.array([len(atomic_numbers)]), atomic_numbers, positions[-1])
    bonds = packed_bonds(last)
    if len(bonds.first) == 0:
        return np.full(len(positions), np.nan)
    lengths = np.linalg.norm(positions[:, bonds.first] - positions[:, bonds.second], axis=-1)
    return np.abs(lengths - lengths[-1]).mean(axis=-1)


def highest_rise(energies: np.ndarray) -> float:
    """Highest energy of a path above the higher of its two ends; 0 for a path that rises above neither."""
    ends = np.nanmax([energies[0], energies[-1]])
    return float(max(np.nanmax(energies) - ends, 0.0))


def straight_line(first: np.ndarray, last: np.ndarray, count: int) -> np.ndarray:
    """`count` geometries evenly on the Cartesian line between two, ends included, [count, A, 3]."""
    if count < 2:
        raise InvalidInput(f"a line needs at least its two ends, got {count}")
    weights = np.linspace(0.0, 1.0, count)[:, None, None]
    return (1.0 - weights) * first + weights * last
