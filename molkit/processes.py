"""Processes with one thread each, started afresh so that no lock of a threaded library is inherited."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from molkit.errors import MolkitError


@contextmanager
def single_threaded() -> Iterator[None]:
    """Processes started meanwhile use one thread each; their libraries read that when they start."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


@dataclass(frozen=True)
class Failure:
    """Why a task gave no result."""

    reason: str


def guarded_map(
    function: Callable[[Any], Any],
    tasks: Sequence[Any],
    *,
    workers: int = 1,
    timeout: float = 120.0,
    progress: bool = False,
) -> list[Any]:
    """function(task) for every task in processes that may crash or hang: results in order, Failure where there is none.

    A task that takes longer than `timeout` seconds, dies, or raises a MolkitError becomes a Failure and the others go
    on; any other error is a mistake of ours and is raised. function and tasks must be picklable.
    """
    from pebble import ProcessPool  # only farms of fragile calculations need it

    context = multiprocessing.get_context("spawn")
    with single_threaded(), ProcessPool(max_workers=workers, context=context) as pool:
        futures = [pool.schedule(function, args=(task,), timeout=timeout) for task in tasks]
        return [_outcome(future, timeout) for future in tqdm(futures, disable=not progress, unit="task")]


def _outcome(future: Any, timeout: float) -> Any:
    from pebble import ProcessExpired

    try:
        return future.result()
    except TimeoutError:
        return Failure(f"took longer than {timeout:g} s")
    except ProcessExpired as error:
        return Failure(f"the process died ({error})")
    except MolkitError as error:
        return Failure(str(error))
