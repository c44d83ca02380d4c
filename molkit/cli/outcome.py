"""How a command with many parts ends: one rule for all commands."""

from collections.abc import Mapping

import click

from molkit.errors import InvalidInput, PartlyDone

EXIT_CODES = (
    "Exit codes: 0, everything asked for was done; 3, part of it: what could be done is written, the rest is listed "
    "with its reason on standard error; 2, a mistake in what was asked, or nothing could be done: nothing is written; "
    "1, a fault of molkit; 130, interrupted."
)


def require_some(done: int, left_out: Mapping[str, str], *, noun: str = "molecules") -> None:
    """Before anything is written: raise InvalidInput, after the reasons are listed, where nothing could be done.

    `left_out` holds a reason for each name, such as "molecule 3".
    """
    if done:
        return
    if len(left_out) == 1:
        ((name, reason),) = left_out.items()
        raise InvalidInput(f"{name}: {reason}; nothing was written")
    _list(left_out)
    if not left_out:
        raise InvalidInput(f"there are no {noun}; nothing was written")
    raise InvalidInput(f"none of {len(left_out)} {noun} could be done (reasons above); nothing was written")


def end_of_parts(
    done: int, left_out: Mapping[str, str], incomplete: Mapping[str, str] | None = None, *, noun: str = "molecules"
) -> None:
    """The last call of a command with many parts: raises PartlyDone, after the reasons are listed, if any is missing.

    `incomplete` holds parts of which something was written, not all. Raises InvalidInput as `require_some` where
    nothing could be done.
    """
    incomplete = incomplete or {}
    require_some(done + len(incomplete), left_out, noun=noun)
    total = done + len(incomplete) + len(left_out)
    for name, reason in incomplete.items():
        click.echo(f"not complete, {name}: {reason}", err=True)
    if left_out:
        _list(left_out)
        raise PartlyDone(f"{len(left_out)} of {total} {noun} left out (reasons above), the others are done")
    if incomplete:
        raise PartlyDone(f"{len(incomplete)} of {total} {noun} not complete (reasons above)")


def _list(left_out: Mapping[str, str]) -> None:
    for name, reason in left_out.items():
        click.echo(f"left out, {name}: {reason}", err=True)
