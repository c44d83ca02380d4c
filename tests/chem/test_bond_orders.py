"""Bond orders from distances, against tabulated thresholds and molecules whose structure everybody knows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molkit.chem import bond_orders as bo
from molkit.errors import InvalidInput
from molkit.molecule import ATOMIC_NUMBER, PackedMolecules


def pair(first, second, distance, rule="qm9"):
    numbers = np.array([ATOMIC_NUMBER[first], ATOMIC_NUMBER[second]])
    return bo.bond_orders(np.array([[0.0, 0, 0], [distance, 0, 0]]), numbers, rule=rule)[0, 1]


def test_tables_are_symmetric_and_a_higher_order_needs_a_shorter_distance():
    limits = bo.thresholds()
    np.testing.assert_array_equal(limits, limits.transpose(0, 2, 1))
    assert (limits[1] <= limits[0]).all() and (limits[2] <= limits[1]).all()


@pytest.mark.parametrize(
    ("first", "second", "limits"),
    [("C", "C", (1.64, 1.39, 1.23)), ("C", "N", (1.57, 1.34, 1.19)), ("C", "O", (1.53, 1.25, 1.16)),
     ("N", "N", (1.55, 1.30, 1.13)), ("N", "O", (1.50, 1.26, 0.0)), ("C", "H", (1.19, 0.0, 0.0)),
     ("H", "H", (0.84, 0.0, 0.0)), ("S", "C", (1.92, 1.65, 0.0)), ("Si", "Br", (2.25, 0.0, 0.0))],
)  # fmt: skip
def test_orders_change_at_bond_length_plus_margin(first, second, limits):
    for order, limit in enumerate(limits, start=1):
        if limit:
            assert pair(first, second, limit - 1e-3) == order
            assert pair(first, second, limit + 1e-3) == order - 1


def test_carbon_sulphur_double_bonds_are_found_from_both_sides():
    assert pair("C", "S", 1.60) == pair("S", "C", 1.60) == 2
    assert pair("S", "C", 1.60, rule="geom") == 2


def test_a_bond_stands_in_both_directions():
    orders = bo.bond_orders(np.array([[0.0, 0.0, 0.0], [1.2, 0.0, 0.0], [2.4, 0.0, 0.0]]), np.array([8, 6, 8]))
    assert orders.tolist() == [[0, 2, 0], [2, 0, 2], [0, 2, 0]]


def test_pairs_without_a_tabulated_length_are_never_bonded():
    assert pair("B", "C", 1.5) == 0
    assert pair("Al", "C", 1.9, rule="geom") == 0


def test_an_element_outside_the_rule_is_named():
    with pytest.raises(InvalidInput, match="got Al at atom 0"):
        pair("Al", "C", 1.9)
    with pytest.raises(InvalidInput, match="qm9, geom"):
        pair("C", "C", 1.5, rule="other")


def test_a_single_atom_has_no_bonds():
    assert bo.bond_orders(np.zeros((1, 3)), np.array([6])).tolist() == [[0]]


def plain_loops(positions, numbers):
    """The rule written as the loops of its definition."""
    limits = bo.thresholds()
    orders = np.zeros((len(numbers), len(numbers)), dtype=np.int8)
    for a in range(len(numbers)):
        for b in range(len(numbers)):
            distance = np.linalg.norm(positions[a] - positions[b]) * 100
            for order in (1, 2, 3):
                if a != b and distance < limits[order - 1, numbers[a], numbers[b]]:
                    orders[a, b] = order
    return orders


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 12), min_size=1, max_size=8))
def test_packed_bonds_equal_the_loops_of_the_definition(seed, sizes):
    random = np.random.default_rng(seed)
    numbers = random.choice([1, 6, 7, 8, 9], size=sum(sizes))
    packed = PackedMolecules(np.array(sizes), numbers, random.normal(scale=1.2, size=(sum(sizes), 3)))
    bonds = bo.packed_bonds(packed)
    valences = np.concatenate([plain_loops(m.positions, m.atomic_numbers).sum(1) for m in packed])
    np.testing.assert_array_equal(bonds.valences(len(numbers)), valences)
    np.testing.assert_array_equal(bo.packed_valences(packed), valences)
    exact = np.linalg.norm(packed.positions[bonds.first] - packed.positions[bonds.second], axis=1)
    np.testing.assert_allclose(bonds.length, exact, rtol=1e-5)
    assert (bonds.first < bonds.second).all()


def test_an_empty_pack_has_no_bonds():
    assert len(bo.packed_bonds(PackedMolecules.from_molecules([])).order) == 0
