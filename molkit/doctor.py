"""What a user's installation is and whether it is whole: one screen that can be pasted into an issue."""

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from molkit.claims import provenance
from molkit.claims.ledger import REPOSITORY
from molkit.errors import MolkitError

MIN_DISK_GIB = 3.0  # the installation, the run cache and one training beside each other
MAIN = ("torch", "rdkit", "pyscf", "numpy")
PROGRAMS = {"cc": "builds the fast engine on first use", "chromium": "opens pages in `molkit book check`"}
EXTRAS = {"distributed": "Dask (extra scale)", "dask_jobqueue": "SLURM (extra scale)"}


@dataclass(frozen=True)
class Line:
    """One thing looked at; `ok` None where it can only be told, not judged."""

    name: str
    found: str
    ok: bool | None = None

    def __str__(self) -> str:
        mark = {None: " ", True: "+", False: "!"}[self.ok]
        return f"{mark} {self.name:<12} {self.found}"


def examine(*, quick: bool = False) -> Iterator[Line]:
    """Every line in turn; `quick` leaves out the checksums of data and weights."""
    yield from environment()
    yield from packages()
    yield from hardware()
    yield from programs()
    if not quick:
        yield _judged("data", check_data)
        yield _judged("weights", check_weights)


def environment() -> Iterator[Line]:
    """Versions of molkit, its commit, Python and system."""
    head, dirty = provenance.commit()
    state = "not a git checkout" if head is None else head[:10] + (" with changes" if dirty else "")
    yield Line("molkit", f"{_version('molkit') or 'not installed'}, {state}")
    python = platform.python_version()
    yield Line("python", f"{python}, {platform.system()} {platform.machine()}", sys.version_info >= (3, 11))


def packages(pins: Path = REPOSITORY / "requirements.txt") -> Iterator[Line]:
    """Installed packages against the pinned versions; outside a clone nothing says which these are."""
    if not pins.is_file():
        found = ", ".join(f"{name} {_version(name)}" for name in MAIN)
        yield Line("packages", f"{found}; {pins.parent} is no clone of molkit, so nothing says which are pinned")
        return
    wanted = dict(re.findall(r"^([\w.-]+)==(\S+)", pins.read_text(encoding="utf-8"), flags=re.M))
    found = {name: _version(name) for name in wanted}
    missing = [name for name in wanted if found[name] is None]
    other = [f"{name} {found[name]} (pinned {pin})" for name, pin in wanted.items() if found[name] not in (None, pin)]
    other = [text for text in other if not re.search(r" (\S+)\+\S+ \(pinned \1\)", text)]  # a build, such as +cpu
    main = ", ".join(f"{name} {found[name]}" for name in MAIN if found.get(name))
    yield Line("packages", f"{len(wanted) - len(missing)} of {len(wanted)} pinned ones: {main}", not missing)
    if missing:
        yield Line("missing", ", ".join(missing) + "; pip install -r requirements.txt", False)
    if other:
        yield Line("other", ", ".join(other))


def hardware() -> Iterator[Line]:
    """Cores, threads, vector units, engine, GPU, memory, disk."""
    import torch

    from molkit.edm import engine

    threads = os.environ.get("OMP_NUM_THREADS", "unset")
    yield Line("processor", provenance.machine())
    yield Line("threads", f"PyTorch {torch.get_num_threads()}, OMP_NUM_THREADS {threads}")
    flags = _cpu_flags()
    units = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    yield Line("units", ", ".join(units) or "no vector unit that the engine knows")
    fast = engine.available()
    found = f"compiled, {engine.products()}" if fast else f"plain PyTorch ({engine.why_not()})"
    yield Line("engine", found, fast or None)
    yield Line("gpu", torch.cuda.get_device_name() if torch.cuda.is_available() else "none seen by PyTorch")
    free = shutil.disk_usage(REPOSITORY).free / 2**30
    yield Line("disk", f"{free:.1f} GiB free at the repository", free > MIN_DISK_GIB)
    yield Line("memory", _memory())


def programs() -> Iterator[Line]:
    """Optional programs and packages."""
    for name, use in PROGRAMS.items():
        yield Line(name, f"{shutil.which(name) or 'not found'}: {use}")
    for name, use in EXTRAS.items():
        yield Line(name, f"{'installed' if find_spec(name) else 'not installed'}: {use}")


def check_data() -> str:
    """Compare every file of data/sets with its checksum. Raises ChecksumMismatch or DataNotFound."""
    from molkit.data.registry import available_files, data_root, verify_file

    names = available_files()
    for name in names:
        verify_file(data_root() / name)
    return f"{len(names)} files, all as published"


def check_weights() -> str:
    """Read every file of published weights. Raises InvalidInput where one is damaged or not finite, DataNotFound."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from molkit.edm.model import WEIGHTS_ROOT
    from molkit.errors import DataNotFound, InvalidInput

    paths = sorted(WEIGHTS_ROOT.glob("*/weights.safetensors"))
    if not paths:
        raise DataNotFound(f"{WEIGHTS_ROOT}: no published weights there; run molkit from a clone of the repository")
    for path in paths:
        try:
            finite = all(bool(tensor.isfinite().all()) for tensor in load_file(path).values())
        except (SafetensorError, OSError) as error:
            raise InvalidInput(f"{path}: cannot be read ({error}); restore it from the repository") from error
        if not finite:
            raise InvalidInput(f"{path}: holds values that are not finite; restore it from the repository")
    return ", ".join(path.parent.name for path in paths) + ": readable and finite"


def _judged(name: str, check: Callable[[], str]) -> Line:
    try:
        return Line(name, check(), True)
    except MolkitError as error:
        return Line(name, str(error), False)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


def _memory() -> str:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return "unknown"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
