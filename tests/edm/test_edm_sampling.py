"""Ancestral sampling: exact predictors, seeds and batches, entering and leaving the chain at given steps."""

import math

import numpy as np
import pytest
import torch
from edm_toys import (
    StandIn,
    assert_same_positions,
    clean_state,
    edm_with,
    knows,
    predicts_zero,
    random_molecules,
    tiny_config,
    tiny_edm,
)

from molkit.edm.diffusion import predict_noise
from molkit.edm.features import State
from molkit.edm.model import Edm
from molkit.edm.samplers import ancestral_weights, final_step, step_grid, take_step
from molkit.edm.sampling import sample, sample_from
from molkit.edm.schedule import alpha, log_snr_table, sigma, transition
from molkit.errors import InvalidInput
from molkit.graphs import Graph
from molkit.molecule import Molecule, PackedMolecules
from molkit.rng import fork

SHORT = {"num_steps": 20, "schedule_offset": 1e-5}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def centred(molecules: PackedMolecules) -> np.ndarray:
    return np.concatenate([molecule.centred().positions for molecule in molecules])


# the grid of steps


def test_without_a_number_of_calls_every_step_is_taken():
    assert step_grid(5, None) == [5, 4, 3, 2, 1, 0]
    assert step_grid(1000, None, start=50, end=20) == list(range(50, 19, -1))


@pytest.mark.parametrize("num_calls", [2, 3, 10, 51, 500, 1001])
def test_strided_steps_fall_from_end_to_end(num_calls):
    """One call a step down and one at step 0."""
    steps = step_grid(1000, num_calls)
    assert len(steps) == num_calls and steps[0] == 1000 and steps[-1] == 0
    assert all(before > after for before, after in zip(steps[:-1], steps[1:], strict=True))


def test_a_chain_that_ends_above_step_0_has_no_last_call():
    assert step_grid(1000, 10, start=60, end=10) == [60, 55, 50, 45, 40, 35, 30, 25, 20, 15, 10]


@pytest.mark.parametrize(("start", "end"), [(5, 5), (4, 5), (11, 0), (5, -1)])
def test_steps_outside_the_schedule_are_refused(start, end):
    with pytest.raises(InvalidInput, match=f"0 <= end < start <= 10 steps, got start {start} and end {end}"):
        step_grid(10, None, start=start, end=end)


@pytest.mark.parametrize("num_calls", [0, 1, 12, -3])
def test_an_impossible_number_of_calls_is_refused(num_calls):
    with pytest.raises(InvalidInput, match=f"network calls must lie in 2..11, got {num_calls}"):
        step_grid(10, num_calls)


@pytest.mark.parametrize(("num_calls", "expected"), [(None, 21), (7, 7), (2, 2)])
def test_the_network_is_called_as_often_as_said(num_calls, expected):
    edm = edm_with(tiny_config(**SHORT), predicts_zero)
    result = sample(edm, torch.tensor([3, 3]), generator=generator(), num_calls=num_calls)
    assert result.num_calls == edm.network.calls == expected


# one step


def test_a_step_is_the_posterior_with_the_predicted_clean_state():
    """Mean (alpha_ts sigma_s^2 z + alpha_s sigma_ts^2 x) / sigma_t^2, deviation sigma_ts sigma_s / sigma_t."""
    table = log_snr_table(tiny_config())
    now, after = table[700], table[640]
    parts = [torch.randn(6, 3, generator=generator(k), dtype=torch.float64) for k in range(3)]
    noisy, guess, noise = (State(part, part[:, :2]) for part in parts)
    found = take_step(ancestral_weights(now, after), noisy, guess, None, noise).positions
    ratio, variance = transition(after, now)
    clean = (parts[0] - sigma(now) * parts[1]) / alpha(now)
    mean = ratio * sigma(after) ** 2 / sigma(now) ** 2 * parts[0] + alpha(after) * variance / sigma(now) ** 2 * clean
    torch.testing.assert_close(found, mean + variance.sqrt() * sigma(after) / sigma(now) * parts[2])


def test_the_last_step_samples_positions_around_the_predicted_clean_ones():
    table = log_snr_table(tiny_config())
    noisy, guess = State(torch.ones(2, 3), torch.ones(2, 6)), State(torch.full((2, 3), 0.5), torch.zeros(2, 6))
    mean = final_step(noisy, guess, None, table[0])
    sampled = final_step(noisy, guess, State(torch.ones(2, 3), torch.ones(2, 6)), table[0])
    spread = (sigma(table[0]) / alpha(table[0])).item()
    torch.testing.assert_close(mean.positions, torch.full((2, 3), 1.0 / alpha(table[0]).item() - 0.5 * spread))
    torch.testing.assert_close(sampled.positions - mean.positions, torch.full((2, 3), spread), rtol=1e-4, atol=0.0)
    assert torch.equal(mean.features, noisy.features) and torch.equal(sampled.features, noisy.features)


# exact predictors


def test_the_exact_denoiser_of_a_geometry_returns_that_geometry():
    molecules = random_molecules([7], elements=(1, 6, 7, 8, 9))
    for num_calls in (None, 5):
        config = tiny_config(num_steps=50)
        clean, _ = clean_state(config, molecules)
        result = sample(edm_with(config, knows(clean)), [7], generator=generator(), num_calls=num_calls, ending="mean")
        np.testing.assert_allclose(result.molecules.positions, clean.positions, atol=2e-5)
        assert result.molecules.atomic_numbers.tolist() == molecules.atomic_numbers.tolist()


def test_the_exact_predictor_of_a_gaussian_recovers_it():
    """Positions N(0, 0.7^2) on the zero-mean subspace: the noise sigma z / (alpha^2 s^2 + sigma^2) is exact.

    The chain is linear, so its variance follows from a recursion; 4,000 molecules of 3 atoms give 24,000 free
    components, a relative standard error of sqrt(2 / 24,000) = 0.0091, of which four are allowed.
    """
    width, num = 0.7, 4000
    config = tiny_config(num_steps=200)
    table = log_snr_table(config)

    def optimal(log_snr):
        return sigma(log_snr) / (alpha(log_snr) ** 2 * width**2 + sigma(log_snr) ** 2)

    edm = edm_with(config, lambda noisy, _, log_snr: noisy.map(lambda part: part * optimal(log_snr)))
    variance = 1.0
    for now, after in zip(table[1:].flip(0), table[:-1].flip(0), strict=True):
        ratio, added = transition(after, now)
        scale = 1.0 / ratio - added / (ratio * sigma(now)) * optimal(now)
        variance = scale.item() ** 2 * variance + (added * sigma(after) ** 2 / sigma(now) ** 2).item()
    scale = (1.0 - sigma(table[0]) * optimal(table[0])) / alpha(table[0])
    variance = scale.item() ** 2 * variance + (sigma(table[0]) / alpha(table[0])).item() ** 2
    assert variance == pytest.approx(width**2, rel=0.04)  # what 200 steps leave of the exact width

    result = sample(edm, torch.full((num,), 3), generator=generator(5), pair_budget=10**6)
    positions = result.molecules.positions.reshape(num, 3, 3)
    assert abs(positions.mean(1)).max() < 1e-5
    assert (positions**2).sum() / (6 * num) == pytest.approx(variance, rel=4 * 0.0091)
    covariance = np.einsum("mai,mbi->ab", positions, positions) / (3 * num)
    np.testing.assert_allclose(covariance, variance * (np.eye(3) - 1 / 3), atol=4 * 0.0091 * width**2)


# seeds and batches


@pytest.mark.parametrize("num_calls", [None, 6])
def test_a_seed_gives_the_same_molecules_in_any_batching(num_calls):
    edm = tiny_edm(**SHORT)
    sizes = torch.tensor([9, 4, 12, 4, 1, 7])
    alone, together, default = (
        sample(edm, sizes, generator=generator(1), num_calls=num_calls, **budget).molecules
        for budget in ({"pair_budget": 1}, {"pair_budget": 10**9}, {})
    )
    assert alone.num_atoms.tolist() == together.num_atoms.tolist() == sizes.tolist()
    for other in (together, default):
        assert_same_positions(other.positions, alone.positions)
        assert other.atomic_numbers.tolist() == alone.atomic_numbers.tolist()


def test_the_first_molecules_do_not_depend_on_how_many_are_asked_for():
    edm = tiny_edm(**SHORT)
    few, many = (sample(edm, [5] * count, generator=generator(1)).molecules for count in (2, 6))
    assert_same_positions(few.positions, many.positions[:10])


def test_seeds_and_molecules_have_noise_of_their_own():
    edm = tiny_edm(**SHORT)
    first, again, other = (sample(edm, [5, 5], generator=generator(s)).molecules for s in (1, 1, 2))
    assert np.array_equal(first.positions, again.positions)
    assert np.abs(first.positions - other.positions).max() > 0.1
    assert np.abs(first[0].positions - first[1].positions).max() > 0.1


def test_noise_is_fresh_at_every_step_also_beyond_one_chunk():
    """With a predictor of zero, the difference of two frames is scaled noise; no two steps share it."""
    edm = edm_with(tiny_config(num_steps=80), predicts_zero)
    frames = sample(edm, [4], generator=generator(), keep_frames=80).frames
    table = log_snr_table(edm.config)
    noise = [
        after.positions - before.positions / transition(table[after.step], table[before.step])[0].item()
        for before, after in zip(frames[:-1], frames[1:], strict=True)
    ]
    flat = np.array([part.ravel() / np.linalg.norm(part) for part in noise])
    assert len(flat) == 80
    overlap = np.abs(flat @ flat.T - np.eye(80))
    assert overlap.max() < 0.999


def test_the_default_chain_is_the_written_out_algorithm_bit_for_bit():
    """The paper's loop in its plainest form, with the noise of one molecule drawn as MoleculeNoise draws it."""
    edm = tiny_edm(**SHORT)
    graph, table = Graph.from_sizes(torch.tensor([6])), edm.log_snr
    noise = iter(torch.randn(32, 6, 9, generator=fork(generator(4), 1)[0]))

    def drawn():
        values = next(noise)
        return State(graph.centre(values[:, :3]), values[:, 3:])

    state = drawn()
    for step in range(20, 0, -1):
        guess = predict_noise(edm.network, state, torch.tensor([step]), graph, num_steps=20)
        ratio, variance = transition(table[step - 1], table[step])
        scale, pull = float(1.0 / ratio), float(variance / (ratio * sigma(table[step])))
        width = float(torch.sqrt(variance) * sigma(table[step - 1]) / sigma(table[step]))
        fresh = drawn()
        positions = scale * state.positions - pull * guess.positions + width * fresh.positions
        features = scale * state.features - pull * guess.features + width * fresh.features
        state = State(graph.centre(positions), features)
    guess = predict_noise(edm.network, state, torch.tensor([0]), graph, num_steps=20)
    signal, spread = float(alpha(table[0])), float(sigma(table[0]))
    positions = (state.positions - spread * guess.positions) / signal + spread / signal * drawn().positions
    found = sample(edm, [6], generator=generator(4)).molecules
    np.testing.assert_array_equal(found.positions, positions.detach().double().numpy())


def test_sampled_molecules_are_centred():
    molecules = sample(tiny_edm(**SHORT), [5, 12], generator=generator()).molecules
    np.testing.assert_allclose(molecules.positions, centred(molecules), atol=1e-5)


def test_an_empty_request_is_refused():
    for sizes in ([], [3, 0]):
        with pytest.raises(InvalidInput, match="at least one entry, each at least 1"):
            sample(tiny_edm(**SHORT), sizes, generator=generator())


# frames


def test_frames_are_spread_from_the_noise_to_step_0():
    result = sample(tiny_edm(**SHORT), [6, 3], generator=generator(), keep_frames=5)
    assert [frame.step for frame in result.frames] == [20, 16, 12, 8, 4, 0]
    for frame in result.frames:
        assert frame.positions.shape == (9, 3) and frame.atomic_numbers.shape == (9,)
    assert sample(tiny_edm(**SHORT), [6], generator=generator()).frames == ()


def test_frames_keep_the_order_of_the_request_whatever_the_batches():
    edm = tiny_edm(**SHORT)
    sizes = [9, 3, 12]
    one, other = (sample(edm, sizes, generator=generator(), keep_frames=4, pair_budget=b) for b in (1, 10**9))
    for first, second in zip(one.frames, other.frames, strict=True):
        assert_same_positions(first.positions, second.positions)
    last = one.frames[-1].positions
    np.testing.assert_allclose(last, one.molecules.positions, atol=0.01 * np.abs(last).max())  # one small step away


def test_keeping_frames_changes_nothing():
    edm = tiny_edm(**SHORT)
    plain, filmed = (sample(edm, [6], generator=generator(), keep_frames=k).molecules for k in (0, 20))
    assert np.array_equal(plain.positions, filmed.positions)


# entering and leaving the chain


def test_a_molecule_enters_the_chain_without_noise_and_without_scaling():
    config = tiny_config()
    molecules = random_molecules([7, 4])
    seen = []

    def spy(noisy, step, log_snr):
        seen.append((step.unique().item(), noisy))
        return noisy.map(torch.zeros_like)

    edm = edm_with(config, spy)
    moved = PackedMolecules(molecules.num_atoms, molecules.atomic_numbers, molecules.positions + 5.0)
    result = sample_from(edm, moved, start=50, end=47, generator=generator(), keep_frames=3, pair_budget=10**6)
    assert [step for step, _ in seen] == [50, 49, 48]
    assert [frame.step for frame in result.frames] == [50, 49, 48, 47]
    np.testing.assert_allclose(result.frames[0].positions, centred(molecules), atol=1e-5)
    assert result.frames[0].atomic_numbers.tolist() == molecules.atomic_numbers.tolist()
    order = [7, 8, 9, 10, 0, 1, 2, 3, 4, 5, 6]  # batches hold molecules by size
    clean, _ = clean_state(config, molecules)
    torch.testing.assert_close(seen[0][1].features, clean.features[order])
    torch.testing.assert_close(seen[0][1].positions, clean.positions[order], rtol=0.0, atol=1e-5)


def test_leaving_above_step_0_returns_the_noisy_state_of_that_step():
    edm = edm_with(tiny_config(), predicts_zero)
    result = sample_from(edm, random_molecules([6]), start=30, end=10, generator=generator(), keep_frames=1)
    assert result.num_calls == edm.network.calls == 20
    assert result.frames[-1].step == 10
    np.testing.assert_array_equal(result.frames[-1].positions, result.molecules.positions)


def test_endings_differ_by_the_noise_of_the_last_step_alone():
    """sigma_0 / alpha_0 = 0.003162 angstrom of zero-mean noise on each molecule, of its own."""
    edm = tiny_edm()
    molecules = PackedMolecules.from_molecules([random_molecules([20])[0]] * 20)
    mean, drawn = (
        sample_from(edm, molecules, start=3, generator=generator(2), ending=ending, pair_budget=10**6).molecules
        for ending in ("mean", "sample")
    )
    assert mean.atomic_numbers.tolist() == drawn.atomic_numbers.tolist()
    noise = (drawn.positions - mean.positions).reshape(20, 20, 3)
    assert abs(noise.mean(1)).max() < 1e-6
    width = math.sqrt((noise**2).sum() / (20 * 57))  # 1,140 components: relative error 0.021, four of them
    assert width == pytest.approx(0.0031623, rel=0.085)
    assert np.abs(noise[0] - noise[1]).max() > 1e-3


def test_molecules_that_start_alike_do_not_end_alike():
    same = [random_molecules([8])[0]] * 2
    result = sample_from(tiny_edm(), same, start=50, end=40, generator=generator())
    assert np.abs(result.molecules[0].positions - result.molecules[1].positions).max() > 1e-3


def test_the_exact_denoiser_relaxes_to_its_geometry():
    config = tiny_config()
    molecules = random_molecules([7])
    clean, _ = clean_state(config, molecules)
    shaken = molecules[0].with_positions(molecules.positions + 0.05 * np.random.default_rng(0).standard_normal((7, 3)))
    for num_calls in (None, 8):
        result = sample_from(
            edm_with(config, knows(clean)),
            [shaken],
            start=30,
            generator=generator(),
            num_calls=num_calls,
            ending="mean",
        )
        np.testing.assert_allclose(result.molecules.positions, centred(molecules), atol=1e-5)


def test_batches_do_not_change_what_a_given_molecule_becomes():
    edm = tiny_edm()
    molecules = random_molecules([9, 4, 12, 1])
    one, other = (
        sample_from(edm, molecules, start=12, generator=generator(3), pair_budget=budget).molecules
        for budget in (1, 10**9)
    )
    assert_same_positions(one.positions, other.positions)


def test_impossible_starts_are_refused():
    edm = tiny_edm()
    with pytest.raises(InvalidInput, match="0 <= end < start <= 1000"):
        sample_from(edm, random_molecules([4]), start=1001, generator=generator())
    with pytest.raises(InvalidInput, match="got Z = 17"):
        sample_from(edm, [Molecule([17, 1], [[0, 0, 0], [0, 0, 1.3]])], start=5, generator=generator())
    with pytest.raises(InvalidInput, match="at least one molecule"):
        sample_from(edm, [], start=5, generator=generator())


# context


class Listens(StandIn):
    """A stand-in that remembers the context rows it was given, with the number of atoms."""

    def forward(self, features, positions, t, edge_index, batch, num_molecules, context=None):
        self.heard = [*getattr(self, "heard", []), (len(positions), context)]
        return super().forward(features, positions, t, edge_index, batch, num_molecules)


def test_every_atom_hears_the_context_of_its_molecule_in_any_batching():
    config = tiny_config(**SHORT, num_context=2)
    edm = Edm(config, Listens(config, predicts_zero), log_snr_table(config))
    context = torch.tensor([[1.0, -1.0], [2.0, -2.0], [3.0, -3.0]])
    sample(edm, [5, 3, 4], generator=generator(), num_calls=2, context=context, pair_budget=1)
    by_size = {3: 2.0, 4: 3.0, 5: 1.0}  # batches of one molecule, two calls each
    assert [size for size, _ in edm.network.heard] == [3, 3, 4, 4, 5, 5]
    for size, rows in edm.network.heard:
        torch.testing.assert_close(rows, torch.tensor([[by_size[size], -by_size[size]]]).expand(size, 2))
    edm.network.heard = []
    sample_from(edm, random_molecules([5, 3]), start=5, end=4, generator=generator(), context=context[:2])
    assert edm.network.heard[0][1][:, 0].tolist() == [2.0] * 3 + [1.0] * 5


@pytest.mark.parametrize("context", [None, torch.zeros(3, 1), torch.zeros(2, 2)])
def test_a_context_of_another_shape_is_refused(context):
    edm = tiny_edm(**SHORT, num_context=2)
    with pytest.raises(InvalidInput, match=r"needs context values of shape \(3, 2\), got"):
        sample(edm, [5, 3, 4], generator=generator(), context=context)


# chains that break


@pytest.mark.parametrize("part", ["positions", "features", "infinite"])
def test_a_chain_that_leaves_the_finite_numbers_is_listed_and_not_returned(part):
    def breaks(noisy, step, log_snr):
        """NaN for molecules of 5 atoms, from the middle of the chain on."""
        positions, features = torch.zeros_like(noisy.positions), torch.zeros_like(noisy.features)
        if len(positions) == 5 and int(step[0]) == 10:
            (features if part == "features" else positions)[2, 0] = math.inf if part == "infinite" else math.nan
        return State(positions, features)

    edm = edm_with(tiny_config(**SHORT), breaks)
    result = sample(edm, [3, 5, 4, 5], generator=generator(), pair_budget=1)
    assert result.failed == (1, 3)
    assert result.molecules.num_atoms.tolist() == [3, 4]
    assert np.isfinite(result.molecules.positions).all()


def test_when_every_chain_breaks_nothing_is_returned():
    edm = edm_with(tiny_config(**SHORT), lambda noisy, step, _: noisy.map(lambda part: part * math.nan))
    result = sample(edm, [3, 5], generator=generator())
    assert result.failed == (0, 1) and len(result.molecules) == 0
