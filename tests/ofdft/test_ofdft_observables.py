"""Dipoles, charges and points against quadrature and PySCF."""

import numpy as np
import pytest
from pyscf.scf import hf

from molkit.ofdft.classical import ClassicalEnergy
from molkit.ofdft.observables import DEBYE_PER_ATOMIC_UNIT, atomic_charges, density_at, dipole, moments
from molkit.ofdft.optimise import OptimiseOptions, optimise
from molkit.studies.ofdft_classical import HELIUM, solved


def test_first_moments_are_those_of_the_quadrature(water_system):
    grid = water_system.grid
    by_grid = (grid.weights[:, None] * grid.points).T @ grid.density_functions[0]
    assert np.abs(by_grid - moments(water_system.molecule)).max() < 5e-3
    p_functions = np.abs(moments(water_system.molecule)[:, 11:35]) > 0  # oxygen lies at the origin, its s functions too
    assert p_functions.sum() == 24


def test_the_dipole_is_that_of_the_quadrature_and_near_that_of_the_orbitals(water_system, water_run):
    matrix, grid = water_run.steps[-1].matrix, water_system.grid
    coefficients = water_system.fit(matrix[None])
    fitted = dipole(water_system.molecule, coefficients[0])
    weighted = grid.weights * grid.fields(coefficients)[0, 0]
    nuclei, charges = water_system.orbitals.atom_coords(), water_system.orbitals.atom_charges()
    centre = charges @ nuclei / charges.sum()
    by_grid = charges @ (nuclei - centre) - weighted @ (grid.points - centre)
    assert np.abs(fitted - DEBYE_PER_ATOMIC_UNIT * by_grid).max() < 5e-3
    exact = hf.dip_moment(water_system.orbitals, matrix, unit="Debye", verbose=0)
    assert np.abs(fitted - exact).max() < 0.1  # the fit keeps energies, not moments


def test_charges_of_the_atoms_sum_to_the_missing_electrons(water_system, water_run):
    coefficients = water_system.fit(water_run.steps[-1].matrix[None])[0]
    charges = atomic_charges(water_system.molecule, coefficients)
    missing = 10.0 - coefficients @ water_system.integrals.basis_integrals
    assert charges.shape == (3,) and abs(charges.sum() - missing) < 1e-10


def test_density_at_points_is_that_of_the_grid(water_system, water_run):
    coefficients = water_system.fit(water_run.steps[-1].matrix[None])
    found = density_at(water_system.molecule, coefficients[0], water_system.grid.points[:20])
    np.testing.assert_allclose(found, water_system.grid.fields(coefficients)[0, 0, :20], rtol=1e-10)


@pytest.mark.parametrize("exchange_correlation", [True, False])
def test_the_gradient_of_a_classical_energy_is_that_of_finite_differences(
    water_system, water_run, exchange_correlation
):
    integrals, grid = water_system.integrals, water_system.grid
    energy = ClassicalEnergy("APBE", integrals, grid, exchange_correlation=exchange_correlation)
    natural = energy.start(water_system.fit(water_run.steps[-1].matrix[None])[0])
    assert abs(energy.constraint @ natural - 10.0) < 1e-10
    direction = np.random.default_rng(0).standard_normal(len(natural))
    ends = [energy(natural + sign * 1e-5 * direction)[0] for sign in (1, -1)]
    slope = energy(natural)[1] @ direction
    assert abs((ends[0] - ends[1]) / 2e-5 - slope) < 1e-4 * abs(slope)


def test_helium_with_its_exact_functional_has_one_minimum():
    system, run = solved(HELIUM, grid_level=1)
    energy = ClassicalEnergy("vW", system.integrals, system.grid)
    starts = [energy.start(system.fit(step.matrix[None])[0]) for step in (run.steps[0], run.steps[-1])]
    ends = [optimise(energy, s, constraint=energy.constraint, options=OptimiseOptions(tolerance=1e-4)) for s in starts]
    assert all(end.converged for end in ends)
    assert abs(ends[0].energy - ends[1].energy) < 1e-6
    assert -5e-3 < ends[0].energy - run.energy < -1e-3
