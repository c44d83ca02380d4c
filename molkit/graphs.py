"""Fully connected molecular graphs over the real atoms of a batch, and sums over molecules."""

import torch
from torch import Tensor


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
    """Sum of values [A, ...] over the atoms of each molecule, [B, ...]."""
    out = values.new_zeros((num_molecules, *values.shape[1:]))
    return out.index_add(0, batch, values)


def remove_mean(positions: Tensor, batch: Tensor, num_molecules: int) -> Tensor:
    """Positions [A, 3] with the plain mean of each molecule's atoms at the origin."""
    counts = torch.bincount(batch, minlength=num_molecules).to(positions.dtype).clamp(min=1)
    mean = sum_per_molecule(positions, batch, num_molecules) / counts[:, None]
    return positions - mean[batch]
