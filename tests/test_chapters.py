"""The committed chapters: canonical, small, readable, and free of absolute paths."""

import re
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


MOST_WORDS = 900  # of the main text of a page, folds and formulas aside


def main_words(chapter: str) -> int:
    """Words of the markdown of a chapter that stand neither in a fold or other fenced block nor in a formula."""
    cells = [cell["source"] for cell in read_notebook(BOOK.source(chapter))["cells"] if cell["cell_type"] == "markdown"]
    plain = [re.sub(r"(?ms)^(`{3,}).*?^\1\s*$|\$\$.*?\$\$", "", text) for text in cells]
    return len([word for word in " ".join(plain).split() if re.search(r"\w", word)])


@pytest.mark.parametrize("chapter", [name for name in BOOK.chapters() if "edm/" in name])
def test_a_page_on_edm_opens_with_its_figure_and_is_read_in_one_sitting(chapter):
    assert main_words(chapter) <= MOST_WORDS
    first = next(cell for cell in read_notebook(BOOK.source(chapter))["cells"][2:] if cell["cell_type"] == "code")
    assert "hide-input" in first["metadata"]["tags"] and " " in first["metadata"]["mystnb"]["image"]["alt"]
