"""The folder of a farm: a result or a failure for each task, and what was asked for."""

import hashlib
import json
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
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
            _remove_quietly(temporary)
            raise RunError(f"{path}: cannot be written ({error}); finished results are kept") from error

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
        if known and known["settings"] != wanted:
            differing = sorted(k for k in wanted.keys() | known["settings"].keys() if _differ(known, wanted, k))
            raise InvalidInput(f"{self.root}: holds results made with another {differing[0]!r}; choose another folder")
        digests = {key: digest(task) for key, task in tasks.items()}
        earlier = known.get("tasks", {})
        other = next((key for key in digests if earlier.get(key, digests[key]) != digests[key]), None)
        if other is not None:
            raise InvalidInput(f"{self.root}: task {other} was another one when this folder was made; choose another")
        write_text(self.root / MANIFEST, json.dumps({"settings": wanted, "tasks": {**earlier, **digests}}) + "\n")

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


def _differ(known: Mapping[str, Any], wanted: Mapping[str, Any], name: str) -> bool:
    missing = object()
    return known["settings"].get(name, missing) != wanted.get(name, missing)


def _remove_quietly(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the disk that refused the file may refuse this too; the next run sweeps


def read_arrays(path: Path) -> Result | None:
    """Arrays of an .npz file, nothing unpickled; None where it is absent or damaged."""
    try:
        return load_arrays(path)
    except (InvalidInput, DataNotFound):
        return None


def digest(task: Any) -> str:
    """Fingerprint of a task's arguments."""
    return hashlib.sha256(pickle.dumps(task, protocol=4)).hexdigest()[:16]
