"""The comparison of conformers: what a task measures, and known rows in exact cells, columns and plotted data."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdMolTransforms

from molkit.cgcf import conformers
from molkit.cgcf.config import FlowConfig
from molkit.cgcf.conformers import draw_distances
from molkit.cgcf.datasets import graph_of
from molkit.cgcf.energy import EnergyConfig, EnergyNetwork
from molkit.cgcf.energy_training import save_energy
from molkit.cgcf.graph import collate
from molkit.cgcf.model import build_flow, load_flow, save_flow
from molkit.chem.bond_graph import graph_mol
from molkit.chem.rdkit_conformers import rdkit_conformers
from molkit.chem.rdkit_tools import plain_smiles
from molkit.chem.torsions import torsion_angles
from molkit.claims.ledger import REPOSITORY
from molkit.data.ensembles import Ensemble, ensemble_mol, load_ensembles
from molkit.data.qm9 import load_qm9
from molkit.errors import CalculationFailed, DataNotFound, InvalidInput
from molkit.experiments import run as running
from molkit.experiments.experiment import key_of
from molkit.experiments.run import account_of, run
from molkit.experiments.show import mean_with_interval, show
from molkit.experiments.store import Store
from molkit.figures import plots
from molkit.metrics.conformers import MEASURES
from molkit.rng import generator_from
from molkit.studies.conformers import arms as arms_module
from molkit.studies.conformers import comparison as ask
from molkit.studies.conformers import conformers_drugs, conformers_qm9, distances, energy_tilt, ensembles, flow
from molkit.studies.conformers.arms import ARMS, Task, bond_spread, ensembles_of, measure_arms, tasks_on, thinned


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "WORK", tmp_path / "work")


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


def ensemble(name: str = "ethanol", smiles: str = "CCO") -> Ensemble:
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


@pytest.fixture
def sets(monkeypatch):
    """Ethanol and propionic acid in the place of a set."""
    found = {"ethanol": ensemble(), "acid": ensemble("acid", "CCC(=O)O")}
    monkeypatch.setattr(arms_module, "ensembles_of", lambda _: found)
    return found


def task(weights, energy="", **changes):
    about = {"molecule": "ethanol", "seed": 0, "arms": tuple(ARMS) if energy else ("rdkit", "flow"), "data": "toys"}
    kept = {"threshold": 0.5, "max_references": 5, "stereo": "mirror"}
    return Task(weights=weights, energy=energy, **(about | kept | changes))


def test_one_molecule_by_every_arm(weights, energy, sets):
    """The ETM starts from the flow's conformers; energies stand above the lowest reference."""
    rows = {row["arm"]: row for row in measure_arms(task(weights, energy, num_energies=1))}
    assert list(rows) == list(ARMS) and all(len(row["nearest"]) == 2 for row in rows.values())
    assert all((row["num_references"], row["num_generated"], row["num_failed"]) == (2, 4, 0) for row in rows.values())
    assert abs(rows["rdkit"]["energy_kcal"]) < 10.0 and rows["rdkit"]["energy_failed"] == 0
    assert rows["etm"]["seconds"] > rows["flow"]["seconds"] and rows["etm"]["mat_recall"] != rows["flow"]["mat_recall"]
    assert rows["rdkit"]["cov_recall"] == 1.0 and max(rows["rdkit"]["nearest"]) <= 0.5
    for row in rows.values():
        near = np.array(row["nearest"])
        assert row["mat_recall"] == pytest.approx(near.mean(), abs=1e-3)
        assert row["cov_recall"] == (near <= 0.5).mean()
        assert 0.5 < row["radius_of_gyration"] < 5.0 and row["reference_radius"] == rows["rdkit"]["reference_radius"]


def test_only_the_arms_that_are_asked_for_are_made(weights, energy, sets):
    asked = task(weights, energy, stereo="redraw", arms=("etm", "flow_ff"))
    assert [row["arm"] for row in measure_arms(asked)] == ["etm", "flow_ff"]


def test_a_molecule_without_conformers_by_rdkit_counts_as_not_covered(weights, sets, monkeypatch):
    def none_found(*_: object, **__: object) -> np.ndarray:
        raise CalculationFailed("no 3D geometry")

    monkeypatch.setattr(conformers, "rdkit_conformers", none_found)
    none, made = measure_arms(task(weights))
    assert (none["num_generated"], none["num_failed"], none["cov_recall"], none["cov_precision"]) == (0, 4, 0.0, 0.0)
    assert np.isnan([none["mat_recall"], none["mat_precision"], none["bond_spread"]]).all() and none["nearest"] == []
    assert made["num_failed"] == 0
    rows = pd.DataFrame([{"molecule": "ethanol", **none}])
    assert ask.coverage_curves(rows, 5.0, num_points=2)["covered"].tolist() == [0.0, 0.0]


def test_the_ways_of_rdkit_are_arms_that_need_no_weights(sets, monkeypatch):
    """Known torsions and a force field bring conformers nearer; the force field starts from the very conformers."""
    (asked,) = ensembles.tasks(molecules=1)
    assert asked.arms == ("plain", "etkdgv1", "plain_ff", "etkdgv1_ff", "rdkit", "rdkit_ff")
    assert [path.name for path in asked.files] == ["conformers_dft.npz", "drug_size_splits.csv.gz"]
    started = []
    relaxed = arms_module.relaxed
    monkeypatch.setattr(arms_module, "relaxed", lambda made: started.append(made.positions) or relaxed(made))
    rows = {row["arm"]: row for row in ensembles.measure(replace(asked, molecule="acid"))}
    methods = [("plain", "plain"), ("etkdgv1", "etkdgv1"), ("rdkit", "etkdgv3")]
    for found, (_, method) in zip(started, methods, strict=True):
        np.testing.assert_array_equal(found, rdkit_conformers(ensemble_mol(sets["acid"]), 4, method=method, seed=0))
    assert all(rows[f"{arm}_ff"]["bond_spread"] < 0.5 * rows[arm]["bond_spread"] for arm, _ in methods)
    assert all(row["num_generated"] == 4 for row in rows.values())


def test_the_sets_are_counted_split_by_split():
    found = ensembles.sets()
    outside = found[found["set"] == "conformers_dft"]
    assert outside["molecules"].sum() == 708 and list(outside["split"]) == ["train", "valid", "test"]
    test = load_ensembles("conformers_dft", split="test")
    row = outside[outside["split"] == "test"].iloc[0]
    counts = [len(one) for one in test]
    assert (row["molecules"], row["conformers"]) == (len(test), sum(counts))
    assert (row["median"], row["most"]) == (np.median(counts), max(counts))
    assert row["atoms"] == f"{min(one.num_atoms for one in test)}–{max(one.num_atoms for one in test)}"


def test_what_making_an_ensemble_kept_and_its_energies_are_shown_as_they_are():
    one = replace(ensemble(), counts={"starts": 8, "duplicates": 3})
    assert ensembles.kept(one).to_numpy().tolist() == [["starts", 8], ["duplicates", 3], ["in the ensemble", 2]]
    left, right = ensembles.draw_energies(
        [one, replace(one, energies=np.array([30.0, 0.0]))], name="ensembles_qm9"
    ).axes
    heights, edges = [bar.get_height() for bar in left.patches], [bar.get_x() for bar in left.patches]
    assert [edge for edge, height in zip(edges, heights, strict=True) if height] == [0.0, 19.5] and sum(heights) == 2
    share = 100.0 / (1.0 + np.exp(-0.3 / 0.592484))
    (low,) = [bar.get_x() for bar in right.patches if bar.get_height() and bar.get_x() < 90.0]
    assert low <= share < low + 4.0 and "kcal/mol" in left.get_xlabel() and "%" in right.get_xlabel()


def test_the_symmetry_of_the_rmsd_is_an_option(weights, sets):
    """Without symmetry no reference comes nearer; the ends of a carboxyl group are alike in one of the others only."""
    nearest = {}
    for symmetry in ("graph", "conjugated", "none"):
        (row,) = measure_arms(task(weights, molecule="acid", arms=("rdkit",), symmetry=symmetry))
        nearest[symmetry] = np.array(row["nearest"])
    assert np.all(nearest["conjugated"] <= nearest["graph"]) and np.all(nearest["graph"] <= nearest["none"])
    assert not np.allclose(nearest["conjugated"], nearest["none"])


def test_the_spread_of_bonds_is_the_deviation_of_their_lengths():
    one = ensemble()
    longer = one.positions[:1].repeat(2, axis=0)
    assert bond_spread(one, longer) == pytest.approx(0.0, abs=1e-12)
    longer[1] *= 1.1
    lengths = np.linalg.norm(longer[:, one.bonds[:, 0]] - longer[:, one.bonds[:, 1]], axis=-1)
    assert bond_spread(one, longer) == pytest.approx(0.05 * lengths[0].mean())


def test_references_are_thinned_evenly():
    positions = np.arange(10)[:, None, None] * np.ones((10, 2, 3))
    assert thinned(positions, 5)[:, 0, 0].tolist() == [0, 2, 4, 6, 8]
    assert len(thinned(positions, 20)) == 10


def test_tasks_are_spread_over_a_split_the_first_seed_first_and_name_their_weights_and_data(weights, tmp_path):
    made = conformers_qm9.tasks(molecules=3, seeds=(0, 4), arms=("flow_ff", "rdkit"), weights=weights, energy="")
    names = [one.name for one in load_ensembles("ensembles_qm9", split="test", limit=3)]
    assert [(one.molecule, one.seed) for one in made] == [(name, seed) for seed in (0, 4) for name in names]
    assert {one.arms for one in made} == {("rdkit", "flow_ff")} and made[0].threshold == 0.5
    assert [path.name for path in made[0].files] == ["weights.safetensors", "config.yaml", "ensembles_qm9.npz"]
    assert conformers_drugs.tasks(molecules=1, data="conformers_dft")[0].files[-1].name == "drug_size_splits.csv.gz"
    valid = conformers_qm9.tasks(molecules=3, split="valid")
    assert not {one.molecule for one in valid} & {one.molecule for one in conformers_qm9.tasks()}
    assert set(ensembles_of("ensembles_qm9")) >= {one.molecule for one in valid}
    first = key_of(made[0])
    assert key_of(replace(made[0], stereo="ignore")) != first


def test_unknown_words_and_empty_splits_end_in_a_line(weights):
    asked = {"weights": weights, "energy": "", "threshold": 1.0, "max_references": 1}
    about = {"split": "test", "molecules": 1, "seeds": (0,)}
    for words, changes in (
        ("unknown arm 'none'", {"arms": ("none",), "stereo": "mirror"}),
        ("unknown stereo 'keep'", {"arms": ("rdkit",), "stereo": "keep"}),
        ("unknown symmetry 'x'", {"arms": ("rdkit",), "stereo": "mirror", "symmetry": "x"}),
    ):
        with pytest.raises(InvalidInput, match=words):
            tasks_on("conformers_dft", **about, **asked, **changes)
    with pytest.raises(InvalidInput, match="valid is empty"):
        conformers_drugs.tasks(split="valid")
    with pytest.raises(DataNotFound, match="nothing"):
        run(conformers_qm9.measure, conformers_qm9.tasks(molecules=1, weights="nothing"))


def test_molecules_that_the_weights_cannot_treat_are_left_out_with_the_reason(weights):
    """Of these four molecules the toy knows the elements of some only."""
    account = account_of(run(flow.measure, flow.tasks(molecules=4, weights=weights), recompute="all"))
    assert account.failures and all("trained without" in reason for reason in account.failures.values())
    assert account.num_rows == 5 * (4 - len(account.failures)) > 0


def rows_with(**measured) -> pd.DataFrame:
    """Two seeds of molecules a, b, c by arms; a value a molecule, the second seed 0.1 higher in coverage."""
    lines = []
    for arm, (cov, mat, spread) in measured.items():
        for seed in (0, 1):
            for k, molecule in enumerate("abc"):
                c, m = cov[k] + 0.1 * seed, mat[k]
                numbers = {"cov_recall": c, "mat_recall": m, "cov_precision": c / 2, "mat_precision": 2 * m}
                rest = {"bond_spread": spread, "radius_of_gyration": 2.0 + k, "energy_kcal": None, "seconds": 0.01}
                counts = {"num_references": k + 1, "num_failed": seed, "nearest": [m, m + 0.2], "weights": "w"}
                lines.append({"arm": arm, "molecule": molecule, "seed": seed, **numbers, **rest, **counts})
    return pd.DataFrame(lines)


def test_known_rows_give_known_cells():
    rows = rows_with(rdkit=([0.1, 0.3, 0.8], [0.5, 0.4, 0.3], 0.01), flow=([0.2, 0.2, 0.2], [0.6, 0.6, 0.6], 0.05))
    molecules = ask.per_molecule(rows)
    assert molecules["molecule"].tolist() == [*"abcabc"] and molecules["cov_recall"].round(6).tolist()[:3] == [
        0.15,
        0.35,
        0.85,
    ]
    table = show(mean_with_interval(molecules, MEASURES, by="arm"), ask.COVERAGE, "")
    assert table.heads == ("method", "COV-R, %", "MAT-R, Å", "COV-P, %", "MAT-P, Å")
    assert [cell.split("\n")[0] for cell in table.cells[0]] == ["ETKDGv3", "45.0", "0.400", "22.5", "0.800"]
    assert table.cells[1][1:3] == ("25.0\n[25.0, 25.0]", "0.600\n[0.600, 0.600]")
    geometry = show(ask.geometry(rows), ask.GEOMETRY, "")
    assert geometry.cells == (
        ("ETKDGv3", "0.010", "3.00", "10", "3"),
        ("CGCF", "0.050", "3.00", "10", "3"),
    )
    assert ask.references(rows) == 6
    table = show(ask.differences(molecules, [("rdkit", "flow")]), ask.DIFFERENCES, "")
    assert table.cells[0][:2] == ("ETKDGv3", "CGCF")
    assert [cell.split("\n")[0] for cell in table.cells[0][2:]] == ["20.0", "−0.200", "10.0", "−0.400"]


def test_energies_are_medians_over_molecules():
    rows = rows_with(rdkit=([0.1] * 3, [0.5] * 3, 0.01))
    rows["energy_kcal"] = [1.0, 2.0, 9.0, 3.0, 4.0, 9.0]
    assert show(ask.geometry(rows), ask.GEOMETRY | ask.ENERGY, "").cells[0][-1] == "3.0"


def test_curves_start_at_nothing_and_rise_at_the_distances_and_are_drawn_as_they_are():
    rows = rows_with(rdkit=([0.1] * 3, [0.11, 0.31, 0.51], 0.01), etm=([0.1] * 3, [0.21] * 3, 0.01))
    grid = [0.0, 0.2, 0.4, 0.6]
    found = ask.coverage_curves(rows, 0.6, num_points=4)
    by_arm = {arm: group["covered"].tolist() for arm, group in found.groupby("arm")}
    assert by_arm["rdkit"] == pytest.approx([0.0, 1 / 6, 3 / 6, 5 / 6]) and by_arm["etm"] == [0.0, 0.0, 0.5, 1.0]
    about = {"by": "arm", "names": ARMS, "lines": ask.LINES, "xlabel": "x", "ylabel": "y", "caption": "c"}
    (axis,) = plots.curves(found, "threshold", "covered", factor=100.0, mark=0.5, **about).axes
    drawn = {line.get_label(): line for line in axis.lines}
    assert drawn["ETKDGv3"].get_xdata() == pytest.approx(grid)
    assert drawn["ETKDGv3"].get_ydata() == pytest.approx(100.0 * np.array(by_arm["rdkit"]))
    assert drawn[ARMS["etm"]].get_ydata() == pytest.approx([0.0, 0.0, 50.0, 100.0])
    assert axis.lines[-1].get_xdata() == [0.5, 0.5] and (axis.get_xlabel(), axis.get_ylabel()) == ("x", "y")


def test_a_mixed_pool_is_compared_with_two_draws_of_the_first_and_one_draw_gives_no_line():
    """Two references, two draws: the second draw of ETKDGv3 finds nothing new, the flow's both find the other one."""
    near = {
        ("rdkit_ff", 0): [0.1, 0.9],
        ("rdkit_ff", 1): [0.2, 0.8],
        ("flow_ff", 0): [2.0, 0.3],
        ("flow_ff", 1): [],
    }
    about = {"molecule": "one", "num_references": 2}
    rows = pd.DataFrame([{"arm": arm, "seed": seed, "nearest": found, **about} for (arm, seed), found in near.items()])
    found = ask.pools(rows, "rdkit_ff", "flow_ff", (0.15, 0.5))
    assert found["threshold"].tolist() == [0.15, 0.5]
    values = {name: [one.value for one in found[name]] for name in ("twice", "mixed", "gain")}
    assert values == {"twice": [0.5, 0.5], "mixed": [0.25, 0.75], "gain": [-0.25, 0.25]}
    assert ask.pools(rows[rows["seed"] == 0], "rdkit_ff", "flow_ff", (0.5,)).empty


def test_points_lie_where_both_have_a_value_and_the_axes_are_not_swapped():
    first, second = pd.Series({"a": 1.0, "b": 2.0, "c": 3.0}), pd.Series({"b": 0.5, "a": 0.25, "c": None})
    (axis,) = plots.against(first, second, xlabel="first", ylabel="second", caption="").axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("first", "second")
    assert axis.lines[0].get_xdata().tolist() == [1.0, 2.0] and axis.lines[0].get_ydata().tolist() == [0.25, 0.5]
    assert list(axis.lines[1].get_xdata()) == list(axis.lines[1].get_ydata())


def test_a_forest_has_a_whisker_for_each_interval_and_its_numbers_beside_it():
    """First row behind and decided, second undecided (hollow); recall above precision; one molecule: no line."""
    rows = rows_with(rdkit=([0.8] * 3, [0.5] * 3, 0.01), flow=([0.5, 0.4, 0.6], [0.6] * 3, 0.05),
                     etm=([0.5, 0.6, 0.4], [0.6] * 3, 0.05))  # fmt: skip
    molecules, pairs = ask.per_molecule(rows), [("flow", "rdkit"), ("etm", "flow")]
    (axis,) = ask.forest(molecules, pairs, told="Made.").axes
    dots = [line for line in axis.lines if line.get_marker() == "o" and len(line.get_xdata()) == 1]
    whiskers = [line for line in axis.lines if len(line.get_xdata()) == 2 and line.get_marker() == "None"][1:]
    assert [float(dot.get_xdata()[0]) for dot in dots] == pytest.approx([-30.0, 0.0, -15.0, 0.0])
    heights = [float(dot.get_ydata()[0]) for dot in dots]
    assert heights[0] < heights[2] < heights[1] < heights[3] and axis.get_ylim()[0] > axis.get_ylim()[1]
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [False, True, False, True]
    one = ask.difference(molecules, "flow", "rdkit", "cov_recall").scaled(100.0)
    assert list(whiskers[0].get_xdata()) == [one.low, one.high]
    assert axis.texts[0].get_text() == f"−30.0 [{one.low:+.1f}, {one.high:+.1f}]".replace("-", "−")
    assert [text.get_text() for text in axis.get_yticklabels()] == ["CGCF\nless ETKDGv3", "CGCF + tilt\nless CGCF"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["recall, COV-R", "precision, COV-P"]
    assert "percentage points" in axis.get_xlabel()
    (alone,) = ask.forest(molecules[molecules["molecule"] == "a"], pairs[:1], told="").axes
    assert [text.get_text() for text in alone.texts] == ["−30.0", "−15.0"]


def test_aims_are_judged_by_their_intervals():
    """CGCF + MMFF94 five points behind misses its aim; ETM equal to the flow has no order."""
    cov, mat = [0.6, 0.7, 0.8], [0.3, 0.2, 0.1]
    same = {
        arm: (cov, mat, 0.03)
        for arm in ("rdkit", "rdkit_ff", "flow", "flow_published", "etm", "etm_published", "etm_ff")
    }
    found = ask.aims(ask.per_molecule(rows_with(**same, flow_ff=([c - 0.05 for c in cov], mat, 0.03))))
    assert found["verdict"].tolist() == ["no order found", "no order found", "not met", "met", "", "not met"]
    assert (
        found["measured"][2] == "−5.0 [−5.0, −5.0] points, +0.000 Å"
        and found["measured"][4] == "0.030 [0.030, 0.030] Å"
    )
    for change, verdict in ((-0.1, "better in one of two"), (0.1, "worse in at least one")):
        pair = {"flow_published": (cov, mat, 0.1), "etm_published": (cov, [m + change for m in mat], 0.1)}
        assert ask.aims(ask.per_molecule(rows_with(**pair)))["verdict"].tolist() == [verdict]
    better = {"flow": (cov, mat, 0.1), "etm": ([c + 0.1 for c in cov], [m - 0.05 for m in mat], 0.01)}
    assert ask.aims(ask.per_molecule(rows_with(**better)))["verdict"].tolist() == ["better in both", "", "met"]
    unsure = {"rdkit_ff": (cov, mat, 0.1), "flow_ff": ([0.5, 0.7, 0.9], mat, 0.1)}  # equal in the mean alone
    assert ask.aims(ask.per_molecule(rows_with(**unsure)))["verdict"].tolist() == ["not met"]


def test_weights_are_compared_on_the_same_molecules_in_pairs():
    first = rows_with(etm=([0.1, 0.9, 0.5], [0.5] * 3, 0.01))
    second = rows_with(etm=([0.2, 1.0, 0.6], [0.4] * 3, 0.02))
    table = show(ask.changes({"old": first, "new": second}, "etm"), ask.CHOICE, "")
    assert [cell.split("\n")[0] for cell in table.cells[0]] == ["old", "55.0", "0.5000", "0.0100"]
    assert table.cells[1] == (
        "new", "10.0\n[10.0, 10.0]", "−0.1000\n[−0.1000, −0.1000]", "0.0100\n[0.0100, 0.0100]",
    )  # fmt: skip
    with pytest.raises(InvalidInput, match="new: measured on other molecules than old"):
        ask.changes({"old": first, "new": second[second["molecule"] != "a"]}, "etm")


def test_orders_are_recorded_from_rows_for_the_arms_that_are_there():
    """The stored rows of the page: arms that are not among them give no record; units are those of the claims."""
    rows = run(conformers_qm9.measure, conformers_qm9.tasks(molecules=5, seeds=(0,)))
    found = {one.claim_id.removeprefix("cgcf.order.qm9."): one for one in ask.record_orders(rows, "qm9")}
    assert set(found) == {"etm_cov", "etm_mat", "etm_ff_cov", "ff_mat", "rdkit_cov", "rdkit_etm_cov"}
    wide = {name: rows.pivot(index="molecule", columns="arm", values=name).mean() for name in MEASURES}
    for name, arm, other, measure, factor in (
        ("etm_cov", "etm", "flow", "cov_recall", 100.0),
        ("etm_mat", "etm", "flow", "mat_recall", 1.0),
        ("ff_mat", "flow_ff", "flow", "mat_recall", 1.0),
        ("rdkit_cov", "rdkit", "flow", "cov_recall", 100.0),
        ("rdkit_etm_cov", "rdkit", "etm", "cov_recall", 100.0),
    ):
        assert found[name].value == pytest.approx(factor * (wide[measure][arm] - wide[measure][other]))
    assert {(one.n, one.weights, one.seeds) for one in found.values()} == {(5, "cgcf_qm9", (0,))}
    assert found["etm_cov"].recorded < "2026-11-22" or account_of(rows).state == "fresh"


@pytest.mark.parametrize(
    "made",
    [
        conformers_qm9.tasks(),
        conformers_qm9.tasks(arms=("flow_published", "etm_published"), stereo="mirror", max_references=8),
        conformers_qm9.tasks(
            molecules=33, seeds=(0,), arms=tuple(ARMS), stereo="mirror", max_references=4, num_energies=2
        ),
        conformers_qm9.tasks(molecules=60, split="valid", arms=("flow", "etm", "flow_ff", "etm_ff")),
        conformers_drugs.tasks(),
        conformers_drugs.tasks(data="conformers_dft", molecules=200, seeds=(0,), max_references=12),
        flow.tasks(),
    ],
    ids=lambda made: f"{len(made)} {made[0].data} {made[0].arms[0]}",
)
def test_the_store_holds_every_task_that_a_page_of_the_fast_profile_asks_for(made):
    name = {"ensembles_qm9": "conformers_qm9", "ensembles_drugs": "conformers_drugs"}.get(made[0].data)
    name = name or ("flow" if made[0].energy == "" else "conformers_drugs")
    stored = Store(name, REPOSITORY / "data" / "experiments").read().entries
    assert [one.molecule for one in made if key_of(one) not in stored] == []


def test_distances_of_every_arm_against_themselves_and_in_the_order_of_the_pairs(weights, energy, monkeypatch):
    """RDKit's conformers score zero against themselves; the flow's own distances stand under their own pairs."""
    one = ensemble("butanol", "CCCCO")
    one = replace(one, positions=rdkit_conformers(graph_mol("CCCCO"), 4, seed=0))
    monkeypatch.setattr(distances, "ensembles_of", lambda _: {"butanol": one})
    asked = distances.Task("butanol", 0, 4, weights, energy)
    rows = {row["arm"]: row for row in distances.measure(asked)}
    assert list(rows) == list(distances.ARMS) and rows["rdkit"]["num_frames"] == 4
    for kind in ("single", "published", "complete", "all"):
        assert rows["rdkit"][kind] == pytest.approx(0.0, abs=1e-6) and 0.0 < rows["flow"][kind] < 10.0
    assert np.isnan(rows["distances"]["diversity"]) and rows["flow"]["diversity"] > 0.0
    found, graph = distances.drawn(asked), collate([graph_of(ensemble_mol(one))])
    drawn = draw_distances(load_flow(weights).flow, graph, 4, generator=generator_from("raw", "butanol", 0)).numpy()
    for column, pair in enumerate(found.edges.T):
        (row,) = np.flatnonzero((pair == graph.pairs.numpy().T).all(1))
        np.testing.assert_allclose(found.distances["distances"][:, column], drawn[:, row], rtol=1e-5)
        assert found.hops[column] == graph.hops[row]
    left, right = distances.draw_histograms(found).axes
    assert "over 1 bond," in left.get_xlabel() and "over 3 bonds," in right.get_xlabel()


def test_isomers_are_compared_that_neither_training_saw():
    found = {one.name for one in distances.unseen("cgcf_qm9", "etm_qm9")}
    assert len(found) == 17 and not found & set(load_qm9(split="train", limit=40000).names)
    seen = {plain_smiles(ensemble_mol(one)) for one in load_ensembles("ensembles_qm9", split="train")}
    assert not {plain_smiles(ensemble_mol(one)) for one in load_ensembles(distances.DATA) if one.name in found} & seen
    made = distances.tasks(isomers=3)
    assert [one.name for one in distances.unseen("cgcf_qm9", "etm_qm9")[:3]] == [one.molecule for one in made]


def test_extended_graphs_have_the_sizes_of_the_published_code():
    rows = {task.name: flow.measure_graphs(task)[0] for task in flow.tasks_graphs()}
    assert {name: row["directed"] for name, row in rows.items()} == {
        "butanol": 138,
        "ibuprofen": 336,
        "metoprolol": 440,
    }
    counts = {"num_atoms": 15, "hops_1": 14, "hops_2": 25, "hops_3": 30, "directed": 138, "num_parameters": 54249}
    assert rows["butanol"] == counts


def test_more_steps_err_less_and_the_converged_search_ends_lower(weights):
    """Of the published weights; both searches are given the same distances."""
    four, sixteen = (flow.measure_solver(task)[0] for task in flow.tasks_solver(steps=(4, 16), count=2))
    assert sixteen["error"] < 0.1 * four["error"] < 0.1 and (four["evaluations"], sixteen["evaluations"]) == (16, 64)
    rows = pd.DataFrame([
        {"how": task.how, "smiles": task.smiles, **flow.measure_search(task)[0]}
        for task in flow.tasks_search(smiles=("CCO",), count=3)
    ])  # fmt: skip
    published, default = rows.itertuples()
    assert (published.how, default.how) == ("published", "default") and default.mean_stress < published.mean_stress
    (cost,) = flow.cost(rows).itertuples()
    assert cost.published == published.draw_ms + published.search_ms > cost.default
    assert cost.ratio == pytest.approx(cost.published / cost.default)


def test_probes_average_to_the_exact_likelihood_and_noise_costs(weights):
    (row,) = flow.measure_likelihood(flow.tasks_likelihood(molecules=2, num_probes=20)[0])
    assert abs(row["gap"]) < 5.0 and row["noised"] > row["clean"]


def test_a_film_begins_with_noise_and_its_pairs_are_drawn_by_the_bonds_between_them():
    found = flow.film("cgcf_qm9", "CCO", num_draws=20, num_frames=3, seed=0)
    first, last = flow.draw_film(found, num_shown=2).axes
    assert first.get_title() == f"t = {found.times[0]:.2f}" and last.get_title() == "t = 0.00"
    bonded = found.frames[-1][:, found.hops == 1]
    assert found.frames[0][:, found.hops == 1].std() > 2.0 * bonded.std() and 0.9 < bonded.mean() < 1.5
    heights = [bar.get_height() for bar in last.containers[0]]
    assert sum(heights) == bonded.size


def test_torsions_are_read_off_the_right_atoms_and_drawn_under_their_way(monkeypatch):
    """The angle of a flat amide, C-C-N-C, not O-C-N-C, is RDKit's own measure of it."""
    mol = graph_mol("CC(=O)NC")
    placed = rdkit_conformers(mol, 3, seed=1)
    mol.RemoveAllConformers()
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(placed[0].astype(float))
    angle = abs(rdMolTransforms.GetDihedralDeg(conformer, 0, 1, 3, 4))
    assert torsion_angles(mol, flow.TORSIONS["amide"][0], placed).shape == (3, 1)
    assert torsion_angles(mol, flow.TORSIONS["amide"][0], placed)[0, 0] == pytest.approx(angle, abs=1e-6)
    assert [bool(flow.TORSIONS[kind][1](angle)) for kind, angle in (("amide", 175.0), ("amide", 5.0), ("amide", 60.0),
            ("ring", 5.0), ("ring", 175.0), ("chain", 175.0), ("chain", 60.0))] == [1, 1, 0, 1, 0, 1, 0]  # fmt: skip
    made = [{"arm": arm, "kind": "ring", "molecule": "a", "counted": share, "angles": np.eye(18, dtype=int)[k].tolist()}
            for k, (arm, share) in enumerate({"flow": 0.25, "references": 1.0}.items())]  # fmt: skip
    rows = pd.DataFrame(made + [{**made[0], "molecule": "b", "counted": 0.75}, {**made[1], "molecule": "b"}])
    found = flow.torsion_shares(rows)
    assert found["arm"].tolist() == ["references", "flow"] and [one.value for one in found["ring"]] == [1.0, 0.5]
    monkeypatch.setattr(flow, "LOOKED_AT", {arm: flow.LOOKED_AT[arm] for arm in ("references", "flow")})
    (axis,) = flow.draw_torsions(rows).axes
    heights = {patch.get_label(): patch.get_data().values.tolist() for patch in axis.patches}
    assert heights["CGCF"] == [100.0] + 17 * [0.0] and heights["DFT references"][:2] == [0.0, 100.0]
    assert "°" in axis.get_xlabel()


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("ensembles", ensembles.tasks(molecules=24)),
        ("flow_graphs", flow.tasks_graphs()),
        ("flow_solver", flow.tasks_solver()),
        ("flow_search", flow.tasks_search()),
        ("flow_torsions", flow.tasks_torsions()),
        ("flow_likelihood", flow.tasks_likelihood()),
        ("energy_tilt", energy_tilt.tasks()),
        ("energy_tilt", energy_tilt.tasks(molecules=8, arms=("etm", "langevin"), num_energies=0, network="")),
        ("energy_tilt_pool", energy_tilt.tasks_pool()),
        ("energy_tilt_levels", energy_tilt.tasks_levels()),
        ("energy_tilt_walks", energy_tilt.tasks_walks()),
        ("distances", distances.tasks()),
    ],
)
def test_the_store_holds_every_task_of_the_other_pages_of_the_fast_profile(name, made):
    stored = Store(name, REPOSITORY / "data" / "experiments").read().entries
    assert [one for one in made if key_of(one) not in stored] == []
