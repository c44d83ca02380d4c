"""Cells of tables."""

import math

import pytest

from molkit.figures.plots import with_interval
from molkit.metrics.statistics import Interval

MINUS = "\u2212"


@pytest.mark.parametrize(
    ("found", "options", "expected"),
    [
        (Interval(0.512, 0.4, 0.61), {}, "0.51\n[0.40, 0.61]"),
        (Interval(-0.0364, -0.1, 0.02), {"digits": 1, "factor": 100.0}, f"{MINUS}3.6\n[{MINUS}10.0, 2.0]"),
        (Interval(1.5, -0.001, 3.0), {"signed": True, "between": " "}, "+1.50 [+0.00, +3.00]"),
        (Interval(0.51, math.nan, math.nan), {}, "0.51\n(n = 1, no interval)"),
        (None, {}, "–"),
    ],
)
def test_a_cell_shows_value_and_interval_and_says_where_there_is_none(found, options, expected):
    assert with_interval(found, **options) == expected
