"""Samples in chunks: the same molecules for any number of processes, and finished chunks are not drawn again."""

import numpy as np
import pytest
from edm_toys import assert_same_positions, tiny_config

from molkit.edm import farm
from molkit.edm.model import build, load, save
from molkit.errors import InvalidInput
from molkit.farm.engines import engine


@pytest.fixture()
def weights(tmp_path, monkeypatch):
    monkeypatch.setattr(farm, "CHUNK", 4)
    folder = tmp_path / "run"
    save(build(tiny_config(), seed=3, name="run"), folder)
    return folder


def draw(weights, **options):
    return farm.sample_many(weights, 8, seed=5, num_calls=4, **options)


def test_two_processes_draw_the_molecules_that_one_draws(weights):
    alone = draw(weights)
    with engine(2) as executor:
        together = draw(weights, executor=executor)
    assert np.array_equal(alone.num_atoms, together.num_atoms)
    assert np.array_equal(alone.atomic_numbers, together.atomic_numbers)
    np.testing.assert_allclose(alone.positions, together.positions, atol=1e-6)


def test_finished_chunks_are_read_not_drawn_again(weights, tmp_path, monkeypatch):
    first = draw(weights, folder=tmp_path / "chunks")
    assert len(list((tmp_path / "chunks").glob("*.npz"))) == 2
    monkeypatch.setattr(farm, "draw_chunks", lambda *_: pytest.fail("a finished chunk was drawn again"))
    again = draw(weights, folder=tmp_path / "chunks")
    np.testing.assert_allclose(first.positions, again.positions, atol=3e-4)  # packed at 2.5e-4 angstrom


def test_chunks_drawn_together_are_those_drawn_alone(weights):
    tasks = [farm.SampleTask(str(weights), k, 4, 5, 4, None, None) for k in range(2)]
    together = farm.draw_chunks(load(weights), tasks)
    for task, molecules in zip(tasks, together, strict=True):
        alone = farm.draw_chunks(load(weights), [task])[0]
        assert np.array_equal(alone.atomic_numbers, molecules.atomic_numbers)
        assert_same_positions(alone.positions, molecules.positions)


def test_another_seed_gives_other_molecules(weights):
    other = farm.sample_many(weights, 8, seed=6, num_calls=4)
    same = draw(weights)
    assert other.positions.shape != same.positions.shape or not np.allclose(other.positions, same.positions)


def test_no_molecules_is_an_error_in_one_line(weights):
    with pytest.raises(InvalidInput, match="at least 1"):
        farm.sample_many(weights, 0, seed=0)
