"""Conformer ensembles of many molecules: what is stored of one, the packed file, and the sets by name.

A file holds, for each molecule, `smiles`, `mol_names`, `split` (0 train, 1 valid, 2 test), `mol_num_atoms`,
`mol_atomic_numbers`, `formal_charges`, `mol_num_bonds`, `bonds` (atom, atom, order; Kekule form), `num_conformers`, and the
counts of how it was made (`counts` [M, K] with the names `count_names`); for each conformer `energies_kcal` above the
lowest of its molecule, and positions as bytes of centred int16 at 2.5e-4 angstrom (see molkit.data.packed).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from molkit.chem.bond_graph import mol_from_bonds
from molkit.chem.rdkit_conformers import with_stereo_of
from molkit.data.drug_size import load_conformer_ensembles
from molkit.data.drug_size import load_entries
from molkit.data.packed import pack, unpack, write_arrays
from molkit.data.registry import data_root, load_arrays, read_npz
from molkit.errors import DataNotFound, InvalidInput
from molkit.molecule import PackedMolecules
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
            f"unknown set {name!r} or split {split!r}: expected {', '.join(get_args(SetName))} and train, valid, test or all"
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


def _require_lengths(arrays: Mapping[str, np.ndarray], sizes: np.ndarray, bonds: np.ndarray, counts: np.ndarray) -> None:
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
