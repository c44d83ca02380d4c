"""Molecules as scaled channels and back, and the likelihood of discrete features at step 0."""

import math

import pytest
import torch
from edm_toys import clean_state, random_molecules, tiny_config

from molkit.edm.features import State, decode, encode, log_prob_atomic_number, log_prob_types, type_channels
from molkit.edm.schedule import log_snr_table, sigma
from molkit.errors import InvalidInput

BOTH = pytest.mark.parametrize("channel", [True, False], ids=["with Z", "without Z"])


def normal_mass(low: float, high: float, mean: float, width: float) -> float:
    """Mass of a normal distribution between two bounds."""
    return 0.5 * (math.erf((high - mean) / width / math.sqrt(2.0)) - math.erf((low - mean) / width / math.sqrt(2.0)))


@BOTH
def test_decoding_undoes_encoding(channel):
    config = tiny_config(atomic_number_channel=channel, scale_positions=2.0)
    molecules = random_molecules([3, 7, 1], elements=(1, 6, 7, 8, 9))
    clean, graph = clean_state(config, molecules, torch.float64)
    numbers, positions = decode(config, clean)
    assert numbers.tolist() == molecules.atomic_numbers.tolist()
    torch.testing.assert_close(positions, graph.centre(torch.from_numpy(molecules.positions)))


def test_network_sees_a_quarter_one_hot_and_a_tenth_of_the_atomic_number():
    clean = encode(tiny_config(), torch.tensor([6, 9]), torch.zeros(2, 3))
    assert clean.features.tolist()[0] == pytest.approx([0.0, 0.25, 0.0, 0.0, 0.0, 0.6])
    assert clean.features.tolist()[1] == pytest.approx([0.0, 0.0, 0.0, 0.0, 0.25, 0.9])


@BOTH
def test_every_element_can_be_decoded_the_last_one_included(channel):
    """The authors' decoder drops the last column even when it is an element and not the atomic number."""
    config = tiny_config(atomic_number_channel=channel)
    features = 0.1 * torch.randn(5, config.num_features, generator=torch.Generator().manual_seed(0))
    features[range(5), range(5)] += 5.0
    numbers, _ = decode(config, State(torch.zeros(5, 3), features))
    assert numbers.tolist() == [1, 6, 7, 8, 9]


def test_the_atomic_number_channel_does_not_decide_the_element():
    features = torch.tensor([[0.3, 0.2, 0.0, 0.0, 0.0, 0.9]])
    assert decode(tiny_config(), State(torch.zeros(1, 3), features))[0].tolist() == [1]


def test_an_element_without_a_channel_is_named():
    with pytest.raises(InvalidInput, match=r"elements with Z in \(1, 6, 7, 8, 9\), got Z = 17"):
        type_channels(tiny_config(), torch.tensor([1, 17, 6]))


def test_probabilities_of_all_types_sum_to_one():
    config = tiny_config()
    generator = torch.Generator().manual_seed(1)
    noisy = 0.25 * torch.eye(6, dtype=torch.float64)[torch.randint(0, 5, (40,), generator=generator)]
    noisy = noisy + 0.08 * torch.randn(40, 6, generator=generator, dtype=torch.float64)
    for width in (0.003162, 0.05):
        spread = torch.full((40, 1), width, dtype=torch.float64)
        total = torch.zeros(40, dtype=torch.float64)
        for number in config.elements:
            truth = encode(config, torch.full((40,), number), torch.zeros(40, 3, dtype=torch.float64))
            total += log_prob_types(config, truth, noisy, spread).exp()
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0.0, atol=1e-12)


def test_log_probability_of_types_is_the_normalised_mass_between_one_half_and_three_halves():
    config, spread = tiny_config(), 0.06
    noisy = torch.tensor([[0.18, 0.11, -0.02, 0.04, 0.0, 0.6]], dtype=torch.float64)
    masses = [normal_mass(0.5, 1.5, 4.0 * value, 4.0 * spread) + 1e-10 for value in noisy[0, :5].tolist()]
    for channel, number in enumerate(config.elements):
        truth = encode(config, torch.tensor([number]), torch.zeros(1, 3, dtype=torch.float64))
        found = log_prob_types(config, truth, noisy, torch.tensor([[spread]], dtype=torch.float64))
        assert found.item() == pytest.approx(math.log(masses[channel] / sum(masses)), abs=1e-9)


def test_log_probability_of_the_atomic_number_is_the_mass_of_its_unit_bin():
    config, spread = tiny_config(), 0.04
    truth = encode(config, torch.tensor([7]), torch.zeros(1, 3, dtype=torch.float64))
    noisy = torch.tensor([[0.0, 0.0, 0.25, 0.0, 0.0, 0.73]], dtype=torch.float64)
    found = log_prob_atomic_number(config, truth, noisy, torch.tensor([[spread]], dtype=torch.float64))
    assert found.item() == pytest.approx(math.log(normal_mass(6.5, 7.5, 7.3, 0.4) + 1e-10), abs=1e-9)


def test_without_its_channel_the_atomic_number_costs_nothing():
    config = tiny_config(atomic_number_channel=False)
    clean, _ = clean_state(config, random_molecules([4]))
    assert clean.features.shape == (4, 5)
    assert log_prob_atomic_number(config, clean, clean.features, torch.full((4, 1), 0.01)).tolist() == [0.0] * 4


def test_clean_features_are_certain_at_step_0():
    config = tiny_config()
    clean, _ = clean_state(config, random_molecules([9]), torch.float64)
    spread = sigma(log_snr_table(config)[0]).expand(9, 1)
    assert log_prob_types(config, clean, clean.features, spread).abs().max() < 1e-8
    assert log_prob_atomic_number(config, clean, clean.features, spread).abs().max() < 1e-8


def test_hopeless_features_have_a_finite_log_probability():
    config = tiny_config()
    clean, _ = clean_state(config, random_molecules([5]), torch.float64)
    spread = torch.full((5, 1), 0.003, dtype=torch.float64)
    assert log_prob_types(config, clean, clean.features + 50.0, spread).isfinite().all()
    worst = log_prob_atomic_number(config, clean, clean.features + 50.0, spread)
    torch.testing.assert_close(worst, torch.full_like(worst, math.log(1e-10)))
