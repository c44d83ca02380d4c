"""Validity of heavy-atom skeletons."""

import json

import numpy as np
import pytest

from molkit.data.packed import write_packed
from molkit.data.qm9 import load_qm9
from molkit.edm.config import EdmConfig
from molkit.edm.model import build, save
from molkit.figures import edm_ablations as draw
from molkit.molecule import PackedMolecules
from molkit.studies import edm_heavy as study
from molkit.studies.edm_card import publish_card


@pytest.fixture
def weights(tmp_path):
    """A tiny model with the data themselves as its samples."""
    folder = tmp_path / "tiny"
    save(
        build(EdmConfig(width=16, num_layers=1, elements=(6, 7, 8, 9), sizes=tuple((k, 1) for k in range(1, 10)))),
        folder,
    )
    facts = {"step": 1, "passes": 10, "epochs": 0.0, "seconds": 1.0, "processes": 1, "device": "cpu"}
    facts |= {"sample_calls": 10, "sample_seed": 0, "samples_requested": 42}
    (folder / "training.json").write_text(json.dumps(facts))
    line = {"step": 1, "passes": 10, "noise_error": 1.0, "seconds": 1.0, "date": "2026-11-21", "processes": 1}
    for name in ("metrics.jsonl", "provenance.jsonl"):
        (folder / name).write_text(json.dumps(line) + "\n")
    write_packed(folder / "samples.npz", load_qm9(split="test", limit=40).without_hydrogens())
    return folder


def test_skeletons_of_the_data_are_nearly_all_valid_and_differ():
    row = study.heavy_row("data", load_qm9(split="test", limit=300).without_hydrogens())
    assert row.valid.value > 0.95 and row.valid_unique.value > 0.95 and row.novel is None


def test_hydrogens_are_filled_in_and_failed_chains_count():
    """C-C at 1.54 angstrom is ethane without its hydrogens; three chains of four failed."""
    pair = PackedMolecules(np.array([2]), np.array([6, 6]), np.array([[0.0, 0.0, 0.0], [1.54, 0.0, 0.0]]))
    row = study.heavy_row("pair", pair, known=frozenset({"CC"}), num_failed=3)
    assert (row.num_molecules, row.valid.value, row.valid_unique.value) == (4, 0.25, 0.25)
    assert row.novel.value == pytest.approx(0.0)


def test_an_atom_with_too_many_bonds_is_not_valid():
    """An oxygen with three carbons at bonding distance."""
    ring = np.array([[0.0, 0.0, 0.0], [1.43, 0.0, 0.0], [-0.715, 1.238, 0.0], [-0.715, -1.238, 0.0]])
    row = study.heavy_row("oxonium", PackedMolecules(np.array([4]), np.array([8, 6, 6, 6]), ring))
    assert row.valid.value == 0.0


def test_the_table_counts_lost_chains_and_has_a_row_that_learned_nothing(weights):
    table = study.heavy_table(str(weights), num_data=60, num_untrained=8, keep=False)
    untrained, data, ours = table.rows
    assert untrained.one_piece.value < 0.5 < data.one_piece.value
    assert (ours.num_molecules, ours.num_failed) == (42, 2) and ours.valid.value <= 40 / 42
    assert sum(data.elements.values()) == pytest.approx(1.0) and 1 not in data.elements
    assert list(data.valid_by_size) == [9] and data.valid_by_size[9].value > 0.9
    assert len(draw.heavy_shapes(table).axes) == 2 and "in one piece" in draw.heavy_table(table).data


def test_the_card_and_the_report_are_about_heavy_atoms(weights, monkeypatch):
    assert study.is_for(weights) and not study.is_for("edm_qm9")
    monkeypatch.setattr(study, "load_qm9", lambda *, split, limit=None: load_qm9(split=split, limit=60))
    text = publish_card(weights).read_text()
    assert "without hydrogens" in text and "Chains that did not stay finite: 2" in text
    monkeypatch.undo()
    report = study.evaluate_weights(weights, nll_molecules=200)
    assert report["nll_nats"]["molecules"] == 200 and report["samples"]["num_molecules"] == 42
