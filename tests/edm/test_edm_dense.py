"""The network on padded size buckets gives the readable network's answers, and falls back where it cannot."""

import copy
import functools
import logging
import shutil
from dataclasses import replace

import pytest
import torch
from edm_toys import TINY, tiny_config

from molkit.edm import dense as dense_room
from molkit.edm.dense import (
    BucketedEdmNetwork,
    PlainEdmNetwork,
    Planner,
    compile_for,
    dense_block,
    dense_stack,
    make_probe,
    probe_network,
)
from molkit.edm.model import build, quickest
from molkit.edm.sampling import sample
from molkit.graphs import WIDTHS, Graph, padded_width
from molkit.rng import generator_from

SIZES = torch.tensor([1, 5, 12, 13, 29, 33, 18, 18, 2, 40, 17])
CONVENTIONS = (
    {},
    {"sine_embedding": True},
    {"attention": False, "aggregation": "mean", "bounded_steps": False},
    {"message_sublayers": 2, "num_context": 2, "message_scale": 3.0},
)


def network_of(**changes):
    """A tiny network whose coordinate steps are not negligible."""
    return probe_network(build(tiny_config(**changes)).network)


def inputs(sizes, *, num_context: int = 0, dtype=torch.float32):
    """Random arguments of a network for molecules of the given sizes."""
    generator = torch.Generator().manual_seed(1)
    graph = Graph.from_sizes(torch.as_tensor(sizes))

    def normal(columns):
        return torch.randn(len(graph.batch), columns, generator=generator, dtype=dtype)

    t = torch.rand(graph.num_molecules, 1, generator=generator, dtype=dtype)[graph.batch]
    arguments = [normal(6), graph.centre(normal(3)), t, graph.edge_index, graph.batch, graph.num_molecules]
    return [*arguments, normal(num_context)] if num_context else arguments


@pytest.mark.parametrize("changes", CONVENTIONS, ids=lambda changes: next(iter(changes), "paper"))
def test_buckets_give_the_readable_networks_answers_and_gradients(changes):
    network = network_of(**changes).double()
    arguments = inputs(SIZES, num_context=changes.get("num_context", 0), dtype=torch.float64)
    leaves = [arguments[0].requires_grad_(), arguments[1].requires_grad_(), *network.parameters()]
    answers = []
    for form in (network, BucketedEdmNetwork(network, molecules=3)):
        velocity, noise = form(*arguments)
        loss = (velocity * noise[:, :3]).sum() + velocity.square().sum() + 0.1 * noise.square().sum()
        answers.append([velocity, noise, *torch.autograd.grad(loss, leaves, materialize_grads=True)])
    for plain, dense in zip(*answers, strict=True):
        torch.testing.assert_close(dense, plain, rtol=1e-10, atol=1e-10 * float(plain.detach().abs().max()))


def test_an_answer_does_not_depend_on_the_company_or_the_padding():
    network = network_of().double()
    wide = BucketedEdmNetwork(network, widths=(40,), molecules=64)
    together = inputs(SIZES, dtype=torch.float64)
    for form in (BucketedEdmNetwork(network), wide):
        velocity, noise = form(*together)
        for k in (0, 4, 8):
            atoms = together[4] == k
            alone = [part[atoms] for part in together[:3]]
            graph = Graph.from_sizes(SIZES[k : k + 1])
            v, n = wide(*alone, graph.edge_index, graph.batch, 1)
            torch.testing.assert_close((v, n), (velocity[atoms], noise[atoms]), rtol=1e-10, atol=1e-12)


def test_single_atoms_stay_where_they_are_and_have_finite_gradients():
    network = network_of()
    velocity, noise = BucketedEdmNetwork(network)(*inputs([1, 1, 1]))
    (velocity.sum() + noise.square().sum()).backward()
    assert not velocity.any()
    assert torch.isfinite(noise).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())


def test_coinciding_atoms_and_padding_leave_gradients_finite():
    network = network_of()
    arguments = inputs([3, 14])
    arguments[1] = torch.zeros_like(arguments[1]).requires_grad_()
    velocity, noise = BucketedEdmNetwork(network)(*arguments)
    (velocity.square().sum() + noise.square().sum()).backward()
    assert torch.isfinite(arguments[1].grad).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_matrix_products_are_in_bfloat16_only_when_asked_and_whatever_autocast_surrounds():
    network, arguments = network_of(), inputs(SIZES)
    plain = torch.cat(network.requires_grad_(False)(*arguments), dim=-1)
    for form in (BucketedEdmNetwork, PlainEdmNetwork):
        with torch.autocast("cpu", torch.bfloat16):
            exact = torch.cat(form(network, precision="float32")(*arguments), dim=-1)
        rounded = torch.cat(form(network, precision="bfloat16")(*arguments), dim=-1)
        assert rounded.dtype == torch.float32
        assert float((exact - plain).norm() / plain.norm()) < 1e-6
        assert 1e-4 < float((rounded - plain).norm() / plain.norm()) < 2e-2


def test_padded_widths_are_the_smallest_that_hold_a_molecule():
    sizes = torch.tensor([1, 12, 13, 16, 17, 18, 19, 20, 21, 23, 24, 29, 30, 32, 33])
    expected = [12, 12, 16, 16, 18, 18, 20, 20, 23, 23, 29, 29, 32, 32, 40]
    assert padded_width(sizes).tolist() == expected


def test_few_shapes_occur_however_many_molecules_of_each_size_come():
    generator = torch.Generator().manual_seed(0)
    planner, shapes = Planner(molecules=64), set()
    for _ in range(60):
        count = int(torch.randint(1, 400, (1,), generator=generator))
        sizes = torch.randint(1, 30, (count,), generator=generator)
        groups = planner.groups(sizes)
        shapes |= {(width, len(rows)) for width, rows in groups}
        found = torch.cat([rows for _, rows in groups])
        assert sorted(found[found < count].tolist()) == list(range(count))
        assert all(len(rows) <= 64 for _, rows in groups)
    assert len(shapes) <= 4 * len(WIDTHS)


def test_a_plan_is_made_once_for_a_batch_and_from_announced_sizes_where_there_are_any(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "bincount", lambda batch, minlength: asked.append(batch) or torch.tensor([2, 1]))
    planner, graph = Planner(), Graph.from_sizes(torch.tensor([2, 1]))
    assert planner.plan(graph.batch, 2) is planner.plan(graph.batch, 2)
    other = Graph.without_edges(torch.tensor([3, 1]), "cpu")
    planner.announce(other.batch, torch.tensor([3, 1]))
    assert len(planner.plan(other.batch, 2).place) == 4
    assert len(asked) == 1


def test_a_copy_of_the_network_plans_for_itself_and_has_the_same_weights():
    network = BucketedEdmNetwork(network_of(), molecules=8)
    other = copy.deepcopy(network)
    assert other.planner is not network.planner and other.planner.molecules == 8
    assert other.state_dict().keys() == build(TINY).network.state_dict().keys()
    arguments = inputs([4, 9])
    torch.testing.assert_close(other(*arguments), network(*arguments), rtol=0, atol=0)


def traced(scope: str = "block"):
    """What torch.compile sees of the network, without a compiler behind it."""
    options = {"backend": "aot_eager", "dynamic": False, "fullgraph": True}
    if scope == "stack":
        return torch.compile(dense_stack, **options)
    return functools.partial(dense_stack, run_block=torch.compile(dense_block, **options))


def compile_tiny(**options):
    """compile_for on the CPU with two small buckets."""
    network = build(tiny_config(sizes=((3, 1), (9, 1)))).network
    return compile_for(network, "cpu", **{"precision": "float32", "widths": (4, 9), "molecules": 4} | options), network


@pytest.mark.parametrize("scope", ["block", pytest.param("stack", marks=pytest.mark.slow)])
def test_the_compiled_form_is_checked_then_taken_with_one_program_for_each_shape(monkeypatch, caplog, scope):
    monkeypatch.setattr(dense_room, "compiled_stack", functools.cache(traced))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with caplog.at_level(logging.INFO, logger="molkit.edm.dense"):
        fast, network = compile_tiny(scope=scope)
        compile_tiny(scope=scope)
    arguments = inputs([9, 2, 7, 9, 5, 4, 4, 4])
    torch.testing.assert_close(fast(*arguments), network(*arguments), rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3  # the probe's and two buckets'
    assert isinstance(fast, BucketedEdmNetwork) and fast.precision == "float32"
    assert fast.read_out is network.read_out
    lines = [record.getMessage() for record in caplog.records if record.name == "molkit.edm.dense"]
    assert lines[0].startswith("EDM network: compiled float32 on cpu") and len(lines) == 2


def broken(*arguments, **options):
    """A compiler that fails."""
    raise RuntimeError("no compiler today\nsecond line")


def wrong(blocks, features, positions, *rest):
    """A compiler whose programs are a little off."""
    features, moved = dense_stack(blocks, features, positions, *rest)
    return 1.05 * features, moved


def not_finite(blocks, features, positions, *rest):
    """A compiler whose programs have gradients that are not finite."""
    features, moved = dense_stack(blocks, features, positions, *rest)
    return features + (features - features).abs().sqrt() * 0.0, moved


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("program", "reason"),
    [(broken, "RuntimeError: no compiler today"), (wrong, "features"), (not_finite, "gradients nan")],
)
def test_a_failing_or_wrong_program_costs_one_line_and_the_readable_network_runs(
    monkeypatch, caplog, program, reason, precision
):
    monkeypatch.setattr(dense_room, "compiled_stack", lambda scope: program)
    fast, network = compile_tiny(precision=precision)
    assert type(fast) is PlainEdmNetwork and fast.precision == "float32"
    (line,) = caplog.messages
    assert line.startswith("EDM network: torch.compile does not work on cpu (") and reason in line
    assert line.endswith("; the readable network runs") and "second line" not in line
    arguments = inputs([9, 2])
    torch.testing.assert_close(fast(*arguments), network(*arguments), rtol=0, atol=0)


def test_the_check_sees_a_fault_in_coordinate_steps_of_fresh_weights():
    network = build(tiny_config(sizes=((9, 1),))).network
    truth = PlainEdmNetwork(probe_network(network), precision="float32")
    probe = make_probe(network.config, (9,), 4, device=torch.device("cpu"))
    candidate = copy.deepcopy(BucketedEdmNetwork(truth, widths=(9,), molecules=4))
    assert dense_room.fault(candidate, truth, probe, training=False) == ""
    with torch.no_grad():
        candidate.blocks[1].coordinates.length.weight.mul_(1.01)
    assert "positions" in dense_room.fault(candidate, truth, probe, training=False)


def test_a_sampler_draws_the_same_molecules_with_it():
    edm = build(TINY)
    dense = BucketedEdmNetwork(edm.network, molecules=4)
    sizes = torch.tensor([3, 9, 9, 3, 3])
    results = [
        sample(replace(edm, network=network), sizes, generator=generator_from("sampler"), num_calls=20)
        for network in (edm.network, dense)
    ]
    one, other = (torch.from_numpy(result.molecules.positions) for result in results)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert quickest(edm.network, torch.device("meta")) is edm.network


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler (g++) on a CPU")
def test_torch_compile_itself_passes_the_check(caplog):
    network = build(tiny_config(num_layers=1, sizes=((4, 1),))).network
    with caplog.at_level(logging.INFO, logger="molkit.edm.dense"):
        fast = compile_for(network, "cpu", precision="float32", widths=(4,), molecules=2)
    assert isinstance(fast, BucketedEdmNetwork) and fast.run_stack is not dense_stack
    lines = [record.getMessage() for record in caplog.records if record.name == "molkit.edm.dense"]
    assert lines[-1].startswith("EDM network: compiled float32 on cpu")
