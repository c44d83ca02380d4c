"""Composition, bond lengths and angles of known molecules, and distances between known distributions."""

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from molkit.data.qm9 import load_qm9
from molkit.errors import InvalidInput
from molkit.metrics import distributions as di
from molkit.metrics.distributions import (
    Owned,
    bond_angles,
    bond_lengths,
    owned_bond_angles,
    owned_bond_lengths,
    wasserstein,
    wasserstein_over_molecules,
)
from molkit.molecule import Molecule, PackedMolecules


def methane(bond=1.09):
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    return Molecule([6, 1, 1, 1, 1], np.vstack([np.zeros(3), bond * corners]))


def water():
    angle = np.radians(104.5 / 2)
    return Molecule(
        [1, 8, 1], 0.96 * np.array([[np.sin(angle), np.cos(angle), 0], [0, 0, 0], [-np.sin(angle), np.cos(angle), 0]])
    )


PACK = PackedMolecules.from_molecules([methane(1.08), methane(1.10), water()])


def test_composition_of_known_molecules():
    assert di.element_fractions(PACK) == {"H": 10 / 13, "C": 2 / 13, "O": 1 / 13}
    assert di.size_counts(PACK) == {3: 1, 5: 2}


def test_bond_lengths_by_kind():
    lengths = di.bond_lengths(PACK)
    assert list(lengths) == ["C-H", "H-O"]
    np.testing.assert_allclose(np.sort(lengths["C-H"]), [1.08] * 4 + [1.10] * 4, rtol=1e-6)
    np.testing.assert_allclose(lengths["H-O"], [0.96] * 2, rtol=1e-6)


def test_bond_angles_by_kind():
    angles = di.bond_angles(PACK)
    assert {kind: len(values) for kind, values in angles.items()} == {"H-C-H": 12, "H-O-H": 1}
    np.testing.assert_allclose(angles["H-C-H"], np.degrees(np.arccos(-1 / 3)), rtol=1e-5)
    np.testing.assert_allclose(angles["H-O-H"], 104.5, rtol=1e-5)


def test_double_and_triple_bonds_have_kinds_of_their_own():
    acid = Molecule([7, 6, 8, 1], [[0, 0, 0], [1.16, 0, 0], [8.0, 0, 0], [8.96, 0, 0]])
    assert set(di.bond_lengths(PackedMolecules.from_molecules([acid]))) == {"C#N", "H-O"}


def test_atoms_on_top_of_each_other_have_no_angle():
    overlapping = Molecule([6, 1, 1], [[0, 0, 0], [0, 0, 0], [1.1, 0, 0]])
    angles = di.bond_angles(PackedMolecules.from_molecules([overlapping]))
    assert all(np.isfinite(values).all() for values in angles.values())
    assert "H-C-H" not in angles


def test_wasserstein_distance_equals_scipys_and_a_shift_is_its_length():
    random = np.random.default_rng(0)
    first, second = random.normal(size=37), random.gamma(2.0, size=50)
    assert di.wasserstein(first, second) == pytest.approx(wasserstein_distance(first, second), rel=1e-12)
    assert di.wasserstein(first, first + 0.7) == pytest.approx(0.7)
    assert di.wasserstein(first, first) == 0.0
    with pytest.raises(InvalidInput, match="1 NaN or infinite"):
        di.wasserstein(first, np.array([1.0, np.nan]))
    with pytest.raises(InvalidInput, match="finite values, got 0"):
        di.wasserstein(first, np.array([]))


def test_total_variation_of_known_histograms():
    assert di.total_variation({"a": 1, "b": 1}, {"a": 30, "b": 30}) == 0.0
    assert di.total_variation({"a": 1}, {"b": 5}) == 1.0
    assert di.total_variation({1: 3, 2: 1}, {1: 1, 2: 1}) == pytest.approx(0.25)
    with pytest.raises(InvalidInput, match="empty"):
        di.total_variation({}, {1: 1})


def test_a_comparison_lists_every_kind_and_leaves_out_distances_of_rare_ones():
    rows = di.compare_distributions(PackedMolecules.from_molecules([methane()] * 20), PACK, min_count=5)
    table = {(row.quantity, row.kind): row for row in rows}
    assert table["bond_length", "C-H"].distance == pytest.approx(0.01, rel=1e-4)
    assert table["bond_length", "H-O"].distance is None and table["bond_length", "H-O"].num_samples == 0
    assert table["bond_angle", "H-C-H"].distance == pytest.approx(0.0, abs=1e-3)
    assert table["num_atoms", "all"].distance == pytest.approx(1 / 3)


def test_molecules_without_bonds_compare_without_an_error():
    lone = PackedMolecules.from_molecules([Molecule([6], [[0, 0, 0]])])
    assert di.bond_lengths(lone) == {} and di.bond_angles(lone) == {}


def test_the_interval_of_a_distance_resamples_molecules():
    """Ten equal bonds in a molecule say no more than one: the interval is as wide as with one bond each."""
    random = np.random.default_rng(0)
    lengths, reference = random.normal(1.1, 0.02, 300), random.normal(1.09, 0.02, 3000)
    single = Owned(lengths, np.arange(300))
    tenfold = Owned(np.repeat(lengths, 10), np.repeat(np.arange(300), 10))
    other = Owned(reference, np.arange(3000))
    first = wasserstein_over_molecules(single, other, num_molecules=300)
    second = wasserstein_over_molecules(tenfold, other, num_molecules=300)
    assert first.value == pytest.approx(wasserstein(lengths, reference))
    assert (first.low, first.high) == pytest.approx((second.low, second.high))
    assert first.low < 0.01 < first.high


def test_bonds_and_angles_know_their_molecules():
    pack = load_qm9(split="test", limit=20)
    for owned, plain in ((owned_bond_lengths, bond_lengths), (owned_bond_angles, bond_angles)):
        alone = plain(PackedMolecules.from_molecules([pack[3]]))
        for kind, found in owned(pack).items():
            np.testing.assert_array_equal(found.values[found.owners == 3], alone.get(kind, np.zeros(0)))
