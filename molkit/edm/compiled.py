"""The network compiled for a device, if it gives the readable network's answers there; else the readable one itself.

One probe is answered, forward and backward, beside the readable network in float32. A wrong or failing program costs a
log line, not a training run.
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
from molkit.graphs import WIDTHS, Graph, padded_width
from molkit.rng import generator_from

# Largest relative errors beside float32; measured in bfloat16: up to 0.005 of the noise, 0.03 of gradients.
LIMITS = {"positions": 3e-2, "features": 3e-2, "gradients": 1e-1}
FLOAT32_SHARE = 1e-2  # of these limits for networks in float32; measured: 1e-6
PROBE_NORM = 0.02  # of the weights of a coordinate step: fresh ones are so small that an error in them would not show
PROBE_FRACTION = 8  # molecules of the probe: this part of a full dense call, which the readable network can hold
MAX_RECOMPILES = 64  # shapes, with and without gradients, before the compiler gives up; torch allows 8

Scope = Literal["block", "stack"]

log = logging.getLogger(__name__)


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
    """Arguments of the network for one batch, and what each of its outputs weighs in a scalar to differentiate."""

    arguments: tuple[Tensor | int, ...]
    weights: Tensor  # [A, 3 + n_h]


def make_probe(config: EdmConfig, widths: Sequence[int], molecules: int, *, device: torch.device) -> Probe:
    """Pure noise of `molecules` molecules of the bucket that holds the model's largest, at late times t (0.8..1).

    That is what a trained network knows there; nonsense geometries would only measure how it amplifies rounding.
    """
    largest = max(size for size, _ in config.sizes)
    generator = generator_from("probe", largest, molecules)
    candidates = torch.arange(1, largest + 1)
    padded = padded_width(candidates, widths)
    alike = candidates[padded == padded[-1]]
    graph = Graph.from_sizes(alike[torch.randint(len(alike), (molecules,), generator=generator)])

    def normal(columns: int) -> Tensor:
        return torch.randn(len(graph.batch), columns, generator=generator)

    t = (1.0 - 0.2 * torch.rand(molecules, generator=generator))[graph.batch].unsqueeze(-1)
    atoms = [normal(config.num_features), graph.centre(normal(3)), t]
    context = [normal(config.num_context)] if config.num_context else []
    weights, placed = normal(3 + config.num_features).to(device), graph.to(device)
    atoms, context = ([part.to(device) for part in parts] for parts in (atoms, context))
    return Probe((*atoms, placed.edge_index, placed.batch, placed.num_molecules, *context), weights)


def probe_network(network: EdmNetwork, *, training: bool = True) -> EdmNetwork:
    """A copy whose coordinate steps are large enough to be seen; a program is made for parameters of its `training`."""
    copied = readable_copy(network).requires_grad_(training)
    with torch.no_grad():
        for block in copied.blocks:
            weight = block.coordinates.length.weight
            weight.mul_((PROBE_NORM / weight.norm().clamp(min=1e-12)).clamp(min=1.0))
    return copied


def answer(network: EdmNetwork, probe: Probe, *, training: bool) -> dict[str, Tensor]:
    """Noise of positions [A, 3] and features [A, n_h], and when training the gradients of its weighted sum [P]."""
    with torch.set_grad_enabled(training):
        positions, features = network(*probe.arguments)
        found = {"positions": positions.detach(), "features": features.detach()}
        if training:
            (torch.cat([positions, features], dim=-1) * probe.weights).sum().backward()
            found["gradients"] = gradients(network)
    return found


def gradients(network: nn.Module) -> Tensor:
    """All gradients in one vector, zero where there is none; they are cleared."""
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
    network.zero_grad(set_to_none=True)
    return torch.cat([part.flatten() for part in parts])


def relative_error(value: Tensor, truth: Tensor) -> float:
    """||value - truth|| / ||truth||; NaN and infinity stay."""
    return float((value.double() - truth.double()).norm() / truth.double().norm().clamp(min=1e-30))


def fault(candidate: BucketedEdmNetwork, truth: EdmNetwork, probe: Probe, *, training: bool) -> str:
    """The first error that is too large or not finite, in words; empty when there is none."""
    share = FLOAT32_SHARE if candidate.precision == "float32" else 1.0
    found, expected = (answer(network, probe, training=training) for network in (candidate, truth))
    for name, value in found.items():
        error = relative_error(value, expected[name])
        if not error < share * LIMITS[name]:
            return f"relative error of {name} {error:.2g}, allowed {share * LIMITS[name]:g}"
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
    """The network on `device`, compiled over the size buckets if that passes the check; the parameters are shared.

    Where it does not pass, a warning says why, and the readable network runs in float32. `molecules` is the most that
    one dense call holds; without `training` only the forward pass is compiled and checked. The first call of a shape
    compiles it (seconds); compiled programs are kept by torch in its own cache on disk. Any other network than the
    equivariant one runs as written.
    """
    device = torch.device(device)
    network = network.to(device)
    if isinstance(network, PreconditionedNetwork):
        options = {"widths": widths, "molecules": molecules, "training": training, "scope": scope}
        return PreconditionedNetwork(compile_for(network.inner, device, precision=precision, **options)).to(device)
    if not isinstance(network, EdmNetwork):
        return network

    def compiled(plain: EdmNetwork) -> BucketedEdmNetwork:
        stack = compiled_stack(scope)
        return BucketedEdmNetwork(plain, precision=precision, widths=widths, molecules=molecules, run_stack=stack)

    truth = PlainEdmNetwork(probe_network(network, training=training), precision="float32")
    try:
        probe = make_probe(network.config, widths, -(-molecules // PROBE_FRACTION), device=device)
        reason = fault(compiled(truth), truth, probe, training=training)
    except expected_failures() as error:
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
    if not reason:
        log.info("EDM network: compiled %s on %s, as the readable network says", precision, device)
        return compiled(network)
    log.warning("EDM network: torch.compile does not work on %s (%s); the readable network runs", device, reason)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return PlainEdmNetwork(network, precision="float32")
