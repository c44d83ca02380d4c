"""Which noise levels are drawn how often, and what they weigh."""

import pytest
import torch
from edm_toys import clean_state, random_molecules, tiny_config, tiny_edm

from molkit.edm.diffusion import draw_steps, noise_weights, simple_loss, step_frequencies

TABLE = tiny_edm().log_snr


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
def test_steps_are_drawn_as_often_as_said(power):
    """200,000 draws in ten bins; five standard errors of the counts."""
    drawn = torch.bincount(draw_steps(200_000, 99, generator=generator(), power=power), minlength=100)
    counts, expected = drawn.view(10, 10).sum(1), 2000 * step_frequencies(99, power).view(10, 10).sum(1)
    assert ((counts - expected).abs() < 5 * expected.sqrt()).all()


def test_frequencies_have_mean_one_and_a_power_of_one_is_uniform():
    assert step_frequencies(1000, 2.0).mean().item() == pytest.approx(1.0)
    torch.testing.assert_close(step_frequencies(1000, 1.0), torch.ones(1001, dtype=torch.float64))


def test_unbiased_weights_undo_the_frequencies():
    product = step_frequencies(1000, 2.0) * noise_weights("unbiased", TABLE, power=2.0)
    torch.testing.assert_close(product, torch.ones(1001, dtype=torch.float64))


def test_weights_of_the_sources_by_hand():
    snr = torch.exp(TABLE)
    torch.testing.assert_close(noise_weights("min_snr", TABLE) * snr, snr.clamp(max=5.0))
    torch.testing.assert_close(noise_weights("p2", TABLE), 1.0 / (1.0 + snr))
    assert (noise_weights("simple", TABLE) == 1.0).all()


def test_the_default_loss_is_bit_for_bit_the_one_without_weights_and_powers():
    edm = tiny_edm()
    clean, graph = clean_state(edm.config, random_molecules([4, 7]))
    plain, named = (
        simple_loss(edm.network, edm.config, TABLE, clean, graph, generator=generator(), **options).loss
        for options in ({}, {"noise_weighting": "simple", "step_power": 1.0})
    )
    assert torch.equal(plain, named)


def test_the_error_of_every_molecule_is_weighted_by_its_step():
    """One molecule: a network that says nothing costs half of weight times the error that is logged."""
    config = tiny_config()
    clean, graph = clean_state(config, random_molecules([5]))

    def network(features, positions, t, edge_index, batch, num_molecules):
        network.step = round(1000 * float(t[0, 0]))
        return torch.zeros_like(positions), torch.zeros_like(features)

    terms = simple_loss(network, config, TABLE, clean, graph, generator=generator(), noise_weighting="min_snr")
    weight = noise_weights("min_snr", TABLE)[network.step].item()
    assert 0 < network.step < 1000
    assert terms.loss.item() == pytest.approx(0.5 * weight * terms.noise_error.item(), rel=1e-5)
