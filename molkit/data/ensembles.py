"""Conformer ensembles of many molecules: what is stored of one, the packed file, and the sets by name.

A file holds, for each molecule, `smiles`, `mol_names`, `split` (0 train, 1 valid, 2 test), `mol_num_atoms`,
`mol_atomic_numbers`, `formal_charges`, `mol_num_bonds`, `bonds` (atom, atom, order; Kekule form), `num_conformers`, and
the counts of how it was made (`counts` [M, K] with the names `count_names`); for each conformer `energies_kcal` above
the lowest of its molecule, and positions as bytes of centred int16 at 2.5e-4 angstrom (see molkit.data.packed).

Which molecules reference ensembles are made of: QM9-size and drug-size, training and test, in a fair order.

The order follows from a hash of each molecule's place in its list, so that any first part of it is a fair sample; names
hold that place (`qm9_test_000273`: row 273 of the test split as load_qm9 gives it).

QM9-size: molecules of that split of QM9 with a rotatable bond (two for validation and test), stereo as in their QM9
geometry; training and validation molecules that share a test molecule's graph are left out. Drug-size: the published
list of GEOM-Drugs test molecules, SMILES only, split by skeleton as all drug-size data here are
(molkit.data.drug_size). That list holds 96 molecules of the test split; those of its validation split, which trains
nothing here, follow them.
"""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from molkit.chem.bond_graph import mol_from_bonds
from molkit.chem.rdkit_conformers import with_stereo_of
from molkit.chem.rdkit_tools import (
    mol_from_smiles,
    perceive_bonds,
    plain_smiles,
    rotatable_bonds,
    skeleton_smiles,
    stereo_smiles,
)
from molkit.chem.text_files import read_text, shown
from molkit.data.drug_size import load_conformer_ensembles, load_entries, split_of_key
from molkit.data.geom_drugs import load_geom_test
from molkit.data.packed import pack, unpack, write_arrays
from molkit.data.qm9 import load_qm9
from molkit.data.registry import data_root, load_arrays, read_npz
from molkit.errors import DataNotFound, InvalidInput
from molkit.molecule import Molecule, PackedMolecules
from molkit.units import BOLTZMANN_EV, EV_TO_KCAL, HARTREE_TO_KCAL

SetName = Literal["conformers_dft", "ensembles_qm9", "ensembles_drugs", "trajectories_c7h10o2"]
Split = Literal["train", "valid", "test", "all"]
SPLITS = ("train", "valid", "test")
KELVIN = 298.15
DFT_METHOD = "wb97x_d"
WHAT = {  # a sentence for every page that shows the set
    "conformers_dft": "708 drug-like molecules, about ten DFT-optimised conformers each, energies by wB97X-D",
    "ensembles_qm9": "QM9-size molecules, ensembles made here with RDKit starts and GFN2-xTB minima; not GEOM-QM9",
    "ensembles_drugs": "drug-size molecules, ensembles made here with RDKit starts and GFN2-xTB minima; not GEOM-Drugs",
    "trajectories_c7h10o2": "isomers of C7H10O2 from QM9, Langevin frames at 500 K by GFN2-xTB made here; not ISO17",
}


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Conformers of one molecule; atoms in the order of the arrays, which need not be that of the SMILES."""

    name: str
    smiles: str
    atomic_numbers: np.ndarray  # [A] int64
    formal_charges: np.ndarray  # [A] int64
    bonds: np.ndarray  # [K, 3] int64: atom, atom, order (Kekule form)
    positions: np.ndarray  # [C, A, 3] float64, angstrom
    energies: np.ndarray  # [C] float64, kcal/mol above the lowest; NaN where not known
    split: str = "test"
    counts: Mapping[str, int] = field(default_factory=dict)  # how it was made

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def num_atoms(self) -> int:
        """Number of atoms A."""
        return len(self.atomic_numbers)

    @property
    def weights(self) -> np.ndarray:
        """Boltzmann weights [C] at 298.15 K by the energies; NaN where one is not known."""
        return boltzmann_weights(self.energies)


def boltzmann_weights(energies: np.ndarray, *, kelvin: float = KELVIN) -> np.ndarray:
    """Shares [C] of states with energies [C] in kcal/mol, one state each."""
    factors = np.exp(-(energies - energies.min()) / (BOLTZMANN_EV * EV_TO_KCAL * kelvin))
    return factors / factors.sum()


def ensemble_mol(ensemble: Ensemble) -> Any:
    """The RDKit molecule, atoms in the order of the positions, with all conformers and the handedness of the first.

    Raises InvalidInput where RDKit refuses the bonds.
    """
    mol = mol_from_bonds(ensemble.atomic_numbers, ensemble.bonds, ensemble.formal_charges)
    return with_stereo_of(mol, ensemble.positions)


def load_ensembles(
    name: SetName, *, split: Split = "all", limit: int | None = None, root: Path | None = None
) -> list[Ensemble]:
    """Ensembles of one split of a set, in the order of its file, or `limit` of them spread evenly.

    Raises InvalidInput for an unknown name or split, DataNotFound where the set is not there.
    """
    if name not in get_args(SetName) or split not in (*SPLITS, "all"):
        raise InvalidInput(
            f"unknown set {name!r} or split {split!r}: "
            f"expected {', '.join(get_args(SetName))} and train, valid, test or all"
        )
    if limit is not None and limit < 1:
        raise InvalidInput(f"a limit of {limit} molecules makes no data set: give at least 1")
    if name != "conformers_dft" and not (data_root(root) / f"{name}.npz").is_file():
        raise DataNotFound(f"{data_root(root) / name}.npz is missing: `molkit ensembles` makes such sets")
    found = _dft(root) if name == "conformers_dft" else from_arrays(read_npz(f"{name}.npz", root=root), label=name)
    chosen = [one for one in found if split in ("all", one.split)]
    if limit is not None and limit < len(chosen):
        chosen = [chosen[row * len(chosen) // limit] for row in range(limit)]
    return chosen


def _dft(root: Path | None) -> list[Ensemble]:
    """The DFT conformers as ensembles, split by molecule as the drug-size set is."""
    parts = {entry.name: entry.split for entry in load_entries(root=root) if entry.source == "conformers"}
    ensembles = []
    for one in load_conformer_ensembles(root=root):
        energies = one.energies_by(DFT_METHOD) * HARTREE_TO_KCAL
        lowest = np.nanmin(energies) if np.isfinite(energies).any() else np.nan
        ensembles.append(
            Ensemble(
                one.name,
                one.smiles,
                one.atomic_numbers,
                one.formal_charges,
                one.bonds,
                one.positions,
                energies - lowest,
                parts[one.name],
            )
        )
    return ensembles


def write_ensembles(path: Path, ensembles: Sequence[Ensemble]) -> None:
    """Write a packed set; the same ensembles always give the same bytes. Raises InvalidInput for none."""
    write_arrays(path, to_arrays(ensembles))


def read_ensembles(path: Path) -> list[Ensemble]:
    """The ensembles of a packed file; DataNotFound if it is absent, InvalidInput if it is not one."""
    return from_arrays(load_arrays(Path(path)), label=str(path))


def to_arrays(ensembles: Sequence[Ensemble]) -> dict[str, np.ndarray]:
    """The arrays of a packed file."""
    if not ensembles:
        raise InvalidInput("a set of ensembles needs at least one molecule, got none")
    counts = np.array([len(one) for one in ensembles])
    sizes = np.array([one.num_atoms for one in ensembles])
    names = sorted({name for one in ensembles for name in one.counts})
    conformers = PackedMolecules(
        np.repeat(sizes, counts),
        np.concatenate([np.tile(one.atomic_numbers, len(one)) for one in ensembles]),
        np.concatenate([one.positions.reshape(-1, 3) for one in ensembles]),
    )
    packed = pack(conformers)
    return {
        "mol_names": np.array([one.name for one in ensembles]),
        "smiles": np.array([one.smiles for one in ensembles]),
        "split": np.array([SPLITS.index(one.split) for one in ensembles], dtype=np.uint8),
        "mol_num_atoms": sizes.astype(np.uint16),
        "mol_atomic_numbers": np.concatenate([one.atomic_numbers for one in ensembles]).astype(np.uint8),
        "formal_charges": np.concatenate([one.formal_charges for one in ensembles]).astype(np.int8),
        "mol_num_bonds": np.array([len(one.bonds) for one in ensembles], dtype=np.uint16),
        "bonds": np.concatenate([one.bonds for one in ensembles]).astype(np.uint16),
        "num_conformers": counts.astype(np.uint16),
        "energies_kcal": np.concatenate([one.energies for one in ensembles]).astype(np.float32),
        "count_names": np.array(names, dtype=np.str_),
        "counts": np.array([[one.counts.get(name, -1) for name in names] for one in ensembles], dtype=np.int32),
        "position_bytes": packed["position_bytes"],
        "scale_angstrom": packed["scale_angstrom"],
    }


def from_arrays(arrays: Mapping[str, np.ndarray], *, label: str) -> list[Ensemble]:
    """The ensembles in arrays of a packed file. Raises InvalidInput, naming `label`, where they do not fit together."""
    try:
        sizes, bonds = arrays["mol_num_atoms"].astype(np.int64), arrays["mol_num_bonds"].astype(np.int64)
        counts = arrays["num_conformers"].astype(np.int64)
        _require_lengths(arrays, sizes, bonds, counts)
        atoms = np.split(arrays["mol_atomic_numbers"].astype(np.int64), np.cumsum(sizes)[:-1])
        charges = np.split(arrays["formal_charges"].astype(np.int64), np.cumsum(sizes)[:-1])
        bond_lists = np.split(arrays["bonds"].astype(np.int64), np.cumsum(bonds)[:-1])
        energies = np.split(arrays["energies_kcal"].astype(np.float64), np.cumsum(counts)[:-1])
        packed = {
            "num_atoms": np.repeat(sizes, counts),
            "atomic_numbers": np.concatenate([np.tile(a, c) for a, c in zip(atoms, counts, strict=True)]),
            "position_bytes": arrays["position_bytes"],
            "scale_angstrom": arrays["scale_angstrom"],
        }
        flat = np.split(unpack(packed, label=label).positions, np.cumsum(sizes * counts)[:-1])
        names, table = arrays["count_names"].tolist(), arrays["counts"].tolist()
        return [
            Ensemble(
                str(arrays["mol_names"][row]),
                str(arrays["smiles"][row]),
                atoms[row],
                charges[row],
                bond_lists[row],
                flat[row].reshape(counts[row], sizes[row], 3),
                energies[row],
                SPLITS[int(arrays["split"][row])],
                {name: value for name, value in zip(names, table[row], strict=True) if value >= 0},
            )
            for row in range(len(sizes))
        ]
    except (KeyError, ValueError, IndexError) as error:
        raise InvalidInput(f"{label}: not a packed set of ensembles ({error})") from error


def _require_lengths(
    arrays: Mapping[str, np.ndarray], sizes: np.ndarray, bonds: np.ndarray, counts: np.ndarray
) -> None:
    """Raise ValueError for an array that has not as many rows as the file announces."""
    per_molecule = ("mol_names", "smiles", "split", "mol_num_bonds", "num_conformers", "counts")
    wanted = {name: len(sizes) for name in per_molecule} | {
        "mol_atomic_numbers": sizes.sum(),
        "formal_charges": sizes.sum(),
        "bonds": bonds.sum(),
        "energies_kcal": counts.sum(),
    }
    wrong = next((name for name, length in wanted.items() if len(arrays[name]) != length), None)
    if wrong is not None:
        raise ValueError(f"{wanted[wrong]} rows of {wrong!r} announced, got {len(arrays[wrong])}")
    if not len(sizes) or (counts < 1).any() or arrays["split"].max(initial=0) >= len(SPLITS):
        raise ValueError("every molecule needs a conformer and a split")


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
