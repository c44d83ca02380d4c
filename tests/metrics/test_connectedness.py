import numpy as np
import pytest

from molkit.chem.rdkit_tools import embed_smiles
from molkit.errors import InvalidInput
from molkit.metrics.validity import connectedness
from molkit.molecule import Molecule, PackedMolecules


def test_one_molecule_two_molecules_and_loose_atoms():
    water, ethanol = (embed_smiles(smiles, seed=0)[0] for smiles in ("O", "CCO"))
    both = Molecule(
        np.concatenate([water.atomic_numbers, ethanol.atomic_numbers]),
        np.concatenate([water.positions, ethanol.positions + 8.0]),
    )
    loose = Molecule(np.array([6, 6, 6]), 10.0 * np.arange(9.0).reshape(3, 3))
    result = connectedness(PackedMolecules.from_molecules([ethanol, both, loose, water]))
    assert result.num_pieces.tolist() == [1, 2, 3, 1] and result.largest.tolist() == [9, 9, 1, 3]
    assert result.in_one_piece.tolist() == [True, False, False, True]
    np.testing.assert_allclose(result.largest_share, [1, 9 / 12, 1 / 3, 1])


def test_an_empty_set_is_refused():
    nothing = PackedMolecules(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3)))
    with pytest.raises(InvalidInput, match="at least one molecule"):
        connectedness(nothing)
