"""The parts of the tilt: what a task measures at the smallest size, and known rows in exact cells and plotted data."""

import re
from dataclasses import replace
from html import unescape

import numpy as np
import pandas as pd
import pytest
import torch

from molkit.cgcf.conformers import Conformers
from molkit.cgcf.datasets import graph_of
from molkit.cgcf.graph import collate
from molkit.cgcf.loaded import shared_energy
from molkit.chem.bond_graph import graph_mol
from molkit.data.ensembles import ensemble_mol, load_ensembles
from molkit.errors import InvalidInput
from molkit.experiments import run as running
from molkit.experiments.run import run
from molkit.studies.conformers import energy_tilt as room
from molkit.studies.conformers.overlays import overlay_grid, overlays

FLOW, ENERGY = "cgcf_qm9", "etm_qm9"
FEW = {"molecules": 2, "max_references": 1, "num_energies": 0, "network": ""}


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "WORK", tmp_path / "work")


@pytest.fixture(scope="module")
def measured():
    """One small molecule by the parts of the tilt."""
    return {row["arm"]: row for row in room.measure(room.tasks(**FEW, arms=("flow", "etm", "springs"))[0])}


def test_each_part_narrows_the_bonds_of_the_very_same_conformers(measured):
    flow, springs, both = (measured[arm] for arm in ("flow", "springs", "etm"))
    assert springs["bond_error"] < 0.3 * flow["bond_error"] and both["bond_error"] < 0.3 * flow["bond_error"]
    assert both["bond_error"] != springs["bond_error"]
    one = load_ensembles("ensembles_qm9", split="valid", limit=2)[0]
    assert all(0 < sum(row["gaps"]) <= len(one.bonds) * row["num_generated"] for row in measured.values())


def test_springs_alone_are_the_energy_without_its_network():
    """Springs and network add up to the whole; an energy without springs has none to leave alone."""
    energy, graph = shared_energy(ENERGY), collate([graph_of(graph_mol("CCO"))])
    positions = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0))
    alone = room.springs_alone(energy)(graph, positions)
    assert torch.allclose(alone, energy.springs(graph).energies(positions).sum(-1))
    assert not torch.allclose(alone, energy(graph, positions))
    bare = replace(energy.config, template_width=0)
    with pytest.raises(InvalidInput, match="no springs"):
        room.springs_alone(type(energy)(bare))


def test_every_part_follows_its_own_energy(monkeypatch):
    """A network of its own where one is named, the published energy with noise and nothing cut for the sampler."""
    asked = room.tasks(**FEW)[0]
    monkeypatch.setattr(room, "shared_energy", lambda name, flow: f"{name} of {flow}")
    monkeypatch.setattr(room, "springs_alone", lambda energy: f"springs of {energy}")
    tilts = room.tilts_of(replace(asked, network="other"))
    assert {arm: energy for arm, (energy, _) in tilts.items()} == {
        "etm": f"{ENERGY} of {FLOW}",
        "springs": f"springs of {ENERGY} of {FLOW}",
        "network": f"other of {FLOW}",
        "langevin": f"{ENERGY} of {FLOW}",
    }
    sampler = tilts["langevin"][1]
    assert (sampler.noise_scale, sampler.log_weight, sampler.clip) == (1.0, 1.0, float("inf"))
    assert tilts["etm"][1].noise_scale == tilts["etm"][1].log_weight == 0.0


def test_clashes_count_only_pairs_beyond_three_bonds_and_bonds_are_compared_with_the_lowest_reference():
    graph = collate([graph_of(graph_mol("CC"))])
    assert room.clashes(graph, np.zeros((1, 8, 3))) == 0.0
    one = load_ensembles("ensembles_qm9", split="valid", limit=1)[0]
    mol, lowest = ensemble_mol(one), one.positions[[int(np.argmin(one.energies))]]
    made = Conformers(one.smiles, mol, lowest, np.zeros(1), np.ones(1, bool), np.ones(1, bool), np.array(["cgcf"]))
    own = room.geometry_of(one, made)
    assert own["bond_error"] == 0.0 and own["clashes"] == 0.0 and own["gaps"][30] == len(one.bonds)
    wider = room.geometry_of(one, replace(made, positions=1.1 * lowest))
    mean = np.linalg.norm(lowest[0, one.bonds[:, 0]] - lowest[0, one.bonds[:, 1]], axis=-1).mean()
    assert wider["bond_error"] == pytest.approx(0.1 * mean, abs=1e-4) and wider["gaps"][30] == 0
    assert room.geometry_of(one, replace(made, positions=0.2 * lowest))["clashes"] > 0.0


def test_half_of_a_pool_is_chosen_by_what_it_is_called(monkeypatch):
    """Every way scores as many conformers; those of lowest MMFF94 energy are the lowest."""
    asked, kept = room.tasks_pool(molecules=2, max_references=1, network="")[0], []
    score = room.score_conformers
    monkeypatch.setattr(room, "score_conformers", lambda task: kept.append(task.generated) or score(task))
    pools = []
    energies_of = room.energies_of
    monkeypatch.setattr(room, "energies_of", lambda pool, task: pools.append(pool) or energies_of(pool, task))
    rows = room.measure_pool(asked)
    assert [row["chosen"] for row in rows] == list(room.CHOSEN) and {len(one) for one in kept} == {2}
    (pool,) = pools
    lowest = pool.positions[np.argsort(pool.energies["mmff94_kcal"])[:2]]
    np.testing.assert_array_equal(kept[list(room.CHOSEN).index("mmff94")], lowest)


def test_the_bridge_widens_from_the_data_to_the_flow():
    rows = room.measure_levels(room.tasks_levels(molecules=3)[1])
    shares, gaps = [row["share"] for row in rows], [row["deviation"] for row in rows]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert gaps == sorted(gaps) and gaps[0] < 0.01 < 0.05 < gaps[-1]


def test_four_walks_are_named_for_what_they_are():
    (one, target, noisy, sampler) = (
        room.measure_walks(task)[0] for task in room.tasks_walks(smiles="CO", count=2, num_steps=3)
    )
    assert one["name"] == target["name"] == "refinement without noise"
    assert noisy["name"] == sampler["name"] == "Langevin dynamics"
    assert one["start"] != target["start"] == noisy["start"] == sampler["start"]
    assert noisy["clipped"] > 0.1 and sampler["clipped"] == 0.0


def test_the_learning_curve_has_a_line_for_each_step_of_the_bridge():
    found = room.told_apart(ENERGY)
    assert list(found["levels"].unique())[0] == "0 from 0.04" and found["levels"].nunique() == 6
    assert found["right"].between(0.4, 1.0).all() and found.groupby("levels")["step"].is_monotonic_increasing.all()
    with pytest.raises(InvalidInput, match="no learning curve"):
        room.told_apart(FLOW)


def test_springs_of_propanol_are_its_bonds_and_angles():
    """Lengths known to any chemist: C-C 1.53, C-O 1.43, C-H 1.09, C...C over one atom 2.5 angstrom."""
    rows = room.springs_of(ENERGY, "CCCO").set_index("ends")
    for ends, length, hops in (("C1–C2", 1.53, 1), ("C3–O4", 1.42, 1), ("C1–H5", 1.09, 1), ("C1–C3", 2.52, 2)):
        assert rows["length"][ends] == pytest.approx(length, abs=0.03 * hops) and rows["hops"][ends] == hops
    assert rows["width"].between(0.0, 0.1).all() and rows.index.str.contains("H").sum() == 4


def test_the_orders_of_the_tilt_are_those_of_the_arms_they_name(monkeypatch):
    """Made rows; the account is that of a run."""
    rows = run(room.measure_levels, room.tasks_levels(molecules=2), recompute="all")
    values = {"flow": 0.2, "springs": 0.3, "network": 0.1, "etm": 0.35, "flow_ff": 0.5, "network_ff": 0.45}
    lines = [
        {"arm": arm, "molecule": name, "cov_recall": cov, "mat_recall": 1 - cov, "cov_precision": cov / 2}
        | {"mat_precision": 1.0, "clashes": 2 * cov, "network": "net", "energy": "both", "seed": 0}
        for arm, cov in values.items()
        for name in "ab"
    ]
    made = pd.DataFrame(lines)
    made.attrs.update(rows.attrs)
    found = {one.claim_id.removeprefix("cgcf.order."): one for one in room.record_orders(made)}
    assert found["tilt.springs_cov"].value == pytest.approx(10.0) and found["tilt.springs_cov"].weights == "both"
    assert found["tilt.network_cov"].value == pytest.approx(-10.0) and found["tilt.network_cov"].weights == "net"
    assert found["tilt.both_springs_mat"].value == pytest.approx(-0.05)
    assert found["tilt.network_ff_mat"].value == pytest.approx(0.05) and found["clashes"].value == pytest.approx(0.3)
    assert not any("sampler" in name for name in found)


def test_lengths_are_drawn_as_counted():
    counts = [0] * 60
    rows = pd.DataFrame([{"arm": "flow", "gaps": [*counts[:-1], 3]}, {"arm": "flow", "gaps": [*counts[:-1], 4]}])
    (axis,) = room.draw_lengths(rows, {"flow": "red"}, caption="").axes
    (steps,) = axis.patches
    assert steps.get_data().values[-1] == 7 and steps.get_data().values[:-1].sum() == 0
    assert steps.get_data().edges[-1] == pytest.approx(0.3) and "Å" in axis.get_xlabel()


def test_a_molecule_before_and_after_shows_each_part_in_order_with_its_own_bonds():
    task = room.tasks(**FEW, arms=("flow", "springs", "etm"))[0]
    page = unescape(room.before_and_after(task).data)
    assert page.index("CGCF (bonds") < page.index("CGCF + tilt (bonds") < page.index("springs alone (bonds")
    off = [float(text) for text in re.findall(r"bonds off by ([0-9.]+) Å", page)][:3]
    assert off[1] < 0.5 * off[0] and off[2] < 0.5 * off[0] and task.molecule not in page


def test_overlays_lie_on_their_references():
    (one,) = overlays(FLOW, ENERGY, data="ensembles_qm9", num_molecules=1, count=3, seed=0)
    gap = one.nearest.positions - one.reference.positions
    assert np.linalg.norm(gap.mean(axis=0)) < 1e-6 and one.rmsd < 3.0
    assert "heavy atoms" in overlay_grid([one]).data
    many = overlay_grid([one] * 9).data  # two full rows of four
    assert many.count(f"{one.name}: {one.rmsd:.2f} Å") == 8 * overlay_grid([one]).data.count(f"{one.rmsd:.2f} Å")


def test_overlays_pass_over_molecules_of_unknown_elements():
    """Of the drug-size molecules some have sulphur or halogens, which these weights never saw."""
    found = overlays(FLOW, "", data="conformers_dft", num_molecules=4, count=1, seed=0)
    assert all(set(one.reference.atomic_numbers.tolist()) <= {1, 6, 7, 8} for one in found) and len(found) < 4


def test_an_overlay_of_nothing_is_refused_with_the_reason():
    with pytest.raises(InvalidInput, match="knows the elements of none of the 1 molecules of ensembles_drugs"):
        overlays(FLOW, "", data="ensembles_drugs", num_molecules=1, count=1, seed=0)
