"""From distances to positions: the structure that fits the pairs of the extended graph best.

p(R|d, G) is proportional to exp(-stress), stress = sum over pairs of weight (|r_u - r_v| - d_uv)^2 with weights 1, 1/2
and 1/4 for pairs one, two and three bonds apart (CGCF reference code). All conformers of a molecule are searched
together. Nothing in the stress sees pairs further apart, nor handedness: from atoms thrown together at random the
search of a large molecule ends in structures that are too compact, and often not in the lowest minimum.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from molkit.cgcf.graph import PairGraph
from molkit.errors import InvalidInput

Search = Literal["lbfgs", "adam"]
MEMORY = 8  # steps that L-BFGS remembers
MAX_HALVINGS = 20
ARMIJO = 1e-4
EXACT = 1e-14  # a stress (angstrom^2) below this cannot fall further in float64


@dataclass(frozen=True, eq=False)
class Embedding:
    """Positions [C, A, 3] in angstrom with their stress [C] (angstrom^2), and how the search ended."""

    positions: Tensor
    stress: Tensor
    converged: Tensor  # [C] bool
    num_iterations: int

    @property
    def radius_of_gyration(self) -> Tensor:
        """Root mean square distance of the atoms from their mean, [C], angstrom; all atoms weigh the same."""
        return radius_of_gyration(self.positions)


def radius_of_gyration(positions: Tensor) -> Tensor:
    """Root mean square distance of the atoms [..., A, 3] from their mean, [...]."""
    centred = positions - positions.mean(-2, keepdim=True)
    return centred.square().sum(-1).mean(-1).sqrt()


Step = tuple[np.ndarray, np.ndarray, np.ndarray]  # how positions moved, how the gradient changed, 1 / their product


class Stress:
    """The stress of one molecule and its gradient, for many conformers at once, in float64.

    Positions are NumPy arrays [A, 3, C] here and in the searches: all conformers share one matrix product, and what is
    small costs less than in PyTorch.
    """

    def __init__(self, graph: PairGraph, distances: Tensor) -> None:
        """distances [C, P] of a graph of one molecule. Raises InvalidInput for another shape or values not finite."""
        if graph.num_molecules != 1:
            raise InvalidInput(f"positions are searched molecule by molecule, got a batch of {graph.num_molecules}")
        if distances.dim() != 2 or distances.shape[1] != graph.pairs.shape[1]:
            raise InvalidInput(f"expected distances [C, {graph.pairs.shape[1]}], got {list(distances.shape)}")
        if not bool(torch.isfinite(distances).all()):
            raise InvalidInput("distances must be finite numbers; did the flow diverge?")
        self.num_atoms, self.count = int(graph.num_atoms), len(distances)
        self.target = np.ascontiguousarray(distances.detach().double().numpy().T)  # [P, C]
        self.weights = 0.5 ** (graph.hops.numpy() - 1.0)[:, None]
        rows = np.arange(graph.pairs.shape[1])
        self.incidence = np.zeros((len(rows), self.num_atoms))
        self.incidence[rows, graph.pairs[0]], self.incidence[rows, graph.pairs[1]] = 1.0, -1.0
        self.outward = np.ascontiguousarray(self.incidence.T)

    def select(self, keep: np.ndarray) -> "Stress":
        """The stress of some of the conformers."""
        other = copy(self)
        other.target = self.target[:, keep]
        other.count = other.target.shape[1]
        return other

    def __call__(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stress [C] and gradient [A, 3, C] at positions [A, 3, C]."""
        gap = times(self.incidence, positions)
        length = np.sqrt(np.maximum((gap * gap).sum(1), 1e-24))
        miss = length - self.target
        weighted = self.weights * miss
        gap *= (2.0 * weighted / length)[:, None]
        return (weighted * miss).sum(0), times(self.outward, gap)

    def inverse_laplacian(self) -> np.ndarray:
        """Pseudo-inverse [A, A] of twice the weighted Laplacian: with it a plain gradient step never climbs.

        That step is the Guttman transform of stress majorisation. Source: de Leeuw, J. Classif. 5, 163 (1988).
        """
        return np.linalg.pinv(2.0 * self.outward @ (self.weights * self.incidence), hermitian=True)


def times(matrix: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """A matrix [B, A] times positions [A, 3, C]."""
    return (matrix @ positions.reshape(len(positions), -1)).reshape(len(matrix), *positions.shape[1:])


def embed(
    graph: PairGraph,
    distances: Tensor,
    *,
    generator: torch.Generator,
    search: Search = "lbfgs",
    start: Tensor | None = None,
    max_iterations: int | None = None,
    step: float = 3.0,
    stress: Stress | None = None,
) -> Embedding:
    """Positions for distances [C, P] of one molecule, from the positions `start`, or from normal numbers as published.

    lbfgs: until the stress changes by less than 1e-8 of itself, or 400 iterations. adam: the published search, 1,000
    iterations with a constant `step` and no test of convergence; it reports converged only where its last iteration
    left the stress as it was. stress: another one of these distances. Raises InvalidInput for an unknown search, other
    shapes or numbers that are not finite.
    """
    stress = Stress(graph, distances) if stress is None else stress
    shape = (stress.count, stress.num_atoms, 3)
    if start is None:
        start = torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)
    elif start.shape != shape:
        raise InvalidInput(f"expected a start of shape {list(shape)}, got {list(start.shape)}")
    inside = np.ascontiguousarray(start.double().numpy().transpose(1, 2, 0))
    if search == "lbfgs":
        found = minimise(stress, inside, max_iterations=max_iterations or 400)
    elif search == "adam":
        found = published_search(stress, inside, step=step, iterations=max_iterations or 1000)
    else:
        raise InvalidInput(f"unknown search {search!r}: expected lbfgs or adam")
    positions = torch.from_numpy(np.ascontiguousarray(found.positions.transpose(2, 0, 1)))
    return Embedding(positions, torch.from_numpy(found.value), torch.from_numpy(found.stopped), found.iterations)


@dataclass(eq=False)
class Found:
    """Conformers on their way or at its end: positions and gradient [A, 3, C], stress [C], whether settled [C]."""

    positions: np.ndarray
    value: np.ndarray
    gradient: np.ndarray
    stopped: np.ndarray
    remembered: np.ndarray  # steps that L-BFGS remembers of each, [C]
    iterations: int = 0

    @classmethod
    def at(cls, stress: Stress, positions: np.ndarray) -> "Found":
        """The beginning of a search."""
        value, gradient = stress(positions)
        return cls(positions.copy(), value, gradient, value < EXACT, np.zeros(stress.count, dtype=np.int64))

    def select(self, keep: np.ndarray) -> "Found":
        """Some of the conformers."""
        parts = (self.positions, self.value, self.gradient, self.stopped, self.remembered)
        return Found(*(part[..., keep] for part in parts), self.iterations)

    def put(self, rows: np.ndarray, others: "Found") -> None:
        """Take over what became of the conformers at some rows."""
        self.positions[..., rows], self.value[rows], self.stopped[rows] = others.positions, others.value, others.stopped


def published_search(stress: Stress, positions: np.ndarray, *, step: float = 3.0, iterations: int = 1000) -> Found:
    """Adam on coordinates [A, 3, C] with a constant step, as in the CGCF code (3.0 for QM9, 5.0 for ISO17)."""
    now = Found.at(stress, positions)
    mean, square = np.zeros_like(positions), np.zeros_like(positions)
    for k in range(1, iterations + 1):
        mean += 0.1 * (now.gradient - mean)
        square += 0.001 * (now.gradient**2 - square)
        now.positions -= step * (mean / (1.0 - 0.9**k)) / (np.sqrt(square / (1.0 - 0.999**k)) + 1e-8)
        before = now.value
        now.value, now.gradient = stress(now.positions)
        now.stopped = np.abs(before - now.value) <= 1e-8 * now.value
    now.iterations = iterations
    return now


def minimise(stress: Stress, positions: np.ndarray, *, max_iterations: int = 400, tolerance: float = 1e-8) -> Found:
    """L-BFGS of every conformer of positions [A, 3, C], preconditioned with the inverse Laplacian that all share.

    Conformers that have settled leave the working set, so that the last ones do not make the others wait.
    """
    inverse = stress.inverse_laplacian()
    out = Found.at(stress, positions)
    rows, now = np.arange(stress.count), out.select(np.arange(stress.count))
    history: list[Step] = []
    while out.iterations < max_iterations and not now.stopped.all():
        out.iterations += 1
        history = _advance(stress, now, history, inverse, tolerance)
        if now.stopped.mean() > 0.25:
            out.put(rows, now)
            keep = ~now.stopped
            rows, stress, now = rows[keep], stress.select(keep), now.select(keep)
            history = [tuple(part[..., keep] for part in step) for step in history]
    out.put(rows, now)
    return out


def _advance(stress: Stress, now: Found, history: list[Step], inverse: np.ndarray, tolerance: float) -> list[Step]:
    """One iteration of all conformers that have not settled, in place; returns the steps to remember.

    Where no step lowers the stress the remembered steps mislead and are forgotten; where there are none, that is all
    that float64 gives and the conformer has settled.
    """
    direction = -two_loops(now.gradient, history, inverse)
    slope = _dot(direction, now.gradient)
    if not (slope < 0.0).all():
        direction = np.where(slope < 0.0, direction, -times(inverse, now.gradient))
        slope = _dot(direction, now.gradient)
    moved, value, gradient, found = line_search(stress, now, direction, slope)
    settled = found & ((now.value - value <= tolerance * now.value) | (value < EXACT))
    lost = ~found & ~now.stopped
    history = [*history, _memory(moved - now.positions, gradient - now.gradient)][-MEMORY:]
    now.stopped = now.stopped | settled | (lost & (now.remembered == 0))
    now.remembered += 1
    if lost.any():
        history = [(move, change, np.where(lost, 0.0, rho)) for move, change, rho in history]
        now.remembered[lost] = 0
    now.positions, now.value, now.gradient = moved, value, gradient
    return history


def line_search(
    stress: Stress, now: Found, direction: np.ndarray, slope: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Halve the step of every conformer that has not settled until the stress falls enough (Armijo).

    Returns positions, stress, gradient, and whether a step was found [C]; where none was, nothing moves.
    """
    active = ~now.stopped
    length = active.astype(np.float64)
    for _ in range(MAX_HALVINGS):
        moved = now.positions + length * direction
        value, gradient = stress(moved)
        good = value <= now.value + ARMIJO * length * slope
        if (good | now.stopped).all():
            return moved, value, gradient, active
        length = np.where(good, length, 0.5 * length)
    moved = np.where(good & active, moved, now.positions)
    return moved, *stress(moved), good & active


def two_loops(gradient: np.ndarray, history: Sequence[Step], inverse: np.ndarray) -> np.ndarray:
    """The inverse Hessian of L-BFGS times the gradient [A, 3, C]. Source: Nocedal, Math. Comp. 35, 773 (1980)."""
    factors, left = [], gradient.copy()
    for move, change, rho in reversed(history):
        factor = rho * _dot(move, left)
        left -= factor * change
        factors.append(factor)
    found = times(inverse, left)
    for (move, change, rho), factor in zip(history, reversed(factors), strict=True):
        found += (factor - rho * _dot(change, found)) * move
    return found


def _memory(move: np.ndarray, change: np.ndarray) -> Step:
    """What L-BFGS keeps of a step; one without positive curvature gets rho 0 and is passed over."""
    curvature = _dot(move, change)
    useful = curvature > 1e-12 * _dot(change, change)
    return move, change, np.where(useful, 1.0 / np.where(useful, curvature, 1.0), 0.0)


def _dot(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.einsum("aic,aic->c", first, second)
