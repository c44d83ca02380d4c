"""Plots that several pages share: curves, points against a diagonal, and differences with intervals; and cells."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from molkit.experiments.show import Column
from molkit.figures import style
from molkit.metrics.statistics import Interval

if TYPE_CHECKING:
    from IPython.display import HTML


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
        axis.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3)
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


def bars(
    frame: pd.DataFrame,
    by: str,
    columns: Mapping[str, Column],
    *,
    colours: Mapping[str, str],
    ylabel: str,
    caption: str,
    xlabel: str = "",
) -> Figure:
    """A group of bars for each column, in it a bar with its interval for each row; what is not known has no bar."""
    width = 0.8 / len(frame)
    with style.panels(width=7.6, height=3.2, caption=caption) as (figure, (axis,)):
        for shift, line in enumerate(frame.to_dict("records")):
            places = np.arange(len(columns)) + width * (shift - (len(frame) - 1) / 2)
            cells = [
                one if isinstance(one, Interval) else Interval(one, np.nan, np.nan) for one in map(line.get, columns)
            ]
            values = np.array([[one.value, one.low, one.high] for one in cells], dtype=float)
            values *= np.array([[kind.factor] for kind in columns.values()])
            axis.bar(places, values[:, 0], 0.92 * width, color=colours[line[by]], label=line[by])
            ends = np.abs(values[:, 1:] - values[:, :1]).T
            axis.errorbar(places, values[:, 0], ends, fmt="none", ecolor="#666666", lw=1.0)
        axis.set_xticks(range(len(columns)), [kind.head for kind in columns.values()])
        axis.set(ylabel=ylabel, xlabel=xlabel)
        axis.grid(axis="x", visible=False)
        style.legend_above(axis, 2)
    return figure


def forest(
    frame: pd.DataFrame, columns: Mapping[str, Column], *, labels: Sequence[str], xlabel: str, caption: str
) -> Figure:
    """A dot with its interval for each row of a table of intervals, from the top, and its numbers at the right.

    Several columns share a row, each in its colour. A dot is hollow where its interval holds zero, or is not known.
    """
    with style.panels(1, width=7.2, height=0.9 + 0.4 * len(frame) * max(len(columns), 1.4), caption=caption) as (
        figure,
        (axis,),
    ):
        axis.axvline(0.0, color="#767676", lw=1.2)
        for place, (name, kind) in enumerate(columns.items()):
            colour = style.CYCLE[place]
            for row, found in enumerate(frame[name]):
                _interval(
                    axis,
                    found.scaled(kind.factor),
                    row + 0.68 / max(len(columns), 2) * (place - 0.5 * (len(columns) - 1)),
                    kind,
                    colour,
                )
            axis.plot([], [], "o-", color=colour, label=kind.head)
        axis.set(xlabel=xlabel, ylim=(len(frame) - 0.4, -0.6))
        axis.set_yticks(range(len(frame)), labels, fontsize=8.5)
        axis.grid(axis="y", visible=False)
        if len(columns) > 1:
            axis.legend(fontsize=8.5, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(columns))
    return figure


def _interval(axis: Axes, found: Interval, height: float, kind: Column, colour: str) -> None:
    """One dot, its whisker where it has one, and its numbers beside the axis."""
    ends, decided = "", found.known and not round(found.low, 9) <= 0.0 <= round(found.high, 9)
    if found.known:
        axis.plot([found.low, found.high], [height, height], color=colour, lw=1.8)
        ends = f" [{found.low:+.{kind.digits}f}, {found.high:+.{kind.digits}f}]"
    axis.plot(found.value, height, "o", color=colour, mfc=colour if decided else "white", ms=6)
    text = f"{found.value:+.{kind.digits}f}{ends}".replace("-", "\u2212")
    axis.text(1.02, height, text, color=colour, fontsize=8, va="center", transform=axis.get_yaxis_transform())


ALONE = "(n = 1, no interval)"


def with_interval(
    found: Interval | None, digits: int = 2, factor: float = 1.0, *, signed: bool = False, between: str = "\n"
) -> str:
    """A value and its interval, on a second line unless told otherwise; a dash for nothing.

    A single item has no interval, and the cell says so.
    """
    if found is None:
        return "–"
    value, low, high = (_number(factor * part, digits, signed) for part in (found.value, found.low, found.high))
    return f"{value}{between}[{low}, {high}]" if found.known else f"{value}{between}{ALONE}"


def _number(value: float, digits: int, signed: bool = False) -> str:
    return f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}".replace("-", "\u2212")


def stacked(*tables: "HTML") -> "HTML":
    """Tables or views below each other."""
    from IPython.display import HTML

    return HTML("".join(table.data for table in tables))


def sentence(text: str, *values: object) -> "Text":
    """A sentence with measured values in it, as plain text in the page."""
    return Text(text.format(*values))


class Text(str):
    """A string that a notebook shows without quotation marks."""

    def __repr__(self) -> str:
        return str(self)
