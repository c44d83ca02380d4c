"""Kohn-Sham against PySCF, and labels against perturbation theory and consecutive steps."""

import numpy as np
import pytest
from pyscf import dft

from molkit.errors import CalculationFailed, InvalidInput
from molkit.ofdft import grid, label_files
from molkit.ofdft.kohn_sham import (
    PerturbedCycles,
    diis_coefficients,
    evaluate,
    lowest_density,
    require_converged,
    solve,
)
from molkit.ofdft.label_files import LabelSettings, generate, load_folder, read_labelled
from molkit.ofdft.labels import (
    TARGETS,
    FrozenSampling,
    frozen_labels,
    kinetic_functional,
    potential_gradients,
    step_labels,
)


def test_the_energy_is_that_of_pyscf(water_system, water_run):
    theirs = dft.RKS(water_system.orbitals)
    theirs.xc, theirs.grids.level, theirs.conv_tol = "pbe", 1, 1e-10
    assert water_run.converged
    assert abs(theirs.kernel() - water_run.energy) < 1e-8


def test_basis_values_made_block_by_block_are_pyscfs(water_system, monkeypatch):
    monkeypatch.setattr(grid, "BLOCK", 1000)
    points = water_system.grid.points
    assert len(points) % 1000
    theirs = dft.numint.eval_ao(water_system.orbitals, points, deriv=1)
    np.testing.assert_array_equal(grid.values_at(water_system.orbitals, points), theirs)


def test_the_fock_matrix_is_the_derivative_of_the_energy(water_system, water_run):
    matrix = water_run.steps[-1].matrix
    change = np.random.default_rng(0).standard_normal(matrix.shape) * 1e-4
    change = change + change.T
    energies = [evaluate(water_system, matrix + sign * change)[0].electronic for sign in (1, -1)]
    slope = np.vdot(evaluate(water_system, matrix)[1], change)
    assert abs(0.5 * (energies[0] - energies[1]) / slope - 1.0) < 1e-6


def test_mixing_coefficients_sum_to_one_and_are_in_the_order_of_the_steps(water_system, water_run):
    for number, step in enumerate(water_run.steps[1:], start=1):
        assert len(step.mixing) == number
        assert abs(step.mixing.sum() - 1.0) < 1e-8
        mixed = sum(c * earlier.fock for c, earlier in zip(step.mixing, water_run.steps, strict=False))
        np.testing.assert_allclose(lowest_density(water_system, mixed), step.matrix, atol=1e-7)


def test_steps_beyond_the_window_take_no_part():
    random = np.random.default_rng(1)
    found = diis_coefficients([random.standard_normal((3, 3)) for _ in range(11)])
    assert np.array_equal(found[:3], np.zeros(3)) and abs(found.sum() - 1.0) < 1e-10


def perturbed_pair(system, fock, size=1e-3, seed=4):
    """Densities in a potential and its opposite, around a Fock matrix."""
    potential = size * np.random.default_rng(seed).standard_normal(len(system.integrals.external))
    matrices = [lowest_density(system, fock + sign * system.perturbation(potential)) for sign in (1, -1)]
    return np.stack(matrices)


def test_orbital_identity(water_system, water_run):
    """dTs = -tr[(F - T) dD] for the Fock matrix that made the density."""
    fock = water_run.steps[-1].fock
    pair = perturbed_pair(water_system, fock, size=1e-4)
    kinetic = [np.vdot(water_system.kinetic, matrix) for matrix in pair]
    predicted = -np.vdot(fock - water_system.kinetic, pair[0] - pair[1])
    assert abs(predicted / (kinetic[0] - kinetic[1]) - 1.0) < 1e-6


def test_fitted_gradient_label_says_how_the_kinetic_energy_moves(water_system, water_run):
    labels = step_labels(water_system, water_run)
    fock = sum(c * step.fock for c, step in zip(water_run.steps[-1].mixing, water_run.steps, strict=False))
    pair = perturbed_pair(water_system, fock)
    kinetic = [np.vdot(water_system.kinetic, matrix) for matrix in pair]
    moved = water_system.fit(pair)
    predicted = labels.gradient[-1] @ (moved[0] - moved[1])
    assert abs(predicted / (kinetic[0] - kinetic[1]) - 1.0) < 1e-3


@pytest.mark.parametrize("target", TARGETS)
def test_consecutive_steps_of_the_corrected_value_follow_the_gradient(water_system, water_run, target):
    labels = step_labels(water_system, water_run)
    values = labels.value(target, water_system.integrals)
    gradients = labels.target_gradient(target, water_system.integrals)
    moves = np.diff(labels.coefficients, axis=0)
    predicted = 0.5 * ((gradients[1:] + gradients[:-1]) * moves).sum(1)
    kinetic = np.abs(np.diff(labels.value("Ts", water_system.integrals)))
    errors = np.abs(predicted - np.diff(values)) / kinetic
    assert (errors[:4] < [4e-3, 1e-3, 1e-4, 1e-4]).all()


def test_the_gradient_vanishes_at_the_ground_state_in_every_component(water_system, water_run):
    labels = step_labels(water_system, water_run)
    potential = potential_gradients(water_system, labels.coefficients[-1:])[0]
    assert np.abs(potential + labels.gradient[-1]).max() < 1e-5


def test_energy_of_a_fitted_density_is_that_of_its_density_matrix(water_system, water_run):
    labels = step_labels(water_system, water_run)
    total = labels.value("total", water_system.integrals)
    expected = [step.parts.electronic + water_system.integrals.nuclear for step in water_run.steps[1:]]
    np.testing.assert_allclose(total, expected, atol=1e-9)
    parts = labels.value("Ts_res", water_system.integrals) + labels.apbe + labels.exchange_correlation
    parts = parts + water_system.integrals.classical_energy(labels.coefficients) + water_system.integrals.nuclear
    np.testing.assert_allclose(parts, expected, atol=1e-9)


def small_change(labels_before, labels_after, integrals):
    """Relative error of the trapezoid rule between two labelled densities of equal potential but for a small change."""
    values = [part.value("Ts", integrals)[0] for part in (labels_before, labels_after)]
    slopes = labels_before.gradient[0] + labels_after.gradient[0]
    predicted = 0.5 * slopes @ (labels_after.coefficients[0] - labels_before.coefficients[0])
    return abs(predicted / (values[1] - values[0]) - 1.0)


def test_labels_in_frozen_potentials_follow_their_gradient(water_system, water_run):
    sampling = FrozenSampling(count=1, scale=(0.01, 0.0100001), blended=0.0)
    drawn = [frozen_labels(water_system, water_run, sampling, np.random.default_rng(seed)) for seed in (1, 2)]
    assert small_change(*drawn, water_system.integrals) < 1e-3
    assert drawn[0].source.tolist() == [2]


def test_labels_of_perturbed_cycles_follow_their_gradient(water_system):
    cycles = PerturbedCycles(first=3, last=6, scale=0.02)
    run = solve(water_system, perturbed=cycles, random=np.random.default_rng(0))
    assert run.converged and len(run.steps) > 7
    labels = step_labels(water_system, run)
    assert labels.source[2:6].tolist() == [1] * 4 and not labels.source[:2].any()
    for row in range(2, 6):
        pair = labels.select(np.array([row])), labels.select(np.array([row + 1]))
        assert small_change(*pair, water_system.integrals) < 5e-3


def test_classical_gradients_are_derivatives_by_the_coefficients(water_system, water_run):
    coefficients = water_system.fit(water_run.steps[-1].matrix[None])
    direction = np.random.default_rng(2).standard_normal(coefficients.shape) * 1e-4
    for name in ("APBE", "LKT"):
        _, gradient = kinetic_functional(name, water_system.grid, coefficients)
        ends = [kinetic_functional(name, water_system.grid, coefficients + s * direction)[0][0] for s in (1, -1)]
        assert abs(0.5 * (ends[0] - ends[1]) - (gradient * direction).sum()) < 1e-5 * np.abs(gradient * direction).sum()


def test_an_unconverged_calculation_is_left_out(water_system):
    run = solve(water_system, max_cycles=2)
    assert not run.converged
    with pytest.raises(CalculationFailed, match="2 cycles"):
        require_converged(run, water_system)


def test_generation_resumes_and_labels_of_another_basis_are_refused(tmp_path, monkeypatch):
    settings = LabelSettings(FrozenSampling(count=2), grid_level=0)
    report = generate("water", "train", range(1), tmp_path / "labels", settings=settings)
    written = report.folder.result_path("water-train-00000")
    first = written.stat().st_mtime_ns
    assert len(generate("water", "train", range(2), tmp_path / "labels", settings=settings).done) == 2
    assert written.stat().st_mtime_ns == first
    loaded = load_folder(tmp_path / "labels", "water", "train")
    assert len(loaded) == 2 and (loaded[0].labels.source == 2).sum() == 2
    assert abs(loaded[0].labels.electronic[loaded[0].ground_state] + loaded[0].nuclear - loaded[0].energy) < 1e-12
    with pytest.raises(InvalidInput, match="no labels of water, split test"):
        load_folder(tmp_path / "labels", "water", "test")
    arrays = dict(np.load(written)) | {"basis": np.array("another")}
    with pytest.raises(InvalidInput, match="another"):
        read_labelled(arrays, label="a file")


def test_a_failing_geometry_is_listed_and_the_others_are_made(tmp_path, monkeypatch):
    def fails_once(system, **options):
        run = solve(system, **options)
        return solve(system, max_cycles=1) if system.molecule.name.endswith("-1") else run

    monkeypatch.setattr(label_files, "solve", fails_once)
    settings = LabelSettings(FrozenSampling(count=0), grid_level=0)
    report = generate("water", "train", range(2), tmp_path / "labels", settings=settings)
    assert report.done == ("water-train-00000",)
    assert "not converged" in report.failed["water-train-00001"]
