"""Whole chains: which molecules a task draws, and rows as shares."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from molkit.data.qm9 import load_qm9
from molkit.edm.farm import sample_many
from molkit.edm.sampling import SampleResult
from molkit.errors import InvalidInput
from molkit.experiments.experiment import key_of
from molkit.experiments.show import show
from molkit.experiments.store import Batch, Entry, Store
from molkit.metrics.statistics import proportion_interval, ratio_interval
from molkit.molecule import Molecule, PackedMolecules
from molkit.studies.edm import chains

WATER = Molecule(np.array([8, 1, 1]), np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]))
HYDROXYL = Molecule(np.array([8, 1]), np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0]]))


def frame() -> pd.DataFrame:
    """Two arms of four: stable and known, stable and new twice (one distinct), a chain that failed; and all alike."""
    lines = [
        {"num_atoms": 5, "stable_atoms": 5, "stable": True, "odd": False, "smiles": "C"},
        {"num_atoms": 8, "stable_atoms": 8, "stable": True, "odd": False, "smiles": "CC"},
        {"num_atoms": 7, "stable_atoms": 6, "stable": False, "odd": True, "smiles": "CC"},
        {"num_atoms": 4, "stable_atoms": 0, "stable": False, "odd": False, "smiles": None},
    ]
    arms = [("one", lines), ("two", [lines[0]] * 4)]
    about = {"weights": "w", "num_calls": 9, "calls": 11, "seconds": 0.5, "atomic_numbers": None, "positions": None}
    return pd.DataFrame([about | {"sampler": name} | line for name, found in arms for line in found])


@pytest.fixture()
def methane_is_known(monkeypatch):
    monkeypatch.setattr(chains, "load_reference_smiles", lambda: SimpleNamespace(smiles=frozenset({"C"})))


@pytest.mark.usefixtures("methane_is_known")
def test_quality_of_an_arm_is_that_of_its_rows():
    one, two = chains.quality(frame()).to_dict("records")
    assert (one["sampler"], one["num_calls"], one["n"], one["calls"]) == ("one", 9, 4, 11)
    assert one["molecules"] == proportion_interval(2, 4)
    assert one["atoms"] == ratio_interval(np.array([5.0, 8, 6, 0]), np.array([5.0, 8, 7, 4]))
    assert one["valid"] == proportion_interval(3, 4) and one["valid_unique"] == proportion_interval(2, 4)
    assert one["novel"] == proportion_interval(1, 2) and one["novel_of_all"] == proportion_interval(1, 4)
    assert one["odd"] == proportion_interval(1, 4) and one["even_stable"] == proportion_interval(2, 3)
    assert two["valid"].value == 1.0 and two["valid_unique"].value == 0.25 and two["seconds"] == 0.5


@pytest.mark.usefixtures("methane_is_known")
def test_cells_of_the_table_of_arms_are_its_shares_in_per_cent():
    table = show(chains.quality(frame()), chains.QUALITY, "")
    first = dict(zip(table.heads, table.cells[0], strict=True))
    assert first["stable molecules, %"].startswith("50.0\n[15.0") and first["valid, %"].startswith("75.0")
    assert first["valid and unique, %"].startswith("50.0") and first["stable atoms, %"].startswith("79.17")
    assert first["odd electrons, %"].startswith("25.0") and first["stable of the even, %"].startswith("66.7")
    assert first["bond lengths, mÅ"] == "–" and first["CPU s a molecule"] == "0.500"


@pytest.mark.usefixtures("methane_is_known")
def test_rows_of_which_only_stability_was_kept_leave_the_other_columns_empty():
    bare = frame().assign(stable_atoms=None, odd=None, smiles=None)
    (one, _) = chains.quality(bare).to_dict("records")
    assert one["molecules"] == proportion_interval(2, 4) and one["n"] == 4
    assert all(one[name] is None for name in ("atoms", "valid", "valid_unique", "novel", "odd", "even_stable"))


def test_molecules_come_back_from_their_rows_and_lie_at_no_distance_from_themselves():
    molecules = load_qm9(split="test", limit=60)
    made = SampleResult(molecules, (), (), 1)
    rows = pd.DataFrame(chains.scored(made, 60))
    again = chains.molecules_of(rows)
    assert again.atomic_numbers.tolist() == molecules.atomic_numbers.tolist()
    np.testing.assert_allclose(again.positions, molecules.positions, atol=5.1e-4)
    assert chains.bond_distance(rows, again) == 0.0
    longer = PackedMolecules(again.num_atoms, again.atomic_numbers, 1.01 * again.positions)
    assert chains.bond_distance(rows, longer) == pytest.approx(0.011, abs=0.003)


def test_a_chain_that_failed_keeps_its_place_and_is_nothing():
    made = SampleResult(PackedMolecules.from_molecules([WATER, HYDROXYL]), (1,), (), 1)
    first, failed, last = chains.scored(made, 3)
    assert (first["stable"], first["stable_atoms"], first["odd"]) == (True, 3, False)
    assert (failed["stable"], failed["positions"], failed["smiles"]) == (False, None, None)
    assert (last["stable"], last["stable_atoms"], last["odd"]) == (False, 1, True)


def test_a_task_draws_the_molecules_that_molkit_sample_draws(monkeypatch):
    monkeypatch.setenv("MOLKIT_PRECISION", "float32")
    (task,) = chains.tasks(arms=["ddim:4:50"], seed=3, shared=False)
    rows = pd.DataFrame(chains.measure(chains.Task(**{**vars(task), "first": 50, "count": 2})))
    drawn = sample_many("edm_qm9", 250, seed=3, num_calls=4, sampler="ddim").select(np.arange(50, 52))
    assert chains.molecules_of(rows).num_atoms.tolist() == drawn.num_atoms.tolist()
    np.testing.assert_allclose(chains.molecules_of(rows).positions, drawn.positions, atol=0.02)


def test_every_arm_begins_with_the_same_molecules_and_holds_as_many_as_asked():
    tasks = chains.tasks(arms=["sde-2m:20:120", "ddim:50:100"])
    assert [(t.sampler, t.num_calls, t.first, t.count) for t in tasks] == [
        ("sde-2m", 20, 0, 50),
        ("sde-2m", 20, 50, 50),
        ("sde-2m", 20, 100, 20),
        ("ddim", 50, 0, 50),
        ("ddim", 50, 50, 50),
    ]


def test_stored_stands_for_the_arms_of_these_very_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("MOLKIT_ROWS_DIR", str(tmp_path))
    kept = chains.tasks(arms=["ddim:9:100"]) + chains.tasks(arms=["ddim:9:150"], seed=1)
    others = [dataclasses.replace(kept[0], sampler="sde-2m"), *kept]
    batch = Batch(experiment="chains", date="2026-01-01T00:00:00+00:00", commit=None, dirty=None)
    entries = {key_of(task): Entry(key_of(task), dataclasses.asdict(task), batch.id, 1.0) for task in others}
    entries["of other weights"] = Entry("of other weights", dataclasses.asdict(kept[0]), batch.id, 1.0)
    Store("chains").add(batch, entries)
    assert chains.stored_arms("edm_qm9", 0, True) == [("sde-2m", 9, 50), ("ddim", 9, 100)]
    tasks = chains.tasks(arms=["stored", "ddim:9:60", "sde-2m:9:80", "ddim:5:50"])
    assert [(t.sampler, t.num_calls, t.first, t.count) for t in tasks] == [
        ("sde-2m", 9, 0, 50), ("sde-2m", 9, 50, 30), ("ddim", 9, 0, 50), ("ddim", 9, 50, 50), ("ddim", 5, 0, 50)
    ]  # fmt: skip
    with pytest.raises(InvalidInput, match="no chains of edm_drug .* sde-2m-extra:100:1000"):
        chains.tasks(weights="edm_drug", arms=["stored"])


def test_a_sampler_with_fine_steps_takes_them_all_besides():
    sampler = chains.chosen_sampler("ancestral+60-200")
    assert sampler.fine == (60, 200) and sampler.name == "ancestral+60-200"


@pytest.mark.parametrize("arm", ["sde-2m", "rk4:10:10", "sde-2m:0:10", "sde-2m:10:many", "ancestral+5:10:10"])
def test_arms_that_cannot_be_are_refused(arm):
    with pytest.raises(InvalidInput):
        chains.tasks(arms=[arm])


def test_the_rows_of_an_arm_are_chosen_by_sampler_and_by_the_number_of_molecules():
    assert set(chains.arm(frame(), "two")["sampler"]) == {"two"}
    with pytest.raises(InvalidInput, match="by three; there are one, two"):
        chains.arm(frame(), "three")
    assert chains.most(frame()[:7])["smiles"].fillna("").tolist() == ["C", "CC", "CC", ""]


def test_checks_are_medians_of_the_relaxed_and_the_share_of_all():
    rows = frame()[:4].assign(
        strain=[1.0, 9.0, 2.0, None], rmsd=[0.1, 0.3, 0.2, None], passed=[True, True, True, False]
    )
    (row,) = chains.checks(rows).to_dict("records")
    assert (row["strain"].value, row["rmsd"].value, row["relaxed"], row["n"]) == (2.0, 0.2, 3, 4)
    assert row["passed"] == proportion_interval(3, 4)


def test_molecules_are_relaxed_and_checked_where_they_are_even(monkeypatch):
    """Water, a radical and a chain that failed."""
    made = SampleResult(PackedMolecules.from_molecules([WATER, HYDROXYL]), (1,), (), 1)
    monkeypatch.setattr(chains, "draw", lambda task: (made, [3, 3, 2], {}))
    water, failed, radical = chains.measure_checks(None)
    assert water["passed"] and 0.0 <= water["strain"] < 5.0 and water["rmsd"] < 0.1
    assert (failed["passed"], failed["strain"]) == (False, None)
    assert (radical["passed"], radical["strain"]) == (False, None)


def test_coordinates_are_kept_of_the_first_of_an_arm_and_of_molecules_without_hydrogens(monkeypatch):
    bare = Molecule([8, 8], [[0.0, 0.0, 0.0], [1.2, 0.0, 0.0]])
    made = SampleResult(PackedMolecules.from_molecules([WATER, WATER, bare]), (3,), (), 1)
    monkeypatch.setattr(chains, "draw", lambda task: (made, [3, 3, 2, 4], {}))
    task = chains.Task("edm_qm9", "ddim", 9, chains.SHAPES - 1, 4, 0, True)
    rows = chains.measure(task)
    assert [row["positions"] is not None for row in rows] == [True, False, True, False]
    assert [row["stable"] for row in rows[:2]] == [True, True] and rows[1]["smiles"] == rows[0]["smiles"] == "[H]O[H]"


def test_chains_that_are_checked_are_the_first_of_the_arm_in_parts_of_ten():
    tasks = chains.tasks_checks(arms=["ddim:9:65"])
    assert [(t.first, t.count) for t in tasks] == [(10 * k, 10) for k in range(6)] + [(60, 5)]


def test_points_and_bars_are_shares_in_per_cent():
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    interval = proportion_interval(4, 10)
    chains.draw_shares(axis, [3], [interval])
    assert axis.containers[0].lines[0].get_xydata().tolist() == [[3.0, 40.0]]
    ends = axis.containers[0].lines[2][0].get_segments()[0][:, 1]
    assert ends == pytest.approx([100 * interval.low, 100 * interval.high])
