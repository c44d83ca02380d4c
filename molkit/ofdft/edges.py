"""Ordered pairs of atoms within a cutoff, and their directions: the work grows with the atoms, not with all pairs."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree


@dataclass(frozen=True, eq=False)
class Edges:
    """E ordered pairs of one molecule, sorted by `first`, then `second`; bohr."""

    first: np.ndarray  # [E]
    second: np.ndarray  # [E]
    distances: np.ndarray  # [E]
    directions: np.ndarray  # [E, 3], unit vectors from first to second

    def __len__(self) -> int:
        return len(self.first)

    def within(self, cutoff: float) -> "Edges":
        """The pairs closer than another cutoff."""
        kept = self.distances < cutoff
        return Edges(self.first[kept], self.second[kept], self.distances[kept], self.directions[kept])

    def bounds(self, num_atoms: int) -> np.ndarray:
        """Where the pairs of every atom begin, and the end of the last, [A + 1]."""
        return np.searchsorted(self.first, np.arange(num_atoms + 1))


def edges_within(positions: np.ndarray, cutoff: float) -> Edges:
    """All ordered pairs of positions [A, 3] closer than the cutoff."""
    tree = cKDTree(positions)
    pairs = tree.query_pairs(cutoff, output_type="ndarray").reshape(-1, 2)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    first, second = both[np.lexsort((both[:, 1], both[:, 0]))].T
    displacement = positions[second] - positions[first]
    distances = np.linalg.norm(displacement, axis=1)
    return Edges(first, second, distances, displacement / distances[:, None])


def following_pairs(bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (i, k) of all two different edges that begin at the same atom, by i, then k; bounds as of `Edges`."""
    counts = np.diff(bounds)
    repeats = np.repeat(counts, counts)
    i = np.repeat(np.arange(bounds[-1]), repeats)
    starts = np.repeat(bounds[:-1], counts)
    within = np.arange(len(i)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    k = starts[i] + within
    return i[i != k], k[i != k]
