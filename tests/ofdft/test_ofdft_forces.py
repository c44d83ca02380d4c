"""Forces: the theorem of Hellmann and Feynman, what moves with the atoms, and PySCF's analytic forces."""

import numpy as np
import pytest
from pyscf import gto

from molkit.errors import InvalidInput
from molkit.molecule import Molecule
from molkit.ofdft.basis import density_mole
from molkit.ofdft.compact import load
from molkit.ofdft.forces import central_differences, forces, hellmann_feynman, nuclear_repulsion_forces
from molkit.ofdft.geometries import geometry
from molkit.ofdft.guess import guess_coefficients
from molkit.ofdft.integrals import density_integrals
from molkit.ofdft.reference_energies import pbe_energy, pbe_forces
from molkit.studies.ofdft import forces as page
from molkit.studies.ofdft.forces import minimised
from molkit.units import ANGSTROM_TO_BOHR

WATER = geometry("water", "test", 3)


def test_electrostatic_forces_are_those_of_moved_nuclei_in_a_fixed_density():
    density = density_mole(WATER)
    coefficients = guess_coefficients(density_integrals(WATER), "minao")

    def energy(moved):
        charges, numbers = moved.positions * ANGSTROM_TO_BOHR, moved.atomic_numbers.astype(float)
        attraction = -gto.intor_cross("int2c2e", density, gto.fakemol_for_charges(charges)) @ numbers @ coefficients
        distances = np.linalg.norm(charges[:, None] - charges[None], axis=-1) + np.diag([np.inf] * len(numbers))
        return attraction + 0.5 * (numbers[:, None] * numbers / distances).sum()

    numeric = -central_differences(energy, WATER)
    assert np.abs(hellmann_feynman(WATER, coefficients) - numeric).max() < 1e-4
    assert np.abs(nuclear_repulsion_forces(density.atom_coords(), density.atom_charges()).sum(0)).max() < 1e-12


def test_forces_with_everything_moving_are_differences_of_minimised_energies():
    functional = load("ofdft_water")
    _, result = minimised(functional, WATER)
    found = forces(functional.energy_of, WATER, result.variables)
    numeric = -central_differences(lambda moved: minimised(functional, moved)[1].energy, WATER)
    assert np.abs(found - numeric).max() < 1e-7 and np.abs(found.sum(0)).max() < 1e-6
    assert np.abs(np.cross(WATER.positions * ANGSTROM_TO_BOHR, found).sum(0)).max() < 1e-6


def test_analytic_forces_of_kohn_sham_are_differences_of_its_energies():
    molecule = Molecule(np.array([1, 9]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.95]]), name="HF")
    along = pbe_forces(molecule, grid_level=1)[1, 2]
    ends = []
    for sign in (1.0, -1.0):
        moved = molecule.positions + np.array([[0.0] * 3, [0.0, 0.0, sign * 1e-3 / ANGSTROM_TO_BOHR]])
        ends.append(pbe_energy(Molecule(molecule.atomic_numbers, moved), "6-31g(2df,p)", grid_level=1)[0])
    assert abs(along + (ends[0] - ends[1]) / 2e-3) < 2e-5


def test_forces_of_water_are_near_those_of_kohn_sham():
    (task,) = page.tasks(count=1, grid_level=1)
    (row,) = page.measure(task)
    assert row["error"] < 0.05 * row["kohn_sham"] and row["differences"] < 1e-3
    assert row["electrostatic"] < 0.1 * row["missed"]


def test_huckel_is_another_density_of_the_same_electrons():
    integrals = density_integrals(WATER)
    found, minao = (guess_coefficients(integrals, kind) for kind in ("huckel", "minao"))
    assert abs(integrals.basis_integrals @ found - 10.0) < 0.01 and np.abs(found - minao).max() > 1e-2
    with pytest.raises(InvalidInput, match="minao, huckel"):
        guess_coefficients(integrals, "nothing")
