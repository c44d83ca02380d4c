"""Plots that several pages share: curves, and points against a diagonal."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from molkit.figures import style

Line = tuple[str, str]  # colour and kind of line


def curves(
    frame: pd.DataFrame,
    x: str,
    y: str,
    *,
    by: str,
    names: Mapping[str, str],
    lines: Mapping[str, Line],
    xlabel: str,
    ylabel: str,
    caption: str,
    factor: float = 1.0,
    mark: float | None = None,
) -> Figure:
    """A curve of y (times a factor) over x for each value of `by`, named and drawn as given; `mark` is a dotted x."""
    with style.panels(1, width=7.2, height=3.8, caption=caption) as (figure, (axis,)):
        for name, group in frame.groupby(by, sort=False):
            colour, kind = lines[name]
            axis.plot(group[x], factor * group[y], color=colour, ls=kind, label=names[name])
        if mark is not None:
            axis.axvline(mark, color="#999999", ls=":", lw=1.0)
        axis.set(xlabel=xlabel, ylabel=ylabel)
        axis.legend(fontsize=7)
    return figure


def against(x: pd.Series, y: pd.Series, *, xlabel: str, ylabel: str, caption: str) -> Figure:
    """A point for each entry that both series have, and the diagonal on which they are equal."""
    both = pd.DataFrame({"x": x, "y": y}).dropna()
    with style.panels(1, width=4.6, height=4.0, caption=caption) as (figure, (axis,)):
        axis.plot(both["x"], both["y"], "o", color=style.MODEL_COLOUR)
        end = 1.05 * both.to_numpy().max()
        axis.plot([0, end], [0, end], color="#999999", linewidth=1.0)
        axis.set(xlabel=xlabel, ylabel=ylabel)
    return figure
