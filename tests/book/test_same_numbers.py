"""The same chapter twice gives the same numbers: the tables of two smoke runs agree cell by cell."""

import json
import re
import tempfile
from pathlib import Path

import pytest

from molkit.book.execute import run_worker
from molkit.book.layout import Book
from molkit.book.parameters import load_profile

BOOK = Book()
QUICK = "edm/likelihood"
TIMED = re.compile(r"\d+(\.\d+)? ?(s|min|h|ms)\b|<td>[\d.]+</td></tr>")  # seconds differ from run to run


def tables_of(chapter: str, folder: Path) -> list[str]:
    """Every ledger table of a fresh smoke run, tags and times removed."""
    settings = load_profile(BOOK, "smoke")[chapter]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        outcome = run_worker(BOOK, chapter, "smoke", settings, Path(scratch))
        assert not outcome["error"], outcome["error"]
        notebook = json.loads((Path(scratch) / "notebook.ipynb").read_text())
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    html = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
    return [TIMED.sub("", text) for text in html if "molkit-ledger" in text or "molkit-table" in text]


def same_twice(chapter: str, folder: Path) -> None:
    first, second = tables_of(chapter, folder), tables_of(chapter, folder)
    assert first and any(re.search(r"\d\.\d", table) for table in first), "there is something to compare"
    assert first == second


def test_a_chapter_gives_the_same_tables_twice(tmp_path):
    same_twice(QUICK, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("chapter", [name for name in BOOK.chapters() if name not in (QUICK, "edm/engine")])
def test_every_chapter_gives_the_same_tables_twice(chapter, tmp_path):
    same_twice(chapter, tmp_path)
