"""From distances to positions: the structure that fits the pairs of the extended graph best.

p(R|d, G) is proportional to exp(-stress), stress = sum over pairs of weight (|r_u - r_v| - d_uv)^2 with weights 1, 1/2
and 1/4 for pairs one, two and three bonds apart (CGCF reference code). All conformers of a molecule are searched
together. Nothing in the stress sees pairs further apart, nor handedness.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Literal

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


def times(matrix: Tensor, positions: Tensor) -> Tensor:
    """A matrix [B, A] times positions [A, 3, C]."""
    return (matrix @ positions.reshape(len(positions), -1)).reshape(len(matrix), *positions.shape[1:])


Step = tuple[Tensor, Tensor, Tensor]  # how positions moved, how the gradient changed, 1 / their product


class Stress:
    """The stress of one molecule and its gradient, for many conformers at once, in float64.

    Positions are laid out [A, 3, C] here and in the searches, so that all conformers share one matrix product.
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
        self.target = distances.double().T.contiguous()  # [P, C]
        self.weights = (0.5 ** (graph.hops - 1).double()).unsqueeze(-1)
        rows = torch.arange(graph.pairs.shape[1])
        self.incidence = torch.zeros(len(rows), self.num_atoms, dtype=torch.float64)
        self.incidence[rows, graph.pairs[0]], self.incidence[rows, graph.pairs[1]] = 1.0, -1.0

    def select(self, rows: Tensor) -> "Stress":
        """The stress of some of the conformers."""
        other = copy(self)
        other.target = self.target[:, rows]
        other.count = other.target.shape[1]
        return other

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Stress [C] and gradient [A, 3, C] at positions [A, 3, C]."""
        gap = times(self.incidence, positions)
        length = gap.square().sum(1).clamp(min=1e-24).sqrt()
        miss = length - self.target
        weighted = self.weights * miss
        pull = (2.0 * weighted / length).unsqueeze(1) * gap
        return (weighted * miss).sum(0), times(self.incidence.T, pull)

    def inverse_laplacian(self) -> Tensor:
        """Pseudo-inverse [A, A] of twice the weighted Laplacian: with it a plain gradient step never climbs.

        That step is the Guttman transform of stress majorisation. Source: de Leeuw, J. Classif. 5, 163 (1988).
        """
        return torch.linalg.pinv(2.0 * self.incidence.T @ (self.weights * self.incidence), hermitian=True)


def embed(
    graph: PairGraph,
    distances: Tensor,
    *,
    generator: torch.Generator,
    search: Search = "lbfgs",
    start_spread: float = 1.0,
    max_iterations: int | None = None,
    step: float = 3.0,
    start: Tensor | None = None,
) -> Embedding:
    """Positions for distances [C, P] of one molecule, from a normal start of `start_spread` angstrom or from `start`.

    lbfgs: until the stress changes by less than 1e-8 of itself, or 400 iterations. adam: the published search, 1,000
    iterations with a constant `step` and no test of convergence; it reports converged only where its last iteration
    left the stress as it was. Raises InvalidInput for an unknown search, other shapes or numbers that are not finite.
    """
    stress = Stress(graph, distances)
    shape = (stress.count, stress.num_atoms, 3)
    if start is None:
        start = start_spread * torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)
    elif start.shape != shape:
        raise InvalidInput(f"expected a start of shape {list(shape)}, got {list(start.shape)}")
    start = start.double().permute(1, 2, 0).contiguous()
    if search == "lbfgs":
        found = minimise(stress, start, max_iterations=max_iterations or 400)
    elif search == "adam":
        found = published_search(stress, start, step=step, iterations=max_iterations or 1000)
    else:
        raise InvalidInput(f"unknown search {search!r}: expected lbfgs or adam")
    return replace(found, positions=found.positions.permute(2, 0, 1).contiguous())


def published_search(stress: Stress, positions: Tensor, *, step: float = 3.0, iterations: int = 1000) -> Embedding:
    """Adam on coordinates [A, 3, C] with a constant step, as in the CGCF code (3.0 for QM9, 5.0 for ISO17)."""
    mean, square = torch.zeros_like(positions), torch.zeros_like(positions)
    value, gradient = stress(positions)
    change = torch.full_like(value, float("inf"))
    for k in range(1, iterations + 1):
        mean = mean.lerp(gradient, 0.1)
        square = square.lerp(gradient.square(), 0.001)
        scaled = (square / (1.0 - 0.999**k)).sqrt() + 1e-8
        positions = positions - step * (mean / (1.0 - 0.9**k)) / scaled
        before = value
        value, gradient = stress(positions)
        change = (before - value).abs()
    return Embedding(positions, value, change <= 1e-8 * value, iterations)


def minimise(stress: Stress, positions: Tensor, *, max_iterations: int = 400, tolerance: float = 1e-8) -> Embedding:
    """L-BFGS of every conformer of positions [A, 3, C], preconditioned with the inverse Laplacian that all share.

    Conformers that have settled leave the working set, so that the last ones do not make the others wait.
    """
    inverse = stress.inverse_laplacian()
    value, gradient = stress(positions)
    out = Embedding(positions.clone(), value.clone(), value < EXACT, 0)
    rows = torch.arange(stress.count)
    now = _Search(positions, value, gradient, torch.zeros_like(rows), out.converged.clone())
    history: list[Step] = []
    iteration = 0
    while iteration < max_iterations and not bool(now.stopped.all()):
        iteration += 1
        now, history = _advance(stress, now, history, inverse, tolerance)
        if bool(now.stopped.double().mean() > 0.25) or bool(now.stopped.all()):
            _put(out, rows, now)
            keep = ~now.stopped
            rows, stress, now = rows[keep], stress.select(keep), now.select(keep)
            history = [tuple(part[..., keep] for part in step) for step in history]
    _put(out, rows, now)
    return Embedding(out.positions, out.stress, out.converged, iteration)


@dataclass(frozen=True, eq=False)
class _Search:
    """Conformers on their way: positions and gradient [A, 3, C], stress, steps remembered, whether settled, [C]."""

    positions: Tensor
    value: Tensor
    gradient: Tensor
    remembered: Tensor
    stopped: Tensor

    def select(self, keep: Tensor) -> "_Search":
        parts = (self.positions, self.value, self.gradient, self.remembered, self.stopped)
        return _Search(*(part[..., keep] for part in parts))


def _put(out: Embedding, rows: Tensor, now: _Search) -> None:
    out.positions[..., rows], out.stress[rows], out.converged[rows] = now.positions, now.value, now.stopped


def _advance(
    stress: Stress, now: _Search, history: list[Step], inverse: Tensor, tolerance: float
) -> tuple[_Search, list[Step]]:
    """One iteration of all conformers that have not settled.

    Where no step lowers the stress the remembered steps mislead and are forgotten; where there are none, that is all
    that float64 gives and the conformer has settled.
    """
    direction = -two_loops(now.gradient, history, inverse)
    descends = _dot(direction, now.gradient) < 0.0
    direction = torch.where(descends, direction, -times(inverse, now.gradient))
    moved, value, gradient, found = line_search(stress, now.positions, now.value, now.gradient, direction, ~now.stopped)
    settled = found & ((now.value - value <= tolerance * now.value) | (value < EXACT))
    lost = ~found & ~now.stopped
    stopped = now.stopped | settled | (lost & (now.remembered == 0))
    history = [*history, _memory(moved - now.positions, gradient - now.gradient)][-MEMORY:]
    if bool(lost.any()):
        history = [(move, change, torch.where(lost, 0.0, rho)) for move, change, rho in history]
    return _Search(moved, value, gradient, torch.where(lost, 0, now.remembered + 1), stopped), history


def line_search(
    stress: Stress, positions: Tensor, value: Tensor, gradient: Tensor, direction: Tensor, active: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Halve the step of every active conformer until the stress falls enough (Armijo).

    Returns positions, stress, gradient, and whether a step was found [C]; where none was, nothing moves.
    """
    slope = _dot(direction, gradient)
    length = active.double()
    for _ in range(MAX_HALVINGS):
        moved = positions + length * direction
        new_value, new_gradient = stress(moved)
        good = new_value <= value + ARMIJO * length * slope
        if bool((good | ~active).all()):
            return moved, new_value, new_gradient, active
        length = torch.where(good, length, 0.5 * length)
    moved = torch.where(good & active, moved, positions)
    return moved, *stress(moved), good & active


def two_loops(gradient: Tensor, history: Sequence[Step], inverse: Tensor) -> Tensor:
    """The inverse Hessian of L-BFGS times the gradient [A, 3, C]. Source: Nocedal, Math. Comp. 35, 773 (1980)."""
    factors = []
    for move, change, rho in reversed(history):
        factor = rho * _dot(move, gradient)
        gradient = gradient - factor * change
        factors.append(factor)
    found = times(inverse, gradient)
    for (move, change, rho), factor in zip(history, reversed(factors), strict=True):
        found = found + (factor - rho * _dot(change, found)) * move
    return found


def _memory(move: Tensor, change: Tensor) -> Step:
    """What L-BFGS keeps of a step; one without positive curvature gets rho 0 and is passed over."""
    curvature = _dot(move, change)
    useful = curvature > 1e-12 * _dot(change, change)
    return move, change, torch.where(useful, 1.0 / torch.where(useful, curvature, 1.0), 0.0)


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum((0, 1))
