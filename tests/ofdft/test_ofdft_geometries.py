"""Geometries that functionals are trained and tested on."""

import numpy as np
import pytest

from molkit.errors import InvalidInput
from molkit.ofdft.geometries import compositions, geometry


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
