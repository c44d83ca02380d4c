"""Where a number comes from: commit, files and their checksums, versions, machine, memory."""

import hashlib
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from molkit.claims.ledger import REPOSITORY
from molkit.errors import DataNotFound

REPORTED_PACKAGES = ("molkit", "numpy", "scipy", "torch", "rdkit", "pyscf")
BESIDE_THE_NUMBERS = ("molkit.claims", "molkit.figures", "molkit.book", "molkit.cli", "molkit.__main__")
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
