"""The SDF format (MDL molecule records separated by $$$$), through RDKit; time grows with the size of the file."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from rdkit import Chem, rdBase

from molkit.chem.rdkit_tools import molecule_from_rdkit, rdkit_atoms
from molkit.chem.text_files import Frame, line_error, read_text, shown
from molkit.errors import InvalidInput
from molkit.molecule import ATOMIC_NUMBER, Molecule

END_OF_RECORD = re.compile(r"^\$\$\$\$.*\n?", re.MULTILINE)
FIELD_NAME = re.compile(r"^>.*<([^>]*)>", re.MULTILINE)
ATOM_ROW = re.compile(r"(?:\s*[-+]?[\d.]+(?:[eE][-+]?\d+)?){3}\s*[A-Za-z*]")
BOND_ROW = re.compile(r"[ \d]{3}[ \d]{3}[ \d]{3}(?:$|[ \d])")
STATED_CHARGE = ("charge", "total_charge", "net_charge", "total charge", "net charge", "pubchem_total_charge")
FLAT_ANGSTROM = 1e-4
LONGEST_HYDROGEN_BOND = 1.3  # angstrom, of C, N, O, F to H in any molecule; drawings have 1.5 or so


def sdf_records(path: Path, text: str | None = None, *, without_hydrogens: bool = False) -> Iterator[Frame]:
    """Every record of the file, or the error in its place.

    A record that leaves out hydrogens is an error unless asked for; its atoms are then taken as they are.
    """
    text = read_text(path) if text is None else text
    position, row = 0, 0
    while position < len(text):
        end = END_OF_RECORD.search(text, position)
        block = text[position : end.start()] if end else text[position:]
        if end is None and not block.strip():
            return
        yield _sdf_molecule(path, row, block, without_hydrogens)
        position = end.end() if end else len(text)
        row += block.count("\n") + 1


def _sdf_molecule(path: Path, start: int, block: str, without_hydrogens: bool) -> Frame:
    """The molecule of one record that begins at row `start`, or what is wrong with it."""
    lines = block.split("\n")
    with rdBase.BlockLogs():
        mol = Chem.MolFromMolBlock(block, sanitize=False, removeHs=False, strictParsing=True)
        if mol is None:
            mol = Chem.MolFromMolBlock(_mended(lines), sanitize=False, removeHs=False, strictParsing=True)
    if mol is None or mol.GetNumAtoms() == 0:
        return _unreadable(path, start, lines)
    if len(lines) > 1 and lines[1][20:22] == "2D":
        return line_error(path, start + 1, "a record with 3D coordinates", "2D", "embed the molecule first")
    try:
        molecule = replace(_molecule(mol, lines), properties=_numeric_fields(lines))
        molecule = _with_stated_charge(molecule)
        _refuse_drawing(mol, molecule, lines, without_hydrogens)
    except InvalidInput as error:
        return InvalidInput(f"{shown(path)}, line {start + 1}: {error}")
    return molecule


def _molecule(mol: Chem.Mol, lines: list[str]) -> Molecule:
    """Atoms, coordinates, charge, isotopes and spin; elements from the text where every atom is a plain one.

    Asking RDKit for one atom after the other takes as long as all the rest.
    """
    rows = lines[4 : 4 + mol.GetNumAtoms()]
    plain = all(not row[34:39].strip(" 0") for row in rows) and not any("ISO" in row or "RAD" in row for row in lines)
    numbers = [ATOMIC_NUMBER.get(row[31:34].strip(), 0) for row in rows] if plain and "V2000" in lines[3] else [0]
    if 0 in numbers or len(numbers) != mol.GetNumAtoms():
        if any(atom.GetAtomicNum() == 0 for atom in mol.GetAtoms()):
            raise InvalidInput("expected atoms of known elements, got a dummy or query atom")
        return molecule_from_rdkit(mol)
    name = " ".join(lines[0].split())
    return Molecule(numbers, mol.GetConformer().GetPositions(), charge=Chem.GetFormalCharge(mol), name=name)


def _mended(lines: list[str]) -> str:
    """The record without blank lines between its bonds and M  END, which some programs write."""
    end = next((row for row, line in enumerate(lines) if line.startswith("M  END")), 0)
    return "\n".join(lines[:4] + [line for line in lines[4:end] if line.strip()] + lines[end:])


def _unreadable(path: Path, start: int, lines: list[str]) -> InvalidInput:
    """The error for a record that RDKit cannot read: the first line that is not as its counts announce."""
    counts = re.match(r"([ \d]{3})([ \d]{3}).*V2000", lines[3]) if len(lines) > 3 else None
    try:
        num_atoms, num_bonds = (int(counts[1]), int(counts[2])) if counts else (0, 0)
    except ValueError:
        num_atoms, num_bonds = 0, 0
    if num_atoms < 1:
        came = lines[3].strip() if len(lines) > 3 else " ".join(" ".join(lines).split())
        return line_error(path, start, "an SDF record with atoms (counts in its fourth line)", came, "")
    for row in range(4, 4 + num_atoms + num_bonds):
        line = lines[row] if row < len(lines) else ""
        is_atom = row < 4 + num_atoms
        if not (ATOM_ROW if is_atom else BOND_ROW).match(line[:80]):
            hint = f"the counts line announces {num_atoms} atoms and {num_bonds} bonds"
            return line_error(path, start + row, "the row of an atom" if is_atom else "the row of a bond", line, hint)
    if not any(line.startswith("M  END") for line in lines):
        return line_error(path, start, "a record with a line 'M  END'", lines[3].strip(), "it may have been cut off")
    return line_error(
        path, start, "a whole SDF record with atoms", lines[3].strip(), "atoms, bonds or properties clash"
    )


def _refuse_drawing(mol: Chem.Mol, molecule: Molecule, lines: list[str], without_hydrogens: bool) -> None:
    """Raise InvalidInput for hydrogens that are left out, and for a flat drawing that does not call itself one."""
    mol.UpdatePropertyCache(False)
    missing = mol.GetNumAtoms(onlyExplicit=False) - mol.GetNumAtoms()
    flat = np.ptp(molecule.positions, axis=0).min() < FLAT_ANGSTROM and molecule.num_atoms > 2
    if flat and ((missing and lines[1][20:22] != "3D") or _is_impossible(mol, molecule)):
        raise InvalidInput("a flat drawing; expected a record with 3D coordinates, embed the molecule first")
    if missing and not without_hydrogens:
        raise InvalidInput(
            f"{missing} hydrogens are left out of the record; expected all atoms, add them with their coordinates"
        )


def _is_impossible(mol: Chem.Mol, molecule: Molecule) -> bool:
    """Whether a flat molecule has an atom with four neighbours, or bonds to hydrogen as long as drawings have them."""
    if any(atom.GetDegree() > 3 for atom in mol.GetAtoms()):
        return True
    for bond in mol.GetBonds():
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        elements = sorted(molecule.atomic_numbers[list(ends)].tolist())
        length = np.linalg.norm(np.subtract(*molecule.positions[list(ends)]))
        if elements[0] == 1 and elements[1] in (6, 7, 8, 9) and length > LONGEST_HYDROGEN_BOND:
            return True
    return False


def _numeric_fields(lines: list[str]) -> dict[str, float]:
    """Data fields that are one number; text fields are not kept."""
    fields = {}
    for row, line in enumerate(lines[:-1]):
        if line.startswith(">") and (found := FIELD_NAME.match(line)):
            try:
                fields[found[1]] = float(lines[row + 1])
            except ValueError:
                continue
    return fields


def _with_stated_charge(molecule: Molecule) -> Molecule:
    """The molecule with the charge that a data field states. Raises InvalidInput where the record says another one."""
    stated = [value for name, value in molecule.properties.items() if name.lower() in STATED_CHARGE]
    if not stated:
        return molecule
    charges = {*stated, *([molecule.charge] if molecule.charge else [])}
    if len(charges) > 1 or not float(stated[0]).is_integer() or abs(stated[0]) > 999:
        raise InvalidInput(f"charges that do not agree, or are not whole: {', '.join(f'{one:g}' for one in charges)}")
    return replace(molecule, charge=int(stated[0]))


def sdf_record(
    molecule: Molecule, mol: Chem.Mol | None, reason: str, words: Mapping[str, str] = MappingProxyType({})
) -> str:
    """The text of one record; without perceived bonds (mol is None) its field `bond_perception` says why.

    Properties and `words` are its data fields. Without bonds there are no formal charges, but a field `charge`.
    """
    record = Chem.Mol(mol) if mol is not None else rdkit_atoms(molecule).GetMol()
    record.SetProp("_Name", " ".join(molecule.name.split()))
    for name, value in molecule.properties.items():
        record.SetProp(name, repr(float(value)))
    for name, text in words.items():
        record.SetProp(name, text)
    if mol is None:
        record.SetProp("bond_perception", f"failed: {reason}")
        if molecule.charge:
            record.SetProp("charge", str(molecule.charge))
    return Chem.SDWriter.GetText(record, kekulize=True)
