"""RDKit in and out: SMILES, embedding, and bonds perceived from coordinates with charges and aromaticity."""

import time
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from molkit.chem import rdkit_tools as rt
from molkit.chem.files import read_xyz
from molkit.errors import InvalidInput
from molkit.molecule import Molecule, PackedMolecules

NEUTRAL = [
    "c1ccccc1",
    "N#N",
    "O=C=O",
    "C[N+](=O)[O-]",
    "[NH3+]CC(=O)[O-]",
    "CS(C)(=O)=O",
    "c1c[nH]cn1",
    "C=C=C",
    "[C-]#[O+]",
]


@pytest.mark.parametrize("smiles", NEUTRAL)
def test_perceived_bonds_give_back_the_smiles_that_was_embedded(smiles):
    force_field = "none" if smiles == "[C-]#[O+]" else "mmff94"
    (molecule,) = rt.embed_smiles(smiles, force_field=force_field)
    assert molecule.charge == 0
    assert rt.perceived_smiles(molecule) == smiles


@pytest.mark.parametrize(("smiles", "charge"), [("C[NH3+]", 1), ("CC(=O)[O-]", -1), ("[NH3+]CC[NH3+]", 2)])
def test_ions_are_perceived_with_their_total_charge(smiles, charge):
    (molecule,) = rt.embed_smiles(smiles)
    assert molecule.charge == charge
    assert rt.perceived_smiles(molecule) == smiles
    assert rt.perceived_smiles(molecule, charge=0) != smiles


def test_embedding_is_the_same_for_the_same_seed_and_says_whether_mmff_converged():
    first, again, other = (rt.embed_smiles("CCCO", seed=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.positions, again.positions)
    assert np.abs(first.positions - other.positions).max() > 0.1
    assert first.properties["mmff94_converged"] == 1.0
    assert len(rt.embed_smiles("CCCO", num_conformers=3, force_field="none")) == 3


@pytest.mark.parametrize("smiles", ["", "C1CC", "not a smiles", "C(C)(C)(C)(C)C"])
def test_an_impossible_smiles_is_named(smiles):
    with pytest.raises(InvalidInput, match="SMILES"):
        rt.embed_smiles(smiles)


def test_an_element_without_force_field_parameters_is_the_users_matter():
    with pytest.raises(InvalidInput, match="force_field='none'"):
        rt.embed_smiles("C[Se]C")


def test_a_missing_hydrogen_is_not_perceived_and_has_a_reason():
    (methane,) = rt.embed_smiles("C")
    radical = Molecule(methane.atomic_numbers[:-1], methane.positions[:-1])
    perception = rt.perceive_bonds(radical)
    assert not perception.perceived and perception.reason
    states, connected = rt.atom_states(rt.perceive_bonds(radical, allow_radicals=True).mol)
    assert connected and [state.unpaired_electrons for state in states] == [1, 0, 0, 0]


def test_a_search_that_would_run_on_ends_as_not_perceived():
    (molecule,) = rt.embed_smiles("c1ccc2cc3ccccc3cc2c1", force_field="none")
    started = time.monotonic()
    impossible = rt.perceive_bonds(molecule, charge=9, max_steps=100)
    assert not impossible.perceived and time.monotonic() - started < 30
    far_apart = Molecule(np.full(401, 2), np.arange(1203).reshape(401, 3) * 10.0)
    assert "more than the 400" in rt.perceive_bonds(far_apart).reason


def test_perception_keeps_rdkit_silent(capfd):
    rt.perceive_bonds(Molecule([6, 1], [[0, 0, 0], [0, 0, 1.1]]))
    rt.smiles_by_distance(PackedMolecules.from_molecules([Molecule([9, 1, 1], [[0, 0, 0], [0, 0, 0.9], [0, 0.9, 0]])]))
    assert capfd.readouterr() == ("", "")


def test_molecule_to_rdkit_and_back_keeps_atoms_positions_charge_and_name():
    original = Molecule([7, 1, 1, 1, 1], np.random.default_rng(0).normal(size=(5, 3)), name="x")
    back = rt.molecule_from_rdkit(rt.rdkit_atoms(original))
    np.testing.assert_array_equal(back.atomic_numbers, original.atomic_numbers)
    np.testing.assert_allclose(back.positions, original.positions)
    assert back.name == "x"
    with pytest.raises(InvalidInput, match="conformer"):
        rt.molecule_from_rdkit(rt.mol_from_smiles("C"))


def test_distance_bonds_are_all_single_for_geom():
    (ethene,) = rt.embed_smiles("C=C")
    orders = {
        rule: sorted(bond.GetBondTypeAsDouble() for bond in rt.rdkit_by_distance(ethene, rule=rule).GetBonds())
        for rule in ("qm9", "geom")
    }
    assert orders == {"qm9": [1, 1, 1, 1, 2], "geom": [1, 1, 1, 1, 1]}


def test_the_skeleton_forgets_stereo_charge_tautomer_and_bond_orders_but_not_the_graph():
    forms = ("C[C@H](N)C(=O)O", "C[C@@H]([NH3+])C(=O)[O-]", "CC(=N)C(O)=O")
    keys = [rt.skeleton_smiles(rt.mol_from_smiles(smiles)) for smiles in forms]
    assert len(set(keys)) == 1
    assert rt.skeleton_smiles(rt.mol_from_smiles("NCCC(=O)O")) not in keys
    assert rt.skeleton_smiles(rt.mol_from_smiles("CC(N)C(=O)S")) not in keys


def test_distances_give_the_skeleton_that_the_bonds_have():
    for smiles in ("c1ccccc1C(=O)N", "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "C1CC1N"):
        molecule = rt.embed_smiles(smiles, seed=0)[0]
        assert rt.skeleton_smiles(rt.connectivity(molecule)) == rt.skeleton_smiles(rt.mol_from_smiles(smiles))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_conformers_of_one_call_differ_and_seeds_share_none(seed):
    def distances(conformers):
        return {round(float(np.linalg.norm(one.positions[0] - one.positions[4])), 6) for one in conformers}

    first = distances(rt.embed_smiles("CCCCO", num_conformers=5, seed=seed, force_field="none"))
    other = distances(rt.embed_smiles("CCCCO", num_conformers=5, seed=seed + 1, force_field="none"))
    assert len(first) == 5 and not first & other


@pytest.mark.parametrize(
    "smiles",
    [
        "Cc1c([N+](=O)[O-])cc([N+](=O)[O-])cc1[N+](=O)[O-]",
        "O=[N+]([O-])c1c([N+](=O)[O-])c([N+](=O)[O-])c([N+](=O)[O-])c([N+](=O)[O-])c1[N+](=O)[O-]",
        "O=[N+]([O-])N1CN([N+](=O)[O-])CN([N+](=O)[O-])C1",
    ],
)
def test_molecules_with_many_nitro_groups_are_perceived(smiles):
    assert rt.perceived_smiles(rt.embed_smiles(smiles)[0]) == Chem.CanonSmiles(smiles)


def test_a_biphenyl_amine_with_six_nitro_groups_is_perceived_from_a_file():
    (molecule,) = read_xyz(Path(__file__).parents[1] / "cases" / "polynitro.xyz")
    expected = "O=[N+]([O-])c1cc([N+](=O)[O-])c(Nc2c([N+](=O)[O-])cc([N+](=O)[O-])cc2[N+](=O)[O-])c([N+](=O)[O-])c1"
    assert rt.perceived_smiles(molecule) == Chem.CanonSmiles(expected)


def test_a_blank_in_a_smiles_is_refused_as_what_follows_would_be_lost():
    for text in ("CCO CO", "CCO\tethanol", "CCO |^1:0|"):
        with pytest.raises(InvalidInput, match="expected one SMILES"):
            rt.mol_from_smiles(text)
