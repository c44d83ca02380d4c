"""Intervals over trainings, and differences of intervals."""

import math

import numpy as np
import pytest

from molkit.errors import InvalidInput
from molkit.metrics.statistics import (
    Interval,
    interval_over_runs,
)


def test_a_single_training_keeps_its_own_interval():
    run = Interval(0.5, 0.4, 0.7)
    assert interval_over_runs([run]) == run


def test_equal_trainings_keep_the_interval_of_the_molecules():
    found = interval_over_runs([Interval(0.5, 0.4, 0.7)] * 3)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.4, 0.7))


def test_trainings_without_molecule_scatter_give_student_t():
    """t of 2 degrees of freedom at 97.5 % is 4.302653."""
    found = interval_over_runs([Interval(v, v, v) for v in (1.0, 2.0, 3.0)])
    half = 4.302653 / math.sqrt(3.0)
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0 - half, 2.0 + half), rel=1e-6)


def test_an_interval_of_shares_ends_where_shares_end():
    found = interval_over_runs([Interval(v, v, v) for v in (0.0, 0.001, 0.01)], within=(0.0, 1.0))
    assert found.low == 0.0 < found.value < found.high < 1.0


def test_the_interval_of_an_error_that_cannot_be_negative_stays_above_zero():
    """Errors of 4.3, 9.1 and 4.8 kcal/mol: Student's t of the plain mean begins below zero."""
    runs = [Interval(v, v, v) for v in (4.283, 9.142, 4.781)]
    assert interval_over_runs(runs).low < 0.0
    found = interval_over_runs(runs, positive=True)
    width = 4.302653 * np.std([run.value for run in runs], ddof=1) / math.sqrt(3.0) / found.value
    assert found.value == pytest.approx(6.0687, abs=1e-4)
    assert (found.low, found.high) == pytest.approx((found.value * math.exp(-width), found.value * math.exp(width)))


def test_equal_positive_trainings_keep_the_interval_of_the_molecules():
    found = interval_over_runs([Interval(0.5, 0.4, 0.7)] * 3, positive=True)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.4, 0.7))


def test_the_interval_of_positive_trainings_covers_the_true_mean():
    """Log-normal trainings of spread 0.5: 95 % of 400 intervals hold their mean, give or take three points."""
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        found = interval_over_runs([Interval(v, v, v) for v in random.lognormal(sigma=0.5, size=3)], positive=True)
        hits += found.low <= math.exp(0.5**2 / 2) <= found.high
    assert 0.92 < hits / 400 < 0.98


def test_a_negative_value_is_no_positive_figure():
    with pytest.raises(InvalidInput, match="above zero"):
        interval_over_runs([Interval(1.0, 0.5, 2.0), Interval(-1.0, -2.0, 0.5)], positive=True)


def test_the_interval_over_trainings_covers_the_true_mean():
    """Normal trainings of spread 1 without other scatter: 95 % of 400 intervals, error bar 1.1 points."""
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        found = interval_over_runs([Interval(v, v, v) for v in random.normal(size=3)])
        hits += found.low <= 0.0 <= found.high
    assert 0.92 < hits / 400 < 0.98


def test_no_training_and_mixed_levels_are_refused():
    with pytest.raises(InvalidInput, match="at least one interval"):
        interval_over_runs([])
    with pytest.raises(InvalidInput, match="one level"):
        interval_over_runs([Interval(0, 0, 0, 0.95), Interval(0, 0, 0, 0.9)])
