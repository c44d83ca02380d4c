"""The forward process and the simple loss."""

import math

import pytest
import torch
from edm_toys import StandIn, clean_state, knows, predicts_zero, random_molecules, tiny_config, tiny_edm

from molkit.edm.diffusion import add_noise, draw_noise, draw_steps, simple_loss, squared_error
from molkit.edm.features import State, log_prob_atomic_number, log_prob_types
from molkit.edm.schedule import alpha, log_snr_table, sigma
from molkit.graphs import Graph

CONFIG = tiny_config()
TABLE = log_snr_table(CONFIG)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loss_of(network, clean, graph, *, config=CONFIG, table=TABLE, seed: int = 0, **options):
    return simple_loss(network, config, table, clean, graph, generator=generator(seed), **options)


def offset_predictor(clean: State, offset: float):
    """The true noise plus a constant in every component, so that every squared error is offset^2."""
    exact = knows(clean)
    return lambda noisy, step, log_snr: exact(noisy, step, log_snr).map(lambda part: part + offset)


def test_noised_states_have_the_marginal_of_their_step():
    """Mean alpha x and standard deviation sigma; 20,000 draws of one coordinate, five standard errors."""
    num = 20_000
    graph = Graph.from_sizes(torch.full((num,), 1))
    clean = State(torch.zeros(num, 3), torch.full((num, 1), 2.0))
    noise = draw_noise(graph, 1, generator=generator())
    log_snr = TABLE[400].expand(num, 1)
    noisy = add_noise(clean, noise, log_snr).features
    spread = sigma(TABLE[400]).item()
    assert noisy.dtype == torch.float32
    assert noisy.mean().item() == pytest.approx(2.0 * alpha(TABLE[400]).item(), abs=5 * spread / math.sqrt(num))
    assert noisy.std().item() == pytest.approx(spread, abs=5 * spread / math.sqrt(2 * num))


def test_a_perfect_predictor_has_no_noise_error():
    config = tiny_config()
    clean, graph = clean_state(config, random_molecules([4, 9, 1]), torch.float64)
    terms = loss_of(StandIn(config, knows(clean)), clean, graph)
    assert terms.noise_error.item() < 1e-20
    assert terms.loss.item() == pytest.approx(terms.discrete.item(), abs=1e-20)


def test_predicting_zero_costs_one_per_component():
    """Mean squared error of a standard normal; d(M) = 3 (M - 1) of 3 M coordinates are free. Error bar 0.005."""
    clean, graph = clean_state(CONFIG, random_molecules([10] * 2000))
    terms = loss_of(StandIn(CONFIG, predicts_zero), clean, graph)
    assert terms.noise_error.item() == pytest.approx((27 + 60) / 90, abs=0.02)


def test_every_molecule_weighs_the_same_by_default():
    """A wrong noise of 0.3 in every component costs 0.3^2 / 2 whatever the size and the company."""
    for sizes in ([6], [6, 29], [29, 29, 3]):
        clean, graph = clean_state(CONFIG, random_molecules(sizes), torch.float64)
        network = StandIn(CONFIG, offset_predictor(clean, 0.3))
        assert loss_of(network, clean, graph, seed=1).noise_error.item() == pytest.approx(0.09, rel=1e-6)


def test_the_reference_weighs_a_small_molecule_by_its_batch():
    """Six atoms weigh 1.0 in a batch of their size and 6 / 29 = 0.207 beside a molecule of 29 atoms."""
    errors = {}
    for sizes in ([6], [6, 29]):
        clean, graph = clean_state(CONFIG, random_molecules(sizes), torch.float64)

        def only_small_is_wrong(noisy, step, log_snr, clean=clean, graph=graph):
            wrong = 0.3 * (graph.batch == 0)[:, None].double()
            return knows(clean)(noisy, step, log_snr).map(lambda part: part + wrong)

        terms = loss_of(StandIn(CONFIG, only_small_is_wrong), clean, graph, seed=1, weighting="reference")
        errors[len(sizes)] = terms.noise_error.item() * len(sizes) / 0.09
    assert errors[1] == pytest.approx(1.0, rel=1e-6)
    assert errors[2] == pytest.approx(0.207, abs=5e-4)


def test_at_step_0_positions_and_likelihood_of_the_features_count_but_not_the_noise_of_features():
    config = tiny_config(num_steps=1, scale_types=1.0, scale_atomic_number=1.0)
    table = torch.full((2,), TABLE[500].item(), dtype=torch.float64)  # so much noise that types are uncertain
    clean, graph = clean_state(config, random_molecules([4, 7]), torch.float64)
    seed = next(s for s in range(100) if draw_steps(2, 1, generator=generator(s)).tolist() == [0, 1])
    found = loss_of(StandIn(config, lambda noisy, step, _: noisy.map(torch.zeros_like)), clean, graph, config=config,
                    table=table, seed=seed)  # fmt: skip

    repeat = generator(seed)
    draw_steps(2, 1, generator=repeat)
    noise = draw_noise(graph, 6, generator=repeat, dtype=torch.float64)
    noisy = add_noise(clean, noise, table[0].expand(11, 1))
    spread = sigma(table[0]).expand(11, 1)
    first = graph.batch == 0
    log_h = log_prob_types(config, clean, noisy.features, spread)
    log_h = log_h + log_prob_atomic_number(config, clean, noisy.features, spread)
    at_zero = 0.5 * noise.positions[first].square().sum() / (9 * 4) - log_h[first].sum()
    later = 0.5 * (noise.positions[~first].square().sum() + noise.features[~first].square().sum()) / (9 * 7)
    assert found.discrete.item() == pytest.approx(-log_h[first].sum().item() / 2)
    assert found.discrete.item() > 0.5
    assert found.loss.item() == pytest.approx(((at_zero + later) / 2).item(), rel=1e-12)


def test_the_likelihood_of_features_carries_no_gradient():
    edm = tiny_edm()
    clean, graph = clean_state(edm.config, random_molecules([5, 5, 8]))
    terms = loss_of(edm.network, clean, graph, table=edm.log_snr)
    assert terms.loss.requires_grad and not terms.noise_error.requires_grad and not terms.discrete.requires_grad


@pytest.mark.parametrize("stratified", [False, True])
def test_same_generator_gives_the_same_loss(stratified):
    edm = tiny_edm()
    clean, graph = clean_state(edm.config, random_molecules([5, 12, 8]))
    losses = [loss_of(edm.network, clean, graph, seed=s, stratified=stratified).loss.item() for s in (3, 3, 4)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("stratified", [False, True])
def test_steps_of_every_molecule_are_uniform(stratified):
    """Steps 0..3 of each of five molecules over 4,000 draws: frequency 1/4, standard error 0.007."""
    g = generator(6)
    draws = torch.stack([draw_steps(5, 3, generator=g, stratified=stratified) for _ in range(4000)])
    assert draws.min() == 0 and draws.max() == 3
    frequency = torch.stack([(draws == step).double().mean(0) for step in range(4)])
    assert (frequency - 0.25).abs().max() < 4.5 * 0.00685


def test_stratified_steps_cover_the_range_in_every_batch():
    steps = draw_steps(200, 999, generator=generator(), stratified=True).sort().values
    assert torch.equal(steps // 5, torch.arange(200))
    plain = draw_steps(200, 999, generator=generator()).sort().values
    assert not torch.equal(plain // 5, torch.arange(200))


def test_stratified_steps_do_not_change_the_expected_loss():
    """The noise error of an untrained network over 400 batches of 8, both ways: within four standard errors."""
    edm = tiny_edm()
    clean, graph = clean_state(edm.config, random_molecules([4] * 8))
    means = {}
    with torch.no_grad():
        for stratified in (False, True):
            g = generator(8)
            values = torch.stack(
                [
                    simple_loss(edm.network, edm.config, edm.log_snr, clean, graph, generator=g, stratified=stratified)
                    .noise_error
                    for _ in range(400)
                ]
            )  # fmt: skip
            means[stratified] = values.mean().item(), values.std().item() / 20.0
    gap = abs(means[True][0] - means[False][0])
    assert gap < 4.0 * math.hypot(means[True][1], means[False][1])


def test_squared_error_is_summed_per_molecule():
    graph = Graph.from_sizes(torch.tensor([2, 3]))
    ones, zeros = State(torch.ones(5, 3), torch.ones(5, 6)), State(torch.zeros(5, 3), torch.zeros(5, 6))
    assert squared_error(ones, zeros, graph).tolist() == [18.0, 27.0]


def test_the_network_sees_the_step_as_a_fraction():
    seen = []

    def spy(noisy, step, log_snr):
        seen.append(step.flatten().unique().tolist())
        return noisy.map(torch.zeros_like)

    clean, graph = clean_state(CONFIG, random_molecules([3] * 50))
    loss_of(StandIn(CONFIG, spy), clean, graph, seed=9)
    assert seen[0] == draw_steps(50, 1000, generator=generator(9)).unique().tolist()


def test_a_noisy_state_is_the_clean_one_where_the_signal_is_strong_and_the_noise_where_it_is_weak():
    clean, noise = (State(torch.full((2, 3), value), torch.full((2, 1), value)) for value in (1.0, 5.0))
    noisy = add_noise(clean, noise, torch.tensor([[60.0], [-60.0]]))
    assert noisy.positions[:, 0].tolist() == pytest.approx([1.0, 5.0])
    assert noisy.features[:, 0].tolist() == pytest.approx([1.0, 5.0])
