"""The folder of a farm: a result or a failure for each task, and what was asked for."""

import hashlib
import json
import os
import pickle
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from molkit.data.registry import load_arrays
from molkit.errors import DataNotFound, InvalidInput, RunError
from molkit.training.files import write_text

KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,119}")
MANIFEST = "farm.json"
Result = dict[str, np.ndarray]


@dataclass(frozen=True)
class FarmFolder:
    """Files of a farm: results/KEY.npz, failures/KEY.json, attempts/KEY (one byte an attempt), farm.json."""

    root: Path

    def result_path(self, key: str) -> Path:
        """Where a task's arrays lie once it is done."""
        return self.root / "results" / f"{key}.npz"

    def failure_path(self, key: str) -> Path:
        """Where the reason lies why a task has no result."""
        return self.root / "failures" / f"{key}.json"

    def attempts(self, key: str) -> int:
        """How often this task was begun."""
        path = self.root / "attempts" / key
        return path.stat().st_size if path.is_file() else 0

    def begin(self, key: str) -> None:
        """Note an attempt before it is made, so that a death in it is seen."""
        path = self.root / "attempts" / key
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab") as handle:
                handle.write(b".")
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error}); finished results are kept") from error

    def forget(self, key: str) -> None:
        """Drop the attempts and the failure of a task."""
        for path in (self.root / "attempts" / key, self.failure_path(key)):
            path.unlink(missing_ok=True)

    def write(self, key: str, result: Mapping[str, Any]) -> None:
        """A task's arrays, whole or not at all, also where two workers finish it. Raises RunError on a full disk."""
        path = self.result_path(key)
        temporary = path.with_name(f"{key}.{os.uname().nodename}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as handle:
                np.savez(handle, allow_pickle=False, **{name: np.asarray(value) for name, value in result.items()})
            temporary.replace(path)
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error}); finished results are kept") from error
        finally:
            with suppress(OSError):  # the disk that refused the file may refuse this too; the next run sweeps
                temporary.unlink(missing_ok=True)

    def read(self, key: str) -> Result | None:
        """A task's arrays; None where there are none or the file is damaged (every member carries a checksum)."""
        return read_arrays(self.result_path(key))

    def fail(self, key: str, reason: str) -> None:
        """Note why a task has no result."""
        write_text(self.failure_path(key), json.dumps({"task": key, "reason": reason}) + "\n")

    def failure(self, key: str) -> str | None:
        """Why a task has no result; None where none is noted."""
        path = self.failure_path(key)
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["reason"]) if path.is_file() else None
        except (json.JSONDecodeError, KeyError, TypeError):
            return "the note of the failure is damaged"

    def sweep(self) -> None:
        """Remove what killed writers left behind, and damaged results, which are then made again."""
        for path in (self.root / "results").glob("*.tmp"):
            path.unlink(missing_ok=True)
        for path in (self.root / "results").glob("*.npz"):
            if read_arrays(path) is None:
                path.unlink(missing_ok=True)

    def adopt(self, tasks: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Take the tasks into the manifest, beside those already there.

        Raises InvalidInput for a key that cannot be a file name, other settings, or another task under a known key.
        """
        wrong = next((key for key in tasks if not KEY.fullmatch(key)), None)
        if wrong is not None:
            raise InvalidInput(f"a task's key is up to 120 letters, digits, '_', '.', '+', '-', got {wrong!r}")
        known = self.manifest()
        wanted = json.loads(json.dumps(dict(settings)))
        if known:
            self._require_same(known["settings"], wanted)
        digests = {key: digest(task) for key, task in tasks.items()}
        earlier = known.get("tasks", {})
        other = next((key for key in digests if earlier.get(key, digests[key]) != digests[key]), None)
        if other is not None:
            raise InvalidInput(f"{self.root}: task {other} was another one when this folder was made; choose another")
        write_text(self.root / MANIFEST, json.dumps({"settings": wanted, "tasks": {**earlier, **digests}}) + "\n")

    def _require_same(self, earlier: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        for name in sorted(wanted.keys() | earlier.keys()):
            before, now = (values.get(name, "none") for values in (earlier, wanted))
            if before != now:
                raise InvalidInput(
                    f"{self.root}: holds results made with another {name!r} ({before}, now {now}); "
                    "choose another folder"
                )

    def retry_failures(self) -> None:
        """Forget the failures of this folder and of farms in it, so that the next run tries these tasks again."""
        for path in self.root.rglob("failures/*.json"):
            FarmFolder(path.parents[1]).forget(path.stem)

    def manifest(self) -> dict[str, Any]:
        """Settings and digests of the tasks; empty for a new folder. Raises InvalidInput for a damaged file."""
        path = self.root / MANIFEST
        if not path.is_file():
            return {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return {"settings": dict(found["settings"]), "tasks": dict(found["tasks"])}
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"{path}: damaged ({error}); choose another folder") from error


@contextmanager
def place_for(keep: Path | None, *, near: Path | None = None) -> Iterator[Path]:
    """The folder to keep results in; where none is asked for, one that goes away again, in the folder `near`."""
    if keep is not None:
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix=".molkit_", dir=near) as name:
        yield Path(name)


def read_arrays(path: Path) -> Result | None:
    """Arrays of an .npz file, nothing unpickled; None where it is absent or damaged."""
    try:
        return load_arrays(path)
    except (InvalidInput, DataNotFound):
        return None


def digest(task: Any) -> str:
    """Fingerprint of a task's arguments by their values: equal tasks give equal ones, however they came about."""
    found = hashlib.sha256()
    _feed(found, task)
    return found.hexdigest()[:16]


def _feed(found: "hashlib._Hash", value: Any) -> None:
    """Add a value, its kind first; what is neither plain, an array nor a dataclass as its pickle."""
    found.update(f"{type(value).__name__}(".encode())
    if isinstance(value, np.ndarray) and value.dtype != object:
        found.update(f"{value.dtype.str}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif is_dataclass(value) and not isinstance(value, type):
        for part in fields(value):
            _feed(found, (part.name, getattr(value, part.name)))
    elif isinstance(value, Mapping):
        for item in value.items():
            _feed(found, item)
    elif isinstance(value, tuple | list):
        for item in value:
            _feed(found, item)
    elif value is None or isinstance(value, str | bytes | bool | int | float | complex | Path):
        found.update(repr(value).encode())
    else:
        found.update(pickle.dumps(value, protocol=4))
    found.update(b")")
