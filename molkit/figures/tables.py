"""Cells and sentences of the pages."""

from typing import TYPE_CHECKING

from molkit.metrics.statistics import Interval

if TYPE_CHECKING:
    from IPython.display import HTML

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
