"""Tables of a page: a pandas table with unit and digits by column, and below it how its numbers were made."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from molkit.errors import InvalidInput
from molkit.experiments.run import CONFIRMED, FRESH, Account, account_of
from molkit.metrics.statistics import Interval, bootstrap_interval

WIDE = 8  # columns, from which on a table is set closer
LONGEST_NUMBER = 26  # characters; more is a sentence
NOTHING = "–"
MOST_FAILURES = 5  # that are named
Cell = Any


@dataclass(frozen=True)
class Column:
    """How a column is shown: its head, the digits of its numbers, and the factor to the unit of the head.

    An interval is shown as its value, with its ends on a second line.
    """

    head: str
    digits: int = 0
    factor: float = 1.0
    names: Mapping[str, str] = field(default_factory=dict)  # words that stand for others

    def text(self, cell: Cell) -> str:
        """One cell in words; what is not there is a dash."""
        if isinstance(cell, Interval):
            ends = f"\n[{self._number(cell.low)}, {self._number(cell.high)}]" if cell.known else ""
            return self._number(cell.value) + ends
        if cell is None or (isinstance(cell, float) and np.isnan(cell)) or cell is pd.NA:
            return NOTHING
        if isinstance(cell, bool | np.bool_ | str):
            return self.names.get(cell, str(cell))
        return self._number(cell)

    def _number(self, value: float) -> str:
        """With separators of thousands, a true minus sign, and none on a zero."""
        return f"{round(self.factor * value, self.digits) + 0.0:,.{self.digits}f}".replace("-", "\u2212")


@dataclass(frozen=True)
class Table:
    """A table that a notebook shows as HTML and a terminal as text."""

    heads: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    caption: str
    account: Account | None = None

    def _repr_html_(self) -> str:
        kind = "molkit-table molkit-wide" if len(self.heads) >= WIDE else "molkit-table"
        heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in self.heads)
        lines = [
            f'<tr><th scope="row">{escape(first)}</th>{"".join(map(_cell, rest))}</tr>' for first, *rest in self.cells
        ]
        return (
            f'<figure class="{kind}"><figcaption>{escape(self.caption)}</figcaption><div><table><thead><tr>{heads}</tr>'
            f"</thead><tbody>{''.join(lines)}</tbody></table></div></figure>"
            f"{'' if self.account is None else fold(self.account)}"
        )

    def __repr__(self) -> str:
        lines = [[cell.replace("\n", " ") for cell in line] for line in (self.heads, *self.cells)]
        widths = [max(len(line[k]) for line in lines) for k in range(len(self.heads))]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        return "\n".join([self.caption, *text])


def show(
    frame: pd.DataFrame, columns: Mapping[str, Column | str], caption: str, *, rows: pd.DataFrame | None = None
) -> Table:
    """The chosen columns of a table, in that order, the first one as labels.

    A column that is given as a word is shown under it, as it is. `rows` is the table of `run` that the numbers were
    made of: how it was made is folded below. Raises InvalidInput for a column that is not there.
    """
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise InvalidInput(f"the table has no column {missing[0]!r}; it has {', '.join(map(str, frame.columns))}")
    kinds = {name: Column(kind) if isinstance(kind, str) else kind for name, kind in columns.items()}
    cells = tuple(
        tuple(kind.text(cell) for kind, cell in zip(kinds.values(), line, strict=True))
        for line in frame[list(kinds)].astype(object).itertuples(index=False, name=None)
    )
    return Table(
        tuple(kind.head for kind in kinds.values()), cells, caption, None if rows is None else account_of(rows)
    )


def mean_with_interval(frame: pd.DataFrame, columns: Sequence[str], *, by: str | None = None) -> pd.DataFrame:
    """Means of columns with 95 % bootstrap intervals over the rows that have a value, for each value of `by`.

    Rows must be independent: average over seeds first. A single value has no interval. The groups keep their order.
    """
    groups = [(None, frame)] if by is None else list(frame.groupby(by, sort=False, observed=True))
    lines = []
    for name, group in groups:
        known = {column: group[column].dropna().to_numpy(dtype=float) for column in columns}
        means = {column: bootstrap_interval(values) if len(values) else None for column, values in known.items()}
        lines.append({**({} if by is None else {by: name}), **means})
    return pd.DataFrame(lines, dtype=object)


def paired(frame: pd.DataFrame, first: str, second: str, *, by: str, over: str, column: str) -> pd.Series:
    """first - second of a column for each value of `over` that both have: paired differences, named by `over`.

    `by` is the column that says which is which. In the order of the table. Raises InvalidInput for several rows each.
    """
    if frame.duplicated([by, over]).any():
        raise InvalidInput(f"pairs need one row for each {by} and {over}: average first")
    wide = frame.pivot(index=over, columns=by, values=column).loc[frame[over].unique()]
    missing = [name for name in (first, second) if name not in wide.columns]
    if missing:
        raise InvalidInput(f"no row has {by} = {missing[0]!r}")
    return (wide[first] - wide[second]).dropna()


def fold(account: Account) -> str:
    """How the numbers of a table were made, as HTML that opens on demand."""
    words = {FRESH: "computed with the code of today", CONFIRMED: "confirmed by a sample"}
    state = words.get(account.state, "stale")
    told = f"; {account.audit}" if account.audit is not None else ""
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts(account).items())
    return (
        f'<details class="molkit-fold molkit-origin"><summary>How this number was made: {escape(account.experiment)}, '
        f"{account.num_tasks:,} tasks, {state}{escape(told)}</summary><dl>{lines}</dl></details>"
    )


def facts(account: Account) -> dict[str, str]:
    """Experiment, tasks, command, origins and audits of rows, in words."""
    found = {
        "Experiment": account.function,
        "Tasks": f"{account.num_tasks:,} ({account.num_taken:,} from the store), {account.num_rows:,} rows, "
        f"{_duration(account.seconds)} of computing",
        "Command": account.command,
    }
    for number, batch in enumerate(account.batches, start=1):
        commit = "a commit that is not known" if batch.commit is None else f"commit {batch.commit[:10]}"
        parts = [batch.date[:10], commit + (" with changes" if batch.dirty else ""), batch.machine, batch.note]
        found["Origin" if len(account.batches) == 1 else f"Origin {number}"] = ", ".join(filter(None, parts))
    for number, audit in enumerate(account.audits, start=1):
        found["Audit" if len(account.audits) == 1 else f"Audit {number}"] = f"{audit.date}: {audit}; {audit.machine}"
    if account.reasons:
        found["Changed since"] = _few(account.reasons)
    if account.failures:
        found["Left out"] = _few([f"{task}: {reason}" for task, reason in account.failures.items()])
    return found


def _few(texts: Sequence[str]) -> str:
    more = len(texts) - MOST_FAILURES
    return "; ".join(texts[:MOST_FAILURES]) + (f"; and {more} more" if more > 0 else "")


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.1f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def _cell(text: str) -> str:
    """A number keeps its lines; a sentence wraps."""
    words = max(map(len, text.split("\n"))) > LONGEST_NUMBER
    return ('<td class="words">' if words else "<td>") + f"{escape(text)}</td>"


@dataclass(frozen=True)
class Source:
    """The source of a function, folded on a page."""

    name: str
    text: str

    def _repr_html_(self) -> str:
        return (
            f'<details class="molkit-fold"><summary>How it is computed: <code>{escape(self.name)}</code></summary>'
            f"<pre>{escape(self.text)}</pre></details>"
        )

    def __repr__(self) -> str:
        return f"{self.name}\n{self.text}"


def source(function: Callable[..., Any]) -> Source:
    """The source of a function that a page names, as it stands in the package."""
    return Source(f"{function.__module__}.{function.__qualname__}", inspect.getsource(function).rstrip())
