"""Chapters with many seeds: each once, failures named, results joined, the same through any executor."""

import json

import pytest

from molkit.book.grid import cells, run_cell, run_grid, spreads
from molkit.book.parameters import Settings
from molkit.cli import run as molkit
from molkit.errors import CalculationFailed, InvalidInput
from molkit.farm.engines import engine

RECORD = """
import json, os, random
from pathlib import Path
folder = Path(os.environ["MOLKIT_RESULTS_DIR"])
random.seed(seed)
folder.joinpath("toy.claim.json").write_text(json.dumps({"claim_id": "toy.claim", "value": random.random()}))
if seed == 3:
    raise ValueError("the third seed fails")
"""


@pytest.fixture
def seeded(toy):
    """The toy book, whose first chapter has a seed and records a value that follows from it."""
    path = toy.source("first")
    notebook = json.loads(path.read_text())
    notebook["cells"] = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"][:1]
    parts = (("seed: int = 0\ncount: int = 1", ["parameters"]), (RECORD, []))
    notebook["cells"] += [
        {"cell_type": "code", "id": f"c{k}", "execution_count": None, "outputs": [], "source": text,
         "metadata": {"tags": tags}}
        for k, (text, tags) in enumerate(parts)
    ]  # fmt: skip
    path.write_text(json.dumps(notebook))
    return toy


def grid_of(book, folder, seeds, profile="fast"):
    return cells(book, profile, {"first": Settings({}, 30.0)}, seeds, folder)


def test_a_grid_runs_each_seed_once_and_joins_what_they_recorded(seeded, tmp_path):
    folder = tmp_path / "grid"
    with engine(2) as executor:
        report = run_grid(grid_of(seeded, folder, (0, 1)), folder, executor=executor)
    assert len(report.done) == 2 and not report.failed
    (spread,) = spreads(report)
    assert spread.claim_id == "toy.claim" and len(set(spread.values)) == 2 and spread.deviation > 0.0
    notebooks = sorted(path.name for path in (folder / "notebooks").iterdir())
    assert notebooks == ["first_fast_seed0.ipynb", "first_fast_seed1.ipynb"]
    alone = run_cell(grid_of(seeded, tmp_path / "alone", (1,))["first_fast_seed1"])
    assert alone["values"].tolist() == [spread.values[1]]


def test_a_seed_that_fails_is_named_and_its_partial_notebook_kept(seeded, tmp_path, capsys):
    arguments = ["--chapters", "first", "--seeds", "0,3", "--out", str(tmp_path / "grid")]
    code = molkit(["book", "grid", *arguments, "--root", str(seeded.root), "--package", "toylab"])
    printed = capsys.readouterr()
    assert code == 3 and "the third seed fails" in printed.err and "1 of 2 runs" in printed.out
    assert "toy.claim" in printed.out and "(n = 1)" in printed.out
    assert (tmp_path / "grid" / "notebooks" / "first_fast_seed3.ipynb").is_file()
    with pytest.raises(CalculationFailed, match="third seed"):
        run_cell(grid_of(seeded, tmp_path / "alone", (3,))["first_fast_seed3"])


def test_a_chapter_without_a_seed_is_refused(toy, tmp_path):
    with pytest.raises(InvalidInput, match="seed"):
        cells(toy, "fast", {"first": Settings({}, 30.0)}, (0,), tmp_path)


def test_seeds_are_whole_numbers(seeded, tmp_path, capsys):
    arguments = ["--seeds", "0,one", "--out", str(tmp_path / "grid"), "--root", str(seeded.root)]
    assert molkit(["book", "grid", *arguments]) == 2
    assert "--seeds (whole numbers with commas) wants a whole number" in capsys.readouterr().err
