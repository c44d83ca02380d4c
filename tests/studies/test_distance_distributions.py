"""The study of distances: perfect conformers score zero, rows come back from disk, claims get their differences."""

import json

import numpy as np
import pytest
import torch

from molkit.cgcf.config import FlowConfig
from molkit.cgcf.energy import EnergyConfig, EnergyNetwork
from molkit.cgcf.energy_training import save_energy
from molkit.cgcf.model import build_flow, save_flow
from molkit.chem.bond_graph import graph_mol
from molkit.chem.conformer_rmsd import heavy_pairs
from molkit.chem.ensembles import described
from molkit.chem.rdkit_conformers import rdkit_conformers
from molkit.cli import run
from molkit.data.ensembles import Ensemble, write_ensembles
from molkit.data.registry import sha256_of
from molkit.errors import DataNotFound, InvalidInput
from molkit.metrics.distributions import distance_mmd, distances_mmd, heavy_distances
from molkit.studies import distance_distributions as study

SMILES = "CCCCO"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A set of two molecules, a toy flow and a toy energy."""
    monkeypatch.setattr("molkit.data.registry.DATA_ROOT", tmp_path)
    ensembles = []
    for smiles in (SMILES, "CCOC"):
        mol = graph_mol(smiles)
        told = described(mol)
        positions = rdkit_conformers(mol, 6)
        ensembles.append(
            Ensemble(
                smiles,
                smiles,
                told["atomic_numbers"],
                told["formal_charges"],
                told["bonds"].astype(np.int64),
                positions,
                np.zeros(6),
            )
        )
    path = tmp_path / f"{study.DATA}.npz"
    write_ensembles(path, ensembles)
    (tmp_path / "SHA256SUMS").write_text(f"{sha256_of(path)}  {path.name}\n")
    flow = build_flow(FlowConfig(elements=(1, 6, 8), width=8, sampling_steps=2)).eval()
    with torch.no_grad():
        flow.data_norm.mean.fill_(2.4)
    save_flow(flow, tmp_path / "flow")
    config = EnergyConfig(width=8, num_blocks=1, num_gaussians=6, cutoff=4.0, flow="flow")
    save_energy(EnergyNetwork(config), config, tmp_path / "energy")
    return study.Setting(weights=str(tmp_path / "flow"), energy=str(tmp_path / "energy"), count=4)


def test_distances_of_conformers_are_those_of_the_metric():
    mol = graph_mol(SMILES)
    first, second = rdkit_conformers(mol, 5), rdkit_conformers(mol, 7, seed=1)
    edges = heavy_pairs(mol)
    direct = distances_mmd(edges, heavy_distances(first, edges), heavy_distances(second, edges), pairs="complete")
    found = distance_mmd(mol, first, second, pairs="complete")
    np.testing.assert_array_equal(direct.single, found.single)
    assert direct.all == found.all
    same = distances_mmd(edges, heavy_distances(first, edges), heavy_distances(first, edges))
    assert same.single == pytest.approx(np.zeros(edges.shape[1]), abs=1e-12)
    with pytest.raises(InvalidInput, match="unknown rule"):
        distances_mmd(edges, first[:, 0], second[:, 0], pairs="other")


def test_a_study_of_every_arm_comes_back_from_disk(world, tmp_path):
    found = study.run_study(world)
    assert found.molecules == [SMILES, "CCOC"] and not found.failures
    assert {row.arm for row in found.rows} == set(study.ARMS)
    assert all(row.num_references == 6 and row.num_generated == 4 for row in found.rows)
    assert all((row.diversity is None) == (row.arm == "distances") for row in found.rows)
    assert all(0.0 <= value < 10.0 for row in found.rows for value in (*row.single, row.published, row.all))
    assert len(study.values_of(found, "flow", "single")) == sum(
        len(row.single) for row in found.rows if row.arm == "flow"
    )
    study.write_study(found, tmp_path / "kept.json")
    assert study.stored_study(tmp_path / "kept.json") == found
    orders = study.record_orders(found)
    assert set(orders) == set(study.CLAIMS)
    assert orders["distances.flow_rdkit"].value > 0.0  # an untrained flow is no match for RDKit


def test_the_flows_own_distances_are_in_the_order_of_the_pairs(world):
    """Deterministic draws, picked pair by pair."""
    from molkit.cgcf.conformers import draw_distances
    from molkit.cgcf.datasets import graph_of
    from molkit.cgcf.graph import collate
    from molkit.cgcf.model import load_flow

    mol, model = graph_mol(SMILES), load_flow(world.weights)
    edges = heavy_pairs(mol)
    found = study.raw_distances(model, mol, edges, 3, torch.Generator().manual_seed(0))
    graph = collate([graph_of(mol)])
    drawn = draw_distances(model.flow, graph, 3, generator=torch.Generator().manual_seed(0)).numpy()
    for column, pair in enumerate(edges.T):
        (row,) = np.flatnonzero((pair == graph.pairs.numpy().T).all(1))
        np.testing.assert_allclose(found[:, column], drawn[:, row], rtol=1e-6)


def test_the_command_and_its_errors(world, tmp_path, capsys):
    out = tmp_path / "out.json"
    command = ["study", "distances", world.weights, world.energy, "--count", "3", "--limit", "1", "--out", str(out)]
    assert run(command) == 0 and "1 molecules, 0 left out" in capsys.readouterr().out
    assert json.loads(out.read_text())["setting"]["limit"] == 1
    with pytest.raises(DataNotFound, match="study distances"):
        study.stored_study(tmp_path / "absent.json")
    out.write_text("{}")
    with pytest.raises(InvalidInput, match="not a study"):
        study.stored_study(out)


def test_tables_and_figure_of_the_study(world):
    from molkit.figures import energy_tilt as draw

    found = study.run_study(world)
    html = draw.distance_table(found).data
    assert "ETKDGv3" in html and "not ISO17" in html and "n = 2 test isomers" in html
    assert "diversity.etm_flow" in draw.order_table(study.record_orders(found)).data
    figure = draw.distances_figure(study.one_isomer(world.weights, world.energy, count=3, seed=0))
    assert "6 frames" in figure.texts[-1].get_text().replace("\n", " ")
