"""Cells of tables."""

import math

import matplotlib
import pytest

from molkit.figures.relaxation_learning import _points
from molkit.figures.style import BLUE
from molkit.figures.tables import with_interval
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


def test_a_point_of_one_item_is_drawn_without_a_bar():
    matplotlib.use("agg")
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    _points(axes, [1.0, 2.0], [Interval(0.3, math.nan, math.nan), Interval(0.4, 0.3, 0.6)], BLUE, "x")
    (bars,) = axes.containers[0][2]
    lengths = [abs(segment[1, 1] - segment[0, 1]) for segment in bars.get_segments() if len(segment) == 2]
    finite = [length for length in lengths if not math.isnan(length)]
    assert finite == pytest.approx([0.3])
