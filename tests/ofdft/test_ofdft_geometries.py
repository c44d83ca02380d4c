"""Geometries that functionals are trained and tested on."""

import numpy as np
import pytest

from molkit.errors import InvalidInput
from molkit.ofdft.geometries import TORSIONS, compositions, dihedral_angle, geometry, torsion_points


def test_several_compositions_come_in_turn_and_every_one_is_displaced():
    drawn = [geometry("small", "train", k) for k in range(20)]
    assert [m.formula for m in drawn[:10]] == [m.formula for m in drawn[10:]]
    assert len({m.formula for m in drawn}) == 10
    assert np.abs(drawn[0].positions - drawn[10].positions).max() > 1e-3
    assert all((m.atomic_numbers > 1).sum() <= 2 for m in drawn)


def test_larger_molecules_are_others_than_the_small_ones():
    small = {geometry("small", "test", k).formula for k in range(10)}
    larger = [geometry("larger", "test", k) for k in range(9)]
    assert not small & {m.formula for m in larger}
    assert all((m.atomic_numbers > 1).sum() == 3 for m in larger)


def test_a_geometry_follows_from_split_and_index():
    np.testing.assert_array_equal(geometry("small", "valid", 3).positions, geometry("small", "valid", 3).positions)
    assert np.abs(geometry("small", "valid", 3).positions - geometry("small", "train", 3).positions).max() > 1e-3


def test_molecules_with_up_to_three_heavy_atoms_are_the_first_of_qm9():
    assert len(compositions()) == 19


def test_an_unknown_class_is_named():
    with pytest.raises(InvalidInput, match="small"):
        geometry("benzene", "train", 0)


def test_torsions_of_ethanol_turn_one_bond_and_nothing_else():
    resting = geometry("ethanol_torsions", "test", 0).positions
    for index, (name, degrees) in enumerate(torsion_points(), start=1):
        atoms, moving, _ = TORSIONS[name]
        turned = geometry("ethanol_torsions", "test", index).positions
        found = np.degrees(dihedral_angle(turned, atoms))
        assert abs((found - degrees + 180.0) % 360.0 - 180.0) < 1e-9
        still = [atom for atom in range(9) if atom not in moving]
        np.testing.assert_allclose(turned[still], resting[still], atol=1e-12)
        near, middle = atoms[2], turned[list(moving)]
        np.testing.assert_allclose(
            np.linalg.norm(middle - turned[near], axis=1),
            np.linalg.norm(resting[list(moving)] - resting[near], axis=1),
            atol=1e-12,
        )


def test_a_dihedral_angle_has_the_sign_of_the_chemists():
    # Seen along the middle bond, the last atom lies a quarter turn clockwise from the first: +90 degrees.
    positions = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    assert np.degrees(dihedral_angle(positions, (0, 1, 2, 3))) == pytest.approx(90.0)


def test_torsions_are_for_judging_only():
    with pytest.raises(InvalidInput, match="test geometries"):
        geometry("ethanol_torsions", "train", 1)
