"""Flow matching with the same network: the path, the exact velocity of a Gaussian, and samples of a flow model."""

import pytest
import torch
from edm_toys import StandIn, clean_state, random_molecules, random_rotation, tiny_config, tiny_edm

from molkit.cli import run
from molkit.data.packed import read_packed
from molkit.edm import likelihood
from molkit.edm.diffusion import draw_noise
from molkit.edm.features import State
from molkit.edm.flow import advance, draw_times, flow_loss, flow_rule, flow_steps, linear_part, mix, predict_velocity
from molkit.edm.model import Edm, load, save
from molkit.edm.samplers import sampler_named
from molkit.edm.sampling import sample
from molkit.errors import InvalidInput
from molkit.graphs import Graph

MEAN, SPREAD = 0.7, 0.4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian_velocity(state: State, t: float) -> State:
    """Mean of clean - noise given the state, for clean values N(MEAN, SPREAD^2): derived by hand."""
    variance = (1 - t) ** 2 * SPREAD**2 + t**2

    def velocity(value):
        surplus = value - (1 - t) * MEAN
        return MEAN + (1 - t) * SPREAD**2 / variance * surplus - t / variance * surplus

    return state.map(velocity)


def run_flow(velocity, state: State, steps: int, rule: str) -> State:
    times = [1.0 - k / steps for k in range(steps + 1)]
    for now, after in zip(times[:-1], times[1:], strict=True):
        state = advance(velocity, state, now, after, rule=rule)
    return state


def test_the_flow_of_a_gaussian_carries_noise_n_to_mean_plus_spread_n():
    """The known map; the error falls as the step (euler) and as its square (midpoint)."""
    noise = State(*(torch.randn(50, k, generator=generator(k), dtype=torch.float64) for k in (3, 6)))
    exact = noise.map(lambda part: MEAN + SPREAD * part)
    errors = {
        (rule, steps): (run_flow(gaussian_velocity, noise, steps, rule).positions - exact.positions).abs().max().item()
        for rule in ("euler", "midpoint")
        for steps in (100, 200)
    }
    assert errors["midpoint", 200] < 1e-4
    assert errors["euler", 100] / errors["euler", 200] == pytest.approx(2.0, rel=0.1)
    assert errors["midpoint", 100] / errors["midpoint", 200] > 3.9


def test_the_loss_of_the_exact_velocity_is_what_no_network_can_know():
    """Features N(MEAN, SPREAD^2): the mean over t of the variance of clean - noise given the state, SPREAD^2 / var_t.

    2,000 molecules of 10 atoms; the error bar of the mean is about 0.5 %.
    """
    config, graph = tiny_config(process="flow"), Graph.from_sizes(torch.full((2000,), 10))
    noise = draw_noise(graph, 6, generator=generator(1), dtype=torch.float64)
    clean = State(torch.zeros_like(noise.positions), MEAN + SPREAD * noise.features)

    def network(features, positions, t, edge_index, batch, num_molecules):
        """Exact in features; positions are all noise, whose velocity is -state / t. The linear part is taken off."""
        variance = (1 - t) ** 2 * SPREAD**2 + t**2
        surplus = features - (1 - t) * MEAN
        slope = linear_part(t)
        exact = MEAN + ((1 - t) * SPREAD**2 - t) / variance * surplus
        return -positions / t - slope * positions, exact - slope * features

    found = flow_loss(network, clean, graph, generator=generator(), stratified=True)
    t = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    floor = (SPREAD**2 / ((1 - t) ** 2 * SPREAD**2 + t**2)).mean().item()
    assert found.loss.item() == pytest.approx(0.5 * floor * config.num_features / 9, rel=0.02)


def test_a_straight_path_needs_one_call():
    clean, graph = clean_state(tiny_config(), random_molecules([4, 9]), torch.float64)
    noise = draw_noise(graph, 6, generator=generator(), dtype=torch.float64)
    straight = State(clean.positions - noise.positions, clean.features - noise.features)
    end = advance(lambda state, t: straight, noise, 1.0, 0.0)
    torch.testing.assert_close(end.positions, clean.positions)
    torch.testing.assert_close(end.features, clean.features)


def test_the_path_begins_at_the_noise_and_ends_at_the_molecule():
    clean, graph = clean_state(tiny_config(), random_molecules([5]), torch.float64)
    noise = draw_noise(graph, 6, generator=generator(), dtype=torch.float64)
    for share, expected in ((0.0, clean), (1.0, noise)):
        found = mix(clean, noise, torch.full((5, 1), share, dtype=torch.float64))
        torch.testing.assert_close(found.positions, expected.positions)
        torch.testing.assert_close(found.features, expected.features)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_the_linear_part_is_the_regression_of_the_velocity_on_the_state(t):
    """Clean values and noise of variance 1: cov(clean - noise, state) / var(state)."""
    covariance, variance = (1 - t) - t, (1 - t) ** 2 + t**2
    assert linear_part(torch.tensor(t)).item() == pytest.approx(covariance / variance)


def test_times_are_uniform_and_stratified_ones_cover_the_range():
    times = draw_times(1000, generator=generator(), stratified=True)
    assert sorted((times * 1000).long().tolist()) == list(range(1000))


def test_the_velocity_turns_with_the_molecule_and_keeps_the_centre():
    edm = tiny_edm(process="flow")
    network = edm.network.double()
    for block in network.blocks:
        torch.nn.init.normal_(block.coordinates.length.weight, std=0.3, generator=generator())
    state, graph = clean_state(edm.config, random_molecules([6, 9]), torch.float64)
    t, rotation = torch.tensor([0.3, 0.8], dtype=torch.float64), random_rotation()
    plain = predict_velocity(network, state, t, graph)
    turned = predict_velocity(network, State(state.positions @ rotation.T, state.features), t, graph)
    torch.testing.assert_close(turned.positions, plain.positions @ rotation.T)
    torch.testing.assert_close(turned.features, plain.features)
    assert graph.sum(plain.positions).abs().max() < 1e-12


def test_samples_of_a_flow_model_come_from_the_same_function():
    clean, graph = clean_state(tiny_config(), random_molecules([4, 4]))

    def knows(state: State, step, log_snr) -> State:
        t = step / 1000
        slope = linear_part(t)
        parts = ((state.positions, clean.positions), (state.features, clean.features))
        return State(*(truth - (value - (1 - t) * truth) / t - slope * value for value, truth in parts))

    config = tiny_config(process="flow")
    edm = Edm(config, StandIn(config, knows), tiny_edm().log_snr)
    result = sample(edm, graph.num_atoms, generator=generator(), num_calls=10, keep_frames=2)
    assert result.num_calls == edm.network.calls == 10
    torch.testing.assert_close(torch.from_numpy(result.molecules.positions).float(), clean.positions, atol=1e-4, rtol=0)
    assert result.molecules.atomic_numbers.tolist() == random_molecules([4, 4]).atomic_numbers.tolist()
    assert [frame.step for frame in result.frames] == [1000, 500, 0]
    half = sample(edm, graph.num_atoms, generator=generator(), num_calls=11, sampler=sampler_named("midpoint"))
    assert half.num_calls == 10


def test_calls_and_samplers_of_a_flow_are_checked():
    assert flow_steps(1000, 4) == [1000, 750, 500, 250, 0]
    assert flow_steps(10, None) == list(range(10, -1, -1))
    assert flow_rule("ancestral") == "euler"
    with pytest.raises(InvalidInput, match="midpoint needs at least 2 network calls, got 1"):
        flow_steps(1000, 1, rule="midpoint")
    with pytest.raises(InvalidInput, match="euler and midpoint, not ddim"):
        sample(tiny_edm(process="flow"), torch.tensor([3]), generator=generator(), sampler=sampler_named("ddim"))
    with pytest.raises(InvalidInput, match="trained by flow matching, which this one is not"):
        sample(tiny_edm(), torch.tensor([3]), generator=generator(), num_calls=2, sampler=sampler_named("euler"))


def test_a_flow_model_has_no_bound_and_remembers_what_it_is(tmp_path):
    save(tiny_edm(process="flow"), tmp_path)
    edm = load(tmp_path)
    assert edm.config.process == "flow"
    with pytest.raises(InvalidInput, match="the likelihood bound needs a diffusion model"):
        likelihood.bound(edm, random_molecules([4]), generator=generator())


def test_molkit_sample_takes_a_flow_model(tmp_path, capsys):
    save(tiny_edm(process="flow"), tmp_path / "run")
    for options in ([], ["--sampler", "midpoint"], ["--calls", "3"]):
        out = tmp_path / f"{len(options)}.npz"
        calls = [] if "--calls" in options else ["--calls", "4"]
        assert run(["sample", str(tmp_path / "run"), "--count", "2", *calls, *options, "--out", str(out)]) == 0
        assert len(read_packed(out)) == 2
