"""The page on fewer calls: paired losses, the bar, what a step costs, and where curves lie."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from molkit.edm.samplers import SAMPLERS
from molkit.edm.sampling import Plan
from molkit.experiments.show import show
from molkit.metrics.statistics import Interval, bootstrap_interval, proportion_interval
from molkit.studies.edm import fewer_steps as page

WEIGHTS = "edm_qm9"


def rows() -> pd.DataFrame:
    """40 full chains with 30 stable; 20 by sde-2m that lose 4 of the first 20; all of dpm-2m that lose one in two."""
    full = [True] * 30 + [False] * 10
    arms = [("ancestral", 1001, full), ("sde-2m", 50, full[4:20] + [False] * 4), ("dpm-2m", 20, [True, False] * 20)]
    return pd.DataFrame(
        [
            {"weights": WEIGHTS, "sampler": name, "num_calls": calls, "calls": calls, "stable": flag, "seconds": 0.1}
            | {"num_atoms": 5, "stable_atoms": 5.0, "odd": False, "smiles": "C", "positions": None}
            for name, calls, flags in arms
            for flag in flags
        ]
    )


def test_losses_are_differences_over_molecules_of_the_same_noise():
    found = page.race(rows()).set_index("sampler")
    assert found.index.tolist() == ["ancestral", "dpm-2m", "sde-2m"]
    assert found["lost"]["ancestral"] is None and found["bar"]["ancestral"] == ""
    assert found["pairs"][["dpm-2m", "sde-2m"]].tolist() == [40, 20]
    assert found["lost"]["sde-2m"].value == pytest.approx(20.0)
    expected = bootstrap_interval(100.0 * (np.array([1.0] * 30 + [0.0] * 10) - np.tile([1.0, 0.0], 20)))
    assert found["lost"]["dpm-2m"] == expected and expected.value == 25.0


def test_cells_of_the_race_stand_under_their_heads():
    table = show(page.race(rows()), page.RACE, "")
    line = dict(zip(table.heads, table.cells[2], strict=True))
    assert (line["sampler"], line["calls"], line["n"], line["pairs"]) == ("sde-2m", "50", "20", "20")
    assert line["stable molecules, %"].startswith("80.0\n") and line["points lost"].startswith("20.00\n")


def test_equal_arms_lose_nothing():
    same = pd.concat([rows()[:40], rows()[:40].assign(sampler="ddim", num_calls=100, calls=100)])
    lost = page.race(same)["lost"].dropna().iloc[0]
    assert (lost.value, lost.low, lost.high) == (0.0, 0.0, 0.0) and page.verdict(lost) == "met"


def test_the_bar_asks_for_the_value_and_for_its_upper_limit():
    assert page.verdict(Interval(0.9, -1.0, 2.4)) == "met"
    assert page.verdict(Interval(0.9, -1.0, 2.6)) == "open" and page.verdict(Interval(1.1, 0.9, 2.0)) == "open"
    assert page.verdict(Interval(3.0, 1.1, 5.0)) == "missed"


def test_a_sampler_is_good_down_to_where_nothing_above_is_missed():
    verdicts = {250: "met", 100: "open", 50: "met", 20: "missed", 10: "met"}
    arms = [{"sampler": "a", "calls": calls, "bar": bar} for calls, bar in verdicts.items()]
    found = page.bars(pd.DataFrame([*arms, {"sampler": "b", "calls": 20, "bar": "open"}]))
    assert found.to_numpy().tolist() == [["a", "50 calls", "20 calls"], ["b", "none", "none"]]


def test_points_of_the_race_stand_over_their_calls_with_the_full_chain_as_a_band():
    (axis,) = page.draw_race(page.race(rows())).axes
    drawn = {one.get_label(): one for one in axis.containers}
    assert set(drawn) == {"sde-2m", "dpm-2m"}
    (x, y), *_ = drawn["sde-2m"].lines[0].get_xydata()
    assert x == pytest.approx(50, rel=0.1) and y == pytest.approx(80.0)
    band = proportion_interval(30, 40)
    corners = axis.patches[0].get_extents().transformed(axis.transData.inverted())
    assert (corners.y0, corners.y1) == pytest.approx((100 * band.low, 100 * band.high))
    assert "1001 calls" in axis.patches[0].get_label() and "calls" in axis.get_xlabel()


@pytest.fixture(scope="module")
def errors():
    tasks = page.tasks(weights=WEIGHTS, num_molecules=8, num_points=13)
    return pd.DataFrame([vars(task) | page.measure(task)[0] for task in tasks])


def test_shorter_steps_cost_less_and_no_step_that_asks_the_network_pays_back(errors):
    few, many = (page.prices(errors, num_calls=n).groupby("chain")["nats"].agg(list) for n in (50, 200))
    for name in page.STRIDED:
        assert 0 < sum(many[name]) < sum(few[name])
        assert min(few[name][1:]) > -0.02 * sum(few[name])
    assert few["quadratic, blind start"][0] < 0.2 * few["quadratic"][0]


def test_a_prediction_that_stays_the_same_costs_nothing_and_a_blind_step_what_it_does_not_see():
    """SNR 4, 1 and 0.25 with error 1 everywhere; predicting nothing has error 3, on the first step from 0.25 to 1."""
    plan = Plan([2, 1, 0], SAMPLERS["ddim"], "sample", frozenset())
    given = (np.array([4.0, 1.0, 0.25]), np.ones(3), 3.0)
    assert page.price_of(plan, *given)["nats"].tolist() == [0.0, 0.0]
    found = page.price_of(dataclasses.replace(plan, blind_start=True), *given)
    assert found.to_numpy().tolist() == [[2.0, 0.5 * 0.75 * 2.0], [1.0, 0.0]]


def test_the_price_is_drawn_from_noise_to_molecule(errors):
    left, right = page.draw_price(errors, num_calls=50).axes
    assert left.get_lines()[0].get_ydata().tolist() == errors["error"].tolist()
    even = page.prices(errors, num_calls=50).query("chain == 'even'")
    line = right.get_lines()[0]
    assert line.get_ydata()[-1] == pytest.approx(even["nats"].sum()) and line.get_xdata()[0] == 1000
    assert f"{even['nats'].sum():.0f} nats" in line.get_label()


def test_a_grid_of_calls_falls_from_the_noise_to_the_molecule():
    left, right = page.draw_grids(WEIGHTS, num_calls=20).axes
    even, quadratic = left.get_lines()
    assert even.get_ydata()[0] == 1.0 and even.get_ydata()[-1] == 0.0 and len(even.get_ydata()) == 20
    assert quadratic.get_ydata()[10] < even.get_ydata()[10]
    assert right.get_lines()[0].get_ydata()[-1] == pytest.approx(0.0032, abs=2e-4)


def test_errors_are_measured_at_both_ends_of_the_chain():
    steps = page.measured_steps(1000, 21)
    assert steps[0] == 0 and steps[-1] == 1000 and 990 < steps[-3] < 1000 and (np.diff(steps) > 0).all()
