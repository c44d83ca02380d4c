"""The comparison of conformers: resumable, truthful about what it left out, and its tables."""

import numpy as np
import pytest
import torch

from molkit.cgcf.config import FlowConfig
from molkit.cgcf.model import build_flow, save_flow
from molkit.cli import run
from molkit.errors import DataNotFound, InvalidInput
from molkit.figures import conformers as draw
from molkit.studies.conformers import Setting, by_molecule, difference, read_study, run_study, stored_study, thinned


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    flow = build_flow(FlowConfig(elements=(1, 6, 7, 8), width=8, sampling_steps=2)).eval()
    with torch.no_grad():
        flow.data_norm.mean.fill_(2.4)
    folder = tmp_path_factory.mktemp("flow") / "toy"
    save_flow(flow, folder)
    return str(folder)


def test_a_study_keeps_what_it_has_and_refuses_another_setting(weights, tmp_path, capfd):
    """Of these four molecules the toy knows the elements of some only."""
    path = tmp_path / "study.json"
    setting = Setting(weights=weights, limit=4, max_references=2)
    found = run_study(setting, path)
    assert len(found.molecules) + len(found.failures) == 4 and found.failures and found.molecules
    assert all("trained without" in reason for reason in found.failures.values())
    assert {row.arm for row in found.rows} == {"rdkit", "rdkit_ff", "flow_published", "flow", "flow_ff"}
    assert all(row.num_generated == 4 for row in found.rows)
    before = path.read_bytes()
    assert run_study(setting, path).rows == found.rows and path.read_bytes() == before
    with pytest.raises(InvalidInput, match="another setting"):
        run_study(Setting(weights=weights, limit=3, max_references=2), path)
    assert run(["study", "conformers", weights, "--limit", "4", "--max-references", "2", "--out", str(path)]) == 0
    assert "left out" in capfd.readouterr().out


def test_the_stored_study_has_its_table():
    study = stored_study("conformers")
    assert f"{len(study.molecules)} test molecules" in draw.study_table(study).data
    found = difference(study, "flow", "flow_published", "mat_recall")
    values = by_molecule(study, "flow", "mat_recall"), by_molecule(study, "flow_published", "mat_recall")
    assert found.value == pytest.approx(np.mean([values[0][name] - values[1][name] for name in values[0]]))


def test_references_are_thinned_evenly():
    positions = np.arange(10)[:, None, None] * np.ones((10, 2, 3))
    assert thinned(positions, 5)[:, 0, 0].tolist() == [0, 2, 4, 6, 8]
    assert len(thinned(positions, 20)) == 10


def test_a_missing_study_says_how_to_make_it(tmp_path):
    with pytest.raises(DataNotFound, match="molkit study conformers"):
        read_study(tmp_path / "none.json")
