"""The preconditioned network: its algebra, its loss, its noise levels, and what the rest of the house does with it."""

import math

import numpy as np
import pytest
import torch
from edm_toys import clean_state, random_molecules, random_rotation, tiny_config, tiny_edm
from torch import nn

from molkit.edm.diffusion import (
    LEVEL_MEAN,
    LEVEL_SPREAD,
    add_noise,
    draw_levels,
    draw_noise,
    predict_noise,
    simple_loss,
)
from molkit.edm.engine import accelerate, available
from molkit.edm.features import State, channel_spreads
from molkit.edm.model import build, load, save
from molkit.edm.network import standardised
from molkit.edm.samplers import SAMPLERS
from molkit.edm.sampling import sample
from molkit.edm.schedule import log_snr_table
from molkit.errors import InvalidInput
from molkit.molecule import PackedMolecules

SPREADS = {"feature_means": (0.13, 0.09, 0.01, 0.02, 0.0, 0.36), "spreads": (1.4, 0.09, 0.28)}
PRECONDITIONED = {"parametrisation": "preconditioned", **SPREADS}
TABLE = log_snr_table(tiny_config())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Answers(nn.Module):
    """An inner network that gives the same answer [A, 9] whatever it sees, and remembers what it saw."""

    def __init__(self, config, answer) -> None:
        super().__init__()
        self.config, self.answer = config, nn.Parameter(answer, requires_grad=False)

    def forward(self, features, positions, t, *graph):
        self.seen = torch.cat([positions, features, t], dim=-1)
        return self.answer[:, :3], self.answer[:, 3:]


def columns(state: State) -> torch.Tensor:
    return torch.cat([state.positions, state.features], dim=-1)


def setting(step: int):
    """A molecule in float64, its noise, the noisy state and sigma, q, s, mu of a step."""
    edm = tiny_edm(**PRECONDITIONED)
    clean, graph = clean_state(edm.config, random_molecules([6]), torch.float64)
    noise = draw_noise(graph, 6, generator=generator(), dtype=torch.float64)
    sigma, spreads = torch.exp(-0.5 * TABLE[step]), channel_spreads(edm.config)
    means = torch.tensor([0.0, 0.0, 0.0, *SPREADS["feature_means"]], dtype=torch.float64)
    noisy = add_noise(clean, noise, TABLE[step].expand(6, 1))
    return edm.network, clean, noise, noisy, graph, sigma, (sigma**2 + spreads**2).sqrt(), spreads, means


@pytest.mark.parametrize("step", [0, 7, 300, 1000])
def test_the_right_answer_of_the_inner_network_gives_the_true_noise(step):
    """F* = sigma / (s q) (y - mu) - s / q eps, at the cleanest and the noisiest step too."""
    network, clean, noise, noisy, graph, sigma, q, s, mu = setting(step)
    network.inner = Answers(network.config, sigma / (s * q) * (columns(clean) - mu) - s / q * columns(noise))
    found = predict_noise(network, noisy, torch.tensor([step]), graph, num_steps=1000)
    torch.testing.assert_close(columns(found), columns(noise), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("step", [0, 300, 1000])
def test_the_inner_network_sees_centred_inputs_of_unit_size(step):
    network, clean, noise, noisy, graph, sigma, q, s, mu = setting(step)
    network.inner = Answers(network.config, torch.zeros(6, 9, dtype=torch.float64))
    predict_noise(network, noisy, torch.tensor([step]), graph, num_steps=1000)
    mixed = columns(clean) + sigma * columns(noise) - mu
    seen = torch.cat([mixed[:, :3] * (s / q)[:3], (mixed / q)[:, 3:]], dim=-1)
    torch.testing.assert_close(network.inner.seen[:, :9], seen, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(network.inner.seen[:, 9], sigma.log().expand(6) / 4.0)


def test_the_loss_is_half_the_squared_error_of_the_inner_network():
    """One molecule, whose step the inner network has seen: by hand from the definition of F*."""
    config = tiny_config(**PRECONDITIONED)
    clean, graph = clean_state(config, random_molecules([6]), torch.float64)
    network = build(config).network
    answer = torch.randn(6, 9, generator=generator(5), dtype=torch.float64)
    network.inner = Answers(config, torch.cat([graph.centre(answer[:, :3]), answer[:, 3:]], -1))
    options = {"noise_weighting": "residual", "levels": "lognormal"}
    terms = simple_loss(network, config, TABLE, clean, graph, generator=generator(3), **options)
    sigma, s = torch.exp(4.0 * network.inner.seen[0, 9]), channel_spreads(config)
    q = (sigma**2 + s**2).sqrt()
    mu = torch.tensor([0.0, 0.0, 0.0, *SPREADS["feature_means"]], dtype=torch.float64)
    seen = network.inner.seen[:, :9] * torch.cat([(q / s)[:3], q[3:]])  # y + sigma eps - mu
    noise = (seen - (columns(clean) - mu)) / sigma
    target = sigma / (s * q) * (columns(clean) - mu) - s / q * noise
    expected = 0.5 * (network.inner.answer - target).square().mean()
    assert terms.loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("stratified", [False, True])
def test_levels_are_drawn_from_the_normal_law_of_their_logarithm(stratified):
    """Mean and spread of ln(sigma / alpha) of 20,000 draws: five standard errors (the table's ends cut 0.1 %)."""
    steps = draw_levels(TABLE, 20_000, generator=generator(), stratified=stratified)
    levels = -0.5 * TABLE[steps]
    assert levels.mean().item() == pytest.approx(LEVEL_MEAN, abs=5 * LEVEL_SPREAD / math.sqrt(20_000))
    assert levels.std().item() == pytest.approx(LEVEL_SPREAD, abs=5 * LEVEL_SPREAD / math.sqrt(40_000))
    assert steps.min() >= 0 and steps.max() <= 1000


def test_means_and_spreads_are_those_of_the_training_molecules():
    molecules = random_molecules([3, 8, 5])
    config = standardised(tiny_config(parametrisation="preconditioned"), molecules)
    clean, graph = clean_state(config, molecules, torch.float64)
    assert config.feature_means == pytest.approx(clean.features.mean(0).tolist(), abs=1e-6)
    assert config.spreads[0] == pytest.approx(clean.positions.square().mean().sqrt().item(), abs=1e-6)
    assert config.spreads[2] == pytest.approx(clean.features[:, 5].std(correction=0).item(), abs=1e-6)
    assert standardised(config, random_molecules([4], seed=3)) is config, "known ones stay"
    assert standardised(tiny_config(), molecules) == tiny_config(), "the paper's model has none"


def test_a_model_without_spreads_and_a_spread_of_zero_are_refused():
    with pytest.raises(InvalidInput, match="needs 3 spreads and 6 feature_means"):
        tiny_edm(parametrisation="preconditioned")
    with pytest.raises(InvalidInput, match="spreads must be positive"):
        tiny_config(**PRECONDITIONED | {"spreads": (1.4, 0.0, 0.28)})
    with pytest.raises(InvalidInput, match="different elements"):
        alike = PackedMolecules.from_molecules([random_molecules([4], elements=(6,))[0]])
        standardised(tiny_config(parametrisation="preconditioned"), alike)


def test_it_turns_with_the_molecule_and_does_not_see_where_it_lies():
    edm = tiny_edm(**PRECONDITIONED)
    network = edm.network.double()
    clean, graph = clean_state(edm.config, random_molecules([5, 7]), torch.float64)
    rotation, steps = random_rotation(), torch.tensor([40, 700])
    plain = predict_noise(network, clean, steps, graph, num_steps=1000)
    turned = State(clean.positions @ rotation.T + torch.tensor([3.0, -1.0, 7.0]).double(), clean.features)
    found = predict_noise(network, turned, steps, graph, num_steps=1000)
    torch.testing.assert_close(found.positions, plain.positions @ rotation.T, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.features, plain.features, rtol=1e-9, atol=1e-9)


def test_saved_and_loaded_it_makes_the_same_molecules(tmp_path):
    edm = tiny_edm(**PRECONDITIONED)
    save(edm, tmp_path)
    found, again = (
        sample(model, [5, 9], generator=generator(1), num_calls=8) for model in (edm, load(tmp_path, fast=False))
    )
    np.testing.assert_array_equal(found.molecules.positions, again.molecules.positions)


@pytest.mark.skipif(not available(), reason="no kernel on this machine")
def test_the_kernel_gives_the_same_noise_and_the_same_gradients():
    config = tiny_config(**PRECONDITIONED)
    clean, graph = clean_state(config, random_molecules([6, 9]))
    losses, gradients = [], []
    for wrap in (lambda network: network, accelerate):
        network = wrap(build(config).network)
        options = {"noise_weighting": "residual", "levels": "lognormal", "generator": generator()}
        loss = simple_loss(network, config, TABLE, clean, graph, **options).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append(
            torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None])
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["ancestral", "sde-2m", "sde-2m-extra"])
def test_with_nothing_learnt_chains_draw_normal_data_of_the_known_spread(name):
    """F = 0 is the exact denoiser of independent normals: 100 chains give positions of spread 1.4 back.

    The spread of 100 x 9 x 3 free numbers is known to 0.014 of itself; allowed are four times that and 1 % of steps.
    """
    config = tiny_config(**PRECONDITIONED)
    edm = build(config)
    edm.network.inner = Answers(config, torch.zeros(1000, 9))
    calls = 500 if name == "ancestral" else 100
    result = sample(edm, [10] * 100, generator=generator(2), num_calls=calls, sampler=SAMPLERS[name], pair_budget=10**9)
    spread = math.sqrt((result.molecules.positions**2).sum() / (100 * 9 * 3))
    assert spread == pytest.approx(1.4, rel=0.065)
