"""Where a number comes from: commit, files and their checksums, versions, machine, memory."""

import gzip
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import zlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from molkit.claims.closure import code_of
from molkit.claims.ledger import REPOSITORY
from molkit.errors import DataNotFound, InvalidInput

REPORTED_PACKAGES = ("molkit", "numpy", "scipy", "torch", "rdkit", "pyscf")
BESIDE_THE_NUMBERS = ("molkit.claims", "molkit.figures", "molkit.book", "molkit.cli", "molkit.__main__")
UNKNOWN = "code that is not known"
CODE_OF_RESULTS = ("molkit", "data/claims", "data/sets", "data/weights", "chapters", "requirements.txt")


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes; read once per process as long as size and time stamp stay. Raises DataNotFound."""
    try:
        stat = path.stat()
    except OSError:
        raise DataNotFound(f"{path} is named as a source of a result and does not exist") from None
    return _file_hash(path, stat.st_size, stat.st_mtime_ns)


def hash_files(paths: Iterable[str | Path], *, root: Path = REPOSITORY) -> dict[str, str]:
    """SHA-256 by path below `root`, sorted; paths may be absolute or below `root`."""
    resolved = sorted((root / path).resolve() for path in paths)
    return {_below(path, root): file_hash(path) for path in resolved}


def combined_hash(files: Mapping[str, str]) -> str:
    """One hash of many (path, checksum) pairs, 16 hexadecimal digits."""
    text = "\n".join(f"{path} {checksum}" for path, checksum in sorted(files.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def changed_files(files: Mapping[str, str], *, root: Path = REPOSITORY) -> tuple[str, ...]:
    """The paths whose bytes are no longer the recorded ones, or that are gone."""
    return tuple(path for path, old in files.items() if not (root / path).is_file() or file_hash(root / path) != old)


def rows_folder() -> Path:
    """Where rows of experiments are kept: MOLKIT_ROWS_DIR, else data/experiments of the repository."""
    return Path(os.environ.get("MOLKIT_ROWS_DIR") or REPOSITORY / "data" / "experiments")


def stored_batches(experiment: str) -> dict[str, str]:
    """The hash of the rows of each batch that is stored of an experiment, by its id; empty where nothing is.

    Raises InvalidInput for a file whose lines are not those that were written.
    """
    path = rows_folder() / f"{experiment}.jsonl.gz"
    try:
        return _stored_batches(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        return {}


@lru_cache(maxsize=256)
def _stored_batches(path: Path, _modified: int) -> dict[str, str]:
    try:
        head, _, body = gzip.decompress(path.read_bytes()).partition(b"\n")
        whole = json.loads(head)["sha256"] == hashlib.sha256(body).hexdigest()
        lines = [json.loads(line)["batch"] for line in body.split(b"\n") if line.startswith(b'{"batch"')]
        found = {line["id"]: line["rows"] for line in lines}
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path}: damaged ({error}); restore it from the repository") from None
    if not whole:
        raise InvalidInput(f"{path}: its rows are not those that were written; restore it from the repository")
    return found


def digest(content: Any) -> str:
    """16 digits for what JSON can hold."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def changed_since(code: Mapping[str, str], inputs: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """Paths of code and of weights and data that are no longer as they were; `now` are today's fingerprints of code.

    Code that is not known counts as changed.
    """
    changed = sorted(name for name in {*now, *code} if now.get(name) != code.get(name))
    return ((UNKNOWN,) if not code else tuple(changed)) + changed_files(inputs)


def current_code(function: str, *, root: Path = REPOSITORY) -> dict[str, str]:
    """Today's fingerprints of what a function `path:name` reaches; empty where it is gone."""
    path, _, name = function.rpartition(":")
    try:
        return code_of(root / path, name, root=root)
    except DataNotFound:
        return {}


def changed_origin(origin: Mapping[str, Any]) -> tuple[str, ...]:
    """What is no longer as it was when the rows were computed that a result is made of: code, weights, data, rows.

    Code, weights and data count as unchanged where an audit with today's code confirmed the rows. `origin` is what
    `molkit.claims.record` keeps: the `function` that computed, `batches` with their code, inputs and the hash of their
    rows, `audits` of them.
    """
    now, changed, rows = current_code(origin["function"]), {}, []
    for batch in origin["batches"]:
        changed[batch["id"]] = changed_since(batch["code"], batch["inputs"], now)
        if batch["rows"] and stored_batches(batch["experiment"]).get(batch["id"]) != batch["rows"]:
            rows.append(f"stored rows of {batch['experiment']}")
    audits = [audit for audit in origin["audits"] if audit["code"] == digest(now)]
    rows += [f"rows, by an audit of {audit['date']}" for audit in audits if audit["agreed"] < audit["compared"]]
    confirmed = {name for audit in audits for name in audit["batches"]}
    left = [text for name, found in changed.items() if name not in confirmed for text in found]
    return tuple(dict.fromkeys([*left, *rows]))


def loaded_source_files() -> list[Path]:
    """The molkit files loaded in this process that a number can depend on: all but claims, figures, book and cli."""
    modules = [(name, getattr(module, "__file__", None)) for name, module in list(sys.modules.items())]
    return [
        Path(file)
        for name, file in modules
        if file and name.partition(".")[0] == "molkit" and not name.startswith(BESIDE_THE_NUMBERS)
    ]


def commit() -> tuple[str | None, bool | None]:
    """Commit of the repository, and whether files that results depend on differ from it; (None, None) outside git."""
    head = _git("rev-parse", "HEAD")
    if head is None:
        return None, None
    changes = _git("status", "--porcelain", "--", *CODE_OF_RESULTS)
    return head, None if changes is None else bool(changes)


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Python and the packages results depend on; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in REPORTED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@lru_cache(maxsize=1)
def machine() -> str:
    """Processor and number of cores, in words."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = f"{names[0]}, {len(names)} cores" if names else model
    return f"{model}, {platform.system()}"


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


@lru_cache(maxsize=4096)
def _file_hash(path: Path, _size: int, _modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root.resolve()).as_posix() if path.is_relative_to(root.resolve()) else str(path)


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(REPOSITORY), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
