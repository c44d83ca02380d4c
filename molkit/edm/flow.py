"""Equivariant flow matching with the same network: a straight path from noise to molecules, and its velocity.

At time s in 0..1 a state is (1 - s) noise + s clean; its velocity is clean - noise. The network is given t = 1 - s, the
share of noise, so that t = 0 is the clean end as in the diffusion model. Noise and states have zero mean in positions.
Sources: Lipman et al. 2023 (flow matching, straight path), Song et al. 2023 (equivariant flow matching for molecules).
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from molkit.edm.diffusion import LossTerms, Network, draw_noise, squared_error
from molkit.edm.features import State
from molkit.errors import InvalidInput
from molkit.graphs import Graph

FlowRule = Literal["euler", "midpoint"]
FLOW_RULES: tuple[FlowRule, ...] = ("euler", "midpoint")
Velocity = Callable[[State, float], State]  # state and share of noise t -> velocity


def mix(clean: State, noise: State, t: Tensor) -> State:
    """(1 - t) clean + t noise, with the share of noise t [A, 1]."""
    return State((1.0 - t) * clean.positions + t * noise.positions, (1.0 - t) * clean.features + t * noise.features)


def linear_part(t: Tensor) -> Tensor:
    """Slope c of the best guess of the velocity that is linear in the state, for clean values of variance 1.

    c = (1 - 2 t) / ((1 - t)^2 + t^2): the clean end needs minus the noise on top of the state, the noisy end the clean
    molecule. Added to what the network says, so that it need not learn to pass its input on. Source: derived here.
    """
    return (1.0 - 2.0 * t) / ((1.0 - t).square() + t.square())


def predict_velocity(
    network: Network, state: State, t: Tensor, graph: Graph, *, context: Tensor | None = None
) -> State:
    """Velocity of a state at shares of noise t [B]: what the network says and the linear part; zero-mean positions."""
    rows = t.to(state.positions.dtype)[graph.batch].unsqueeze(-1)
    extra = () if context is None else (context,)
    inputs = (state.features, state.positions, rows, graph.edge_index, graph.batch, graph.num_molecules)
    positions, features = network(*inputs, *extra)
    slope = linear_part(rows)
    return State(positions + slope * state.positions, features + slope * state.features)


def draw_times(num_molecules: int, *, generator: torch.Generator, stratified: bool = False) -> Tensor:
    """A share of noise in 0..1 for each molecule, uniform, [B] float64; stratified as in `diffusion.draw_steps`."""
    draws = torch.rand(num_molecules, generator=generator, dtype=torch.float64, device=generator.device)
    if stratified:
        offset = torch.randperm(num_molecules, generator=generator, device=generator.device)
        draws = (draws + offset) / num_molecules
    return draws


def flow_loss(
    network: Network,
    clean: State,
    graph: Graph,
    *,
    generator: torch.Generator,
    stratified: bool = False,
    context: Tensor | None = None,
) -> LossTerms:
    """Half the squared error of the velocity over (3 + n_h) M, averaged over times and molecules."""
    t = draw_times(graph.num_molecules, generator=generator, stratified=stratified).to(clean.positions)
    noise = draw_noise(graph, clean.features.shape[1], generator=generator, dtype=clean.positions.dtype)
    state = mix(clean, noise, t[graph.batch].unsqueeze(-1))
    target = State(clean.positions - noise.positions, clean.features - noise.features)
    predicted = predict_velocity(network, state, t, graph, context=context)
    error = squared_error(target, predicted, graph) / (graph.num_atoms * (3 + clean.features.shape[1]))
    return LossTerms(0.5 * error.mean(), error.detach().mean(), torch.zeros_like(error.detach().mean()))


def flow_steps(
    num_steps: int, num_calls: int | None, *, rule: FlowRule = "euler", start: int | None = None, end: int = 0
) -> list[int]:
    """Decreasing integers from `start` (default num_steps) to `end` that take num_calls (default: each integer once).

    Integer k stands for the share of noise k / num_steps. Raises InvalidInput outside 0..num_steps.
    """
    start = num_steps if start is None else start
    if not 0 <= end < start <= num_steps:
        raise InvalidInput(f"need 0 <= end < start <= {num_steps} steps, got start {start} and end {end}")
    calls = 2 if rule == "midpoint" else 1
    downs = start - end if num_calls is None else min(num_calls // calls, start - end)
    if downs < 1:
        raise InvalidInput(f"{rule} needs at least {calls} network calls, got {num_calls}")
    return [round(start - (start - end) * k / downs) for k in range(downs + 1)]


def advance(velocity: Velocity, state: State, t: float, t_next: float, *, rule: FlowRule = "euler") -> State:
    """One step of the flow from t to a smaller t_next: one call (euler) or two (midpoint, exact to second order)."""
    step = t - t_next
    slope = velocity(state, t)
    if rule == "midpoint":
        half = _moved(state, slope, 0.5 * step)
        slope = velocity(half, t - 0.5 * step)
    return _moved(state, slope, step)


def _moved(state: State, velocity: State, step: float) -> State:
    return State(state.positions + step * velocity.positions, state.features + step * velocity.features)


def flow_rule(sampler: str) -> FlowRule:
    """The rule of a flow's steps by the sampler's name; the default samplers of diffusion stand for euler.

    Raises InvalidInput for a sampler of diffusion models.
    """
    if sampler in ("ancestral", "sde-2m"):
        return "euler"
    if sampler not in FLOW_RULES:
        raise InvalidInput(
            f"this model was trained by flow matching; its samplers are euler and midpoint, not {sampler}"
        )
    return sampler
