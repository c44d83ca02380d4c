"""Rows on disk: one packed file of JSON lines an experiment, each batch of tasks with the origin it was computed by."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from molkit.claims.provenance import combined_hash, digest, rows_folder
from molkit.config import from_dict
from molkit.errors import InvalidInput, RunError
from molkit.experiments.experiment import Row, label_of
from molkit.training.files import read_packed, write_packed, write_text

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The origin of tasks that were computed together.

    code: fingerprints by path, empty where they are not known; inputs: SHA-256 of weights and data by path. commit:
    None where it is not known. seconds: of all tasks. rows: one hash of all stored rows of the batch.
    """

    experiment: str
    date: str  # UTC, ISO 8601
    commit: str | None
    dirty: bool | None
    code: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""
    seconds: float = 0.0
    rows: str = ""
    note: str = ""

    @cached_property
    def id(self) -> str:
        """12 digits; the same whatever has become of its rows."""
        return digest(asdict(replace(self, rows="", seconds=0.0)))[:12]


@dataclass(frozen=True)
class Entry:
    """What one task gave: rows, or the reason why there are none."""

    key: str
    task: Row
    batch: str
    seconds: float
    rows: tuple[Row, ...] = ()
    failure: str | None = None

    @property
    def checksum(self) -> str:
        """A hash of everything that was stored."""
        return digest([self.key, self.task, self.batch, self.seconds, list(self.rows), self.failure])


@dataclass(frozen=True)
class Stored:
    """All that a store holds: entries by key, batches by id, audits in the order they were made."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    batches: Mapping[str, Batch] = field(default_factory=dict)
    audits: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Store:
    """The file of one experiment, and beside it the audits of its rows."""

    name: str
    folder: Path = field(default_factory=rows_folder)

    @property
    def path(self) -> Path:
        """The rows."""
        return self.folder / f"{self.name}.jsonl.gz"

    @property
    def audits_path(self) -> Path:
        """The audits, one JSON line each."""
        return self.folder / f"{self.name}.audits.jsonl"

    def read(self) -> Stored:
        """Everything stored; empty where there is no file. Raises InvalidInput, by name, for a file that is damaged, of
        another experiment, or holds a row that is not the one that was computed.
        """
        known = self.audits_path.read_text(encoding="utf-8") if self.audits_path.is_file() else ""
        audits = tuple(_lines(self.audits_path, known))
        if not self.path.is_file():
            return Stored(audits=audits)
        head, _, body = read_packed(self.path).partition("\n")
        about = next(iter(_lines(self.path, head)), {})
        if (about.get("experiment"), about.get("format")) != (self.name, FORMAT):
            raise InvalidInput(
                f"{self.path}: holds {about.get('experiment')!r} in format {about.get('format')!r}, "
                f"expected {self.name!r} in format {FORMAT}; name another store"
            )
        lines = _lines(self.path, body)
        batches = {line["batch"]["id"]: _batch(self.path, line) for line in lines if "batch" in line}
        entries = {line.get("key", ""): _entry(self.path, line) for line in lines if "batch" not in line}
        if about.get("sha256") != _sha256(body) or any(one.batch not in batches for one in entries.values()):
            raise InvalidInput(f"{self.path}: lines were removed, added or edited; {_MEND}")
        return Stored(entries, batches, audits)

    def add(self, batch: Batch, entries: Mapping[str, Entry]) -> None:
        """Put entries into the file, in the place of those with the same keys. Other processes may do so meanwhile."""
        with self._alone():
            found = self.read()
            self._write({**found.entries, **entries}, {**found.batches, batch.id: batch})

    def add_audit(self, audit: Row) -> None:
        """Append an audit."""
        with self._alone():
            before = self.audits_path.read_text(encoding="utf-8") if self.audits_path.is_file() else ""
            write_text(self.audits_path, before + json.dumps(audit, ensure_ascii=False) + "\n")

    def _write(self, entries: Mapping[str, Entry], batches: Mapping[str, Batch]) -> None:
        lines = []
        for name, batch in sorted(batches.items(), key=lambda item: (item[1].date, item[0])):
            own = [one for one in entries.values() if one.batch == name]
            if own:
                total = round(sum(one.seconds for one in own), 3)
                standing = replace(batch, rows=rows_hash(own), seconds=total)
                lines.append(_json({"batch": {"id": name, **asdict(standing)}}))
        lines += [_json(_line(one)) for one in entries.values()]
        body = "\n".join(lines) + "\n"
        head = _json({"experiment": self.name, "format": FORMAT, "sha256": _sha256(body)})
        write_packed(self.path, f"{head}\n{body}")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process writes here."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder, os.O_RDONLY)
        except OSError as error:
            raise RunError(f"{self.folder}: rows cannot be kept there ({error.strerror}); name another store") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


_MEND = "restore it from the repository, or move it away and compute again"


def rows_hash(entries: list[Entry]) -> str:
    """One hash of what these tasks gave."""
    return combined_hash({one.key: one.checksum for one in entries})


def _line(entry: Entry) -> Row:
    told = {"rows": list(entry.rows)} if entry.failure is None else {"failure": entry.failure}
    about = {"key": entry.key, "task": entry.task, "of": entry.batch, "seconds": entry.seconds}
    return {**about, **told, "sha256": entry.checksum}


def _entry(path: Path, line: Row) -> Entry:
    try:
        rows = tuple(line.get("rows", ()))
        found = Entry(line["key"], line["task"], line["of"], line["seconds"], rows, line.get("failure"))
        checksum = line["sha256"]
    except (KeyError, TypeError) as error:
        raise InvalidInput(f"{path}: a line is not a task with its rows ({error}); {_MEND}") from None
    if checksum != found.checksum:
        raise InvalidInput(
            f"{path}: the rows of task {found.key} ({label_of(found.task)}) are not those that were computed; {_MEND}"
        )
    return found


def _batch(path: Path, line: Row) -> Batch:
    entry = dict(line["batch"])
    name = entry.pop("id", None)
    batch = from_dict(Batch, entry, source=f"{path}, origin {name}")
    if batch.id != name:
        raise InvalidInput(f"{path}: the origin {name} is not the one that was stored; {_MEND}")
    return batch


def _lines(path: Path, text: str) -> list[Row]:
    try:
        found = [json.loads(line) for line in text.split("\n") if line]
    except ValueError as error:
        raise InvalidInput(f"{path}: damaged ({error}); {_MEND}") from None
    if not all(isinstance(line, dict) for line in found):
        raise InvalidInput(f"{path}: every line must be an object; {_MEND}")
    return found


def _json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
