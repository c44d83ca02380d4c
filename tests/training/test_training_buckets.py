"""Batches of one size bucket, and a training run on them through the dense network."""

import pytest
import torch
from training_toys import TINY, metrics, random_molecules, same_state, settings

from molkit.edm.dense import BucketedEdmNetwork
from molkit.edm.model import build
from molkit.edm.training import EdmTask
from molkit.errors import InvalidInput, RunError
from molkit.graphs import padded_width
from molkit.rng import generator_from
from molkit.training.batches import BucketBatches, batches_for
from molkit.training.loop import Trainer, make_fabric, train

WIDTHS = (4, 6, 9)


def batches(*, processes: int = 1, size: int = 8, count: int = 203) -> BucketBatches:
    """Batches over molecules of 1 to 9 atoms."""
    sizes = torch.randint(1, 10, (count,), generator=torch.Generator().manual_seed(0))
    return BucketBatches(sizes, size, 0, WIDTHS, processes)


@pytest.mark.parametrize("processes", [1, 3])
def test_batches_are_full_and_of_one_width_and_neighbours_share_it(processes):
    made = batches(processes=processes)
    widths = [padded_width(made.num_atoms[rows], WIDTHS).unique().tolist() for rows in made.epoch(0)]
    assert all(len(rows) == 8 for rows in made.epoch(0)) and len(made.epoch(0)) % processes == 0
    assert all(len(found) == 1 for found in widths)
    assert all(widths[k] == widths[k // processes * processes] for k in range(len(widths)))
    assert widths != sorted(widths)


def test_an_epoch_shows_a_molecule_at_most_once_and_leaves_out_few():
    made = batches()
    seen = torch.cat(made.epoch(0))
    assert len(seen.unique()) == len(seen) > len(made.num_atoms) - 8 * len(WIDTHS)
    left_out = set(range(203)) - set(seen.tolist())
    assert left_out - (set(range(203)) - set(torch.cat(made.epoch(1)).tolist()))


def test_epochs_follow_from_the_seed():
    assert all(torch.equal(a, b) for a, b in zip(batches().epoch(3), batches().epoch(3), strict=True))
    assert not torch.equal(batches().epoch(3)[0], batches().epoch(4)[0])


def test_a_bucket_too_small_for_a_batch_is_one():
    made = batches(size=100, count=30)
    assert sorted(torch.cat(made.epoch(0)).tolist()) == list(range(30))
    assert len(made.epoch(0)) == len(made) == 3


def test_the_configuration_chooses_and_is_checked():
    sizes = torch.tensor([3, 4, 8])
    assert isinstance(batches_for(settings(batching="buckets"), sizes), BucketBatches)
    assert not isinstance(batches_for(settings(), sizes), BucketBatches)
    with pytest.raises(InvalidInput, match="bucket_widths must be ascending"):
        settings(bucket_widths=(12, 9))
    with pytest.raises(InvalidInput, match="batch_molecules must be at least 1, got 0"):
        settings(batch_molecules=0)


def dense_run(out, total_steps: int, *, resume: bool = False):
    """A tiny run on buckets through the dense network, as on a GPU but without a compiler."""
    config = settings(batching="buckets", batch_molecules=8, bucket_widths=WIDTHS, decay_fraction=0.0)
    task = EdmTask(TINY, random_molecules(), config)
    network = BucketedEdmNetwork(build(TINY).network, widths=WIDTHS, molecules=8)
    task.planner = network.planner
    return train(
        task,
        network,
        config,
        out=out,
        fabric=make_fabric("cpu"),
        resume=resume,
        total_steps=total_steps,
        progress_bar=False,
    )


def test_a_run_on_buckets_is_continued_bit_for_bit(tmp_path):
    dense_run(tmp_path / "whole", 6)
    dense_run(tmp_path / "cut", 3)
    dense_run(tmp_path / "cut", 6, resume=True)
    assert same_state(tmp_path / "whole", tmp_path / "cut")
    assert len(metrics(tmp_path / "cut")) == 6


def test_the_loss_is_the_readable_networks_and_no_size_is_asked_of_the_device(monkeypatch):
    config = settings()
    task, network = EdmTask(TINY, random_molecules(), config), build(TINY).network
    rows = torch.arange(20)
    plain, _ = task.loss(network, rows, generator=generator_from(1))
    dense = BucketedEdmNetwork(network)
    task.planner = dense.planner
    monkeypatch.setattr(torch, "bincount", None)
    loss, _ = task.loss(make_fabric("cpu").setup(dense), rows, generator=generator_from(1))
    torch.testing.assert_close(loss, plain)


def test_losses_nobody_looked_at_stop_the_run_before_anything_is_saved(tmp_path):
    task = EdmTask(TINY, random_molecules(), settings())
    trainer = Trainer(task, build(TINY).network, settings(), tmp_path, make_fabric("cpu"))
    trainer.unchecked = torch.tensor(float("nan"))
    with pytest.raises(RunError, match="step 0: loss or gradient norm are not finite"):
        trainer.save()
    assert not list(tmp_path.iterdir())
