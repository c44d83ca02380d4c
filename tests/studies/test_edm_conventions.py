import numpy as np
import pytest

from molkit.chem.rdkit_tools import embed_smiles
from molkit.data.qm9 import load_qm9
from molkit.molecule import Molecule, PackedMolecules
from molkit.studies import edm_conventions as study

WATER = Molecule([8, 1, 1], [[0.0, 0.0, 0.1173], [0.0, 0.7572, -0.4692], [0.0, -0.7572, -0.4692]])
METHYL = Molecule([6, 1, 1, 1], [[0.0, 0.0, 0.0], [1.08, 0.0, 0.0], [-0.54, 0.9353, 0.0], [-0.54, -0.9353, 0.0]])


def two_waters():
    return Molecule(
        np.concatenate([WATER.atomic_numbers] * 2), np.concatenate([WATER.positions, WATER.positions + 5.0])
    )


def test_three_conventions_judge_a_radical_differently():
    """Only RDKit with bonds by distance accepts CH3: it fills in the missing hydrogen."""
    found = study.conventions("toy", PackedMolecules.from_molecules([WATER, METHYL]))
    assert found.flags.tolist() == [[True, True, True], [False, False, True]]
    odd = study.disagreements(found, count=3)
    assert [len(molecules) for molecules in odd.values()] == [0, 0, 1]


def test_molecules_in_pieces_are_found():
    pack = PackedMolecules.from_molecules([WATER, two_waters(), METHYL])
    assert study.connected(pack).tolist() == [True, False, True]


def test_patterns_of_verdicts_add_up_to_all_molecules():
    found = study.conventions("QM9 test", load_qm9(split="test", limit=60))
    assert sum(share.value for share in found.patterns().values()) == 1.0


def test_two_samples_of_the_data_are_closer_than_shaken_molecules():
    test = load_qm9(split="test", limit=300)
    noise = 0.1 * np.random.default_rng(0).normal(size=test.positions.shape)
    shaken = PackedMolecules(test.num_atoms, test.atomic_numbers, test.positions + noise)
    row = study.kind_distances({"QM9 test": test, "shaken": shaken}, count=300, num_bonds=1, num_angles=0)[0]
    assert row.kind == "C-H"
    assert row.distances["QM9 train (zero)"].high < row.distances["shaken"].low


def test_geometry_checks_count_what_could_not_be_checked():
    result = study.poses("toy", PackedMolecules.from_molecules([WATER, METHYL]))
    assert result.num_molecules == 2
    assert result.shares["bond_lengths"].value == 1.0
    assert 0.0 <= result.all_passed.value <= 1.0


def test_an_open_shell_has_no_accepted_bonds_and_nitromethane_has():
    nitromethane = embed_smiles("C[N+](=O)[O-]")[0]
    pack = PackedMolecules.from_molecules([WATER, METHYL, nitromethane])
    found = study.conventions("toy", pack)
    assert found.perceived.tolist() == [True, False, True]
    assert study.perceived(pack, known=np.zeros(3, dtype=bool)).tolist() == [True, False, True]
    assert found.disagreement.value == pytest.approx(2 / 3)  # CH3, and the charges of the nitro group


def test_chains_that_gave_no_molecule_fail_everywhere():
    found = study.conventions("toy", PackedMolecules.from_molecules([WATER]), num_failed=3)
    assert found.share(found.flags[:, 0]).value == 0.25 and found.atoms_edm.value == 0.25
    patterns = found.patterns()
    assert patterns[True, True, True].value == 0.25 and patterns[False, False, False].value == 0.75
