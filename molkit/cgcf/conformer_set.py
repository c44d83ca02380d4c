"""Conformers of many molecules as flat tensors, and the batches of any rows of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from molkit.cgcf.graph import ExtendedGraph, PairGraph
from molkit.errors import InvalidInput


def ranges(starts: Tensor, counts: Tensor) -> Tensor:
    """The numbers starts[0], starts[0] + 1, ... (counts[0] of them), then those of the next, and so on."""
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    return torch.arange(total) + torch.repeat_interleave(starts - (ends - counts), counts)


@dataclass(frozen=True, eq=False)
class ConformerSet:
    """Extended graphs of M molecules, and C conformers that belong to them.

    owner [C]: the molecule of each conformer; positions [sum of atoms, 3] float32 angstrom, conformers back to back.
    """

    graphs: tuple[ExtendedGraph, ...]
    owner: Tensor
    positions: Tensor
    names: tuple[str, ...] = ()  # of the molecules

    def __post_init__(self) -> None:
        sizes = torch.tensor([graph.num_atoms for graph in self.graphs])
        total = int(sizes[self.owner].sum()) if len(self.owner) else 0
        if self.positions.shape != (total, 3):
            raise InvalidInput(
                f"conformers: expected positions of shape ({total}, 3), got {tuple(self.positions.shape)}"
            )

    @classmethod
    def of(
        cls, graphs: Sequence[ExtendedGraph], ensembles: Sequence[np.ndarray], names: Sequence[str] = ()
    ) -> "ConformerSet":
        """From one array of conformers [C_m, A_m, 3] for each molecule. Raises InvalidInput when there is none."""
        if not graphs or len(graphs) != len(ensembles):
            raise InvalidInput(f"expected an ensemble for each of {len(graphs)} molecules, got {len(ensembles)}")
        counts = torch.tensor([len(ensemble) for ensemble in ensembles])
        flat = np.concatenate([np.asarray(ensemble, dtype=np.float32).reshape(-1, 3) for ensemble in ensembles])
        owner = torch.repeat_interleave(torch.arange(len(graphs)), counts)
        return cls(tuple(graphs), owner, torch.from_numpy(flat), tuple(names))

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, ascending."""
        return tuple(sorted(set(np.concatenate([graph.atomic_numbers for graph in self.graphs]).tolist())))

    @property
    def num_atoms(self) -> Tensor:
        """Atoms of each conformer, [C]."""
        return torch.tensor([graph.num_atoms for graph in self.graphs])[self.owner]


class Batcher:
    """Gathers batches from a ConformerSet without a loop over molecules."""

    def __init__(self, data: ConformerSet) -> None:
        self.data = data
        graphs = data.graphs
        self.num_atoms = torch.tensor([graph.num_atoms for graph in graphs])
        self.num_pairs = torch.tensor([graph.num_pairs for graph in graphs])
        self.first_atom = self.num_atoms.cumsum(0) - self.num_atoms
        self.first_pair = self.num_pairs.cumsum(0) - self.num_pairs
        self.atomic_numbers = torch.from_numpy(np.concatenate([graph.atomic_numbers for graph in graphs]))
        self.pairs = torch.from_numpy(np.concatenate([graph.pairs for graph in graphs], axis=1))
        self.types = torch.from_numpy(np.concatenate([graph.types for graph in graphs]))
        self.hops = torch.from_numpy(np.concatenate([graph.hops for graph in graphs]))
        sizes = data.num_atoms
        self.sizes, self.first_position = sizes, sizes.cumsum(0) - sizes

    def graph(self, rows: Tensor) -> PairGraph:
        """The extended graphs of the molecules of these conformers."""
        owner = self.data.owner[rows]
        num_atoms, num_pairs = self.num_atoms[owner], self.num_pairs[owner]
        atoms = ranges(self.first_atom[owner], num_atoms)
        pairs = ranges(self.first_pair[owner], num_pairs)
        shift = torch.repeat_interleave(num_atoms.cumsum(0) - num_atoms, num_pairs)
        return PairGraph(
            self.atomic_numbers[atoms],
            num_atoms,
            self.pairs[:, pairs] + shift,
            self.types[pairs],
            self.hops[pairs],
            num_pairs,
        )

    def positions(self, rows: Tensor) -> Tensor:
        """Positions [A, 3] of these conformers, back to back."""
        return self.data.positions[ranges(self.first_position[rows], self.sizes[rows])]
