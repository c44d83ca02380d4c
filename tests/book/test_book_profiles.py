"""Profiles and parameters: what is wrong is named in one line, and nothing is run."""

import re

import pytest

from molkit.book.layout import Book
from molkit.book.notebooks import code_cells, read_notebook
from molkit.book.parameters import (
    check_here,
    check_parameters,
    load_profile,
    parameters_of,
    read_overrides,
    read_parameters,
    with_overrides,
)
from molkit.cli import run as molkit
from molkit.errors import InvalidInput

BAD_PROFILES = {
    "first:\n  budget_second: 3\n": "unknown key 'budget_second'; known are budget_seconds, parameters",
    "third:\n  budget_seconds: 3\n": "unknown chapter 'third'; the book has first, second",
    "first:\n  parameters: {cout: 3}\n": "first.ipynb has no parameter 'cout'; it has count, scale, label",
    "first:\n  parameters: {count: many}\n": "parameter 'count' of first.ipynb must be int, got 'many' (str)",
    "first:\n  parameters: {count: true}\n": "parameter 'count' of first.ipynb must be int, got True (bool)",
    "first:\n  parameters: {count: 2.5}\n": "parameter 'count' of first.ipynb must be int, got 2.5 (float)",
    "first:\n  budget_seconds: -1\n": "budget_seconds must be a positive number, got -1",
    "first: [1\n": "is not readable as YAML",
    "- first\n": "expected `chapter: settings` pairs, got list",
}


@pytest.mark.parametrize("text", BAD_PROFILES)
def test_a_bad_profile_file_ends_in_one_line_and_runs_nothing(toy, text, capsys):
    path = toy.root / "chapters" / "profiles" / "smoke.yaml"
    path.write_text(text)
    assert molkit(["book", "run", "--profile", "smoke", "--root", str(toy.root)]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"molkit: {path}") and BAD_PROFILES[text] in message and message.count("\n") == 1
    assert not (toy.root / "_run").exists()


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--profile", "quick"], "unknown profile 'quick'; choose one of smoke, fast, paper"),
        (["--chapters", "third"], "no chapter 'third'; the book has first, second"),
        (["-p", "cout=3"], "no chosen chapter has a parameter 'cout'"),
        (["-p", "count=many"], "parameter 'count' of first.ipynb must be int, got 'many' (str)"),
        (["-p", "count"], "a parameter is given as name=value, got 'count'"),
        (["--chapters", "second", "-p", "count=3"], "no chosen chapter has a parameter 'count'"),
    ],
)
def test_a_bad_argument_ends_in_one_line_and_runs_nothing(toy, arguments, expected, capsys):
    assert molkit(["book", "run", "--root", str(toy.root), *arguments]) == 2
    message = capsys.readouterr().err
    assert expected in message and message.count("\n") == 1
    assert not (toy.root / "_run").exists()


def test_a_folder_without_a_book_is_named(tmp_path, capsys):
    assert molkit(["book", "status", "--root", str(tmp_path)]) == 2
    assert "_toc.yml is missing; name the folder of the book with --root" in capsys.readouterr().err


def test_a_broken_notebook_is_named(toy, capsys):
    toy.source("first").write_text("{")
    assert molkit(["book", "run", "--root", str(toy.root)]) == 2
    assert "first.ipynb is not a notebook" in capsys.readouterr().err


def test_values_fit_their_annotations(toy):
    loaded = load_profile(toy, "smoke")
    changed = with_overrides(toy, loaded, read_overrides(["scale=2", "label=b", "seed=7"]))
    assert changed["first"].parameters == {"scale": 2, "label": "b"}
    assert changed["second"].parameters == {"seed": 7}
    with pytest.raises(InvalidInput, match="must be str"):
        with_overrides(toy, loaded, {"label": 3})


@pytest.mark.parametrize("profile", ["smoke", "fast", "paper"])
def test_the_profiles_of_the_book_are_valid(profile):
    settings = load_profile(Book(), profile)
    assert list(settings) == Book().chapters()
    if profile == "smoke":
        assert all(not own.parameters for own in settings.values()), "the parameters cell is the smoke profile"
        assert all(own.budget_seconds <= 60 for own in settings.values())


def test_recompute_is_checked_before_anything_runs(toy, capsys):
    path = toy.source("first")
    path.write_text(path.read_text().replace("label: str", "recompute: str"))
    assert "recompute" in path.read_text()
    assert molkit(["book", "run", "--root", str(toy.root), "-p", "recompute=audit"]) == 2
    message = capsys.readouterr().err
    assert "recompute is 'missing', 'all' or 'audit:K'" in message and message.count("\n") == 1
    assert not (toy.root / "_run").exists()


def in_a_notebook(*cells):
    """The names of a notebook after some cells, as a kernel leaves them."""
    namespace = {"In": ["", *cells]}
    for cell in cells:
        exec(cell, namespace)
    return namespace


CELL = """num_molecules: int = 3  # drawn while the page is made
num_data: int = 5  # behind the data row; 0 for all
alpha: float = 85.0  # bohr^3
grid_level: int = 1  # of PySCF
seed: int = 0
name: str = "edm_qm9"  # published weights
"""


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        ("num_molecules = 0", "'num_molecules' must be a whole number from 1 to 2147483647, got 0"),
        ("num_molecules = 'many'", r"'num_molecules' must be int, got 'many' \(str\)"),
        ("num_molecules = 2.5", "'num_molecules' must be int, got 2.5"),
        ("num_molecules = 10**23", "'num_molecules' must be a whole number from 1"),
        ("num_data = -1", "'num_data' must be a whole number from 0"),
        ("seed = -1", "'seed' must be a whole number from 0"),
        ("grid_level = 10", "'grid_level' must be a whole number from 0 to 9, got 10"),
        ("alpha = float('nan')", "'alpha' must be a finite number, got nan"),
        ("name = 3", "'name' must be str, got 3"),
    ],
)
def test_a_running_chapter_refuses_a_parameter_by_name(injected, message):
    with pytest.raises(InvalidInput, match=message):
        check_here(in_a_notebook(CELL, injected))


def test_a_running_chapter_takes_what_its_parameters_cell_allows():
    check_here(in_a_notebook(CELL))
    check_here(in_a_notebook(CELL, "num_data = 0", "num_molecules = 1000", "seed = 7", "alpha = 80", "grid_level = 0"))


@pytest.mark.parametrize("chapter", Book().chapters())
def test_every_chapter_refuses_words_and_zeros_for_its_numbers_before_it_computes(chapter):
    path = Book().source(chapter)
    cells = code_cells(read_notebook(path))
    assert "check_here(globals())" in cells[1], "the first cell after the parameters checks them"
    before = cells[1].split("check_here(")[0]
    assert not re.sub(r"(from [\w.]+ )?import \w+( as \w+)?(, \w+)*\n|\s", "", before), "nothing is computed before"
    parameters = read_parameters(cells[0])
    assert set(parameters) == set(parameters_of(path))
    for name, parameter in parameters.items():
        if parameter.kind in ("int", "float"):
            with pytest.raises(InvalidInput, match=name):
                check_parameters(path, {name: "many"})
        if parameter.kind == "int":
            with pytest.raises(InvalidInput, match=name):
                check_parameters(path, {name: parameter.low - 1})
