"""`molkit study NAME`: any experiment of a page outside a notebook; its options are those of its `tasks`."""

import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from molkit.cli.options import Engine, Number, Whole, engine_options
from molkit.cli.outputs import EXIT_CODES, OutFolder, guard_outputs
from molkit.config import whole_number
from molkit.errors import PartlyDone

SHOWN = 5  # failures that are named
PLAIN = {int: Whole(min=0), float: Number(), str: click.STRING}


def experiments() -> dict[str, tuple[str, str]]:
    """Module and ending of every experiment by name."""
    from molkit.experiments.experiment import rooms

    return rooms()


class StudyGroup(click.Group):
    """A command for each experiment, made when it is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        """All names, in alphabetical order."""
        return sorted(experiments())

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of that name."""
        if name not in experiments():
            return None
        module, end = experiments()[name]
        room = importlib.import_module(module)
        made = command(name, getattr(room, f"tasks{end}"), getattr(room, f"measure{end}"))
        guard_outputs(made)
        return made

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Experiments by name alone, so that no room is imported."""
        with formatter.section("Experiments of pages"):
            rooms = experiments().items()
            formatter.write_dl([(name, f"{module}{end and f', {end}'}") for name, (module, end) in rooms])


@click.group(cls=StudyGroup)
def study() -> None:
    """Compute the experiment of a page outside a notebook."""


def command(name: str, tasks: Callable[..., list[Any]], measure: Callable[..., Any]) -> click.Command:
    """The command that computes an experiment: options of its tasks, and those that every experiment has."""

    @click.option("--recompute", default="missing", show_default=True, help="missing, all or audit:K.")
    @click.option("--minutes", type=Number(min=0.0, min_open=True), help="Begin no task after this time.")
    @click.option("--store", type=OutFolder(), help="Folder.  [default: data/experiments]")
    @engine_options
    def compute(recompute: str, minutes: float | None, store: Path | None, engine: Engine, **options: Any) -> None:
        from molkit.experiments.experiment import experiment_of, read_recompute
        from molkit.experiments.run import run
        from molkit.experiments.store import Store

        read_recompute(recompute)
        kept = Store(name) if store is None else Store(name, store)
        made = tasks(**options)
        assert experiment_of(measure).name == name
        with engine.open() as executor:
            rows = run(
                measure,
                made,
                recompute=recompute,
                minutes=minutes,
                executor=executor,
                store=kept,
                keep=True,
                progress=True,
            )
        _report(rows.attrs["account"], kept.path)

    found = click.command(name, help=inspect.getdoc(tasks), epilog=EXIT_CODES)(compute)
    found.params = [*options_of(tasks), *found.params]
    return found


def options_of(tasks: Callable[..., Any]) -> list[click.Option]:
    """An option for each keyword of `tasks`; several numbers or words are given with commas."""
    hints = get_type_hints(inspect.unwrap(tasks))
    return [_option(name, hints[name], one.default) for name, one in inspect.signature(tasks).parameters.items()]


def _option(name: str, kind: Any, default: Any) -> click.Option:
    flag, required = name.replace("_", "-"), default is inspect.Parameter.empty
    settings: dict[str, Any] = {"required": True} if required else {"default": default, "show_default": True}
    inner = [part for part in get_args(kind) if part is not type(None)]
    if type(None) in get_args(kind):
        kind = inner[0]
    if kind is bool:
        return click.Option([f"--{flag}/--no-{flag}"], **settings)
    if get_origin(kind) is Literal:
        return click.Option([f"--{flag}"], type=click.Choice(get_args(kind)), **settings)
    if kind in PLAIN:
        return click.Option([f"--{flag}"], type=PLAIN[kind], **settings)
    (item,) = get_args(kind)[:1]
    if not required:
        settings["default"] = ",".join(map(str, default))
    return click.Option([f"--{flag}"], callback=_several(flag, item), help="With commas.", **settings)


def _several(flag: str, item: type) -> Callable[..., Sequence[Any]]:
    def read(context: click.Context, option: click.Parameter, text: str) -> Sequence[Any]:
        parts = [part.strip() for part in (text or "").split(",") if part.strip()]
        if item is int:
            return tuple(whole_number(part, what=f"--{flag} (with commas)") for part in parts)
        return tuple(Number().convert(part, option, context) for part in parts) if item is float else tuple(parts)

    return read


def _report(account: Any, path: Path) -> None:
    """Say what was done. Raises PartlyDone where tasks failed or an audit disagrees."""
    made = account.num_tasks - account.num_taken
    click.echo(f"{path}: {account.num_tasks} tasks, {made} computed now, {account.num_rows} rows; {account.state}")
    for text in account.reasons[:SHOWN]:
        click.echo(f"changed: {text}", err=True)
    if account.audit is not None:
        click.echo(f"{account.audit}")
    for task, reason in list(account.failures.items())[:SHOWN]:
        click.echo(f"failed: {task}: {reason}", err=True)
    if account.failures:
        raise PartlyDone(f"{len(account.failures)} of {account.num_tasks} tasks gave no rows; {path} has the reasons")
    if account.audit is not None and not account.audit.agrees:
        raise PartlyDone(f"the audit disagrees: {account.audit}")
