"""The second stability convention: charges and aromatic bonds count, broken molecules do not."""

import numpy as np
import pytest

from molkit.chem.rdkit_tools import embed_smiles
from molkit.data.qm9 import load_qm9
from molkit.errors import InvalidInput
from molkit.metrics.stability import stability
from molkit.molecule import Molecule, PackedMolecules


def score(*molecules):
    return stability(PackedMolecules.from_molecules(molecules), rule="formal_charge")


def test_molecules_the_distance_rule_condemns_are_stable_here():
    """Benzene and carbon dioxide at force-field lengths, a nitro group, a zwitterion."""
    molecules = [embed_smiles(smiles)[0] for smiles in ("c1ccccc1", "O=C=O", "C[N+](=O)[O-]", "[NH3+]CC(=O)[O-]")]
    assert score(*molecules).molecule_stable.all()
    assert not stability(PackedMolecules.from_molecules(molecules)).molecule_stable.any()


def test_a_missing_hydrogen_costs_one_atom_and_the_molecule():
    (ethane,) = embed_smiles("CC")
    result = score(Molecule(ethane.atomic_numbers[:-1], ethane.positions[:-1]))
    assert result.stable_atoms.tolist() == [6] and not result.molecule_stable[0]
    assert result.num_not_perceived == 0


def test_two_molecules_side_by_side_are_not_one_stable_molecule():
    (methane,) = embed_smiles("C")
    pair = Molecule(
        np.tile(methane.atomic_numbers, 2), np.vstack([methane.positions, methane.positions + [8.0, 0.0, 0.0]])
    )
    result = score(pair)
    assert result.stable_atoms.tolist() == [10] and not result.molecule_stable[0]


def test_an_over_crowded_atom_is_not_perceived_and_counted():
    around = np.vstack([np.eye(3), -np.eye(3)])
    crowded = Molecule([6] + [1] * 6, np.vstack([np.zeros(3), 1.1 * around]))
    result = score(crowded)
    assert result.stable_atoms.tolist() == [0] and result.num_not_perceived == 1


def test_qm9_is_stable_by_this_rule():
    result = stability(load_qm9(split="all", limit=2000), rule="formal_charge")
    assert result.molecule_fraction > 0.999 and result.atom_fraction > 0.999


def test_broken_coordinates_and_unknown_elements():
    packed = PackedMolecules.from_molecules([embed_smiles("C")[0]] * 2)
    positions = packed.positions.copy()
    positions[0, 0] = np.nan
    result = stability(PackedMolecules(packed.num_atoms, packed.atomic_numbers, positions), rule="formal_charge")
    assert result.molecule_stable.tolist() == [False, True] and result.num_not_finite == 1
    with pytest.raises(InvalidInput, match="got Na"):
        score(Molecule([11], [[0, 0, 0]]))
