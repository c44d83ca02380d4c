"""The extended graph: pairs of atoms one, two or three bonds apart, each with a type and one distance."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from molkit.errors import InvalidInput
from molkit.graphs import batch_vector, sum_per_molecule

MAX_HOPS = 3
HOP_TYPES = {2: 23, 3: 24}  # types of pairs without a bond; bonded pairs carry RDKit's number of the bond type
MAX_BOND_TYPE = 22


@dataclass(frozen=True, eq=False)
class ExtendedGraph:
    """The extended graph of one molecule, one entry per unordered pair.

    pairs [2, P] with pairs[0] < pairs[1], sorted; types [P]; hops [P] in 1..3, the shortest path between the atoms.
    """

    atomic_numbers: np.ndarray
    pairs: np.ndarray
    types: np.ndarray
    hops: np.ndarray

    @property
    def num_atoms(self) -> int:
        """Number of atoms A."""
        return len(self.atomic_numbers)

    @property
    def num_pairs(self) -> int:
        """Number of unordered pairs P."""
        return self.pairs.shape[1]


def extended_graph(atomic_numbers: np.ndarray, bonds: np.ndarray) -> ExtendedGraph:
    """The extended graph of atoms [A] and bonds [K, 3] (atom, atom, RDKit's number of the bond type).

    A pair joined by several routes counts by the shortest; pairs more than three bonds apart, or in different
    fragments, have no entry. Raises InvalidInput for an atom or a bond type that cannot be.
    Source: CGCF reference code, graph extension (hops 2 and 3 become the types 23 and 24).
    """
    num_atoms = len(atomic_numbers)
    bonds = np.asarray(bonds, dtype=np.int64).reshape(-1, 3)
    if len(bonds) and not (bonds[:, :2].min() >= 0 and bonds[:, :2].max() < num_atoms):
        raise InvalidInput(f"bonds name atoms {bonds[:, :2].min()}..{bonds[:, :2].max()}, there are {num_atoms}")
    if len(bonds) and not (bonds[:, 2].min() >= 1 and bonds[:, 2].max() < MAX_BOND_TYPE):
        raise InvalidInput(f"bond types must be RDKit's numbers 1..{MAX_BOND_TYPE - 1}, got {bonds[:, 2].tolist()}")
    types = np.zeros((num_atoms, num_atoms), dtype=np.int64)
    types[bonds[:, 0], bonds[:, 1]] = types[bonds[:, 1], bonds[:, 0]] = bonds[:, 2]
    hops = _shortest_paths(types > 0)
    first, second = np.nonzero(np.triu(hops, 1))
    near = hops[first, second]
    found = np.where(near == 1, types[first, second], np.where(near == 2, HOP_TYPES[2], HOP_TYPES[3]))
    return ExtendedGraph(np.asarray(atomic_numbers, dtype=np.int64), np.stack([first, second]), found, near)


def _shortest_paths(bonded: np.ndarray) -> np.ndarray:
    """Number of bonds between atoms [A, A] where it is at most MAX_HOPS, else 0."""
    step = bonded.astype(np.int64) + np.eye(len(bonded), dtype=np.int64)
    reached, hops = np.eye(len(bonded), dtype=bool), np.zeros(bonded.shape, dtype=np.int64)
    for hop in range(1, MAX_HOPS + 1):
        further = (reached.astype(np.int64) @ step) > 0
        hops[further & ~reached] = hop
        reached = further
    return hops


@dataclass(frozen=True, eq=False)
class PairGraph:
    """Extended graphs of a batch of B molecules, atoms and pairs counted through.

    atomic_numbers [A], num_atoms [B], pairs [2, P], types [P], hops [P], num_pairs [B]. One distance of a pair
    serves both directions.
    """

    atomic_numbers: Tensor
    num_atoms: Tensor
    pairs: Tensor
    types: Tensor
    hops: Tensor
    num_pairs: Tensor

    @property
    def num_molecules(self) -> int:
        """Number of molecules B."""
        return len(self.num_atoms)

    @cached_property
    def batch(self) -> Tensor:
        """Molecule of each atom, [A]."""
        return batch_vector(self.num_atoms)

    @cached_property
    def pair_batch(self) -> Tensor:
        """Molecule of each pair, [P]."""
        return batch_vector(self.num_pairs)

    @cached_property
    def place_in_molecule(self) -> Tensor:
        """Number of each pair among those of its molecule, [P]."""
        return torch.arange(self.pairs.shape[1]) - (self.num_pairs.cumsum(0) - self.num_pairs)[self.pair_batch]

    @cached_property
    def routes(self) -> tuple[Tensor, Tensor]:
        """Sending and receiving atoms of all messages: the pairs, then the pairs turned round."""
        return self.pairs.flatten(), self.pairs.flip(0).flatten()

    def sum_pairs(self, values: Tensor) -> Tensor:
        """Sum of values [P] over the pairs of each molecule, [B]."""
        return sum_per_molecule(values, self.pair_batch, self.num_molecules)

    def distances(self, positions: Tensor) -> Tensor:
        """Distances [..., P] of the pairs at positions [..., A, 3]."""
        gap = positions.index_select(-2, self.pairs[0]) - positions.index_select(-2, self.pairs[1])
        return gap.square().sum(-1).clamp(min=1e-12).sqrt()

    def repeat(self, count: int) -> "PairGraph":
        """The whole batch `count` times over."""
        shift = len(self.atomic_numbers) * torch.arange(count).repeat_interleave(self.pairs.shape[1])
        plain = ("atomic_numbers", "num_atoms", "types", "hops", "num_pairs")
        return replace(
            self,
            pairs=self.pairs.repeat(1, count) + shift,
            **{name: getattr(self, name).repeat(count) for name in plain},
        )


def collate(graphs: Sequence[ExtendedGraph]) -> PairGraph:
    """The batch of some extended graphs. Raises InvalidInput for none at all."""
    if not graphs:
        raise InvalidInput("a batch of extended graphs needs at least one molecule, got none")
    num_atoms = np.array([graph.num_atoms for graph in graphs])
    starts = np.cumsum(num_atoms) - num_atoms
    pairs = [graph.pairs + start for graph, start in zip(graphs, starts, strict=True)]
    return PairGraph(
        torch.from_numpy(np.concatenate([graph.atomic_numbers for graph in graphs])),
        torch.from_numpy(num_atoms),
        torch.from_numpy(np.concatenate(pairs, axis=1)),
        torch.from_numpy(np.concatenate([graph.types for graph in graphs])),
        torch.from_numpy(np.concatenate([graph.hops for graph in graphs])),
        torch.tensor([graph.num_pairs for graph in graphs]),
    )
