"""Self-conditioning: the network's own estimate as columns and as a second geometry."""

import pytest
import torch
from edm_toys import clean_state, edm_with, predicts_zero, random_molecules, random_rotation, tiny_config, tiny_edm

from molkit.edm.diffusion import add_noise, draw_noise, predict_noise, predict_twice, signal_part, simple_loss
from molkit.edm.engine import accelerate, available
from molkit.edm.features import State
from molkit.edm.model import build
from molkit.edm.sampling import sample
from molkit.edm.schedule import alpha


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lively(dtype=torch.float64):
    """A self-conditioned network whose moves are large enough to be seen, with a molecule and an estimate of it."""
    edm = build(tiny_config(self_conditioning=True))
    for block in edm.network.blocks:
        torch.nn.init.normal_(block.coordinates.length.weight, std=0.3, generator=generator())
    state, graph = clean_state(edm.config, random_molecules([6, 9]), dtype)
    estimate = clean_state(edm.config, random_molecules([6, 9], seed=1), dtype)[0]
    return edm.network.to(dtype), state, estimate, graph


def ask(network, state, estimate, graph, step: int = 300) -> State:
    return predict_noise(network, state, torch.full((2,), step), graph, num_steps=1000, estimate=estimate)


def test_the_answer_turns_with_molecule_and_estimate_together():
    network, state, estimate, graph = lively()
    plain, rotation = ask(network, state, estimate, graph), random_rotation()
    turned = [State(part.positions @ rotation.T, part.features) for part in (state, estimate)]
    found = ask(network, *turned, graph)
    torch.testing.assert_close(found.positions, plain.positions @ rotation.T)
    torch.testing.assert_close(found.features, plain.features)


def test_the_answer_depends_on_both_parts_of_the_estimate_and_on_its_absence():
    network, state, estimate, graph = lively()
    other = State(2.0 * estimate.positions, estimate.features), State(estimate.positions, 2.0 * estimate.features)
    answers = [ask(network, state, known, graph).positions for known in (None, estimate, *other)]
    for k, first in enumerate(answers):
        for second in answers[k + 1 :]:
            assert (first - second).abs().max() > 1e-6


@pytest.mark.skipif(not available(), reason="needs a C compiler and AVX2")
def test_the_fused_engine_gives_the_same_answer_and_gradients():
    network, state, estimate, graph = lively(torch.float32)
    answers = []
    for runs in (network, accelerate(network)):
        network.zero_grad()
        found = ask(runs, state, estimate, graph)
        (found.positions.square().sum() + found.features.square().sum()).backward()
        answers.append((found.positions.detach(), torch.cat([p.grad.flatten() for p in network.parameters()])))
    torch.testing.assert_close(answers[0][0], answers[1][0], rtol=1e-4, atol=1e-5)
    assert (answers[0][1] - answers[1][1]).norm() < 1e-4 * answers[0][1].norm()


def test_the_signal_part_of_the_true_noise_is_alpha_times_the_molecule():
    edm = tiny_edm()
    clean, graph = clean_state(edm.config, random_molecules([5]), torch.float64)
    noise = draw_noise(graph, 6, generator=generator(), dtype=torch.float64)
    log_snr = edm.log_snr[700].expand(5, 1)
    found = signal_part(add_noise(clean, noise, log_snr), noise, log_snr)
    torch.testing.assert_close(found.positions, alpha(log_snr) * clean.positions)


def test_no_gradient_flows_through_the_first_call():
    network, state, _, graph = lively()
    log_snr = tiny_edm().log_snr[torch.tensor([300, 300])][graph.batch].unsqueeze(-1)
    gradients = []
    for seen in (None, signal_part(state, ask(network, state, None, graph), log_snr).map(torch.Tensor.detach)):
        network.zero_grad()
        steps = torch.full((2,), 300)
        found = (
            predict_twice(network, state, steps, graph, log_snr, num_steps=1000)
            if seen is None
            else ask(network, state, seen, graph)
        )
        found.positions.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert torch.equal(*gradients)


def test_half_of_the_batches_go_through_the_network_twice():
    """400 fair coins: between 150 and 250 second calls (five standard errors)."""
    config = tiny_config(self_conditioning=True)
    clean, graph = clean_state(config, random_molecules([3]))
    seen = []

    def network(features, positions, t, edge_index, batch, num_molecules, estimate=None):
        seen.append(estimate is not None)
        return torch.zeros_like(positions), torch.zeros_like(features)

    for seed in range(400):
        simple_loss(network, config, tiny_edm().log_snr, clean, graph, generator=generator(seed))
    assert 150 < sum(seen) < 250
    assert len(seen) == 400 + sum(seen)


def test_a_chain_asks_twice_at_every_step_the_second_time_with_the_estimate():
    edm = edm_with(tiny_config(self_conditioning=True), predicts_zero)
    inner, seen = edm.network.forward, []

    def forward(features, positions, t, edge_index, batch, num_molecules, estimate=None):
        seen.append((float(t[0, 0]), positions.clone(), estimate))
        return inner(features, positions, t, edge_index, batch, num_molecules)

    edm.network.forward = forward
    result = sample(edm, torch.tensor([4]), generator=generator(), num_calls=10)
    assert result.num_calls == len(seen) == 10
    for (t, state, nothing), (again, same, estimate) in zip(seen[::2], seen[1::2], strict=True):
        assert t == again and nothing is None and torch.equal(state, same)
        torch.testing.assert_close(estimate[1], state)  # zero noise predicted: all of it is signal
