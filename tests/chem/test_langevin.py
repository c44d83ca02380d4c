import numpy as np
import pytest

from molkit.chem.xtb import EnergyForces, LangevinRules, langevin
from molkit.errors import InvalidInput
from molkit.molecule import Molecule
from molkit.units import BOLTZMANN_EV

WELL = 5.0  # eV/angstrom^2


def harmonic(positions):
    return EnergyForces(0.5 * WELL * float((positions**2).sum()), -WELL * positions)


def test_a_harmonic_well_has_the_energy_of_its_temperature():
    """Equipartition: kT / 2 for each of the 3 A coordinates, potential and kinetic."""
    gas = Molecule([6] * 20, np.zeros((20, 3)))
    rules = LangevinRules(kelvin=400.0, friction_per_fs=0.05, settle=500, every=50)
    frames = list(langevin(gas, num_frames=60, seed=1, rules=rules, energy=harmonic))
    wanted = 0.5 * 60 * BOLTZMANN_EV * 400.0
    assert np.mean([frame.potential for frame in frames]) == pytest.approx(wanted, rel=0.08)
    assert np.mean([frame.kelvin for frame in frames]) == pytest.approx(400.0, rel=0.08)


def test_the_same_seed_gives_the_same_trajectory():
    one = Molecule([6, 8], np.zeros((2, 3)))
    rules = LangevinRules(settle=5, every=2)
    first, second, other = (
        [frame.positions for frame in langevin(one, num_frames=3, seed=seed, rules=rules, energy=harmonic)]
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert np.abs(np.array(first) - np.array(other)).max() > 1e-3


def test_xtb_moves_water_without_breaking_it():
    water = Molecule([8, 1, 1], [[0.0, 0.0, 0.0], [0.7572, 0.5865, 0.0], [-0.7572, 0.5865, 0.0]])
    frames = list(langevin(water, num_frames=3, seed=0, rules=LangevinRules(settle=20, every=10)))
    lengths = [np.linalg.norm(frame.positions[1:] - frame.positions[0], axis=1) for frame in frames]
    assert all((one > 0.8).all() and (one < 1.15).all() for one in lengths)


@pytest.mark.parametrize("wrong", [{"kelvin": 0.0}, {"every": 0}, {"settle": -1}])
def test_wrong_rules_are_refused(wrong):
    with pytest.raises(InvalidInput):
        LangevinRules(**wrong)
