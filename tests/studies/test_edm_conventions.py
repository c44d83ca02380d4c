"""The page on conventions: who accepts what, and rows as cells and bars."""

import json

import numpy as np
import pandas as pd
import pytest

from molkit.chem.rdkit_tools import embed_smiles
from molkit.data.packed import write_packed
from molkit.data.qm9 import load_qm9
from molkit.edm.config import EdmConfig
from molkit.edm.model import build, save
from molkit.metrics.statistics import proportion_interval
from molkit.metrics.strain import Failure, Strain
from molkit.metrics.validity import poses
from molkit.molecule import Molecule, PackedMolecules
from molkit.studies.edm import conventions as page

WATER = Molecule([8, 1, 1], [[0.0, 0.0, 0.1173], [0.0, 0.7572, -0.4692], [0.0, -0.7572, -0.4692]])
METHYL = Molecule([6, 1, 1, 1], [[0.0, 0.0, 0.0], [1.08, 0.0, 0.0], [-0.54, 0.9353, 0.0], [-0.54, -0.9353, 0.0]])
PAIR = Molecule(np.tile(WATER.atomic_numbers, 2), np.concatenate([WATER.positions, WATER.positions + 5.0]))
WORDS = ("stable", "charged", "accepted", "perceived", "connected")


def pack(*molecules: Molecule) -> PackedMolecules:
    return PackedMolecules.from_molecules(molecules)


def judged() -> pd.DataFrame:
    """Ten molecules of each of two sets, of four atoms; 1, 2, 3, 4, 5 and then 9, 8, 7, 6, 5 pass each verdict."""
    return pd.DataFrame(
        {"data": data, "weights": "", "row": row, "total": 10, "num_atoms": 4 * (row < 9)}
        | {"stable_atoms": 3 * (row < 9), "charged_atoms": 2 * (row < 9)}
        | {word: row < count for word, count in zip(WORDS, counts, strict=True)}
        for data, counts in ((page.TEST, (1, 2, 3, 4, 5)), (page.OURS, (9, 8, 7, 6, 5)))
        for row in range(10)
    )


@pytest.fixture
def weights(tmp_path):
    """Weights with three stored samples, of four chains."""
    save(build(EdmConfig(width=16, num_layers=1)), tmp_path)
    write_packed(tmp_path / "samples.npz", pack(WATER, METHYL, PAIR))
    told = {"sample_calls": 9, "sample_seed": 0, "samples_requested": 4}
    facts = told | {"step": 1, "passes": 1, "epochs": 0.1, "seconds": 1.0, "processes": 1, "device": "cpu"}
    (tmp_path / "training.json").write_text(json.dumps(facts))
    return str(tmp_path)


def test_three_conventions_judge_a_radical_and_charges_differently():
    """Only RDKit with bonds by distance accepts CH3, to which it adds a hydrogen; only charges explain nitromethane."""
    nitromethane = embed_smiles("C[N+](=O)[O-]")[0]
    water, methyl, nitro = page.verdicts_on(pack(WATER, METHYL, nitromethane))
    assert [[row[word] for word in WORDS[:4]] for row in (water, methyl)] == [
        [True, True, True, True],
        [False, False, True, False],
    ]
    assert nitro["charged"] and not nitro["stable"] and nitro["perceived"]
    assert (methyl["stable_atoms"], methyl["num_atoms"], water["charged_atoms"]) == (3, 4, 3)


def test_molecules_in_pieces_are_found():
    assert [row["connected"] for row in page.verdicts_on(pack(WATER, PAIR))] == [True, False]


def test_a_chain_that_gave_no_molecule_fails_everywhere_and_is_counted(weights):
    asked = page._tasks({page.OURS: 100}, weights, 0, part=3)
    assert [(t.first, t.count, t.total) for t in asked] == [(0, 3, 4), (3, 1, 4)]
    rows = [row for task in asked for row in page.measure(task)]
    assert [row["accepted"] for row in rows] == [True, True, True, False] and [r["row"] for r in rows] == [0, 1, 2, 3]
    assert [row["num_atoms"] for row in rows] == [3, 4, 6, 0]


def test_tasks_spread_over_the_whole_of_a_set():
    task = page.Task(page.TEST, "", 3, 2, 5, 0)
    whole = load_qm9(split="test")
    rows = np.linspace(0, len(whole) - 1, 5).round().astype(int)[3:]
    assert page.molecules_of(task)[0].names == whole.select(rows).names


def test_lines_of_the_table_are_the_shares_of_their_rows():
    first, second = page.verdicts(judged()).to_dict("records")
    assert (first["data"], second["data"]) == (page.TEST, page.OURS)
    for line, counts in ((first, (1, 2, 3, 4, 5)), (second, (9, 8, 7, 6, 5))):
        assert [line[word] for word in WORDS] == [proportion_interval(count, 10) for count in counts]
        assert line["atoms"].value == pytest.approx(27 / 40) and line["charged_atoms"].value == pytest.approx(18 / 40)
    assert (first["disagree"], second["disagree"]) == (proportion_interval(2, 10), proportion_interval(2, 10))
    heads = [column.head for column in list(page.VERDICTS.values())[2:6]]
    assert heads == ["atoms, EDM's rule", "molecules, EDM's rule", *heads[2:]]
    assert all("charges" in head for head in heads[2:]) and heads[2].startswith("atoms")


def test_bars_of_the_figure_are_the_patterns_in_per_cent():
    (axes,) = page.draw_patterns(judged(), caption="").axes
    bars = {one.get_label(): [bar.get_height() for bar in one] for one in axes.containers if hasattr(one, "patches")}
    assert bars[page.TEST][0] == pytest.approx(10) and bars[page.TEST][-1] == pytest.approx(70)
    assert sum(bars[page.TEST]) == pytest.approx(100) and bars[page.OURS][0] == pytest.approx(70)
    marks = [mark.get_text().split("\n") for mark in axes.get_xticklabels()]
    assert marks[0] == ["pass"] * 3 and marks[-1] == ["fail"] * 3
    assert bars[page.OURS][marks.index(["pass", "fail", "fail"])] == pytest.approx(10)
    assert bars[page.TEST][marks.index(["fail", "fail", "pass"])] == pytest.approx(10)
    assert axes.get_xlabel().startswith("EDM's rule / charges and aromaticity / RDKit")


def test_examples_are_the_stored_molecules_of_their_kind(weights):
    rows = pd.DataFrame([{"data": page.OURS, "weights": weights, "row": k, "total": 4} for k in range(4)])
    rows = rows.assign(stable=[True, False, False, False], charged=[True, False, True, False], accepted=True)
    kinds = list(page.KINDS)
    assert "6 atoms" in page.examples(rows, kinds[0]).data or "H4O2" in page.examples(rows, kinds[0]).data
    assert "No molecule" in repr(page.examples(rows, kinds[1]))


def test_strain_is_the_median_of_what_relaxed_and_the_rest_has_columns():
    outcomes = [("relaxed", 3.0), ("relaxed", 1.0), ("relaxed", 8.0), ("odd", None), ("failed", None)]
    rows = pd.DataFrame(
        {"data": page.OURS, "outcome": what, "energy_drop": drop, "rmsd": None if drop is None else drop / 10}
        | {"bonds_changed": drop == 8.0, "stable": drop in (1.0, 3.0)}
        for what, drop in outcomes
    )
    whole, stable = page.strains(rows).to_dict("records")
    assert (whole["n"], whole["counted"], whole["bonds_changed"]) == (5, 3, 1)
    assert (whole["energy_drop"].value, whole["rmsd"].value, whole["energy_quartiles"]) == (3.0, 0.3, "2.0 – 5.5")
    assert [whole[name] for name in ("odd", "failed", "unconverged")] == [proportion_interval(k, 5) for k in (1, 1, 0)]
    assert (stable["n"], stable["energy_drop"].value) == (2, 2.0) and "stable" in stable["data"]


def test_a_relaxation_becomes_a_row_whatever_its_outcome(monkeypatch, weights):
    done = [Strain(2.0, 0.1, 9, True, False), Strain(9.0, 0.2, 9, True, True), Failure("no")]
    monkeypatch.setattr(page, "relax_all", lambda molecules: done)
    rows = page.measure_strain(page.Task(page.OURS, weights, 0, 4, 4, 0))
    assert [row["outcome"] for row in rows] == ["relaxed", "odd", "failed", "failed"]
    assert [row["energy_drop"] for row in rows] == [2.0, None, None, None] and rows[0]["stable"]


def test_geometry_checks_count_what_could_not_be_checked(weights):
    rows = pd.DataFrame(page.measure_pose(page.Task(page.OURS, weights, 0, 2, 4, 0))).assign(data=page.OURS)
    table = page.poses(rows).set_index("check")[page.OURS]
    assert table["no bonds found, so not checked, %"] == proportion_interval(int(rows["checks"].isna().sum()), 2)
    assert table["bond lengths"].value == 1.0 and table.index[-1] == "all checks passed, of all molecules"
    found = poses([WATER, METHYL])
    assert found.num_molecules == 2 and found.shares["bond_lengths"].value == 1.0
    assert 0.0 <= found.all_passed.value <= 1.0


def test_two_samples_of_the_data_are_closer_than_shaken_molecules(monkeypatch):
    test = load_qm9(split="test", limit=300)
    noise = 0.1 * np.random.default_rng(0).normal(size=test.positions.shape)
    shaken = PackedMolecules(test.num_atoms, test.atomic_numbers, test.positions + noise)
    whole = {page.TRAIN: load_qm9(split="train", limit=300), page.OURS: shaken}
    monkeypatch.setattr(page, "set_of", lambda data, weights: (whole[data], 0))
    rows = [
        {"data": data} | row for data in whole for row in page.measure_distances(page.Task(data, "", 0, 300, 300, 0))
    ]
    table = page.distances(pd.DataFrame(rows))
    assert table["kind"][0] == "C-H (Å)" and len(table) == page.KEPT_BONDS + page.KEPT_ANGLES
    assert list(table.columns) == ["kind", page.TRAIN, page.OURS]
    assert table[page.TRAIN][0].high < table[page.OURS][0].low
    assert table["kind"].str.contains("°").sum() == page.KEPT_ANGLES
