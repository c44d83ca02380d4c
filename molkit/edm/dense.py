"""The same network on padded molecules [b, n, ...]: equal shapes come back, so a compiler can fuse and reuse its work.

The flat batch is sorted into a few bucket widths; every tensor over pairs is [b, n, n, ...], sums over neighbours are
plain reductions, and the gathers and scatters of the readable network are gone. GPUs gain from that, CPUs do not.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from molkit.edm.network import EdmNetwork, EquivariantBlock, PairMlp, sine_embedding, small_linear
from molkit.graphs import WIDTHS, padded_width, to_device

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
