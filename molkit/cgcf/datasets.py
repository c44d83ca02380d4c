"""Conformers to train on and to test with, by name."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from molkit.cgcf.conformer_set import ConformerSet
from molkit.cgcf.graph import ExtendedGraph, extended_graph
from molkit.chem.bond_graph import bond_graph, mol_from_bonds
from molkit.chem.rdkit_tools import perceive_bonds
from molkit.data.conformers import ConformerEnsemble, load_conformer_ensembles
from molkit.data.drug_size import load_entries
from molkit.data.qm9 import load_qm9
from molkit.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class ConformerChoice:
    """Which conformers a recipe trains on.

    qm9_minima: one B3LYP minimum a molecule of QM9, bonds perceived from the coordinates; a graph is seen in a single
    conformation, so what is possible for it is learned from others like it. conformers_dft: about ten DFT conformers
    each of drug-like molecules.
    """

    name: Literal["qm9_minima", "conformers_dft"] = "qm9_minima"
    split: Literal["train", "valid", "test"] = "train"
    limit: int = 0  # molecules, spread evenly over the split; 0 for all


def load_conformers(choice: ConformerChoice, *, limit: int | None = None) -> ConformerSet:
    """The conformers of a choice; `limit` replaces its own. Molecules whose bonds cannot be told are left out."""
    wanted = limit if limit is not None else (choice.limit or None)
    if choice.name == "conformers_dft":
        return dft_conformers(choice.split, limit=wanted)
    return qm9_minima(choice.split, limit=wanted)


def qm9_minima(split: Literal["train", "valid", "test"], *, limit: int | None = None) -> ConformerSet:
    """The minima of QM9 with perceived bonds."""
    graphs, positions, names = [], [], []
    for molecule in load_qm9(split=split, limit=limit):
        mol = perceive_bonds(molecule).mol
        if mol is not None and molecule.num_atoms > 1:
            graphs.append(graph_of(mol))
            positions.append(molecule.positions[None])
            names.append(molecule.name)
    return ConformerSet.of(graphs, positions, names)


def dft_conformers(split: Literal["train", "valid", "test"], *, limit: int | None = None) -> ConformerSet:
    """The DFT conformers of drug-like molecules, in the split by molecule of the drug-size set."""
    ensembles = dft_ensembles(split, limit=limit)
    kept = [(ensemble, graph) for ensemble in ensembles if (graph := ensemble_graph(ensemble)) is not None]
    return ConformerSet.of(
        [graph for _, graph in kept], [one.positions for one, _ in kept], [one.name for one, _ in kept]
    )


def dft_ensembles(split: Literal["train", "valid", "test"], *, limit: int | None = None) -> list[ConformerEnsemble]:
    """The ensembles of one split, in the order of their file."""
    parts = {entry.name: entry.split for entry in load_entries() if entry.source == "conformers"}
    return [one for one in load_conformer_ensembles() if parts[one.name] == split][:limit]


def ensemble_graph(ensemble: ConformerEnsemble) -> ExtendedGraph | None:
    """The extended graph of an ensemble, None where RDKit refuses its bonds or they leave it in pieces."""
    try:
        mol = mol_from_bonds(ensemble.atomic_numbers, ensemble.bonds, ensemble.formal_charges)
    except InvalidInput:
        return None
    return graph_of(mol)


def graph_of(mol: object) -> ExtendedGraph:
    """The extended graph of an RDKit molecule with explicit hydrogens."""
    found = bond_graph(mol)
    return extended_graph(np.asarray(found.atomic_numbers), found.bonds)
