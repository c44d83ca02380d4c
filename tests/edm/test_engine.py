import logging

import pytest
import torch

from molkit.edm import engine
from molkit.edm.config import EdmConfig
from molkit.edm.engine import FusedEdmNetwork, accelerate
from molkit.edm.network import EdmNetwork
from molkit.errors import InvalidInput
from molkit.graphs import batch_vector, fully_connected
from molkit.training.precision import speed_ratio, use_bfloat16

needs_engine = pytest.mark.skipif(not engine.available(), reason="no C compiler or no AVX2")
SIZES = (1, 2, 5, 29, 18)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def fresh_engine(monkeypatch, tmp_path):
    """The engine as a new process with an empty cache folder would see it."""
    monkeypatch.setenv("MOLKIT_CACHE", str(tmp_path))
    engine.load.cache_clear()
    yield tmp_path
    engine.load.cache_clear()


def make_network(*, width=32, num_layers=2, seed=0, **options):
    torch.manual_seed(seed)
    network = EdmNetwork(EdmConfig(width=width, num_layers=num_layers, **options))
    for block in network.blocks:
        block.coordinates.length.weight.data.mul_(20.0)  # so that positions matter
    return network


def make_inputs(*, sizes=SIZES, seed=1, dtype=torch.float32):
    """The arguments of the network's forward."""
    generator = torch.Generator().manual_seed(seed)
    num_atoms = torch.tensor(sizes)
    atoms = int(num_atoms.sum())
    features = torch.randn(atoms, 6, generator=generator, dtype=dtype)
    positions = 1.5 * torch.randn(atoms, 3, generator=generator, dtype=dtype)
    t = torch.rand(atoms, 1, generator=generator, dtype=dtype)
    return [features, positions, t, fully_connected(num_atoms), batch_vector(num_atoms), len(sizes)]


def outputs_and_gradients(network, inputs):
    """Both outputs and the gradients of a random projection of them with respect to inputs and parameters."""
    inputs = [inputs[0].clone().requires_grad_(), inputs[1].clone().requires_grad_(), *inputs[2:]]
    network.zero_grad()
    velocity, noise = network(*inputs)
    generator = torch.Generator().manual_seed(2)
    probes = [torch.randn(out.shape, generator=generator).to(out) for out in (velocity, noise)]
    ((velocity * probes[0]).sum() + (noise * probes[1]).sum()).backward()
    results = {"velocity": velocity.detach(), "noise": noise.detach()}
    gradients = {"features": inputs[0].grad, "positions": inputs[1].grad}
    gradients.update({name: parameter.grad.clone() for name, parameter in network.named_parameters()})
    return results, gradients


def relative_error(value, reference):
    return float((value - reference).norm() / reference.norm())


def assert_same(network, fused, inputs, *, output_error, gradient_error):
    expected, expected_gradients = outputs_and_gradients(network, inputs)
    results, gradients = outputs_and_gradients(fused, inputs)
    for name in expected:
        assert relative_error(results[name], expected[name]) < output_error, name
    for name in expected_gradients:
        assert relative_error(gradients[name], expected_gradients[name]) < gradient_error, name


@needs_engine
@pytest.mark.parametrize("width", [32, 48, 64, 96, 256])
def test_fused_network_and_its_gradients_agree_with_the_readable_one(width):
    network = make_network(width=width)
    fused = accelerate(network)
    assert isinstance(fused, FusedEdmNetwork)
    assert_same(network, fused, make_inputs(), output_error=1e-5, gradient_error=1e-4)


@needs_engine
@pytest.mark.parametrize(
    "options",
    [
        {"attention": False},
        {"bounded_steps": False},
        {"aggregation": "mean", "norm_constant": 0.0},
        {"message_sublayers": 2, "message_scale": 7.0},
    ],
)
def test_every_option_of_the_network_agrees(options):
    network = make_network(**options)
    fused = accelerate(network)
    assert_same(network, fused, make_inputs(), output_error=1e-5, gradient_error=1e-4)


def use_level(level, monkeypatch):
    """Let the engine use one instruction set, a value of LEVELS; skips the test where the CPU lacks it."""
    library, best, _ = engine.load()
    if level > best:
        pytest.skip("this CPU lacks it")
    monkeypatch.setattr(engine, "load", lambda: (library, level, ""))


@needs_engine
@pytest.mark.parametrize("width", [32, 64, 96])
@pytest.mark.parametrize("level", [3, 4])
def test_bfloat16_products_stay_close_in_outputs_and_in_the_direction_of_gradients(level, width, monkeypatch):
    use_level(level, monkeypatch)
    network = make_network(width=width)
    inputs = make_inputs(sizes=(18, 29, 12, 5))
    expected, expected_gradients = outputs_and_gradients(network, inputs)
    results, gradients = outputs_and_gradients(accelerate(network, precision="bfloat16"), inputs)
    for name in expected:
        assert relative_error(results[name], expected[name]) < 1e-2, name
    for name in expected_gradients:
        pair = (gradients[name].flatten(), expected_gradients[name].flatten())
        assert torch.nn.functional.cosine_similarity(*pair, dim=0) > 0.999, name


def kernel_silu(values, precision):
    """silu of a tensor [F] by the kernel: the step of one edge whose z2 is b2, with a head that picks one feature."""
    width = len(values)
    options = engine.LayerOptions(kind=engine.MOVE, precision=precision)
    positions, edge_index = torch.tensor([[0.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]), torch.tensor([[0], [1]])
    inputs = (torch.zeros(2, width), positions, edge_index, torch.ones(1, 1), torch.ones(2))
    pair = (torch.zeros(width, 2 * width + 2), torch.zeros(width), torch.zeros(width, width), values)
    found = [engine.FusedLayer.apply(options, *inputs, *pair, head, *[None] * 5) for head in torch.eye(width)]
    return torch.stack([moved[0, 0] for moved in found])


@needs_engine
@pytest.mark.parametrize(("level", "error"), [(1, 1e-6), (2, 1e-6), (3, 2e-4), (4, 2e-4)])
def test_the_activation_is_right_from_far_below_to_far_above_zero(level, error, monkeypatch):
    use_level(level, monkeypatch)
    values = torch.cat([torch.linspace(-30, 30, 252), torch.tensor([-1000.0, -120.0, 120.0, 1000.0])])
    found = kernel_silu(values, "float32" if level < 3 else "bfloat16")
    torch.testing.assert_close(found, torch.nn.functional.silu(values), rtol=error, atol=1e-12)


@needs_engine
@pytest.mark.parametrize("sizes", [SIZES, (3,), (1, 29), (2, 8, 17, 21)])
@pytest.mark.parametrize("width", [16, 48, 80, 128, 176, 512])
def test_products_of_matrices_round_as_products_of_vectors_do(width, sizes, monkeypatch):
    fused = accelerate(make_network(width=width), precision="bfloat16")
    inputs = make_inputs(sizes=sizes)
    found = []
    for level in (3, 4):
        with monkeypatch.context() as patch:
            use_level(level, patch)
            found.append(outputs_and_gradients(fused, inputs))
    (expected, expected_gradients), (results, gradients) = found
    for name in expected:
        assert relative_error(results[name], expected[name]) < 5e-3, name
    for name in expected_gradients:
        if not name.endswith("gate.bias"):  # a sum of large terms that cancel
            assert relative_error(gradients[name], expected_gradients[name]) < 0.12, name


@needs_engine
@pytest.mark.parametrize("level", [1, 2])
def test_each_instruction_set_agrees(level, monkeypatch):
    use_level(level, monkeypatch)
    network = make_network(width=96)
    assert_same(network, accelerate(network), make_inputs(), output_error=1e-5, gradient_error=1e-4)


@needs_engine
def test_edges_may_come_in_any_order_and_be_any_subset():
    network = make_network()
    inputs = make_inputs()
    order = torch.randperm(inputs[3].shape[1], generator=torch.Generator().manual_seed(3))[:-50]
    inputs[3] = inputs[3][:, order]
    assert_same(network, accelerate(network), inputs, output_error=1e-5, gradient_error=1e-4)


@needs_engine
@pytest.mark.parametrize("sizes", [(1,), (1, 1, 1), (2,), (1, 29)])
def test_molecules_of_one_atom_are_right(sizes):
    network = make_network()
    expected = network(*make_inputs(sizes=sizes))
    results = accelerate(network)(*make_inputs(sizes=sizes))
    for result, reference in zip(results, expected, strict=True):
        torch.testing.assert_close(result, reference, rtol=1e-5, atol=1e-6)
    loss = sum(out.square().sum() for out in accelerate(network)(*make_inputs(sizes=sizes)))
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


@needs_engine
def test_rotated_and_shifted_inputs_give_rotated_outputs():
    fused = accelerate(make_network(width=64, num_layers=3))
    inputs = make_inputs()
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(4)))[0]
    with torch.no_grad():
        velocity, noise = fused(*inputs)
        inputs[1] = inputs[1] @ rotation + torch.tensor([0.5, -1.0, 0.25])
        turned_velocity, turned_noise = fused(*inputs)
    torch.testing.assert_close(turned_velocity, velocity @ rotation, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(turned_noise, noise, rtol=1e-4, atol=1e-4)


@needs_engine
def test_results_are_the_same_without_gradients_and_from_one_call_to_the_next():
    fused = accelerate(make_network())
    inputs = make_inputs()
    with torch.no_grad():
        first = fused(*inputs)
    for result, again in zip(first, fused(*inputs), strict=True):
        assert torch.equal(result, again)


@needs_engine
def test_backward_can_be_repeated_on_a_retained_graph():
    fused = accelerate(make_network())
    inputs = make_inputs()
    inputs[1].requires_grad_()
    velocity, _ = fused(*inputs)
    first = torch.autograd.grad(velocity.square().sum(), inputs[1], retain_graph=True)[0]
    fused(*make_inputs(seed=9))[0].sum().backward()
    assert torch.equal(first, torch.autograd.grad(velocity.square().sum(), inputs[1])[0])


@needs_engine
def test_second_derivatives_are_refused():
    fused = accelerate(make_network())
    inputs = make_inputs()
    inputs[1].requires_grad_()
    gradient = torch.autograd.grad(fused(*inputs)[0].square().sum(), inputs[1], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@needs_engine
def test_parameters_are_shared_and_keep_their_names():
    network = make_network()
    fused = accelerate(network)
    assert list(fused.state_dict()) == list(network.state_dict())
    assert all(a is b for a, b in zip(fused.parameters(), network.parameters(), strict=True))


@needs_engine
def test_float64_takes_the_readable_path():
    network = make_network().double()
    inputs = make_inputs(dtype=torch.float64)
    for result, expected in zip(accelerate(network)(*inputs), network(*inputs), strict=True):
        assert torch.equal(result, expected)


@needs_engine
def test_not_a_number_is_passed_on():
    inputs = make_inputs(sizes=(5, 5))
    inputs[0][0, 0] = torch.nan
    velocity, noise = accelerate(make_network())(*inputs)
    assert velocity[:5].isnan().all() and noise[:5].isnan().all()
    assert velocity[5:].isfinite().all() and noise[5:].isfinite().all()


@needs_engine
def test_an_edge_to_an_atom_that_is_not_there_is_an_error():
    network = make_network()
    inputs = make_inputs(sizes=(3,))
    fused = accelerate(network)
    block = fused.blocks[0]
    edge_index = inputs[3].clone()
    edge_index[1, 0] = 3
    with pytest.raises(IndexError, match="edge_index"):
        fused.run_block(block, torch.zeros(3, 32), inputs[1], edge_index, torch.zeros(6, 1), 1.0)


def test_widths_and_edge_features_the_kernel_does_not_know_keep_the_readable_network(caplog):
    for network in (make_network(width=40), make_network(sine_embedding=True)):
        assert accelerate(network) is network


def test_a_missing_compiler_is_one_warning_and_the_readable_network(fresh_engine, monkeypatch, caplog):
    monkeypatch.setattr(engine.shutil, "which", lambda name: None)
    network = make_network()
    with caplog.at_level(logging.WARNING):
        assert accelerate(network) is network
        assert accelerate(network) is network
    assert not engine.available()
    assert "no C compiler" in engine.why_not()
    assert len(caplog.records) == 1


def test_a_compiler_that_fails_is_reported(fresh_engine, monkeypatch):
    monkeypatch.setattr(engine, "FLAGS", ("--no-such-option",))
    assert not engine.available()
    assert "could not build" in engine.why_not()


@needs_engine
@pytest.mark.parametrize("damage", [b"", b"not a library"])
def test_a_damaged_file_in_the_cache_is_built_again(fresh_engine, damage):
    path = engine.library_path(engine.find_compiler())
    path.write_bytes(damage)
    assert engine.available()
    assert path.stat().st_size > 10_000
    assert [file.name for file in fresh_engine.iterdir()] == [path.name]


@needs_engine
def test_a_loaded_model_rounds_its_products_only_where_that_is_asked_for_and_gains(monkeypatch, tmp_path):
    from molkit.edm import model

    edm = model.build(EdmConfig(width=16, num_layers=1), seed=0)
    model.save(edm, tmp_path)
    for gains, precision, expected in (
        (True, "auto", "bfloat16"),
        (False, "auto", "float32"),
        (True, "float32", "float32"),
    ):
        monkeypatch.setattr(model, "gains_from_bfloat16", lambda gains=gains: gains)
        assert model.load(tmp_path, precision=precision).network.precision == expected
    assert model.load(tmp_path).network.precision == "float32"


@needs_engine
@pytest.mark.parametrize(("asked", "gain", "expected"), [("", 1.7, True), ("", 1.0, False), ("", 0.7, False)])
@pytest.mark.parametrize("has", [True, False])
def test_auto_means_bfloat16_only_where_it_is_there_and_measured_to_be_faster(monkeypatch, asked, gain, expected, has):
    monkeypatch.delenv("MOLKIT_PRECISION", raising=False)
    monkeypatch.setattr(engine, "has_bfloat16", lambda: has)
    monkeypatch.setattr(engine, "bfloat16_gain", lambda width, *, training: gain)
    assert engine.gains_from_bfloat16(64) == (expected and has)


def test_the_environment_settles_the_precision_without_measuring(monkeypatch):
    monkeypatch.setattr(engine, "has_bfloat16", lambda: True)
    monkeypatch.setattr(engine, "bfloat16_gain", lambda *_, **__: pytest.fail("measured"))
    for word, expected in (("float32", False), ("bfloat16", True)):
        monkeypatch.setenv("MOLKIT_PRECISION", word)
        assert engine.gains_from_bfloat16() is expected
        assert use_bfloat16("auto", torch.device("cpu"), width=64) is expected
    monkeypatch.setenv("MOLKIT_PRECISION", "half")
    with pytest.raises(InvalidInput, match="MOLKIT_PRECISION must be float32 or bfloat16, got 'half'"):
        engine.gains_from_bfloat16()


@pytest.mark.skipif(not engine.has_bfloat16(), reason="no bfloat16 products here")
def test_the_measured_gain_is_that_of_whole_layers_and_leaves_the_random_numbers_alone():
    before = torch.random.get_rng_state()
    gain = engine.bfloat16_gain.__wrapped__(64)
    assert torch.equal(before, torch.random.get_rng_state())
    network = make_network(width=64, num_layers=2)
    nodes = batch_vector(torch.full((8,), 18))
    pairs = fully_connected(torch.full((8,), 18))
    positions = torch.randn(len(nodes), 3)

    def call(precision):
        fast = accelerate(network, precision=precision)
        with torch.no_grad():
            return lambda: fast.run_block(
                network.blocks[0],
                network.embed.weight.new_ones(len(nodes), 64),
                positions,
                pairs,
                positions.new_ones(pairs.shape[1], 1),
                1.0,
            )

    with torch.no_grad():
        whole = speed_ratio(call("float32"), call("bfloat16"), seconds=0.3)
    assert 0.6 < gain / whole < 1.7


def test_a_call_with_twice_the_work_is_measured_as_twice_as_slow():
    matrix = torch.randn(200, 200)
    ratio = speed_ratio(lambda: [matrix @ matrix for _ in range(10)], lambda: [matrix @ matrix for _ in range(5)])
    assert 1.6 < ratio < 2.5
