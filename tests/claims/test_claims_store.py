"""Recording results: whole files, strict reading, no verdict by accident, and staleness that names what changed."""

import json
import math
import os
from dataclasses import replace

import pytest

from molkit.claims import provenance, store
from molkit.claims.ledger import Measurement, load_claims
from molkit.claims.store import best, load_results, record, what_changed
from molkit.claims.table import ledger_rows
from molkit.errors import DataNotFound, InvalidInput, RunError

CLAIM = "edm.qm9.gschnet.molecule_stable"
GOOD = {
    "value": 68.05,
    "interval": (67.1, 68.9),
    "interval_kind": "Wilson 95 %",
    "n": 10_000,
    "counts": "molecules",
    "basis": "published_samples",
    "seconds": 1.5,
    "source_files": ["molkit/units.py"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty results folder, and the profile whose results are kept."""
    monkeypatch.setenv("MOLKIT_RESULTS_DIR", str(tmp_path / "results"))
    monkeypatch.setenv("MOLKIT_PROFILE", "fast")
    return tmp_path / "results"


def test_a_recorded_result_comes_back_with_its_provenance(folder):
    measurement = record(CLAIM, **GOOD, seeds=[3], data_files=["data/claims/edm.yaml"])
    assert load_results() == {CLAIM: [measurement]}
    assert measurement.profile == "fast"
    assert list(measurement.source_files) == ["molkit/units.py"]
    assert list(measurement.data_files) == ["data/claims/edm.yaml"]
    assert measurement.versions["python"] and measurement.machine and measurement.peak_memory_mib > 1
    assert what_changed(measurement, load_claims()[CLAIM]) == ()
    assert [row.verdict.word for row in ledger_rows(CLAIM)] == ["reproduced"]


def test_results_by_name_are_those_of_the_whole_folder(folder):
    measurement = record(CLAIM, **GOOD, seeds=[3])
    (folder / "other.claim.fast.json").write_text("{}")
    assert load_results(names=["other", CLAIM]) == {CLAIM: [measurement]}
    assert load_results(names=[]) == {}


@pytest.mark.parametrize("profile", ["smoke", ""])
def test_a_smoke_run_and_a_run_by_hand_return_their_result_and_write_nothing(folder, monkeypatch, profile):
    monkeypatch.setenv("MOLKIT_PROFILE", profile)
    assert record(CLAIM, **GOOD).value == 68.05
    assert not folder.exists()


def test_a_smoke_result_put_into_the_folder_by_hand_still_gives_no_verdict(folder):
    record(CLAIM, **GOOD)
    path = folder / f"{CLAIM}.fast.json"
    path.write_text(path.read_text().replace('"profile": "fast"', '"profile": "smoke"'))
    assert [row.verdict.word for row in ledger_rows(CLAIM)] == ["not attempted"]


def test_the_profile_must_be_a_known_one(folder, monkeypatch):
    monkeypatch.setenv("MOLKIT_PROFILE", "quick")
    with pytest.raises(InvalidInput, match="MOLKIT_PROFILE must be smoke, fast or paper; got 'quick'"):
        record(CLAIM, **GOOD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": math.nan}, "finite number"),
        ({"value": 60.0}, "does not hold the value"),
        ({"value": 168.0, "interval": None}, "0..100"),
        ({"counts": "atoms"}, "positive number of molecules"),
        ({"n": 0}, "positive number of molecules"),
        ({"basis": "guessed"}, "basis must be one of"),
    ],
)
def test_a_result_that_cannot_be_is_refused_and_nothing_is_written(folder, change, message):
    with pytest.raises(InvalidInput, match=message):
        record(CLAIM, **{**GOOD, **change})
    assert not folder.exists()


def test_an_unknown_claim_is_refused_with_its_nearest_neighbours(folder):
    with pytest.raises(InvalidInput, match="near it: edm.qm9.gschnet.molecule_stable"):
        record("edm.qm9.gschnet.molecules_stable", **GOOD)


def test_claims_that_are_not_attempted_or_judged_elsewhere_take_no_result(folder):
    with pytest.raises(InvalidInput, match="attempt: none"):
        record("edm.qm9.enf.molecule_stable", **{**GOOD, "value": 5.0, "interval": None})
    with pytest.raises(InvalidInput, match=r"record that one"):
        record("edm.words.more_stable_than_enf", **GOOD)


def test_a_source_that_does_not_exist_is_named(folder):
    with pytest.raises(DataNotFound, match=r"no_such_file\.py"):
        record(CLAIM, **{**GOOD, "source_files": ["molkit/no_such_file.py"]})


def test_a_folder_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    blocked = tmp_path / "a_file"
    blocked.write_text("")
    monkeypatch.setenv("MOLKIT_RESULTS_DIR", str(blocked))
    with pytest.raises(RunError, match="cannot write the result"):
        record(CLAIM, **GOOD, profile="fast")
    assert [path.name for path in tmp_path.iterdir()] == ["a_file"]


def test_a_write_that_fails_half_way_keeps_the_old_result(folder, monkeypatch):
    first = record(CLAIM, **GOOD)

    def broken(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(RunError, match="No space left"):
        record(CLAIM, **{**GOOD, "value": 68.2})
    assert [path.name for path in folder.iterdir()] == [f"{CLAIM}.fast.json"]
    assert load_results()[CLAIM] == [first]


def test_profiles_do_not_overwrite_each_other(folder):
    record(CLAIM, **GOOD, profile="paper")
    record(CLAIM, **{**GOOD, "n": 900}, profile="fast")
    found = load_results()[CLAIM]
    assert [measurement.profile for measurement in found] == ["fast", "paper"]
    assert best(found, load_claims()[CLAIM]).profile == "paper"


def test_the_result_that_stands_is_chosen_by_freshness_basis_and_n_but_never_by_value(folder):
    claim = load_claims()[CLAIM]
    lucky = record(CLAIM, **{**GOOD, "value": 68.1, "n": 500})
    large = record(CLAIM, **{**GOOD, "value": 60.0, "interval": (59.0, 61.0)}, profile="paper")
    assert best([lucky, large], claim) is large
    stale = replace(large, source_files={"molkit/units.py": "another checksum"})
    assert best([lucky, stale], claim) is lucky
    assert best([], claim) is None


def test_a_changed_source_changed_rule_or_lost_file_makes_a_result_stale(folder, tmp_path):
    source = tmp_path / "source.py"
    source.write_text("value = 1\n")
    measurement = record(CLAIM, **{**GOOD, "source_files": [source]})
    claim = load_claims()[CLAIM]
    assert what_changed(measurement, claim) == ()
    assert what_changed(measurement, replace(claim, value=70.0)) == ("the claim or its rule",)
    source.write_text("value = 22\n")
    assert what_changed(measurement, claim) == (str(source),)
    [row] = ledger_rows(CLAIM)
    assert str(row.verdict) == "reproduced, stale"
    source.unlink()
    assert what_changed(measurement, claim) == (str(source),)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"value"', '"valeu"', "unknown key 'valeu'"),
        ('"n": 10000', '"n": ', "not readable as a JSON result"),
        ('"basis": "published_samples"', '"basis": "guessed"', "basis must be one of"),
    ],
)
def test_a_damaged_result_file_is_named(folder, old, new, message):
    record(CLAIM, **GOOD)
    path = folder / f"{CLAIM}.fast.json"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InvalidInput, match=message) as caught:
        load_results()
    assert str(path) in str(caught.value)


def test_results_are_plain_json_without_nan(folder):
    record(CLAIM, **GOOD)
    entry = json.loads((folder / f"{CLAIM}.fast.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert Measurement(**entry).interval is not None


def test_weights_are_part_of_what_a_result_depends_on(folder, tmp_path, monkeypatch):
    weights = tmp_path / "data" / "weights" / "tiny" / "weights.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"1")
    monkeypatch.setattr(store, "REPOSITORY", tmp_path)
    measurement = record(CLAIM, **GOOD, weights="tiny")
    claim = load_claims()[CLAIM]
    assert what_changed(measurement, claim) == ()
    weights.write_bytes(b"22")
    assert what_changed(measurement, claim) == (str(weights),)


def test_weights_that_do_not_exist_are_refused(folder):
    with pytest.raises(DataNotFound, match="no_such_weights"):
        record(CLAIM, **GOOD, weights="no_such_weights")


def test_the_combined_hash_depends_on_paths_and_bytes_but_not_on_order():
    one = provenance.combined_hash({"a": "1", "b": "2"})
    assert one == provenance.combined_hash({"b": "2", "a": "1"})
    assert one != provenance.combined_hash({"a": "2", "b": "1"})


def test_by_default_the_loaded_science_files_are_the_sources():
    import molkit.units  # noqa: F401

    names = {path.name for path in provenance.loaded_source_files()}
    assert "units.py" in names and "ledger.py" not in names
