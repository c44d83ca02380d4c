"""Files that appear whole or not at all, and folders that one process uses at a time."""

import fcntl
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from molkit.errors import InvalidInput, RunError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name that becomes `path` when the block ends well and vanishes when it fails.

    Raises RunError when the disk refuses; what was at `path` before is then still there.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: cannot be written ({error}); the last good files there are kept") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small file by temporary name and rename."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_packed(path: Path, text: str) -> None:
    """Write text by temporary name and rename: gzipped, without a time stamp, where the name ends in .gz."""
    packed = gzip.compress(text.encode("utf-8"), mtime=0) if path.suffix == ".gz" else text.encode("utf-8")
    with whole_file(path) as temporary:
        temporary.write_bytes(packed)


def read_packed(path: Path) -> str:
    """What `write_packed` wrote. Raises InvalidInput for a file that is damaged or cannot be read."""
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read ({error})") from error


def write_yaml(path: Path, values: dict[str, Any]) -> None:
    """Write a table as YAML by temporary name and rename."""
    write_text(path, yaml.safe_dump(values, sort_keys=False))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder; a second process is refused with RunError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / ".lock", "w")  # noqa: SIM115  (held open for as long as the lock)
    except OSError as error:
        raise InvalidInput(f"{folder}: the run folder cannot be written ({error.strerror})") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"{folder}: another process is using this run folder; choose another --out") from error
        yield


@contextmanager
def queued(folder: Path) -> Iterator[None]:
    """Wait until no other process holds this queue, and hold it: for work that several may ask for at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.queue"), "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
