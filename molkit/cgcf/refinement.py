"""The second stage of sampling: positions follow the gradient of E - log p_flow, with or without noise."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from molkit.cgcf.energy import AllPairs, EnergyNetwork
from molkit.cgcf.flow import Flow, log_density
from molkit.cgcf.graph import PairGraph
from molkit.cgcf.solver import Solver
from molkit.errors import CalculationFailed, InvalidInput

EnergyOfPositions = Callable[[Tensor], Tensor]  # [C, A, 3] -> [C]


@dataclass(frozen=True, kw_only=True)
class Walk:
    """How positions walk: steps falling geometrically from first_step to last_step (angstrom^2)."""

    num_steps: int = 100
    first_step: float = 1e-3
    last_step: float = 1e-5
    clip: float = 5.0  # largest component of a gradient; infinite for none
    noise_scale: float = 1.0  # 1: Langevin dynamics; 0: plain refinement
    log_weight: float = 1.0  # of log p_flow in the target; 0 leaves the learned energy alone

    def __post_init__(self) -> None:
        if self.num_steps < 1 or not 0.0 < self.last_step <= self.first_step:
            raise InvalidInput(f"need num_steps >= 1 and first_step >= last_step > 0, got {self}")
        if not self.clip > 0.0 or self.noise_scale < 0.0:
            raise InvalidInput(f"need clip > 0 and noise_scale >= 0, got {self.clip} and {self.noise_scale}")

    @property
    def name(self) -> str:
        """What a walk of this kind may be called."""
        if self.noise_scale == 1.0:
            return "Langevin dynamics"
        return "refinement without noise" if self.noise_scale == 0.0 else f"noise times {self.noise_scale:g}"


POLISH = Walk(num_steps=60, first_step=1e-2, last_step=1e-5, noise_scale=0.0, log_weight=0.0)  # the tilt alone


@dataclass(frozen=True, eq=False)
class Refined:
    """Positions [C, A, 3] after a walk, energies of the target along it [steps + 1, C], and what kind it was."""

    positions: Tensor
    energies: Tensor
    kind: str
    clipped: float  # share of gradient components that were cut


def walk(energy: EnergyOfPositions, positions: Tensor, settings: Walk, *, generator: torch.Generator) -> Refined:
    """R <- R - (step / 2) dE/dR + sqrt(step) noise_scale w for each conformer, w normal.

    Raises CalculationFailed when an energy is not finite.
    """
    ratio = (settings.last_step / settings.first_step) ** (1.0 / max(1, settings.num_steps - 1))
    energies, cut = [], 0.0
    for k in range(settings.num_steps):
        value, gradient = _slope(energy, positions)
        energies.append(value)
        cut += float((gradient.abs() > settings.clip).double().mean()) / settings.num_steps
        step = settings.first_step * ratio**k
        positions = positions - 0.5 * step * gradient.clamp(-settings.clip, settings.clip)
        if settings.noise_scale:
            noise = torch.randn(positions.shape, generator=generator, dtype=positions.dtype)
            positions = positions + step**0.5 * settings.noise_scale * noise
    with torch.no_grad():
        energies.append(energy(positions))
    return Refined(positions, torch.stack(energies), settings.name, cut)


def _slope(energy: EnergyOfPositions, positions: Tensor) -> tuple[Tensor, Tensor]:
    at = positions.detach().requires_grad_()
    with torch.enable_grad():
        value = energy(at)
        (gradient,) = torch.autograd.grad(value.sum(), at)
    if not bool(torch.isfinite(value).all()) or not bool(torch.isfinite(gradient).all()):
        raise CalculationFailed("the tilted energy is not finite on the way; lower first_step")
    return value.detach(), gradient


def tilted_energy(
    flow: Flow,
    network: EnergyNetwork,
    graph: PairGraph,
    *,
    probe: Tensor,
    log_weight: float = 1.0,
    solver: Solver | None = None,
) -> EnergyOfPositions:
    """E(R) - log_weight log p_flow(d(R)|G) of conformers [C, A, 3] of one molecule.

    The density is taken at the distances of the positions. probe [P] is kept, so that this is one function of R all
    along a walk. Source: ETM paper, sampling; the weight is 1 where every distance counts once.
    """
    pairs, springs = AllPairs.of(graph), network.springs(graph)
    copies: dict[int, PairGraph] = {}

    def energy(positions: Tensor) -> Tensor:
        tilt = network(graph, positions, pairs, springs).squeeze(-1)
        if log_weight == 0.0:
            return tilt
        count = len(positions)
        many = copies.setdefault(count, graph.repeat(count))
        distances = graph.distances(positions).flatten()
        return tilt - log_weight * log_density(flow, many, distances, probe=probe.repeat(count), solver=solver)

    return energy


def refine(
    flow: Flow,
    network: EnergyNetwork,
    graph: PairGraph,
    positions: Tensor,
    settings: Walk,
    *,
    generator: torch.Generator,
    solver: Solver | None = None,
) -> Refined:
    """Conformers [C, A, 3] of one molecule after a walk on the tilted energy. Both networks in evaluation mode."""
    probe = torch.randn(graph.pairs.shape[1], generator=generator).to(positions.dtype)
    energy = tilted_energy(flow, network, graph, probe=probe, log_weight=settings.log_weight, solver=solver)
    return walk(energy, positions, settings, generator=generator)
