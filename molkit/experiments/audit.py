"""Audits: a few stored tasks, drawn by the date and the code, computed again and compared."""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from scipy.special import stdtrit
from scipy.stats import fisher_exact

from molkit.claims.provenance import digest
from molkit.config import from_dict
from molkit.errors import InvalidInput
from molkit.experiments.experiment import Comparison, Row, label_of
from molkit.experiments.store import Entry

LEVEL = 0.99
LEAST_PAIRS = 8  # tasks, from which on their own differences tell a scatter
LEAST_FREEDOM = 8  # degrees of freedom, from which on repetitions tell a scatter
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
    needed, checks = 1, _checks(stored.values(), compared)
    for name, column in checks:
        scatter, per_task = _scatter(stored.values(), name, column, compared)
        rows = (_quantile(len(checks)) * scatter / compared.alike[column]) ** 2
        enough = math.ceil(rows / per_task)
        alone = not _repeated(stored.values(), name, column, compared)
        needed = max(needed, min(enough, LEAST_PAIRS) if alone else enough)
    return min(needed, len(stored))


def compare(
    stored: Mapping[str, Entry], found: Mapping[str, Entry], compared: Comparison
) -> tuple[int, int, list[str]]:
    """How many rows or means of the recomputed tasks `found` were compared with those stored, how many agreed, and up
    to five differences in words.

    Raises InvalidInput where the comparison names a column that no stored row has.
    """
    known = {name for entry in stored.values() for row in (*entry.rows, entry.task) for name in row}
    named = {*compared.within, *compared.free, *compared.alike, *compared.by, *filter(None, [compared.repeats])}
    if any(entry.rows for entry in stored.values()) and named - known:
        raise InvalidInput(f"the comparison names the column {sorted(named - known)[0]!r}, which no row has")
    texts = [text for key, entry in found.items() for text in _compare_entry(stored[key], entry, compared)]
    checks = _checks([*(stored[key] for key in found), *found.values()], compared)
    texts += [_compare_mean(stored, found, *check, compared, len(checks)) for check in checks]
    wrong = [text for text in texts if text]
    return len(texts), len(texts) - len(wrong), wrong[:SHOWN]


def _compare_entry(stored: Entry, found: Entry, compared: Comparison) -> list[str]:
    """A text for each row, "" where it agrees; a task that failed counts as one row."""
    label = label_of(stored.task)
    if stored.failure is not None or found.failure is not None:
        same = (stored.failure is None) == (found.failure is None)
        return ["" if same else f"{label}: {found.failure or 'gave rows'}, stored: {stored.failure or 'rows'}"]
    rows, again = ([row for row in one.rows if _exact(one.task, row, compared)] for one in (stored, found))
    if len(rows) != len(again):
        return [f"{label}: {len(again)} rows, stored {len(rows)}"]
    return [_compare_row(label, *pair, compared) for pair in zip(rows, again, strict=True)]


def _exact(task: Row, row: Row, compared: Comparison) -> bool:
    """Whether a row is one of those that are compared one by one."""
    return not compared.alike or bool(set(_group(task, row, compared)) & set(compared.exact))


def _group(task: Row, row: Row, compared: Comparison) -> tuple[Any, ...]:
    return tuple({**task, **row}.get(name) for name in compared.by)


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


def _checks(entries: Iterable[Entry], compared: Comparison) -> list[tuple[tuple, str]]:
    """Groups and columns whose means are compared."""
    if not compared.alike:
        return []
    names = dict.fromkeys(_group(one.task, row, compared) for one in entries for row in one.rows)
    return [(name, column) for name in names if not set(name) & set(compared.exact) for column in compared.alike]


def _compare_mean(
    stored: Mapping[str, Entry], found: Mapping[str, Entry], name: tuple, column: str, compared: Comparison, checks: int
) -> str:
    """A text where the recomputed mean is not one that chance gives, at 99 % over all checks together; else "".

    The mean is compared with that of the same stored tasks where repetitions tell the scatter, or where there are pairs
    enough to tell it themselves (Student's t); else with that of all stored tasks.
    """
    again = _numbers(found.values(), name, column, compared)
    repeated = _repeated(stored.values(), name, column, compared)
    before = _numbers([stored[key] for key in found] if repeated else stored.values(), name, column, compared)
    words = " ".join([column, *map(str, name)])
    told = f"{words}: mean of {len(again)} rows {_mean(again):.4g}, stored {_mean(before):.4g} of {len(before)}"
    if not len(again) or not len(before):
        return "" if len(again) == len(before) else told
    pairs = _differences(stored, found, name, column, compared)
    if not repeated and len(pairs) >= LEAST_PAIRS:
        spread, quantile = pairs.std(ddof=1) / math.sqrt(len(pairs)), _quantile(checks, freedom=len(pairs) - 1)
        shift = f"{words}: {len(pairs)} tasks differ by {_mean(pairs):.4g} in the mean"
        return "" if abs(_mean(pairs)) <= quantile * spread + EQUAL * max(1.0, abs(_mean(before))) else shift
    if set(np.unique(np.concatenate([before, again]))) <= {0.0, 1.0} and not repeated:
        table = [[values.sum(), len(values) - values.sum()] for values in (before, again)]
        return "" if fisher_exact(table).pvalue > (1.0 - LEVEL) / checks else told
    scatter, _ = _scatter(stored.values(), name, column, compared)
    spread = scatter / math.sqrt(len(again)) if repeated else _pooled(before, again)
    allowed = _quantile(checks) * spread + EQUAL * max(1.0, abs(_mean(before)))
    return "" if abs(_mean(again) - _mean(before)) <= allowed else told


def _pooled(before: np.ndarray, again: np.ndarray) -> float:
    """Standard deviation of the difference of two means of numbers that scatter alike."""
    freedom = max(1, len(before) + len(again) - 2)
    variance = (before.var() * len(before) + again.var() * len(again)) / freedom
    return math.sqrt(variance * (1.0 / len(before) + 1.0 / len(again)))


def _scatter(entries: Iterable[Entry], name: tuple, column: str, compared: Comparison) -> tuple[float, float]:
    """Standard deviation, for one row, of what a recomputed mean may differ by; and rows a task.

    From repetitions: that of a difference of two of them. Without: that of the rows.
    """
    entries = list(entries)
    repeated = _repeated(entries, name, column, compared)
    values = _numbers(entries, name, column, compared)
    per_task = len(values) / max(1, len(entries))
    if repeated:
        freedom = sum(len(one) - 1 for one in repeated)
        return math.sqrt(2.0 * sum(one.var() * len(one) for one in repeated) / freedom), per_task
    return (float(values.std(ddof=1)) if len(values) > 1 else 0.0), max(per_task, 1e-9)


def _repeated(entries: Iterable[Entry], name: tuple, column: str, compared: Comparison) -> list[np.ndarray]:
    """The numbers of tasks that differ in their repetition alone; empty where there are too few to tell a scatter."""
    if not compared.repeats:
        return []
    groups: dict[str, list[Entry]] = {}
    for one in entries:
        rest = {field: value for field, value in one.task.items() if field != compared.repeats}
        groups.setdefault(digest(rest), []).append(one)
    found = [_numbers(group, name, column, compared) for group in groups.values()]
    several = [values for values in found if len(values) > 1]
    return several if sum(len(one) - 1 for one in several) >= LEAST_FREEDOM else []


def _differences(
    stored: Mapping[str, Entry], found: Mapping[str, Entry], name: tuple, column: str, compared: Comparison
) -> np.ndarray:
    """Recomputed mean less stored mean of each task that has both."""
    pairs = [[_numbers([one], name, column, compared) for one in (found[key], stored[key])] for key in found]
    return np.array([_mean(again) - _mean(before) for again, before in pairs if len(again) and len(before)])


def _quantile(checks: int, *, freedom: int | None = None) -> float:
    """Of the normal distribution, or Student's, two-sided, so that all checks together hold at LEVEL."""
    share = 1.0 - (1.0 - LEVEL) / (2.0 * max(1, checks))
    return NormalDist().inv_cdf(share) if freedom is None else float(stdtrit(freedom, share))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _numbers(entries: Iterable[Entry], name: tuple, column: str, compared: Comparison) -> np.ndarray:
    """Numbers of a column in the rows of one group; yes is 1 and no is 0."""
    rows = [row for one in entries for row in one.rows if _group(one.task, row, compared) == name]
    return np.array([float(row[column]) for row in rows if isinstance(row.get(column), int | float)])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = f"{value:.6g}" if _is_number(value) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
