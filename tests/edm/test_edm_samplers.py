"""Rules of a step against what is known exactly: a known clean state, a Gaussian, symmetries, orders of convergence."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from edm_toys import (
    assert_same_positions,
    clean_state,
    edm_with,
    knows,
    predicts_zero,
    random_molecules,
    random_rotation,
    tiny_config,
    tiny_edm,
)

from molkit.edm.features import State
from molkit.edm.samplers import (
    SAMPLERS,
    NoiseWindow,
    ancestral_weights,
    default_sampler,
    exponential_weights,
    sampler_named,
    take_step,
    windowed_weights,
)
from molkit.edm.sampling import MoleculeNoise, make_plan, sample, sample_from
from molkit.edm.schedule import alpha, log_snr_table, sigma
from molkit.errors import InvalidInput
from molkit.molecule import PackedMolecules
from molkit.rng import fork

SHORT = {"num_steps": 20, "schedule_offset": 1e-5}
RULES = [partial(exponential_weights, churn=churn, order=order) for churn in (0.0, 0.5, 1.0, 2.0) for order in (1, 2)]
RULES.append(partial(windowed_weights, window=NoiseWindow(0.1, 0.7, churn=3.0), order=2))
WIDTH = 0.3  # standard deviation of the Gaussian "data"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def snr(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(value, dtype=torch.float64) for value in values]


# one step with a known clean state


@pytest.mark.parametrize("rule", [ancestral_weights, *RULES])
def test_a_step_keeps_the_law_of_a_known_clean_state(rule):
    """From alpha_t x + sigma_t noise the exact noise leads to alpha_s x + sigma_s noise: mean and variance."""
    before, now, after = snr(-2.5, -1.0, 0.7)
    weights = rule(now, after, before)
    clean, noise = 0.8, 1.3
    mean = weights.noisy * (alpha(now) * clean + sigma(now) * noise) + weights.predicted * noise
    kept = weights.noisy * sigma(now) + weights.predicted  # of the noise that was there
    assert float(mean) == pytest.approx(float(alpha(after) * clean + kept * noise), rel=1e-12)
    assert float(kept**2 + weights.noise**2) == pytest.approx(float(sigma(after) ** 2), rel=1e-12)


@pytest.mark.parametrize("churn", [0.0, 0.4, 1.0])
def test_two_half_steps_are_one_step_where_the_clean_state_is_known(churn):
    now, middle, after = snr(-1.3, 0.2, 2.1)
    rule = partial(exponential_weights, churn=churn, order=1)

    def kept_and_new(start, end):
        weights = rule(start, end, None)
        return float(weights.noisy * sigma(start) + weights.predicted) / float(sigma(start)), weights.noise

    (first, first_noise), (second, second_noise) = kept_and_new(now, middle), kept_and_new(middle, after)
    whole, whole_noise = kept_and_new(now, after)
    assert first * second == pytest.approx(whole, rel=1e-12)
    assert math.hypot(second * first_noise, second_noise) == pytest.approx(whole_noise, rel=1e-12, abs=1e-12)


def test_full_churn_of_first_order_is_the_ancestral_step():
    now, after = snr(-3.0, 1.0)
    one, other = exponential_weights(now, after, None, churn=1.0, order=1), ancestral_weights(now, after)
    for name in ("noisy", "predicted", "change", "noise"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-10)


def test_no_churn_of_first_order_is_the_step_of_song():
    """DDIM: the predicted noise is kept, alpha_s x + sigma_s predicted."""
    now, after = snr(-1.0, 0.5)
    weights = exponential_weights(now, after, None, churn=0.0, order=1)
    assert weights.noise == 0.0 and weights.change == 0.0
    assert weights.noisy == pytest.approx(float(alpha(after) / alpha(now)), rel=1e-12)
    expected = float(sigma(after) - alpha(after) * sigma(now) / alpha(now))
    assert weights.predicted == pytest.approx(expected, rel=1e-12)


def test_second_order_without_churn_is_dpm_solver_up_to_the_third_order_of_a_step():
    """DPM-Solver++(2M): alpha_s (1 - exp(-h)) h / (2 h_before) times the change of the clean state."""
    for size in (0.1, 0.05):
        before, now, after = snr(-2.0 * size, 0.0, 2.0 * size)  # a step in log-SNR is twice one in lambda
        ours = exponential_weights(now, after, before, churn=0.0, order=2).change
        theirs = float(alpha(after)) * -math.expm1(-size) / 2.0
        assert abs(ours - theirs) < 0.5 * size**2


def test_a_clean_state_that_moves_evenly_in_log_snr_is_followed_exactly():
    """One second-order step against 4,000 first-order ones with x = a + b lambda, churn 0 and 1 (mean only)."""
    before, now, after = -1.0, -0.4, 1.2
    slope, offset = 0.7, 0.2

    def clean(log_snr):
        return offset + slope * 0.5 * log_snr

    for churn in (0.0, 1.0):
        fine, points = 0.9, np.linspace(now, after, 4001)
        for start, end in zip(points[:-1], points[1:], strict=True):
            fine = advance(fine, exponential_weights(*snr(start, end), None, churn=churn, order=1), start, clean)
        weights = exponential_weights(*snr(now, after, before), churn=churn, order=2)
        coarse = advance(0.9, weights, now, clean) + weights.change * (clean(now) - clean(before))
        assert coarse == pytest.approx(fine, abs=2e-4)


def advance(value, weights, log_snr, clean):
    """The mean after one step from `value`, with the noise that stands for clean(log_snr)."""
    now = torch.tensor(log_snr, dtype=torch.float64)
    predicted = (value - float(alpha(now)) * clean(log_snr)) / float(sigma(now))
    return weights.noisy * value + weights.predicted * predicted


def test_extra_noise_is_put_back_inside_its_window_only():
    """At sigma / alpha = 0.3 the step is that of churn 3, at 0.05 and 2 that of the reverse diffusion."""
    rule = partial(windowed_weights, window=NoiseWindow(0.1, 0.7, churn=3.0), order=2)
    for level, churn in ((0.3, 3.0), (0.05, 1.0), (2.0, 1.0)):
        now = torch.tensor(-2.0 * math.log(level), dtype=torch.float64)
        expected = exponential_weights(now, now + 0.4, now - 0.3, churn=churn, order=2)
        assert rule(now, now + 0.4, now - 0.3) == expected


# the Gaussian, whose best prediction is linear: laws of whole chains by recursion


def final_deviation(rule, num_steps: int, *, low: float = -8.0, high: float = 6.0) -> float:
    """Standard deviation that a chain of num_steps even steps in log-SNR leaves, started at the exact one, over it.

    The pair (state, clean state predicted before) stays Gaussian; its covariance follows from the weights.
    """
    table = torch.linspace(low, high, num_steps + 1, dtype=torch.float64)

    def variance(log_snr):
        return alpha(log_snr) ** 2 * WIDTH**2 + sigma(log_snr) ** 2

    covariance = np.diag([float(variance(table[0])), 0.0])
    for k in range(num_steps):
        now, after = table[k], table[k + 1]
        weights = rule(now, after, table[k - 1] if k else None)
        predicted = float(sigma(now) / variance(now))
        clean = float(alpha(now) * WIDTH**2 / variance(now))
        step = np.array([[weights.noisy + weights.predicted * predicted + weights.change * clean, -weights.change],
                         [clean, 0.0]])  # fmt: skip
        covariance = step @ covariance @ step.T + np.diag([weights.noise**2, 0.0])
    return math.sqrt(covariance[0, 0] / float(variance(table[-1])))


@pytest.mark.parametrize("churn", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("order", [1, 2])
def test_the_error_falls_with_the_order_of_the_solver(churn, order):
    """Halving the steps divides the error in the deviation of a Gaussian by 2 (order 1) or by 4 (order 2)."""
    rule = partial(exponential_weights, churn=churn, order=order)
    errors = [abs(final_deviation(rule, num) - 1.0) for num in (200, 400, 800)]
    assert errors[2] < 2e-2
    for coarse, fine in zip(errors[:-1], errors[1:], strict=True):
        assert coarse / fine == pytest.approx(2.0**order, rel=0.12)


@pytest.mark.parametrize("rule", [ancestral_weights, *RULES])
def test_many_steps_leave_the_right_width(rule):
    assert final_deviation(rule, 6000) == pytest.approx(1.0, abs=2e-3)


def test_strided_ancestral_chains_are_too_narrow_and_second_order_ones_less_so():
    """What a small number of calls does to the width of a Gaussian; the reason for most of this module."""
    narrow = final_deviation(ancestral_weights, 50)
    better = final_deviation(partial(exponential_weights, churn=1.0, order=2), 50)
    assert narrow < 0.99 and abs(better - 1.0) < 0.3 * abs(narrow - 1.0)


# chains of molecules


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_every_sampler_leads_the_exact_denoiser_of_a_geometry_to_it(name):
    molecules = random_molecules([7], elements=(1, 6, 7, 8, 9))
    config = tiny_config(num_steps=50)
    clean, _ = clean_state(config, molecules)
    edm = edm_with(config, knows(clean))
    result = sample(edm, [7], generator=generator(), num_calls=9, sampler=SAMPLERS[name], ending="mean")
    np.testing.assert_allclose(result.molecules.positions, clean.positions, atol=5e-5)
    assert result.molecules.atomic_numbers.tolist() == molecules.atomic_numbers.tolist()
    assert result.num_calls == edm.network.calls == 9


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_every_sampler_keeps_the_centre_and_the_bits_of_a_seed_in_any_batching(name):
    edm = tiny_edm(**SHORT)
    one, other = (
        sample(
            edm, [9, 4, 12], generator=generator(1), num_calls=6, sampler=SAMPLERS[name], pair_budget=budget
        ).molecules
        for budget in (1, 10**9)
    )
    assert_same_positions(one.positions, other.positions)
    for molecule in one:
        assert np.abs(molecule.positions.mean(0)).max() < 1e-6 * np.abs(molecule.positions).max()


@pytest.mark.parametrize("name", ["ddim", "dpm-2m"])
def test_a_sampler_without_noise_turns_with_the_molecule(name):
    edm = tiny_edm(**SHORT)
    molecules = random_molecules([6, 9])
    turn = random_rotation().numpy()
    turned = PackedMolecules(molecules.num_atoms, molecules.atomic_numbers, molecules.positions @ turn.T)
    options = {"start": 12, "num_calls": 5, "sampler": SAMPLERS[name], "ending": "mean"}
    plain, other = (sample_from(edm, m, generator=generator(), **options).molecules for m in (molecules, turned))
    assert_same_positions(other.positions, plain.positions @ turn.T)


def test_the_weights_of_a_step_act_alike_on_positions_and_features():
    parts = [State(torch.randn(4, 3, generator=generator(k)), torch.randn(4, 6, generator=generator(9 + k)))
             for k in range(4)]  # fmt: skip
    weights = exponential_weights(*snr(0.0, 1.0, -1.0), churn=0.5, order=2)
    found = take_step(weights, *parts)
    numbers = (weights.noisy, weights.predicted, weights.change, weights.noise)
    for name in ("positions", "features"):
        expected = sum(number * getattr(part, name) for number, part in zip(numbers, parts, strict=True))
        torch.testing.assert_close(getattr(found, name), expected)


# the blind start


def test_a_blind_start_costs_no_call_and_begins_where_the_sampler_says():
    seen = []

    def spy(noisy, step, log_snr):
        seen.append(int(step[0]))
        return noisy.map(torch.zeros_like)

    edm = edm_with(tiny_config(), spy)
    result = sample(edm, [3], generator=generator(), num_calls=5, sampler=SAMPLERS["sde-2m"], keep_frames=5)
    assert seen[0] == 990 and len(seen) == 5 == result.num_calls
    assert result.frames[0].step == 1000 and result.frames[1].step == 990


def test_the_state_after_a_blind_step_has_the_law_of_noise():
    """900 molecules of 4 atoms, one step from 1,000 to 990: variance sigma_990^2 in both parts, 4 standard errors."""
    edm = edm_with(tiny_config(), predicts_zero)
    plan = make_plan(edm, SAMPLERS["sde-2m"], 2)
    assert plan.steps == [1000, 990, 0] and plan.blind_start
    states = []
    edm.network.predict = lambda noisy, step, log_snr: states.append(noisy) or noisy.map(torch.zeros_like)
    sample(edm, [4] * 900, generator=generator(), num_calls=2, sampler=SAMPLERS["sde-2m"], pair_budget=10**9)
    expected = float(sigma(edm.log_snr[990])) ** 2
    for part, free in ((states[0].positions, 0.75), (states[0].features, 1.0)):
        error = math.sqrt(2.0 / (free * part.numel()))
        assert float(part.square().mean()) / free == pytest.approx(expected, rel=4 * error)


@pytest.mark.parametrize(("num_calls", "expected"), [(None, 1001), (1001, 1001), (991, 991), (2, 2)])
def test_numbers_of_calls_that_leave_no_room_for_a_blind_start_do_without(num_calls, expected):
    plan = make_plan(edm_with(tiny_config(), predicts_zero), SAMPLERS["sde-2m"], num_calls)
    assert plan.num_calls == expected and plan.blind_start == (num_calls == 2)


# paired chains


def test_a_coarse_chain_on_the_shared_path_meets_the_full_chain_where_the_clean_state_is_known():
    """The noise of a long step is then that of the single steps, so both states agree at every step they share."""
    config = tiny_config(num_steps=60)
    clean, _ = clean_state(config, random_molecules([5]))
    edm = edm_with(config, knows(clean))
    full = sample(edm, [5], generator=generator(3), keep_frames=60).frames
    coarse = sample(edm, [5], generator=generator(3), num_calls=7, keep_frames=6, shared_path=True).frames
    by_step = {frame.step: frame.positions for frame in full}
    assert len(coarse) == 7
    for frame in coarse:
        np.testing.assert_allclose(frame.positions, by_step[frame.step], atol=2e-5)


def test_the_noise_of_a_shared_path_has_variance_one():
    """900 molecules of one step from 20 to 0 4 standard errors of a variance."""
    table = log_snr_table(tiny_config(**SHORT))
    stream = MoleculeNoise(torch.full((900,), 4), 9, fork(generator(2), 900))
    values = stream.along(table, 20, 5)
    assert values.shape == (3600, 9)
    assert float(values.var()) == pytest.approx(1.0, abs=4 * math.sqrt(2.0 / values.numel()))


def test_an_unknown_sampler_is_refused_with_the_names_that_exist():
    with pytest.raises(InvalidInput, match="sampler must be one of ancestral, .*, got 'heun'"):
        sampler_named("heun")


def test_without_a_name_the_sampler_follows_from_the_number_of_calls():
    names = [default_sampler(calls).name for calls in (10, 49, 50, 1001, None)]
    assert names == ["sde-2m", "sde-2m", "sde-2m-extra", "sde-2m-extra", "ancestral"]
