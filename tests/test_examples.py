"""Examples in docstrings and on the page of the package do what they print."""

import doctest
import importlib

import pytest

from molkit.claims.ledger import REPOSITORY

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
