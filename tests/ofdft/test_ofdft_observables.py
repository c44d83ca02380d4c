"""Dipoles, charges and points against quadrature and PySCF."""

import numpy as np
import pytest
from pyscf import dft, gto, scf
from pyscf.scf import hf
from scipy.spatial.transform import Rotation

from molkit.ofdft.basis import density_mole, orbital_mole
from molkit.ofdft.classical import ClassicalEnergy
from molkit.ofdft.fitting import fitted_density
from molkit.ofdft.frames import coefficient_rotation
from molkit.ofdft.geometries import compositions
from molkit.ofdft.kohn_sham import solved
from molkit.ofdft.observables import DEBYE_PER_ATOMIC_UNIT, density_at, dipole, hirshfeld_charges, moments
from molkit.ofdft.optimise import OptimiseOptions, optimise
from molkit.studies.ofdft.kinetic_functionals import SMALL


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


def test_hirshfeld_charges_sum_to_zero_and_turn_with_the_molecule(water_system, water_run):
    coefficients = water_system.fit(water_run.steps[-1].matrix[None])[0]
    charges = hirshfeld_charges(water_system.molecule, coefficients)
    assert abs(charges.sum()) < 1e-12 and -0.34 < charges[0] < -0.26
    rotation = Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix()
    turned = water_system.molecule.with_positions(water_system.molecule.positions @ rotation.T + 1.0)
    density = density_mole(turned)
    again = hirshfeld_charges(turned, coefficient_rotation(density, rotation) @ coefficients)
    np.testing.assert_allclose(again, charges, atol=5e-4)


def test_hirshfeld_charges_are_those_of_the_orbitals_by_pyscf_and_other_round_atoms():
    """Hydrogen cyanide: PySCF's density matrix on its own grid, shares from unrestricted Hartree-Fock atoms that are
    averaged over directions and tabulated on radii."""
    cyanide = compositions()[4]
    assert cyanide.formula == "CHN"
    field = dft.RKS(orbital_mole(cyanide), xc="pbe").run()
    points, weights = field.grids.coords, field.grids.weights
    rho = dft.numint.eval_rho(field.mol, dft.numint.eval_ao(field.mol, points), field.make_rdm1())
    directions, radii = Rotation.random(60, random_state=1).as_matrix()[:, 0], np.geomspace(1e-3, 20.0, 300)
    alone = []
    for symbol, unpaired, place in zip("CNH", (2, 3, 1), field.mol.atom_coords(), strict=True):
        atom = gto.M(atom=[(symbol, (0, 0, 0))], basis="6-31g(2df,p)", spin=unpaired, verbose=0)
        values = dft.numint.eval_ao(atom, (radii[:, None, None] * directions).reshape(-1, 3))
        matrix = scf.UHF(atom).run().make_rdm1().sum(0)
        table = np.einsum("gn,nm,gm->g", values, matrix, values).reshape(len(radii), -1).mean(1)
        distances = np.linalg.norm(points - place, axis=1)
        alone.append(np.exp(np.interp(np.log(distances), np.log(radii), np.log(table + 1e-60))))
    expected = np.array([6, 7, 1]) - np.array(alone) @ (weights * rho / np.sum(alone, axis=0))
    assert list(cyanide.symbols) == ["C", "N", "H"]
    found = hirshfeld_charges(cyanide, fitted_density(cyanide, field.make_rdm1()))
    assert found[1] < -0.1 and np.abs(found - expected).max() < 0.03


def test_a_fit_of_one_density_is_that_of_the_labels(water_system, water_run):
    matrix = water_run.steps[-1].matrix
    np.testing.assert_allclose(
        fitted_density(water_system.molecule, matrix), water_system.fit(matrix[None])[0], atol=1e-7
    )


def test_density_at_points_is_that_of_the_grid(water_system, water_run):
    coefficients = water_system.fit(water_run.steps[-1].matrix[None])
    found = density_at(water_system.molecule, coefficients[0], water_system.grid.points[:20])
    np.testing.assert_allclose(found, water_system.grid.fields(coefficients)[0, 0, :20], rtol=1e-6)


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
    system, run = solved(SMALL["He"], grid_level=1)
    energy = ClassicalEnergy("vW", system.integrals, system.grid)
    starts = [energy.start(system.fit(step.matrix[None])[0]) for step in (run.steps[0], run.steps[-1])]
    ends = [optimise(energy, s, constraint=energy.constraint, options=OptimiseOptions(tolerance=1e-4)) for s in starts]
    assert all(end.converged for end in ends)
    assert abs(ends[0].energy - ends[1].energy) < 1e-6
    assert -5e-3 < ends[0].energy - run.energy < -1e-3
