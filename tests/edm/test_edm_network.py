"""The noise predictor: symmetry, batching, size, precision, and a second implementation written densely."""

from functools import partial

import pytest
import torch
from edm_toys import random_rotation, tiny_config
from padded_egnn import padded_egnn

from molkit.edm.config import EdmConfig
from molkit.edm.model import WEIGHTS_ROOT, build, load
from molkit.edm.network import EdmNetwork, MessageLayer, sine_embedding
from molkit.graphs import Graph

OPTIONS = {
    "paper": {},
    "sine embedding": {"sine_embedding": True},
    "mean": {"aggregation": "mean"},
    "no attention": {"attention": False},
    "unbounded steps": {"bounded_steps": False},
    "two sublayers": {"message_sublayers": 2},
    "scaled sum": {"message_scale": 100.0},
    "all at once": {"sine_embedding": True, "aggregation": "mean", "attention": False, "message_sublayers": 2},
}
EVERY_OPTION = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
SIZES = torch.tensor([5, 1, 9, 2])


def network_of(dtype=torch.float64, *, move: float = 1.0, **options) -> EdmNetwork:
    """Fresh weights; `move` enlarges the last layer of the coordinate updates, which starts nearly at zero."""
    network = build(tiny_config(**options), seed=3).network.to(dtype)
    with torch.no_grad():
        for block in network.blocks:
            block.coordinates.length.weight *= move
    return network


def inputs(sizes=SIZES, dtype=torch.float64, num_features: int = 6, seed: int = 0):
    """features [A, n_h], positions [A, 3], t [A, 1], graph of random molecules."""
    generator = torch.Generator().manual_seed(seed)
    graph = Graph.from_sizes(torch.as_tensor(sizes))
    features = torch.randn(len(graph.batch), num_features, generator=generator, dtype=torch.float64)
    positions = graph.centre(1.5 * torch.randn(len(graph.batch), 3, generator=generator, dtype=torch.float64))
    t = torch.rand(graph.num_molecules, generator=generator, dtype=torch.float64)[graph.batch, None]
    return features.to(dtype), positions.to(dtype), t.to(dtype), graph


def run(network, features, positions, t, graph):
    with torch.no_grad():
        return network(features, positions, t, graph.edge_index, graph.batch, graph.num_molecules)


def largest_difference(found, expected) -> float:
    return max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True))


def symmetry_errors(network, features, positions, t, graph) -> dict[str, float]:
    """Largest absolute deviation from each symmetry of the noise predictor."""
    rotation = random_rotation(dtype=positions.dtype)
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=positions.dtype))
    shift = torch.tensor([[0.7, -1.1, 0.4]], dtype=positions.dtype)
    velocity, noise = run(network, features, positions, t, graph)
    generator = torch.Generator().manual_seed(7)
    firsts, sizes = (graph.num_atoms.cumsum(0) - graph.num_atoms).tolist(), graph.num_atoms.tolist()
    order = torch.cat([f + torch.randperm(size, generator=generator) for f, size in zip(firsts, sizes, strict=True)])
    turned = run(network, features, positions @ rotation.T, t, graph)
    mirrored = run(network, features, positions @ mirror, t, graph)
    moved = run(network, features, positions + shift, t, graph)
    shuffled = run(network, features[order], positions[order], t[order], graph)
    return {
        "rotation": largest_difference(turned, (velocity @ rotation.T, noise)),
        "reflection": largest_difference(mirrored, (velocity @ mirror, noise)),
        "translation": largest_difference(moved, (velocity, noise)),
        "permutation": largest_difference(shuffled, (velocity[order], noise[order])),
    }


@EVERY_OPTION
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 5e-6), (torch.float64, 1e-12)], ids=["f32", "f64"])
def test_network_turns_mirrors_moves_and_permutes_with_the_molecule(options, dtype, bound):
    errors = symmetry_errors(network_of(dtype, **options), *inputs(dtype=dtype))
    assert max(errors.values()) <= bound, errors


@EVERY_OPTION
def test_symmetry_does_not_rest_on_small_steps(options):
    """The same with steps enlarged a hundredfold, so that coordinates really move."""
    network = network_of(move=100.0, **options)
    batch = inputs()
    assert run(network, *batch)[0].abs().max() > 0.01
    errors = symmetry_errors(network, *batch)
    assert max(errors.values()) <= 1e-11, errors


def test_the_model_of_the_paper_keeps_its_symmetry_in_float32():
    network = build(EdmConfig(width=64), seed=1).network
    errors = symmetry_errors(network, *inputs(torch.tensor([19, 4, 29]), torch.float32))
    assert max(errors.values()) <= 5e-6, errors


def asked_nothing(network, features, *rest):
    """The network of a conditional model with nothing asked for."""
    return network(features, *rest, features.new_zeros(len(features), network.config.num_context))


def published_edms():
    """Names of the published weights of noise predictors; those of other methods say so in their configuration."""
    configs = sorted(WEIGHTS_ROOT.glob("*/config.yaml"))
    return [path.parent.name for path in configs if "method: " not in path.read_text()]


@pytest.mark.parametrize("name", published_edms())
def test_published_weights_keep_the_symmetry_in_float32(name):
    """At t = 1, where random atoms are what the model was trained on; the GDM baseline only knows permutations."""
    edm = load(name, fast=False)
    features, positions, t, graph = inputs(torch.tensor([19, 4, 29]), torch.float32, edm.config.num_features)
    batch = (features, positions, torch.ones_like(t), graph)
    network = edm.network if not edm.config.num_context else partial(asked_nothing, edm.network)
    scale = max(part.abs().max().item() for part in run(network, *batch))
    errors = symmetry_errors(network, *batch)
    if edm.config.architecture == "gdm":
        assert errors.pop("permutation") <= 1e-5 * scale and min(errors.values()) > 0.01 * scale, errors
    else:
        assert max(errors.values()) <= 1e-5 * scale, errors


@EVERY_OPTION
def test_a_molecule_does_not_feel_its_batch(options):
    network = network_of(move=50.0, **options)
    features, positions, t, graph = inputs()
    together = run(network, features, positions, t, graph)
    for row, size in enumerate(SIZES.tolist()):
        atoms = graph.batch == row
        alone = run(network, features[atoms], positions[atoms], t[atoms], Graph.from_sizes(torch.tensor([size])))
        assert largest_difference(alone, [part[atoms] for part in together]) <= 1e-12


@EVERY_OPTION
def test_network_equals_a_padded_all_pairs_implementation(options):
    network = network_of(move=50.0, **options)
    features, positions, t, graph = inputs()
    num, largest = graph.num_molecules, int(SIZES.max())
    mask = (torch.arange(largest) < SIZES[:, None]).double().unsqueeze(-1)
    rows, columns = torch.nonzero(mask[..., 0], as_tuple=True)
    padded_features = torch.zeros(num, largest, 6, dtype=torch.float64)
    padded_positions = torch.zeros(num, largest, 3, dtype=torch.float64)
    padded_features[rows, columns], padded_positions[rows, columns] = features, positions
    first = graph.num_atoms.cumsum(0) - graph.num_atoms
    velocity, noise = padded_egnn(network, padded_features, padded_positions, t[first, 0], mask)
    assert (velocity * (1 - mask)).abs().max() == 0.0 and (noise * (1 - mask)).abs().max() == 0.0
    found = run(network, features, positions, t, graph)
    assert largest_difference(found, (velocity[rows, columns], noise[rows, columns])) <= 1e-10


@EVERY_OPTION
def test_velocity_has_zero_mean(options):
    velocity, _ = run(network_of(move=100.0, **options), *(batch := inputs()))
    assert batch[3].sum(velocity).abs().max() <= 1e-12


@EVERY_OPTION
def test_a_single_atom_stays_where_it_is(options):
    velocity, noise = run(network_of(**options), *inputs(torch.tensor([1])))
    assert velocity.abs().max() == 0.0
    assert torch.isfinite(noise).all() and noise.shape == (1, 6)


def test_atoms_at_one_place_give_finite_noise_and_gradients():
    network = network_of()
    features, positions, t, graph = inputs(torch.tensor([3]))
    positions = torch.zeros_like(positions).requires_grad_()
    velocity, noise = network(features, positions, t, graph.edge_index, graph.batch, 1)
    (velocity.square().sum() + noise.sum()).backward()
    assert torch.isfinite(velocity).all() and torch.isfinite(positions.grad).all()


def test_mean_aggregation_divides_by_the_number_of_neighbours():
    """A sum scaled by M - 1 is the mean, in a molecule of M atoms (no padding, not the atom itself)."""
    size = 7
    mean = network_of(move=50.0, aggregation="mean")
    scaled = network_of(move=50.0, message_scale=float(size - 1))
    batch = inputs(torch.tensor([size]))
    assert largest_difference(run(mean, *batch), run(scaled, *batch)) <= 1e-13


@pytest.mark.parametrize(("width", "count"), [(64, 339_664), (128, 1_342_864), (256, 5_339_920)])
def test_number_of_parameters_is_that_of_the_released_models(width, count):
    """Seven node inputs: five types, atomic number or not, and the time."""
    network = EdmNetwork(EdmConfig(width=width, atomic_number_channel=True, elements=(1, 6, 7, 8, 9)))
    assert network.embed.in_features == 7
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_the_split_first_layer_is_one_linear_on_the_concatenation():
    layer = MessageLayer(tiny_config(), 2).double()
    features, positions, _, graph = inputs(num_features=16)
    receiver, sender = graph.edge_index
    squared = (positions[receiver] - positions[sender]).square().sum(-1, keepdim=True)
    columns = torch.cat([squared, 0.5 * squared], -1)
    hidden = torch.nn.functional.silu(layer.pair.first(torch.cat([features[receiver], features[sender], columns], -1)))
    expected = torch.nn.functional.silu(layer.pair.second(hidden))
    torch.testing.assert_close(layer.pair(features, graph.edge_index, columns), expected, rtol=0.0, atol=1e-13)


def test_no_gradient_flows_through_the_sine_embedding():
    squared = torch.full((3, 1), 2.0, requires_grad=True)
    assert not sine_embedding(squared).requires_grad
    assert sine_embedding(squared).shape == (3, 12)


def test_context_is_an_input_and_not_an_output():
    config = tiny_config(num_context=2)
    network = build(config).network.double()
    features, positions, t, graph = inputs()
    arguments = (features, positions, t, graph.edge_index, graph.batch, graph.num_molecules)
    one = network(*arguments, torch.zeros(len(features), 2, dtype=torch.float64))
    other = network(*arguments, torch.ones(len(features), 2, dtype=torch.float64))
    assert one[1].shape == features.shape
    assert (one[1] - other[1]).abs().max() > 1e-3


class Seen(list):
    """What the blocks of a network are given, recorded by hooks."""

    def __init__(self, network: EdmNetwork) -> None:
        super().__init__()
        for block in network.blocks:
            block.register_forward_pre_hook(lambda _, arguments: self.append(arguments))


def test_autocast_keeps_every_time_step_and_every_coordinate_apart():
    """bfloat16 would leave 507 of the 1,001 times and move an atom 3 angstrom out by 0.0085 angstrom."""
    network = network_of(torch.float32)
    seen = Seen(network)
    graph = Graph.from_sizes(torch.full((1001,), 2))
    t = (torch.arange(1001.0) / 1000.0)[graph.batch, None]
    positions = graph.centre(torch.randn(2002, 3, generator=torch.Generator().manual_seed(0)))
    with torch.autocast("cpu", torch.bfloat16):
        velocity, noise = run(network, torch.zeros(2002, 6), positions, t, graph)
    assert velocity.dtype == noise.dtype == torch.float32
    assert len(torch.unique(seen[0][0], dim=0)) == 1001
    assert torch.equal(seen[0][1], positions)
    for hidden, moved, _, first_squared, _ in seen:
        assert hidden.dtype == moved.dtype == first_squared.dtype == torch.float32


def test_autocast_changes_the_noise_by_no_more_than_its_rounding():
    network = network_of(torch.float32, move=50.0)
    batch = inputs(dtype=torch.float32)
    plain = run(network, *batch)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = run(network, *batch)
    assert 0.0 < largest_difference(rounded, plain) < 0.03 * max(part.abs().max().item() for part in plain)
    assert batch[3].sum(rounded[0]).abs().max() < 1e-5  # the mean is still removed in float32


def test_building_leaves_the_global_generator_alone_and_follows_the_seed():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second, third = (build(tiny_config(), seed=seed).network.state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["embed.weight"], third["embed.weight"])
