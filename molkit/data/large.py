"""Larger molecules than QM9's, for extrapolation and timing: DrugBank and tripeptides."""

from pathlib import Path

import numpy as np

from molkit.data.registry import read_npz
from molkit.molecule import PackedMolecules


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
