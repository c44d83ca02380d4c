"""Exact and closed-form facts about the measures of the relaxation study."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from molkit.chem.xtb import EnergyForces
from molkit.errors import InvalidInput
from molkit.geometry import aligned_rmsd, best_rotations, superpose
from molkit.graphs import Graph
from molkit.metrics.statistics import Interval
from molkit.relaxation import boltzmann, phases
from molkit.relaxation.alignment import alignment, cosines
from molkit.relaxation.comparison import excess_ratio, parts_of_excess, same_minimum

WATER = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])


class Springs:
    """Harmonic bonds between all pairs of atoms, lengths as in WATER."""

    def __init__(self, constants=(30.0, 40.0, 8.0)):
        self.pairs, self.constants = ((0, 1), (0, 2), (1, 2)), constants

    def __call__(self, positions):
        energy, forces = 0.0, np.zeros_like(positions)
        for (i, j), k in zip(self.pairs, self.constants, strict=True):
            way = positions[i] - positions[j]
            length = np.linalg.norm(way)
            stretch = length - np.linalg.norm(WATER[i] - WATER[j])
            energy += 0.5 * k * stretch**2
            forces[i] -= k * stretch * way / length
            forces[j] += k * stretch * way / length
        return EnergyForces(energy, forces)


def test_an_entry_is_final_from_the_last_change_on():
    values = np.array([[1, 5], [2, 5], [1, 5], [1, 5]])
    assert phases.final_step(values, np.array([3, 2, 1, 0])).tolist() == [1, 3]
    assert phases.share_final(np.array([1, 3]), np.array([3, 2, 1, 0])).tolist() == [0.5, 0.5, 1.0, 1.0]
    with pytest.raises(InvalidInput, match="falling"):
        phases.final_step(values, np.array([0, 1, 2, 3]))


def test_bond_length_errors_are_not_rounded():
    frames = np.stack([WATER * [1.1, 1, 1], WATER])
    first, last = phases.bond_length_errors(frames, np.array([8, 1, 1]))
    assert last == 0.0 and 0.0 < first < 0.1


def test_superposing_undoes_a_rotation_and_leaves_mirror_images_apart():
    random = np.random.default_rng(0)
    target = random.normal(size=(7, 3))
    turned = target @ Rotation.random(random_state=1).as_matrix().T + 3.0
    np.testing.assert_allclose(superpose(turned, target), target, atol=1e-12)
    mirrored = superpose(target * [-1, 1, 1], target)
    assert np.sqrt(((mirrored - target) ** 2).sum(-1).mean()) == pytest.approx(
        aligned_rmsd(target * [-1, 1, 1], target), rel=1e-9
    )


def test_the_batched_rotation_agrees_with_the_single_one():
    random = np.random.default_rng(2)
    sizes = [4, 6]
    graph = Graph.from_sizes(torch.tensor(sizes))
    moving, fixed = (graph.centre(torch.from_numpy(random.normal(size=(10, 3)))) for _ in range(2))
    rotation = best_rotations(moving, fixed, graph.batch, 2)
    turned = (moving[:, None, :] @ rotation[graph.batch])[:, 0].numpy()
    for rows in (slice(0, 4), slice(4, 10)):
        np.testing.assert_allclose(turned[rows], superpose(moving[rows].numpy(), fixed[rows].numpy()), atol=1e-10)


def test_cosines_count_a_zero_vector_as_zero():
    first = np.array([[[1.0, 0, 0], [0, 0, 0]]])
    assert cosines(first, first)[0] == pytest.approx(0.5)


def test_a_chain_straight_to_the_minimum_is_aligned_with_it():
    start = WATER + np.array([[0.1, 0, 0], [-0.1, 0, 0], [0, 0.05, 0]])
    frames = phases.straight_line(start, superpose(WATER, start), 5)
    found = alignment(frames, -(frames - frames[-1]), WATER, lag=2)
    assert found.with_minimum.min() > 0.98 and found.with_force.min() > 0.9


def test_the_hessian_of_springs_has_three_modes_and_the_trace_of_its_springs():
    energy = Springs()
    found = boltzmann.modes(boltzmann.cartesian_hessian(energy, WATER), WATER)
    assert found.constants.shape == (3,) and found.vectors.shape == (3, 3, 3)
    assert found.trace == pytest.approx(2 * (30.0 + 40.0 + 8.0), rel=1e-4)


@pytest.mark.parametrize(("power", "expected"), [(-1.0, -1.0), (0.0, 0.0)])
def test_the_mode_slope_tells_boltzmann_from_isotropic_noise(power, expected):
    random = np.random.default_rng(3)
    constants = np.exp(random.uniform(0, 5, size=60))
    molecules = np.repeat([0, 1, 2], 20)
    variances = constants**power * np.exp(molecules) * random.chisquare(400, size=60) / 400
    slope = boltzmann.mode_slope(constants, variances, molecules)
    assert slope.low < expected < slope.high and slope.high - slope.low < 0.1
    assert (boltzmann.slope_missed_by(slope) == 0.0) == (expected == -1.0)


def test_an_interval_that_holds_both_slopes_does_not_pass():
    assert boltzmann.slope_missed_by(Interval(-0.5, -1.2, 0.1)) == 1.0
    assert boltzmann.slope_missed_by(Interval(-0.2, -0.4, -0.1)) == pytest.approx(0.6)


def test_a_metropolis_chain_of_springs_has_the_boltzmann_energy_and_slope():
    """M modes hold M kT / 2 on average; the springs are stiff enough to be harmonic at 100 K."""
    energy = Springs()
    found = boltzmann.modes(boltzmann.cartesian_hessian(energy, WATER), WATER)
    chain = boltzmann.metropolis(
        energy, WATER, found, kelvin=100.0, num_steps=20_000, thin=4, generator=np.random.default_rng(4)
    )
    heat = 8.617333262e-5 * 100.0
    assert 0.2 < chain.acceptance < 0.9 and chain.num_failed == 0
    assert chain.energies.mean() == pytest.approx(1.5 * heat, rel=0.1)
    assert chain.energies.std() / chain.energies.mean() == pytest.approx(boltzmann.boltzmann_spread(3), rel=0.1)
    variances = boltzmann.mode_amplitudes(chain.positions, WATER, found).var(axis=0)
    np.testing.assert_allclose(variances * found.constants, heat, rtol=0.15)


def test_effective_samples_of_an_autoregression():
    """x' = a x + noise has the integrated autocorrelation (1 + a) / (1 - a)."""
    random = np.random.default_rng(5)
    noise, series = random.normal(size=40_000), np.zeros(40_000)
    for k in range(1, len(series)):
        series[k] = 0.8 * series[k - 1] + noise[k]
    assert boltzmann.effective_samples(series) == pytest.approx(40_000 / 9.0, rel=0.15)
    assert boltzmann.effective_samples(noise) == pytest.approx(40_000, rel=0.05)


def test_isotropic_noise_spreads_more_than_boltzmann_unless_all_modes_are_equal():
    assert boltzmann.isotropic_spread(np.full(8, 3.0)) == pytest.approx(boltzmann.boltzmann_spread(8))
    assert boltzmann.isotropic_spread(np.array([1.0, 10.0, 40.0])) > boltzmann.boltzmann_spread(3)


def test_ratios_of_excesses_and_what_counts_as_one_minimum():
    assert excess_ratio(np.array([4.0, 2.0]), np.array([0.4, 0.2])).value == pytest.approx(10.0)
    apart, energies = np.array([0.0, 0.3, 0.0]), np.array([-10.0, -10.0, -9.4])
    assert same_minimum(apart, energies, np.full(3, -10.0)).tolist() == [True, False, False]


def test_the_highest_rise_of_a_path_is_above_its_ends():
    assert phases.highest_rise(np.array([3.0, 5.0, math.nan, 0.0])) == pytest.approx(2.0)
    assert phases.highest_rise(np.array([3.0, 1.0, 0.0])) == 0.0


def test_a_molecule_is_final_with_the_last_of_its_atoms():
    assert phases.molecule_final(np.array([[5, 2], [7, 9]])).tolist() == [2, 7]


def test_a_changed_angle_costs_nothing_in_bonds_and_a_stretched_bond_all_of_it():
    """Water on springs: two bonds, and the spring between the hydrogens in the place of an angle's."""
    springs, numbers = Springs(), np.array([8, 1, 1])
    found = boltzmann.modes(boltzmann.cartesian_hessian(springs, WATER), WATER)
    turn = Rotation.from_rotvec([0.0, 0.0, 0.05]).as_matrix()
    bent, stretched = WATER.copy(), WATER.copy()
    bent[2] = turn @ WATER[2]
    bonds, angles = parts_of_excess(bent, WATER, numbers, found)
    assert bonds == pytest.approx(0.0, abs=1e-9) and angles == pytest.approx(springs(bent).energy, rel=0.05)
    stretched[1] *= 1.02
    bonds, angles = parts_of_excess(stretched, WATER, numbers, found)
    away = 0.02 * 0.96
    assert bonds == pytest.approx(0.5 * 30.0 * away**2, rel=1e-3), "the third spring relaxes by the angle"
    assert bonds + angles == pytest.approx(springs(stretched).energy, rel=0.05)


def test_turning_a_torsion_costs_neither_bonds_nor_angles():
    places = np.array([[0.0, 0.0, 0.0], [1.45, 0.0, 0.0], [-0.1, 0.95, 0.0], [1.55, -0.4, 0.87]])
    free = np.linalg.svd(boltzmann.rigid_motions(places))[2][6:]
    modes = boltzmann.Modes(np.ones(6), free.reshape(6, 4, 3))
    turned = places.copy()
    turned[3] = Rotation.from_rotvec([0.2, 0.0, 0.0]).as_matrix() @ places[3]
    assert parts_of_excess(turned, places, np.array([8, 8, 1, 1]), modes) == pytest.approx([0.0, 0.0], abs=1e-9)
