"""The SDF format (MDL molecule records separated by $$$$), through RDKit."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rdkit import Chem, rdBase

from molkit.chem.rdkit_tools import molecule_from_rdkit, rdkit_atoms
from molkit.chem.text_files import Frame, line_error, read_lines
from molkit.errors import InvalidInput
from molkit.molecule import Molecule


def sdf_records(path: Path) -> Iterator[Frame]:
    """Every record of the file, or the error in its place."""
    lines = read_lines(path)
    start = 0
    while start < len(lines) and any(line.strip() for line in lines[start:]):
        end = next((row for row in range(start, len(lines)) if lines[row].startswith("$$$$")), len(lines))
        yield _sdf_molecule(path, start, lines[start:end])
        start = end + 1


def _sdf_molecule(path: Path, start: int, block: list[str]) -> Frame:
    supplier = Chem.SDMolSupplier()
    with rdBase.BlockLogs():
        supplier.SetData("\n".join(block) + "\n$$$$\n", sanitize=False, removeHs=False, strictParsing=True)
        mol = supplier[0] if len(supplier) else None
    if mol is None or mol.GetNumAtoms() == 0:
        counts = block[3].strip() if len(block) > 3 else " ".join(" ".join(block).split())
        return line_error(path, start, "an SDF record with atoms (counts in its fourth line)", counts, "")
    if len(block) > 1 and block[1][20:22] == "2D":
        return line_error(path, start + 1, "a record with 3D coordinates", "2D", "embed the molecule first")
    if any(atom.GetAtomicNum() == 0 for atom in mol.GetAtoms()):
        return line_error(path, start, "atoms of known elements", "a dummy or query atom", "")
    try:
        return replace(molecule_from_rdkit(mol), properties=_numeric_fields(mol))
    except InvalidInput as error:
        return InvalidInput(f"{path}, line {start + 1}: {error}")


def _numeric_fields(mol: Chem.Mol) -> dict[str, float]:
    """Data fields that are numbers; text fields are not kept."""
    fields = {}
    for name in mol.GetPropNames():
        try:
            fields[name] = float(mol.GetProp(name))
        except ValueError:
            continue
    return fields


def sdf_record(molecule: Molecule, mol: Chem.Mol | None, reason: str) -> str:
    """The text of one record; without perceived bonds (mol is None) its field `bond_perception` says why."""
    record = Chem.Mol(mol) if mol is not None else rdkit_atoms(molecule).GetMol()
    record.SetProp("_Name", " ".join(molecule.name.split()))
    for name, value in molecule.properties.items():
        record.SetProp(name, repr(float(value)))
    if mol is None:
        record.SetProp("bond_perception", f"failed: {reason}")
    return Chem.SDWriter.GetText(record, kekulize=True)
