"""ISO17 as published: trajectories of C7H10O2 isomers, 500 K, PBE+vdW, for those who have downloaded it.

Source: Schuett et al., NeurIPS 2017 (arXiv 1706.08566); a folder with ASE databases. Two splits are in use. The data
set's own: `reference.db` (train), `test_within.db` (other frames of the same isomers), `test_other.db` (other isomers).
And by molecular graph, for conformer generation: bonds are perceived, graphs with fewer than 3 conformations dropped,
15 % of the graphs are the test (GraphDG's rule; 167 and 30 graphs in the papers). Which graphs is not published except
as pickles; here a hash of the SMILES decides, so the rule is theirs and the molecules are not.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from molkit.chem.ase_database import read_database
from molkit.chem.ensembles import described
from molkit.chem.graph_match import order_of_atoms
from molkit.chem.rdkit_tools import perceive_bonds, plain_smiles
from molkit.data.ensembles import Ensemble
from molkit.errors import DataNotFound, InvalidInput
from molkit.molecule import Molecule
from molkit.units import EV_TO_KCAL

Part = Literal["train", "test_within", "test_other"]
FILES = {"train": "reference.db", "test_within": "test_within.db", "test_other": "test_other.db"}
FEWEST, TEST_SHARE = 3, 0.15


def read_iso17(folder: Path, part: Part, *, limit: int | None = None) -> Iterator[Molecule]:
    """Frames of one part of the published split, energies in eV.

    Raises InvalidInput for an unknown part, DataNotFound where its file is missing.
    """
    if part not in FILES:
        raise InvalidInput(f"unknown part {part!r} of ISO17: expected {', '.join(FILES)}")
    path = Path(folder) / FILES[part]
    if not path.is_file():
        raise DataNotFound(f"{path} is missing: download iso17.tar.gz from quantum-machine.org/datasets and unpack it")
    return read_database(path, limit=limit)


def graph_ensembles(frames: Iterator[Molecule]) -> tuple[list[Ensemble], dict[str, int]]:
    """Frames grouped by perceived graph, test or train by the rule above; and how many frames were left out, by reason.

    Energies in kcal/mol above the lowest frame of the graph.
    """
    templates: dict[str, object] = {}
    grouped: dict[str, list[tuple[np.ndarray, float]]] = {}
    left_out = {"not perceived": 0, "other order of atoms": 0, "rare graph": 0}
    for frame in frames:
        mol = perceive_bonds(frame).mol
        if mol is None:
            left_out["not perceived"] += 1
            continue
        smiles = plain_smiles(mol)
        order = order_of_atoms(templates.setdefault(smiles, mol), frame)
        if order is None:
            left_out["other order of atoms"] += 1
            continue
        energy = frame.properties.get("energy", float("nan"))
        grouped.setdefault(smiles, []).append((frame.positions[order], energy))
    kept = {smiles: rows for smiles, rows in grouped.items() if len(rows) >= FEWEST and "." not in smiles}
    left_out["rare graph"] = sum(len(rows) for smiles, rows in grouped.items() if smiles not in kept)
    return [_ensemble(smiles, templates[smiles], rows) for smiles, rows in sorted(kept.items())], left_out


def split_of_graph(smiles: str) -> str:
    """train or test, by a hash of the SMILES: 15 % of graphs are test."""
    number = int(hashlib.sha256(f"iso17/{smiles}".encode()).hexdigest()[:8], 16)
    return "test" if number < TEST_SHARE * 2**32 else "train"


def _ensemble(smiles: str, mol: object, rows: list[tuple[np.ndarray, float]]) -> Ensemble:
    told = described(mol)
    energies = np.array([energy for _, energy in rows]) * EV_TO_KCAL
    return Ensemble(
        name=smiles,
        smiles=smiles,
        atomic_numbers=told["atomic_numbers"],
        formal_charges=told["formal_charges"],
        bonds=told["bonds"].astype(np.int64),
        positions=np.array([positions for positions, _ in rows]),
        energies=energies - energies.min(),
        split=split_of_graph(smiles),
        counts={"frames": len(rows)},
    )
