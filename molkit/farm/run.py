"""Do what is missing in a farm's folder."""

import faulthandler
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from molkit.errors import MolkitError, RunError
from molkit.farm.engines import SCHEDULER_GONE
from molkit.farm.folder import FarmFolder, Result
from molkit.training.files import locked

MAX_ATTEMPTS = 3  # deaths of a worker in the same task, after which the task is to blame
SETTLE_SECONDS = 2.0  # before a task that killed a worker: Dask gives up a worker that dies while it starts
MAX_IDLE = 6  # times a chunk may come back untouched
CHECK_SECONDS = 5.0  # without news, after which the executor is asked whether it is still there
CHUNKS = 200  # into which a long farm is cut at least, so that the bar moves and a death costs little
LONGEST_CHUNK = 20  # tasks
Work = Callable[[Any], Mapping[str, Any]]


@dataclass(frozen=True)
class Limits:
    """Seconds of one task, and the clock time (seconds of the epoch, alike on every machine) that ends the farm."""

    timeout: float | None = None
    stop_at: float | None = None

    @property
    def over(self) -> bool:
        """Whether no task may be begun any more."""
        return self.stop_at is not None and time.time() > self.stop_at


@dataclass(frozen=True)
class FarmReport:
    """What a farm holds: keys with a result and reasons of those without, in the order of the tasks."""

    folder: FarmFolder
    done: tuple[str, ...]
    failed: dict[str, str]

    def results(self) -> dict[str, Result]:
        """Arrays of the finished tasks."""
        return {key: self.result(key) for key in self.done}

    def result(self, key: str) -> Result:
        """Arrays of one finished task. Raises RunError when its file has been damaged since."""
        found = self.folder.read(key)
        if found is None:
            raise RunError(f"{self.folder.result_path(key)}: missing or damaged; run the farm again")
        return found


def run_farm(
    function: Work,
    tasks: Mapping[str, Any],
    folder: Path,
    *,
    executor: Executor | None = None,
    timeout: float | None = None,
    minutes: float | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: bool = False,
    unit: str = "task",
) -> FarmReport:
    """function(task) -> named arrays, for every task without a result in the folder; failures are noted, not raised.

    A MolkitError is a failure of its task. So is the death of a worker, or more than `timeout` seconds in a worker,
    where it happens MAX_ATTEMPTS times in the same task (the time-out needs an executor). Any other error is a mistake
    of ours: it ends the farm, and finished results stay. No task is begun after `minutes`; the next call goes on with
    the rest. Function and tasks must be picklable, keys file names;
    `settings` are what all results depend on. The function must follow from its task alone (random numbers forked from
    a seed in the task), so that every executor gives the same results. With Dask on several machines the folder must
    be shared by all of them.

    Raises InvalidInput for a folder of another farm, RunError for one in use or a full disk.
    """
    place = FarmFolder(Path(folder).resolve())
    with locked(place.root):
        place.adopt(tasks, settings or {})
        place.sweep()
        for key in tasks:
            if not place.failure_path(key).is_file():
                place.forget(key)
        missing = [key for key in tasks if not _settled(place, key)]
        limits = Limits(timeout, None if minutes is None else time.time() + 60.0 * minutes)
        with tqdm(total=len(tasks), initial=len(tasks) - len(missing), disable=not progress, unit=unit) as bar:
            _run_missing(function, tasks, missing, place, executor, limits, bar)
    return report(place, tasks)


def report(place: FarmFolder, tasks: Mapping[str, Any] | Sequence[str]) -> FarmReport:
    """What the folder holds of these tasks."""
    failed = {key: place.failure(key) for key in tasks if not place.result_path(key).is_file()}
    known = {key: reason for key, reason in failed.items() if reason is not None}
    return FarmReport(place, tuple(key for key in tasks if key not in failed), known)


def _settled(place: FarmFolder, key: str) -> bool:
    return place.result_path(key).is_file() or place.failure_path(key).is_file()


def _run_missing(
    function: Work,
    tasks: Mapping[str, Any],
    missing: list[str],
    place: FarmFolder,
    executor: Executor | None,
    limits: Limits,
    bar: tqdm,
) -> None:
    if executor is None:
        for key in missing:
            if limits.over:
                return
            run_chunk(function, [(key, tasks[key])], place, Limits())
            _advance(bar, place, [key])
        return
    size = max(1, min(LONGEST_CHUNK, len(missing) // CHUNKS))
    chunks = [missing[first : first + size] for first in range(0, len(missing), size)]

    def send(chunk: list[str]) -> Future:
        return executor.submit(run_chunk, function, [(key, tasks[key]) for key in chunk], place, limits)

    _collect(chunks, send, place, limits, bar, getattr(executor, "check", None))


def _collect(
    chunks: list[list[str]],
    send: Callable[[list[str]], Future],
    place: FarmFolder,
    limits: Limits,
    bar: tqdm,
    check: Callable[[], None] | None,
) -> None:
    """Send the chunks and wait for them; the rest of one whose worker died is sent again."""
    pending: dict[Future, list[str]] = {}
    idle: Counter[str] = Counter()  # by the first key of a chunk: times that it came back as it was sent
    try:
        for chunk in chunks:
            pending[send(chunk)] = chunk
        while pending:
            ended, _ = wait(pending, timeout=CHECK_SECONDS, return_when=FIRST_COMPLETED)
            if check is not None and not ended:
                check()
            for future in ended:
                chunk = pending.pop(future)
                error = _death_of(future)
                left = [key for key in chunk if not _settled(place, key)]
                _advance(bar, place, [key for key in chunk if key not in left])
                if left and not (error is None and limits.over):
                    if left == chunk and not any(place.attempts(key) for key in left):
                        _bound(idle, left[0], place, error)
                    pending[send(left)] = left
    finally:
        for future in pending:
            future.cancel()


def _death_of(future: Future) -> BaseException | None:
    """The death of its worker that ended a call, if one did. Raises any other error, RunError for a lost scheduler."""
    try:
        error = future.exception()
    except CancelledError as lost:  # nobody here cancels: the other side is gone
        raise RunError(SCHEDULER_GONE) from lost
    if error is not None and not is_death(error):
        raise error
    return error


def _bound(idle: Counter[str], key: str, place: FarmFolder, error: BaseException | None) -> None:
    """Raise RunError where a chunk came back MAX_IDLE times untouched: sending it again would not end."""
    idle[key] += 1
    if idle[key] >= MAX_IDLE:
        why = "workers end and leave nothing in the folder" if error is None else f"workers die at once ({error})"
        raise RunError(f"{place.root}: {why}; is molkit installed where they run, and the folder shared with them?")
    time.sleep(0.2 * idle[key])  # a shared folder may show a result a moment late


def is_death(error: BaseException) -> bool:
    """Whether a future failed because its worker died: here, or one of Dask's."""
    return isinstance(error, BrokenExecutor) or type(error).__name__ == "KilledWorker"


def _advance(bar: tqdm, place: FarmFolder, keys: Sequence[str]) -> None:
    failed = sum(place.failure_path(key).is_file() for key in keys)
    bar.failures = getattr(bar, "failures", 0) + failed
    bar.update(len(keys))
    if failed:
        bar.set_postfix(failed=bar.failures)


def run_chunk(function: Work, tasks: Sequence[tuple[str, Any]], place: FarmFolder, limits: Limits) -> list[float]:
    """Tasks of one chunk in a worker, each into a file of its own; returns their seconds.

    A task that was begun MAX_ATTEMPTS times and has no result killed its workers: it is noted as failed.
    """
    seconds = []
    for key, task in tasks:
        if limits.over:
            break
        if _settled(place, key):
            continue
        if place.attempts(key) >= MAX_ATTEMPTS:
            allowed = "" if limits.timeout is None else f", or it took longer than {limits.timeout:g} s"
            place.fail(key, f"the process died in it {MAX_ATTEMPTS} times{allowed}")
            continue
        time.sleep(SETTLE_SECONDS * place.attempts(key))
        place.begin(key)
        started = time.perf_counter()
        try:
            result = _within(limits.timeout, function, task)
        except RunError:
            raise
        except MolkitError as error:
            place.fail(key, str(error))
        else:
            place.write(key, result)
        seconds.append(time.perf_counter() - started)
    return seconds


def _within(timeout: float | None, function: Work, task: Any) -> Mapping[str, Any]:
    """function(task); a watchdog ends the whole process after `timeout` seconds, also in code that never returns."""
    if timeout is None:
        return function(task)
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(timeout, exit=True, file=nowhere)
        try:
            return function(task)
        finally:
            faulthandler.cancel_dump_traceback_later()
