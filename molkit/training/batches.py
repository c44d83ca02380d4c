"""Batches sized by pairs: which molecules a step sees follows from the seed, the epoch and the step alone."""

from dataclasses import dataclass

import torch
from torch import Tensor

from molkit.rng import generator_from


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
