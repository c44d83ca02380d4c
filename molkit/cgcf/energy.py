"""ETM: an energy of positions that tilts the flow's density, learned by telling data from the flow's own samples.

p(R|G) = p_flow(R|G) exp(-E(R, G)) / Z(G); log Z is absorbed in E. The network sees all pairs within its cutoff, which
is the purpose: the flow knows only pairs up to three bonds apart. A mirror image has the same energy.
Source: the ETM paper for the tilt and the objective; sizes of the network are ours, its form is SchNet's
(Schütt et al., arXiv 1706.08566).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from molkit.cgcf.graph import PairGraph
from molkit.cgcf.templates import Springs, Templates
from molkit.errors import InvalidInput
from molkit.graphs import fully_connected

SMOOTHING = 1e-8  # angstrom^2 under the root of a distance: the gradient stays finite where atoms meet


@dataclass(frozen=True, kw_only=True)
class EnergyConfig:
    """Everything needed to rebuild an untrained energy network."""

    width: int = 128
    num_blocks: int = 4
    num_gaussians: int = 50
    cutoff: float = 10.0  # angstrom
    table_rows: int = 100
    num_levels: int = 1  # parts of the energy, one for each pair of neighbours on the bridge between data and flow
    template_width: int = 0  # of the network that gives bonds and angles their springs; 0: no springs
    flow: str = ""  # name of the flow whose samples the energy learned to tell from data

    def __post_init__(self) -> None:
        for name in ("width", "num_blocks", "table_rows", "num_levels"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.template_width < 0:
            raise InvalidInput(f"template_width must not be negative, got {self.template_width}")
        if self.num_gaussians < 2 or not self.cutoff > 0.0:
            raise InvalidInput(f"need two Gaussians and a cutoff above 0, got {self.num_gaussians} and {self.cutoff}")


@dataclass(frozen=True, eq=False)
class AllPairs:
    """All unordered pairs of the atoms of each molecule: pairs [2, Q], type of the extended graph or 0, [Q]."""

    pairs: Tensor
    types: Tensor

    @classmethod
    def of(cls, graph: PairGraph) -> "AllPairs":
        """The pairs of an undirected batch."""
        both = fully_connected(graph.num_atoms)
        pairs = both[:, both[0] < both[1]]
        total = len(graph.atomic_numbers)
        known = graph.pairs[0] * total + graph.pairs[1]  # ascending, like the pairs themselves
        keys = pairs[0] * total + pairs[1]
        place = torch.searchsorted(known, keys).clamp(max=max(0, len(known) - 1))
        found = known[place] == keys
        return cls(pairs, torch.where(found, graph.types[place], 0))


def shifted_softplus(x: Tensor) -> Tensor:
    """softplus(x) - ln 2, zero at zero."""
    return softplus(x) - math.log(2.0)


class ShiftedSoftplus(nn.Module):
    """`shifted_softplus` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape."""
        return shifted_softplus(x)


class Interaction(nn.Module):
    """x <- x + MLP(sum over neighbours of (W x_u) * filter(distance, type))."""

    def __init__(self, config: EnergyConfig) -> None:
        super().__init__()
        width = config.width
        self.filter = nn.Sequential(nn.Linear(config.num_gaussians, width), ShiftedSoftplus(), nn.Linear(width, width))
        self.inward = nn.Linear(width, width, bias=False)
        self.outward = nn.Sequential(nn.Linear(width, width), ShiftedSoftplus(), nn.Linear(width, width))

    def forward(self, atoms: Tensor, pairs: Tensor, smeared: Tensor, types: Tensor, envelope: Tensor) -> Tensor:
        """atoms [..., A, F], smeared [..., Q, G], types [Q, F], envelope [..., Q, 1] -> [..., A, F]."""
        weights = self.filter(smeared) * types * envelope
        sent = self.inward(atoms)
        first, second = pairs
        pooled = torch.zeros_like(sent).index_add(-2, first, sent.index_select(-2, second) * weights)
        return atoms + self.outward(pooled.index_add(-2, second, sent.index_select(-2, first) * weights))


class EnergyNetwork(nn.Module):
    """E(R, G), zero for every input until it is trained; the sum over atoms is divided by the root of their number."""

    def __init__(self, config: EnergyConfig) -> None:
        super().__init__()
        self.config = config
        self.elements = nn.Embedding(config.table_rows, config.width)
        self.pair_types = nn.Embedding(config.table_rows, config.width)
        self.blocks = nn.ModuleList(Interaction(config) for _ in range(config.num_blocks))
        self.read_out = nn.Sequential(nn.Linear(config.width, config.width // 2), ShiftedSoftplus())
        self.last = nn.Linear(config.width // 2, config.num_levels)
        nn.init.ones_(self.pair_types.weight)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.register_buffer("centres", torch.linspace(0.0, config.cutoff, config.num_gaussians))
        width, levels = config.template_width, config.num_levels
        self.templates = Templates(width, levels, config.table_rows) if width else None

    def forward(
        self, graph: PairGraph, positions: Tensor, pairs: AllPairs | None = None, springs: Springs | None = None
    ) -> Tensor:
        """Energies [..., B] of positions [..., A, 3] in angstrom; `pairs` and `springs` where known already."""
        return self.parts(graph, positions, pairs, springs).sum(-1)

    def springs(self, graph: PairGraph) -> Springs | None:
        """The springs of a batch, which no position changes; None where the network has none."""
        return None if self.templates is None else self.templates.on(graph)

    def parts(
        self, graph: PairGraph, positions: Tensor, pairs: AllPairs | None = None, springs: Springs | None = None
    ) -> Tensor:
        """The parts [..., B, M] of the energies, whose sum over the M levels is the energy."""
        springs = self.springs(graph) if springs is None else springs
        learned = self.from_distances(graph, positions, pairs)
        return learned if springs is None else learned + springs.energies(positions)

    def from_distances(self, graph: PairGraph, positions: Tensor, pairs: AllPairs | None = None) -> Tensor:
        """What all pairs within the cutoff add to the parts, [..., B, M]."""
        pairs = AllPairs.of(graph) if pairs is None else pairs
        gap = positions.index_select(-2, pairs.pairs[0]) - positions.index_select(-2, pairs.pairs[1])
        distances = (gap.square().sum(-1, keepdim=True) + SMOOTHING).sqrt()
        spacing = self.config.cutoff / (self.config.num_gaussians - 1)
        smeared = torch.exp(-0.5 * ((distances - self.centres) / spacing).square())
        inside = distances < self.config.cutoff
        envelope = torch.where(inside, 0.5 * (torch.cos(math.pi * distances / self.config.cutoff) + 1.0), 0.0)
        atoms = self.elements(graph.atomic_numbers).expand(*positions.shape[:-1], -1)
        types = self.pair_types(pairs.types)
        for block in self.blocks:
            atoms = block(atoms, pairs.pairs, smeared, types, envelope)
        each = self.last(self.read_out(atoms))
        total = each.new_zeros(*each.shape[:-2], graph.num_molecules, each.shape[-1]).index_add(-2, graph.batch, each)
        return total / graph.num_atoms.to(total.dtype).sqrt().unsqueeze(-1)


def nce_loss(real: Tensor, drawn: Tensor) -> Tensor:
    """Noise-contrastive loss of energies of data and of as many flow samples: softplus(E_real) + softplus(-E_drawn).

    The means of both parts; 2 ln 2 at E = 0, and at its least where E = log p_flow - log p_data.
    """
    return softplus(real).mean() + softplus(-drawn).mean()
