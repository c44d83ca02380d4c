"""The look of every figure: Okabe-Ito colours, light grid, axes with units."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from molkit.claims.store import current_profile

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
CYCLE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)  # of lines that have no colour of their own
SEVERAL = (ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE)  # for rows that have no colour of their own
DATA_COLOUR, MODEL_COLOUR, PAPER_COLOUR = BLACK, BLUE, VERMILION
RULES = {
    "figure.dpi": 110,
    "savefig.bbox": "tight",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e7ea",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.labelcolor": "#222222",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}


def legend_above(axis: Axes, columns: int = 2) -> None:
    """The legend above the axes, where it covers no data."""
    axis.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, fontsize=8.5)


@contextmanager
def panels(
    columns: int = 1, rows: int = 1, *, width: float = 7.6, height: float = 3.2, caption: str = "", **options
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with its axes in a flat list, in the house style; closed for pyplot, so a cell shows it once.

    The caption stands below and should say what was counted, and how many; the profile of the run is added to it.
    """
    with plt.rc_context(RULES):
        figure, axes = plt.subplots(rows, columns, figsize=(width, height * rows), squeeze=False, **options)
        yield figure, list(axes.flat)
        figure.tight_layout()
        if caption:
            lines = textwrap.wrap(f"{caption} Profile: {current_profile()}.", int(15 * width))
            figure.text(0.01, -0.01, "\n".join(lines), ha="left", va="top", fontsize=8.5, color="#444444")
        plt.close(figure)
