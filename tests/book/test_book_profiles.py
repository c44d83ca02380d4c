"""Profiles and parameters: what is wrong is named in one line, and nothing is run."""

import pytest

from molkit.book.layout import Book
from molkit.book.profiles import load_profile, read_overrides, with_overrides
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
