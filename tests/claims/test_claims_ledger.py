"""Reading claims: strict, and no number where the source is unverified."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from molkit.claims.ledger import (
    CLAIMS_FOLDER,
    REPOSITORY,
    Claim,
    Rule,
    find,
    load_claims,
    named_in_rules,
    select,
    study_of,
)
from molkit.claims.verdicts import published_text
from molkit.errors import DataNotFound, InvalidInput

GOOD = """
paper: A paper
groups:
  - shared: {place: a table, status: confirmed, metric: molkit.metrics.stability.stability, direction: higher,
             counts: molecules, basis: [trained_here], n: 100}
    claims:
      - {id: a.row.stable, label: stable, value: 82.0, accept: {kind: at_least, tolerance: 1.0}}
"""


def read(folder: Path, text: str) -> dict[str, Claim]:
    (folder / "a.yaml").write_text(text)
    return load_claims(folder)


def test_shared_fields_reach_every_claim_and_the_rule_becomes_a_rule(tmp_path):
    claim = read(tmp_path, GOOD)["a.row.stable"]
    assert (claim.paper, claim.place, claim.n) == ("A paper", "a table", 100)
    assert claim.accept == Rule(kind="at_least", tolerance=1.0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("label: stable", "lable: stable", "unknown key 'lable'"),
        ("tolerance: 1.0", "tolerence: 1.0", "unknown key 'tolerence'"),
        ("paper: A paper", "papers: A paper", "unknown key 'papers'"),
        ("shared:", "sharde:", "unknown key 'sharde'"),
        (", accept: {kind: at_least, tolerance: 1.0}", "", "needs an acceptance rule"),
        ("kind: at_least", "kind: about", "kind of acceptance rule must be one of"),
        ("value: 82.0, ", "", "needs a published value"),
        ("status: confirmed", "status: unverified", "carries no number"),
        ("label: stable", "label: stable, attempt: none", "needs its reason"),
        ("label: stable", "label: stable, spread: 0.4", "spread is given exactly when"),
        ("id: a.row.stable", "id: A row", "lower-case words joined by dots"),
        ("label: stable, ", "", "missing label"),
        ("value: 82.0", "value: [", "not readable as YAML"),
        ("kind: at_least, tolerance: 1.0", "kind: order, than: [b.c]", "not a claim"),
        ("tolerance: 1.0", "tolerance: much", "tolerance must be float, got 'much'"),
        ("basis: [trained_here]", "basis: [scaled_down]", "basis must be one of"),
    ],
)
def test_a_doubtful_entry_is_refused_by_name(tmp_path, old, new, message):
    with pytest.raises(InvalidInput, match=message.replace("[", r"\[")) as caught:
        read(tmp_path, GOOD.replace(old, new))
    assert "a.yaml" in str(caught.value) or "a.row.stable" in str(caught.value)


def test_the_same_id_twice_is_refused(tmp_path):
    (tmp_path / "b.yaml").write_text(GOOD)
    with pytest.raises(InvalidInput, match="listed twice"):
        read(tmp_path, GOOD)


def test_a_folder_without_claims_says_where_they_should_be(tmp_path):
    with pytest.raises(DataNotFound, match="no claims in"):
        load_claims(tmp_path)


def test_one_study_is_read_without_the_files_of_the_others(tmp_path):
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text("broken: [")
    assert list(load_claims(tmp_path, study="a")) == ["a.row.stable"]
    for study in ("", "c"):
        with pytest.raises(InvalidInput, match="b.yaml"):
            load_claims(tmp_path, study=study)
    assert study_of("edm.qm9") == study_of(["edm.a", "edm.b"]) == "edm"
    assert study_of("") == study_of(["edm.a", "cgcf.b"]) == ""


def test_a_file_named_after_a_study_holds_its_claims_only():
    """Else a chapter that reads one file would miss some of its rows."""
    claims = load_claims()
    for path in CLAIMS_FOLDER.glob("*.yaml"):
        own = load_claims(study=path.stem)
        assert {name for name in claims if name.startswith(f"{path.stem}.")} <= set(own)
        assert set(named_in_rules(claims, list(own.values()))) == set(own)


def test_an_edited_file_is_read_again(tmp_path):
    assert read(tmp_path, GOOD)["a.row.stable"].value == 82.0
    assert read(tmp_path, GOOD.replace("82.0", "83.5"))["a.row.stable"].value == 83.5


def test_selection_is_by_dotted_prefix_or_by_id():
    claims = load_claims()
    assert {claim.id for claim in select(claims, "edm.qm9.gschnet")} == {
        f"edm.qm9.gschnet.{name}" for name in ("atom_stable", "molecule_stable", "valid", "valid_unique")
    }
    assert not any(claim.id.startswith("edm.qm9_half") for claim in select(claims, "edm.qm9"))
    assert [claim.id for claim in select(claims, ["edm.qm9.edm.nll"])] == ["edm.qm9.edm.nll"]
    with pytest.raises(InvalidInput, match="the groups are .*edm.conditional, edm.cost"):
        select(claims, "edn")
    with pytest.raises(InvalidInput, match="near it: edm.qm9.edm.atom_stable"):
        find(claims, "edm.qm9.edm.atoms_stable")


def test_the_fingerprint_follows_the_value_and_the_rule_but_not_the_wording(tmp_path):
    claim = read(tmp_path, GOOD)["a.row.stable"]
    assert replace(claim, label="other words", note="a remark").fingerprint == claim.fingerprint
    assert replace(claim, value=81.0).fingerprint != claim.fingerprint
    assert replace(claim, accept=replace(claim.accept, tolerance=2.0)).fingerprint != claim.fingerprint


# ---- the claims of the EDM paper ----


def test_every_claim_has_a_source_and_an_acceptance_rule():
    for claim in load_claims().values():
        assert claim.paper and claim.place and claim.metric.startswith("molkit.") and claim.accept.kind, claim.id
        assert claim.attempt == "now" or claim.why, claim.id


def test_unverified_claims_and_spreads_show_no_number():
    unverified = [claim for claim in load_claims().values() if claim.status == "unverified"]
    assert len(unverified) >= 5
    for claim in unverified:
        assert claim.value is None and claim.spread is None
        assert published_text(claim) == "unverified"
    for claim in load_claims().values():
        if claim.spread_status == "unverified":
            assert claim.spread is None and "±" not in published_text(claim)


def test_the_tables_of_the_paper_are_entered():
    """Rows as in the main tables: E-NF, G-SchNet, GDM, GDM-aug, EDM, data."""
    claims = load_claims()
    molecule_stable = {"enf": 4.9, "gschnet": 68.1, "gdm": 63.2, "gdm_aug": 71.6, "edm": 82.0, "data": 95.2}
    atom_stable = {"enf": 85.0, "gschnet": 95.7, "gdm": 97.0, "gdm_aug": 97.6, "edm": 98.7, "data": 99.0}
    valid = {"enf": 40.2, "gschnet": 85.5, "gdm_aug": 90.4, "edm": 91.9, "data": 97.7}
    nll = {"enf": -59.7, "gdm": -94.7, "gdm_aug": -92.5, "edm": -110.7}
    for metric, row in {
        "molecule_stable": molecule_stable,
        "atom_stable": atom_stable,
        "valid": valid,
        "nll": nll,
    }.items():
        for name, value in row.items():
            assert claims[f"edm.qm9.{name}.{metric}"].value == value
    for name in ("naive", "num_atoms", "edm", "data"):
        assert len(select(claims, f"edm.conditional.{name}")) == 6
    assert len(select(claims, "edm.geom")) == 12


def test_a_claim_judged_by_the_result_of_another_counts_the_same_things():
    claims = load_claims()
    for claim in claims.values():
        if claim.measured_as and claim.attempt == "now":
            other = claims[claim.measured_as]
            assert (claim.n, claim.counts, claim.unit) == (other.n, other.counts, other.unit), claim.id


def test_the_metric_of_every_attempted_claim_exists():
    for claim in load_claims().values():
        module, _, name = claim.metric.rpartition(".")
        path = REPOSITORY / (module.replace(".", "/") + ".py")
        if claim.attempt == "none":
            continue
        assert path.is_file(), f"{claim.id}: {path}"
        tree = ast.parse(path.read_text())
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert name in names, f"{claim.id}: {claim.metric}"
