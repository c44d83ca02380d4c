"""Audits: a few stored tasks, drawn by the date and the code, computed again and compared."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import fisher_exact

from molkit.config import from_dict
from molkit.errors import InvalidInput
from molkit.experiments.experiment import Comparison, Row, label_of
from molkit.experiments.store import Entry

LEVEL = 0.99
QUANTILE = 2.576  # of the normal distribution, two-sided at that level
NUM_RESAMPLES = 10_000
SHOWN = 5  # differences that are kept in words
EQUAL = 1e-9  # relative


@dataclass(frozen=True, kw_only=True)
class Audit:
    """k tasks of n, recomputed with some code, and how many of what was compared agreed.

    `counted` says what: rows, one by one, or means of groups of rows. `batches` are the origins that the n tasks have.
    """

    date: str
    commit: str | None
    dirty: bool | None
    code: str  # one hash of all fingerprints
    tasks: tuple[str, ...]
    num_tasks: int
    compared: int
    agreed: int
    counted: str = "rows"
    batches: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    machine: str = ""

    @property
    def agrees(self) -> bool:
        """Whether something was compared, and all of it agreed."""
        return 0 < self.compared == self.agreed

    def __str__(self) -> str:
        tasks = f"{len(self.tasks):,} of {self.num_tasks:,} tasks"
        found = f"{self.agreed:,} of {self.compared:,} recomputed {self.counted} agree ({tasks})"
        return found if self.agrees else f"{found}: {'; '.join(self.differences)}"

    def line(self) -> Row:
        """The audit as JSON holds it."""
        return asdict(self)


def read_audit(line: Mapping[str, Any]) -> Audit:
    """An audit from its line. Raises InvalidInput naming what is missing or unknown."""
    return from_dict(Audit, line, source="an audit")


def draw(keys: Sequence[str], count: int, *, date: str, code: str) -> list[str]:
    """`count` of the keys, or all: others on each date and for each code, the same for both on every machine."""
    chosen = random.Random(f"{date} {code}").sample(sorted(keys), min(count, len(keys)))
    return [key for key in keys if key in set(chosen)]


def tasks_needed(stored: Mapping[str, Entry], compared: Comparison) -> int:
    """Tasks of which the means of `alike` columns are narrow enough to show the differences asked for."""
    needed = 1
    for column, visible in compared.alike.items():
        for rows in _groups(stored.values(), compared.by).values():
            values = _numbers(rows, column)
            if len(values) > 1:
                rows_needed = (QUANTILE * values.std(ddof=1) / visible) ** 2
                needed = max(needed, math.ceil(rows_needed * len(stored) / len(values)))
    return min(needed, len(stored))


def compare(
    stored: Mapping[str, Entry], found: Mapping[str, Entry], compared: Comparison
) -> tuple[int, int, list[str]]:
    """How many rows or means of the recomputed tasks `found` were compared with those stored, how many agreed, and up
    to five differences in words.

    Raises InvalidInput where the comparison names a column that no stored row has.
    """
    known = {name for entry in stored.values() for row in (*entry.rows, entry.task) for name in row}
    named = {*compared.within, *compared.free, *compared.alike, *compared.by}
    if any(entry.rows for entry in stored.values()) and named - known:
        raise InvalidInput(f"the comparison names the column {sorted(named - known)[0]!r}, which no row has")
    if compared.alike:
        checks = _compare_means(stored, found, compared)
    else:
        checks = [text for key, entry in found.items() for text in _compare_entry(stored[key], entry, compared)]
    wrong = [text for text in checks if text]
    return len(checks), len(checks) - len(wrong), wrong[:SHOWN]


def _compare_entry(stored: Entry, found: Entry, compared: Comparison) -> list[str]:
    """A text for each row, "" where it agrees; a task that failed counts as one row."""
    label = label_of(stored.task)
    if stored.failure is not None or found.failure is not None:
        same = (stored.failure is None) == (found.failure is None)
        return ["" if same else f"{label}: {found.failure or 'gave rows'}, stored: {stored.failure or 'rows'}"]
    if len(stored.rows) != len(found.rows):
        return [f"{label}: {len(found.rows)} rows, stored {len(stored.rows)}"]
    return [_compare_row(label, *pair, compared) for pair in zip(stored.rows, found.rows, strict=True)]


def _compare_row(label: str, stored: Row, found: Row, compared: Comparison) -> str:
    for name in dict.fromkeys([*stored, *found]):
        tolerance = compared.within.get(name)
        if name in compared.free or (name in stored and name in found and _same(stored[name], found[name], tolerance)):
            continue
        words = [str(value) for value in stored.values() if isinstance(value, str)]
        return f"{', '.join([label, *words])}: {name} {_short(found.get(name))}, stored {_short(stored.get(name))}"
    return ""


def _same(stored: Any, found: Any, tolerance: float | None) -> bool:
    if isinstance(stored, list | tuple) and isinstance(found, list | tuple):
        return len(stored) == len(found) and all(_same(a, b, tolerance) for a, b in zip(stored, found, strict=True))
    if _is_number(stored) and _is_number(found):
        return abs(found - stored) <= (EQUAL * max(1.0, abs(stored)) if tolerance is None else tolerance)
    return stored == found


def _compare_means(stored: Mapping[str, Entry], found: Mapping[str, Entry], compared: Comparison) -> list[str]:
    """A text for each column and group, "" where the recomputed mean is one that chance gives."""
    groups, checks = _groups(stored.values(), compared.by), []
    recomputed = _groups(found.values(), compared.by)
    for name in [*groups, *(other for other in recomputed if other not in groups)]:
        for column in compared.alike:
            before, now = _numbers(groups.get(name, []), column), _numbers(recomputed.get(name, []), column)
            what = " ".join([column, *map(str, name)])
            if not len(now) or not len(before):
                checks.append("" if len(now) == len(before) else f"{what}: {len(now)} rows, stored {len(before)}")
            else:
                told = f"{what}: mean {now.mean():.4g} of {len(now)} rows, stored {before.mean():.4g} of {len(before)}"
                checks.append("" if _by_chance(before, now) else told)
    return checks


def _by_chance(before: np.ndarray, now: np.ndarray) -> bool:
    """Whether rows like those before have such a mean in 99 of 100 draws of as many.

    Shares by Fisher's exact test; other numbers by resampling of the rows before.
    """
    if set(np.unique(np.concatenate([before, now]))) <= {0.0, 1.0}:
        table = [[values.sum(), len(values) - values.sum()] for values in (before, now)]
        return bool(fisher_exact(table).pvalue > 1.0 - LEVEL)
    draws = np.random.default_rng(0).choice(before, size=(NUM_RESAMPLES, len(now))).mean(axis=1)
    low, high = np.quantile(draws, [(1.0 - LEVEL) / 2, (1.0 + LEVEL) / 2])
    slack = EQUAL * max(1.0, abs(float(before.mean())))
    return bool(low - slack <= now.mean() <= high + slack)


def _groups(entries: Any, by: Sequence[str]) -> dict[tuple, list[Row]]:
    found: dict[tuple, list[Row]] = {}
    for entry in entries:
        for row in entry.rows:
            found.setdefault(tuple({**entry.task, **row}.get(name) for name in by), []).append(row)
    return found


def _numbers(rows: Sequence[Row], column: str) -> np.ndarray:
    return np.array([float(row[column]) for row in rows if _is_number(row.get(column))])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = f"{value:.6g}" if _is_number(value) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
