"""The process in which one chapter runs: `python -m molkit.book.worker JOB.json OUTCOME.json`.

A process of its own gives each chapter its own time limit, its own peak of memory, and nothing left over for the next.
"""

import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from molkit.book.notebooks import write_whole

NOT_STARTED = ("died before replying", "Kernel didn't respond")  # two kernels that start together may draw one port
START_SECONDS = 90  # for a kernel to answer; a start that fails is tried once more


class OverLimit(Exception):
    """The chapter took longer than it may."""


def main(job_file: str, outcome_file: str) -> None:
    """Execute the notebook described by the job and write what came of it."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    threading.Thread(target=end_with_parent, args=(job["parent"],), daemon=True).start()
    os.environ.update(job["environment"])
    started = time.monotonic()
    error = execute(job)
    outcome = {
        "error": error,
        "seconds": round(time.monotonic() - started, 3),
        "peak_memory_mib": round(peak_memory_of_children_mib(), 1),
    }
    write_whole(Path(outcome_file), json.dumps(outcome))


def end_with_parent(parent: int) -> None:
    """End this process and its kernel, which form a group of their own, soon after the parent is gone."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def execute(job: dict) -> str:
    """Run the notebook with papermill; "" or why it failed. The executed notebook is kept either way."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillException, PapermillExecutionError

    try:
        with at_most(job["limit_seconds"]):
            try:
                run_notebook(papermill, job)
            except RuntimeError as error:
                if not any(words in str(error) for words in NOT_STARTED):
                    raise
                run_notebook(papermill, job)
    except PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    except OverLimit:
        return f"stopped after {job['limit_seconds']:.0f} s; its budget is {job['budget_seconds']:.0f} s"
    except DeadKernelError:
        return "the Python process of the chapter died (out of memory, or a crash in compiled code)"
    except (PapermillException, RuntimeError, OSError) as error:
        return f"could not be executed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return ""


def run_notebook(papermill: ModuleType, job: dict) -> None:
    """Start a kernel and run the notebook in it."""
    papermill.execute_notebook(
        job["source"],
        job["output"],
        parameters=job["parameters"],
        kernel_name="python3",
        cwd=job["folder"],
        progress_bar=False,
        start_timeout=START_SECONDS,
    )


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise OverLimit inside the block once it has taken this long."""

    def stop(_signal: int, _frame: object) -> None:
        raise OverLimit

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def peak_memory_of_children_mib() -> float:
    """Largest resident memory that any finished child (the kernel) reached, MiB."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


if __name__ == "__main__":
    main(*sys.argv[1:])
