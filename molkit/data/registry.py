"""The folder of packed public data: where it is, what belongs in it, and whether its bytes are the published ones.

`data/sets/SHA256SUMS` lists every file with its checksum. A file that a person fetched or made later carries its own
`<file>.sha256` beside it. Nothing here uses the network.
"""

import functools
import hashlib
import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from molkit.errors import ChecksumMismatch, DataNotFound, InvalidInput

DATA_ROOT = Path(os.environ.get("MOLKIT_DATA") or Path(__file__).resolve().parents[2] / "data" / "sets")
CHECKSUM_FILE = "SHA256SUMS"
CARD_FILE = "README.md"
DAMAGED_NPZ = (  # what zipfile, zlib and NumPy raise for bytes that are no .npz file
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, KeyError, OSError, ValueError, TypeError),
    *(NotImplementedError, RuntimeError, OverflowError, MemoryError, SyntaxError),
)
MAX_UNPACKED_BYTES = 512 * 2**20  # of one .npz file; the largest we know, the full QM9, unpacks to about 50 MiB


def data_root(root: Path | None = None) -> Path:
    """The given folder, or the one that comes with the repository (or that MOLKIT_DATA names)."""
    return DATA_ROOT if root is None else Path(root)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listed_checksums(root: Path | None = None) -> dict[str, str]:
    """Name (relative, with forward slashes) -> SHA-256 of every file of the collection, in the order of the list.

    Raises DataNotFound when the list is absent and InvalidInput when a line of it cannot be read.
    """
    path = data_root(root) / CHECKSUM_FILE
    if not path.is_file():
        raise DataNotFound(
            f"no data list at {path}: run from a clone of the repository or point MOLKIT_DATA at data/sets"
        )
    checksums = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        checksum, _, name = line.partition("  ")
        if len(checksum) != 64 or not name:
            raise InvalidInput(f"{path}, line {number}: expected 'SHA-256, two spaces, file name', got {line!r}")
        checksums[name] = checksum
    return checksums


def available_files(root: Path | None = None) -> list[str]:
    """Names of the listed files, then of the sets that a person fetched (they have a `.sha256` beside them)."""
    listed = list(listed_checksums(root))
    fetched = (path.name.removesuffix(".sha256") for path in sorted(data_root(root).glob("*.sha256")))
    return listed + [name for name in fetched if name not in listed]


def expected_checksum(path: Path, *, root: Path | None = None) -> str:
    """The SHA-256 that a file must have: from its own `.sha256` file if there is one, otherwise from the list."""
    sidecar = path.with_name(path.name + ".sha256")
    if sidecar.is_file():
        words = sidecar.read_text(encoding="utf-8").split()
        if not words or len(words[0]) != 64:
            raise InvalidInput(f"{sidecar}: expected a SHA-256 of 64 digits, got {' '.join(words)[:80]!r}; fetch again")
        return words[0]
    checksums = listed_checksums(root)
    try:
        name = path.resolve().relative_to(data_root(root).resolve()).as_posix()
    except ValueError:
        name = path.name
    if name not in checksums:
        raise DataNotFound(
            f"{path} has no published checksum: it is neither in {data_root(root) / CHECKSUM_FILE} nor has it a file "
            f"{sidecar.name} beside it; `molkit data list` shows what there is, `molkit data fetch qm9` makes full QM9"
        )
    return checksums[name]


def verify_file(path: Path, *, root: Path | None = None) -> str:
    """Compare a file with its published checksum, return that checksum. Repeated calls read the file only once.

    Raises DataNotFound when the file is absent, ChecksumMismatch (naming both sums) when its bytes are other ones.
    """
    path = Path(path)
    if not path.is_file():
        raise DataNotFound(f"data file {path} is missing: `git checkout -- {path}` restores a file of the repository")
    expected = expected_checksum(path, root=root)
    status = path.stat()
    found = _sha256_once(str(path.resolve()), status.st_size, status.st_mtime_ns)
    if found != expected:
        raise ChecksumMismatch(
            f"{path} is damaged: expected sha256 {expected}, found {found}; restore it with git or fetch it again"
        )
    return expected


@functools.lru_cache(maxsize=256)
def _sha256_once(path: str, size: int, modified_ns: int) -> str:
    """SHA-256 of a file that has this size and time of change; keyed by both, so an edited file is read again."""
    return sha256_of(Path(path))


def data_path(name: str, *, root: Path | None = None) -> Path:
    """Path of one verified file of the collection, for example `pdb/1uao_model1.pdb`."""
    path = data_root(root) / name
    verify_file(path, root=root)
    return path


def read_npz(name: str, *, root: Path | None = None) -> dict[str, np.ndarray]:
    """All arrays of one verified .npz file of the collection.

    Raises DataNotFound, ChecksumMismatch, or InvalidInput when the file is not an archive of plain arrays.
    """
    return load_arrays(data_path(name, root=root))


def load_arrays(
    path: Path, *, content: bytes | None = None, max_bytes: int = MAX_UNPACKED_BYTES
) -> dict[str, np.ndarray]:
    """Every array of an .npz file, decompressed once; pickled content and absurd sizes are refused (InvalidInput).

    With a content that was read already, the path is for messages alone.
    """
    try:
        with zipfile.ZipFile(path if content is None else io.BytesIO(content)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > max_bytes:
            raise InvalidInput(f"{path} would unpack to {size:,} bytes, more than the {max_bytes:,} allowed")
        with np.load(path if content is None else io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        raise DataNotFound(f"no file at {path}") from None
    except InvalidInput:
        raise
    except DAMAGED_NPZ as error:
        raise InvalidInput(f"{path} is not a readable .npz of plain arrays: {error}") from error
