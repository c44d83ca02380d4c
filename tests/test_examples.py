"""Examples in docstrings and on the page of the package do what they print."""

import doctest
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from molkit.claims.ledger import REPOSITORY
from molkit.cli import main

WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    for path in (REPOSITORY / "molkit").rglob("*.py")
    if "    >>> " in path.read_text(encoding="utf-8")
)


def test_there_are_examples():
    assert len(WITH_EXAMPLES) >= 6


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module_hold(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0 and found.failed == 0


def test_the_first_round_of_the_package_holds():
    found = doctest.testfile(str(REPOSITORY / "api" / "index.md"), module_relative=False)
    assert found.attempted >= 15 and found.failed == 0


PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "howto.md",
    REPOSITORY / "intro.md",
    *REPOSITORY.glob("chapters/*/*.ipynb"),
]


def commands_of(page: Path) -> Iterator[str]:
    """The commands of molkit on a page: lines of code blocks, and words in backticks that name one whole."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    joined = text.replace("\\\n", " ")
    yield from re.findall(r"^(?:\$ |\.venv/bin/)?molkit (\w.*?)(?:  +#.*)?$", joined, re.MULTILINE)
    yield from re.findall(r"`molkit (\w[^`]*)`", joined)


def unknown_options(line: str) -> list[str]:
    """The options in a command line of molkit that its command does not have."""
    words, command = shlex.split(line.replace("...", ""), comments=True), main
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0].split(".")[0])
        if found is None:
            return [words[0]]
        command, words = found, words[1:]
    known = {"--help", *(name for one in command.params for name in [*one.opts, *one.secondary_opts])}
    return [word for word in words if re.match(r"--?[a-z]", word) and word.split("=")[0] not in known]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_the_commands_on_a_page_have_the_options_they_are_given(page):
    assert {line: odd for line in commands_of(page) if (odd := unknown_options(line))} == {}


def test_a_command_with_an_option_that_is_gone_is_seen():
    assert unknown_options("conformers CCO --mmff --rank xtb --out a.sdf") == ["--mmff"]
    assert unknown_options("studi x") == ["studi"] and unknown_options("study chains --arms a") == []
    assert len([line for page in PAGES for line in commands_of(page)]) > 60
