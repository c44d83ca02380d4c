"""Intervals: known values, and that they cover the truth as often as they say."""

import math

import numpy as np
import pytest

from molkit.errors import InvalidInput
from molkit.metrics import statistics as stats


def test_wilson_interval_of_a_textbook_case():
    """81 of 263: 0.2553 to 0.3662 (Newcombe 1998, table I, method 3)."""
    interval = stats.proportion_interval(81, 263)
    assert (interval.low, interval.high) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))


@pytest.mark.parametrize(("successes", "total"), [(0, 10), (10, 10), (0, 1), (3, 7)])
def test_wilson_interval_contains_the_proportion_and_stays_between_0_and_1(successes, total):
    interval = stats.proportion_interval(successes, total)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.high - interval.low > 0


def test_difference_of_proportions_of_a_textbook_case():
    """56/70 - 48/80: 0.0524 to 0.3339 (Newcombe 1998, table II, method 10)."""
    interval = stats.difference_of_intervals(stats.proportion_interval(56, 70), stats.proportion_interval(48, 80))
    assert interval.value == pytest.approx(0.2)
    assert (interval.low, interval.high) == (pytest.approx(0.0524, abs=5e-5), pytest.approx(0.3339, abs=5e-5))


def test_bootstrap_interval_of_a_normal_mean_covers_it_as_often_as_it_says():
    """300 samples of 60 values: coverage has a standard error of 1.3 points; percentile intervals run a point short."""
    random = np.random.default_rng(3)
    hits = 0
    for trial in range(300):
        interval = stats.bootstrap_interval(random.normal(1.0, 2.0, size=60), num_resamples=300, seed=trial)
        hits += interval.low <= 1.0 <= interval.high
    assert 0.90 < hits / 300 < 0.98


def test_bootstrap_width_of_a_mean_is_that_of_the_central_limit_theorem():
    values = np.random.default_rng(0).exponential(size=4000)
    interval = stats.bootstrap_interval(values, num_resamples=2000)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert (interval.high - interval.low) / 2 == pytest.approx(half, rel=0.06)
    assert stats.bootstrap_interval(values, seed=1) == stats.bootstrap_interval(values, seed=1)


def test_a_ratio_is_resampled_by_molecule():
    """Whole molecules fail together: the interval is wider than that of independent atoms."""
    atoms = np.full(200, 20)
    stable = np.where(np.arange(200) < 100, 20, 0)
    clustered = stats.ratio_interval(stable, atoms)
    independent = stats.proportion_interval(2000, 4000)
    assert clustered.value == 0.5
    assert clustered.high - clustered.low == pytest.approx(
        math.sqrt(20) * (independent.high - independent.low), rel=0.1
    )


def test_nan_is_an_error_and_says_how_many():
    with pytest.raises(InvalidInput, match="2 of 4 values are NaN or infinite"):
        stats.bootstrap_interval(np.array([1.0, np.nan, 2.0, np.inf]))


@pytest.mark.parametrize(("successes", "total"), [(1, 0), (-1, 3), (4, 3)])
def test_impossible_counts_are_refused(successes, total):
    with pytest.raises(InvalidInput, match="0 <= successes <= total"):
        stats.proportion_interval(successes, total)


def test_empty_samples_wrong_levels_and_resample_counts_are_refused():
    with pytest.raises(InvalidInput, match="got none"):
        stats.bootstrap_interval(np.array([]))
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        stats.proportion_interval(1, 2, level=95)
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        stats.bootstrap_interval(np.ones(3), level=95)
    with pytest.raises(InvalidInput, match="num_resamples"):
        stats.bootstrap_interval(np.ones(3), num_resamples=0)


def test_one_item_has_no_interval():
    """Resampling one value gives that value every time; an interval of no width would say that it is known exactly."""
    found = stats.bootstrap_interval(np.array([0.51]))
    assert found.value == 0.51 and not found.known and not found.scaled(100.0).known
    assert stats.bootstrap_interval(np.array([0.51, 0.51])).known
    assert not stats.ratio_interval(np.array([18.0]), np.array([19.0])).known
