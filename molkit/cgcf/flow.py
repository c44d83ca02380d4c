"""CGCF: the conditional continuous flow between normal noise and the distances of a molecular graph.

Time runs from 0 (data) to T (latent). log p(d|G) = log N(z; 0, I) + integral of Tr(df/dd) + the two batch norms.
"""

import math

import torch
from torch import Tensor, nn

from molkit.cgcf.config import FlowConfig
from molkit.cgcf.dynamics import Dynamics, Field
from molkit.cgcf.graph import PairGraph
from molkit.cgcf.solver import Solver, State, solve

NORM_EPSILON = 1e-4
GRADING = 1.5  # of the steps of sampling: 4 of them err as 8 equal ones do (published weights)
TRACE_CHUNK = 64  # directions of an exact trace that are carried at once


class MovingNorm(nn.Module):
    """Batch norm of one channel with running statistics: y = (x - mean) / sqrt(variance + 1e-4) * exp(w) + b.

    The running values normalise, in training too; they follow a batch after it was used.
    Source: CGCF reference code (`bn_lag` 0).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.log_scale, self.offset = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("variance", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """From the data's side to the latent's."""
        return (x - self.mean.clone()) * self.log_slope().exp() + self.offset

    def inverse(self, y: Tensor) -> Tensor:
        """Back again."""
        return (y - self.offset) * (-self.log_slope()).exp() + self.mean

    def log_slope(self) -> Tensor:
        """log |dy/dx| of each value."""
        return self.log_scale - 0.5 * torch.log(self.variance.clone() + NORM_EPSILON)

    @torch.no_grad()
    def follow(self, x: Tensor) -> None:
        """Move the running mean and variance towards those of a batch."""
        self.mean.lerp_(x.mean(), self.rate)
        self.variance.lerp_(x.var(unbiased=False), self.rate)


class Flow(nn.Module):
    """The weights of CGCF: dynamics, a moving norm on either side, and the learned end time T = s^2."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.data_norm, self.latent_norm = MovingNorm(config.norm_rate), MovingNorm(config.norm_rate)
        self.dynamics = Dynamics(config)
        self.root_time = nn.Parameter(torch.tensor(math.sqrt(config.end_time)))

    @property
    def end_time(self) -> Tensor:
        """T."""
        return self.root_time**2

    def training_solver(self) -> Solver:
        """Fixed steps of the configuration, for losses."""
        return Solver("rk4", self.config.training_steps)

    def sampling_solver(self) -> Solver:
        """Fixed steps of the configuration, for samples."""
        return Solver("rk4", self.config.sampling_steps, grading=GRADING)


def log_density(
    flow: Flow, graph: PairGraph, distances: Tensor, *, probe: Tensor | None = None, solver: Solver | None = None
) -> Tensor:
    """log p(d|G) of each molecule, [B], in nats with distances [P] in angstrom.

    probe [P]: the normal noise of Hutchinson's estimate of the trace, the same at all times of the solve; without one
    the trace is exact, at the price of as many directions as the largest molecule has pairs.
    """
    return encode(flow, graph, distances, probe=probe, solver=solver)[1]


def encode(
    flow: Flow, graph: PairGraph, distances: Tensor, *, probe: Tensor | None = None, solver: Solver | None = None
) -> tuple[Tensor, Tensor]:
    """Latent values [P] of distances [P], and log p(d|G) [B]. In training mode the moving norms follow the batch."""
    field = flow.dynamics.on(graph)
    start = flow.data_norm(distances)
    state = (start, start.new_zeros(graph.num_molecules))
    zero = torch.zeros_like(flow.end_time)
    latent, change = solve(
        lambda t, now: _with_trace(field, t, now, probe),
        state,
        zero,
        flow.end_time,
        solver or flow.training_solver(),
        parameters=field.tensors(),
    )
    z = flow.latent_norm(latent)
    if flow.training:
        flow.data_norm.follow(distances.detach())
        flow.latent_norm.follow(latent.detach())
    normal = graph.sum_pairs(-0.5 * z.square() - 0.5 * math.log(2.0 * math.pi))
    slopes = (flow.data_norm.log_slope() + flow.latent_norm.log_slope()) * graph.num_pairs
    return z, normal + change + slopes


def _with_trace(field: Field, t: Tensor, state: State, probe: Tensor | None) -> State:
    """Velocity [P], and the trace of its Jacobian over each molecule [B]."""
    if probe is not None:
        velocity, slope = field.dual(t, state[0], probe)
        return velocity, field.graph.sum_pairs(probe * slope)
    return exact_trace(field, t, state[0])


def exact_trace(field: Field, t: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
    """Velocity [P] and the exact trace of each molecule [B]; the j-th pairs of all molecules share a direction."""
    place = field.graph.place_in_molecule
    total, velocity = distances.new_zeros(field.graph.num_molecules), None
    count = int(field.graph.num_pairs.max())
    for first in range(0, count, TRACE_CHUNK):
        numbers = torch.arange(first, min(first + TRACE_CHUNK, count))
        directions = (place[None] == numbers[:, None]).to(distances.dtype)
        velocity, slopes = field.dual(t, distances, directions)
        total = total + field.graph.sum_pairs((slopes * directions).sum(0))
    return velocity, total


@torch.no_grad()
def latent_of(flow: Flow, graph: PairGraph, distances: Tensor, *, solver: Solver | None = None) -> Tensor:
    """Latent values [..., P] of distances [..., P] in angstrom, the inverse of `decode`; no trace is computed."""
    field = flow.dynamics.on(graph)
    zero = torch.zeros_like(flow.end_time)
    start = (flow.data_norm(distances),)
    (found,) = solve(
        lambda t, now: (field.velocity(t, now[0]),), start, zero, flow.end_time, solver or flow.sampling_solver()
    )
    return flow.latent_norm(found)


@torch.no_grad()
def decode(flow: Flow, graph: PairGraph, latent: Tensor, *, solver: Solver | None = None) -> Tensor:
    """Distances [..., P] in angstrom of latent values [..., P]; no trace is computed, nothing but distances evolves."""
    field = flow.dynamics.on(graph)
    zero = torch.zeros_like(flow.end_time)
    start = (flow.latent_norm.inverse(latent),)
    (found,) = solve(
        lambda t, now: (field.velocity(t, now[0]),), start, flow.end_time, zero, solver or flow.sampling_solver()
    )
    return flow.data_norm.inverse(found)


def sample_distances(
    flow: Flow, graph: PairGraph, count: int, *, generator: torch.Generator, solver: Solver | None = None
) -> Tensor:
    """`count` draws of all distances of the batch, [count, P], angstrom; they need not be embeddable."""
    latent = torch.randn(count, graph.pairs.shape[1], generator=generator, device=generator.device)
    dtype = flow.root_time.dtype
    return decode(flow, graph, latent.to(flow.root_time.device, dtype), solver=solver)
