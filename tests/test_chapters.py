"""The committed chapters: canonical, small, readable, and free of absolute paths."""

from pathlib import Path

import pytest

from molkit.book.layout import Book
from molkit.book.notebooks import parameters_cell, problems, read_notebook

BOOK = Book()


@pytest.mark.parametrize("chapter", BOOK.chapters())
def test_a_chapter_is_committed_in_canonical_form(chapter):
    assert problems(BOOK.source(chapter)) == []


@pytest.mark.parametrize("chapter", BOOK.chapters())
def test_a_chapter_annotates_every_parameter(chapter):
    parameters = parameters_cell(BOOK.source(chapter))
    assert parameters and all(kind for kind, _ in parameters.values())


@pytest.mark.parametrize("chapter", BOOK.chapters())
def test_a_chapter_opens_with_its_title_and_names_no_path_of_a_machine(chapter):
    cells = read_notebook(BOOK.source(chapter))["cells"]
    assert cells[0]["cell_type"] == "markdown" and cells[0]["source"].startswith("# ")
    assert str(Path.home()) not in str(cells) and str(BOOK.root) not in str(cells)


def test_every_notebook_below_chapters_is_in_the_table_of_contents():
    folder = BOOK.root / "chapters"
    found = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.ipynb")}
    assert {name for name in found if ".ipynb_checkpoints" not in name} == set(BOOK.chapters())
