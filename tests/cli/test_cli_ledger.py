"""`molkit ledger`."""

import json

import pytest

from molkit.claims.ledger import load_claims
from molkit.cli import run


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """An empty results folder."""
    monkeypatch.setenv("MOLKIT_RESULTS_DIR", str(tmp_path))


def test_the_ledger_lists_the_claims_below_a_prefix_and_counts_them(capsys):
    assert run(["ledger", "edm.qm9.gschnet"]) == 0
    out = capsys.readouterr().out
    assert "4 claims: no result recorded yet." in out and "G-SchNet, molecules stable" not in out
    assert "EDM, 4 claims: 0 reproduced and" in out
    assert run(["ledger", "edm.qm9.gschnet", "--all"]) == 0
    assert "G-SchNet, molecules stable" in capsys.readouterr().out


def test_as_json_every_claim_comes_with_result_verdict_and_reason(capsys):
    assert run(["ledger", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert {entry["claim"]["id"] for entry in entries} == set(load_claims())
    assert all(entry["verdict"] == "not attempted" and entry["reason"] for entry in entries)


def test_an_unknown_prefix_is_one_line_and_exit_code_2(capsys):
    assert run(["ledger", "edn"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no claim begins with 'edn'; the groups are " in error and "edm.conditional" in error


def test_a_damaged_result_is_named_in_one_line(capsys, tmp_path):
    (tmp_path / "edm.qm9.gschnet.valid.fast.json").write_text('{"claim_id": "edm.qm9.gschnet.valid", "vlaue": 1}')
    assert run(["ledger"]) == 2
    error = capsys.readouterr().err
    assert "unknown key 'vlaue'" in error and "gschnet.valid.fast.json" in error and error.count("\n") == 1
