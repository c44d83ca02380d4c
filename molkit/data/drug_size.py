"""Ensembles of DFT-optimised conformers of 708 drug-like molecules, with their energies by ten methods.

Source: Folmsbee and Hutchison, Int. J. Quantum Chem. (2020), doi 10.1002/qua.26381.

The drug-size set at hand: DFT conformers, DrugBank and tripeptide geometries as one set, split by molecule.

It stands in for GEOM-Drugs where that cannot be fetched, and is not GEOM-Drugs: 1,789 entries instead of some 300,000
molecules, three levels of theory, conformers (about ten each) only for 708 of them.

Split: entries that join the same heavy atoms by the same bonds (whatever the bond orders, charges, hydrogens and
stereo) have one key; the SHA-256 of the key decides, see `split_of_key`. So no molecule is in two splits, across the
three sources too. The keys are stored, since reading them from the geometries needs RDKit.

Larger molecules than QM9's, for extrapolation and timing: DrugBank and tripeptides.
"""

import csv
import gzip
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from molkit.data.registry import data_path, read_npz
from molkit.errors import InvalidInput
from molkit.molecule import Molecule, PackedMolecules


@dataclass(frozen=True, eq=False)
class ConformerEnsemble:
    """Conformers of one molecule. Only differences inside one column of `energies` mean something."""

    name: str
    smiles: str
    atomic_numbers: np.ndarray  # [A] int64
    formal_charges: np.ndarray  # [A] int64
    bonds: np.ndarray  # [K, 3] int64: atom, atom, order (Kekule form), atoms from 0
    positions: np.ndarray  # [C, A, 3] float64, angstrom
    energies: np.ndarray  # [C, 10] float64, hartree, NaN where not computed
    energy_methods: tuple[str, ...]  # names of the ten columns
    conformer_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.positions)

    def molecule(self, conformer: int) -> Molecule:
        """One conformer as a molecule, charged by the sum of its formal charges."""
        charge = int(self.formal_charges.sum())
        name = f"{self.name}_{self.conformer_names[conformer]}"
        return Molecule(self.atomic_numbers, self.positions[conformer], charge=charge, name=name)

    def energies_by(self, method: str) -> np.ndarray:
        """Energies [C] by one method, hartree."""
        if method not in self.energy_methods:
            raise InvalidInput(f"no energies by {method!r}: expected one of {', '.join(self.energy_methods)}")
        return self.energies[:, self.energy_methods.index(method)]


def load_conformer_ensembles(*, limit: int | None = None, root: Path | None = None) -> list[ConformerEnsemble]:
    """The ensembles in the order of the file, or only its first `limit`."""
    arrays = read_npz("conformers_dft.npz", root=root)
    num_atoms = arrays["mol_n_atoms"].astype(np.int64)
    numbers = np.split(arrays["numbers"].astype(np.int64), np.cumsum(num_atoms)[:-1])
    charges = np.split(arrays["formal_charges"].astype(np.int64), np.cumsum(num_atoms)[:-1])
    bonds = np.split(arrays["bonds"].astype(np.int64), np.cumsum(arrays["mol_n_bonds"], dtype=np.int64)[:-1])
    owner = arrays["conf_mol"]
    ends = np.cumsum(num_atoms[owner])
    positions, names = arrays["positions"].astype(np.float64), arrays["conf_name"].tolist()
    ensembles = []
    for row in range(len(num_atoms))[:limit]:
        conformers = np.flatnonzero(owner == row)
        atoms = np.concatenate([np.arange(ends[c] - num_atoms[row], ends[c]) for c in conformers])
        ensembles.append(
            ConformerEnsemble(
                name=str(arrays["mol_name"][row]),
                smiles=str(arrays["mol_smiles"][row]),
                atomic_numbers=numbers[row],
                formal_charges=charges[row],
                bonds=bonds[row],
                positions=positions[atoms].reshape(len(conformers), num_atoms[row], 3),
                energies=arrays["energies_hartree"][conformers],
                energy_methods=tuple(arrays["energy_methods"].tolist()),
                conformer_names=tuple(names[c] for c in conformers),
            )
        )
    return ensembles


def load_druglike(*, root: Path | None = None) -> PackedMolecules:
    """837 DrugBank molecules of H, C, N, O with 8 to 140 atoms, one geometry each."""
    return _packed(read_npz("druglike_tripeptides.npz", root=root), "druglike_")


def load_tripeptides(*, root: Path | None = None) -> PackedMolecules:
    """244 tripeptides of H, C, N, O with 30 to 70 atoms, one geometry each."""
    return _packed(read_npz("druglike_tripeptides.npz", root=root), "tripeptide_")


def _packed(arrays: dict[str, np.ndarray], prefix: str) -> PackedMolecules:
    """Molecules whose four arrays begin with `prefix`."""
    return PackedMolecules(
        arrays[f"{prefix}n_atoms"].astype(np.int64),
        arrays[f"{prefix}numbers"].astype(np.int64),
        arrays[f"{prefix}positions"].astype(np.float64),
        tuple(arrays[f"{prefix}name"].tolist()),
    )


Split = Literal["train", "valid", "test", "all"]
Source = Literal["conformers", "druglike", "tripeptides"]
SPLITS = ("train", "valid", "test")
FILE = "drug_size_splits.csv.gz"
HUNDREDTHS = {"test": range(0, 10), "valid": range(10, 20), "train": range(20, 100)}


@dataclass(frozen=True)
class Entry:
    """One molecule of one source, with its key and the split that follows."""

    source: str
    name: str
    key: str
    split: str


@dataclass(frozen=True, eq=False)
class DrugSizeSet:
    """Geometries [B] with the entry each belongs to, its source and its total charge."""

    molecules: PackedMolecules  # named source/name or source/name/conformer
    entries: np.ndarray  # [B] int64, row of the entry; conformers of a molecule share it
    sources: np.ndarray  # [B] str
    charges: np.ndarray  # [B] int64; 0 for DrugBank and tripeptides, which state none

    def __len__(self) -> int:
        return len(self.entries)

    def select(self, rows: np.ndarray) -> "DrugSizeSet":
        """The geometries at the given rows or where a mask is true."""
        return DrugSizeSet(self.molecules.select(rows), self.entries[rows], self.sources[rows], self.charges[rows])

    def one_per_molecule(self) -> "DrugSizeSet":
        """The first geometry of every entry."""
        return self.select(np.unique(self.entries, return_index=True)[1])


def split_of_key(key: str) -> str:
    """Split of a molecule: its key's SHA-256, first eight digits modulo 100: 0-9 test, 10-19 valid, the rest train."""
    hundredth = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % 100
    return next(split for split, part in HUNDREDTHS.items() if hundredth in part)


def load_entries(*, root: Path | None = None) -> list[Entry]:
    """The stored table: every molecule of the three sources in their order, with key and split.

    Raises InvalidInput where a stored split is not that of its key.
    """
    path = data_path(FILE, root=root)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        entries = [Entry(row["source"], row["name"], row["key"], row["split"]) for row in csv.DictReader(file)]
    wrong = [entry for entry in entries if entry.split != split_of_key(entry.key)]
    if wrong:
        raise InvalidInput(f"{path}: {wrong[0].name} is listed under {wrong[0].split}, which is not its key's split")
    return entries


def load_drug_size(
    *,
    split: Split = "all",
    sources: Iterable[Source] | None = None,
    limit: int | None = None,
    root: Path | None = None,
) -> DrugSizeSet:
    """All geometries of one split (or of all), conformers first, in the order of the files; angstrom.

    `limit` takes that many spread evenly. Raises InvalidInput for an unknown split or source, or a limit below 1.
    """
    if split not in (*SPLITS, "all"):
        raise InvalidInput(f"unknown split {split!r}: expected 'train', 'valid', 'test' or 'all'")
    wanted = ("conformers", "druglike", "tripeptides") if sources is None else tuple(sources)
    unknown = [name for name in wanted if name not in ("conformers", "druglike", "tripeptides")]
    if unknown:
        raise InvalidInput(f"unknown source {unknown[0]!r}: expected conformers, druglike or tripeptides")
    if limit is not None and limit < 1:
        raise InvalidInput(f"a limit of {limit} molecules makes no data set: give at least 1")
    entries = load_entries(root=root)
    whole = _all_geometries(root=root)
    named = [(entry.source, entry.name) for entry in entries]
    if named != whole[1]:
        raise InvalidInput(f"{FILE} does not list the molecules of the three sets in their order; restore it with git")
    in_split = np.array([split in ("all", entry.split) and entry.source in wanted for entry in entries])
    rows = np.flatnonzero(in_split[whole[0].entries])
    if limit is not None and limit < len(rows):
        rows = rows[np.arange(limit) * len(rows) // limit]
    return whole[0].select(rows)


def size_histogram(molecules: PackedMolecules) -> tuple[tuple[int, int], ...]:
    """(number of atoms, count), ascending: what a model's configuration holds."""
    sizes, counts = np.unique(molecules.num_atoms, return_counts=True)
    return tuple(zip(sizes.tolist(), counts.tolist(), strict=True))


def elements_of(molecules: PackedMolecules) -> tuple[int, ...]:
    """Atomic numbers that occur, ascending."""
    return tuple(np.unique(molecules.atomic_numbers).tolist())


def _all_geometries(*, root: Path | None) -> tuple[DrugSizeSet, list[tuple[str, str]]]:
    """Every geometry of the three sources, and (source, name) of the molecules in that order."""
    ensembles = load_conformer_ensembles(root=root)
    listed: list[tuple[str, str]] = [("conformers", ensemble.name) for ensemble in ensembles]
    counts = np.array([len(ensemble) for ensemble in ensembles])
    sizes = np.array([len(ensemble.atomic_numbers) for ensemble in ensembles])
    conformers = PackedMolecules(
        np.repeat(sizes, counts),
        np.concatenate([np.tile(ensemble.atomic_numbers, len(ensemble)) for ensemble in ensembles]),
        np.concatenate([ensemble.positions.reshape(-1, 3) for ensemble in ensembles]),
        tuple(f"conformers/{one.name}/{name}" for one in ensembles for name in one.conformer_names),
    )
    charges = np.repeat([int(ensemble.formal_charges.sum()) for ensemble in ensembles], counts)
    parts, sources, entries = [conformers], [np.full(len(conformers), "conformers", dtype="U11")], [counts]
    for source, load in (("druglike", load_druglike), ("tripeptides", load_tripeptides)):
        pack = load(root=root)
        listed += [(source, name) for name in pack.names]
        names = tuple(f"{source}/{name}" for name in pack.names)
        parts.append(PackedMolecules(pack.num_atoms, pack.atomic_numbers, pack.positions, names))
        sources.append(np.full(len(pack), source, dtype="U11"))
        entries.append(np.ones(len(pack), dtype=np.int64))
    whole = _join(parts)
    charges = np.concatenate([charges, np.zeros(len(whole) - len(charges), dtype=np.int64)])
    owner = np.repeat(np.arange(len(listed)), np.concatenate(entries))
    return DrugSizeSet(whole, owner, np.concatenate(sources), charges), listed


def _join(parts: list[PackedMolecules]) -> PackedMolecules:
    """Packs one after the other."""
    return PackedMolecules(
        np.concatenate([part.num_atoms for part in parts]),
        np.concatenate([part.atomic_numbers for part in parts]),
        np.concatenate([part.positions for part in parts]),
        tuple(name for part in parts for name in part.names),
    )
