"""Learning rates, the queue of gradient norms, and batches sized by pairs."""

import math

import numpy as np
import pytest
import torch

from molkit.training.batches import PairBatches
from molkit.training.config import NormQueue, TrainConfig, learning_rate


def rates(total: int, **changes) -> list[float]:
    config = TrainConfig(**{"learning_rate": 2.0, "warmup_steps": 10} | changes)
    return [learning_rate(config, step, total) for step in range(total)]


def test_the_rate_rises_linearly_then_falls_along_a_cosine_to_its_last_fraction():
    found = rates(1000, final_fraction=0.1, decay_fraction=1.0)
    cosine = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / 1000)) for step in range(1000)]
    expected = [2.0 * min(1.0, (step + 1) / 10) * cosine[step] for step in range(1000)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[-1] == pytest.approx(0.2, rel=1e-4)


def test_the_rate_is_constant_until_the_decay_begins():
    found = rates(100, decay_fraction=0.3, final_fraction=0.0)
    assert found[10:71] == [2.0] * 61
    assert found[85] == pytest.approx(1.0)
    assert all(before > after for before, after in zip(found[70:-1], found[71:], strict=True))


def test_without_decay_or_without_a_known_end_the_rate_stays():
    assert rates(100, decay_fraction=0.0)[10:] == [2.0] * 90
    config = TrainConfig(learning_rate=2.0, warmup_steps=10)
    assert learning_rate(config, 50_000, 0) == 2.0
    assert learning_rate(config, 0, 0) == pytest.approx(0.2)
    assert learning_rate(TrainConfig(learning_rate=2.0, warmup_steps=0), 0, 0) == 2.0


def test_beyond_its_end_the_rate_is_the_last_one():
    config = TrainConfig(learning_rate=2.0, final_fraction=0.05)
    assert learning_rate(config, 5000, 1000) == pytest.approx(0.1)


def test_the_queue_of_norms_limits_by_mean_and_population_deviation():
    queue = NormQueue()
    assert queue.limit() == pytest.approx(1.5 * 3000.0)
    queue.push(1000.0)
    values = np.array([3000.0, 1000.0])
    assert queue.limit() == pytest.approx(1.5 * values.mean() + 2.0 * values.std(ddof=0))
    assert queue.limit() == pytest.approx(5000.0)


def test_a_large_norm_enters_the_queue_limited():
    queue = NormQueue([1.0, 1.0])
    queue.push(100.0)
    assert list(queue.norms) == [1.0, 1.0, 1.5]


def test_the_queue_remembers_fifty_norms():
    queue = NormQueue()
    for _ in range(49):
        queue.push(2.0)
    assert len(queue.norms) == 50 and queue.norms[0] == 3000.0
    queue.push(2.0)
    assert len(queue.norms) == 50 and queue.limit() == pytest.approx(3.0)


SIZES = torch.randint(3, 30, (500,), generator=torch.Generator().manual_seed(0))


def test_an_epoch_shows_every_molecule_once():
    batches = PairBatches(SIZES, 5000, seed=1)
    rows = torch.cat(batches.epoch(0))
    assert sorted(rows.tolist()) == list(range(500))
    assert rows.tolist() != list(range(500))


def test_batches_hold_about_the_asked_number_of_pairs():
    batches = PairBatches(SIZES, 5000, seed=1)
    pairs = [int((SIZES[rows] * (SIZES[rows] - 1)).sum()) for rows in batches.epoch(3)]
    assert max(pairs) < 5000 + 29 * 28
    assert min(pairs[:-1]) > 5000 - 29 * 28
    assert len(batches) == len(pairs)


def test_epochs_differ_and_follow_from_the_seed():
    order = [torch.cat(PairBatches(SIZES, 5000, seed=seed).epoch(epoch)).tolist() for seed, epoch in
             ((1, 0), (1, 0), (1, 1), (2, 0))]  # fmt: skip
    assert order[0] == order[1]
    assert order[0] != order[2] and order[0] != order[3] and order[2] != order[3]


def test_molecules_larger_than_a_batch_have_one_of_their_own():
    batches = PairBatches(torch.tensor([20, 3, 20, 3, 3]), 50, seed=0).epoch(0)
    assert sorted(torch.cat(batches).tolist()) == [0, 1, 2, 3, 4]
    assert all(len(rows) > 0 for rows in batches)


def test_single_atoms_are_not_lost():
    batches = PairBatches(torch.ones(10, dtype=torch.long), 3, seed=0).epoch(0)
    assert sorted(torch.cat(batches).tolist()) == list(range(10))
    assert max(len(rows) for rows in batches) == 3


def test_random_rotations_turn_the_training_molecules_and_nothing_else():
    """The loss of EDM does not feel them beyond rounding; that of the baseline without symmetry does."""
    from dataclasses import replace

    import torch
    from training_toys import TINY, random_molecules, settings

    from molkit.edm.model import build
    from molkit.edm.training import EdmTask, turned

    task = EdmTask(TINY, random_molecules(), settings())
    clean, graph = task.batch(torch.arange(5))
    half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0])).expand(5, 3, 3)
    moved = turned(clean, graph, half_turn)
    torch.testing.assert_close(moved.positions, clean.positions * torch.tensor([-1.0, -1.0, 1.0]))
    torch.testing.assert_close(moved.features, clean.features)

    def losses(config):
        network = build(config, seed=1).network
        found = []
        for rotations in (False, True):
            toy = EdmTask(config, random_molecules(), settings(random_rotations=rotations))
            loss, _ = toy.loss(network, torch.arange(20), generator=torch.Generator().manual_seed(0))
            found.append(float(loss.detach()))
        return found

    plain, rotated = losses(replace(TINY, architecture="gdm"))
    assert plain != rotated
