"""QM9: small organic molecules at their B3LYP/6-31G(2df,p) minima, in the split of the EDM reference code.

Source: Ramakrishnan, Dral, Rupp, von Lilienfeld, Sci. Data 1, 140022 (2014). What our copy lacks (fluorine, and most
property rows) is in the card, `data/sets/README.md`.

The SMILES that novelty is counted against: those of QM9's training molecules, by the distance rule.

Perceiving them takes about 15 seconds, so they come as a file of 0.3 MiB; `molkit.metrics.validity.reference_smiles`
made it from `load_qm9(split="train")`. The file's first line holds the version of RDKit that wrote the SMILES, since
canonical SMILES may change between versions.
"""

import csv
import gzip
from pathlib import Path
from typing import Literal
import numpy as np
from molkit.data.packed import unpack
from molkit.data.registry import data_path, data_root, read_npz
from molkit.errors import DataNotFound, InvalidInput
from molkit.molecule import PackedMolecules
import gzip
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from molkit.data.registry import data_path
from molkit.errors import InvalidInput

Split = Literal["train", "valid", "test", "all"]
Source = Literal["packed", "full"]

SPLITS = ("train", "valid", "test")  # stored as 0, 1, 2
FILES = {"packed": "qm9.npz", "full": "qm9_full.npz"}
PROPERTY_UNITS = {
    **{"A": "GHz", "B": "GHz", "C": "GHz", "mu": "D", "alpha": "bohr^3", "homo": "Ha", "lumo": "Ha", "gap": "Ha"},
    **{"r2": "bohr^2", "zpve": "Ha", "U0": "Ha", "U": "Ha", "H": "Ha", "G": "Ha", "Cv": "cal/(mol K)"},
}
# Number of atoms -> molecules among the 100,000 of the published training split.
# Source: EDM reference code, configuration of QM9 with hydrogens; our packed copy has up to 296 fewer in a bin.
SIZE_HISTOGRAM = {
    **{3: 1, 4: 4, 5: 5, 6: 9, 7: 16, 8: 49, 9: 124, 10: 362, 11: 807, 12: 1689, 13: 3060, 14: 5136, 15: 7796},
    **{16: 10644, 17: 13025, 18: 13364, 19: 13832, 20: 9482, 21: 9970, 22: 3393, 23: 4848, 24: 539, 25: 1506},
    **{26: 48, 27: 266, 29: 25},
}


def load_qm9(
    *, split: Split, limit: int | None = None, source: Source = "packed", root: Path | None = None
) -> PackedMolecules:
    """QM9 structures of one published split (or all three), centred, positions in angstrom, by ascending QM9 number.

    `limit` takes that many molecules spread evenly over the split, since the file begins with the smallest ones.
    source "packed" is the copy in the repository (H, C, N, O; 98,412 / 17,473 / 12,859 molecules); "full" is what
    `molkit data fetch qm9` made (five elements; 100,000 / 17,748 / 13,083).

    Raises DataNotFound, ChecksumMismatch, or InvalidInput for an unknown split or source or a limit below 1.
    """
    arrays = _read(source, root)
    rows = _rows(arrays["split"], split, limit)
    molecules = unpack(arrays, label=FILES[source])
    chosen = molecules if len(rows) == len(molecules) else molecules.select(rows)
    names = tuple([f"dsgdb9nsd_{number:06d}" for number in arrays["index"][rows].tolist()])
    return PackedMolecules(chosen.num_atoms, chosen.atomic_numbers, chosen.positions, names)


def qm9_index(
    *, split: Split, limit: int | None = None, source: Source = "packed", root: Path | None = None
) -> np.ndarray:
    """QM9 numbers [B] int64 (counted from 1) of the molecules that `load_qm9` returns for the same arguments."""
    arrays = _read(source, root)
    return arrays["index"][_rows(arrays["split"], split, limit)].astype(np.int64)


def qm9_smiles(*, split: Split = "all", root: Path | None = None) -> dict[int, str]:
    """QM9 number -> canonical SMILES without stereo, perceived from the coordinates of the packed copy.

    The 2 of 128,744 molecules (38233 and 133831) whose bonds could not be perceived are left out.
    """
    rows = _read_csv("qm9_chno_smiles.csv.gz", root)
    wanted = set(qm9_index(split=split, root=root).tolist())
    numbered = ((int(row["index"]), row["smiles"]) for row in rows)
    return {number: smiles for number, smiles in numbered if smiles and number in wanted}


def qm9_properties(*, root: Path | None = None) -> dict[str, np.ndarray]:
    """Columns of the 14,715 property rows at hand: `index` int64, `smiles`, `split`, `has_geometry` bool, and the 15
    properties float64 in the units of PROPERTY_UNITS (the smiles are those of GDB-17).
    """
    rows = _read_csv("qm9_properties_subset.csv.gz", root)
    columns = {name: np.array([float(row[name]) for row in rows]) for name in PROPERTY_UNITS}
    return {
        "index": np.array([int(row["index"]) for row in rows]),
        "smiles": np.array([row["smiles"] for row in rows]),
        **columns,
        "split": np.array([row["split"] for row in rows]),
        "has_geometry": np.array([row["has_geometry"] == "1" for row in rows]),
    }


def qm9_full_properties(*, split: Split, root: Path | None = None) -> dict[str, np.ndarray]:
    """The 15 properties [B] float64 of every molecule of the fetched set, in the order of `load_qm9(source="full")`."""
    arrays = _read("full", root)
    rows = _rows(arrays["split"], split, None)
    return {name: arrays["properties"][rows, column] for column, name in enumerate(PROPERTY_UNITS)}


def qm9_atom_references(*, root: Path | None = None) -> dict[str, dict[str, float]]:
    """Element symbol -> property -> value of the free atom: zpve, U0, U, H, G in Ha, Cv in cal/(mol K)."""
    rows = _read_csv("qm9_atomref.csv", root)
    return {row.pop("element"): {name: float(value) for name, value in row.items()} for row in rows}


def qm9_split_members(*, root: Path | None = None) -> dict[str, np.ndarray]:
    """`train`, `valid`, `test` of all 130,831 molecules and the 3,054 `uncharacterized`: QM9 numbers from 1, int32.

    The three splits are in the order of the published permutation (see `split_of_qm9`), not ascending.
    """
    return read_npz("qm9_splits.npz", root=root)


def split_of_qm9(
    uncharacterized: np.ndarray, *, num_molecules: int = 133_885, num_train: int = 100_000
) -> dict[str, np.ndarray]:
    """The published split: QM9 numbers (from 1) of train, valid and test, given the numbers that are left out.

    The others are permuted by NumPy's legacy generator with seed 0; the first `num_train` train, the last tenth
    (rounded down) tests, the middle validates.
    Source: data preparation of the EDM reference code, which took it from Cormorant.
    """
    kept = np.setdiff1d(np.arange(1, num_molecules + 1), uncharacterized)
    order = np.random.RandomState(0).permutation(len(kept))
    train, valid, test = np.split(kept[order], [num_train, len(kept) - int(0.1 * len(kept))])
    return {"train": train, "valid": valid, "test": test}


def _read(source: str, root: Path | None) -> dict[str, np.ndarray]:
    """The arrays of one of the two copies."""
    if source not in FILES:
        raise InvalidInput(f"unknown source {source!r} of QM9: expected 'packed' or 'full'")
    if source == "full" and not (data_root(root) / FILES["full"]).is_file():
        raise DataNotFound(
            f"{data_root(root) / FILES['full']} is missing: run `molkit data fetch qm9` (needs internet)"
        )
    return read_npz(FILES[source], root=root)


def _rows(codes: np.ndarray, split: str, limit: int | None) -> np.ndarray:
    """Rows of a split, ascending; with a limit, that many of them evenly spread."""
    if split not in (*SPLITS, "all"):
        raise InvalidInput(f"unknown split {split!r}: expected 'train', 'valid', 'test' or 'all'")
    rows = np.arange(len(codes)) if split == "all" else np.flatnonzero(codes == SPLITS.index(split))
    if limit is None or limit >= len(rows):
        return rows
    if limit < 1:
        raise InvalidInput(f"a limit of {limit} molecules makes no data set: give at least 1")
    return rows[np.arange(limit) * len(rows) // limit]


def _read_csv(name: str, root: Path | None) -> list[dict[str, str]]:
    """Rows of a verified, possibly gzipped, table."""
    path = data_path(name, root=root)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


REFERENCE_SMILES = "qm9_train_smiles_by_distance.txt.gz"
HEADER = "# RDKit "


@dataclass(frozen=True)
class ReferenceSmiles:
    """Distinct SMILES of a training set, what they are, and the RDKit that wrote them."""

    smiles: frozenset[str]
    description: str
    rdkit_version: str


def load_reference_smiles(*, root: Path | None = None) -> ReferenceSmiles:
    """SMILES (hydrogens written out) of the packed QM9 training molecules that RDKit accepts.

    Raises DataNotFound, ChecksumMismatch, or InvalidInput for a file of another layout.
    """
    path = data_path(REFERENCE_SMILES, root=root)
    header, *lines = gzip.decompress(path.read_bytes()).decode("ascii").splitlines()
    version, _, description = header.removeprefix(HEADER).partition("; ")
    if not header.startswith(HEADER) or not description:
        raise InvalidInput(f"{path}: expected a first line '{HEADER}VERSION; DESCRIPTION', got {header[:60]!r}")
    return ReferenceSmiles(frozenset(lines), description, version)


def write_reference_smiles(path: Path, smiles: Collection[str], *, description: str, rdkit_version: str) -> None:
    """Write distinct SMILES, sorted, one a line; the same SMILES always give the same bytes."""
    text = "\n".join([f"{HEADER}{rdkit_version}; {description}", *sorted(set(smiles))]) + "\n"
    path.write_bytes(gzip.compress(text.encode("ascii"), compresslevel=9, mtime=0))
