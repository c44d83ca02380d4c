"""Samples in parts: the same molecules for any number of processes, and finished parts are not drawn again."""

from functools import partial

import numpy as np
import pytest
from edm_toys import assert_same_positions, tiny_config

from molkit.cli import run
from molkit.edm import farm
from molkit.edm.model import build, save
from molkit.errors import InvalidInput
from molkit.farm.engines import engine


@pytest.fixture()
def weights(tmp_path, monkeypatch):
    monkeypatch.setattr(farm, "CHUNK", 4)
    monkeypatch.setattr(farm, "PART", 2)
    folder = tmp_path / "run"
    save(build(tiny_config(), seed=3, name="run"), folder)
    return folder


def draw(weights, **options):
    return farm.sample_many(weights, 8, seed=5, num_calls=4, **options)


def test_two_processes_draw_the_molecules_that_one_draws(weights):
    alone = draw(weights)
    with engine(2) as executor:
        together = draw(weights, executor=executor)
    for name in farm.MEMBERS:
        assert np.array_equal(getattr(alone, name), getattr(together, name))


def test_what_is_read_back_is_bit_for_bit_what_was_made_and_not_drawn_again(weights, tmp_path, monkeypatch):
    without = draw(weights)
    first = draw(weights, folder=tmp_path / "parts")
    assert len(list((tmp_path / "parts" / "results").glob("*.npz"))) == 4
    monkeypatch.setattr(farm, "draw", lambda *_: pytest.fail("a finished part was drawn again"))
    again = draw(weights, folder=tmp_path / "parts")
    for name in farm.MEMBERS:
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes() == getattr(without, name).tobytes()


def test_a_folder_knows_everything_that_its_molecules_depend_on(weights, tmp_path):
    keep = tmp_path / "parts"
    draw(weights, folder=keep)
    same = {"seed": 5, "num_calls": 4, "folder": keep}
    others = {"seed": 6}, {"num_calls": 5}, {"sampler": "ddim"}, {"num_atoms": 9}, {"shared_path": True}
    for other in others:
        (name,) = other
        with pytest.raises(InvalidInput, match=f"made with another '{name}'"):
            farm.sample_many(weights, 8, **same | other)
    save(build(tiny_config(), seed=4, name="run"), weights)
    with pytest.raises(InvalidInput, match="made with another 'weights' .run .*, now run .*choose another folder"):
        farm.sample_many(weights, 8, **same)


def test_the_precision_is_chosen_once_for_a_folder(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(farm, "gains_from_bfloat16", lambda: False)
    draw(weights, folder=tmp_path / "parts")
    monkeypatch.setattr(farm, "gains_from_bfloat16", lambda: True)
    request = farm.request_of(weights, seed=5)
    assert farm.settled(request, tmp_path / "parts").precision == "float32"
    assert farm.settled(request, None).precision == "bfloat16"


def test_parts_drawn_together_are_those_drawn_alone(weights):
    request = farm.settled(farm.request_of(weights, seed=5, num_calls=4), None)
    parts = [part for task in farm.parts_of(8).values() for part in task]
    together = farm.draw(request, parts)
    alone = [farm.draw(request, [part]) for part in parts]
    assert np.array_equal(together["atomic_numbers"], np.concatenate([one["atomic_numbers"] for one in alone]))
    assert_same_positions(together["positions"], np.concatenate([one["positions"] for one in alone]))


def test_on_a_gpu_a_task_is_many_chunks_and_the_molecules_are_as_many(monkeypatch):
    for device, count in (("cpu", 21), ("cuda", 2)):
        tasks = farm.parts_of(1020 if device == "cpu" else 4100, device=device)
        rows = [part.last - part.first for parts in tasks.values() for part in parts]
        assert len(tasks) == count and sum(rows) == (1020 if device == "cpu" else 4100)


def test_another_seed_gives_other_molecules(weights):
    other = farm.sample_many(weights, 8, seed=6, num_calls=4)
    same = draw(weights)
    assert other.positions.shape != same.positions.shape or not np.allclose(other.positions, same.positions)


def test_no_molecules_and_sizes_nobody_trained_are_errors_in_one_line(weights):
    with pytest.raises(InvalidInput, match="at least 1"):
        farm.sample_many(weights, 0, seed=0)
    with pytest.raises(
        InvalidInput, match="300 atoms in all: a size that the model's training histogram does not hold"
    ):
        farm.sample_many(weights, 1, seed=0, num_atoms=300)


def failing(original, request, parts):
    if parts[0].first:
        raise InvalidInput("this part is lost")
    return original(request, parts)


def test_the_command_writes_what_could_be_drawn_and_tries_the_rest_again_when_asked(
    weights, tmp_path, monkeypatch, capsys
):
    out, options = tmp_path / "out.xyz", ["--count", "8", "--calls", "4", "--keep", str(tmp_path / "keep")]
    command = ["sample", str(weights), *options, "--out", str(out)]
    original = farm.draw
    monkeypatch.setattr(farm, "draw", partial(failing, original))
    assert run(command) == 3
    said = capsys.readouterr()
    assert "left out, molecules 3 to 4: this part is lost" in said.err and "4 of 8" in said.err
    assert out.read_text().count("\n0\n") == 0 and len([1 for _ in out.open() if _.strip().isdigit()]) == 4
    monkeypatch.setattr(farm, "draw", original)
    assert run(command) == 3 and run([*command, "--retry"]) == 0
    assert len([1 for line in out.open() if line.strip().isdigit()]) == 8
    assert run(["sample", str(weights), *options[:4], "--retry", "--out", str(out)]) == 2
    assert "give --keep" in capsys.readouterr().err
