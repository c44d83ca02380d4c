"""What the chapter on editing counts."""

import numpy as np
import pytest

from molkit.data.qm9 import load_qm9
from molkit.edm.editing import Edits
from molkit.molecule import Molecule, PackedMolecules
from molkit.studies import edm_editing as study


def test_a_cut_takes_a_quarter_of_the_atoms_from_one_side():
    whole = load_qm9(split="valid", limit=5)
    random = np.random.default_rng(0)
    for molecule in whole:
        part = study.cut(molecule, generator=random)
        assert part.num_atoms == molecule.num_atoms - max(1, molecule.num_atoms // 4)
        assert all((np.abs(molecule.positions - place).sum(axis=1) < 1e-12).any() for place in part.positions)


def test_whole_molecules_are_recovered_and_failed_chains_count_against_it():
    whole = load_qm9(split="valid", limit=6)
    truth = study.smiles_by_distance(whole)
    row = study._row("all", Edits(whole, np.arange(6), (), 0), list(whole), truth, 0.0)
    assert row.recovered.value == row.stable.value == row.fixed.value == 1.0
    half = Edits(whole.select(np.arange(3)), np.arange(3), (3, 4, 5), 0)
    assert study._row("half", half, list(whole), truth, 0.0).recovered.value == 0.5
    none = Edits(PackedMolecules.from_molecules([]), np.zeros(0, int), tuple(range(6)), 0)
    assert study._row("none", none, list(whole), truth, 0.0).stable.value == 0.0


def test_what_a_set_holds_of_a_formula_is_counted_among_its_size():
    water = Molecule([8, 1, 1], [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
    other = Molecule([6, 8, 1], [[0.0, 0.0, 0.0], [1.2, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    pair = Molecule([1, 1], [[0.0, 0.0, 0.0], [0.74, 0.0, 0.0]])
    pack = PackedMolecules.from_molecules([water, other, pair, water])
    row = study._waited("here", pack, {8: 1, 1: 2}, known=frozenset())
    assert row.num == 3 and row.right.value == pytest.approx(2 / 3) and row.num_isomers == row.num_novel == 1
