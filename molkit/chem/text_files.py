"""What reading and writing molecule files share: lines, error messages, writing in one step."""

import os
import tempfile
from pathlib import Path

from molkit.errors import InvalidInput
from molkit.molecule import Molecule

Frame = Molecule | InvalidInput  # one molecule of a file, or what is wrong with it


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without their newlines (\\n, \\r\\n or \\r)."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None
    if b"\0" in content:
        raise InvalidInput(f"{path}: expected a text file, got binary content")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # an old comment with an angstrom sign
    if not text.strip():
        raise InvalidInput(f"{path}: expected at least one molecule, got an empty file")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def line_error(path: Path, row: int, expected: str, came: str, hint: str) -> InvalidInput:
    """The error for a line (row counted from 0): what was expected, what came, and a hint."""
    shown = came if len(came) <= 60 else came[:57] + "..."
    return InvalidInput(f"{path}, line {row + 1}: expected {expected}, got {shown!r}{'; ' + hint if hint else ''}")


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name in its folder and rename it; raises InvalidInput when that fails."""
    path = Path(path)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, suffix=".writing", delete=False
        ) as file:
            temporary = file.name
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise InvalidInput(f"cannot write {path}: {error.strerror}; choose a folder that exists and is yours") from None
