"""Where a command will write: looked at before the work begins."""

from collections.abc import Sequence
from pathlib import Path

from molkit.errors import InvalidInput


def require_place(out: Path, suffixes: Sequence[str] = ()) -> None:
    """Raise InvalidInput unless the name of a file to come ends in one of the suffixes and its folder exists."""
    if suffixes and out.suffix not in suffixes:
        *most, last = suffixes
        endings = f"{', '.join(most)} or {last}" if most else last
        raise InvalidInput(f"{out}: the name must end in {endings}")
    if not out.parent.is_dir():
        raise InvalidInput(f"{out}: the folder {out.parent} does not exist")
