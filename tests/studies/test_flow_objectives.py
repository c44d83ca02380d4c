"""Matching beside likelihood: the comparison is paired, resumable, and says what each flow saw."""

import json

import numpy as np
import pytest
import torch

from molkit.cgcf.config import FlowConfig
from molkit.cgcf.model import build_flow, load_flow, save_flow
from molkit.cli import run
from molkit.errors import DataNotFound, InvalidInput
from molkit.figures.conformers import objective_table
from molkit.studies import flow_objectives as study


def toy(folder, *, seed: int, mean: float, objective: str):
    """A small flow with the facts that a run leaves behind."""
    flow = build_flow(FlowConfig(elements=(1, 6, 7, 8), width=8, sampling_steps=2), seed=seed).eval()
    with torch.no_grad():
        flow.data_norm.mean.fill_(mean)
    save_flow(flow, folder)
    part = {"objective": objective, "step": 7, "passes": 70}
    (folder / "training.json").write_text(json.dumps({"parts": [part]}))
    return str(folder)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    root = tmp_path_factory.mktemp("flows")
    flows = [
        toy(root / "first", seed=0, mean=2.4, objective="matching"),
        toy(root / "far", seed=0, mean=9.0, objective="likelihood"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "NUM_HELD_BACK", 3)
        patch.setattr(study, "NUM_TEST", 2)
        patch.setattr(study, "BATCH", 2)
        patch.setattr(study, "ROUNDS", 1)
        made = study.run_study(flows, root / "kept", report=lambda _: None)
        before = {path: path.stat().st_mtime_ns for path in (root / "kept").glob("*.json")}
        again = study.run_study(flows, root / "kept", report=lambda _: None)
        assert again.flows == made.flows and before == {path: path.stat().st_mtime_ns for path in before}
    return made


def test_a_flow_that_expects_longer_distances_is_less_likely(found):
    """Its moving norm puts every distance in the tail; the difference is paired, molecule by molecule."""
    first, far = found.flows
    assert first.noised.keys() == far.noised.keys() and len(first.noised) == 3
    gain = study.change(far, first, "clean")
    assert gain.value == pytest.approx(np.mean(list(far.clean.values())) - np.mean(list(first.clean.values())))
    assert gain.low > 1.0 and study.change(first, first, "noised").value == 0.0


def test_likelihoods_are_those_of_the_flow_itself(tmp_path):
    """With dynamics that stand still the density is a product of normals, in closed form."""
    source = toy(tmp_path / "still", seed=1, mean=2.0, objective="matching")
    flow = load_flow(source).flow
    with torch.no_grad():
        flow.root_time.fill_(1e-6)
    save_flow(flow, tmp_path / "still")
    _, clean = study.likelihoods(source, num_molecules=2)
    data = study.qm9_minima("valid", limit=2)
    batcher = study.Batcher(data)
    for row, name in enumerate(data.names):
        graph = batcher.graph(torch.tensor([row]))
        gap = graph.distances(batcher.positions(torch.tensor([row]))).double() - 2.0
        variance = 1.0 + 1e-4  # of either norm; the second one stretches what the first one left
        expected = 0.5 * (gap**2 / variance**2).mean() + 0.5 * np.log(2 * np.pi) + np.log(variance)
        assert clean[name] == pytest.approx(float(expected), abs=2e-4)


def test_the_study_keeps_its_rows_and_has_a_table(found, tmp_path):
    path = tmp_path / "study.json"
    study.write_study(found, path)
    again = study.stored_study(path)
    assert again == found and again.milliseconds.keys() == {"matching", "likelihood"}
    assert [row.objective for row in again.flows] == ["matching", "likelihood"]
    assert "7 steps of likelihood" in objective_table(again).data
    assert str(tmp_path.parent) not in path.read_text(), "no path of the machine"


def test_wrong_studies_end_in_a_line(tmp_path):
    with pytest.raises(DataNotFound, match="flow-objectives"):
        study.stored_study(tmp_path / "none.json")
    (tmp_path / "x.json").write_text('{"flows": [{}]}')
    with pytest.raises(InvalidInput, match="not a study"):
        study.stored_study(tmp_path / "x.json")
    assert run(["study", "flow-objectives", "cgcf_qm9", "--keep", str(tmp_path)]) == 2
