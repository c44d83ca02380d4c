"""`molkit study` finds the experiments of the rooms, and gives each the options of its tasks."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click
import pytest
import squares
from click.testing import CliRunner

from molkit.cli import experiment as cli
from molkit.cli import run as molkit
from molkit.experiments import run as running
from molkit.experiments.store import Store


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.setenv("MOLKIT_ROWS_DIR", str(tmp_path / "rows"))
    monkeypatch.setattr(running, "WORK", tmp_path / "work")
    monkeypatch.setattr(cli, "experiments", lambda: {"squares": ("squares", ""), "squares_walk": ("squares", "_walk")})
    monkeypatch.setattr(squares, "tasks_walk", squares.tasks, raising=False)


def test_an_experiment_is_computed_stored_and_audited_by_its_name(tmp_path, capsys):
    assert molkit(["study", "squares", "--numbers", "1, 2"]) == 0
    assert "2 tasks, 2 computed now, 4 rows; fresh" in capsys.readouterr().out
    assert molkit(["study", "squares", "--numbers", "1,2,3", "--recompute", "audit:2"]) == 0
    assert "4 of 4 recomputed rows agree (2 of 2 tasks)" in capsys.readouterr().out
    assert len(Store("squares").read().entries) == 3 and len(Store("squares").read().audits) == 1
    assert molkit(["study", "squares", "--numbers", "1", "--store", str(tmp_path / "other")]) == 0
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["squares.jsonl.gz"]


def test_failures_and_audits_that_disagree_end_with_exit_code_3(monkeypatch, capsys):
    assert molkit(["study", "squares", "--numbers", "1,13"]) == 3
    assert "failed: number=13" in capsys.readouterr().err
    monkeypatch.setenv("SQUARES_WRONG_BY", "2")
    assert molkit(["study", "squares", "--numbers", "1", "--recompute", "audit:1"]) == 3
    assert "the audit disagrees: 0 of 2" in capsys.readouterr().err


def test_mistakes_end_in_one_line(capsys):
    for arguments, words in (
        (["--numbers", "1,x"], "--numbers (with commas) wants a whole number"),
        (["--numbers", "1", "--recompute", "some"], "'missing', 'all' or 'audit:K'"),
        (["--numbers", "1", "--minutes", "0.000001"], "were not begun in time"),
        (["--numbers", ""], "no tasks were asked for"),
    ):
        assert molkit(["study", "squares", *arguments]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert words in error and error.startswith("molkit:")


def test_options_follow_the_signature_of_tasks():
    seen = {}

    def tasks(
        *,
        count: int,
        names: Sequence[str] = ("a", "b"),
        seeds: Sequence[int] = (0,),
        kind: Literal["x", "y"] = "x",
        scale: float = 0.5,
        start: str | None = None,
        fast: bool = False,
    ) -> list:
        """Some tasks."""

    @click.command(params=cli.options_of(tasks))
    def command(**options):
        seen.update(options)

    given = ["--count", "3", "--names", "u, v", "--kind", "y", "--fast"]
    assert CliRunner().invoke(command, given, standalone_mode=False).exception is None
    assert seen == {
        "count": 3, "names": ("u", "v"), "seeds": (0,), "kind": "y", "scale": 0.5, "start": None, "fast": True,
    }  # fmt: skip
    assert "required" in CliRunner().invoke(command, ["--help"]).output
    assert CliRunner().invoke(command, []).exit_code == 2


def test_every_room_with_a_measure_is_listed_without_being_imported(monkeypatch):
    monkeypatch.undo()
    found = cli.experiments()
    for name, (module, end) in found.items():
        assert name == module.rpartition(".")[2] + end
        text = Path(*module.split(".")).with_suffix(".py").read_text()
        assert f"def tasks{end}(" in text and f"def measure{end}(" in text
    assert not [module for module, _ in found.values() if module in sys.modules and "squares" in module]


def test_the_status_page_lists_each_batch_of_an_experiment_with_its_state(monkeypatch):
    from molkit.book import status

    monkeypatch.setattr(status, "rooms", lambda: {"squares": ("tests.experiments.squares", "")})
    assert molkit(["study", "squares", "--numbers", "1,2"]) == 0
    (line,) = [line for line in status.experiments_markdown().splitlines() if line.startswith("| squares")]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[:3] == ["squares", "2", "4"] and ">fresh<" in cells[5]
    assert molkit(["study", "squares", "--numbers", "1,2", "--recompute", "audit:1"]) == 0
    assert "2 of 2 recomputed rows agree (1 of 2 tasks)" in status.experiments_markdown()
