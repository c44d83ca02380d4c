"""Executors for farms: this process, local processes that may die, Dask at an address, Dask on SLURM."""

import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tqdm import tqdm

from molkit.config import check_keys, read_yaml
from molkit.errors import InvalidInput, NetworkUnavailable, RunError, ToolNotFound

CONNECT_SECONDS = 20.0
LONELY_SECONDS = 120.0  # a Dask farm waits that long for a worker to come (back)
SCHEDULER_GONE = (
    "the Dask scheduler is gone; finished results are kept: start another one, then run the same command again"
)
SLURM_KEYS = {"jobs", "queue", "account", "cores", "processes", "memory", "walltime", "local_directory", "prologue"}
Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class WorkerDied(BrokenExecutor):
    """The process that ran a call ended in it."""


class ProcessExecutor(Executor):
    """Local processes, started afresh, each with a thread and a pipe of its own.

    Nothing is shared between them, neither a lock nor a queue that a dying process could leave held: a death is the
    end of one pipe. It becomes WorkerDied of the call that ran, and the next call gets a new process. A process whose
    parent is gone ends too.
    """

    def __init__(self, workers: int) -> None:
        self.num_workers = workers
        self.calls: queue.SimpleQueue[tuple[Future, Call] | None] = queue.SimpleQueue()
        self.slots = [_Slot(self.calls) for _ in range(workers)]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Run fn in a process; its death is the future's exception."""
        future: Future = Future()
        self.calls.put((future, (fn, args, kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let running calls end, or kill them where cancel_futures says so."""
        if cancel_futures:
            with suppress(queue.Empty):
                while (call := self.calls.get_nowait()) is not None:
                    call[0].cancel()
        for _ in self.slots:
            self.calls.put(None)
        for slot in self.slots if cancel_futures else ():
            slot.kill()
        for slot in self.slots if wait else ():
            slot.join()


class _Slot(threading.Thread):
    """One process at a time, and the thread that feeds it."""

    def __init__(self, calls: "queue.SimpleQueue[tuple[Future, Call] | None]") -> None:
        super().__init__(daemon=True)
        self.calls, self.over = calls, False
        self.process: multiprocessing.process.BaseProcess | None = None
        self.pipe: Connection | None = None
        self.start()

    def run(self) -> None:
        """Call after call, until told to end."""
        while (call := self.calls.get()) is not None:
            future, asked = call
            if not future.set_running_or_notify_cancel():
                continue
            try:
                error, value = self._answer(asked)
            except (EOFError, OSError):
                error, value = WorkerDied(f"a worker ended with exit code {self._end()}"), None
            except BaseException as trouble:  # a call that cannot be pickled, or an answer that cannot be read
                error, value = trouble, None
            future.set_result(value) if error is None else future.set_exception(error)
        self._end()

    def _answer(self, asked: Call) -> tuple[BaseException | None, Any]:
        """Error and value that a living process answers with. Raises EOFError or OSError when it dies or cannot start.

        What travels through the pipe is pickled in memory, between two processes of the same program.
        """
        if self.process is None or not self.process.is_alive():
            self._end()
            context = multiprocessing.get_context("spawn")
            pipe, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self.process, self.pipe = process, pipe
            if self.over:
                process.kill()
        self.pipe.send(asked)
        return self.pipe.recv()

    def _end(self) -> int | None:
        """End the process, if there is one; returns its exit code."""
        if self.process is None:
            return None
        self.pipe.close()
        self.process.join(timeout=0.5)  # one that waits for its next call leaves by itself
        self.process.kill()
        self.process.join()
        code, self.process = self.process.exitcode, None
        return code

    def kill(self) -> None:
        """End what runs now, from another thread."""
        self.over, process = True, self.process
        if process is not None:
            process.kill()


def _work(pipe: Connection) -> None:
    """The life of a process of ProcessExecutor: answer calls until the pipe or the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to everybody; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a killed process leaves behind
    while True:
        try:
            answer = None, _run(*pipe.recv())
        except EOFError:
            return
        except _Failed as failed:
            answer = failed.__cause__, None
        except Exception as error:  # a call that cannot be read: another version of the code, or of a package
            answer = error, None
        try:
            pipe.send(answer)
        except OSError:
            return
        except Exception as error:  # an answer that cannot be pickled
            pipe.send((RuntimeError(f"{answer[0] or answer[1]!r} cannot be sent: {error}"), None))


class _Failed(Exception):
    """A call raised its cause."""


def _run(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return function(*args, **kwargs)
    except Exception as error:
        error.add_note("in a worker:\n" + traceback.format_exc())
        raise _Failed from error


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


@contextmanager
def engine(
    workers: int = 1, *, dask: str | None = None, slurm: Path | None = None, apart: bool = False
) -> Iterator[Executor | None]:
    """The executor that is asked for; None means this process. At most one of the three may be given.

    With `apart`, one worker is a process too, for tasks that may crash or need a limit of time. `dask` is the address
    of a running scheduler, `slurm` a YAML file for `slurm_cluster`. Raises InvalidInput, ToolNotFound without the extra
    `scale`, NetworkUnavailable when no scheduler answers.
    """
    if (workers > 1) + (dask is not None) + (slurm is not None) > 1:
        raise InvalidInput("give one of --workers, --dask and --slurm")
    if dask is not None or slurm is not None:
        with _dask_executor(dask, slurm) as executor:
            yield executor
    elif workers > 1 or apart:
        yield from _processes(workers)
    else:
        yield None


@contextmanager
def _single_threaded() -> Iterator[None]:
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


def _processes(workers: int) -> Iterator[Executor]:
    with _single_threaded():
        executor = ProcessExecutor(workers)
        try:
            yield executor
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise
        executor.shutdown()


@contextmanager
def _dask_executor(address: str | None, slurm: Path | None) -> Iterator[Executor]:
    distributed = _distributed()
    cluster = None if slurm is None else slurm_cluster(read_slurm(slurm))
    try:
        client = distributed.Client(
            address if cluster is None else cluster, timeout=CONNECT_SECONDS, set_as_default=False
        )
    except (OSError, ValueError) as error:
        raise NetworkUnavailable(f"no Dask scheduler answers at {address} ({error}); is it running?") from error
    for name in ("distributed", "distributed.client"):  # what is lost is said in one line by us
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        _require_single_threads(client)
        yield DaskExecutor(client, patient=cluster is not None)
    finally:
        client.close()
        if cluster is not None:
            cluster.close()


class DaskExecutor(Executor):
    """Calls on the workers of a Dask client; `check` says when there is nobody left to answer them.

    A `patient` one waits for workers without end: those of a SLURM cluster stand in a queue.
    """

    def __init__(self, client: Any, *, patient: bool) -> None:
        self.client, self.patient = client, patient
        self.inner = client.get_executor(pure=False)
        self.alone_since: float | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Run fn on a worker."""
        return self.inner.submit(fn, *args, **kwargs)

    def check(self) -> None:
        """Raise RunError when the scheduler is gone, or no worker was there for LONELY_SECONDS."""
        try:
            workers = self.client.nthreads()
        except Exception as error:  # what a lost connection raises is not one documented kind
            raise RunError(SCHEDULER_GONE) from error
        now = time.monotonic()
        self.alone_since = None if workers or self.patient else self.alone_since or now
        if self.alone_since is not None and now - self.alone_since > LONELY_SECONDS:
            raise RunError(
                f"no Dask worker for {LONELY_SECONDS:.0f} s; finished results are kept: start workers, then run the "
                "same command again"
            )


def _require_single_threads(client: Any) -> None:
    """A time-out ends a worker's whole process, and two threads would share one seed of PyTorch: one task a process."""
    wide = [threads for threads in client.nthreads().values() if threads != 1]
    if wide:
        raise InvalidInput(f"a Dask worker has {wide[0]} threads; start the workers with --nthreads 1")


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise ToolNotFound('Dask is not installed; pip install "molkit[scale]"') from error
    return distributed


def read_slurm(path: Path) -> dict[str, Any]:
    """Keys of a SLURM file: jobs, queue, account, cores, processes, memory, walltime, local_directory, prologue.

    Raises DataNotFound, or InvalidInput for an unknown or missing key.
    """
    values = read_yaml(path)
    check_keys(values, SLURM_KEYS, source=str(path))
    for name in ("jobs", "cores", "memory", "walltime"):
        if name not in values:
            raise InvalidInput(f"{path}: {name} is missing")
    return values


def slurm_cluster(values: Mapping[str, Any]) -> Any:
    """A Dask cluster of `jobs` SLURM jobs. Raises ToolNotFound without the extra `scale`."""
    cluster = _slurm_object(values)
    cluster.scale(jobs=int(values["jobs"]))
    return cluster


def slurm_script(values: Mapping[str, Any]) -> str:
    """The batch script that each of the jobs would be, for a look before anything is sent."""
    cluster = _slurm_object(values)
    try:
        return cluster.job_script()
    finally:
        cluster.close()


def _slurm_object(values: Mapping[str, Any]) -> Any:
    _distributed()
    from dask_jobqueue import SLURMCluster

    prologue = ["export OMP_NUM_THREADS=1", *values.get("prologue", [])]
    optional = {name: values[name] for name in ("queue", "account", "local_directory") if name in values}
    return SLURMCluster(
        cores=int(values["cores"]),
        processes=int(values.get("processes", values["cores"])),
        memory=str(values["memory"]),
        walltime=str(values["walltime"]),
        job_script_prologue=prologue,
        scheduler_options={"dashboard_address": ":0"},
        **optional,
    )
