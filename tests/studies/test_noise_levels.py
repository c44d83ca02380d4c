"""The page on noise levels: which molecules, which steps, and rows as cells and points."""

import numpy as np
import pandas as pd
import pytest

from molkit.edm.config import EdmConfig
from molkit.edm.model import build
from molkit.edm.samplers import SAMPLERS
from molkit.edm.sampling import make_plan
from molkit.metrics.stability import stability
from molkit.metrics.statistics import proportion_interval
from molkit.studies.edm import noise_levels as page

EDM = build(EdmConfig(width=16, num_layers=1))


def rows() -> pd.DataFrame:
    """Ten molecules at each of two levels with two samplers: 8, 4 and 9, 6 of them stable, 1, 5, 0, 2 odd."""
    found = []
    counts = (("one", 0.1, 8, 1), ("one", 0.5, 4, 5), ("two", 0.1, 9, 0), ("two", 0.5, 6, 2))
    for sampler, level, stable, odd in counts:
        for row in range(10):
            flags = {"stable": row < stable, "odd": row >= 10 - odd, "same_elements": row < 2}
            found.append({"sampler": sampler, "level": level, "molecule": row} | flags)
    return pd.DataFrame(found)


def test_tasks_cover_every_molecule_of_every_level_and_sampler_once():
    tasks = page.tasks(samplers=("sde-2m", "ddim"), levels=(0.1, 0.3, 0.5), num_molecules=120)
    found = [(t.sampler, t.level, t.first + k) for t in tasks for k in range(t.count)]
    assert len(found) == len(set(found)) == 2 * 3 * 120


def test_the_molecules_are_stable_ones_of_the_test_split():
    molecules = page.stable_molecules(20)
    assert len(molecules) == 20 and stability(molecules).molecule_stable.all()
    assert len({one.positions.tobytes() for one in molecules}) == 20, "no molecule comes twice"


def test_a_shortened_plan_enters_at_the_level_and_takes_the_steps_of_the_whole_chain():
    plan = make_plan(EDM, SAMPLERS["sde-2m"], 50)
    step = page.nearest_step(EDM.log_snr, 0.46)
    short = page.shortened(plan, step)
    assert np.exp(-0.5 * EDM.log_snr[step].item()) == pytest.approx(0.46, rel=0.01)
    assert short.steps[0] == step and not short.blind_start
    assert short.steps[1:] == [one for one in plan.steps if one < step]


def test_from_the_lowest_level_an_untrained_chain_returns_what_it_was_given():
    """At step 0 only the final step is left: noise of 0.003 angstrom, which breaks nothing."""
    molecules = page.stable_molecules(4)
    task = page.Task("none", "sde-2m", 0.003, 50, 0, 4, 4, seed=0)
    made = page.denoised(EDM, molecules, task)
    assert made.atomic_numbers.tolist() == molecules.atomic_numbers.tolist()
    assert np.abs(np.linalg.norm(made[0].positions[0] - made[0].positions[1])
                  - np.linalg.norm(molecules[0].positions[0] - molecules[0].positions[1])) < 0.05  # fmt: skip


def test_shares_are_those_of_the_rows_with_their_intervals():
    summary = page.summary(rows())
    assert summary[["sampler", "level"]].to_numpy().tolist() == [["one", 0.1], ["one", 0.5], ["two", 0.1], ["two", 0.5]]
    assert [one.value for one in summary["stable"]] == [0.8, 0.4, 0.9, 0.6]
    assert [one.value for one in summary["odd"]] == [0.1, 0.5, 0.0, 0.2]
    assert {one.value for one in summary["same_elements"]} == {0.2}
    assert summary["stable"][1] == proportion_interval(4, 10)


def test_points_and_bars_of_the_figure_are_the_shares_in_per_cent():
    stable, odd = page.draw_losses(rows(), caption="").axes
    assert [container.get_label() for container in stable.containers] == ["one", "two"]
    first = stable.containers[0]
    assert first.lines[0].get_xydata().tolist() == [[0.1, 80.0], [0.5, 40.0]]
    low, high = first.lines[2][0].get_segments()[1][:, 1]
    interval = proportion_interval(4, 10)
    assert (low, high) == pytest.approx((100 * interval.low, 100 * interval.high))
    assert odd.containers[1].lines[0].get_xydata().tolist() == [[0.1, 0.0], [0.5, 20.0]]
    assert "stable" in stable.get_ylabel() and "odd" in odd.get_ylabel()


def test_both_densities_of_training_levels_hold_one_molecule_pass():
    """Areas under the curves against ln(sigma / alpha): one, but for what the schedule's ends cut off."""
    (axis,) = page.draw_training_levels(EDM.config, caption="").axes
    for line in axis.get_lines()[:2]:
        level, density = line.get_xydata().T
        assert np.trapezoid(density, np.log(level)) == pytest.approx(1.0, abs=0.02)
