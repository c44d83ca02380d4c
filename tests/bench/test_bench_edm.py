"""The benchmark of the EDM network compares like with like; no test here looks at a clock."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import edm as bench
from benchmarks.launch import CAPS, environment
from benchmarks.padded_edm import PaddedEdmNetwork
from benchmarks.timing import Times
from molkit.edm import engine
from molkit.edm.config import EdmConfig
from molkit.edm.model import build
from molkit.errors import CalculationFailed, InvalidInput
from molkit.graphs import Graph

TINY = bench.BenchRequest(width=16, layers=2, molecules=5, rounds=2, padded_chunk=2, pair_budget=600)


@pytest.fixture(scope="module")
def batch():
    """Configuration and the five molecules of the tiny request."""
    config = EdmConfig(width=TINY.width, num_layers=TINY.layers)
    edm = build(config, seed=TINY.seed)
    generator = torch.Generator().manual_seed(0)
    molecules = bench.draw_molecules(edm.draw_sizes(TINY.molecules, generator=generator), generator=generator)
    return config, bench.noisy_batch(config, edm.log_snr, molecules, generator=generator)


@pytest.fixture(scope="module")
def report():
    return bench.measure(TINY)


@pytest.mark.parametrize("aggregation", ["sum", "mean"])
@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("padded_size", [None, 9])
def test_padded_and_real_edges_agree_in_float64(aggregation, attention, padded_size):
    config = EdmConfig(
        width=12, num_layers=2, message_sublayers=2, aggregation=aggregation, attention=attention, message_scale=3.0
    )
    network = build(config).network.double()
    padded = PaddedEdmNetwork(config, padded_size=padded_size).double()
    weights = bench.scaled_weights(network)
    network.load_state_dict(weights)
    padded.load_state_dict(weights)
    graph = Graph.from_sizes(torch.tensor([4, 1, 7]))
    generator = torch.Generator().manual_seed(1)
    features, positions, t = (torch.randn(12, k, generator=generator, dtype=torch.float64) for k in (6, 3, 1))
    arguments = (features, positions, t, graph.edge_index, graph.batch, graph.num_molecules)
    for ours, theirs in zip(network(*arguments), padded(*arguments), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-11)


def test_the_padded_network_refuses_what_it_lacks():
    with pytest.raises(InvalidInput, match="no sine embedding and no context"):
        PaddedEdmNetwork(EdmConfig(sine_embedding=True))


@pytest.mark.parametrize("task", ["training", "sampling"])
def test_outputs_and_gradients_of_all_variants_agree_at_tiny_width(batch, task):
    config, whole = batch
    variants, _ = bench.make_variants(config, TINY, task)
    chunks = {v.name: bench.batch_for(v, TINY, task, whole, torch.device("cpu")) for v in variants}
    found = bench.check_outputs(config, variants, chunks)
    assert found["real_edges"]["largest_output_difference"] < 1e-5
    assert found["real_edges"]["largest_output"] > 0.1
    found = bench.check_gradients(config, variants, chunks)
    assert found["real_edges"]["relative_gradient_error"] < 1e-5


def test_training_pads_to_the_largest_molecule_of_the_batch_and_sampling_to_29(batch):
    config, whole = batch
    sizes = {}
    for task in ("training", "sampling"):
        padded = bench.make_variants(config, TINY, task)[0][0]
        chunks = bench.batch_for(padded, TINY, task, whole, torch.device("cpu"))
        assert [len(chunk.step) for chunk in chunks] == [2, 2, 1]
        sizes[task] = padded.network.padded_size
    assert sizes == {"training": int(whole.num_atoms.max()), "sampling": 29}


def test_a_training_step_is_the_same_in_one_piece_and_in_many(batch):
    config, whole = batch
    losses = []
    for budget in (10, 10**6):
        variant = bench.make_variants(config, TINY, "training")[0][1]
        chunks = bench.batch_for(variant, replace(TINY, pair_budget=budget), "training", whole, torch.device("cpu"))
        optimiser = torch.optim.AdamW(variant.network.parameters(), lr=1e-5)
        losses.append([bench.training_step(config, variant, chunks, optimiser) for _ in range(2)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][1] < losses[0][0]


def test_a_variant_that_computes_something_else_is_not_timed(batch):
    config, whole = batch
    variants, _ = bench.make_variants(config, TINY, "sampling")
    chunks = {v.name: bench.batch_for(v, TINY, "sampling", whole, torch.device("cpu")) for v in variants[:2]}
    with torch.no_grad():
        variants[1].network.read_out.bias.add_(1e-3)
    with pytest.raises(CalculationFailed, match="real_edges: outputs differ from the padded network by 1.0e-03"):
        bench.check_outputs(config, variants[:2], chunks)
    with torch.no_grad():
        variants[1].network.read_out.bias.mul_(torch.nan)
    with pytest.raises(CalculationFailed, match="nan"):
        bench.check_outputs(config, variants[:2], chunks)


def test_the_work_counted_is_that_of_the_layers():
    config = EdmConfig(width=4, num_layers=1)
    sizes = torch.tensor([3])  # 6 pairs
    pairs = 6 * 2 * (2 * 4 * 4 + 2 * 2 * 4 + 2 * 4)  # two MLPs: second layer, distances, head
    atoms = 3 * (2 * 2 * 2 * 4 * 4 + 2 * 8 * 4 + 2 * 4 * 4)  # two MLPs: receiver and sender part; update
    ends = 3 * 2 * 2 * 7 * 4  # embedding and read-out of 5 types, Z and t
    assert bench.matmul_flops(config, sizes) == pairs + atoms + ends
    assert bench.silu_evaluations(config, sizes) == 4 * (6 * 2 * 2 + 3)


def test_the_paper_network_costs_what_was_counted_for_it():
    """0.90 GFLOP and 2.9 million SiLU for a molecule of 18 atoms with 316 pairs."""
    sizes = torch.tensor([18, 18, 18, 19, 17])
    assert bench.matmul_flops(EdmConfig(), sizes) / 5e9 == pytest.approx(0.90, abs=0.03)
    assert bench.silu_evaluations(EdmConfig(), sizes) / 5e6 == pytest.approx(2.9, abs=0.1)


def test_ratios_are_taken_round_by_round():
    slower = Times((2.0, 6.0, 9.0)).over(Times((1.0, 2.0, 9.0)))
    assert slower.summary() == {"median": 2.0, "min": 1.0, "max": 3.0}


def test_the_report_is_json_and_says_what_was_measured_how(report):
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["clock"] == "CPU seconds of the process"
    assert report["batch"]["molecules"] == 5 and report["batch"]["padded_to"]["sampling"] == 29
    assert {"capabilities", "threads", "nice", "load_before", "load_after"} <= set(report["machine"])
    assert {"gemm_float32", "silu_float32"} <= set(report["peaks"])
    for task in ("training", "sampling"):
        rows = report[task]
        assert list(rows)[:2] == ["padded", "real_edges"]
        assert set(rows) == {
            *("padded", "real_edges", "real_edges_bfloat16", "fused_float32", "fused_bfloat16"),
        }
        for row in rows.values():
            if "left_out" in row:
                assert row["left_out"]
                continue
            assert set(row["speedup"]) == set(row["milliseconds_per_molecule"]) == {"median", "min", "max"}
            assert row["share_of_limit"] > 0.0
        assert rows["padded"]["speedup"]["median"] == 1.0
        assert rows["real_edges"]["largest_output_difference"] < 1e-5
    assert report["bars"] == []  # set for width 256 alone


def test_bars_stand_beside_what_was_measured(report):
    tables = {task: {"real_edges": {"speedup": {"median": 3.0}}} for task in ("training", "sampling")}
    rows = bench.bars_of(bench.BenchRequest(isa="avx2"), tables)
    assert [(row["task"], row["bar"], row["met"]) for row in rows[:2]] == [
        ("training", 2.5, True),
        ("sampling", 3.5, False),
    ]
    assert all(row["measured"] is None and not row["met"] for row in rows[2:])
    assert ["AMX" in row.get("note", "") for row in rows[2:]] == [True, True, False, False]


def test_what_is_missing_is_left_out_with_its_reason(monkeypatch):
    monkeypatch.setattr(engine, "load", lambda: (None, 0, "no C compiler"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    variants, left_out = bench.make_variants(EdmConfig(width=16, num_layers=1), TINY, "sampling")
    assert [variant.name for variant in variants] == ["padded", "real_edges"]
    assert left_out["fused_float32"] == "no C compiler"
    assert "capped" in left_out["real_edges_bfloat16"]


@pytest.mark.parametrize("isa", list(CAPS))
def test_a_cap_is_told_to_every_library(isa):
    made = environment(isa, {"PATH": "/bin", "PYTHONPATH": "/mine"})
    assert made["OMP_NUM_THREADS"] == "1" and made["PATH"] == "/bin" and made["PYTHONPATH"].endswith("/mine")
    assert ("ONEDNN_MAX_CPU_ISA" in made) == ("MOLKIT_MAX_ISA" in made) == (isa != "auto")


def test_an_unknown_cap_is_refused():
    with pytest.raises(InvalidInput, match="known are auto, amx_bf16, avx512_bf16, avx512, avx2"):
        environment("sse", {})


def test_the_engine_keeps_to_the_cap(monkeypatch):
    assert {isa for isa in CAPS if isa != "auto"} == set(engine.LEVELS)
    for isa, level in engine.LEVELS.items():
        monkeypatch.setenv("MOLKIT_MAX_ISA", isa)
        assert engine.level_limit() == level
    monkeypatch.setenv("MOLKIT_MAX_ISA", "sse")
    with pytest.raises(engine.EngineUnavailable, match="must be one of avx2, avx512, avx512_bf16, amx_bf16"):
        engine.level_limit()
