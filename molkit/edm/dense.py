"""The same network on padded molecules [b, n, ...]: equal shapes come back, so a compiler can fuse and reuse its work.

The flat batch is sorted into a few bucket widths; every tensor over pairs is [b, n, n, ...], sums over neighbours are
plain reductions, and the gathers and scatters of the readable network are gone. GPUs gain from that, CPUs do not.

The network compiled for a device, if it gives the readable network's answers there; else the readable one itself.

One probe is answered, forward and backward, beside the readable network in float32. A wrong or failing program costs a
log line, not a training run.
"""

import copy
import functools
import importlib.util
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from molkit.edm.config import EdmConfig
from molkit.edm.network import (
    EdmNetwork,
    EquivariantBlock,
    PairMlp,
    PreconditionedNetwork,
    sine_embedding,
    small_linear,
)
from molkit.graphs import WIDTHS, Graph, padded_width, to_device
from molkit.rng import generator_from

Precision = Literal["float32", "bfloat16"]
COUNT_FRACTIONS = (1, 2, 4, 8)  # a bucket's molecules are padded to `molecules` or to one of these fractions of it


def dot(values: Tensor, layer: nn.Linear) -> Tensor:
    """A Linear with one output on values [..., F] -> [...], as a product and a sum in the precision of its weight."""
    out = (values * layer.weight[0]).sum(-1)
    return out if layer.bias is None else out + layer.bias


def pair_activations(pair: PairMlp, features: Tensor, edges: tuple[Tensor, Tensor]) -> Tensor:
    """Output [b, n, n, F] of a PairMlp for features [b, n, F]; dimension 1 receives, dimension 2 sends.

    `edges` holds the current and the first squared distance [b, n, n], or their sines and cosines [b, n, n, 12].
    """
    receiver, sender = pair.atom_parts(features)
    weight = pair.first.weight[:, 2 * pair.width :]
    now, first = edges
    if weight.shape[1] == 2:
        hidden = now.unsqueeze(-1) * weight[:, 0] + first.unsqueeze(-1) * weight[:, 1]
    else:
        with torch.autocast(features.device.type, enabled=False):
            hidden = linear(torch.cat([now, first], dim=-1), weight)
    hidden = hidden + receiver.unsqueeze(2) + sender.unsqueeze(1)
    return silu(pair.second(silu(hidden)))


def squared_distances(displacement: Tensor) -> Tensor:
    """displacement [b, n, n, 3] -> [b, n, n]."""
    return displacement.square().sum(-1)


def dense_block(
    block: EquivariantBlock,
    features: Tensor,
    positions: Tensor,
    first_squared: Tensor,
    pairs: Tensor,
    scale: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """One block on features [b, n, F] and positions [b, n, 3].

    pairs [b, n, n] is 1 for two different real atoms, else 0; scale divides the sums over senders (a number, or
    [b, n, 1]). Distances of padding stay finite, and so do their gradients, which `pairs` then sets to zero.
    """
    displacement = positions.unsqueeze(2) - positions.unsqueeze(1)
    squared = squared_distances(displacement)
    edges = (squared, first_squared)
    if block.sine:
        edges = (sine_embedding(squared.unsqueeze(-1)), sine_embedding(first_squared.unsqueeze(-1)))
    for layer in block.messages:
        message = pair_activations(layer.pair, features, edges)
        weight = pairs if layer.gate is None else pairs * torch.sigmoid(dot(message, layer.gate))
        pooled = (message * weight.unsqueeze(-1)).sum(2) / scale
        features = features + layer.update(torch.cat([features, pooled], dim=-1))
    length = dot(pair_activations(block.coordinates.pair, features, edges), block.coordinates.length)
    if block.coordinates.step_range is not None:
        length = torch.tanh(length) * block.coordinates.step_range
    step = length * pairs / (torch.sqrt(squared + 1e-8) + block.norm_constant)
    return features, positions + (displacement * step.unsqueeze(-1)).sum(2) / scale


BlockFunction = Callable[..., tuple[Tensor, Tensor]]


def dense_stack(
    blocks: Iterable[EquivariantBlock],
    features: Tensor,
    positions: Tensor,
    first_squared: Tensor,
    pairs: Tensor,
    scale: Tensor | float,
    *,
    run_block: BlockFunction = dense_block,
) -> tuple[Tensor, Tensor]:
    """All blocks, one after the other; arguments and results as of `dense_block`."""
    for block in blocks:
        features, positions = run_block(block, features, positions, first_squared, pairs, scale)
    return features, positions


@dataclass(frozen=True)
class Part:
    """Molecules of one bucket: where their atoms are, which slots are real, which pairs count."""

    atoms: Tensor  # [b, n], rows of the flat batch; A for padding
    mask: Tensor  # [b, n, 1], 1 for real atoms
    pairs: Tensor  # [b, n, n], 1 for two different real atoms

    @property
    def shape(self) -> tuple[int, int]:
        """Molecules and atoms, padding included."""
        return self.atoms.shape[0], self.atoms.shape[1]


@dataclass(frozen=True)
class Plan:
    """How a flat batch of A atoms lies in buckets, and where each atom is found afterwards."""

    parts: tuple[Part, ...]
    place: Tensor  # [A], row of every atom in the buckets' slots put one after the other


def part_of(rows: Tensor, width: int, sizes: Tensor, starts: Tensor, padding: int) -> Part:
    """The bucket of molecules `rows` [b]; sizes and starts [B + 1] end with an empty molecule that pads the count."""
    slots = torch.arange(width, device=rows.device)
    real = slots < sizes[rows].unsqueeze(1)
    atoms = torch.where(real, starts[rows].unsqueeze(1) + slots, padding)
    different = ~torch.eye(width, dtype=torch.bool, device=rows.device)
    pairs = real.unsqueeze(2) & real.unsqueeze(1) & different
    return Part(atoms, real.unsqueeze(-1).float(), pairs.float())


class Planner:
    """Lays flat batches out in buckets of at most `molecules` molecules of one width.

    At most len(widths) * len(COUNT_FRACTIONS) shapes occur (24), as long as no molecule is larger than the last width.
    The last plan is kept, so a sampler that calls the network a thousand times on one batch plans once.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS, molecules: int = 256) -> None:
        self.widths, self.molecules = tuple(widths), molecules
        self.counts = sorted({-(-molecules // fraction) for fraction in COUNT_FRACTIONS})
        self.announced: tuple[Tensor, Tensor] | None = None
        self.last: tuple[Tensor, Plan] | None = None

    def __deepcopy__(self, memo: dict) -> "Planner":
        return Planner(self.widths, self.molecules)

    def announce(self, batch: Tensor, num_atoms: Tensor) -> None:
        """Tell the sizes [B], on the host, of the batch that comes next; asking the device would wait for it."""
        self.announced = (batch, num_atoms)

    def plan(self, batch: Tensor, num_molecules: int) -> Plan:
        """The plan of molecules whose atoms lie one after the other, batch [A] (ascending) on any device."""
        if self.last is not None and self.last[0] is batch:
            return self.last[1]
        if self.announced is not None and self.announced[0] is batch:
            num_atoms = self.announced[1]
        else:
            num_atoms = torch.bincount(batch.cpu(), minlength=num_molecules)
        self.announced, self.last = None, (batch, self.lay_out(num_atoms, batch.device))
        return self.last[1]

    def groups(self, num_atoms: Tensor) -> list[tuple[int, Tensor]]:
        """Width and molecules of every dense call for sizes [B]; B stands for an empty molecule that pads the count."""
        widths = padded_width(num_atoms, self.widths)
        found = []
        for width in widths.unique().tolist():
            for rows in torch.nonzero(widths == width).flatten().split(self.molecules):
                count = next(count for count in self.counts if count >= len(rows))
                found.append((width, torch.cat([rows, rows.new_full((count - len(rows),), len(num_atoms))])))
        return found

    def lay_out(self, num_atoms: Tensor, device: torch.device) -> Plan:
        """Plan for molecules of the given sizes [B] (on the host), its tensors on `device`."""
        groups = self.groups(num_atoms)
        total = int(num_atoms.sum())
        table = torch.cat([num_atoms, num_atoms.new_zeros(1)])
        sizes, rows = to_device(table, device), to_device(torch.cat([rows for _, rows in groups]), device)
        starts = sizes.cumsum(0) - sizes
        pieces = rows.split([len(rows) for _, rows in groups])
        widths = [width for width, _ in groups]
        parts = [part_of(piece, width, sizes, starts, total) for piece, width in zip(pieces, widths, strict=True)]
        slots = torch.cat([part.atoms.flatten() for part in parts])
        place = slots.new_zeros(total + 1).scatter_(0, slots, torch.arange(len(slots), device=device))
        return Plan(tuple(parts), place[:total])


class BucketedEdmNetwork(EdmNetwork):
    """An EdmNetwork that shares the modules of another one and runs them on padded buckets; same arguments and answer.

    Atoms of a molecule must be neighbours in the batch, as `Graph` has them; edge_index is not looked at, all pairs of
    a molecule count. `precision` sets the matrix products; distances, coordinates, t and sums stay as they come in.
    """

    def __init__(
        self,
        network: EdmNetwork,
        *,
        precision: Precision = "float32",
        widths: Sequence[int] = WIDTHS,
        molecules: int = 256,
        run_stack: Callable[..., tuple[Tensor, Tensor]] = dense_stack,
    ) -> None:
        nn.Module.__init__(self)
        self.config, self.precision = network.config, precision
        self.embed, self.blocks, self.read_out = network.embed, network.blocks, network.read_out
        self.planner = Planner(widths, molecules)
        self.run_stack = run_stack

    def forward(
        self,
        features: Tensor,
        positions: Tensor,
        t: Tensor,
        edge_index: Tensor,
        batch: Tensor,
        num_molecules: int,
        context: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As EdmNetwork.forward: flat features [A, n_h], positions [A, 3], t [A, 1] in, flat noise out."""
        plan = self.planner.plan(batch, num_molecules)
        columns = torch.cat([features, t] if context is None else [features, t, context], dim=-1)
        columns, sources = (torch.cat([part, torch.zeros_like(part[:1])]) for part in (columns, positions))
        with torch.autocast(positions.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            outputs = [self.run_part(part, columns, sources) for part in plan.parts]
        flat = torch.cat([part.flatten(0, 1) for part in outputs]).index_select(0, plan.place)
        return flat[:, :3], flat[:, 3:].to(features.dtype)

    def run_part(self, part: Part, columns: Tensor, sources: Tensor) -> Tensor:
        """Noise [b, n, 3 + n_h] of one bucket from columns [A + 1, K] and positions [A + 1, 3], the last row zero."""
        positions, mask, pairs = sources[part.atoms], part.mask.to(sources.dtype), part.pairs.to(sources.dtype)
        hidden = small_linear(columns[part.atoms], self.embed)
        scale = self.config.message_scale if self.config.aggregation == "sum" else pairs.sum(2, keepdim=True).clamp(1)
        first_squared = squared_distances(positions.unsqueeze(2) - positions.unsqueeze(1))
        moved = positions
        if hidden.requires_grad:  # one program for all blocks: the first one's positions need no gradient otherwise
            moved = positions if positions.requires_grad else positions.detach().requires_grad_()
        hidden, moved = self.run_stack(self.blocks, hidden, moved, first_squared, pairs, scale)
        velocity = (moved - positions) * mask
        velocity = velocity - velocity.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        noise_features = self.read_out(hidden)[..., : self.config.num_features]
        return torch.cat([velocity, noise_features.to(velocity.dtype)], dim=-1)


class PlainEdmNetwork(EdmNetwork):
    """The readable network with a matrix precision of its own, whatever the caller's autocast says."""

    def __init__(self, network: EdmNetwork, *, precision: Precision) -> None:
        nn.Module.__init__(self)
        self.config, self.precision = network.config, precision
        self.embed, self.blocks, self.read_out = network.embed, network.blocks, network.read_out

    def forward(
        self,
        features: Tensor,
        positions: Tensor,
        t: Tensor,
        edge_index: Tensor,
        batch: Tensor,
        num_molecules: int,
        context: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As EdmNetwork.forward."""
        with torch.autocast(positions.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return super().forward(features, positions, t, edge_index, batch, num_molecules, context)


def share(network: EdmNetwork) -> EdmNetwork:
    """A readable network on the parameters of another one."""
    plain = EdmNetwork.__new__(EdmNetwork)
    nn.Module.__init__(plain)
    plain.config = network.config
    plain.embed, plain.blocks, plain.read_out = network.embed, network.blocks, network.read_out
    return plain


def readable_copy(network: EdmNetwork) -> EdmNetwork:
    """A readable network with parameters of its own."""
    return copy.deepcopy(share(network))


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
