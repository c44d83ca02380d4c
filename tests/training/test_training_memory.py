import logging

import pytest
import torch
from training_toys import TINY, random_molecules, run, settings, weights

from molkit.edm.training import EdmTask
from molkit.errors import RunError
from molkit.graphs import is_out_of_memory

FULL = "CUDA out of memory. Tried to allocate 20.00 GiB"


class SmallMemory(EdmTask):
    """A task whose loss does not depend on chance, and that takes at most `room` molecules at once."""

    room = 10**6

    def loss(self, network, rows, *, generator):
        if len(rows) > self.room:
            raise torch.OutOfMemoryError(FULL)
        own = [torch.Generator().manual_seed(int(row)) for row in rows]
        parts = [super(SmallMemory, self).loss(network, r[None], generator=g) for r, g in zip(rows, own, strict=True)]
        return sum(loss for loss, _ in parts) / len(rows), {"noise_error": sum(t["noise_error"] for _, t in parts)}


def train_with(folder, room):
    config = settings(total_steps=2)
    task = SmallMemory(TINY, random_molecules(), config)
    task.room = room
    run(folder, task=task, config=config)
    return weights(folder)


def test_a_batch_too_large_for_memory_is_taken_in_parts_with_the_same_gradient(tmp_path, caplog):
    whole = train_with(tmp_path / "whole", 10**6)
    with caplog.at_level(logging.WARNING):
        parts = train_with(tmp_path / "parts", 2)
    assert "no memory for" in caplog.text
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=2e-6)


def test_a_molecule_that_never_fits_ends_the_run_in_one_line(tmp_path):
    with pytest.raises(RunError, match="no memory for 1 molecules at once; lower batch_pairs"):
        train_with(tmp_path, 0)


def test_another_error_of_pytorch_is_not_taken_for_a_lack_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError(FULL))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
