"""The page on molecules with a wanted property: what is asked, rows as cells, bars and dots."""

import numpy as np
import pandas as pd
import pytest

from molkit.claims.ledger import load_claims
from molkit.data.qm9_labels import NAMES, LabelledMolecules, load_labelled
from molkit.edm.conditions import make_table, write_table
from molkit.edm.config import EdmConfig
from molkit.edm.model import build, save
from molkit.edm.property_network import PropertyConfig, build_property, save_property
from molkit.errors import InvalidInput
from molkit.experiments.show import show
from molkit.metrics.energies import mean_absolute_error
from molkit.molecule import Molecule, PackedMolecules
from molkit.studies.edm import conditional as page

UNITS = dict(zip(NAMES, (1.0, 1e3, 1e3, 1e3, 1.0, 1.0), strict=True))


def generator(folder, **more):
    """An untrained generator of the six properties: small molecules with small values, larger ones with larger."""
    known = {"context_names": NAMES, "context_means": (0.0,) * 6, "context_spreads": (2.0,) * 6}
    save(build(EdmConfig(width=16, num_layers=1, num_context=12, **known, **more)), folder)
    values = np.linspace(0.0, 1.0, 100)[:, None].repeat(6, axis=1)
    write_table(folder, make_table(NAMES, np.repeat([5, 7], 50), values))
    return str(folder)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Such a generator of the paper's kind."""
    return generator(tmp_path_factory.mktemp("generator"))


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """An untrained judge."""
    folder = tmp_path_factory.mktemp("judge")
    config = PropertyConfig(width=16, num_layers=1, means=(0.0,) * 6, spreads=(1.0,) * 6)
    save_property(folder, config, build_property(config).network)
    return str(folder)


def made_rows(scale=1.0, off=1.0):
    """Four molecules a property, off by k, k, k and 3 k times `off` for the k-th property; the last chain was lost."""
    rows = [
        {"prop": name, "guidance": scale, "weights": "edm_qm9_conditional", "judge": "qm9_property_judge"}
        | {"asked": 10.0 + n, "judged": 10.0 + n + off * (k + 1) * (3 if n == 3 else 1)}
        | {"num_atoms": 10, "stable_atoms": 10 - 5 * (n == 3), "stable": n < 3, "valid": n < 2}
        for k, name in enumerate(NAMES)
        for n in range(4)
    ]
    lost = [row | {"judged": None, "stable_atoms": 0, "stable": False, "valid": False} for row in rows[::4]]
    return pd.DataFrame(rows + lost)


def made_bounds():
    """The three rows beside: 100, 10 and 1 for the first property, twice as much for the second ..."""
    sizes = zip(page.BOUNDS, (100.0, 10.0, 1.0), strict=True)
    lines = [(row, name, (k + 1) * size) for row, size in sizes for k, name in enumerate(NAMES)]
    return pd.DataFrame(
        [{"row": r, "prop": n, "error": e, "low": e - 0.5, "high": e + 1, "num": 7} for r, n, e in lines]
    )


def test_tasks_hold_every_molecule_of_every_property_once_and_short_runs_have_all_properties():
    tasks = page.tasks(num_molecules=600, guidance=(1.0, 2.0))
    found = [(t.prop, t.guidance, 250 * t.chunk + k) for t in tasks for k in range(t.count)]
    assert len(found) == len(set(found)) == 6 * 2 * 600
    assert {task.prop for task in tasks[:6]} == set(NAMES)
    with pytest.raises(InvalidInput, match="unknown property 'mass'; there are alpha, gap"):
        page.tasks(properties=("mass",))


def test_a_row_says_what_was_asked_what_was_found_and_how_far_that_is_in_spreads(weights, judge):
    (task,) = page.tasks(weights=weights, judge=judge, properties=("gap",), num_molecules=3, num_calls=3)
    rows, again = page.measure(task), page.measure(task)
    assert rows == again and len(rows) == 3
    for row in rows:
        assert 0.0 <= row["asked"] <= 1.0 and row["num_atoms"] == (5 if row["asked"] < 0.5 else 7)
        assert row["miss"] == pytest.approx(abs(row["judged"] - row["asked"]) / 2.0, abs=1e-4)


def test_a_preconditioned_generator_is_asked_and_guided_by_every_sampler_alike(tmp_path, judge):
    """The same sizes and values whatever the scale; the molecules differ by it."""
    kind = {"parametrisation": "preconditioned", "feature_means": (0.1,) * 6, "spreads": (1.4, 0.1, 0.3)}
    options = {"weights": generator(tmp_path, **kind), "judge": judge, "num_molecules": 3, "num_calls": 5}
    asked = page.tasks(properties=("mu",), guidance=(1.0, 2.0), samplers=("sde-2m", "sde-2m-extra"), **options)
    found = [page.measure(task) for task in asked]
    assert len(found) == 4 and all(row["judged"] is not None for rows in found for row in rows)
    assert len({str([(row["asked"], row["num_atoms"]) for row in rows]) for rows in found}) == 1
    assert len({str([row["judged"] for row in rows]) for rows in found}) == 4


def test_a_lost_chain_keeps_its_row_and_the_others_their_own_values():
    water = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.96], [0.93, 0.0, -0.24]])
    broken = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 5.0], [5.0, 0.0, 0.0]])
    two = PackedMolecules(np.array([3, 3]), np.array([8, 1, 1, 8, 1, 1]), np.concatenate([water, broken]))
    values, found = np.array([1.0, 2.0, 3.0]), np.array([1.5, 7.0])
    rows = page.rows_of(two, np.array([0, 2]), np.array([3, 3, 3]), values, found, spread=2.0)
    assert [row["judged"] for row in rows] == [1.5, None, 7.0] and [row["miss"] for row in rows] == [0.25, None, 2.0]
    assert [row["stable"] for row in rows] == [True, False, False]
    assert [row["stable_atoms"] for row in rows] == [3, 0, 0] and rows[0]["valid"] and not rows[1]["valid"]


def test_errors_stand_under_their_property_in_its_unit_with_the_published_line_above():
    table = page.errors(made_rows(), made_rows(2.0, off=0.5))
    assert list(table["row"]) == [
        "EDM, asked for the value (published)",
        "EDM, asked for the value",
        "EDM, guidance scale 2",
    ]
    assert list(table["num"]) == [10_000, 4, 4]
    for k, name in enumerate(NAMES):
        assert table[name][0] == load_claims(study="edm")[f"edm.conditional.edm.{name}"].value
        assert table[name][1].value == pytest.approx(1.5 * (k + 1) * UNITS[name])
        assert table[name][2].value == pytest.approx(0.75 * (k + 1) * UNITS[name])
    shown = show(table, page.ERRORS, "")
    assert shown.heads[2:5] == ("α (bohr³)", "gap (meV)", "HOMO (meV)")
    assert shown.cells[1][2].startswith("1.50\n") and shown.cells[1][3].startswith("3,000\n")


def test_the_rows_beside_keep_their_names_and_intervals():
    table = page.bound_errors(made_bounds())
    assert list(table["row"][::2]) == [f"{page.LABELS[row]} (published)" for row in page.BOUNDS]
    naive, atoms, data = (table["gap"][place] for place in (1, 3, 5))
    assert (naive.value, atoms.value, data.value) == (200.0, 20.0, 2.0)
    assert (naive.low, naive.high) == (199.5, 201.0) and table["gap"][4] == 64


def test_quality_counts_lost_chains_in_every_share():
    (row,) = page.quality(made_rows()).to_dict("records")
    assert (row["num"], row["lost"]) == (30, 6)
    assert (row["molecules"].value, row["valid"].value) == (18 / 30, 12 / 30)
    assert row["atoms"].value == pytest.approx((18 * 10 + 6 * 5) / 300)


def test_what_is_recorded_is_the_row_of_its_claim(monkeypatch):
    found = {}
    monkeypatch.setattr(
        page, "record", lambda claim, estimate, rows, **facts: found.setdefault(claim, (estimate, facts))
    )
    rows, bounds = pd.concat([made_rows(), made_rows(2.0, off=9.0)]), made_bounds()
    page.record_errors(rows, bounds)
    assert set(found) <= set(load_claims()) and len(found) == 24
    for k, name in enumerate(NAMES):
        assert found[f"edm.conditional.edm.{name}"][0].value == pytest.approx(1.5 * (k + 1) * UNITS[name])
        assert found[f"edm.conditional.naive.{name}"][0].value == 100.0 * (k + 1)
        assert found[f"edm.conditional.num_atoms.{name}"][0].value == 10.0 * (k + 1)
        assert found[f"edm.conditional.data.{name}"][0].value == k + 1.0
    about = found["edm.conditional.edm.mu"][1]
    assert about["weights"] == "edm_qm9_conditional" and about["notes"].startswith("1 chains without")
    assert about["n"] == 4 and found["edm.conditional.data.mu"][1]["n"] == 7
    assert found["edm.conditional.data.mu"][1]["weights"] == "qm9_property_judge"


def test_bars_are_errors_over_those_of_shuffled_labels_with_their_ends():
    beside = page.bound_errors(made_bounds())
    (axis,) = page.draw_relative(page.errors(made_rows()), beside, caption="").axes
    assert axis.get_legend_handles_labels()[1] == [
        "published",
        "number of atoms only",
        "EDM, asked for the value",
        "QM9's own molecules",
    ]
    bars, gap = [one for one in axis.containers if hasattr(one, "patches")], 1
    heights = [one.patches[gap].get_height() for one in bars]
    assert heights == pytest.approx([0.1, 3000.0 / 200.0, 0.01])
    ends = [one.lines[2][0].get_segments()[gap][:, 1].tolist() for one in axis.containers if one not in bars]
    assert ends[0] == pytest.approx([19.5 / 200, 21.0 / 200])


def test_dots_are_what_was_asked_against_what_was_found():
    axes = page.draw_asked(made_rows(), caption="").axes
    dots, line = axes[1].get_lines()
    assert dots.get_xydata().tolist() == [[10.0, 12.0], [11.0, 13.0], [12.0, 14.0], [13.0, 19.0]]
    assert line.get_xydata().tolist() == [[10.0, 10.0], [13.0, 13.0]]
    assert axes[1].get_xlabel() == "gap asked for (eV)" and "found" in axes[1].get_ylabel()


def test_sizes_given_a_request_are_shares_and_move_with_it(weights):
    shares = page.size_shift(weights, [{"alpha": 0.1}, {"gap": 0.9}])
    found = {str(name): group["share"].tolist() for name, group in shares.groupby("request")}
    assert found == {"nothing asked": [0.5, 0.5], "alpha = 0.1": [1.0, 0.0], "gap = 0.9": [0.0, 1.0]}
    with pytest.raises(InvalidInput, match="outside 0 to 1"):
        page.size_shift(weights, [{"alpha": 2.0}])
    lines = page.draw_sizes(shares, caption="").axes[0].get_lines()
    assert lines[1].get_label() == "alpha = 0.1" and lines[1].get_xydata().tolist() == [[5.0, 100.0], [7.0, 0.0]]


def test_requests_are_answered_with_sizes_that_go_with_them(weights, judge):
    options = {"count": 3, "num_calls": 3, "sampler": "sde-2m", "seed": 0}
    found = page.answers(weights, judge, page.requests_of(0.1, 0.2), **options)
    assert [set(one.molecules.num_atoms) for one in found] == [{5}] * 3
    table = page.means(found)
    assert list(table["request"]) == ["alpha = 0.1", "gap = 0.2", "alpha = 0.1, gap = 0.2"]
    assert (table["molecules"] + table["lost"] == 3).all()
    assert table["gap"][0].value == pytest.approx(1e3 * found[0].found[:, NAMES.index("gap")].mean())


def test_a_sweep_uses_one_noise_for_all_values(weights, judge):
    options = {"num_atoms": 5, "count": 3, "num_calls": 3, "sampler": "sde-2m", "seed": 0}
    molecules, steps = page.sweep(weights, judge, prop="alpha", **options)
    assert set(molecules.num_atoms) == {5} and len(molecules) == len(steps) <= 3
    assert steps["asked"].is_monotonic_increasing and steps["asked"].iloc[0] == 0.0


def test_shuffled_labels_are_worse_than_the_judge_on_real_molecules():
    rows = {t.row: page.measure_bounds(t) for t in page.tasks_bounds(num_molecules=40) if t.row != "num_atoms"}
    assert all(
        naive["error"] > 2 * data["error"] and naive["num"] == 40
        for naive, data in zip(rows["naive"], rows["data"], strict=True)
    )


def test_a_baseline_of_the_number_of_atoms_learns_what_depends_on_it_alone():
    sizes = np.tile(np.arange(5, 25), 20)
    pack = PackedMolecules(sizes, np.ones(sizes.sum(), dtype=np.int64), np.zeros((sizes.sum(), 3)))
    labels = np.stack([4.0 * sizes + k for k in range(6)], axis=1).astype(float)
    toy = LabelledMolecules(pack, np.arange(len(sizes)), labels)
    errors = page.size_baseline(toy, toy, seed=0)
    assert errors["alpha"].value < 2.0  # of values from 20 to 100
    assert errors["gap"].value < 2e3  # the same, in the unit of the table


def test_the_mean_absolute_error_is_that_and_refuses_what_it_cannot_average():
    assert mean_absolute_error(np.array([1.0, 4.0]), np.array([2.0, 2.0])).value == pytest.approx(1.5)
    with pytest.raises(InvalidInput, match="as many predictions"):
        mean_absolute_error(np.zeros(2), np.zeros(3))
    with pytest.raises(InvalidInput):
        mean_absolute_error(np.array([np.nan]), np.zeros(1))


def test_contexts_tell_all_part_another_s_or_nothing():
    part = page.thinned(load_labelled("test"), 8)
    nothing, alpha, every, others = page.contexts(part, seed=0).values()
    assert len(part.index) == 8 and np.isnan(nothing).all() and np.isfinite(alpha).sum() == 8
    np.testing.assert_array_equal(alpha[:, 0], part.labels[:, 0])
    np.testing.assert_array_equal(every, part.labels)
    assert (others != part.labels).any()
    np.testing.assert_array_equal(np.sort(others, axis=0), np.sort(part.labels, axis=0))


def test_what_is_told_changes_the_bound_with_the_noise_held_fixed(weights):
    table = page.context_bounds(weights, num_molecules=3, draws=1, seed=0)
    assert table["change"][0] is None
    assert table["change"][2].value == pytest.approx(table["nats"][2].value - table["nats"][0].value, rel=1e-6)
    again = page.context_bounds(weights, num_molecules=3, draws=1, seed=0)
    assert again["nats"].tolist() == table["nats"].tolist()


def test_a_gallery_shows_molecules_spread_over_all_of_them(monkeypatch):
    monkeypatch.setattr(page, "show_grid", lambda shown, caption: [one.name for one in shown])
    some = PackedMolecules.from_molecules([Molecule([2], [[0.0, 0.0, 0.0]], name=f"{k}") for k in range(9)])
    assert page.gallery(some, "", count=3) == ["0", "4", "8"] and len(page.gallery(some, "", count=20)) == 9
