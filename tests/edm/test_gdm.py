import pytest
import torch

from molkit.edm import engine
from molkit.edm.config import EdmConfig
from molkit.edm.engine import FusedGdmNetwork, accelerate
from molkit.edm.features import State
from molkit.edm.model import build, load, save
from molkit.edm.network import GdmNetwork
from molkit.edm.sampling import sample
from molkit.edm.training import turned
from molkit.geometry import random_rotations
from molkit.graphs import Graph

SIZES = (1, 2, 5, 9)
needs_engine = pytest.mark.skipif(not engine.available(), reason="no C compiler or no AVX2")


def make_network(width=32, dtype=torch.float32, **options):
    config = EdmConfig(architecture="gdm", width=width, num_layers=3, **options)
    return build(config, seed=1).network.to(dtype)


def make_inputs(dtype=torch.float32, seed=2):
    generator = torch.Generator().manual_seed(seed)
    graph = Graph.from_sizes(torch.tensor(SIZES))
    atoms = len(graph.batch)
    features = torch.randn(atoms, 6, generator=generator, dtype=dtype)
    positions = graph.centre(torch.randn(atoms, 3, generator=generator, dtype=dtype))
    t = torch.rand(len(SIZES), 1, generator=generator, dtype=dtype)[graph.batch]
    return [features, positions, t, graph.edge_index, graph.batch, len(SIZES)], graph


def test_the_baseline_is_built_where_the_configuration_asks_for_it(tmp_path):
    edm = build(EdmConfig(architecture="gdm", width=16, num_layers=1))
    assert isinstance(edm.network, GdmNetwork)
    save(edm, tmp_path)
    assert isinstance(load(tmp_path, fast=False).network, GdmNetwork)


def test_the_noise_of_the_positions_has_zero_mean():
    inputs, graph = make_inputs(torch.float64)
    velocity, _ = make_network(dtype=torch.float64)(*inputs)
    assert graph.sum(velocity).abs().max() < 1e-12


def test_atoms_of_a_molecule_may_be_listed_in_any_order():
    inputs, graph = make_inputs(torch.float64)
    network = make_network(dtype=torch.float64)
    order = torch.cat([torch.tensor([0, 2, 1]), 3 + torch.randperm(5), 8 + torch.randperm(9)])
    velocity, noise = network(*inputs)
    shuffled = [inputs[0][order], inputs[1][order], *inputs[2:]]
    other_velocity, other_noise = network(*shuffled)
    torch.testing.assert_close(other_velocity, velocity[order])
    torch.testing.assert_close(other_noise, noise[order])


def test_it_does_not_turn_with_the_molecule():
    """The symmetry that EDM has and this baseline lacks."""
    inputs, graph = make_inputs(torch.float64)
    network = make_network(dtype=torch.float64)
    rotations = random_rotations(len(SIZES), generator=torch.Generator().manual_seed(3))

    def turn(values):
        return turned(State(values, values), graph, rotations).positions

    velocity, _ = network(*inputs)
    other, _ = network(inputs[0], turn(inputs[1]), *inputs[2:])
    assert (other - turn(velocity)).norm() > 0.01 * velocity.norm()


def relative_error(found, truth):
    found, truth = (torch.cat([part.flatten() for part in parts]) for parts in (found, truth))
    return float((found - truth).norm() / truth.norm())


@needs_engine
@pytest.mark.parametrize(
    ("precision", "output_error", "gradient_error"), [("float32", 1e-5, 1e-4), ("bfloat16", 2e-2, 5e-2)]
)
def test_the_kernel_gives_the_same_outputs_and_gradients(precision, output_error, gradient_error):
    network, (inputs, _) = make_network(width=64), make_inputs()
    fused = accelerate(network, precision=precision)
    assert isinstance(fused, FusedGdmNetwork)
    results = []
    for kind in (network, fused):
        network.zero_grad()
        velocity, noise = kind(*inputs)
        (velocity.square().sum() + noise.square().sum()).backward()
        results.append(([velocity.detach(), noise.detach()], [p.grad.clone() for p in network.parameters()]))
    assert relative_error(results[1][0], results[0][0]) < output_error
    assert relative_error(results[1][1], results[0][1]) < gradient_error


def test_molecules_can_be_sampled_from_it():
    edm = build(EdmConfig(architecture="gdm", width=16, num_layers=1))
    result = sample(edm, torch.tensor([3, 5]), generator=torch.Generator().manual_seed(0), num_calls=5)
    assert [molecule.num_atoms for molecule in result.molecules] == [3, 5]
