"""Figures of the chapter on what is learned when."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from molkit.figures.style import BLACK, BLUE, VERMILION, panels
from molkit.figures.tables import html_table, with_interval
from molkit.metrics.statistics import Interval
from molkit.studies.relaxation_learning import LAGS, PERFECT, CheckpointRow, trained

if TYPE_CHECKING:
    from IPython.display import HTML

NAMES = {"with_minimum": ("minimum", BLUE), "with_force": ("force", VERMILION)}


def by_training(rows: Sequence[CheckpointRow]) -> Figure:
    """Cosines against the length of training, a panel for each lag; a perfect model as lines."""
    models = trained(rows)
    perfect = next(row for row in rows if row.label == PERFECT)
    caption = (
        f"n = {models[0].num} QM9 test molecules (fewer where a chain failed), chains from step 50 of 1,000 from "
        "MMFF94's structure, GFN2-xTB forces. Mean over frames, bootstrap 95 % intervals over molecules. Dashed: a "
        "perfect model."
    )
    with panels(len(LAGS), width=9.6, height=3.1, caption=caption, sharey=True) as (figure, axes):
        for one, lag in zip(axes, LAGS, strict=True):
            for name, (label, colour) in NAMES.items():
                _points(one, [row.passes for row in models], [row.at(lag).mean(name) for row in models], colour, label)
                one.axhline(perfect.at(lag).mean(name).value, color=colour, ls="--", lw=1.0)
            one.set(xscale="log", xlabel="molecules shown", title=f"lag {lag}")
        axes[0].set(ylabel="cosine of the step with")
        axes[0].legend(fontsize=8)
    return figure


def _points(axes: Axes, places: Sequence[float], values: Sequence[Interval], colour: str, label: str) -> None:
    errors = np.array([[one.value - one.low, one.high - one.value] for one in values]).T
    axes.errorbar(
        places, [one.value for one in values], yerr=errors, color=colour, marker="o", ms=4, lw=1.2, label=label
    )


def along_chain(rows: Sequence[CheckpointRow], *, lag: int = 10) -> Figure:
    """Cosines along the chain for the first and last checkpoint and the perfect model."""
    models = trained(rows)
    chosen = {
        f"first, {models[0].label}": (models[0], "-", 0.5),
        f"last, {models[-1].label}": (models[-1], "-", 1.0),
        PERFECT: (next(row for row in rows if row.label == PERFECT), "--", 1.0),
    }
    caption = (
        f"n = {models[-1].num} molecules; mean over molecules of the cosines of the displacement over {lag} steps."
    )
    with panels(2, width=8.8, height=3.0, caption=caption, sharey=True) as (figure, axes):
        for one, (name, (label, colour)) in zip(axes, NAMES.items(), strict=True):
            for words, (row, style, strength) in chosen.items():
                values = row.at(lag).curve[name]
                shade = BLACK if words == PERFECT else colour
                one.plot(np.arange(len(values)), values, color=shade, ls=style, alpha=strength, label=words)
            one.set(xlabel="frame of the chain", ylabel=f"cosine with the {label}")
            one.legend(fontsize=7.5)
    return figure


def table(rows: Sequence[CheckpointRow], *, lag: int = 10) -> "HTML":
    """All rows at one lag."""
    lines = []
    for row in rows:
        if not row.lags:
            lines.append((row.label, "–", "–", "–", "–", "0", str(row.num_failed)))
            continue
        found = row.at(lag)
        values = [
            found.mean("with_force"),
            found.mean("with_minimum"),
            found.excess_over_force(),
            found.mean("force_with_minimum"),
        ]
        cells = [with_interval(one) for one in values]
        lines.append((row.label, *cells, str(row.num), str(row.num_failed)))
    head = ("", "step with force", "step with minimum", "minimum less force", "force with minimum", "n", "failed")
    caption = (
        f"Cosines at lag {lag}, mean over the frames of a chain, bootstrap 95 % intervals over molecules. Failed: no "
        "finite chain, no energy on the way, or no minimum behind it."
    )
    return html_table(head, lines, caption=caption)
