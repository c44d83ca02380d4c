"""Molecules in XYZ and SDF files, gzipped or not, in and out.

Reading forgives blank lines between frames, any newline and encoding, atomic numbers instead of symbols, Fortran
exponents. Anything else that is wrong is an InvalidInput with the path, the line, what was expected and what came.
Writing replaces the file in one step, so that nobody ever sees half of it.

Molecules of an ASE database (SQLite), the format in which ISO17 is published. Nothing in it is unpickled.
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ase.db import connect
from scipy.spatial import cKDTree

from molkit.chem.rdkit_tools import perceive_bonds
from molkit.chem.sdf import sdf_record, sdf_records
from molkit.chem.text_files import STANDARD, Frame, decoded, kind_of, read_bytes, shown, write_atomically
from molkit.chem.xyz import xyz_frame, xyz_frames
from molkit.errors import DataNotFound, InvalidInput
from molkit.molecule import Molecule

OVERLAP_ANGSTROM = 0.2  # no two nuclei of a molecule are ever this close


@dataclass(frozen=True)
class Problem:
    """A molecule of a file that could not be used."""

    index: int  # place in the file, counted from 0
    reason: str  # one line with path and line number


@dataclass(frozen=True)
class Reading:
    """What a file held: the usable molecules with their places in it, and the others with the reason."""

    molecules: tuple[Molecule, ...]
    indices: tuple[int, ...]  # place of each molecule in the file, counted from 0
    problems: tuple[Problem, ...]


def read_xyz(path: Path, *, check_overlap: bool = False) -> list[Molecule]:
    """All frames of an XYZ file, coordinates in angstrom; the comment line becomes the name.

    Charge, spin and extended XYZ in the comment are understood (`molkit.chem.xyz`). Raises InvalidInput at the
    first thing that is wrong, with `check_overlap` also for two atoms closer than 0.2 angstrom.
    """
    return _all_or_error(path, xyz_frames(Path(path)), check_overlap)


def read_sdf(path: Path, *, check_overlap: bool = False, without_hydrogens: bool = False) -> list[Molecule]:
    """All records of an SDF or MOL file, with the atoms that are written there (no hydrogens are added).

    Charge and unpaired electrons come from the record's formal charges, or a data field `charge`; numeric data fields
    become properties. Raises InvalidInput as `read_xyz`, for flat (2D) records, and for records that leave out
    hydrogens unless asked for.
    """
    records = sdf_records(Path(path), without_hydrogens=without_hydrogens)
    return _all_or_error(path, records, check_overlap)


def read_molecules(path: Path, *, check_overlap: bool = True, without_hydrogens: bool = False) -> Reading:
    """The molecules of an .xyz, .sdf or .mol file, gzipped or not, the good ones and the problems apart.

    `-` is standard input, whose format is told from what comes. An SDF record that leaves out hydrogens is a problem
    unless asked for. Raises InvalidInput when the file cannot be opened, has another suffix, or holds nothing at all.
    """
    path = Path(path)
    kind = kind_of(path)
    if path == STANDARD or (not kind and path.exists() and not path.is_file()):  # a pipe has no ending either
        return molecules_in(read_bytes(path), path, check_overlap=check_overlap, without_hydrogens=without_hydrogens)
    if kind not in (".xyz", ".sdf", ".mol"):
        raise InvalidInput(f"{path}: expected a file ending in .xyz, .sdf or .mol, got {kind or 'no ending'!r}")
    options = {"check_overlap": check_overlap, "without_hydrogens": without_hydrogens}
    return molecules_in(read_bytes(path), path, kind=kind, **options)


def molecules_in(
    content: bytes, path: Path, *, kind: str = "", check_overlap: bool = True, without_hydrogens: bool = False
) -> Reading:
    """As `read_molecules` of a content that was read; the path is for messages. Without a kind the content tells it."""
    text = decoded(content, path)
    is_xyz = kind == ".xyz" if kind else re.match(r"\s*[+-]?\d+[ \t]*\n", text) is not None
    found = xyz_frames(path, text) if is_xyz else sdf_records(path, text, without_hydrogens=without_hydrogens)
    frames = [_checked(frame, index, path, check_overlap) for index, frame in enumerate(found)]
    return Reading(
        tuple(frame for frame in frames if isinstance(frame, Molecule)),
        tuple(index for index, frame in enumerate(frames) if isinstance(frame, Molecule)),
        tuple(Problem(index, str(frame)) for index, frame in enumerate(frames) if isinstance(frame, InvalidInput)),
    )


def write_xyz(path: Path, molecules: Molecule | Iterable[Molecule]) -> None:
    """Write one or many molecules as XYZ frames with ten decimals; the name, charge and spin go to the comment line.

    Raises InvalidInput when the file cannot be written; an existing file is then unchanged.
    """
    write_atomically(path, xyz_text(molecules))


def write_sdf(path: Path, molecules: Molecule | Iterable[Molecule]) -> list[Problem]:
    """Write molecules as SDF records with perceived bonds; properties become data fields.

    A molecule whose bonds are not perceived is written without bonds and with a data field `bond_perception` that
    says why; those are returned. Raises InvalidInput when the file cannot be written.
    """
    text, problems = sdf_text(molecules)
    write_atomically(path, text)
    return problems


def xyz_text(molecules: Molecule | Iterable[Molecule]) -> str:
    """What `write_xyz` writes."""
    molecules = [molecules] if isinstance(molecules, Molecule) else molecules
    return "".join(xyz_frame(molecule) for molecule in molecules)


def sdf_text(molecules: Molecule | Iterable[Molecule]) -> tuple[str, list[Problem]]:
    """What `write_sdf` writes and returns."""
    molecules = [molecules] if isinstance(molecules, Molecule) else list(molecules)
    records, problems = [], []
    for index, molecule in enumerate(molecules):
        perception = perceive_bonds(molecule)
        if not perception.perceived:
            problems.append(Problem(index, f"bonds not perceived: {perception.reason}"))
        records.append(sdf_record(molecule, perception.mol, perception.reason))
    return "".join(records), problems


def closest_overlap(molecule: Molecule, *, threshold: float = OVERLAP_ANGSTROM) -> tuple[int, int] | None:
    """The first pair of atoms (counted from 0) closer than the threshold in angstrom, or None."""
    pairs = cKDTree(molecule.positions).query_pairs(threshold)
    return min(pairs) if pairs else None


def _all_or_error(path: Path, frames: Iterator[Frame], check_overlap: bool) -> list[Molecule]:
    molecules = []
    for index, frame in enumerate(frames):
        checked = _checked(frame, index, path, check_overlap)
        if isinstance(checked, InvalidInput):
            raise checked
        molecules.append(checked)
    return molecules


def _checked(frame: Frame, index: int, path: Path, check_overlap: bool) -> Frame:
    """The frame, or an error if two of its atoms lie on top of each other."""
    pair = closest_overlap(frame) if check_overlap and isinstance(frame, Molecule) else None
    if pair is None:
        return frame
    label = f" ({frame.name})" if frame.name else ""
    return InvalidInput(
        f"{shown(path)}: atoms {pair[0] + 1} and {pair[1] + 1} of molecule {index + 1}{label} are closer than "
        f"{OVERLAP_ANGSTROM} angstrom; expected separate nuclei"
    )


def read_database(path: Path, *, energy_key: str = "total_energy", limit: int | None = None) -> Iterator[Molecule]:
    """Molecules in the order of the rows, the energy (in the file's unit) as property `energy` where there is one.

    Raises DataNotFound for no file, InvalidInput for one that is no such database.
    """
    path = Path(path)
    if not path.is_file():
        raise DataNotFound(f"no file at {path}")
    with open(path, "rb") as file:
        if file.read(15) != b"SQLite format 3":
            raise InvalidInput(f"{path}: expected an ASE database (SQLite), got another file")
    try:
        with connect(path, type="db") as database:
            for row in database.select(limit=limit):
                energy = row.key_value_pairs.get(energy_key)
                known = {} if energy is None else {"energy": float(energy)}
                yield Molecule(row.numbers, row.positions, name=f"{path.stem}_{row.id}", properties=known)
    except (sqlite3.DatabaseError, KeyError, ValueError, OSError) as error:
        raise InvalidInput(f"{path} is damaged or no ASE database: {error}") from error
