"""GEOM's own ensembles, GEOM-QM9 and GEOM-Drugs, for those who have downloaded them, and splits by published rules.

Source: GEOM, Axelrod and Gomez-Bombarelli, Sci. Data 9, 185 (2022); `qm9_crude.msgpack` and `drugs_crude.msgpack` of
doi 10.7910/DVN/JNGTDF, read as a stream (molkit.data.geom_drugs). Atoms are brought into the order of the SMILES;
conformers that are another molecule than their SMILES (CREST lets bonds break) are counted and left out.

ISO17 as published: trajectories of C7H10O2 isomers, 500 K, PBE+vdW, for those who have downloaded it.

Source: Schuett et al., NeurIPS 2017 (arXiv 1706.08566); a folder with ASE databases. Two splits are in use. The data
set's own: `reference.db` (train), `test_within.db` (other frames of the same isomers), `test_other.db` (other isomers).
And by molecular graph, for conformer generation: bonds are perceived, graphs with fewer than 3 conformations dropped,
15 % of the graphs are the test (GraphDG's rule; 167 and 30 graphs in the papers). Which graphs is not published except
as pickles; here a hash of the SMILES decides, so the rule is theirs and the molecules are not.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from molkit.chem.bond_graph import graph_mol, order_of_atoms
from molkit.chem.ensembles import described
from molkit.chem.files import read_database
from molkit.chem.rdkit_tools import perceive_bonds, plain_smiles
from molkit.data.ensembles import Ensemble
from molkit.data.geom_drugs import lowest_conformers, read_release
from molkit.errors import DataNotFound, InvalidInput
from molkit.molecule import Molecule
from molkit.units import EV_TO_KCAL, HARTREE_TO_KCAL


@dataclass(frozen=True)
class GraphSplit:
    """SMILES of the three parts."""

    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]


def read_geom_ensembles(
    path: Path, *, num_conformers: int = 500, limit: int | None = None
) -> Iterator[Ensemble | InvalidInput]:
    """Every molecule of the published file, or why it cannot be used, in the order of the file; one at a time.

    Raises what read_release raises.
    """
    for number, (smiles, entry) in enumerate(read_release(path)):
        if limit is not None and number >= limit:
            return
        try:
            yield geom_ensemble(smiles, entry, num_conformers=num_conformers)
        except InvalidInput as error:
            yield error


def geom_ensemble(smiles: str, entry: dict, *, num_conformers: int = 500) -> Ensemble:
    """One published entry: its conformers of lowest energy, kcal/mol above the lowest.

    Raises InvalidInput for an entry of another layout, a SMILES that is no molecule, or when no conformer fits it.
    """
    found, mol = lowest_conformers(smiles, entry, num_conformers=num_conformers), graph_mol(smiles)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    kept, positions = [], []
    for row in range(len(found.energies)):
        order = order_of_atoms(mol, Molecule(found.atomic_numbers[row], found.positions[row]))
        if order is not None and (found.atomic_numbers[row][order] == numbers).all():
            kept.append(row)
            positions.append(found.positions[row][order])
    if not kept:
        raise InvalidInput(
            f"GEOM molecule {smiles!r}: none of {len(found.energies)} conformers has the bonds of its SMILES"
        )
    energies = (found.energies[kept] - found.energies[kept].min()) * HARTREE_TO_KCAL
    told = described(mol)
    counts = {"published": len(entry["conformers"]), "other_molecule": len(found.energies) - len(kept)}
    return Ensemble(
        name=smiles,
        smiles=str(told["smiles"]),
        atomic_numbers=told["atomic_numbers"],
        formal_charges=told["formal_charges"],
        bonds=told["bonds"].astype(np.int64),
        positions=np.array(positions),
        energies=energies,
        counts=counts,
    )


def later_split(
    num_conformers: Mapping[str, int],
    *,
    largest_test: int,
    num_graphs: int = 50_000,
    num_test: int = 200,
    fewest: int = 5,
    fewest_test: int = 50,
) -> GraphSplit:
    """Train, valid and test graphs by the rule of ConfGF (and GeoDiff), from the number of conformers of each graph.

    Graphs with at least `fewest` conformers; num_graphs of them, 80 % train and 10 % valid (the last tenth of that
    draw is not used here); test: num_test further graphs with fewest_test..largest_test conformers (500 for QM9, 100
    for Drugs). The order of the graphs follows from a hash of their SMILES: the rule is the published one, the
    molecules are not, since those come from a random state that only the authors' files hold. Nor can the split of
    the CGCF paper be made again: only its sizes are known.
    """
    order = sorted(num_conformers, key=lambda smiles: hashlib.sha256(f"geom/{smiles}".encode()).hexdigest())
    able = [smiles for smiles in order if num_conformers[smiles] >= fewest]
    drawn, rest = able[:num_graphs], able[num_graphs:]
    test = [smiles for smiles in rest if fewest_test <= num_conformers[smiles] <= largest_test][:num_test]
    train, valid = int(0.8 * len(drawn)), int(0.1 * len(drawn))
    return GraphSplit(tuple(drawn[:train]), tuple(drawn[train : train + valid]), tuple(test))


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
