"""QM9 as its authors published it: the archive of 133,885 odd XYZ files, read and packed with all it says.

Source: Ramakrishnan, Dral, Rupp, von Lilienfeld, Sci. Data 1, 140022 (2014), figshare collection 978904. A record is:
number of atoms; `gdb N` and 15 properties; one line an atom (element, x, y, z in angstrom, Mulliken charge); harmonic
frequencies; two SMILES (GDB-17, relaxed); two InChI. Some numbers are written like 2.1997*^-6. Charges, frequencies and
InChI are not kept.
"""

import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from molkit.data.fetch import RemoteFile, download
from molkit.data.packed import write_packed
from molkit.data.qm9 import FILES, PROPERTY_UNITS, SPLITS, split_of_qm9
from molkit.data.registry import sha256_of
from molkit.errors import InvalidInput
from molkit.molecule import ATOMIC_NUMBER, PackedMolecules

MAX_RECORD_BYTES = 64 * 1024  # the largest published record has about 4 KiB
RECORD_NAME = re.compile(r"dsgdb9nsd_(\d{6})\.xyz")
FIGSHARE = ("https://springernature.figshare.com/ndownloader/files/", "https://ndownloader.figshare.com/files/")


@dataclass(frozen=True, kw_only=True)
class Qm9Release:
    """What is published: three files, and the counts that must come out of them."""

    archive: RemoteFile
    uncharacterized: RemoteFile
    atom_references: RemoteFile
    num_molecules: int = 133_885
    num_uncharacterized: int = 3_054
    num_train: int = 100_000


# Sizes and MD5 are figshare's own; the SHA-256 agree between several unrelated public projects that fetched the files.
PUBLISHED = Qm9Release(
    archive=RemoteFile(
        name="dsgdb9nsd.xyz.tar.bz2",
        urls=tuple(f"{host}3195389" for host in FIGSHARE),
        num_bytes=86_144_227,
        md5="ad1ebd51ee7f5b3a6e32e974e5d54012",
        sha256="3a63848ac80691bdb8d41834b575afad345b9300d7a2db0c38adb7f6eaa8360c",
    ),
    uncharacterized=RemoteFile(
        name="uncharacterized.txt",
        urls=tuple(f"{host}3195404" for host in FIGSHARE),
        num_bytes=486_752,
        md5="a361887bacb427b8a0ce7903d92a53b4",
        sha256="3aa5115d540b356de94791d4a74c3bf1ed91c469ecf52a4f5d7cc0506fe02e24",
    ),
    atom_references=RemoteFile(
        name="atomref.txt",
        urls=tuple(f"{host}3195395" for host in FIGSHARE),
        num_bytes=964,
        md5="2d30b2df8329d8fd805c0a4d158a0a0f",
    ),
)


@dataclass(frozen=True, eq=False)
class Qm9Record:
    """One molecule of the archive."""

    index: int  # counted from 1
    atomic_numbers: np.ndarray  # [A] int64
    positions: np.ndarray  # [A, 3] float64, angstrom
    properties: np.ndarray  # [15] float64, in the order and units of PROPERTY_UNITS
    smiles: str  # of GDB-17, from which the geometry was made


@dataclass(frozen=True)
class FetchResult:
    """Where the packed set lies and what it holds."""

    path: Path
    num_molecules: int
    sha256: str
    was_there: bool  # nothing had to be made


def fetch_qm9(
    folder: Path,
    *,
    release: Qm9Release | None = None,
    base_urls: Sequence[str] = (),
    on_bytes: Callable[[str, int, int], None] | None = None,
    on_record: Callable[[], None] | None = None,
) -> FetchResult:
    """Fetch what is missing into `folder/original`, check it, and write `folder/qm9_full.npz` with its `.sha256`.

    base_urls: folders of the web that hold the three files under their names, instead of the published addresses.
    on_bytes(name, done, total) and on_record() report progress.

    Raises NetworkUnavailable, ChecksumMismatch, or InvalidInput; the packed file is then as it was before.
    """
    release = PUBLISHED if release is None else release
    path = folder / FILES["full"]
    sidecar = path.with_name(path.name + ".sha256")
    if path.is_file() and sidecar.is_file() and sidecar.read_text(encoding="utf-8").startswith(sha256_of(path)):
        checksum = sha256_of(path)
        return FetchResult(path, release.num_molecules - release.num_uncharacterized, checksum, was_there=True)
    fetched = []
    for file in (release.uncharacterized, release.atom_references, release.archive):
        report = None if on_bytes is None else (lambda done, total, name=file.name: on_bytes(name, done, total))
        fetched.append(download(file.mirrored(base_urls), folder / "original", on_bytes=report))
    left_out = read_uncharacterized(fetched[0])
    references = read_atom_references(fetched[1])
    records = []
    for record in read_archive(fetched[2]):
        records.append(record)
        if on_record is not None:
            on_record()
    num_molecules = write_full(path, records, left_out, references, release=release)
    checksum = sha256_of(path)
    sidecar.write_text(f"{checksum}  {path.name}\n", encoding="utf-8")
    return FetchResult(path, num_molecules, checksum, was_there=False)


def parse_record(text: str, *, label: str = "QM9 record") -> Qm9Record:
    """Read one record of the archive; InvalidInput names it and says what was expected."""
    lines = text.splitlines()
    try:
        num_atoms = int(lines[0])
        atoms = [line.split() for line in lines[2 : 2 + num_atoms]]
        tag, index, *properties = lines[1].split()
        record = Qm9Record(
            index=int(index),
            atomic_numbers=np.array([ATOMIC_NUMBER[atom[0]] for atom in atoms], dtype=np.int64),
            positions=np.array([[_number(word) for word in atom[1:4]] for atom in atoms]),
            properties=np.array([_number(word) for word in properties]),
            smiles=lines[3 + num_atoms].split()[0],
        )
    except (IndexError, KeyError, ValueError) as error:
        raise InvalidInput(f"{label}: expected a complete record of QM9's XYZ format ({error})") from error
    if tag != "gdb" or len(properties) != len(PROPERTY_UNITS) or num_atoms < 1:
        raise InvalidInput(f"{label}: expected 'gdb', a number and 15 properties, got {lines[1][:60]!r}")
    if record.positions.shape != (num_atoms, 3) or not (
        np.isfinite(record.positions).all() and np.isfinite(record.properties).all()
    ):
        raise InvalidInput(f"{label}: expected {num_atoms} atoms with finite coordinates and finite properties")
    return record


def read_archive(path: Path) -> Iterator[Qm9Record]:
    """The records of a .tar.bz2, in its order, read as a stream: no member is ever written to disk.

    Raises InvalidInput when the archive is cut off or damaged, or holds a member that is no record: a link, a device,
    a path that leads elsewhere, a name or a size that no record has, or a number different from its name's.
    """
    try:
        with tarfile.open(path, "r|bz2") as archive:
            for member in archive:
                if member.isdir():
                    continue
                number = _record_number(member, path)
                stream = archive.extractfile(member)
                text = stream.read(MAX_RECORD_BYTES).decode("ascii")
                record = parse_record(text, label=f"{path}, member {member.name}")
                if record.index != number:
                    raise InvalidInput(f"{path}, member {member.name}: says it is molecule {record.index}")
                yield record
    except (tarfile.TarError, EOFError, OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"{path} is not a complete .tar.bz2 archive of QM9 records ({error}); fetch again"
        ) from error


def read_uncharacterized(path: Path) -> np.ndarray:
    """QM9 numbers (int64, ascending) of the molecules whose geometry failed the authors' consistency check.

    Rows are: number, SMILES before, SMILES after, a distance; prose and rules around them are passed over.
    """
    words = [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    return np.unique(np.array([int(row[0]) for row in words if len(row) >= 3 and row[0].isdigit()], dtype=np.int64))


def read_atom_references(path: Path) -> np.ndarray:
    """Values of the free atoms [5, 6] for H, C, N, O, F: zpve, U0, U, H, G in Ha, Cv in cal/(mol K)."""
    words = [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    rows = {row[0]: row[1:] for row in words if len(row) == 7 and row[0] in ATOMIC_NUMBER}
    if list(rows) != ["H", "C", "N", "O", "F"]:
        raise InvalidInput(f"{path}: expected one row each for H, C, N, O, F, got {list(rows)}")
    return np.array([[_number(word) for word in row] for row in rows.values()])


def write_full(
    path: Path,
    records: Iterable[Qm9Record],
    left_out: np.ndarray,
    references: np.ndarray,
    *,
    release: Qm9Release = PUBLISHED,
) -> int:
    """Pack the characterised molecules, ascending, with the published split and all properties; return their number.

    Extra arrays: index int32, split uint8 (0 train, 1 valid, 2 test), properties float64 [B, 15], smiles (GDB-17),
    atom_references float64 [5, 6]. Raises InvalidInput when the counts are not those of the release.
    """
    records = sorted(records, key=lambda record: record.index)
    numbers = np.array([record.index for record in records], dtype=np.int64)
    if not np.array_equal(numbers, np.arange(1, release.num_molecules + 1)):
        raise InvalidInput(
            f"expected the molecules 1..{release.num_molecules:,} once each in the archive, "
            f"got {len(numbers):,} records with {len(np.unique(numbers)):,} numbers"
        )
    if len(left_out) != release.num_uncharacterized:
        raise InvalidInput(
            f"expected {release.num_uncharacterized:,} uncharacterized molecules in the list, got {len(left_out):,}"
        )
    members = split_of_qm9(left_out, num_molecules=release.num_molecules, num_train=release.num_train)
    codes = np.full(release.num_molecules + 1, 255, dtype=np.uint8)
    for code, split in enumerate(SPLITS):
        codes[members[split]] = code
    kept = [record for record in records if codes[record.index] != 255]
    molecules = PackedMolecules(
        np.array([len(record.atomic_numbers) for record in kept], dtype=np.int64),
        np.concatenate([record.atomic_numbers for record in kept]),
        np.concatenate([record.positions for record in kept]),
    )
    write_packed(
        path,
        molecules,
        index=np.array([record.index for record in kept], dtype=np.int32),
        split=codes[[record.index for record in kept]],
        properties=np.array([record.properties for record in kept]),
        smiles=np.array([record.smiles for record in kept]),
        atom_references=references,
    )
    return len(kept)


def _record_number(member: tarfile.TarInfo, path: Path) -> int:
    """The QM9 number in a member's name, after every reason to distrust the member was looked at."""
    inside = PurePosixPath(member.name)
    match = RECORD_NAME.fullmatch(inside.name)
    if not member.isfile() or inside.is_absolute() or ".." in inside.parts or match is None:
        raise InvalidInput(
            f"{path}: unexpected member {member.name!r} in the archive; it was not unpacked, do not use it"
        )
    if member.size > MAX_RECORD_BYTES:
        raise InvalidInput(
            f"{path}: member {member.name!r} has {member.size:,} bytes, at most {MAX_RECORD_BYTES:,} expected"
        )
    return int(match.group(1))


def _number(word: str) -> float:
    """A float in plain form or with Mathematica's exponent, 2.1997*^-6."""
    return float(word.replace("*^", "e"))
