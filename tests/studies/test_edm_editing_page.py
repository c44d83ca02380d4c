"""The page on editing: cuts, what counts as satisfied or the same, and rows as cells and points."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from molkit.data.qm9 import load_qm9
from molkit.edm.editing import Edits
from molkit.metrics.statistics import proportion_interval
from molkit.molecule import Molecule, PackedMolecules
from molkit.studies.edm import editing as page

WATER = Molecule([8, 1, 1], [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])


def completed() -> pd.DataFrame:
    """Ten requests in each of two ways: 2 and 6 stable, 3 and 7 satisfied, 5 and 1 odd, 0 and 4 recovered."""
    counts = {"from noise": (2, 3, 5, 0), "from open valences": (6, 7, 1, 4)}
    return pd.DataFrame(
        {"weights": "w", "sampler": "s", "way": way, "molecule": row, "calls": 50, "seconds": 0.25, "num_atoms": 10}
        | {"stable_atoms": 9, "whole": row < 9, "stable": row < stable, "fixed": row < fixed}
        | {"odd": row < odd, "same": row < same}
        for way, (stable, fixed, odd, same) in counts.items()
        for row in range(10)
    )


def test_a_cut_takes_a_quarter_of_the_atoms_from_one_side():
    for row, molecule in enumerate(load_qm9(split="valid", limit=5)):
        part = page.cut(molecule, seed=(0, row))
        assert part.num_atoms == molecule.num_atoms - max(1, molecule.num_atoms // 4)
        assert all((np.abs(molecule.positions - place).sum(axis=1) < 1e-12).any() for place in part.positions)
        assert np.array_equal(part.positions, page.cut(molecule, seed=(0, row)).positions)


def test_tasks_cover_every_molecule_of_every_arm_once():
    tasks = page.tasks(weights=["a", "b"], samplers=["s"], ways=list(page.WAYS)[:2], num_molecules=60)
    found = [(t.weights, t.way, t.first + k) for t in tasks for k in range(t.count)]
    assert len(found) == len(set(found)) == 2 * 2 * 60 and {t.total for t in tasks} == {60}
    varied = page.tasks_vary(levels=[0.1, 0.2], num_molecules=60)
    assert sum(t.count for t in varied) == 2 * 2 * 60
    assert sum(t.count for t in page.tasks_compose(count=60)) == len(page.FORMULA_WAYS) * 60


def test_formulas_of_training_are_drawn_one_for_each_molecule_and_the_same_again():
    task, other = page.tasks_compose(formula=page.TRAINING, ways=list(page.FORMULA_WAYS)[:1], count=50)
    known = {tuple(sorted(Counter(one.atomic_numbers.tolist()).items())) for one in load_qm9(split="train")}
    drawn = [tuple(sorted(formula.items())) for formula in task.formulas()]
    assert len(drawn) == task.count == 25 and set(drawn) <= known and len(set(drawn)) > 15
    assert task.formulas() == task.formulas() != other.formulas()
    assert page.ComposeTask("w", "s", "CH4", "way", 5, 0, 3, 0).formulas() == ["CH4"] * 3


def test_whole_molecules_are_the_same_and_a_failed_chain_is_nothing():
    whole = load_qm9(split="valid", limit=4)
    made = whole.select(np.array([0, 1, 2]))
    rows = page._compared(Edits(made, np.array([0, 1, 3]), (2,), 9), whole)
    assert [row["same"] for row in rows] == [True, True, False, False]  # the last one is the molecule before it
    assert [row["stable"] for row in rows] == [True, True, False, True]
    assert rows[2]["num_atoms"] == whole[2].num_atoms and rows[2]["positions"] is None


def test_fixed_atoms_are_satisfied_when_all_of_them_have_their_bonds():
    fragment = Molecule([8, 1], WATER.positions[:2])
    lone = Molecule([8, 1, 1], [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [5.0, 0.0, 0.0]])
    edits = Edits(PackedMolecules.from_molecules([WATER, lone]), np.array([0, 1]), (), 9)
    assert page.satisfied(edits, [fragment, fragment]) == [True, False]
    assert page.satisfied(edits, [fragment, Molecule([1], [[0.0, 0.0, 0.0]])]) == [True, False]


def test_lines_of_the_table_are_the_shares_of_their_rows():
    before, noise, valences = page.completions(completed()).to_dict("records")
    assert before["way"] == "the molecules before the cut" and before["stable"] == proportion_interval(9, 10)
    assert (noise["way"], valences["way"]) == ("from noise", "from open valences")
    for line, counts in ((noise, (2, 3, 5, 0)), (valences, (6, 7, 1, 4))):
        assert [line[name] for name in ("stable", "fixed", "odd", "same")] == [
            proportion_interval(count, 10) for count in counts
        ]
        assert (line["n"], line["calls"], line["seconds"]) == (10, 50, 0.25)
        assert line["atoms"].value == 0.9
    heads = {name: getattr(column, "head", column) for name, column in page.COMPLETED.items()}
    assert heads["fixed"].startswith("fixed atoms") and heads["same"].startswith("original")
    assert heads["stable"].startswith("molecules") and heads["odd"].startswith("odd")


def test_points_of_the_figure_are_the_shares_and_the_mean_displacement():
    rows = pd.DataFrame(
        {"keep_elements": keep, "level": level, "same": row < same, "stable": row < 9}
        | {"rmsd": 0.1 * level if row < same else None}
        for keep, level, same in ((False, 0.1, 8), (False, 0.5, 4), (True, 0.1, 10), (True, 0.5, 6))
        for row in range(10)
    )
    same, stable, moved = page.draw_variation(rows, caption="").axes
    free, kept = same.containers
    assert (free.get_label(), kept.get_label()) == ("elements too", "positions only")
    assert free.lines[0].get_xydata() == pytest.approx(np.array([[0.1, 80.0], [0.5, 40.0]]))
    low, high = free.lines[2][0].get_segments()[1][:, 1]
    wanted = proportion_interval(4, 10)
    assert (low, high) == pytest.approx((100 * wanted.low, 100 * wanted.high))
    assert kept.lines[0].get_ydata() == pytest.approx([100.0, 60.0])
    assert stable.containers[0].lines[0].get_ydata() == pytest.approx([90.0, 90.0])
    assert moved.containers[0].lines[0].get_xydata() == pytest.approx(np.array([[0.1, 0.01]]))  # four are too few
    assert [axis.get_ylabel().split()[0] for axis in (same, stable, moved)] == ["same", "stable", "RMSD"]


def test_what_a_set_holds_of_a_formula_is_counted_among_its_size(monkeypatch):
    other = Molecule([6, 8, 1], [[0.0, 0.0, 0.0], [1.2, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    broken = WATER.with_positions(3.0 * WATER.positions)
    pair = Molecule([1, 1], [[0.0, 0.0, 0.0], [0.74, 0.0, 0.0]])
    pack = PackedMolecules.from_molecules([WATER, other, pair, broken])
    monkeypatch.setattr(page, "stored_samples", lambda weights: pack)
    rows = page.measure_waiting(page.WaitTask("w", "H2O"))
    assert [(row["right"], row["stable"]) for row in rows] == [(True, True), (False, False), (True, False)]
    assert {row["way"] for row in rows} == {"free samples, stored, 3 atoms"} and rows[1]["smiles"] is None


def test_isomers_are_the_different_stable_ones_and_novel_those_not_in_training(monkeypatch):
    monkeypatch.setattr(page, "load_reference_smiles", lambda: SimpleNamespace(smiles={"C"}))
    waited = pd.DataFrame([{"way": "QM9, 5 atoms", "right": True, "stable": True, "smiles": "C"}])
    flags = ((True, True, "C"), (True, True, "N"), (True, True, "N"), (True, False, "O"), (False, False, None))
    composed = pd.DataFrame(
        {"way": "numbers of atoms fixed", "right": right, "stable": stable, "smiles": smiles, "seconds": 0.5}
        for right, stable, smiles in flags
    )
    first, second = page.compositions(waited, composed).to_dict("records")
    assert (first["n"], first["isomers"], first["way"]) == (1, 1, "QM9, 5 atoms") and pd.isna(first["novel"])
    assert (second["n"], second["isomers"], second["novel"], second["seconds"]) == (5, 2, 1, 0.5)
    assert (second["right"], second["stable"]) == (proportion_interval(4, 5), proportion_interval(3, 5))


def test_ways_can_be_listed_with_commas():
    assert not any("," in way for way in (*page.WAYS, *page.FORMULA_WAYS))


def test_the_sketch_shows_the_molecule_its_fragment_and_the_fragment_with_empty_atoms_in_the_gap():
    whole, held, wanted = page.draw_mask(row=10).axes
    molecule = load_qm9(split="test")[10]
    fragment = page.cut(molecule, seed=(0, 10)).num_atoms
    assert [len(axis.patches) for axis in (whole, held, wanted)] == [molecule.num_atoms, fragment, molecule.num_atoms]
    places = [{tuple(one.center) for one in axis.patches} for axis in (held, wanted)]
    empty = {tuple(one.center) for one in wanted.patches if one.get_linestyle() == "--"}
    assert len(empty) == molecule.num_atoms - fragment and empty == places[1] - places[0]
