"""Small HTML tables for the pages."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from molkit.metrics.statistics import Interval

if TYPE_CHECKING:
    from IPython.display import HTML

WIDE = 8  # columns, from which on a table is set closer
ALONE = "(n = 1, no interval)"
LONGEST_NUMBER = 26  # characters; more is a sentence


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


def percent(share: Interval | None) -> str:
    """A share in [0, 1] as per cent, its interval on a second line."""
    return with_interval(share, 1, factor=100.0)


def _number(value: float, digits: int, signed: bool = False) -> str:
    return f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}".replace("-", "\u2212")


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, bold_last: bool = False) -> "HTML":
    """A table under its caption; the first column is a label, the others are right-aligned numbers, or sentences."""
    from IPython.display import HTML

    kind = "molkit-table molkit-wide" if len(head) >= WIDE else "molkit-table"
    lines = [f'<figure class="{kind}"><figcaption>', escape(caption), "</figcaption><div><table><thead><tr>"]
    lines += [f'<th scope="col">{escape(cell)}</th>' for cell in head]
    lines.append("</tr></thead><tbody>")
    for number, row in enumerate(rows):
        bold = bold_last and number == len(rows) - 1
        cells = [f'<th scope="row">{escape(row[0])}</th>', *(_cell(text, bold=bold) for text in row[1:])]
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return HTML("".join([*lines, "</tbody></table></div></figure>"]))


def _cell(text: str, *, bold: bool) -> str:
    """A number keeps its lines; a sentence wraps."""
    start = '<td class="words">' if max(map(len, text.split("\n"))) > LONGEST_NUMBER else "<td>"
    return f"{start}{'<strong>' if bold else ''}{escape(text)}{'</strong>' if bold else ''}</td>"


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
