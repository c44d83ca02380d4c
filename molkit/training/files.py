"""Files that appear whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from molkit.errors import RunError


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
        with suppress(OSError):
            temporary.unlink()
        raise RunError(f"{path}: cannot be written ({error}); the last good files there are kept") from error


def write_text(path: Path, text: str) -> None:
    """Write a small file by temporary name and rename."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_yaml(path: Path, values: dict[str, Any]) -> None:
    """Write a table as YAML by temporary name and rename."""
    write_text(path, yaml.safe_dump(values, sort_keys=False))
