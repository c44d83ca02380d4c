"""Which molecules reference ensembles are made of: QM9-size and drug-size, training and test, in a fair order.

The order follows from a hash of each molecule's place in its list, so that any first part of it is a fair sample; names
hold that place (`qm9_test_000273`: row 273 of the test split as load_qm9 gives it).

QM9-size: molecules of that split of QM9 with a rotatable bond (two for validation and test), stereo as in their QM9
geometry; training and validation molecules that share a test molecule's graph are left out. Drug-size: the published list of GEOM-Drugs
test molecules, SMILES only, split by skeleton as all drug-size data here are (molkit.data.drug_size). That list holds 96
molecules of the test split; those of its validation split, which trains nothing here, follow them.
"""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from molkit.chem.rdkit_tools import (
    mol_from_smiles,
    perceive_bonds,
    plain_smiles,
    rotatable_bonds,
    skeleton_smiles,
    stereo_smiles,
)
from molkit.chem.text_files import read_text, shown
from molkit.data.drug_size import split_of_key
from molkit.data.geom_drugs import load_geom_test
from molkit.data.qm9 import load_qm9
from molkit.errors import InvalidInput
from molkit.molecule import Molecule

Choice = Literal["qm9-train", "qm9-valid", "qm9-test", "drugs-train", "drugs-test"]
LEAST_ROTATABLE = {"train": 1, "valid": 2, "test": 2}
ISOMERS = {6: 7, 1: 10, 8: 2}  # C7H10O2, as in ISO17
SMILES_LINE = re.compile(r"([^\s,;]+)(?:[\s,;]+(.*))?", re.DOTALL)
NAME_COLUMNS = ("name", "title", "id", "label", "compound", "molecule", "mol_id", "compound_id")
NUM_TEST = 200  # QM9-size test molecules whose graphs no training or validation molecule may have


@dataclass(frozen=True)
class NamedSmiles:
    """A molecule to make an ensemble of."""

    name: str
    smiles: str


def choose_molecules(choice: Choice, count: int) -> list[NamedSmiles]:
    """The first `count` molecules of a choice, or all where there are fewer. Raises InvalidInput for an unknown one."""
    if choice not in get_args(Choice):
        raise InvalidInput(f"unknown choice {choice!r}: expected {', '.join(get_args(Choice))} or a file of SMILES")
    size, _, split = choice.partition("-")
    molecules = _drugs(split) if size == "drugs" else _qm9(split)
    return [found for _, found in zip(range(count), molecules, strict=False)]


def fair_key(name: str) -> str:
    """What the order of molecules follows."""
    return hashlib.sha256(f"ensembles/{name}".encode()).hexdigest()


def _qm9(split: str) -> Iterator[NamedSmiles]:
    """Molecules of a split of QM9, read from their geometries one by one."""
    pack = load_qm9(split=split)
    order = sorted(range(len(pack)), key=lambda row: fair_key(str(row)))
    tested = choose_molecules("qm9-test", NUM_TEST) if split != "test" else []
    barred = {plain_smiles(mol_from_smiles(one.smiles)) for one in tested}
    for row in order:
        molecule = pack[row]
        mol = perceive_bonds(molecule).mol
        if mol is None or rotatable_bonds(mol) < LEAST_ROTATABLE[split] or plain_smiles(mol) in barred:
            continue
        yield NamedSmiles(f"qm9_{split}_{row:06d}", stereo_smiles(mol))


def _drugs(split: str) -> Iterator[NamedSmiles]:
    named = [(f"geom_drugs_test_{row:04d}", one.smiles) for row, one in enumerate(load_geom_test("drugs"))]
    of_split: dict[str, list[NamedSmiles]] = {"test": [], "valid": [], "train": []}
    for name, smiles in sorted(named, key=lambda one: fair_key(one[0])):
        try:
            mol = mol_from_smiles(smiles)
        except InvalidInput:
            continue  # one or two of the published list are no molecules to this RDKit; the data card says so
        of_split[split_of_key(skeleton_smiles(mol))].append(NamedSmiles(name, smiles))
    yield from of_split["test"] + of_split["valid"] if split == "test" else of_split[split]


def read_smiles_file(path: Path, *, distinct: bool = True) -> list[NamedSmiles]:
    """One SMILES a line, then a name if wanted; empty lines and those that begin with # are passed over.

    What ends the SMILES is a blank, a tab, a comma or a semicolon. A first line with a column `smiles` names the
    columns. Gzipped files and `-` (standard input) are read as well. Raises InvalidInput for a file that cannot be
    read, holds no molecule, or, where they must be distinct, names two alike.
    """
    text = read_text(Path(path), allow_empty=True)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    lines = [(number, line.strip()) for number, line in lines if not line.startswith("#")]
    found = _of_table(lines) if lines and _smiles_column(lines[0][1]) is not None else _of_list(lines)
    if not found:
        raise InvalidInput(f"{shown(Path(path))}: expected a SMILES on each line, got none")
    name, times = Counter(one.name for one in found).most_common(1)[0]
    if distinct and times > 1:
        raise InvalidInput(f"{shown(Path(path))}: two molecules are named {name!r}; give each its own name")
    return found


def _of_list(lines: Sequence[tuple[int, str]]) -> list[NamedSmiles]:
    """Lines without a head: the SMILES, then the name."""
    found = []
    for number, line in lines:
        parts = SMILES_LINE.fullmatch(line)
        smiles, rest = parts.groups(default="") if parts else (line, "")  # a line without one is refused as it stands
        if rest.startswith("|"):  # an extension that we cannot follow stays with its SMILES, and is refused with it
            smiles, rest = line, ""
        name = re.split(r"[\t;,]", rest)[0] if re.search(r"[\t;,]", line) else rest
        found.append(NamedSmiles(name.strip(' \t"') or f"line_{number}", smiles.strip('"')))
    return found


def _of_table(lines: Sequence[tuple[int, str]]) -> list[NamedSmiles]:
    """Lines under a head that says which column holds what."""
    _, head = lines[0]
    column, fields = _smiles_column(head), _fields(head, head)
    names = [one.strip().lower() for one in fields]
    label = next((names.index(one) for one in NAME_COLUMNS if one in names and names.index(one) != column), None)
    found = []
    for number, line in lines[1:]:
        row = _fields(line, head)
        smiles = row[column].strip() if len(row) > column else ""
        name = row[label].strip() if label is not None and len(row) > label else ""
        found.append(NamedSmiles(name or f"line_{number}", smiles))
    return found


def _smiles_column(head: str) -> int | None:
    """Which column a first line says is of SMILES, or None where it is no head."""
    fields = [one.strip().lower() for one in _fields(head, head)]
    return next((row for row, one in enumerate(fields) if one == "smi" or "smiles" in one), None)


def _fields(line: str, head: str) -> list[str]:
    """The fields of a line, separated as the head is."""
    separator = next((one for one in ",;\t" if one in head), None)
    try:
        return line.split() if separator is None else next(csv.reader([line], delimiter=separator), [])
    except csv.Error as error:
        raise InvalidInput(f"expected fields separated by {separator!r}, got {line[:40]!r} ({error})") from None


def with_file_names(molecules: Sequence[NamedSmiles]) -> list[NamedSmiles]:
    """The molecules by names that can be names of files: other characters give way to _, and to a mark of the name."""
    found = []
    for one in molecules:
        safe = re.sub(r"[^A-Za-z0-9_.+-]", "_", one.name)[:100].lstrip("_.+-") or "molecule"
        mark = hashlib.sha256(one.name.encode()).hexdigest()[:6]
        found.append(one if safe == one.name else NamedSmiles(f"{safe}_{mark}", one.smiles))
    return found


def choose_isomers(count: int) -> list[tuple[str, str, Molecule]]:
    """Name, SMILES and QM9 geometry of the first `count` isomers of C7H10O2 in the fair order, whatever their split.

    Those whose bonds are not perceived are passed over. Raises InvalidInput for a count below 1.
    """
    if count < 1:
        raise InvalidInput(f"the number of isomers must be at least 1, got {count}")
    pack = load_qm9(split="all")
    owner = np.repeat(np.arange(len(pack)), pack.num_atoms)
    right = pack.num_atoms == sum(ISOMERS.values())
    for number, wanted in ISOMERS.items():
        right &= np.bincount(owner[pack.atomic_numbers == number], minlength=len(pack)) == wanted
    chosen = []
    for row in sorted(np.flatnonzero(right).tolist(), key=lambda row: fair_key(pack.names[row])):
        molecule = pack[row]
        mol = perceive_bonds(molecule).mol
        if mol is not None and len(chosen) < count:
            chosen.append((pack.names[row], stereo_smiles(mol), molecule))
        if len(chosen) == count:
            break
    return chosen
