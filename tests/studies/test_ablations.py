"""The page on ablations: trainings as rows, arms behind claims, turned molecules, readable elements, skeletons."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from molkit.claims.ledger import load_claims
from molkit.data.packed import write_packed
from molkit.data.qm9 import load_qm9
from molkit.edm.config import EdmConfig
from molkit.edm.model import build, save
from molkit.edm.training import read_recipe
from molkit.errors import CalculationFailed, InvalidInput, RunError
from molkit.experiments.show import show
from molkit.geometry import random_rotations
from molkit.metrics.statistics import Interval, difference_of_intervals, proportion_interval
from molkit.molecule import PackedMolecules
from molkit.studies.edm import ablations as page
from molkit.studies.edm_card import publish_card

RECIPE = """method: edm
model: {{width: 16, num_layers: 1}}
training: {{batch_pairs: 600, total_steps: 600000, log_every: 1, learning_rate: {rate}}}
"""
TASK = page.Task("plain", "scratch", "all", 1, 5, 3, 3, "sde-2m", 3)  # three steps


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    """Two arms, one of which diverges; trainings in a folder of the test."""
    (tmp_path / "ablations").mkdir()
    for name, rate in (("plain", "1.0e-3"), ("wild", "1.0e+30")):
        (tmp_path / "ablations" / f"{name}.yaml").write_text(RECIPE.format(rate=rate))
    monkeypatch.setattr(page, "RECIPES", tmp_path)
    monkeypatch.setattr(page, "TRAININGS", tmp_path / "trainings")
    return tmp_path


def training(arm, seed, *, atoms, molecules=0.2, nll=0.0):
    """A row whose columns all differ."""
    row = {"arm": arm, "seed": seed, "num_samples": 1000, "num_calls": 100, "sampler": "sde-2m"}
    row |= {"shown": 200_000 + seed, "steps": 8000, "cpu_seconds": 160.0, "parameters": 150_000, "lost": 0}
    row |= {"bound_molecules": 2000, "curve_passes": [100_000, 200_000], "curve_error": [0.2 + seed, 0.1 + seed]}
    for name, value, half in (("atoms", atoms, 0.01), ("molecules", molecules, 0.02), ("nll", nll, 2.0)):
        row |= {name: value, f"{name}_low": value - half, f"{name}_high": value + half}
    for name, value in (("valid", 0.6), ("unique", 0.59)):
        row |= {name: value, f"{name}_low": value - 0.03, f"{name}_high": value + 0.03}
    return row


def made_rows(molecules=0.2):
    """Three trainings of EDM, two of GDM-aug, one of GDM."""
    rows = [training("egnn", seed, atoms=0.80 + 0.01 * seed, molecules=molecules, nll=float(seed)) for seed in range(3)]
    rows += [training("gdm_aug", seed, atoms=0.65, molecules=molecules, nll=35.0) for seed in range(2)]
    return pd.DataFrame([*rows, training("gdm", 0, atoms=0.60, molecules=molecules, nll=30.0)])


def test_tasks_cover_arms_parts_and_seeds_and_refuse_what_is_not_there():
    tasks = page.tasks(arms=("egnn", "gdm"), parts=("all", "half"), seeds=(0, 7))
    assert len({(t.arm, t.part, t.seed) for t in tasks}) == len(tasks) == 8
    for wrong, message in (
        ({"arms": ("odd",)}, "no arm 'odd'; there are deep, egnn, gdm"),
        ({"parts": ("third",)}, "no part 'third'; there are all, half"),
        ({"weights": "published"}, "give --seeds 0"),
        ({"passes": 0}, "need passes and samples, got 0"),
    ):
        with pytest.raises(InvalidInput, match=message):
            page.tasks(**wrong)


def test_the_recipes_of_the_arms_differ_from_edm_in_what_their_names_say():
    plain = read_recipe(page.recipe_of("egnn"))
    changed = {
        "gdm": {"architecture": "gdm"},
        "gdm_aug": {"architecture": "gdm"},
        "unscaled": {"scale_types": 1.0, "scale_atomic_number": 1.0},
        "no_attention": {"attention": False},
        "wide": {"width": 96},
        "narrow": {"width": 32},
        "deep": {"num_layers": 8},
        "shallow": {"num_layers": 2},
    }
    for arm, model in changed.items():
        recipe = read_recipe(page.recipe_of(arm))
        assert recipe.model == replace(plain.model, **model), arm
        assert recipe.training.random_rotations is (arm == "gdm_aug")
        assert (recipe.training.total_steps == plain.training.total_steps) is (arm not in list(changed)[4:])
    assert set(page.MAIN) == {"egnn", *list(changed)[:3]} and set(page.LABELS) == {"egnn", *changed}


def test_a_training_is_made_sampled_scored_and_its_folder_removed(recipes):
    (row,) = page.measure(TASK)
    assert row["steps"] == 3 and row["curve_passes"][-1] == row["shown"] and row["bound_molecules"] == 3
    for name in (*page.SHARES, "nll"):
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    assert row["cpu_seconds"] > 0.0 and not list((recipes / "trainings").iterdir())


def test_half_of_the_training_split_is_half(recipes, monkeypatch):
    seen = {}
    monkeypatch.setattr(page, "train_recipe", lambda path, **options: seen.update(options) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        page.measure(replace(TASK, part="half", passes=400_000))
    assert seen["limit"] == len(load_qm9(split="train")) // 2 and seen["total_steps"] == 1_200_000


def test_a_training_that_diverges_is_a_failure_of_its_task_and_one_that_was_stopped_goes_on(recipes, monkeypatch):
    with pytest.raises(CalculationFailed, match="diverged: step .* not finite"):
        page.measure(replace(TASK, arm="wild", passes=10))
    real = page.train_recipe
    monkeypatch.setattr(page, "train_recipe", lambda path, **options: real(path, time_budget=1e-3, **options))
    with pytest.raises(RunError, match="the same command goes on"):
        page.measure(TASK)
    monkeypatch.setattr(page, "train_recipe", real)
    folder = next((recipes / "trainings").iterdir())
    costs = len((folder / "cost.jsonl").read_text().splitlines())
    assert costs == 1 and page.measure(TASK)[0]["steps"] == 3 and not folder.exists()


def test_arms_stand_in_their_order_and_pool_their_trainings():
    arms = page.per_arm(made_rows())
    assert arms["arm"].tolist() == ["egnn", "gdm_aug", "gdm"] and arms["trainings"].tolist() == [3, 2, 1]
    atoms = arms["atoms"][0]
    assert atoms.value == pytest.approx(0.81) and atoms.high - 0.81 > 0.0248  # t alone: 4.303 * 0.01 / sqrt 3
    assert arms["nll"][2] == Interval(30.0, 28.0, 32.0) and arms["molecules"][2].high == 0.22
    shown = show(arms, page.ARMS, "")
    assert shown.heads[5:] == ("stable atoms, %", "stable molecules, %", "valid, %", "NLL, nats")
    assert [cell.split("\n")[0] for cell in shown.cells[2]] == [
        *("GDM", "1", "150,000", "200", "160", "60.0", "20.0", "60.0", "30.0"),
    ]


def test_published_lines_are_those_of_the_paper_in_the_units_of_the_table():
    claims = load_claims(study="edm")
    table = page.published().set_index("label")
    assert table["atoms"]["EDM, published"] == pytest.approx(claims["edm.qm9.edm.atom_stable"].value / 100)
    assert table["molecules"]["GDM, published"] == pytest.approx(claims["edm.qm9.gdm.molecule_stable"].value / 100)
    assert table["nll"]["GDM-aug, published"] == claims["edm.qm9.gdm_aug.nll"].value
    unscaled = table.loc["EDM, input not scaled, published"]
    assert unscaled["nll"] == claims["edm.scaling.unscaled.nll"].value and pd.isna(unscaled["valid"])


def test_differences_are_taken_from_the_equivariant_arm():
    arms = page.per_arm(made_rows())
    found = page.differences(arms).set_index("label")
    assert found["nll"]["GDM"] == difference_of_intervals(arms["nll"][2], arms["nll"][0])
    assert (found["atoms_verdict"]["GDM"], found["nll_verdict"]["GDM"]) == ("lower", "higher")
    assert page.verdict(Interval(0.1, -0.1, 0.3)) == "not shown"


def recorded(monkeypatch, rows):
    found = {}
    monkeypatch.setattr(page, "record", lambda claim, value, rows, **facts: found.setdefault(claim, (value, facts)))
    page.record_arms(rows)
    return found


def test_the_arm_behind_every_claim_is_the_one_that_it_names(monkeypatch):
    """Each arm has values of its own, so that another arm or figure behind a claim shows."""
    rows, size = [], {"egnn": 0.9, "gdm_aug": 0.7, "gdm": 0.5, "unscaled": 0.8}
    for arm, value in size.items():
        rows += [training(arm, seed, atoms=value, molecules=value / 2, nll=-100 * value) for seed in range(2)]
    found = recorded(monkeypatch, pd.DataFrame(rows))
    claims = load_claims()
    arms = {"qm9.gdm.": "gdm", "qm9.gdm_aug": "gdm_aug", "unscaled": "unscaled", "augmentation.atom": "gdm_aug"}
    arms |= {"augmentation.nll": "gdm", "order.symmetry": "egnn", "order.scaling": "egnn"}
    assert len(found) == len(page.ROWS) + len(page.ORDERS)
    for claim, (value, facts) in found.items():
        assert claims[claim].attempt == "now" and not claims[claim].measured_as
        (arm,) = {arm for part, arm in arms.items() if part in claim}
        atoms, n = size[arm], facts["n"]
        expected = {"nll": -100 * atoms, "atom_stable": 100 * atoms, "molecule_stable": 50 * atoms, "valid": 60.0}
        assert value.value == pytest.approx(expected[claim.rpartition(".")[2]]), claim
        assert n == 2000 and facts["training_passes"] == 200_000.5 and facts["seeds"] == [0, 1]


def test_the_arms_of_an_order_are_those_that_its_rule_compares():
    claims, own = load_claims(), {f"{prefix}.": arm for arm, prefix in page.CLAIMS.items()}
    for claim, (arm, figure, others) in page.ORDERS.items():
        than = claims[claim].accept.than
        named = {next(arm for prefix, arm in own.items() if one.startswith(prefix)) for one in than}
        assert named == set(others) and arm not in named, claim
        assert all(one.endswith(page.NAMES_IN_CLAIMS[figure]) for one in (claim, *than)), claim


def test_arms_that_were_trained_once_enter_no_order_and_stable_molecules_wait_for_a_tenth(monkeypatch):
    """GDM was trained once."""
    assert not any(claim.startswith("edm.order") for claim in recorded(monkeypatch, made_rows()))
    for share, allowed in ((0.05, False), (0.2, True)):
        twice = pd.concat([made_rows(share), pd.DataFrame([training("gdm", 1, atoms=0.6, molecules=share)])])
        found = recorded(monkeypatch, twice)
        assert ("edm.order.symmetry.molecule_stable" in found) is allowed
        assert "edm.order.symmetry.atom_stable" in found and "edm.order.scaling.atom_stable" not in found


def test_dots_and_bars_are_the_trainings_and_their_means_on_their_own_axis():
    atoms, nll = page.draw_arms(made_rows(), caption="").axes
    assert [text.get_text() for text in atoms.get_yticklabels()] == ["EDM", "GDM-aug", "GDM"]
    assert "stable atoms" in atoms.get_xlabel() and "NLL" in nll.get_xlabel()
    assert nll.containers[2].lines[0].get_xydata().tolist() == [[30.0, 2.0]]
    low, high = nll.containers[2].lines[2][0].get_segments()[0][:, 0]
    assert (low, high) == (28.0, 32.0)
    dots = [line for line in atoms.get_lines() if line.get_marker() == "o"][0]
    assert dots.get_xdata().tolist() == pytest.approx([80.0, 81.0, 82.0])


def test_curves_are_those_of_the_first_training():
    frame = page.curves(made_rows())
    own = frame[frame["arm"] == "gdm_aug"]
    assert own[["passes", "error"]].to_numpy().tolist() == [[100_000, 0.2], [200_000, 0.1]]
    thinned = page.curve_of([{"passes": k, "noise_error": k} for k in range(1, 81)])
    assert thinned["curve_passes"][:2] == [2, 4] and thinned["curve_error"][0] == 1.5
    assert len(thinned["curve_error"]) == 40 and page.curve_of([])["curve_passes"] == []


def errors(architecture, turn):
    edm = build(EdmConfig(architecture=architecture, width=16, num_layers=2), seed=1)
    return page.errors_at(edm, load_qm9(split="test", limit=12), step=None, turn=turn, seed=3)


def test_only_the_equivariant_network_makes_the_same_error_on_turned_molecules():
    turns = random_rotations(12, generator=torch.Generator().manual_seed(0))
    still = torch.eye(3).expand(12, 3, 3)
    np.testing.assert_allclose(errors("egnn", turns), errors("egnn", still), rtol=1e-3)
    assert np.abs(errors("gdm", turns) / errors("gdm", still) - 1.0).max() > 1e-3


def test_a_sweep_closes_after_a_full_turn_and_its_points_are_drawn():
    sweep = page.turn_sweep(["egnn"], row=100, step=300, num_angles=3, draws=3, seed=0)
    assert sweep["error"].to_numpy() == pytest.approx(sweep["error"][0], rel=1e-3)
    assert sweep["degrees"].tolist() == [0.0, 180.0, 360.0]
    (axis,) = page.draw_turns(sweep, caption="").axes
    points = axis.containers[0].lines[0].get_xydata()
    assert points.tolist() == sweep[["degrees", "error"]].to_numpy().tolist()
    assert "angle" in axis.get_xlabel() and axis.get_legend_handles_labels()[1] == ["EDM"]


def test_orientations_of_the_equivariant_network_have_ratio_one():
    (row,) = page.orientations(["egnn"], num_molecules=20, seed=0).to_dict("records")
    assert row["label"] == "EDM" and row["ratio"].value == pytest.approx(1.0, abs=1e-3)
    assert row["turned"].value == pytest.approx(row["stored"].value, rel=1e-3)


def test_elements_are_read_as_closed_forms_and_random_draws_say():
    """Two channels: Phi(d / sqrt 2); five, 100,000 draws: error bar 0.0015; no signal: one in K."""
    distance = np.array([0.5, 2.0, 6.0])
    exact = [0.5 * (1 + math.erf(d / 2.0)) for d in distance]
    np.testing.assert_allclose(page.element_is_right(1 / distance, 1.0, num_types=2), exact, atol=1e-8)
    channels = np.random.default_rng(0).normal(size=(100_000, 5))
    channels[:, 0] += 1.3
    found = page.element_is_right(np.array([1 / (4 * 1.3)]), 4.0)[0]
    assert found == pytest.approx((channels.argmax(1) == 0).mean(), abs=0.006)
    assert page.element_is_right(np.array([1e9]), 1.0)[0] == pytest.approx(0.2, abs=1e-8)
    assert page.hydrogen_is_told(np.array([0.25]), 10.0)[0] == pytest.approx(0.5 * (1 + math.erf(1 / math.sqrt(2))))


def test_scaling_down_moves_the_decision_to_smaller_blur_in_both_panels():
    for axis, names in zip(page.draw_readability(caption="").axes, (("1", "4"), ("1", "10")), strict=True):
        large, small = axis.get_lines()
        assert [line.get_label().rpartition(" ")[2] for line in (large, small)] == list(names)
        assert (large.get_ydata() >= small.get_ydata() - 1e-9).all() and large.get_ydata()[0] > 99.9
        assert "blur" in axis.get_xlabel()


def pair(symbols=(6, 6), length=1.54):
    return PackedMolecules(np.array([2]), np.array(symbols), np.array([[0.0, 0.0, 0.0], [length, 0.0, 0.0]]))


def test_hydrogens_are_filled_in_and_failed_chains_count():
    """C-C at 1.54 angstrom is ethane without its hydrogens; three chains of four failed."""
    line = page.heavy_line("pair", page.skeletons(pair(), num_failed=3), known=frozenset({"CC"}))
    assert (line["num"], line["valid"].value, line["valid_unique"].value, line["novel"].value) == (4, 0.25, 0.25, 0.0)
    assert line["one_piece"] == proportion_interval(1, 4)
    apart = page.heavy_line("apart", page.skeletons(pair(length=9.0)))
    assert apart["one_piece"].value == 0.0 and apart["novel"] is None


def test_an_atom_with_too_many_bonds_is_not_valid():
    """An oxygen with three carbons at bonding distance."""
    ring = np.array([[0.0, 0.0, 0.0], [1.43, 0.0, 0.0], [-0.715, 1.238, 0.0], [-0.715, -1.238, 0.0]])
    rows = page.skeletons(PackedMolecules(np.array([4]), np.array([8, 6, 6, 6]), ring))
    assert rows["smiles"].isna().all() and rows["one_piece"].all()


def test_shares_of_skeletons_stand_in_their_own_columns():
    data = page.skeletons(load_qm9(split="test", limit=60).without_hydrogens())
    twice = pd.concat([data, data], ignore_index=True)
    (row,) = show(page.heavy_table({"twice": twice}), page.HEAVY, "").cells
    assert row[1] == "120" and row[5] == "–" and row[2].split("\n")[0] == f"{100 * data['smiles'].notna().mean():.1f}"
    assert float(row[3].split("\n")[0]) <= 50.0 < float(row[4].split("\n")[0])


def test_chains_of_skeletons_know_which_are_in_one_piece():
    rows = pd.DataFrame(
        {"smiles": ["CC", None, "C"], "atomic_numbers": [[6, 6], None, [6, 6]], "num_atoms": [2, 2, 2]}
        | {"positions": [[0, 0, 0, 1540, 0, 0], None, [0, 0, 0, 9000, 0, 0]]}
    )
    assert page.drawn_skeletons(rows)["one_piece"].tolist() == [True, False, False]


def test_points_and_bars_of_the_heavy_figure_are_shares_by_size_and_element():
    data = pd.DataFrame(
        {"num_atoms": [2] * 20 + [3], "smiles": ["CO"] * 15 + [None] * 6, "atomic_numbers": [[6, 8]] * 21}
    )
    sizes, elements = page.draw_heavy(data, data.head(20), caption="").axes
    points = sizes.containers[0]
    assert points.lines[0].get_xydata().tolist() == [[2.0, 75.0]]
    found = proportion_interval(15, 20)
    assert points.lines[2][0].get_segments()[0][:, 1] == pytest.approx([100 * found.low, 100 * found.high])
    heights = [bar.get_height() for bar in elements.containers[0].patches]
    assert heights == [50.0, 0.0, 50.0, 0.0] and elements.get_ylabel() == "share of atoms (%)"


def test_the_card_and_the_report_of_weights_without_hydrogens(tmp_path, monkeypatch):
    folder = tmp_path / "tiny"
    sizes = tuple((k, 1) for k in range(1, 10))
    save(build(EdmConfig(width=16, num_layers=1, elements=(6, 7, 8, 9), sizes=sizes)), folder)
    facts = {"step": 1, "passes": 10, "epochs": 0.0, "seconds": 1.0, "processes": 1, "device": "cpu"}
    facts |= {"sample_calls": 10, "sample_seed": 0, "samples_requested": 42}
    (folder / "training.json").write_text(json.dumps(facts))
    line = {"step": 1, "passes": 10, "noise_error": 1.0, "seconds": 1.0, "date": "2026-11-21", "processes": 1}
    for name in ("metrics.jsonl", "provenance.jsonl"):
        (folder / name).write_text(json.dumps(line) + "\n")
    write_packed(folder / "samples.npz", load_qm9(split="test", limit=40).without_hydrogens())
    assert page.without_hydrogens(folder) and not page.without_hydrogens("edm_qm9")
    report = page.evaluate_weights(folder, nll_molecules=20)
    assert report["nll_nats"]["molecules"] == 20 and report["samples"]["num"] == 42 and report["samples"]["failed"] == 2
    few = load_qm9(split="test", limit=60)
    monkeypatch.setattr("molkit.studies.edm_card.load_qm9", lambda *, split: few)
    monkeypatch.setattr(page, "known_skeletons", lambda: frozenset({"C"}))
    text = publish_card(folder).read_text()
    assert "without hydrogens" in text and "Chains that did not stay finite: 2" in text
    shutil.rmtree(folder)
