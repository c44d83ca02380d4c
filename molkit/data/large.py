"""Sets outside QM9: larger molecules (DrugBank, tripeptides) for extrapolation and timing, and QM7 with energies."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from molkit.data.registry import read_npz
from molkit.molecule import PackedMolecules


@dataclass(frozen=True, eq=False)
class Qm7:
    """QM7 geometries with the two published energies."""

    molecules: PackedMolecules
    atomisation_energies: np.ndarray  # [7101] kcal/mol, PBE0 (unverified)
    difference_to_dftb: np.ndarray  # [7101] kcal/mol (unverified)


def load_druglike(*, root: Path | None = None) -> PackedMolecules:
    """837 DrugBank molecules of H, C, N, O with 8 to 140 atoms, one geometry each."""
    return _packed(read_npz("druglike_tripeptides.npz", root=root), "druglike_")


def load_tripeptides(*, root: Path | None = None) -> PackedMolecules:
    """244 tripeptides of H, C, N, O with 30 to 70 atoms, one geometry each."""
    return _packed(read_npz("druglike_tripeptides.npz", root=root), "tripeptide_")


def load_qm7(*, root: Path | None = None) -> Qm7:
    """7,101 molecules of H, C, N, O, S."""
    arrays = read_npz("qm7.npz", root=root)
    energies = arrays["energies_kcal"]
    return Qm7(_packed(arrays, ""), energies[:, 0], energies[:, 1])


def _packed(arrays: dict[str, np.ndarray], prefix: str) -> PackedMolecules:
    """Molecules whose four arrays begin with `prefix`."""
    return PackedMolecules(
        arrays[f"{prefix}n_atoms"].astype(np.int64),
        arrays[f"{prefix}numbers"].astype(np.int64),
        arrays[f"{prefix}positions"].astype(np.float64),
        tuple(arrays[f"{prefix}name"].tolist()),
    )
