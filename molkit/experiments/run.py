"""`run`: the rows of an experiment, taken from the store, computed where they are missing, audited where asked."""

import json
import math
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from molkit.claims import provenance
from molkit.claims.ledger import REPOSITORY
from molkit.claims.provenance import changed_since, digest
from molkit.claims.store import current_profile
from molkit.errors import InvalidInput, RunError
from molkit.experiments.audit import Audit, compare, draw, read_audit, tasks_needed
from molkit.experiments.experiment import (
    ALL,
    AUDIT,
    Experiment,
    Measure,
    command_of,
    experiment_of,
    fields_of,
    inputs_of,
    key_of,
    label_of,
    read_recompute,
)
from molkit.experiments.store import Batch, Entry, Store, Stored, rows_hash
from molkit.farm.run import run_farm
from molkit.training.files import locked

WORK = REPOSITORY / "_run" / "experiments"  # tasks that are finished and not yet kept; may be deleted at any time
MOST_SLOTS = 64
FRESH, CONFIRMED, STALE = "fresh", "confirmed", "stale"


@dataclass(frozen=True, kw_only=True)
class Account:
    """How rows came about: what a table says below itself, and what a recorded result copies.

    state: fresh (the code, weights and data of today), confirmed (others, and a sample recomputed today agrees) or
    stale, for the reasons given. batches: the origins of the rows, whose `rows` is "" where they are not kept.
    audit: of this run; audits: all that speak for these rows with today's code.
    """

    experiment: str
    function: str  # path:name
    command: str  # that computes the same tasks
    state: str
    reasons: tuple[str, ...]
    num_tasks: int
    num_rows: int
    num_taken: int  # tasks that came out of the store
    seconds: float  # of all tasks, whenever they were computed
    failures: Mapping[str, str]  # by task, in words
    batches: tuple[Batch, ...]
    audit: Audit | None = None
    audits: tuple[Audit, ...] = ()

    def origin(self) -> dict[str, Any]:
        """What a result that is made of these rows records about them."""
        return {
            "experiment": self.experiment,
            "function": self.function,
            "batches": [{"id": one.id, **asdict(one)} for one in self.batches],
            "audits": [json.loads(json.dumps(one.line())) for one in self.audits],
        }


def run(
    measure: Measure,
    tasks: Sequence[Any],
    *,
    recompute: str = "missing",
    name: str | None = None,
    executor: Executor | None = None,
    timeout: float | None = None,
    minutes: float | None = None,
    progress: bool = False,
    keep: bool | None = None,
    store: Store | None = None,
    date: str | None = None,
) -> pd.DataFrame:
    """Rows of all tasks in their order, each with the fields of its task; `attrs["account"]` says how they came about.

    recompute: "missing" computes what the store lacks, "audit:K" also computes K stored tasks again and compares, "all"
    takes nothing from the store. Finished tasks survive an interruption: the next call goes on with them. keep: whether
    the store is given what was computed and the audit; by default in the paper's profile. A task whose measure raises a
    MolkitError gives no rows, and its reason is in the account. executor, timeout, minutes: as in `run_farm`.

    Raises InvalidInput for a store that is damaged or foreign, RunError where `minutes` were not enough.
    """
    word, count = read_recompute(recompute)
    experiment = experiment_of(measure, name)
    store = Store(experiment.name) if store is None else store
    keep = current_profile() == "paper" if keep is None else keep
    asked = {key_of(task): task for task in tasks}
    if not asked:
        raise InvalidInput(f"{experiment.name}: no tasks were asked for")
    engine = Engine(experiment, experiment.code(), executor, timeout, minutes, progress)
    known = store.read() if word != ALL else Stored()
    taken = {key: known.entries[key] for key in asked if key in known.entries}
    batch, made = engine.compute({key: task for key, task in asked.items() if key not in taken})
    if made and keep:
        store.add(batch, made)
    unfinished = len(asked) - len(taken) - len(made)
    if unfinished:
        raise RunError(f"{experiment.name}: {unfinished} of {len(asked)} tasks were not begun in time; run it again")
    audit = None
    if word == AUDIT and taken:
        audit = engine.audit(taken, asked, count, date or datetime.now(UTC).date().isoformat())
        if keep:
            store.add_audit(audit.line())
    entries = {key: taken.get(key) or made[key] for key in asked}
    batches = [known.batches[name] for name in dict.fromkeys(entry.batch for entry in taken.values())]
    batches += [replace(batch, rows=rows_hash(list(made.values())) if keep else "")] if made else []
    audits = [*map(read_audit, known.audits), *([audit] if audit else [])]
    audits = relevant(audits, batches, known.entries, engine.code)
    state, reasons = standing(batches, audits, engine.code)
    account = Account(
        experiment=experiment.name,
        function=experiment.function,
        command=command_of(experiment.name, tasks),
        state=state,
        reasons=reasons,
        num_tasks=len(asked),
        num_rows=sum(len(entry.rows) for entry in entries.values()),
        num_taken=len(taken),
        seconds=round(sum(entry.seconds for entry in entries.values()), 3),
        failures={label_of(entry.task): entry.failure for entry in entries.values() if entry.failure is not None},
        batches=tuple(batches),
        audit=audit,
        audits=tuple(audits),
    )
    return frame_of(entries, account)


def relevant(
    audits: Sequence[Audit], batches: Sequence[Batch], entries: Mapping[str, Entry], code: Mapping[str, str]
) -> list[Audit]:
    """The audits with today's code whose tasks are those stored, drawn from some of the batches.

    One that disagreed is left out once all of its tasks have agreed later.
    """
    now, ids, settled, found = digest(dict(code)), {one.id for one in batches}, set(), []
    for audit in reversed(audits):
        if audit.code == now and ids & set(audit.batches) and set(audit.tasks) <= set(entries):
            settled |= set(audit.tasks) if audit.agrees else set()
            found += [] if not audit.agrees and set(audit.tasks) <= settled else [audit]
    return found[::-1]


def standing(batches: Sequence[Batch], audits: Sequence[Audit], code: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """Whether rows of these batches are fresh, confirmed or stale by today's code and the audits with it, and why."""
    changed = {one.id: changed_since(one.code, one.inputs, code) for one in batches}
    reasons = [text for found in changed.values() for text in found]
    against = [f"an audit of {audit.date}: {audit}" for audit in audits if not audit.agrees]
    confirmed = {name for audit in audits for name in audit.batches}
    if against or {name for name, found in changed.items() if found} - confirmed:
        return STALE, tuple(dict.fromkeys([*against, *reasons]))
    return (CONFIRMED if reasons else FRESH), tuple(dict.fromkeys(reasons))


@dataclass(frozen=True)
class Engine:
    """What computes tasks of an experiment, and with which code."""

    experiment: Experiment
    code: Mapping[str, str]
    executor: Executor | None = None
    timeout: float | None = None
    minutes: float | None = None
    progress: bool = False

    def compute(self, tasks: Mapping[str, Any], purpose: str = "rows") -> tuple[Batch, dict[str, Entry]]:
        """Entries of the tasks that could be finished, and their origin. The next call continues an interrupted one."""
        head, dirty = provenance.commit()
        batch = Batch(
            experiment=self.experiment.name,
            date=datetime.now(UTC).isoformat(timespec="microseconds"),  # tells batches apart
            commit=head,
            dirty=dirty,
            code=self.code,
            inputs={path: found for task in tasks.values() for path, found in inputs_of(task).items()},
            versions=provenance.versions(),
            machine=provenance.machine(),
        )
        if not tasks:
            return batch, {}
        with _slot(WORK / self.experiment.name / purpose, digest(dict(self.code))) as folder:
            report = run_farm(
                partial(measured, self.experiment.measure),
                tasks,
                folder,
                executor=self.executor,
                timeout=self.timeout,
                minutes=self.minutes,
                progress=self.progress,
            )
            entries = {}
            for key, found in report.results().items():
                rows = tuple(json.loads(str(found["rows"])))
                entries[key] = Entry(key, fields_of(tasks[key]), batch.id, float(found["seconds"]), rows)
            for key, reason in report.failed.items():
                entries[key] = Entry(key, fields_of(tasks[key]), batch.id, 0.0, failure=reason)
            if len(entries) == len(tasks):
                shutil.rmtree(folder)
        return batch, {key: entries[key] for key in tasks if key in entries}

    def audit(self, stored: Mapping[str, Entry], tasks: Mapping[str, Any], count: int, date: str) -> Audit:
        """At least `count` of the stored tasks computed again and compared."""
        compared = self.experiment.compared
        count = max(count, tasks_needed(stored, compared))
        chosen = draw(list(stored), count, date=date, code=digest(dict(self.code)))
        batch, found = self.compute({key: tasks[key] for key in chosen}, "audit")
        if len(found) < len(chosen):
            raise RunError(f"{self.experiment.name}: the audit was not finished in time; run it again")
        number, agreed, differences = compare(stored, found, compared)
        return Audit(
            date=date,
            commit=batch.commit,
            dirty=batch.dirty,
            code=digest(dict(self.code)),
            tasks=tuple(chosen),
            num_tasks=len(stored),
            compared=number,
            agreed=agreed,
            counted=compared.counted,
            batches=tuple(dict.fromkeys(entry.batch for entry in stored.values())),
            differences=tuple(differences),
            machine=batch.machine,
        )


def measured(measure: Measure, task: Any) -> dict[str, np.ndarray]:
    """The rows of one task as a farm keeps them, and the seconds they took."""
    started = time.perf_counter()
    rows = [{name: _plain(value) for name, value in row.items()} for row in measure(task)]
    text = json.dumps(rows, ensure_ascii=False, allow_nan=False)
    return {"rows": np.array(text), "seconds": np.array(round(time.perf_counter() - started, 3))}


def _plain(value: Any) -> Any:
    """A number, word or short list as JSON holds it; what is not a number is nothing."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def frame_of(entries: Mapping[str, Entry], account: Account) -> pd.DataFrame:
    """Rows of the entries in their order, with their account. Raises RunError where no task gave any row."""
    frame = table_of(entries.values())
    if frame.empty:
        reason = next(iter(account.failures.values()), "they are empty")
        raise RunError(f"{account.experiment}: none of {len(entries)} tasks gave rows ({reason})")
    frame.attrs["account"] = account
    return frame


def table_of(entries: Iterable[Entry]) -> pd.DataFrame:
    """Rows of the entries in their order; a task's numbers and words stand in each of its rows."""
    rows = []
    for entry in entries:
        about = {name: value for name, value in entry.task.items() if not isinstance(value, list | dict)}
        twice = {name for row in entry.rows for name in row if name in about}
        if twice:
            raise InvalidInput(f"{sorted(twice)[0]!r} is a field of the task and of its rows")
        rows += [{**about, **row} for row in entry.rows]
    frame = pd.DataFrame(rows)
    empty = [name for name in frame.columns if frame[name].isna().all()]
    return frame.astype(dict.fromkeys(empty, float))


def account_of(rows: pd.DataFrame) -> Account:
    """How the rows of `run` came about. Raises InvalidInput for a table that has lost it."""
    found = rows.attrs.get("account")
    if not isinstance(found, Account):
        raise InvalidInput("these rows do not say where they come from: give the table that `run` returned")
    return found


@contextmanager
def _slot(place: Path, code: str) -> Iterator[Path]:
    """A folder that no other process uses, with what an interrupted run of the same code has left in it."""
    for number in range(MOST_SLOTS):
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(place / str(number)))
            except RunError:
                continue
            for other in (place / str(number)).iterdir():
                if other.is_dir() and other.name != code:
                    shutil.rmtree(other)
            yield place / str(number) / code
            return
    raise RunError(f"{place}: {MOST_SLOTS} processes compute this experiment; wait for one to end")
