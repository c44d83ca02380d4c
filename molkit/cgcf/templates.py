"""Springs of the tilt: bond lengths and angles that a graph prefers, and how stiff they are, from the graph alone.

A network that learns energies from distances has to find out anew for every molecule how long each bond is. The graph
tells: its neighbourhood fixes a bond length to a hundredth of an angstrom and an angle to a few degrees. Here message
passing over the extended graph, which sees no positions, gives each pair one or two bonds apart a preferred distance
and one stiffness for each level of the bridge. For two Gaussians of one mean the logarithm of their ratio is such a
spring exactly. Ours, not in the paper.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from molkit.cgcf.graph import PairGraph
from molkit.graphs import sum_per_molecule

LAYERS = 3
STARTS = (1.3, 2.3)  # angstrom: preferred distances over one and over two bonds before training
UNIT = 100.0  # 1 / angstrom^2: a stiffness of one


@dataclass(frozen=True, eq=False)
class Springs:
    """Springs on the pairs [2, S] of a batch: preferred lengths [S] in angstrom, stiffness and offset [S, M]."""

    pairs: Tensor
    molecule: Tensor  # of each spring, [S]
    lengths: Tensor
    stiffness: Tensor
    offset: Tensor
    num_molecules: int

    def energies(self, positions: Tensor) -> Tensor:
        """Energies [..., B, M] of positions [..., A, 3]: stiffness (d - length)^2 - offset, summed over the springs."""
        away = (self.distances(positions) - self.lengths).square().unsqueeze(-1)
        each = UNIT * self.stiffness * away - self.offset
        return each.new_zeros(*each.shape[:-2], self.num_molecules, each.shape[-1]).index_add(-2, self.molecule, each)

    def distances(self, positions: Tensor) -> Tensor:
        """Distances [..., S] of the springs' ends."""
        gap = positions.index_select(-2, self.pairs[0]) - positions.index_select(-2, self.pairs[1])
        return gap.square().sum(-1).clamp(min=1e-12).sqrt()

    def misfit(self, positions: Tensor) -> Tensor:
        """Mean |d - length| at positions of data [A, 3], angstrom: what teaches the lengths where no level does."""
        return (self.distances(positions) - self.lengths).abs().mean()


class Templates(nn.Module):
    """The network that gives a graph its springs; no stiffness and no offset before training."""

    def __init__(self, width: int, num_levels: int, table_rows: int) -> None:
        super().__init__()
        self.elements, self.pair_types = nn.Embedding(table_rows, width), nn.Embedding(table_rows, width)
        self.sent = nn.ModuleList(nn.Linear(width, width) for _ in range(LAYERS))
        self.taken = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(LAYERS)
        )
        self.mixed = nn.Sequential(nn.Linear(4 * width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.length = nn.Linear(width, 1)
        self.stiffness, self.offset = nn.Linear(width, num_levels), nn.Linear(width, num_levels)
        for layer in (self.stiffness, self.offset):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def on(self, graph: PairGraph) -> Springs:
        """The springs of an undirected batch, on its pairs one or two bonds apart."""
        near = graph.hops <= len(STARTS)
        pairs, molecule = graph.pairs[:, near], graph.pair_batch[near]
        features = self.features(graph, self.atoms(graph), near)
        starts = self.length.weight.new_tensor(STARTS)[graph.hops[near] - 1]
        lengths = starts + self.length(features).squeeze(-1)
        return Springs(pairs, molecule, lengths, self.stiffness(features), self.offset(features), graph.num_molecules)

    def atoms(self, graph: PairGraph) -> Tensor:
        """Features of the atoms [A, F] after message passing over all pairs of the extended graph."""
        found = self.elements(graph.atomic_numbers)
        senders, receivers = graph.routes
        types = self.pair_types(graph.types).repeat(2, 1)
        for sent, taken in zip(self.sent, self.taken, strict=True):
            messages = silu(sent(found).index_select(0, senders) * types)
            pooled = sum_per_molecule(messages, receivers, len(found))
            found = found + taken(torch.cat([found, pooled], -1))
        return found

    def features(self, graph: PairGraph, atoms: Tensor, near: Tensor) -> Tensor:
        """Features [S, F] of the springs: both ends, the type, and the atoms between them."""
        first, second = graph.pairs[:, near]
        parts = [atoms[first] + atoms[second], atoms[first] * atoms[second], self.pair_types(graph.types[near])]
        return self.mixed(torch.cat([*parts, between(graph, first, second).to(atoms) @ atoms], -1))


def between(graph: PairGraph, first: Tensor, second: Tensor) -> Tensor:
    """Whether each atom [A] is bonded to both ends of a pair, [S, A]."""
    bonded = torch.zeros(len(graph.atomic_numbers), len(graph.atomic_numbers), dtype=torch.bool)
    ends = graph.pairs[:, graph.hops == 1]
    bonded[ends[0], ends[1]] = bonded[ends[1], ends[0]] = True
    return bonded[first] & bonded[second]
