"""The noise schedules: printed values, monotonicity, transitions, and the guard on feature scales."""

import math

import pytest
import torch

from molkit.edm.config import EdmConfig
from molkit.edm.schedule import (
    alpha,
    cosine_log_snr,
    limit_fall,
    log_snr_table,
    polynomial_log_snr,
    sigma,
    step_weight,
    transition,
)
from molkit.errors import InvalidInput

# step, gamma = -log_snr, alpha, sigma, weight in the bound; T = 1000, power 2, offset 1e-5 (printed to six decimals)
PRINTED = [
    (0, -11.512915, 0.999995, 0.003162, None),
    (1, -11.330595, 0.999994, 0.003464, 0.199998),
    (2, -10.925131, 0.999991, 0.004243, 0.499999),
    (250, -1.982042, 0.937496, 0.347996, 0.008861),
    (750, 1.440859, 0.437507, 0.899215, 0.008503),
    (990, 7.808746, 0.020149, 0.999797, 0.203741),
    (999, 11.176731, 0.003741, 0.999993, 0.855398),
    (1000, 11.512516, 0.003163, 0.999995, 0.399039),
]
TABLES = {
    "polynomial": polynomial_log_snr(1000),
    "polynomial, short": polynomial_log_snr(20),
    "polynomial, cubic": polynomial_log_snr(200, power=3.0),
    "cosine": cosine_log_snr(1000),
}
SCHEDULES = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())


@pytest.mark.parametrize(("step", "gamma", "signal", "spread", "weight"), PRINTED)
def test_polynomial_schedule_has_the_printed_values(step, gamma, signal, spread, weight):
    table = TABLES["polynomial"]
    assert table.dtype == torch.float64
    assert -table[step].item() == pytest.approx(gamma, abs=1e-6)
    assert alpha(table[step]).item() == pytest.approx(signal, abs=1e-6)
    assert sigma(table[step]).item() == pytest.approx(spread, abs=1e-6)
    if weight is not None:
        assert step_weight(table)[step - 1].item() == pytest.approx(weight, abs=1e-6)


def test_weights_of_the_bound_have_the_printed_sum_and_minimum():
    weights = step_weight(TABLES["polynomial"])
    assert len(weights) == 1000
    assert weights.sum().item() == pytest.approx(24.91, abs=5e-3)
    assert weights.min().item() == pytest.approx(0.006111, abs=1e-6)
    assert weights.argmin().item() + 1 == 510


@SCHEDULES
def test_weights_are_the_loss_of_signal_to_noise_ratio(table):
    ratio = torch.exp(table)
    torch.testing.assert_close(step_weight(table), ratio[:-1] / ratio[1:] - 1.0)


@SCHEDULES
def test_signal_to_noise_falls_at_every_step(table):
    assert bool((table.diff() < 0).all())


@SCHEDULES
def test_schedules_preserve_variance(table):
    torch.testing.assert_close(alpha(table) ** 2 + sigma(table) ** 2, torch.ones_like(table), rtol=0.0, atol=1e-15)


@SCHEDULES
def test_transition_leads_from_the_marginal_of_one_step_to_that_of_the_next(table):
    ratio, variance = transition(table[:-1], table[1:])
    torch.testing.assert_close(ratio, alpha(table[1:]) / alpha(table[:-1]))
    torch.testing.assert_close(ratio**2 * sigma(table[:-1]) ** 2 + variance, sigma(table[1:]) ** 2)
    assert bool((variance > 0).all())


def test_two_transitions_compose_to_one():
    table = TABLES["polynomial"]
    first, middle, last = table[3], table[400], table[950]
    (ratio_a, variance_a), (ratio_b, variance_b) = transition(first, middle), transition(middle, last)
    ratio, variance = transition(first, last)
    torch.testing.assert_close(ratio_a * ratio_b, ratio)
    torch.testing.assert_close(ratio_b**2 * variance_a + variance_b, variance)


def test_limit_acts_only_on_the_last_step_of_the_polynomial():
    signal = (1.0 - torch.linspace(0.0, 1.0, 1001, dtype=torch.float64) ** 2) ** 2
    limited = limit_fall(signal)
    torch.testing.assert_close(limited[:-1], signal[:-1])
    assert signal[-1] == 0.0
    assert (limited[-1] / limited[-2]).item() == pytest.approx(1e-3)


def test_cosine_schedule_follows_its_formula_where_nothing_is_clipped():
    """A product of ratios over a grid of T + 2 points is the squared cosine itself, divided by its first value."""
    num_steps = 50
    t = [k / (num_steps + 1) for k in range(1, num_steps)]
    wave = [
        math.cos((x + 0.008) / 1.008 * math.pi / 2.0) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2.0) ** 2 for x in t
    ]
    expected = torch.tensor([math.log(value / (1.0 - value)) for value in wave], dtype=torch.float64)
    torch.testing.assert_close(cosine_log_snr(num_steps)[: num_steps - 1], expected)


def test_table_of_a_configuration_is_its_schedule():
    torch.testing.assert_close(log_snr_table(EdmConfig()), TABLES["polynomial"], rtol=0.0, atol=0.0)
    torch.testing.assert_close(log_snr_table(EdmConfig(schedule="cosine")), TABLES["cosine"], rtol=0.0, atol=0.0)


def test_feature_scales_that_drown_in_the_first_noise_are_refused():
    largest = 1.0 / (8.0 * sigma(TABLES["polynomial"][0]).item())
    log_snr_table(EdmConfig(scale_types=largest - 0.01))
    with pytest.raises(InvalidInput, match=r"feature scale 40 is too large .* lower scale_types"):
        log_snr_table(EdmConfig(scale_types=40.0))
    with pytest.raises(InvalidInput, match="too large"):
        log_snr_table(EdmConfig(scale_atomic_number=largest + 0.01))


@pytest.mark.parametrize(("num_steps", "offset"), [(0, 1e-5), (10, 0.0), (10, 0.5), (10, -1.0)])
def test_impossible_schedules_are_refused(num_steps, offset):
    with pytest.raises(InvalidInput, match="num_steps >= 1 and 0 < offset < 0.5"):
        polynomial_log_snr(num_steps, offset=offset)


def test_cosine_schedule_needs_a_step():
    with pytest.raises(InvalidInput, match="num_steps >= 1"):
        cosine_log_snr(0)
