"""Density basis: sizes, integrals against quadrature, fit, and what is refused."""

import numpy as np
import pytest

from molkit.errors import InvalidInput
from molkit.molecule import Molecule
from molkit.ofdft import basis
from molkit.ofdft.geometries import ethanol, geometry, water
from molkit.ofdft.integrals import basis_integrals


def shells_by_momentum(symbol):
    momenta = [entry[0] for entry in basis.density_shells()[symbol]]
    return [momenta.count(momentum) for momentum in range(5)]


def test_the_density_basis_has_the_published_shells():
    assert shells_by_momentum("H") == [6, 3, 1, 0, 0]
    assert shells_by_momentum("C") == [11, 8, 7, 3, 2]
    assert all(shells_by_momentum(symbol) == [11, 8, 7, 4, 2] for symbol in "NOF")


@pytest.mark.parametrize("molecule, size", [(water("train", 0), 156), (ethanol("train", 0), 454)])
def test_a_molecule_has_the_sum_of_its_atoms(molecule, size):
    assert basis.density_mole(molecule).nao == size


def test_helium_has_twenty_functions_of_its_own():
    helium = Molecule(np.array([2]), np.zeros((1, 3)))
    assert basis.density_mole(helium).nao == 20


def test_integrals_of_functions_are_those_of_the_quadrature(water_system):
    grid = water_system.grid
    by_grid = grid.weights @ grid.density_functions[0]
    smooth = np.abs(by_grid - water_system.integrals.basis_integrals) < 1e-3
    assert smooth.all()
    assert np.array_equal(basis_integrals(basis.density_mole(water_system.molecule)) == 0.0, np.abs(by_grid) < 1e-3)


def test_roots_of_the_overlap_multiply_to_it(water_system):
    root, inverse = water_system.integrals.roots
    np.testing.assert_allclose(root @ root, water_system.integrals.overlap, atol=1e-11)
    np.testing.assert_allclose(root @ inverse, np.eye(len(root)), atol=1e-9)


def test_the_fit_keeps_the_external_energy_and_nearly_the_others(water_system, water_run):
    last = water_run.steps[-1]
    coefficients = water_system.fit(last.matrix[None])[0]
    integrals = water_system.integrals
    hartree = 0.5 * coefficients @ integrals.coulomb @ coefficients
    assert abs(coefficients @ integrals.external - last.parts.external) < 1e-8
    assert abs(hartree - last.parts.hartree) < 1e-4
    assert abs(coefficients @ integrals.basis_integrals - 10.0) < 2e-3


@pytest.mark.parametrize(
    "numbers, positions, options, word",
    [
        ([16, 1, 1], [[0, 0, 0], [1, 0, 0], [0, 1, 0]], {}, "elements"),
        ([8, 1, 1], [[0, 0, 0], [1, 0, 0], [0, 1, 0]], {"charge": 1}, "neutral"),
        ([8, 1], [[0, 0, 0], [1, 0, 0]], {}, "closed-shell"),
        ([8, 8], [[0, 0, 0], [1.2, 0, 0]], {"spin": 2}, r"got charge 0, spin 2 \(unpaired electrons\)"),
        ([8, 1, 1], [[0, 0, 0], [0.1, 0, 0], [0, 1, 0]], {}, "bohr apart"),
    ],
)
def test_what_the_method_does_not_treat_is_refused(numbers, positions, options, word):
    with pytest.raises(InvalidInput, match=word):
        basis.orbital_mole(Molecule(np.array(numbers), np.array(positions, dtype=float), **options))


def test_geometries_follow_from_split_and_index():
    assert np.array_equal(water("test", 3).positions, water("test", 3).positions)
    assert not np.allclose(water("test", 3).positions, water("train", 3).positions)
    train = {ethanol("train", k).positions.tobytes() for k in (0, 899)}
    assert train.isdisjoint({ethanol("valid", 0).positions.tobytes(), ethanol("test", 0).positions.tobytes()})
    with pytest.raises(InvalidInput, match="900 frames"):
        geometry("ethanol", "train", 900)
    with pytest.raises(InvalidInput, match="split"):
        geometry("water", "all", 0)
