"""Pages that open a study: generated lines come from the ledger and the runs, and a wrong name fails the build."""

import re
from pathlib import Path

import pytest

from molkit.book.status import LINE, claims_table, costs_table, filled, verdicts_sentence
from molkit.claims.ledger import REPOSITORY, load_claims
from molkit.claims.table import ledger_rows
from molkit.errors import InvalidInput

PAGES = sorted((REPOSITORY / "studies").glob("*.md"))


def test_each_study_has_a_page_in_the_contents():
    contents = (REPOSITORY / "_toc.yml").read_text()
    assert len(PAGES) == 4 and all(f"file: studies/{page.stem}\n" in contents for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_claims_that_exist_and_every_kind_of_line(page: Path):
    text = page.read_text()
    asked = dict(LINE.findall(text))
    assert set(asked) == {"verdicts", "claims", "costs"}
    assert set(asked["claims"].split()) <= set(load_claims())
    assert (REPOSITORY / "chapters" / asked["costs"]).is_dir()
    done = filled(text, ledger_rows(), [])
    assert not LINE.search(done) and "claims about the paper" in done


def test_the_counts_are_those_of_the_study():
    rows = ledger_rows()
    sentence = verdicts_sentence("edm", rows)
    listed = [int(number) for number in re.findall(r"(\d+) (?=[a-z])", sentence.split(":")[1])]
    own = sum(row.claim.id.startswith("edm.") for row in rows)
    assert sum(listed) == own and f"Of {own} claims" in sentence


def test_a_name_that_does_not_exist_is_an_error():
    with pytest.raises(InvalidInput, match="nobody"):
        verdicts_sentence("nobody", [])
    with pytest.raises(InvalidInput, match="edm.no.such"):
        claims_table(["edm.no.such"])
    assert "No chapter" in costs_table("edm", [])
