import numpy as np
import pytest
from rdkit import Chem

from benchmarks.conformers import MOLECULES, is_isomer, measured
from molkit.chem.bond_graph import graph_mol, mol_with_conformers
from molkit.chem.rdkit_conformers import rdkit_conformers

FAST = ["sugar glucose", "diene sorbic acid", "sulfoxide methyl phenyl", "bridged camphor", "ammonium"]


@pytest.mark.parametrize("name", FAST)
def test_as_many_as_were_asked_for_are_made_and_all_are_the_isomer(name):
    found = measured(MOLECULES[name], count=5)
    assert found["obtained"] == found["right"] == 5
    assert 0.0 < found["ratio"] < 40.0  # a guard; the measure of cost is the whole list on an idle machine


@pytest.mark.parametrize("name", ["sugar glucose", "sulfoxide methyl phenyl", "ammonium"])
def test_a_mirror_image_is_not_counted_as_the_isomer(name):
    mol = graph_mol(MOLECULES[name])
    right = rdkit_conformers(mol, 1)
    placed = [mol_with_conformers(mol, sign * right) for sign in (1.0, -1.0)]
    assert [is_isomer(one, MOLECULES[name]) for one in placed] == [True, False]


def test_another_double_bond_is_not_counted_and_one_left_open_may_be_either():
    cis = graph_mol("C/C=C\\C")
    placed = mol_with_conformers(cis, rdkit_conformers(cis, 1))
    assert [is_isomer(placed, text) for text in ("C/C=C\\C", "C/C=C/C", "CC=CC")] == [True, False, True]


def test_the_list_has_every_kind_and_no_molecule_twice():
    kinds = {name.split()[0] for name in MOLECULES}
    wanted = {"steroid", "sugar", "diene", "sulfoxide", "phosphoramide", "atropisomer", "bridged", "spiro"}
    assert wanted | {"macrocycle", "peptide", "allene"} <= kinds
    assert len({Chem.CanonSmiles(text) for text in MOLECULES.values()}) == len(MOLECULES) >= 40
    assert np.mean([any(mark in text for mark in "@/\\") for text in MOLECULES.values()]) > 0.8
