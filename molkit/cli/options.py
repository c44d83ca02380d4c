"""Options that many commands share: numbers in their range, where tasks run, what is kept."""

import math
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from molkit.cli.outputs import OutFolder
from molkit.config import LARGEST


class Number(click.FloatRange):
    """A finite number, in a range if one is given; NaN compares with no bound, so click lets it pass any range."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The value as a float. Raises click.BadParameter for NaN and infinity too."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Whole(click.IntRange):
    """A whole number of at most LARGEST, in a range if one is given."""

    name = "whole number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The value as an int. Raises click.BadParameter for one too large as well."""
        number = super().convert(value, param, ctx)
        if abs(number) > LARGEST:
            self.fail(f"{value} is larger than {LARGEST}.", param, ctx)
        return number


SEED = Whole(min=0)


@dataclass(frozen=True)
class Engine:
    """What the user chose: processes here, a Dask scheduler, or SLURM jobs."""

    workers: int
    dask: str | None
    slurm: Path | None

    @property
    def is_local_process(self) -> bool:
        """Whether everything runs in this process."""
        return self.workers == 1 and self.dask is None and self.slurm is None

    def open(self, *, apart: bool = False) -> AbstractContextManager[Executor | None]:
        """The executor, for a with block; None for this process, unless tasks are to run `apart` from it.

        Raises what `molkit.farm.engines.engine` raises.
        """
        from molkit.farm.engines import engine

        return engine(self.workers, dask=self.dask, slurm=self.slurm, apart=apart)


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --workers, --dask and --slurm, passed to it as one `engine`."""

    @click.option("--workers", default=1, show_default=True, type=Whole(1, 1024), help="Processes.")
    @click.option("--dask", metavar="ADDRESS", help="Address of a running Dask scheduler, instead of processes here.")
    @click.option(
        "--slurm",
        type=click.Path(dir_okay=False, path_type=Path),
        help="A YAML file (jobs, cores, memory, walltime, ...): Dask workers as SLURM jobs.",
    )
    @wraps(command)
    def wrapped(*arguments: Any, workers: int, dask: str | None, slurm: Path | None, **options: Any) -> Any:
        return command(*arguments, engine=Engine(workers, dask, slurm), **options)

    return wrapped


@dataclass(frozen=True)
class Keep:
    """The folder where finished parts of a command stay, if any, and whether failed ones there are tried again."""

    folder: Path | None
    retry: bool

    def open(self, engine: Engine, out: Path) -> AbstractContextManager[Path]:
        """The folder, for a with block; without one a temporary folder, beside `out` where other machines work too.

        Raises InvalidInput where something is to be tried again and there is no folder.
        """
        from molkit.errors import InvalidInput
        from molkit.farm.folder import place_for

        if self.retry and self.folder is None:
            raise InvalidInput("--retry tries again what failed in the folder of --keep: give --keep")
        retry_in(self.folder, self.retry)
        return place_for(self.folder, near=out.parent if engine.dask or engine.slurm else None)


RETRY = click.option("--retry", is_flag=True, help="Try again what failed before.")


def retry_in(folder: Path | None, retry: bool) -> None:
    """Forget the failures in a farm's folder where the user asks for it."""
    from molkit.farm.folder import FarmFolder

    if retry and folder is not None:
        FarmFolder(folder).retry_failures()


def retry_option(folder: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command --retry, for the farm's folder that its option `folder` names."""

    def give(command: Callable[..., Any]) -> Callable[..., Any]:
        @RETRY
        @wraps(command)
        def wrapped(*arguments: Any, retry: bool, **options: Any) -> Any:
            retry_in(options[folder], retry)
            return command(*arguments, **options)

        return wrapped

    return give


def keep_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --keep and --retry, passed to it as one `keep`."""

    @click.option(
        "--keep",
        type=OutFolder(),
        help="Folder for finished parts: the same command continues there.",
    )
    @RETRY
    @wraps(command)
    def wrapped(*arguments: Any, keep: Path | None, retry: bool, **options: Any) -> Any:
        return command(*arguments, keep=Keep(keep, retry), **options)

    return wrapped


def whole_numbers(text: str, *, option: str = "--seeds") -> list[int]:
    """Whole numbers separated by commas. Raises InvalidInput naming the option."""
    from molkit.config import whole_number

    return [whole_number(part, what=f"{option} (whole numbers with commas)") for part in text.split(",")]
