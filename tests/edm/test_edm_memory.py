import logging
from dataclasses import replace

import pytest
import torch
from edm_toys import assert_same_positions
from torch import nn

from molkit.edm.config import EdmConfig
from molkit.edm.model import build
from molkit.edm.sampling import sample
from molkit.errors import RunError

SIZES = torch.tensor([3, 5, 4, 6, 3])


class SmallMemory(nn.Module):
    """A network that runs out of memory above so many atoms, at its third call."""

    def __init__(self, network, most_atoms):
        super().__init__()
        self.network, self.most_atoms, self.calls = network, most_atoms, 0

    def forward(self, features, *rest):
        self.calls += 1
        if len(features) > self.most_atoms and self.calls % 3 == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.network(features, *rest)


def draw(most_atoms):
    edm = build(EdmConfig(width=16, num_layers=1))
    edm = replace(edm, network=SmallMemory(edm.network, most_atoms))
    return sample(edm, SIZES, generator=torch.Generator().manual_seed(3), num_calls=6)


def test_chains_too_many_for_memory_are_taken_in_smaller_batches_and_come_out_the_same(caplog):
    whole = draw(10**6)
    with caplog.at_level(logging.WARNING):
        parts = draw(8)
    assert "no memory for" in caplog.text
    assert [m.num_atoms for m in parts.molecules] == SIZES.tolist()
    assert_same_positions(parts.molecules.positions, whole.molecules.positions)


def test_one_molecule_too_large_for_memory_ends_in_one_line():
    with pytest.raises(RunError, match="no memory for a single molecule"):
        draw(2)
