"""Small proteins and alanine dipeptide from PDB files: elements and coordinates of their atoms."""

from pathlib import Path

import numpy as np

from molkit.data.registry import data_path
from molkit.errors import InvalidInput
from molkit.molecule import ATOMIC_NUMBER, Molecule

FILES = {
    "chignolin": "pdb/1uao_model1.pdb",
    "cln025": "pdb/cln025_md_frame.pdb",
    "trp_cage": "pdb/1l2y_model1.pdb",
    "alanine_dipeptide": "pdb/alanine_dipeptide.pdb",
}


def pdb_path(name: str, *, root: Path | None = None) -> Path:
    """The verified file of one of the four structures."""
    if name not in FILES:
        raise InvalidInput(f"unknown structure {name!r}: expected one of {', '.join(FILES)}")
    return data_path(FILES[name], root=root)


def load_pdb(name: str, *, charge: int = 0, root: Path | None = None) -> Molecule:
    """One of the four structures, hydrogens included, angstrom. A PDB file states no charge: the caller does."""
    return read_pdb(pdb_path(name, root=root), name=name, charge=charge)


def read_pdb(path: Path, *, name: str = "", charge: int = 0) -> Molecule:
    """Atoms of the first model of a PDB file (columns 31-54 coordinates, 77-78 element).

    Of alternate locations (column 17) each residue keeps the one of highest occupancy, the first where several are.
    Raises InvalidInput, with the line, when a coordinate or element cannot be read or when there is no atom.
    """
    rows = _atom_rows(path)
    chosen = _locations(rows)
    numbers, positions = [], []
    for row, line in rows:
        if line[16:17].strip() and line[16] != chosen[line[21:27]]:
            continue
        symbol = line[76:78].strip().capitalize()
        try:
            positions.append([float(line[start : start + 8]) for start in (30, 38, 46)])
            numbers.append(ATOMIC_NUMBER[symbol])
        except (ValueError, KeyError) as error:
            raise InvalidInput(f"{path}, line {row}: expected coordinates and an element, got {line!r}") from error
    if not numbers:
        raise InvalidInput(f"{path}: no ATOM or HETATM line found")
    return Molecule(np.array(numbers), np.array(positions), charge=charge, name=name)


def _atom_rows(path: Path) -> list[tuple[int, str]]:
    """Number (from 1) and text of the atom lines of the first model."""
    found = []
    for row, line in enumerate(path.read_text(encoding="ascii", errors="replace").splitlines(), start=1):
        if line.startswith("ENDMDL"):
            break
        if line.startswith(("ATOM  ", "HETATM")):
            found.append((row, line))
    return found


def _locations(rows: list[tuple[int, str]]) -> dict[str, str]:
    """Chain and residue -> the label of its location with the highest occupancy."""
    best: dict[str, tuple[float, str]] = {}
    for row, line in rows:
        residue, label = line[21:27], line[16:17].strip()
        if not label:
            continue
        try:
            occupancy = float(line[54:60].strip() or 1.0)
        except ValueError:
            raise InvalidInput(
                f"atom line {row}: expected an occupancy in columns 55-60, got {line[54:60]!r}"
            ) from None
        if residue not in best or occupancy > best[residue][0]:
            best[residue] = (occupancy, label)
    return {residue: label for residue, (_, label) in best.items()}
