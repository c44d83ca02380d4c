"""The pages on relaxation: what a task measures, and known rows in exact cells, columns and plotted data."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from molkit.edm.config import EdmConfig
from molkit.edm.model import build, save
from molkit.errors import InvalidInput
from molkit.experiments.show import show
from molkit.experiments.store import Store
from molkit.molecule import Molecule
from molkit.relaxation.chains import Trajectory
from molkit.relaxation.denoisers import NetworkDenoiser
from molkit.relaxation.starts import Starts, classical_starts, edm_name, with_diffusion, with_xtb
from molkit.studies.relaxation import boltzmann, comparison
from molkit.studies.relaxation import dft_warm_start as dft
from molkit.studies.relaxation import learning_order as learning
from molkit.studies.relaxation import two_phases as phases
from molkit.studies.relaxation import versus_force_field as page

METHANOL = Molecule(
    [6, 8, 1, 1, 1, 1],
    [[-0.05, 0.66, 0], [-0.05, -0.76, 0], [-1.09, 0.97, 0], [0.44, 1.07, 0.89], [0.44, 1.07, -0.89], [0.86, -1.06, 0]],
    name="methanol",
)


NUMBERS = {"rmsd_to_reference": 0.0, "largest_turn": 0.0, "seconds": 0.5, "preparation": 0.25}


def runs_of(optimisers=("internal", "cartesian"), **excesses) -> pd.DataFrame:
    """Runs of molecules a, b, c from each start, twice as many gradients as kcal/mol; an excess of None failed."""
    lines = []
    for start, values in excesses.items():
        for optimiser in optimisers:
            for name, excess in zip("abc", values, strict=True):
                failed = excess is None
                about = {"molecule": name, "weights": "edm_qm9", "seed": 0, "start": start, "optimiser": optimiser}
                about |= {"excess": excess, "energy": -1.0, "num_gradients": None if failed else 2 * excess}
                lines.append(about | NUMBERS | {"converged": not failed, "failure": "lost" if failed else ""})
    return pd.DataFrame(lines)


def test_known_runs_give_known_cells():
    rows = runs_of(mmff94=[4.0, 4.0, 4.0], gfn1=[1.0, 1.0, None])
    table = show(comparison.table(rows, "internal"), comparison.COLUMNS, "")
    four = "4.00\n[4.00, 4.00]"
    assert table.cells[0] == (
        "MMFF94", four, four, "–", "8.0\n[8.0, 8.0]", "–", "0", "0", "0", "3", "0.25", "0.50",
    )  # fmt: skip
    assert table.cells[1][3:10] == ("4.00\n[4.00, 4.00]", "2.0\n[2.0, 2.0]", "4.00\n[4.00, 4.00]", "0", "1", "0", "2")
    assert table.heads[3:6] == ("ratio of means", "gradients", "ratio of gradients")
    assert comparison.how_many(rows) == "3 QM9 test molecules"


def test_ratios_leave_out_pairs_that_end_in_different_minima():
    rows = runs_of(mmff94=[2.0, 2.0, 2.0], gfn1=[0.5, 0.5, 50.0])
    rows.loc[(rows["molecule"] == "c") & (rows["start"] == "gfn1"), "rmsd_to_reference"] = 1.0
    row = comparison.start_row(rows, "gfn1", "internal")
    assert row["ratio"].value == pytest.approx(4.0) and row["step_ratio"].value == pytest.approx(4.0)
    assert (row["num"], row["num_other_minimum"], row["excess"].value) == (3, 1, 0.5)
    rows.loc[(rows["molecule"] == "b") & (rows["start"] == "gfn1"), "energy"] = -1.6
    assert comparison.start_row(rows, "gfn1", "internal")["ratio"] is None


def test_the_figures_draw_what_the_rows_say():
    rows = runs_of(mmff94=[4.0, 6.0, 8.0], gfn1=[1.0, 2.0, 3.0])
    rows.loc[(rows["molecule"] == "c") & (rows["start"] == "gfn1"), "rmsd_to_reference"] = 1.0
    (axes,) = comparison.excess_figure(rows, "GFN2-xTB").axes
    points = [line.get_ydata().tolist() for line in axes.lines if line.get_marker() == "."]
    assert points == [[4.0, 6.0, 8.0], [1.0, 2.0, 3.0]] and axes.get_ylabel() == "energy excess (kcal/mol)"
    assert [box.lines[0].get_ydata()[0] for box in axes.containers] == [6.0, 2.0]
    assert axes.containers[0][2][0].get_segments()[0][:, 1].tolist() == [4.0, 8.0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["MMFF94", "GFN1-xTB"]
    left, right = comparison.gradients_figure(rows, "GFN2-xTB", "gfn1").axes
    assert (left.get_title(), right.get_title()) == ("Cartesian BFGS", "internal coordinates")
    same, other, _ = left.lines
    assert (same.get_xdata().tolist(), same.get_ydata().tolist()) == ([8.0, 12.0], [2.0, 4.0])
    assert (other.get_xdata().tolist(), other.get_markerfacecolor()) == ([16.0], "none")
    assert "from GFN1-xTB" in left.get_ylabel() and "MMFF94" in left.get_xlabel()


def test_the_ledger_gets_each_ratio_from_its_own_start_optimiser_and_column(monkeypatch):
    kept = {}
    monkeypatch.setattr(
        comparison, "record", lambda claim, value, rows, **about: kept.update({claim: (value.value, about)})
    )
    inner = runs_of(("internal",), mmff94=[8.0, 8.0, 8.0], **{"edm 0.029 sample": [1.0, 1.0, 2.0]})
    outer = runs_of(("cartesian",), mmff94=[6.0, 6.0, 6.0], **{"edm 0.029 sample": [2.0, 2.0, 2.0]})
    means = runs_of(("cartesian",), **{"edm 0.029 mean": [3.0, 3.0, 3.0]})
    rows = pd.concat([inner, outer, means], ignore_index=True).assign(basis="6-31g(d)")
    rows.loc[(rows["optimiser"] == "cartesian") & (rows["start"] != "mmff94"), "num_gradients"] = 1
    page.measurements(rows, 0.0285)
    dft.measurements(rows)
    assert {claim.removeprefix("relaxation."): value for claim, (value, _) in kept.items()} == {
        "energy.ratio_xtb": 3.0, "energy.ratio_xtb_mean": 2.0, "speedup.xtb_cartesian": 12.0,
        "speedup.xtb_internal": 6.0, "energy.ratio_dft": 3.0, "speedup.dft_cartesian": 12.0,
        "speedup.dft_internal": 6.0,
    }  # fmt: skip
    assert (
        kept["relaxation.energy.ratio_dft"][1]["n"] == 3 and "B3LYP" in kept["relaxation.energy.ratio_dft"][1]["notes"]
    )


def test_a_task_of_the_page_on_force_fields_gives_a_row_for_every_start_and_optimiser(monkeypatch, tmp_path):
    """Methanol, by a model that was never trained: its starts are far above, a perfect model is not."""
    save(build(EdmConfig(width=16, num_layers=1), seed=1), tmp_path / "toy")
    monkeypatch.setattr(page, "_molecules", lambda split: {"methanol": METHANOL})
    (task,) = page.tasks(molecules=1, weights=str(tmp_path / "toy"))
    rows = pd.DataFrame([{"molecule": task.molecule, **row} for row in page.measure(task)])
    assert list(zip(rows["start"], rows["optimiser"], strict=True)) == list(dict.fromkeys(page.runs()))
    assert (rows["failure"] == "").all() and rows["converged"].all() and set(rows["formula"]) == {METHANOL.formula}
    assert (rows["excess"] >= 0.0).all()
    inner = rows[rows["optimiser"] == "internal"].set_index("start")
    assert inner.loc["mmff94", "rmsd_to_reference"] == 0.0 and inner.loc[comparison.PERFECT, "excess"] < 0.5
    assert inner.loc["gfn1", "preparation"] > inner.loc["mmff94", "preparation"] > 0.0
    assert page.conformer_energies(rows)["methanol"] == pytest.approx(0.0, abs=0.01)
    with pytest.raises(InvalidInput, match="1 to 1 molecules, got 2"):
        page.tasks(molecules=2)


def test_every_way_to_use_a_model_starts_at_mmff94_and_is_measured_from_the_minimum_beside(monkeypatch, tmp_path):
    save(build(EdmConfig(width=16, num_layers=1), seed=1), tmp_path / "toy")
    monkeypatch.setattr(page, "_molecules", lambda split: {"methanol": METHANOL})
    page._known_minimum.cache_clear()
    options = {"molecules": 1, "weights": [str(tmp_path / "toy")], "levels": (0.0285, 0.0425)}
    tasks = page.tasks_recipe(**options, samplers=("ddim",), seeds=(0, 1))
    rows = pd.DataFrame([row for task in tasks for row in page.measure_recipe(task)]).assign(molecule="methanol")
    one = rows[rows["way"] == "mmff94"]["excess"]
    inner = {row["start"]: row for row in page.measure(page.tasks(molecules=1, weights=str(tmp_path / "toy"))[0])}
    assert one.iloc[0] == pytest.approx(inner["mmff94"]["excess"], abs=0.02)
    toy = rows[rows["sampler"] == "ddim"]
    assert toy["sigma"].tolist() == [0.0285, 0.0425] * 2
    assert toy["excess"].tolist()[:2] == toy["excess"].tolist()[2:], "a chain without noise has no seed"
    page._known_minimum.cache_clear()


def recipe_rows() -> pd.DataFrame:
    """MMFF94 at 4 and 8, and weights at two levels; two seeds, which differ for the model."""
    lines = []
    for seed in (0, 1):
        for molecule, reference in (("a", 4.0), ("b", 8.0)):
            told = [("mmff94", None, "", reference), ("w", 0.1, "ddim", 1.0 + seed), ("w", 0.2, "ddim", 4.0)]
            told.append(("other", 0.1, "ancestral", 0.5 if molecule == "a" else None))
            names = ("way", "sigma", "sampler", "excess")
            lines += [{"molecule": molecule, "seed": seed, **dict(zip(names, one, strict=True))} for one in told]
    return pd.DataFrame(lines)


def test_ways_are_ranked_by_their_mean_over_molecules_and_the_best_of_the_weights_is_chosen():
    table = show(page.ways(recipe_rows()), page.WAYS, "")
    first, second, third, last = table.cells
    assert first[0] == "other" and first[3].startswith("0.50") and first[-2:] == ("1", "2")
    assert second[:3] == ("w", "0.1000", "ddim") and second[3].startswith("1.50") and second[5].startswith("4.00")
    assert third[1] == "0.2000" and third[5].startswith("1.50")
    assert last[:3] == ("MMFF94", "–", "–") and last[3].startswith("6.00") and last[-2:] == ("2", "0")
    assert page.chosen(recipe_rows(), "w") == {"levels": (0.1,), "samplers": ("ddim",), "seeds": (0,)}
    assert page.chosen(recipe_rows(), "other") == {"levels": (0.1,), "samplers": ("ancestral",), "seeds": (0, 1)}
    first, second = (recipe_rows().query("way == @name or way == 'mmff94'") for name in ("w", "other"))
    assert page.difference(first, second).value == pytest.approx((1.5 + 4.0) / 2 - 0.5), (
        "over molecule a, which both have"
    )
    with pytest.raises(InvalidInput, match="no row was made by the weights 'third'"):
        page.chosen(recipe_rows(), "third")


def test_the_chosen_way_goes_to_the_ledger_with_its_own_ratio_on_each_surface(monkeypatch):
    kept = {}
    facts = SimpleNamespace(passes=7)
    monkeypatch.setattr(comparison, "training_facts", lambda weights: facts)
    monkeypatch.setattr(comparison, "record", lambda claim, value, rows, **about: kept.update({claim: (value, about)}))
    page.measurements_chosen(recipe_rows().query("sigma != 0.2"), "w")
    dft.measurements_heights(height_rows(), "w")
    found = {claim.split(".")[-1]: (value.value, about["n"]) for claim, (value, about) in kept.items()}
    assert found == {"ratio_xtb_chosen": (4.0, 2), "ratio_dft_chosen": (4.0, 2)}
    assert "0.1 angstrom, ddim" in kept["relaxation.energy.ratio_xtb_chosen"][1]["notes"]


def parts_rows() -> pd.DataFrame:
    """MMFF94 and weights at two levels, on two molecules; bonds, angles and torsions differ."""
    lines = []
    for molecule, scale in (("a", 1.0), ("b", 3.0)):
        for way, level, parts in (("mmff94", None, (1.0, 2.0, 3.0)), ("w", 0.1, (0.5, 0.25, 0.0)), ("w", 0.3, None)):
            values = [None] * 4 if parts is None else [scale * one for one in (sum(parts), *parts)]
            line = {"molecule": molecule, "weights": "w", "way": way, "sigma": level}
            lines.append(line | dict(zip(("excess", *page.PARTS), values, strict=True)))
    return pd.DataFrame(lines)


def test_the_parts_of_an_excess_stand_in_their_columns_and_are_drawn_with_their_intervals():
    rows = parts_rows().dropna(subset=["excess"])
    table = show(page.parts(rows), page.PART_COLUMNS, "")
    assert table.heads[2:6] == ("excess, kcal/mol", "in bonds", "in angles", "in torsions and the rest")
    assert [cell.split("\n")[0] for cell in table.cells[0]] == [
        "MMFF94",
        "–",
        "12.00",
        "2.00",
        "4.00",
        "6.00",
        "2",
        "0",
    ]
    assert [cell.split("\n")[0] for cell in table.cells[1]] == ["w", "0.1000", "1.50", "1.00", "0.50", "0.00", "2", "0"]
    (axes,) = page.draw_parts(rows).axes
    drawn = {box.get_label(): box.lines[0].get_xdata().tolist() for box in axes.containers}
    assert drawn == {"all": [12.0, 1.5], "bonds": [2.0, 1.0], "angles": [4.0, 0.5], "torsions": [6.0, 0.0]}
    assert axes.containers[1][2][0].get_segments()[0][:, 0].tolist() == [1.0, 3.0], "the bar is the interval"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["MMFF94", "model, from 0.1 Å"]
    lost = parts_rows().assign(sigma=0.1, way="w")
    assert page.parts(lost)[["num", "num_failed"]].values.tolist() == [[4, 2]] and len(page.parts(parts_rows())) == 2


def test_the_parts_of_every_structure_add_up_to_its_excess(monkeypatch, tmp_path):
    save(build(EdmConfig(width=16, num_layers=1), seed=1), tmp_path / "toy")
    monkeypatch.setattr(page, "_molecules", lambda split: {"methanol": METHANOL})
    page._known_minimum.cache_clear()
    (task,) = page.tasks_parts(molecules=1, weights=str(tmp_path / "toy"), levels=(0.0285,))
    rows = pd.DataFrame(page.measure_parts(task)).set_index("way")
    page._known_minimum.cache_clear()
    assert rows.index.tolist() == ["mmff94", comparison.PERFECT, str(tmp_path / "toy"), "dataset"]
    assert rows[list(page.PARTS)].sum(axis=1).tolist() == pytest.approx(rows["excess"].tolist(), abs=0.005)
    near = rows.drop(str(tmp_path / "toy"))
    assert (near["excess"] > 0.0).all() and (near["bonds"] > 0.0).all(), "the model was never trained"
    assert rows.loc[comparison.PERFECT, "excess"] < 0.5


def height_rows() -> pd.DataFrame:
    """Two molecules, and a third whose MMFF94 minimum is another conformer."""
    lines = []
    for molecule, scale, turn in (("a", 1.0, 5.0), ("b", 3.0, 29.0), ("c", 100.0, 31.0)):
        for start, one, other in (("dataset", 0.0, 1.0), ("mmff94", 4.0, 6.0), ("w", 1.0, 2.0)):
            line = {"molecule": molecule, "basis": "sto-3g", "start": start, "largest_turn": turn}
            lines.append(line | {"excess": scale * one, "excess_xtb": scale * other})
    return pd.DataFrame(lines)


def test_heights_on_both_surfaces_leave_out_molecules_that_turned():
    table = show(dft.heights(height_rows()), dft.HEIGHT_COLUMNS, "")
    cells = {line[0]: [cell.split("\n")[0] for cell in line[1:]] for line in table.cells}
    assert cells["w"] == ["2.00", "4.0", "4.00", "3.0", "2"] and cells["MMFF94"] == ["8.00", "–", "12.00", "–", "2"]
    assert cells["QM9's own geometry"] == ["0.00", "–", "2.00", "6.0", "2"]
    (axes,) = dft.draw_heights(height_rows()).axes
    drawn = {box.get_label(): box.lines[0].get_xdata().tolist() for box in axes.containers}
    assert drawn == {"B3LYP/sto-3g": [0.0, 8.0, 2.0], "GFN2-xTB": [2.0, 12.0, 4.0]}


def test_a_task_of_heights_has_a_row_for_each_structure_and_the_lowest_is_the_minimum(monkeypatch, tmp_path):
    """Methanol at its minimum by HF/STO-3G-like B3LYP: MMFF94 and a model without training lie above."""
    save(build(EdmConfig(width=16, num_layers=1), seed=1), tmp_path / "toy")
    surface = dft.DftEnergy(METHANOL, level=dft.DftLevel(basis="sto-3g"))
    end = dft.optimise(METHANOL, surface, optimiser="internal")
    monkeypatch.setattr(dft, "_molecule", lambda name: METHANOL.with_positions(end.positions))
    rows = pd.DataFrame(dft.measure_heights(dft.HeightsTask("methanol", (str(tmp_path / "toy"),), (0.0285,), "sto-3g")))
    assert rows["start"].tolist() == ["dataset", "mmff94", "gfn2", str(tmp_path / "toy")]
    assert rows["excess"].iloc[0] == pytest.approx(0.0, abs=0.01) and (rows["excess"].iloc[1:] > 0.1).all()
    assert rows["excess_xtb"].iloc[2] == 0.0 and (rows["excess_xtb"].drop(2) > 0.05).all()
    with pytest.raises(InvalidInput, match="a level for each"):
        dft.tasks_heights(levels=(0.1,))


def test_starts_share_a_conformer_and_missing_ones_have_a_reason():
    denoiser = NetworkDenoiser(build(EdmConfig(width=16, num_layers=1), seed=1))
    sulfide = Molecule([16, 1, 1], [[0, 0, 0], [0.96, 0.93, 0], [-0.96, 0.93, 0]], name="sulfide")
    found = [with_xtb(classical_starts(one), "gfn1", "GFN1-xTB") for one in (METHANOL, sulfide)]
    found = with_diffusion(found, denoiser, levels=(0.0145,), seed=0)
    assert {"etkdg", "uff", "mmff94", "mmff94s", "gfn1", edm_name(0.0145, "mean")} <= set(found[0].places)
    assert found[0].seconds["gfn1"] >= found[0].seconds["mmff94"] > 0.0
    assert "Z = 16" in found[1].failures[edm_name(0.0145, "mean")]
    lonely = with_diffusion([Starts(METHANOL, {}, {})], denoiser, levels=(0.0145,), seed=0)[0]
    assert "mmff94" in lonely.failures[edm_name(0.0145, "sample")]


def test_a_run_that_fails_says_why_and_the_others_are_made():
    starts = replace(classical_starts(METHANOL), failures={"gone": "never made"})
    runs = (("mmff94", "internal"), ("etkdg", "internal"), ("gone", "internal"), (comparison.PERFECT, "cartesian"))
    rows = comparison.run_rows(starts, runs, seed=0)
    assert [row["failure"] for row in rows[:3]] == ["", "", "never made"] and rows[2]["excess"] is None
    assert "needs the end point of mmff94" in rows[3]["failure"], "no run by the other optimiser"
    assert rows[1]["excess"] > 0.5 and rows[1]["rmsd_to_reference"] < 0.2


def test_a_molecule_on_a_dft_surface_is_asked_for_by_its_heavy_atoms():
    asked = dft.tasks(heavy=(3, 4), counts=(1, 2))
    assert [task.optimiser for task in asked] == ["cartesian", "internal"] * 3
    pack, sizes = dft._test_split()
    heavy = {one.name: int(size) for one, size in zip(pack, sizes, strict=True)}
    assert [heavy[task.molecule] for task in asked] == [3, 3, 4, 4, 4, 4]
    assert {task.molecule for task in dft.tasks()} == {row["molecule"] for row in stored("dft_warm_start")}
    for options in ({"heavy": (2,), "counts": (1, 2)}, {"heavy": (2,), "counts": (10**6,)}):
        with pytest.raises(InvalidInput):
            dft.tasks(**options)


def stored(name: str) -> list[dict]:
    return [entry.task for entry in Store(name).read().entries.values()]


def learning_rows() -> pd.DataFrame:
    """Two molecules and four models at lags 1 and 10; at lag 10 the cosines are those of the names."""
    cosines = {"untrained": (0.0, 0.1), "small": (0.1, 0.2), "large": (0.6, 0.4), "perfect model": (0.5, 0.9)}
    lines = []
    for (model, pair), passes in zip(cosines.items(), (0, 1000, 9000, None), strict=True):
        for molecule, more in (("a", 0.0), ("b", 0.02)):
            about = {"model": model, "molecule": molecule, "seed": 0, "passes": passes, "force_with_minimum": 0.7}
            for lag, factor in ((1, 0.1), (10, 1.0), (30, 1.0)):
                with_force, with_minimum = (factor * (value + more) for value in pair)
                lines.append(about | {"lag": lag, "with_force": with_force, "with_minimum": with_minimum})
    return pd.DataFrame(lines)


def test_cosines_of_each_model_stand_in_their_own_columns():
    table = show(learning.by_model(learning_rows(), 10), learning.COLUMNS, "")
    assert table.heads[2:5] == ("step with force", "step with minimum", "minimum less force")
    large = table.cells[2]
    assert large[:2] == ("large", "9,000") and large[2].startswith("0.61") and large[3].startswith("0.41")
    assert large[4].startswith("\u22120.20") and large[5].startswith("0.70") and large[6] == "2"
    assert [line[1] for line in table.cells] == ["0", "1,000", "9,000", "–"]


def test_training_is_drawn_by_lag_with_both_cosines_and_the_perfect_model_as_lines():
    axes = learning.draw_training(learning_rows()).axes
    assert [one.get_title() for one in axes] == ["lag 1", "lag 10", "lag 30"]
    drawn = {box.get_label(): box.lines[0].get_xydata().round(3).tolist() for box in axes[1].containers}
    assert drawn == {"minimum": [[1000, 0.21], [9000, 0.41]], "force": [[1000, 0.11], [9000, 0.61]]}
    levels = [line.get_ydata()[0] for line in axes[1].lines if line.get_linestyle() == "--"]
    assert levels == pytest.approx([0.91, 0.51])
    low, high = axes[1].containers[0][2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((0.2, 0.22)), "the bar is the interval, not the value"


def test_the_first_and_last_checkpoint_go_to_the_ledger(monkeypatch):
    kept = {}
    monkeypatch.setattr(
        learning, "record", lambda name, value, rows, **about: kept.update({name: (value.value, about)})
    )
    learning.measurements(learning_rows().sample(frac=1.0, random_state=0))
    found = {claim.removeprefix("relaxation.learning."): round(value, 3) for claim, (value, _) in kept.items()}
    assert found == {
        "minimum.first": 0.21, "force.first": 0.11, "excess_over_force.first": 0.1,
        "minimum.last": 0.41, "force.last": 0.61, "excess_over_force.last": -0.2,
    }  # fmt: skip
    assert kept["relaxation.learning.force.last"][1]["training_passes"] == 9000


def test_a_chain_of_a_network_and_of_a_perfect_model_are_compared_with_forces_and_minimum(monkeypatch):
    """Methanol: at lag 30 a perfect model points at the minimum, a network without training does not."""
    monkeypatch.setattr(learning, "_row", lambda name: 0)
    monkeypatch.setattr(learning, "load_qm9", lambda **options: [METHANOL])
    monkeypatch.setattr(learning, "load", lambda *given, **options: build(EdmConfig(width=16, num_layers=1), seed=1))
    rows = {
        model: learning.measure(learning.Task("methanol", model, "toy", 0))[-1]
        for model in ("untrained", "perfect model")
    }
    assert [one["lag"] for one in rows.values()] == [30, 30] and rows["untrained"]["passes"] == 0
    assert rows["perfect model"]["with_minimum"] > 0.8 > rows["untrained"]["with_minimum"]


def chain(elements: list[int], *, late: int) -> Trajectory:
    """Methanol that flies together: its first atom is `late` steps from the end before it is the right element."""
    steps = np.arange(199, -2, -1)
    places = METHANOL.positions[None] * (1.0 + 0.002 * np.maximum(steps, 0))[:, None, None]
    every = np.tile(elements, (len(steps), 1))
    noisy = every.copy()
    noisy[steps > late, 0] = 7
    return Trajectory(steps, places, noisy, places, every)


def phase_rows() -> pd.DataFrame:
    """Two even molecules and an odd one."""
    even, odd = METHANOL.atomic_numbers.tolist(), [6, 7, 1, 1, 1, 1]
    runs = [chain(even, late=50), chain(even, late=70), chain(odd, late=20)]
    about = {"weights": "edm_qm9", "num_atoms": 6, "seed": 0}
    return pd.DataFrame([about | {"chain": k, **phases.row_of(run)} for k, run in enumerate(runs)])


def test_a_chain_says_when_each_property_is_final_and_how_far_it_moves():
    row = phases.row_of(chain(METHANOL.atomic_numbers.tolist(), late=50))
    assert (row["elements"], row["predicted_elements"], row["odd"]) == (50, 199, False)
    assert row["atoms_elements"] == [50, 199, 199, 199, 199, 199]
    assert len(row["steps"]) == len(row["bond_error"]) == 1 + 100 + 1 and row["steps"][0] == 100
    error = row["bond_error"][row["steps"].index(20)]
    lengths = np.linalg.norm(METHANOL.positions[1:] - METHANOL.positions[[0, 0, 0, 0, 1]], axis=1)
    assert error == pytest.approx(0.04 * lengths.mean(), rel=1e-3)
    assert row["bond_lengths"] == pytest.approx(0.05 / 0.002 / lengths.mean(), abs=1.0)
    moved = 0.002 * np.linalg.norm(METHANOL.positions, axis=1).mean()
    assert row["step_size"][row["steps"].index(20)] == pytest.approx(moved, rel=1e-2)


def test_molecules_with_odd_electron_counts_stand_in_a_column_of_their_own():
    null = pd.DataFrame({"elements": [40, 44], "atoms_elements": [[40, 90], [44, 80]]})
    table = show(phases.order(phase_rows(), null), phases.ORDER, "")
    cells = {line[0]: [cell.split("\n")[0] for cell in line[1:]] for line in table.cells}
    assert cells["elements"] == ["50", "60", "20"] and cells["number of molecules"] == ["3", "2", "1"]
    assert cells[phases.NULL] == ["42", "–", "–"] and cells["predicted elements"] == ["199"] * 3


def test_shares_are_drawn_for_atoms_on_the_left_and_molecules_on_the_right():
    null = pd.DataFrame({"elements": [40, 44], "atoms_elements": [[40, 90], [44, 80]]})
    atoms, molecules = phases.draw_shares(phase_rows(), null).axes
    left = {line.get_label(): line.get_ydata() for line in atoms.lines}
    right = {line.get_label(): line.get_ydata() for line in molecules.lines}
    assert right["elements"][60] == pytest.approx(100 / 3) and left["elements"][60] == pytest.approx(100 * 16 / 18)
    assert right[phases.NULL][42] == 50.0 and left[phases.NULL][42] == 75.0 and right["elements"][0] == 100.0
    assert molecules.get_ylabel() == "molecules with their final value (%)"
    steps, errors = phases.draw_movements(phase_rows()).axes
    place = list(errors.lines[0].get_xdata()).index(21)
    mean = np.mean([row["bond_error"][row["steps"].index(20)] for _, row in phase_rows().iterrows()])
    assert errors.lines[0].get_ydata()[place] == pytest.approx(mean) and "step (Å)" in steps.get_ylabel()


def test_medians_of_phases_and_slopes_of_modes_go_to_the_ledger_under_their_names(monkeypatch):
    kept = {}

    def keep(claim, value, rows, **about):
        kept[claim.removeprefix("relaxation.")] = (getattr(value, "value", value), about)

    monkeypatch.setattr(phases, "record", keep)
    monkeypatch.setattr(boltzmann, "record", keep)
    rows = phase_rows().assign(bond_orders=[7, 9, 11], bond_lengths=[3, None, 5])
    phases.measurements(rows)
    boltzmann.measurements(boltzmann_rows())
    assert {claim: round(value, 2) for claim, (value, _) in kept.items()} == {
        "phases.elements": 50, "phases.predicted_elements": 199, "phases.bond_orders": 9, "phases.bond_lengths": 4,
        "boltzmann.slope_missed_by": 0.5, "boltzmann.energy_exponent": 2.0,
    }  # fmt: skip
    assert kept["phases.bond_lengths"][1]["n"] == 2 and kept["boltzmann.energy_exponent"][1]["n"] == 2
    assert "slope -0.50" in (told := kept["boltzmann.slope_missed_by"][1]["notes"]) and "step 20" in told
    assert "1 of 3 molecules have an odd number" in kept["phases.elements"][1]["notes"]


def test_a_path_is_measured_above_its_end_and_an_odd_molecule_has_none():
    even = phases.path_of(chain(METHANOL.atomic_numbers.tolist(), late=20))
    assert even["steps"][0] == 20 and even["steps"][-1] == -1 and len(even["straight"]) == 11
    assert even["diffusion"][-1] == 0.0 == even["straight"][-1] and even["diffusion"][0] == even["straight"][0] > 0.0
    odd = phases.path_of(chain([6, 7, 1, 1, 1, 1], late=20))
    assert odd["odd"] and odd["diffusion"] == []
    rows = pd.DataFrame([{"chain": 0, **even, "diffusion": [1.0, 9.0, 0.0]}, {"chain": 1, **odd}])
    assert phases.rises(rows)[["chain", "diffusion", "straight"]].to_numpy().tolist() == [[0, 8.0, 0.0]]


def test_a_model_that_knows_the_answer_has_its_elements_final_late():
    """40 QM9 molecules of 19 atoms: half of the molecules with about 50 steps left, from scale and schedule alone."""
    (task,) = phases.tasks_null(molecules=40)
    found = [row["elements"] for row in phases.measure_null(task)]
    assert len(found) == 40 and np.median(found) == pytest.approx(50, abs=6)


def boltzmann_rows() -> pd.DataFrame:
    """Two molecules of four modes: variances fall as the force constant for Metropolis, not for the others."""
    constants, lines = [0.5, 2.0, 8.0, 32.0], []
    for molecule in ("a", "b"):
        for kind, step in boltzmann.KINDS:
            power = {"Metropolis": -1.0, "diffusion": -0.5}.get(kind, 0.0)
            energy = 3.0 * (step / 20) ** 2 if step else 4.0
            line = {"molecule": molecule, "smiles": f"C{molecule}", "kind": kind, "step": step, "energy": energy}
            line |= {"constants": constants, "variances": [0.01 * one**power for one in constants], "failure": ""}
            line |= {"kelvin": 100.0 * energy, "spread": 0.3, "effective": 9.0 if molecule == "a" else 5.0}
            lines.append(line | {"num_failed": 1, "angles": [[1.0] + [0.0] * 59], "weights": "edm_qm9", "seed": 0})
    return pd.DataFrame(lines)


def test_the_slope_tells_boltzmann_from_isotropic_noise():
    table = show(boltzmann.table(boltzmann_rows()), boltzmann.COLUMNS, "")
    cells = {line[0]: line for line in table.cells}
    assert cells["Metropolis"][1].startswith("\u22121.00") and cells["perfect model, step 20"][1].startswith("0.00")
    assert cells["diffusion, step 20"][1].startswith("\u22120.50")
    assert cells["diffusion, step 20"][2:] == ("3.0", "300", "0.30", "5", "2", "2")
    assert cells["isotropic noise, exact"][4] == "1.10" and cells["harmonic Boltzmann, exact"][4] == "0.71"
    assert boltzmann.room_temperature_step(boltzmann_rows()) == 20
    assert boltzmann.energy_exponent(boltzmann_rows()).value == pytest.approx(2.0)


def test_the_figures_of_boltzmann_sampling_draw_what_the_rows_say():
    left, right = boltzmann.draw_energies(boltzmann_rows()).axes
    assert left.lines[0].get_xydata().tolist() == [[100, 0.75], [400, 3.0], [900, 6.75], [1600, 12.0]]
    assert right.lines[0].get_xydata()[1].tolist() == [20, 300.0] and "K" in right.get_ylabel()
    axes = boltzmann.draw_slopes(boltzmann_rows()).axes
    assert "0.00 [" in axes[0].get_title() and "slope -1.00" in axes[-1].get_title()
    assert axes[-1].lines[0].get_xydata()[:2].tolist() == [[0.5, 0.02], [2.0, 0.005]]
    (angles,) = boltzmann.draw_dihedrals(boltzmann_rows()).axes
    assert [patch.get_data().values[0] for patch in angles.patches] == [1.0, 1.0, 1.0]


def test_a_task_of_the_page_on_boltzmann_sampling_has_a_row_for_each_chain(monkeypatch):
    monkeypatch.setattr(boltzmann, "_choices", lambda: {"methanol": (METHANOL, "CO")})
    monkeypatch.setattr(boltzmann, "dihedrals", lambda *molecule: np.array([[2, 0, 1, 5]]))
    monkeypatch.setattr(boltzmann, "load", lambda name: build(EdmConfig(width=16, num_layers=1), seed=1))
    (task,) = boltzmann.tasks(molecules=1, num_steps=60, metropolis_steps=60)
    rows = pd.DataFrame(boltzmann.measure(task))
    assert list(zip(rows["kind"], rows["step"], strict=True)) == boltzmann.KINDS
    exact = rows[rows["kind"] == "perfect model"].set_index("step")
    assert (exact["failure"] == "").all() and (np.diff(exact["energy"]) > 0).all()
    assert len(exact.loc[20, "variances"]) == len(exact.loc[20, "constants"]) == 12
    assert sum(exact.loc[20, "angles"][0]) == pytest.approx(1.0, abs=1e-3)
    for options, words in (
        ({"metropolis_steps": 1}, "must be at least 50, got 60 and 1"),
        ({"molecules": 2}, "1 to 1 such"),
    ):
        with pytest.raises(InvalidInput, match=words):
            boltzmann.tasks(**{"molecules": 1, "num_steps": 60, "metropolis_steps": 60} | options)


def test_only_acyclic_neutral_single_bonded_molecules_are_chosen():
    assert boltzmann.is_acyclic_single_bonded("CCC(C)OC")
    for smiles in ("C1CC1", "C=O", "C#N", "[NH3+]C", None, "c1ccccc1", "C.C"):
        assert not boltzmann.is_acyclic_single_bonded(smiles)


def test_shaped_noise_makes_a_perfect_model_boltzmann():
    """500 draws: variance kT / w along every mode that is not cut off, and nothing along rigid motions."""
    one = boltzmann.harmonic(METHANOL, "CO")
    variance = 3.8e-4
    shape = boltzmann.shaped_noise(one.modes, variance, 300.0)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack(
        [shape(torch.randn(6, 3, generator=generator, dtype=torch.float64)) for _ in range(500)]
    ).numpy()
    along = np.einsum("fax,max->fm", draws, one.modes.vectors)
    wanted = np.minimum(8.617333262e-5 * 300 / one.modes.constants, 4 * variance) / variance
    np.testing.assert_allclose(along.var(axis=0), wanted, rtol=0.35)
    assert np.square(draws).sum() == pytest.approx(np.square(along).sum(), rel=1e-9)


def test_a_conformer_above_the_data_sets_has_a_positive_energy():
    about = {"molecule": "m", "optimiser": page.INTERNAL, "failure": "", "excess": 0.0, "num_gradients": 9}
    ends = ((page.REFERENCE, -10.0), ("dataset", -12.5))
    rows = pd.DataFrame([about | {"start": s, "energy": e, "rmsd_to_reference": 1.0} for s, e in ends])
    assert page.conformer_energies(rows).tolist() == [2.5]


def test_nine_in_ten_tested_molecules_lay_below_the_larger_error(monkeypatch):
    names = list(page._molecules("test"))[:11]
    about = {"start": page.edm_name(0.0285, "mean"), "optimiser": page.INTERNAL}
    rows = pd.DataFrame([about | {"molecule": name, "excess": float(k)} for k, name in enumerate(names)])
    monkeypatch.setattr(page, "stored_rows", lambda *_: rows)
    found = page.known_error("w", 0.0285, "mean", "ancestral")
    assert (found.num_molecules, found.median, found.ninth) == (11, 5.0, 9.0)
