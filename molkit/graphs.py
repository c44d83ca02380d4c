"""Fully connected molecular graphs over the real atoms of a batch, and sums over molecules."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Atoms to which molecules are padded where a layout needs equal sizes: QM9 then wastes 10 % of its pairs.
WIDTHS = (12, 16, 18, 20, 23, 29)


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A host tensor on the device, without waiting for the work queued there."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def batch_vector(num_atoms: Tensor) -> Tensor:
    """Molecule each atom belongs to, [A], from the number of atoms of each molecule [B]."""
    return torch.repeat_interleave(torch.arange(len(num_atoms), device=num_atoms.device), num_atoms)


def fully_connected(num_atoms: Tensor) -> Tensor:
    """All ordered pairs of different atoms inside each molecule, [2, E], sorted by receiver (row 0).

    E = sum of n (n - 1) over num_atoms [B]. Row 0 receives, row 1 sends.
    """
    degree = (num_atoms - 1).clamp(min=0)
    per_atom = torch.repeat_interleave(degree, num_atoms)  # senders of each atom
    first = torch.repeat_interleave(num_atoms.cumsum(0) - num_atoms, num_atoms)  # first atom of the own molecule
    atoms = torch.arange(len(per_atom), device=num_atoms.device)
    receiver = torch.repeat_interleave(atoms, per_atom)
    starts = per_atom.cumsum(0) - per_atom
    rank = torch.arange(len(receiver), device=num_atoms.device) - starts[receiver]
    sender = first[receiver] + rank
    sender = sender + (sender >= receiver)
    return torch.stack([receiver, sender])


def sum_per_molecule(values: Tensor, batch: Tensor, num_molecules: int) -> Tensor:
    """Sum of values [A, ...] over the atoms of each molecule, [B, ...]; the same bits every time, on GPUs too."""
    out = values.new_zeros((num_molecules, *values.shape[1:]))
    if values.is_cuda and values.is_floating_point():  # index_add adds there in the order in which threads arrive
        return out.index_put((batch,), values, accumulate=True)
    return out.index_add(0, batch, values)


def remove_mean(positions: Tensor, batch: Tensor, num_molecules: int) -> Tensor:
    """Positions [A, 3] with the plain mean of each molecule's atoms at the origin."""
    counts = sum_per_molecule(torch.ones_like(batch), batch, num_molecules).to(positions.dtype).clamp(min=1)
    mean = sum_per_molecule(positions, batch, num_molecules) / counts[:, None]
    return positions - mean[batch]


@dataclass(frozen=True)
class Graph:
    """The complete graphs of a batch: num_atoms [B], batch [A], edge_index [2, E] (row 0 receives)."""

    num_atoms: Tensor
    batch: Tensor
    edge_index: Tensor

    @classmethod
    def from_sizes(cls, num_atoms: Tensor) -> "Graph":
        """Complete graphs of molecules with the given numbers of atoms [B]."""
        return cls(num_atoms, batch_vector(num_atoms), fully_connected(num_atoms))

    @property
    def num_molecules(self) -> int:
        """Number of molecules B."""
        return len(self.num_atoms)

    def sum(self, values: Tensor) -> Tensor:
        """Sum of values [A, ...] over the atoms of each molecule, [B, ...]."""
        return sum_per_molecule(values, self.batch, self.num_molecules)

    def centre(self, positions: Tensor) -> Tensor:
        """Positions [A, 3] with the mean of each molecule removed."""
        return remove_mean(positions, self.batch, self.num_molecules)

    @classmethod
    def without_edges(cls, num_atoms: Tensor, device: torch.device | str) -> "Graph":
        """The molecules alone, made on the device, for a network that knows its pairs; num_atoms [B] on the host."""
        total = int(num_atoms.sum())
        sizes = to_device(num_atoms, device)
        molecules = torch.arange(len(num_atoms), device=device)
        batch = torch.repeat_interleave(molecules, sizes, output_size=total)
        return cls(sizes, batch, torch.empty(2, 0, dtype=torch.long, device=device))

    def to(self, device: torch.device | str) -> "Graph":
        """The same graph on another device."""
        return Graph(self.num_atoms.to(device), self.batch.to(device), self.edge_index.to(device))


def padded_width(num_atoms: Tensor, widths: Sequence[int] = WIDTHS) -> Tensor:
    """Width of the bucket of each molecule, [B]: the smallest of the ascending `widths` that holds num_atoms [B].

    Molecules larger than the last width get the next multiple of 8.
    """
    edges = torch.tensor(widths, device=num_atoms.device)
    inside = edges[torch.bucketize(num_atoms, edges).clamp(max=len(edges) - 1)]
    return torch.where(num_atoms > edges[-1], (num_atoms + 7) // 8 * 8, inside)


def split_by_pairs(num_atoms: Tensor, pair_budget: int) -> list[Tensor]:
    """Rows of molecules, in the given order, in batches of at most `pair_budget` pairs (but one molecule at least)."""
    pairs = (num_atoms * (num_atoms - 1)).tolist()
    groups: list[list[int]] = [[]]
    filled = 0
    for row, cost in enumerate(pairs):
        if groups[-1] and filled + cost > pair_budget:
            groups.append([])
            filled = 0
        groups[-1].append(row)
        filled += cost
    return [torch.tensor(group) for group in groups if group]


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Whether this was raised because a GPU or the host had no memory left; the batch may then be split."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
