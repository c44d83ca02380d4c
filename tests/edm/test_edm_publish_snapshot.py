"""A snapshot of a run becomes weights of its own, with what is known about it."""

import json

import pytest

from molkit.edm.config import EdmConfig
from molkit.edm.model import build, load, save
from molkit.edm.published import snapshot_publication
from molkit.errors import DataNotFound
from molkit.training.publishing import publish


def test_a_snapshot_is_published_with_its_passes_and_a_card(tmp_path):
    run, root = tmp_path / "run", tmp_path / "weights"
    edm = build(EdmConfig(width=16, num_layers=1), seed=3)
    save(edm, run / "snapshots" / "step_00000200")
    lines = [{"step": 100, "passes": 10}, {"step": 200, "passes": 20, "seconds": 9.0, "noise_error": 0.5}]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (run / "provenance.jsonl").write_text(json.dumps({"processes": 1, "device": "cpu", "processor": "p"}) + "\n")
    folder = publish(snapshot_publication(run, 200), "early", root=root)
    assert json.loads((folder / "training.json").read_text())["passes"] == 20
    assert "0.5000" in (folder / "card.md").read_text()
    mine, theirs = load(folder, fast=False).network.state_dict(), edm.network.state_dict()
    assert all((mine[name] == theirs[name].half().float()).all() for name in theirs)
    with pytest.raises(DataNotFound, match="kept are 200"):
        snapshot_publication(run, 300)
