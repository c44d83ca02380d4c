"""Executors for farms: this process, local processes that may die, Dask at an address, Dask on SLURM."""

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from molkit.config import read_yaml
from molkit.errors import InvalidInput, NetworkUnavailable, ToolNotFound

CONNECT_SECONDS = 20.0
SLURM_KEYS = {"jobs", "queue", "account", "cores", "processes", "memory", "walltime", "local_directory", "prologue"}


class ProcessExecutor(Executor):
    """Local processes, started afresh, of which each may crash without taking the others along."""

    def __init__(self, workers: int) -> None:
        from pebble import ProcessPool

        self.pool = ProcessPool(max_workers=workers, context=multiprocessing.get_context("spawn"))
        self.num_workers = workers

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Run fn in a process; its death is the future's exception."""
        return self.pool.schedule(fn, args=args, kwargs=kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let running tasks end, or stop them where cancel_futures says so."""
        if cancel_futures:
            self.pool.stop()
        else:
            self.pool.close()
        if wait:
            self.pool.join()


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
    logging.getLogger("distributed").setLevel(logging.ERROR)
    try:
        _require_single_threads(client)
        yield client.get_executor(pure=False)
    finally:
        client.close()
        if cluster is not None:
            cluster.close()


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
    unknown = sorted(set(values) - SLURM_KEYS)
    if unknown:
        raise InvalidInput(f"{path}: unknown key {unknown[0]!r}; known are {', '.join(sorted(SLURM_KEYS))}")
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
