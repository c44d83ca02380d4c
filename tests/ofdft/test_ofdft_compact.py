"""Frames, reduction and the compact functional: symmetry, derivatives, and a minimisation that lands."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from molkit.errors import InvalidInput
from molkit.molecule import Molecule
from molkit.ofdft.basis import density_mole
from molkit.ofdft.classes import WATER, class_named, monomials
from molkit.ofdft.compact import CompactConfig, assemble, load, save
from molkit.ofdft.compact_training import CompactData, CompactTask, prepare
from molkit.ofdft.frames import bisector_frame, coefficient_permutation, coefficient_rotation
from molkit.ofdft.geometries import ethanol, water
from molkit.ofdft.grid import values_at
from molkit.ofdft.integrals import density_integrals
from molkit.ofdft.label_files import LabelSettings, make_labels
from molkit.ofdft.labels import FrozenSampling
from molkit.ofdft.optimise import OptimiseOptions, optimise
from molkit.ofdft.reduction import natural_frame
from molkit.rng import generator_from

MIRROR = np.diag([1.0, -1.0, 1.0])


def rotation(seed=0):
    return Rotation.random(random_state=seed).as_matrix()


@pytest.fixture(scope="module")
def labelled():
    settings = LabelSettings(FrozenSampling(count=25), grid_level=0)
    return [make_labels(water("train", k), settings) for k in range(6)]


@pytest.fixture(scope="module")
def functional(labelled):
    config = CompactConfig(num_components=20, hidden=(16,), reference_degree=1, energy_degree=1)
    task, network = prepare(config, CompactData(), labelled, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(1)
        torch.nn.init.normal_(network.network[-1].weight, std=1e-3)  # so that the network takes part
    return assemble(task.config, network)


@pytest.mark.parametrize("mirror", [False, True])
def test_turned_coefficients_are_the_density_of_the_turned_molecule(mirror):
    molecule, turn = ethanol("train", 0), rotation() @ (MIRROR if mirror else np.eye(3))
    points = np.random.default_rng(0).uniform(-3.0, 3.0, (50, 3))
    before = density_mole(molecule)
    after = density_mole(molecule.with_positions(molecule.positions @ turn.T))
    coefficients = np.random.default_rng(1).standard_normal(before.nao)
    turned = coefficient_rotation(before, turn) @ coefficients
    density = values_at(before, points)[0] @ coefficients
    np.testing.assert_allclose(values_at(after, points @ turn.T)[0] @ turned, density, atol=1e-9)


def test_a_matrix_that_is_not_orthogonal_is_refused():
    with pytest.raises(InvalidInput, match="orthogonal"):
        coefficient_rotation(density_mole(water("train", 0)), 1.01 * np.eye(3))


def test_frames_turn_with_the_molecule_and_lines_are_refused():
    positions, turn = water("train", 1).positions, rotation(2)
    np.testing.assert_allclose(
        bisector_frame(positions @ turn.T, 0, 1, 2), bisector_frame(positions, 0, 1, 2) @ turn.T, atol=1e-12
    )
    with pytest.raises(InvalidInput, match="line"):
        bisector_frame(np.array([[0.0, 0, 0], [0, 0, 1], [0, 0, -1]]), 0, 1, 2)


def test_natural_coordinates_hold_the_same_energy_and_norm():
    integrals = density_integrals(water("train", 2))
    frame = natural_frame(integrals, WATER)
    p = np.random.default_rng(0).standard_normal(156)
    x = frame.to_natural @ p
    assert abs(x @ x - p @ integrals.overlap @ p) < 1e-8 * (x @ x)
    energy = 0.5 * x @ frame.coulomb @ x + frame.external @ x
    assert abs(energy - integrals.classical_energy(p)) < 1e-8 * abs(energy)
    np.testing.assert_allclose(frame.from_natural @ x, p, atol=1e-9)


def test_operations_of_a_class_map_a_molecule_to_its_renamed_and_mirrored_images():
    molecule = water("train", 3)
    p = np.random.default_rng(0).standard_normal(156)
    x = natural_frame(density_integrals(molecule), WATER).to_natural @ p
    matrices = WATER.operation_matrices()
    swapped = molecule.with_positions(molecule.positions[[0, 2, 1]])
    image = natural_frame(density_integrals(swapped), WATER)
    renamed = coefficient_permutation(density_mole(molecule), (0, 2, 1)) @ p
    np.testing.assert_allclose(image.to_natural @ renamed, matrices[1] @ x, atol=1e-9)
    products = [a @ b for a in matrices for b in matrices]
    assert all(min(np.abs(product - known).max() for known in matrices) < 1e-9 for product in products)


def test_monomials_count_and_value():
    values = np.array([[2.0, 3.0]])
    assert monomials(values, 2).tolist() == [[1.0, 2.0, 3.0, 4.0, 6.0, 9.0]]
    assert monomials(np.zeros((1, 3)), 4).shape == (1, 35)


def test_gradient_of_the_energy_is_that_of_finite_differences(functional):
    energy = functional.energy_of(water("test", 0))
    random = np.random.default_rng(0)
    z, direction = 0.3 * random.standard_normal(20), random.standard_normal(20)
    ends = [energy(z + sign * 1e-4 * direction)[0] for sign in (1, -1)]
    assert abs((ends[0] - ends[1]) / 2e-4 - energy(z)[1] @ direction) < 1e-5 * abs(energy(z)[1] @ direction)


def test_the_energy_does_not_change_when_molecule_and_density_are_turned_mirrored_or_renamed(functional):
    molecule, density = water("test", 1), density_mole(water("test", 1))
    energy = functional.energy_of(molecule)
    z = 0.3 * np.random.default_rng(0).standard_normal(20)
    p, value = energy.coefficients(z), energy(z)[0]
    for turn in (rotation(3), rotation(4) @ MIRROR):
        turned = functional.energy_of(molecule.with_positions(molecule.positions @ turn.T + 1.0))
        assert abs(turned(turned.reduce(coefficient_rotation(density, turn) @ p))[0] - value) < 1e-6
    swapped = functional.energy_of(molecule.with_positions(molecule.positions[[0, 2, 1]]))
    assert abs(swapped(swapped.reduce(coefficient_permutation(density, (0, 2, 1)) @ p))[0] - value) < 1e-6


def test_the_energy_is_continuous_where_the_bonds_exchange_their_lengths(functional):
    def energy_at(difference):
        positions = np.array([[0, 0, 0], [0.76 + difference, 0, 0.59], [-0.76 + difference, 0, 0.59]])
        energy = functional.energy_of(Molecule(np.array([8, 1, 1]), positions))
        return energy(np.zeros(20))[0]

    assert abs(energy_at(1e-7) - energy_at(-1e-7)) < 1e-8


def test_two_starts_and_two_methods_end_in_the_same_density(functional, labelled):
    energy = functional.energy_of(labelled[1].molecule)
    starts = [np.zeros(20), energy.reduce(labelled[1].guess)]
    ends = [optimise(energy, energy.on_constraint(start), constraint=energy.constraint) for start in starts]
    options = OptimiseOptions(method="descent", step=0.2, momentum=0.5)
    ends.append(optimise(energy, energy.on_constraint(starts[1]), constraint=energy.constraint, options=options))
    assert all(end.converged for end in ends)
    assert max(abs(end.energy - ends[0].energy) for end in ends) < 1e-7
    counts = [energy.coefficients(end.variables) @ energy.frame.integrals.basis_integrals for end in ends]
    assert max(counts) - min(counts) < 1e-9


def test_a_minimisation_that_runs_out_of_steps_says_so(functional):
    energy = functional.energy_of(water("test", 2))
    options = OptimiseOptions(method="descent", step=1e-4, max_steps=3)
    result = optimise(energy, np.full(20, 0.1), options=options)
    assert not result.converged and result.num_steps == 3 and len(result.gradient_norms) == 4
    assert result.selected_energy == result.energies[result.selected]
    with pytest.raises(InvalidInput, match="method"):
        OptimiseOptions(method="newton")


def test_the_loss_differentiates_and_falls_for_the_true_labels(labelled):
    config = CompactConfig(num_components=10, hidden=(8,), reference_degree=1, energy_degree=1)
    task, network = prepare(config, CompactData(), labelled, seed=0)
    loss, terms = task.loss(network, torch.arange(32), generator=generator_from("loss"))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    assert set(terms) == {"value_error", "gradient_error"} and float(loss.detach()) > 0.0


def test_steps_alone_and_no_gradients_are_choices(labelled):
    config = CompactConfig(num_components=6, hidden=(8,), reference_degree=1, energy_degree=1)
    steps, _ = prepare(config, CompactData(samples="steps"), labelled, seed=0)
    everything, _ = prepare(config, CompactData(), labelled, seed=0)
    assert len(steps.z) < len(everything.z)
    _, network = prepare(config, CompactData(gradient_weight=0.0), labelled, seed=0)
    assert not network.root.any()
    with pytest.raises(InvalidInput, match="num_components"):
        prepare(CompactConfig(num_components=400), CompactData(), labelled, seed=0)


def test_weights_come_back_from_disk_and_another_basis_is_refused(functional, tmp_path):
    network = functional.network
    save(tmp_path / "run", functional.config, network)
    again = load(tmp_path / "run")
    z, molecule = np.full(20, 0.05), water("test", 0)
    assert abs(again.energy_of(molecule)(z)[0] - functional.energy_of(molecule)(z)[0]) < 1e-7
    config = (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "run" / "config.yaml").write_text(config.replace(functional.config.basis, "another"))
    with pytest.raises(InvalidInput, match="density basis"):
        load(tmp_path / "run")


def test_other_molecules_are_refused(functional):
    with pytest.raises(InvalidInput, match="OHH"):
        functional.energy_of(ethanol("test", 0))
    with pytest.raises(InvalidInput, match="water"):
        class_named("benzene")


def test_the_task_is_what_the_loop_needs(labelled):
    config = CompactConfig(num_components=10, hidden=(8,), reference_degree=1, energy_degree=1)
    task, _ = prepare(config, CompactData(), labelled, seed=0)
    assert isinstance(task, CompactTask) and len(task.num_atoms) == len(task.energy) and task.config.basis
