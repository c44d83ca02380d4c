"""What people see of the ledger: notebook table, page and badge."""

import math
import re
import xml.etree.ElementTree as ElementTree
from html import escape

import pytest

from molkit.claims.ledger import load_claims
from molkit.claims.store import record
from molkit.claims.table import badge_svg, count_verdicts, ledger_markdown, ledger_rows, ledger_text, summary, table
from molkit.claims.verdicts import NOT_ATTEMPTED, rule_text
from molkit.errors import InvalidInput

CLAIM = "edm.qm9.gschnet.molecule_stable"


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty results folder."""
    monkeypatch.setenv("MOLKIT_RESULTS_DIR", str(tmp_path))
    return tmp_path


def put(value: float = 68.05, *, profile: str = "fast", n: int = 10_000):
    return record(
        CLAIM,
        value,
        interval=(value - 0.9, value + 0.9),
        interval_kind="Wilson 95 %",
        n=n,
        counts="molecules",
        basis="published_samples",
        seconds=3.2,
        source_files=["molkit/units.py"],
        profile=profile,
    )


def test_a_row_shows_published_ours_with_interval_n_profile_verdict_and_cost(results):
    put()
    text = repr(table([CLAIM]))
    for part in ("68.1 %", "68.0 [67.1, 69.0] %", "10,000 molecules", "fast", "reproduced", "3.2 s, cpu"):
        assert part in text


def test_the_notebook_table_is_well_formed_html(results):
    put()
    root = ElementTree.fromstring(table("edm.qm9.gschnet")._repr_html_())
    assert len(root.findall(".//tbody/tr")) == 4
    assert [head.text for head in root.findall(".//th")] == ["Claim", "Published", "Ours", "Verdict", "Cost"]


def test_a_smoke_result_stands_beside_the_recorded_one_without_a_verdict(results):
    put()
    shown = table([CLAIM], [put(50.0, profile="smoke", n=64)])
    columns, [line] = shown.cells()
    assert "This run (no verdict)" in columns and "Recorded" in columns
    assert "50.0 [49.1, 50.9] % (n = 64 molecules)" in line
    assert line[columns.index("Verdict")] == "reproduced"
    assert shown.rows[0].measurement.value == 68.05


def test_a_smoke_result_alone_leaves_the_claim_not_attempted(results):
    columns, [line] = table([CLAIM], [put(68.1, profile="smoke")]).cells()
    assert line[columns.index("Verdict")] == "not attempted (no result recorded yet)"


def test_a_kept_result_needs_no_second_column(results):
    assert "This run" not in repr(table([CLAIM], [put()]))


def test_the_page_holds_every_claim_and_the_counts_add_up(results):
    put()
    rows = ledger_rows()
    page = ledger_markdown(rows)
    counts = count_verdicts(rows)
    assert page.startswith("# Ledger of claims\n")
    assert sum(number for word, number in counts.items() if word != "stale") == len(load_claims()) == len(rows)
    assert re.findall(r'<tr id="(.*?)"', page).count(CLAIM) == 1 and page.count("<tr id=") == len(rows)
    assert '<td style="text-align:left;vertical-align:top">unverified</td>' in page and "accepted if" in page
    assert "\n\n" not in page[page.index("<table") : page.index("</table>")], "a blank line would end the HTML block"


def test_the_page_goes_by_verdict_and_study_and_folds_what_nobody_tried_by_reason(results):
    put()
    page = ledger_markdown()
    heads = re.findall("^##+ (.*)$", page, re.M)
    assert heads[:3] == ["Reproduced", "EDM", "Consistent at reduced scale"] and heads[-1].startswith("Diffusion")
    row = re.search(f'<tr id="{CLAIM}" data-study="EDM" data-verdict="reproduced">', page)
    assert page.index("## Reproduced") < row.start() < page.index("## Consistent")
    assert "How this number was made" in page[row.end() : page.index("</tr>", row.end())]
    geom = [line for line in page.splitlines() if line.startswith("<details") and "GEOM does not come" in line]
    geom = [line for line in geom if "set behind the table" not in line]
    assert len(geom) == 1 and "104 claims" in geom[0] and "read_geom_ensembles(FILE)</code>" in geom[0]


def test_a_terminal_of_100_columns_shows_the_groups_of_the_page(results):
    put()
    rows = ledger_rows()
    lines = ledger_text(rows).splitlines()
    assert max(map(len, lines)) <= 100
    groups = dict(re.findall(r"^([A-Z ]+) \((\d+)\)$", "\n".join(lines), re.M))
    assert groups == {"REPRODUCED": "1", "NOT ATTEMPTED": f"{len(rows) - 1}"}
    assert "  G-SchNet, molecules stable                      68.1 %           68.0 [67.1, 69.0] %" in lines
    counted = sum(int(n) for n in re.findall(r"^  (\d+) claims?: ", "\n".join(lines), re.M))
    assert counted == len(rows) - 1 == sum(row.verdict.word == NOT_ATTEMPTED for row in rows)
    every = ledger_text(rows, every=True)
    assert all(any(row.claim.label[:30] in line for line in every.splitlines()) for row in rows)


def test_the_summary_counts_all_claims_and_those_of_each_study(results):
    put()
    total, *studies = summary(ledger_rows())
    assert f"**All**, {len(load_claims())} claims: 1 reproduced and 0 consistent at reduced" in total
    assert len(studies) == 4 and "1 reproduced and" in studies[0] and studies[0].startswith("**EDM**")
    assert sum(int(re.search(r"(\d+) claims", line)[1]) for line in studies) == len(load_claims())


def test_the_page_shows_the_notes_of_the_claims(results):
    claim = load_claims()["mofdft.ethanol.energy"]
    assert "that says nothing of the functional" in claim.note
    assert f"<dt>Note</dt><dd>{escape(claim.note)}</dd>" in ledger_markdown()


def test_a_claim_judged_by_another_result_shares_it(results):
    rows = {row.claim.id: row for row in ledger_rows()}
    assert rows["edm.words.more_stable_than_enf"].measurement is rows["edm.qm9.edm.molecule_stable"].measurement


def test_an_order_between_two_results_shows_their_difference_and_not_the_winner(results):
    ours, other = "edm.order.augmentation.atom_stable", "edm.qm9.gdm.atom_stable"
    common = {"n": 3000, "counts": "molecules", "basis": "trained_here", "seconds": 1.0, "profile": "fast"}
    common |= {"interval_kind": "3 trainings", "source_files": ["molkit/units.py"]}
    record(ours, 20.0, interval=(17.0, 23.0), **common)
    alone = next(row for row in ledger_rows() if row.claim.id == ours)
    assert alone.ours == "–" and alone.verdict.reason == f"needs our own result for {other}"
    record(other, 24.0, interval=(20.0, 28.0), **common)
    row = next(row for row in ledger_rows() if row.claim.id == ours)
    assert row.ours == "−4.0 [−9.0, 1.0] points against GDM, atoms stable"  # 3 and 4 in quadrature
    assert row.verdict.word == "undecided" and row.ours in table([ours])._repr_html_().replace("\u00a0", " ")


def test_one_item_has_no_interval_to_show(results):
    kept = {"interval": (math.nan, math.nan), "interval_kind": "bootstrap over molecules, 95 %"}
    found = record(CLAIM, 100.0, n=1, counts="molecules", basis="published_samples", seconds=1.0, **kept)
    assert found.interval is None
    _, [line] = table([CLAIM], [found]).cells()
    assert "100.0 % (n = 1 molecules, no interval)" in line


def test_the_rule_is_said_in_words():
    claims = load_claims()
    assert rule_text(claims["edm.qm9.edm.molecule_stable"]) == "accepted if at least 80.9 %, n at least 1,000"
    assert rule_text(claims["edm.model.num_parameters"]) == "accepted if equal to it"
    order = "accepted if higher than edm.qm9.gdm.atom_stable, intervals apart, n at least 1,000"
    assert rule_text(claims["edm.order.augmentation.atom_stable"]) == order


def test_the_badge_is_a_picture_whose_text_alternative_gives_the_counts(results):
    put()
    root = ElementTree.fromstring(badge_svg())
    title = root.find("{http://www.w3.org/2000/svg}title").text
    numbers = [int(number) for number in re.findall(r"\d+", title)]
    assert numbers[0] == 1 and sum(numbers) == len(load_claims())
    assert root.attrib["aria-label"] == title


def test_an_unknown_prefix_is_refused(results):
    with pytest.raises(InvalidInput, match="no claim begins with"):
        table("edm.nothing")
