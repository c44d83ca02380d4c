"""Pages that a build fills: generated lines come from the ledger and the runs, and a wrong name fails the build."""

import json
import re
from base64 import b64encode
from pathlib import Path

import pytest

from molkit.book.status import LEDGER_MARKS, LINE, costs_table, fill_readme, filled, first_figure
from molkit.claims.ledger import REPOSITORY, load_claims
from molkit.claims.table import facts, ledger_rows, listed
from molkit.errors import InvalidInput

PAGES = [REPOSITORY / "intro.md", *sorted((REPOSITORY / "studies").glob("*.md"))]
ROLE = re.compile(r"\{claim\}`([^` ]+)(?: (\w+))?`")


def test_each_study_has_a_page_in_the_contents():
    contents = (REPOSITORY / "_toc.yml").read_text()
    assert len(PAGES) == 5 and all(f"file: studies/{page.stem}\n" in contents for page in PAGES[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_claims_and_facts_that_exist_and_types_no_result(page: Path):
    text, known = page.read_text(), {row.claim.id: facts(row) for row in ledger_rows()}
    asked = dict(LINE.findall(text))
    assert set(asked) == ({"summary", "verdict"} if page.stem == "intro" else {"summary", "claims", "costs", "figure"})
    assert set(asked.get("claims", "").split()) <= set(load_claims())
    assert all((fact or "ours") in known[claim] for claim, fact in ROLE.findall(text)) and len(ROLE.findall(text)) > 1
    assert not re.search(r"\d \[\d|\d %", text), "results come from the ledger"


@pytest.fixture
def chapters(tmp_path):
    """A staged folder with one chapter of one picture."""
    (tmp_path / "chapters").mkdir()
    (tmp_path / "assets").mkdir()
    picture = {"output_type": "display_data", "data": {"image/png": b64encode(b"picture").decode()}, "metadata": {}}
    cells = [
        {"cell_type": "markdown", "source": "# A page\nwords", "metadata": {}},
        {"cell_type": "code", "source": "1", "outputs": [picture], "metadata": {}, "execution_count": 1},
    ]
    (tmp_path / "chapters/one.ipynb").write_text(
        json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    )
    return tmp_path


def test_a_study_shows_the_first_figure_of_a_chapter(chapters):
    shown = first_figure("one", chapters)
    assert (chapters / "assets/one.png").read_bytes() == b"picture"
    assert ":alt: The first figure of the chapter A page" in shown and "(../chapters/one.ipynb)" in shown


def test_generated_lines_say_what_the_ledger_says(chapters):
    rows = ledger_rows()
    own = [row for row in rows if row.claim.id.startswith("edm.")]
    done = filled("% summary: edm\n% verdict: edm.qm9.edm.valid\n% figure: one", rows, [], chapters)
    assert done.startswith(listed(own)) and not LINE.search(done)
    verdict = next(row.verdict.word for row in rows if row.claim.id == "edm.qm9.edm.valid")
    assert f">{verdict}</span> {{claim}}`edm.qm9.edm.valid label`" in done


def test_a_build_fills_the_readme_and_leaves_a_filled_one_as_it_is(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(LEDGER_MARKS.sub(r"\1 old \2", (REPOSITORY / "README.md").read_text()))
    fill_readme(path)
    assert path.read_text().count(f"-->\n{listed(ledger_rows())}\n<!--") == 1 and " old " not in path.read_text()
    before = path.stat().st_mtime_ns
    fill_readme(path)
    fill_readme(tmp_path / "none")
    assert path.stat().st_mtime_ns == before and not (tmp_path / "none").exists()


@pytest.mark.parametrize("line", ["% summary: nobody", "% claims: edm.no.such", "% verdict: edm.no", "% figure: none"])
def test_a_name_that_does_not_exist_is_an_error(line, tmp_path):
    with pytest.raises(InvalidInput, match=line.split(": ")[1]):
        filled(line, ledger_rows(), [], tmp_path)
    assert "No chapter" in costs_table("edm", [])
