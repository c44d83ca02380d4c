"""The run cache: what a run depended on, whether any byte of it has changed since, and what a page says of its run."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from molkit.book.layout import Book
from molkit.book.notebooks import code_cells, read_notebook, write_whole
from molkit.claims.closure import reachable_files
from molkit.data.registry import CHECKSUM_FILE

RECORD_VERSION = 1
ABSENT = "absent"
PINS = ("requirements.txt",)
WEIGHTS = "weights"  # safetensors reads without Python's knowledge, so a folder of weights counts as a whole


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What is known about the last run of a chapter with a profile.

    `code` is the hash of the notebook's code cells. `files` maps every package file and pin, `inputs` every data file
    opened, data folder listed and further module loaded, to SHA-256. Paths are relative to the book where they can be.
    """

    chapter: str
    profile: str
    status: str  # "ok" or "failed"
    error: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    output: str = ""  # SHA-256 of the executed notebook
    seconds: float = 0.0
    budget_seconds: float = 0.0
    peak_memory_mib: float = 0.0
    finished: str = ""  # ISO 8601, UTC
    commit: str | None = None
    dirty: bool | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""
    version: int = RECORD_VERSION


def code_hash(book: Book, chapter: str) -> str:
    """SHA-256 of the code cells of the committed notebook; prose, outputs and metadata do not count."""
    cells = code_cells(read_notebook(book.source(chapter)))
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def dependency_hashes(book: Book, chapter: str) -> dict[str, str]:
    """SHA-256 of every package file the chapter can reach and of the pins, by path relative to the book."""
    cells = code_cells(read_notebook(book.source(chapter)))
    files = reachable_files(cells, root=book.root, packages=book.packages)
    pins = [path for name in PINS if (path := book.root / name).is_file()]
    return hash_paths(book, [*files, *pins])


def hash_paths(book: Book, paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 by path; a folder is hashed by the names in it, and what does not exist is "absent".

    Of the list of checksums only the lines of the data files among the paths count.
    """
    names = {_name(book, path): path for path in sorted(set(paths))}
    return {name: _hash_input(path, names) for name, path in names.items()}


def traced_paths(book: Book, trace: Path, replaced: Mapping[Path, Path] | None = None) -> list[Path]:
    """Files and folders that a chapter used, from the journal its kernel left; weights count as whole folders.

    `replaced` maps copies that the run was given to the files they stand for, and their folder to that of those, for
    what was looked for in vain; other files that the run itself made (below `trace`'s folder) are no input.
    """
    replaced = replaced or {}
    own = trace.parent.resolve()
    found: set[Path] = set()
    for line in trace.read_text(encoding="utf-8").splitlines() if trace.is_file() else ():
        name = line.partition("\t")[2]
        path = _stand_in(Path(name), replaced)
        if not path.resolve().is_relative_to(own):
            found |= set(_whole(book, path))
    return sorted(found)


def _stand_in(path: Path, replaced: Mapping[Path, Path]) -> Path:
    resolved = path.resolve()
    if resolved.parent in replaced and not resolved.exists():
        return replaced.get(resolved, replaced[resolved.parent] / resolved.name)
    return replaced.get(resolved, path)


def read_record(book: Book, chapter: str, profile: str) -> RunRecord | None:
    """The record of the last run; None if there is none, or one of another version of this program."""
    try:
        entry = json.loads(book.record(chapter, profile).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    if not isinstance(entry, dict) or entry.get("version") != RECORD_VERSION:
        return None
    if set(entry) != {item.name for item in fields(RunRecord)}:
        return None
    return RunRecord(**entry)


def write_record(book: Book, record: RunRecord) -> None:
    """Store the record beside the executed notebook."""
    path = book.record(record.chapter, record.profile)
    write_whole(path, json.dumps(asdict(record), indent=1, sort_keys=True) + "\n")


def reasons_to_run(book: Book, chapter: str, profile: str, parameters: Mapping[str, Any]) -> list[str]:
    """Why the last run cannot stand for a new one, in words; empty when it can."""
    record = read_record(book, chapter, profile)
    if record is None:
        return ["never run"]
    if record.status != "ok":
        return ["failed last time"]
    if _hash(book.executed(chapter, profile)) != record.output:
        return ["the executed notebook is gone or was changed"]
    reasons = []
    if json.loads(json.dumps(dict(parameters))) != record.parameters:
        reasons.append("parameters")
    if code_hash(book, chapter) != record.code:
        reasons.append("code of the notebook")
    now = dependency_hashes(book, chapter)
    reasons += [path for path in sorted({*now, *record.files}) if now.get(path) != record.files.get(path)]
    for path, old in record.inputs.items():
        if path not in record.files and _hash_input(book.root / path, record.inputs) != old:
            reasons.append(path)
    return reasons


def _whole(book: Book, path: Path) -> list[Path]:
    """The path itself, or all files of the weights folder it belongs to."""
    weights = book.data_folder / WEIGHTS
    if not path.is_relative_to(weights) or path == weights:
        return [path]
    folder = weights / path.relative_to(weights).parts[0]
    return sorted(item for item in folder.iterdir() if item.is_file()) if folder.is_dir() else [path]


def _hash_input(path: Path, names: Iterable[str]) -> str:
    if path.name != CHECKSUM_FILE or not path.is_file():
        return _hash(path)
    used = {Path(name).name for name in names}
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if Path(line.partition("  ")[2]).name in used]
    return "lines " + hashlib.sha256("\n".join(kept).encode()).hexdigest()


def _hash(path: Path) -> str:
    try:
        if path.is_dir():
            return "names " + hashlib.sha256("\n".join(sorted(os.listdir(path))).encode()).hexdigest()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ABSENT


def _name(book: Book, path: Path) -> str:
    return path.relative_to(book.root).as_posix() if path.is_relative_to(book.root) else str(path)


def stamp(record: RunRecord, defaults: Mapping[str, str]) -> str:
    """Markdown admonition that says how the page above it was made.

    `defaults` are the values written in the parameters cell; those of the run stand before them.
    """
    values = {**defaults, **{name: repr(value) for name, value in record.parameters.items()}}
    rows = {
        "Profile": record.profile,
        "Parameters": ", ".join(f"`{name} = {value}`" for name, value in values.items()) or "none",
        "Run": f"{record.finished.replace('T', ' ').removesuffix('+00:00')} UTC, {duration(record.seconds)}, "
        f"peak memory {memory(record.peak_memory_mib)}",
        "Commit": commit_in_words(record.commit, record.dirty),
        "Versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        "Machine": f"{record.machine}; one thread",
    }
    return _table("How this page was made", rows)


def unexecuted_stamp(profile: str) -> str:
    """The stamp of a chapter that was not run: its page shows the outputs kept in the repository."""
    note = (
        f"This chapter was not run with the `{profile}` profile. It shows the outputs kept in the repository (`smoke`)."
    )
    return f":::{{admonition}} How this page was made\n:class: molkit-stamp\n{note}\n:::\n"


def failure_notice(record: RunRecord, cell: int | None) -> str:
    """Markdown admonition for the head of a chapter whose run failed."""
    where = f" in code cell {cell}" if cell else ""
    text = " ".join(record.error.split()).replace("`", "'")
    return (
        ":::{error}\n"
        f"This chapter failed{where} when the book was built with the `{record.profile}` profile. "
        "What follows is what it had produced by then.\n\n"
        f"`{text[:500]}`\n:::\n"
    )


def commit_in_words(commit: str | None, dirty: bool | None) -> str:
    """`1a2b3c4`, with a remark when files had been changed since."""
    if commit is None:
        return "not known (no git repository)"
    return f"`{commit[:10]}`" + (" with uncommitted changes" if dirty else "")


def duration(seconds: float) -> str:
    """41 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if whole < 10 else f"{whole} s"
    large, small, words = (
        (whole // 60, whole % 60, "min s") if whole < 3600 else (whole // 3600, whole % 3600 // 60, "h min")
    )
    first, second = words.split()
    return f"{large} {first} {small} {second}" if small else f"{large} {first}"


def memory(mebibytes: float) -> str:
    """620 MiB, 1.8 GiB."""
    return f"{mebibytes:.0f} MiB" if mebibytes < 1000 else f"{mebibytes / 1024:.1f} GiB"


def _table(title: str, rows: Mapping[str, str]) -> str:
    body = "\n".join(f"| {name} | {text.replace('|', '/')} |" for name, text in rows.items())
    return f":::{{admonition}} {title}\n:class: molkit-stamp\n\n| | |\n|:--|:--|\n{body}\n:::\n"
