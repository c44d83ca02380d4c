"""A small book in a folder of its own for each test."""

import shutil
from pathlib import Path

import pytest

from molkit.book.layout import Book

TOY = Path(__file__).parent / "toy"
collect_ignore = ["toy"]  # its chapters are run by these tests, not collected as tests


@pytest.fixture
def toy(tmp_path: Path) -> Book:
    """A copy of the toy book that a test may change."""
    root = tmp_path / "toy"
    shutil.copytree(TOY, root, ignore=shutil.ignore_patterns("__pycache__"))
    return Book(root.resolve(), ("toylab",))
