"""What a farm itself costs: tasks that only wait one second each, by the wall clock against the waiting alone.

Run: python -m benchmarks.farm. Prints JSON. Tasks wait and do not compute, so that other work on the machine hardly
matters. Starting the workers happens once in a farm of any length; it is printed beside and not part of the share.
"""

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.machine import description
from molkit.farm.engines import engine
from molkit.farm.run import run_farm

SECONDS = 1.0
TASKS = 40
WORKERS = 2


def wait_a_second(number: int) -> dict[str, int]:
    """A task."""
    time.sleep(SECONDS)
    return {"number": number}


def answer(number: int) -> int:
    """What a worker that has started can do."""
    return number


@contextmanager
def dask_workers() -> Iterator[Executor]:
    """A scheduler and its workers on this machine, reached by its address as users reach theirs."""
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as cluster,
        engine(dask=cluster.scheduler_address) as executor,
    ):
        yield executor


def cost(executor: Executor | None, workers: int) -> dict[str, float]:
    """Seconds of a farm and its share beyond the waiting."""
    began = time.perf_counter()
    if executor is not None:
        for future in [executor.submit(answer, number) for number in range(workers)]:
            future.result()
    started = time.perf_counter()
    with TemporaryDirectory() as folder:
        done = run_farm(wait_a_second, {f"t{n:03d}": n for n in range(TASKS)}, Path(folder), executor=executor).done
    seconds, ideal = time.perf_counter() - started, SECONDS * TASKS / workers
    assert len(done) == TASKS
    return {
        "seconds_to_start_workers": round(started - began, 2),
        "seconds": round(seconds, 2),
        "seconds_waiting": ideal,
        "share_of_scheduling_%": round(100.0 * (seconds / ideal - 1.0), 2),
    }


def main() -> int:
    """One farm in this process, one in local processes, one on Dask."""
    found = {"tasks": TASKS, "workers": WORKERS, "machine": description(), "this process": cost(None, 1)}
    with engine(WORKERS) as executor:
        found["processes"] = cost(executor, WORKERS)
    with dask_workers() as executor:
        found["dask"] = cost(executor, WORKERS)
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
