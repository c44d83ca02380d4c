"""The comparison of conformers: resumable, truthful about what it left out, and its tables."""

import json

import numpy as np
import pytest
import torch

from molkit.cgcf.config import FlowConfig
from molkit.cgcf.energy import EnergyConfig, EnergyNetwork
from molkit.cgcf.energy_training import save_energy
from molkit.cgcf.model import build_flow, save_flow
from molkit.chem.bond_graph import graph_mol
from molkit.chem.rdkit_conformers import rdkit_conformers
from molkit.cli import run
from molkit.data.ensembles import Ensemble, load_ensembles
from molkit.errors import CalculationFailed, DataNotFound, InvalidInput
from molkit.figures import conformers as draw
from molkit.studies.conformer_arms import ARMS, NUMBERS, ArmsTask, bond_spread, measure, thinned
from molkit.studies.conformers import (
    ConformerStudy,
    Row,
    Setting,
    by_molecule,
    coverage_at,
    difference,
    mean_of,
    read_study,
    record_orders,
    rows_of,
    run_study,
    stored_study,
    study_tasks,
    write_study,
)
from molkit.studies.conformers_live import stored_cost


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    flow = build_flow(FlowConfig(elements=(1, 6, 7, 8), width=8, sampling_steps=2)).eval()
    with torch.no_grad():
        flow.data_norm.mean.fill_(2.4)
    folder = tmp_path_factory.mktemp("flow") / "toy"
    save_flow(flow, folder)
    return str(folder)


@pytest.fixture(scope="module")
def energy(tmp_path_factory):
    network = EnergyNetwork(EnergyConfig(width=8, num_blocks=1, num_gaussians=6, cutoff=4.0, num_levels=2, flow="toy"))
    with torch.no_grad():
        network.last.weight.normal_(std=100.0, generator=torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("energy") / "toy"
    save_energy(network, network.config, folder)
    return str(folder)


def test_a_study_keeps_what_it_has_and_refuses_another_setting(weights, tmp_path, capfd):
    """Of these four molecules the toy knows the elements of some only."""
    path, folder = tmp_path / "study.json", tmp_path / "kept"
    setting = Setting(weights=weights, limit=4, max_references=2)
    found = run_study(setting, folder)
    assert len(found.molecules) + len(found.failures) == 4 and found.failures and found.molecules
    assert all("trained without" in reason for reason in found.failures.values())
    assert {row.arm for row in found.rows} == {"rdkit", "rdkit_ff", "flow_published", "flow", "flow_ff"}
    assert all(row.num_generated == 4 and len(row.nearest) == 2 for row in found.rows)
    before = {one: one.stat().st_mtime_ns for one in (folder / "results").iterdir()}
    assert run_study(setting, folder).rows == found.rows
    assert {one: one.stat().st_mtime_ns for one in (folder / "results").iterdir()} == before
    with pytest.raises(InvalidInput, match="another 'max_references'"):
        run_study(Setting(weights=weights, limit=4, max_references=3), folder)
    command = ["study", "conformers", weights, "--limit", "4", "--max-references", "2", "--keep", str(folder)]
    assert run([*command, "--out", str(path)]) == 3
    assert "left out, " in capfd.readouterr().err
    assert read_study(path).rows == found.rows


def test_choices_between_weights_can_be_made_on_another_split(weights, tmp_path):
    """A folder of the test split and one of another are different settings; an empty split ends in a line."""
    names = {
        split: {task.ensemble.name for task in study_tasks(Setting(weights=weights, split=split, limit=3)).values()}
        for split in ("valid", "test")
    }
    assert names["valid"] == {one.name for one in load_ensembles("conformers_dft", split="valid", limit=3)}
    assert not names["valid"] & names["test"]
    shared = {"weights": weights, "limit": 1, "max_references": 1, "only": ("flow",)}
    run_study(Setting(**shared), tmp_path)
    with pytest.raises(InvalidInput, match="'split'"):
        run_study(Setting(**shared, split="valid"), tmp_path)
    with pytest.raises(InvalidInput, match="valid is empty"):
        study_tasks(Setting(weights=weights, data="ensembles_drugs", split="valid"))


def ethanol(name: str = "ethanol", smiles: str = "CCO") -> Ensemble:
    """Two conformers, by RDKit."""
    mol = graph_mol(smiles)
    return Ensemble(
        name,
        smiles,
        np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]),
        np.zeros(mol.GetNumAtoms(), dtype=np.int64),
        np.array([[b.GetBeginAtomIdx(), b.GetEndAtomIdx(), int(b.GetBondType())] for b in mol.GetBonds()]),
        rdkit_conformers(mol, 2, seed=1),
        np.array([0.0, 0.3]),
    )


def test_one_molecule_by_every_arm(weights, energy, tmp_path):
    """The ETM starts from the flow's conformers; energies stand above the lowest reference; a file gives all back."""
    task = ArmsTask(ethanol(), weights, energy, 0.5, 5, 1, 0)
    result = measure(task)
    assert result["arms"].tolist() == list(ARMS) and result["numbers"].shape == (len(ARMS), len(NUMBERS))
    rows = {row.arm: row for row in rows_of(task, result)}
    assert abs(rows["rdkit"].energy_kcal) < 10.0 and rows["rdkit"].energy_failed == 0
    assert all((row.energy_kcal is None) == (row.energy_failed == 1) for row in rows.values())
    assert rows["etm"].seconds > rows["flow"].seconds and rows["etm"].mat_recall != rows["flow"].mat_recall
    assert rows["rdkit"].cov_recall == 1.0 and max(rows["rdkit"].nearest) <= 0.5
    study = ConformerStudy(Setting(weights=weights), rows=list(rows.values()))
    write_study(study, tmp_path / "one.json")
    assert read_study(tmp_path / "one.json") == study
    assert mean_of(study, "flow", "mat_recall") is None  # one molecule has no interval


def test_only_the_arms_that_are_asked_for_are_made(weights, energy, tmp_path):
    task = ArmsTask(ethanol(), weights, energy, 0.5, 5, 0, 0, "redraw", ("flow_ff", "etm"))
    assert measure(task)["arms"].tolist() == ["etm", "flow_ff"]
    with pytest.raises(InvalidInput, match="unknown arm"):
        run_study(Setting(weights=weights, only=("none",)), tmp_path)
    for name in ("stereo", "symmetry", "failures"):
        with pytest.raises(InvalidInput, match=f"unknown {name} 'keep'"):
            run_study(Setting(weights=weights, **{name: "keep"}), tmp_path)


def test_a_molecule_without_conformers_by_rdkit_counts_as_not_covered(weights, energy, monkeypatch):
    def none_found(*_: object, **__: object) -> np.ndarray:
        raise CalculationFailed("no 3D geometry")

    monkeypatch.setattr("molkit.studies.conformer_arms.rdkit_conformers", none_found)
    task = ArmsTask(ethanol(), weights, energy, 0.5, 5, 0, 0)
    rows = {row.arm: row for row in rows_of(task, measure(task))}
    for arm in ("rdkit", "rdkit_ff"):
        row = rows[arm]
        assert (row.num_generated, row.num_failed, row.cov_recall, row.mat_recall) == (0, 4, 0.0, None)
        assert row.bond_spread is None and row.nearest == ()
    assert rows["flow"].num_failed == 0
    kept = ConformerStudy(Setting(weights=weights), list(rows.values()))
    left_out = ConformerStudy(Setting(weights=weights, failures="exclude"), kept.rows)
    for measured in ("cov_recall", "cov_precision"):
        assert by_molecule(kept, "rdkit", measured) == {"ethanol": 0.0}
        assert by_molecule(left_out, "rdkit", measured) == {"ethanol": None}
    thresholds = np.array([0.1, 5.0])
    assert coverage_at(kept, "rdkit", thresholds).tolist() == [0.0, 0.0]
    with pytest.raises(InvalidInput, match="made nothing"):
        coverage_at(left_out, "rdkit", thresholds)


def test_the_symmetry_of_the_rmsd_is_an_option(weights):
    """Without symmetry no reference comes nearer; the ends of a carboxyl group are alike in one of the others only."""
    nearest = {}
    for symmetry in ("graph", "conjugated", "none"):
        task = ArmsTask(ethanol("acid", "CCC(=O)O"), weights, "", 0.5, 5, 0, 0, "mirror", ("rdkit",), symmetry)
        nearest[symmetry] = measure(task)["nearest"][0]
    assert np.all(nearest["conjugated"] <= nearest["graph"] + 1e-9)
    assert np.all(nearest["graph"] <= nearest["none"] + 1e-9)
    assert not np.allclose(nearest["conjugated"], nearest["none"])


def test_the_spread_of_bonds_is_the_deviation_of_their_lengths():
    one = ethanol()
    longer = one.positions[:1].repeat(2, axis=0)
    assert bond_spread(one, longer) == pytest.approx(0.0, abs=1e-12)
    longer[1] *= 1.1
    lengths = np.linalg.norm(longer[:, one.bonds[:, 0]] - longer[:, one.bonds[:, 1]], axis=-1)
    assert bond_spread(one, longer) == pytest.approx(0.05 * lengths[0].mean())


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


def test_orders_are_recorded_for_the_arms_that_are_there():
    """RDKit covers 0.5 more than the flow on each of three molecules; arms without rows give no record."""
    rows = [
        Row(name, arm, 0, value, 0.1, None, None, 2, 4, 0, None, None, 0.01)
        for name in ("a", "b", "c")
        for arm, value in (("rdkit", 0.75), ("flow", 0.25))
    ]
    found = record_orders(ConformerStudy(Setting(weights="cgcf_qm9"), rows), "drugs", source="none")
    assert [one.claim_id for one in found] == ["cgcf.order.drugs.rdkit_cov"]
    assert found[0].value == pytest.approx(50.0) and found[0].n == 3


def test_the_cost_of_a_conformer_is_read_from_its_measurement(tmp_path):
    numbers = {name: {"median": value, "min": value} for name, value in (("published", 80.0), ("default", 10.0))}
    row = {"smiles": "CC", "pairs": 28, "milliseconds": numbers, "speedup": {"median": 8.0, "min": 7.5}, "bar": 8.0}
    path = tmp_path / "cost.json"
    path.write_text(json.dumps({"rows": [row]}))
    assert "8, met" in draw.cost_table(stored_cost(path)).data
    path.write_text("{}")
    with pytest.raises(InvalidInput, match="not a measurement"):
        stored_cost(path)
    with pytest.raises(DataNotFound, match="benchmarks"):
        stored_cost(tmp_path / "none.json")


def test_a_packed_study_is_the_plain_one_in_fewer_bytes(tmp_path):
    study, plain, packed = stored_study("conformers"), tmp_path / "one.json", tmp_path / "one.json.gz"
    write_study(study, plain)
    write_study(study, packed)
    first = packed.read_bytes()
    write_study(study, packed)
    assert packed.read_bytes() == first and len(first) < 0.5 * plain.stat().st_size
    assert read_study(packed) == read_study(plain)
    packed.write_bytes(first[:-20])
    with pytest.raises(InvalidInput, match="not a study of conformers"):
        read_study(packed)
