"""The fastest form of the network that works on a device: compiled, else dense, else readable; checked before use.

Each candidate answers one batch of every bucket, forward and backward, beside the readable network in float32. A wrong
or failing one costs a log line, not a training run.
"""

import functools
import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from molkit.edm.config import EdmConfig
from molkit.edm.dense import (
    BucketedEdmNetwork,
    PlainEdmNetwork,
    Precision,
    dense_block,
    dense_stack,
    readable_copy,
)
from molkit.edm.network import EdmNetwork
from molkit.edm.preconditioning import PreconditionedNetwork
from molkit.graphs import WIDTHS, Graph, split_by_pairs
from molkit.rng import generator_from

# Largest relative errors beside float32, per bucket; measured in bfloat16: up to 0.005 of the noise, 0.03 of gradients.
LIMITS = {"noise": 1e-2, "positions": 3e-2, "features": 3e-2, "gradients": 1e-1}
FLOAT32_SHARE = 1e-2  # of these limits for networks in float32; measured: 1e-6
PROBE_NORM = 0.02  # of the weights of a coordinate step: fresh ones are so small that an error in them would not show
REFERENCE_PAIRS = 20_000  # the readable network answers in slices of this many pairs
MAX_RECOMPILES = 64  # shapes, with and without gradients, before the compiler gives up; torch allows 8

Scope = Literal["block", "stack"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rung:
    """One way to run the network."""

    layout: Literal["compiled", "dense", "readable"]
    precision: Precision
    scope: Scope = "block"  # what is compiled as one program

    def __str__(self) -> str:
        return f"{self.layout} {self.precision}"

    def network(self, network: EdmNetwork, widths: Sequence[int], molecules: int) -> EdmNetwork:
        """The network on the same parameters, run this way."""
        if self.layout == "readable":
            return PlainEdmNetwork(network, precision=self.precision)
        run_stack = compiled_stack(self.scope) if self.layout == "compiled" else dense_stack
        return BucketedEdmNetwork(
            network, precision=self.precision, widths=widths, molecules=molecules, run_stack=run_stack
        )


def ladder(precision: Precision, scope: Scope = "block") -> list[Rung]:
    """The ways to try, fastest first; the last one, the readable network in float32, is the measure of the others."""
    rungs = [Rung("compiled", precision, scope), Rung("dense", precision), Rung("readable", precision)]
    return rungs if precision == "float32" else [*rungs, Rung("readable", "float32")]


@functools.cache
def compiled_stack(scope: Scope = "block") -> Callable[..., tuple[Tensor, Tensor]]:
    """`dense_stack` behind torch.compile, one program for each shape.

    By "block" all blocks share one program, which is quick to compile; by "stack" all of them are one program, which
    takes as many times longer but leaves Python alone while it runs.
    """
    from torch._dynamo import config

    config.recompile_limit = max(MAX_RECOMPILES, config.recompile_limit)
    if scope == "stack":
        return torch.compile(dense_stack, dynamic=False, fullgraph=True)
    return functools.partial(dense_stack, run_block=torch.compile(dense_block, dynamic=False, fullgraph=True))


def expected_failures() -> tuple[type[Exception], ...]:
    """What a compiler or a device raises when it cannot do the work (out of memory is a RuntimeError)."""
    if importlib.util.find_spec("triton") is None:
        return (RuntimeError, ImportError, OSError)
    from triton.errors import TritonError

    return (RuntimeError, ImportError, OSError, TritonError)


@dataclass(frozen=True)
class Probe:
    """Arguments of the network for one bucket, and what each of its outputs weighs in a scalar to differentiate."""

    graph: Graph  # on the host
    features: Tensor
    positions: Tensor
    t: Tensor
    context: Tensor | None
    weights: Tensor  # [A, 3 + n_h]


def make_probe(config: EdmConfig, smallest: int, width: int, molecules: int, *, device: torch.device) -> Probe:
    """Pure noise of molecules of smallest..width atoms, as many as one dense call holds, at late times t (0.8..1).

    That is what a trained network knows there; nonsense geometries would only measure how it amplifies rounding.
    """
    generator = generator_from("probe", width, molecules)
    sizes = torch.randint(smallest, width + 1, (molecules,), generator=generator)
    sizes[0] = width
    graph = Graph.from_sizes(sizes)

    def normal(columns: int) -> Tensor:
        return torch.randn(len(graph.batch), columns, generator=generator)

    positions, features, weights = (
        graph.centre(normal(3)),
        normal(config.num_features),
        normal(3 + config.num_features),
    )
    t = (1.0 - 0.2 * torch.rand(molecules, generator=generator))[graph.batch].unsqueeze(-1)
    context = normal(config.num_context) if config.num_context else None
    tensors = [None if part is None else part.to(device) for part in (features, positions, t, context, weights)]
    return Probe(graph, *tensors)


def probe_network(network: EdmNetwork, *, training: bool = True) -> EdmNetwork:
    """A copy whose coordinate steps are large enough to be seen; a program is made for parameters of its `training`."""
    copied = readable_copy(network).requires_grad_(training)
    with torch.no_grad():
        for block in copied.blocks:
            weight = block.coordinates.length.weight
            weight.mul_((PROBE_NORM / weight.norm().clamp(min=1e-12)).clamp(min=1.0))
    return copied


def answer(network: EdmNetwork, probe: Probe, *, training: bool, with_edges: bool) -> Tensor:
    """Noise [A, 3 + n_h] of a probe; when training, the gradients of its weighted sum are left in the parameters."""
    device = probe.positions.device
    graph = probe.graph.to(device) if with_edges else Graph.without_edges(probe.graph.num_atoms, device)
    extra = () if probe.context is None else (probe.context,)
    with torch.set_grad_enabled(training):
        outputs = network(
            probe.features, probe.positions, probe.t, graph.edge_index, graph.batch, graph.num_molecules, *extra
        )
        noise = torch.cat(outputs, dim=-1)
        if training:
            (noise * probe.weights).sum().backward()
    return noise.detach()


def slices(probe: Probe) -> list[Probe]:
    """The probe in pieces of few pairs, so that the readable network's tensors fit everywhere."""
    sizes = probe.graph.num_atoms
    ends = sizes.cumsum(0)
    pieces = []
    for rows in split_by_pairs(sizes, REFERENCE_PAIRS):
        atoms = slice(int(ends[rows[0]] - sizes[rows[0]]), int(ends[rows[-1]]))
        tensors = (probe.features, probe.positions, probe.t, probe.context, probe.weights)
        pieces.append(
            Probe(Graph.from_sizes(sizes[rows]), *(None if part is None else part[atoms] for part in tensors))
        )
    return pieces


def gradients(network: nn.Module) -> Tensor:
    """All gradients in one vector, zero where there is none; they are cleared."""
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
    network.zero_grad(set_to_none=True)
    return torch.cat([part.flatten() for part in parts])


def relative_error(value: Tensor, truth: Tensor) -> float:
    """||value - truth|| / ||truth||; NaN and infinity stay."""
    return float((value.double() - truth.double()).norm() / truth.double().norm().clamp(min=1e-30))


def compare(candidate: EdmNetwork, truth: EdmNetwork, probe: Probe, *, training: bool) -> dict[str, float]:
    """Relative errors of positions, features and gradients; both networks share their parameters."""
    dense = isinstance(candidate, BucketedEdmNetwork)
    found = answer(candidate, probe, training=training, with_edges=not dense)
    found_gradient = gradients(candidate) if training else None
    expected = torch.cat([answer(truth, piece, training=training, with_edges=True) for piece in slices(probe)])
    errors = {
        "noise": relative_error(found, expected),
        "positions": relative_error(found[:, :3], expected[:, :3]),
        "features": relative_error(found[:, 3:], expected[:, 3:]),
    }
    if found_gradient is not None:
        errors["gradients"] = relative_error(found_gradient, gradients(truth))
    return errors


def fault(errors: dict[str, float], precision: Precision) -> str:
    """The first error that is too large or not finite, in words; empty when there is none."""
    share = FLOAT32_SHARE if precision == "float32" else 1.0
    for name, error in errors.items():
        if not error < share * LIMITS[name]:
            return f"relative error of {name} {error:.2g}, allowed {share * LIMITS[name]:g}"
    return ""


def bucket_probes(
    config: EdmConfig, widths: Sequence[int], molecules: int, device: torch.device
) -> list[Callable[[], Probe]]:
    """One probe for each bucket of the model's sizes, made when it is asked for."""
    bounds = list(zip([0, *widths[:-1]], widths, strict=True))
    largest = max(size for size, _ in config.sizes)
    used = [(low, width) for low, width in bounds if low < largest] or bounds[:1]
    return [functools.partial(make_probe, config, low + 1, width, molecules, device=device) for low, width in used]


def unfit(
    rung: Rung, network: EdmNetwork, *, widths: Sequence[int], molecules: int, training: bool, device: torch.device
) -> str:
    """Why this way of running the network must not be used here, in one line; empty when it may."""
    truth = PlainEdmNetwork(probe_network(network, training=training), precision="float32")
    candidate = rung.network(truth, widths, molecules)
    worst = 0.0
    try:
        for make in bucket_probes(network.config, widths, molecules, device):
            errors = compare(candidate, truth, make(), training=training)
            if reason := fault(errors, rung.precision):
                return reason
            worst = max(worst, errors["noise"])
    except expected_failures() as error:
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
    log.info("EDM network: %s on %s, within %.1e of float32 in every bucket", rung, device, worst)
    return ""


def compile_for(
    network: EdmNetwork,
    device: torch.device | str,
    *,
    precision: Precision = "bfloat16",
    widths: Sequence[int] = WIDTHS,
    molecules: int = 256,
    training: bool = True,
    scope: Scope = "block",
) -> EdmNetwork:
    """The network on `device` in its fastest form that passes the check; the parameters are shared, not copied.

    Ways, in order: torch.compile over the size buckets, the same layout without a compiler, the readable network, each
    in `precision`, and the readable network in float32. `molecules` is the most that one dense call holds; without
    `training` only the forward pass is compiled and checked. The first call of a shape compiles it (seconds); compiled
    programs are kept by torch in its own cache on disk. Any other network than the equivariant one runs as written.
    """
    device = torch.device(device)
    network = network.to(device)
    if isinstance(network, PreconditionedNetwork):
        options = {"widths": widths, "molecules": molecules, "training": training, "scope": scope}
        return PreconditionedNetwork(compile_for(network.inner, device, precision=precision, **options)).to(device)
    if not isinstance(network, EdmNetwork):
        return network
    rungs = ladder(precision, scope)
    for rung, following in zip(rungs[:-1], rungs[1:], strict=True):
        reason = unfit(rung, network, widths=widths, molecules=molecules, training=training, device=device)
        if not reason:
            return rung.network(network, widths, molecules)
        log.warning("EDM network: %s does not work on %s (%s); trying %s", rung, device, reason, following)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return rungs[-1].network(network, widths, molecules)
