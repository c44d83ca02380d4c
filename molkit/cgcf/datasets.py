"""Conformers to train on, by name."""

from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from molkit.cgcf.conformer_set import ConformerSet
from molkit.cgcf.graph import ExtendedGraph, extended_graph
from molkit.chem.bond_graph import bond_graph, mol_from_bonds
from molkit.chem.rdkit_tools import perceive_bonds
from molkit.data.ensembles import load_ensembles
from molkit.data.qm9 import load_qm9
from molkit.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class ConformerChoice:
    """Which conformers a recipe trains on.

    qm9_minima: one B3LYP minimum a molecule of QM9, bonds perceived from the coordinates; a graph is seen in a single
    conformation, so what is possible for it is learned from others like it. The other names are those of
    `molkit.data.ensembles`: several conformers of each molecule.
    """

    name: Literal["qm9_minima", "conformers_dft", "ensembles_qm9", "ensembles_drugs", "trajectories_c7h10o2"] = (
        "qm9_minima"
    )
    split: Literal["train", "valid", "test"] = "train"
    limit: int = 0  # molecules of each set, spread evenly over the split; 0 for all
    further: tuple[str, ...] = ()  # more sets of `molkit.data.ensembles`, the same split


def load_conformers(choice: ConformerChoice, *, limit: int | None = None) -> ConformerSet:
    """The conformers of a choice; `limit` replaces its own. Molecules whose bonds cannot be told are left out."""
    wanted = limit if limit is not None else (choice.limit or None)
    if choice.name == "qm9_minima" and choice.further:
        raise InvalidInput("further sets go with an ensemble set, not with qm9_minima")
    if choice.name == "qm9_minima":
        return qm9_minima(choice.split, limit=wanted)
    graphs, positions, names = [], [], []
    sets = [load_ensembles(name, split=choice.split, limit=wanted) for name in (choice.name, *choice.further)]
    for one in chain.from_iterable(sets):
        try:
            graphs.append(graph_of(mol_from_bonds(one.atomic_numbers, one.bonds, one.formal_charges)))
        except InvalidInput:  # RDKit refuses the stored bonds of a few molecules
            continue
        positions.append(one.positions)
        names.append(one.name)
    return ConformerSet.of(graphs, positions, names)


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


def graph_of(mol: Any) -> ExtendedGraph:
    """The extended graph of an RDKit molecule with explicit hydrogens."""
    found = bond_graph(mol)
    return extended_graph(found.atomic_numbers, found.bonds)
