"""Batches sized by pairs or by buckets: what a step sees follows from the seed, the epoch and the step alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from molkit.graphs import padded_width
from molkit.rng import generator_from
from molkit.training.config import TrainConfig


class Batches(Protocol):
    """Rows of the molecules of every step."""

    def epoch(self, epoch: int) -> list[Tensor]:
        """Rows of every batch of one epoch."""

    def __len__(self) -> int:
        """Batches in an epoch, nearly."""


def batches_for(config: TrainConfig, num_atoms: Tensor, *, processes: int = 1) -> Batches:
    """The batches that a configuration asks for, over molecules of num_atoms [N] atoms."""
    if config.batching == "pairs":
        return PairBatches(num_atoms, config.batch_pairs, config.seed)
    return BucketBatches(num_atoms, config.batch_molecules, config.seed, config.bucket_widths, processes)


@dataclass(frozen=True)
class PairBatches:
    """Shuffled batches of about `batch_pairs` ordered pairs over molecules of num_atoms [N] atoms."""

    num_atoms: Tensor
    batch_pairs: int
    seed: int

    def epoch(self, epoch: int) -> list[Tensor]:
        """Rows of every batch of one epoch; each molecule appears once."""
        order = torch.randperm(len(self.num_atoms), generator=generator_from("epoch", self.seed, epoch))
        sizes = self.num_atoms[order]
        ends = (sizes * (sizes - 1)).clamp(min=1).cumsum(0)
        batch = (ends - 1) // self.batch_pairs
        cuts = torch.nonzero(batch[1:] != batch[:-1]).flatten() + 1
        return list(torch.tensor_split(order, cuts.tolist()))

    def __len__(self) -> int:
        pairs = (self.num_atoms * (self.num_atoms - 1)).clamp(min=1).sum()
        return int(-(-pairs // self.batch_pairs))


@dataclass(frozen=True)
class BucketBatches:
    """Batches of `batch_molecules` molecules that share a bucket width, in random order; for networks on dense buckets.

    Every step then is one dense call of one of len(widths) shapes: six programs to compile, no padded molecules, and
    on QM9 1.17 times the pairs that count. A batch across all sizes would be six calls of a sixth of the work each,
    in up to 24 shapes. Equally many molecules in each batch, not equally many pairs, give every molecule the same
    weight in the loss. `processes` batches that follow each other share a width, so that no process waits.

    What is left of a bucket after full batches waits for another epoch; a bucket too small for one is a batch itself.
    """

    num_atoms: Tensor
    batch_molecules: int
    seed: int
    widths: Sequence[int]
    processes: int = 1

    def epoch(self, epoch: int) -> list[Tensor]:
        """Rows of every batch of one epoch; each molecule appears at most once."""
        generator = generator_from("bucket epoch", self.seed, epoch)
        order = torch.randperm(len(self.num_atoms), generator=generator)
        own = padded_width(self.num_atoms, self.widths)[order]
        groups = [group for width in own.unique().tolist() for group in self.groups(order[own == width])]
        mixed = torch.randperm(len(groups), generator=generator).tolist()
        return [batch for k in mixed for batch in groups[k]]

    def groups(self, rows: Tensor) -> list[list[Tensor]]:
        """The shuffled molecules of one bucket in groups of `processes` batches."""
        together = self.batch_molecules * self.processes
        full = len(rows) // together
        if full:
            return [list(group.split(self.batch_molecules)) for group in rows[: full * together].split(together)]
        return [list(rows.tensor_split(self.processes))] if len(rows) >= self.processes else []

    def __len__(self) -> int:
        return len(self.epoch(0))
