"""Maximum mean discrepancy between distributions of distances: single distances, pairs of them, all of a molecule.

Source: the evaluation code of ConfVAE and ConfGF, which agree; the published values exceed what one Gaussian kernel
allows, which confirms the sum of five.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from molkit.chem.conformer_rmsd import heavy_pairs
from molkit.errors import InvalidInput

PairRule = Literal["published", "complete"]
POWERS = (-2, -1, 0, 1, 2)


def mmd(first: np.ndarray, second: np.ndarray) -> float:
    """Squared MMD, 0 to 10, between samples [n, k] and [m, k] (or [n] and [m]).

    Kernel: sum over q = -2..2 of exp(-s / (b 2^q)), s the squared distance, b its mean over all ordered pairs of
    different points of both samples. All means include the diagonal. Raises InvalidInput for empty samples or numbers
    that are not finite.
    """
    x, y = (np.asarray(sample, dtype=np.float64) for sample in (first, second))
    x, y = (sample[:, None] if sample.ndim == 1 else sample for sample in (x, y))
    if not len(x) or not len(y) or x.ndim != 2 or x.shape[1:] != y.shape[1:]:
        raise InvalidInput(f"expected two samples of vectors of one length, got {list(x.shape)} and {list(y.shape)}")
    pooled = np.concatenate([x, y])
    if not np.isfinite(pooled).all():
        raise InvalidInput("MMD needs finite numbers; count the failures, then leave them out")
    squares = ((pooled[:, None] - pooled[None]) ** 2).sum(-1) if pooled.shape[1] == 1 else _squares(pooled)
    width = squares.sum() / (len(pooled) ** 2 - len(pooled))
    if width == 0.0:
        return 0.0
    kernel = sum(np.exp(-squares / (width * 2.0**power)) for power in POWERS)
    inside, across = kernel[: len(x), : len(x)].mean(), kernel[: len(x), len(x) :].mean()
    return float(inside + kernel[len(x) :, len(x) :].mean() - 2.0 * across)


def _squares(points: np.ndarray) -> np.ndarray:
    centred = points - points.mean(axis=0)
    norms = (centred**2).sum(-1)
    return np.maximum(norms[:, None] + norms[None] - 2.0 * centred @ centred.T, 0.0)


@dataclass(frozen=True)
class DistanceMmd:
    """MMDs of one molecule: one for each pair of heavy atoms, one for each two of those pairs, one for all together."""

    single: np.ndarray
    pair: np.ndarray
    all: float


def distance_mmd(
    mol: Any, references: np.ndarray, generated: np.ndarray, *, pairs: PairRule = "published"
) -> DistanceMmd:
    """MMDs of the distances of heavy atoms up to three bonds apart, conformers [R, A, 3] against [G, A, 3].

    pairs: "published" leaves out two distances that share their lower-numbered atom, as the papers' code does;
    "complete" takes any two. Raises InvalidInput for a molecule without such distances.
    """
    edges = heavy_pairs(mol)
    return distances_mmd(edges, heavy_distances(references, edges), heavy_distances(generated, edges), pairs=pairs)


def heavy_distances(positions: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Distances [C, E] of pairs [2, E] in conformers [C, A, 3]."""
    return np.linalg.norm(positions[:, edges[0]] - positions[:, edges[1]], axis=-1)


def distances_mmd(edges: np.ndarray, x: np.ndarray, y: np.ndarray, *, pairs: PairRule = "published") -> DistanceMmd:
    """The same from distances [R, E] and [G, E] of the pairs [2, E], which need belong to no positions."""
    if pairs not in get_args(PairRule):
        raise InvalidInput(f"unknown rule {pairs!r}: expected published or complete")
    if edges.shape[1] == 0:
        raise InvalidInput("a molecule with one heavy atom has no distances to compare")
    single = [mmd(x[:, k], y[:, k]) for k in range(edges.shape[1])]
    both = [mmd(x[:, two], y[:, two]) for two in two_of(edges, pairs)]
    return DistanceMmd(np.array(single), np.array(both), mmd(x, y))


def two_of(edges: np.ndarray, rule: PairRule) -> Iterable[list[int]]:
    """The twos of distances [2, E] that are compared jointly."""
    first, second = np.triu_indices(edges.shape[1], 1)
    kept = np.ones(len(first), bool) if rule == "complete" else edges[0, first] != edges[0, second]
    return [[int(i), int(j)] for i, j in zip(first[kept], second[kept], strict=True)]
