"""The `molkit` command: every subcommand parses, calls one public function, and says where the result lies."""

import importlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click
from tqdm import tqdm

from molkit.cli.outputs import EXIT_CODES, disk_message, guard_outputs
from molkit.errors import MolkitError, PartlyDone

# name -> (module, attribute); modules are imported only when their command is asked for, so `--help` stays fast
COMMANDS = {
    "data": ("molkit.cli.data", "data", "List, verify, describe and fetch data sets."),
    "train": ("molkit.cli.train", "train", "Train a model, or continue a run."),
    "publish": ("molkit.cli.train", "publish", "Write the weights of a run to data/weights."),
    "sample": ("molkit.cli.edm", "sample", "Sample molecules from a trained model."),
    "conformers": ("molkit.cli.conformers", "conformers", "Generate conformers of SMILES from a trained flow."),
    "edit": ("molkit.cli.edm", "edit", "Complete, vary or compose molecules with a trained model."),
    "relax": ("molkit.cli.relax", "relax", "Relax structures with a diffusion model."),
    "pipeline": ("molkit.cli.pipeline", "pipeline", "From noise to electrons: all four methods on the same molecules."),
    "evaluate": ("molkit.cli.edm", "evaluate", "Stability, validity and likelihood of a trained model."),
    "labels": ("molkit.cli.ofdft", "labels", "Label Kohn-Sham densities for kinetic functionals."),
    "labels-pack": ("molkit.cli.ofdft", "labels_pack", "Thin labelled densities into one small file."),
    "ensembles": ("molkit.cli.data", "ensembles", "Make reference ensembles of conformers."),
    "density": ("molkit.cli.ofdft", "density", "Electron density of a molecule from a learned functional."),
    "score": ("molkit.cli.score", "score", "Stability and validity of the molecules in a file."),
    "study": ("molkit.cli.experiment", "study", "Compute the experiment of a page outside a notebook."),
    "book": ("molkit.cli.book", "book", "Run, build and inspect the book."),
    "ledger": ("molkit.cli.report", "ledger", "Show the claims and what was measured for them."),
    "doctor": ("molkit.cli.report", "doctor", "Say what this installation is and whether it is whole."),
    "bench": ("molkit.cli.report", "bench", "Measure speed side by side; prints JSON."),
}
INTERRUPTED = "interrupted; where --keep or --out names a folder, finished work is there and the same command continues"


class LazyGroup(click.Group):
    """A click group that imports the module of a command when the command is used."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of that name, imported now."""
        if name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[name]
        command = getattr(importlib.import_module(module), attribute)
        guard_outputs(command)
        return _with_exit_codes(command)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """One line a command, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry[2]) for name, entry in COMMANDS.items()])


def _with_exit_codes(command: click.Command) -> click.Command:
    """The command, its help and that of its parts ending with what the exit codes mean."""
    command.epilog = EXIT_CODES
    for part in command.commands.values() if isinstance(command, click.Group) else ():
        _with_exit_codes(part)
    return command


@click.group(cls=LazyGroup, epilog=EXIT_CODES)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="molkit")
def main(debug: bool) -> None:
    """Generative models and electronic structure, reproduced in front of the reader."""


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: workers end, half-written files go. Only the main thread can do that."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code, as `molkit.cli.outputs.EXIT_CODES` says."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a killed process leaves behind
    try:
        with terminated_as_interrupted():
            main.main(args=arguments, prog_name="molkit", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo(f"molkit: {INTERRUPTED}", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except MolkitError as error:
        if "--debug" in arguments and not isinstance(error, PartlyDone):
            raise
        click.echo(f"molkit: {error}", err=True)
        return error.exit_code
    except OSError as error:
        if "--debug" in arguments:
            raise
        said = disk_message(error)
        click.echo(f"molkit: {said or _internal(error)}", err=True)
        return 2 if said else 1
    except Exception as error:  # the last line of defence: an unexpected error is ours, and still ends in one line
        if "--debug" in arguments:
            raise
        click.echo(f"molkit: {_internal(error)}", err=True)
        return 1
    return 0


def _internal(error: Exception) -> str:
    return f"internal error, {type(error).__name__}: {error} (--debug shows where)"


def entry() -> None:
    """Console script."""
    sys.exit(run())
