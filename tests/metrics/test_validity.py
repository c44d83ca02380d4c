"""Validity, uniqueness and novelty, with the caveats that one must know to read them."""

import numpy as np
import pytest

from molkit.chem.rdkit_tools import embed_smiles, rdkit_version
from molkit.data.qm9 import load_qm9, load_reference_smiles, write_reference_smiles
from molkit.errors import InvalidInput
from molkit.metrics.validity import reference_smiles, validity
from molkit.molecule import Molecule, PackedMolecules


def pack(*molecules):
    return PackedMolecules.from_molecules(molecules)


def methane():
    return embed_smiles("C")[0]


def without_last_atom(molecule):
    return Molecule(molecule.atomic_numbers[:-1], molecule.positions[:-1])


def test_counts_and_their_denominators():
    ethane = embed_smiles("CC")[0]
    fluorine_with_two_bonds = Molecule([9, 1, 1], [[0, 0, 0], [0.9, 0, 0], [-0.9, 0, 0]])
    result = validity(
        pack(methane(), methane(), ethane, fluorine_with_two_bonds), reference_smiles={"[H]C([H])([H])[H]"}
    )
    assert (result.num_molecules, result.num_valid, result.num_unique, result.num_novel) == (4, 3, 2, 1)
    assert (result.validity, result.valid_and_unique, result.novelty) == (0.75, 0.5, 0.5)
    assert result.uniqueness == pytest.approx(2 / 3)
    assert result.smiles == ("[H]C([H])([H])[H]", "[H]C([H])([H])[H]", "[H]C([H])([H])C([H])([H])[H]", None)
    assert result.rdkit_version == rdkit_version()


def test_a_missing_hydrogen_passes_as_valid_and_even_as_novel():
    """RDKit completes the atom with an implicit hydrogen, and writes another string than for the whole molecule."""
    result = validity(pack(methane(), without_last_atom(methane())), reference_smiles=reference_smiles(pack(methane())))
    assert (result.num_valid, result.num_unique, result.num_novel) == (2, 2, 1)


def test_ammonium_is_invalid_while_rdkit_repairs_a_nitro_group_with_two_double_bonds():
    zwitterion, nitro = embed_smiles("[NH3+]CC(=O)[O-]")[0], embed_smiles("C[N+](=O)[O-]")[0]
    assert validity(pack(zwitterion, nitro), reference_smiles=None).smiles == (None, "[H]C([H])([H])[N+](=O)[O-]")


def test_a_molecule_in_pieces_counts_through_its_largest_piece():
    first, second = methane(), embed_smiles("CC")[0]
    both = Molecule(
        np.concatenate([first.atomic_numbers, second.atomic_numbers]),
        np.vstack([first.positions, second.positions + [9.0, 0, 0]]),
    )
    assert validity(pack(both), reference_smiles=None).smiles == ("[H]C([H])([H])C([H])([H])[H]",)


def test_smiles_do_not_depend_on_the_order_of_atoms():
    molecule = embed_smiles("CC(=O)NC#C")[0]
    random = np.random.default_rng(0)
    shuffled = [
        Molecule(molecule.atomic_numbers[o], molecule.positions[o])
        for o in map(random.permutation, [molecule.num_atoms] * 5)
    ]
    assert validity(pack(molecule, *shuffled), reference_smiles=None).num_unique == 1


def test_broken_coordinates_are_invalid_and_an_empty_set_is_refused():
    packed = pack(methane(), methane())
    positions = packed.positions.copy()
    positions[1, 1] = np.nan
    result = validity(PackedMolecules(packed.num_atoms, packed.atomic_numbers, positions), reference_smiles=None)
    assert result.smiles[0] is None and result.num_valid == 1 and result.num_not_finite == 1
    assert result.novelty is None and result.reference == "none"
    with pytest.raises(InvalidInput, match="at least one molecule"):
        validity(pack(), reference_smiles=None)


def test_the_packed_reference_set_is_that_of_the_training_molecules():
    reference = load_reference_smiles()
    assert reference.rdkit_version == rdkit_version()
    made_now = reference_smiles(load_qm9(split="train", limit=1000))
    assert len(made_now) > 950 and made_now <= reference.smiles
    test_molecules = validity(load_qm9(split="test", limit=500), reference_smiles=reference.smiles)
    assert test_molecules.novelty > 0.99


def test_reference_files_have_the_same_bytes_for_the_same_smiles(tmp_path):
    for name, smiles in (("a", ["C", "CC"]), ("b", ["CC", "C", "C"])):
        write_reference_smiles(tmp_path / name, smiles, description="two", rdkit_version="1")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
