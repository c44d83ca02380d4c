"""How much faster the EDM network runs than it is written, and whether it still computes the same."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor

from molkit.claims.ledger import REPOSITORY
from molkit.data.qm9 import load_qm9
from molkit.edm.config import EdmConfig
from molkit.edm.diffusion import add_noise, draw_noise, draw_steps, predict_noise, squared_error
from molkit.edm.engine import accelerate, products
from molkit.edm.farm import sample_many
from molkit.edm.features import State, encode
from molkit.edm.model import Edm, build, load
from molkit.edm.network import EdmNetwork
from molkit.errors import DataNotFound
from molkit.farm.engines import engine
from molkit.graphs import Graph
from molkit.studies.edm_engine import executions_here

BENCHMARK = REPOSITORY / "benchmarks" / "results" / "edm.json"
HEAD_GAIN = 20.0  # fresh coordinate heads are so small that an error in them would hide


@dataclass(frozen=True)
class Batch:
    """Noised test molecules: state, the noise in it, steps [B], graph."""

    noisy: State
    noise: State
    step: Tensor
    graph: Graph


@dataclass(frozen=True)
class ParityRow:
    """Relative L2 error of the predicted noise against float64, by execution."""

    network: str
    errors: dict[str, float]
    num_molecules: int


@dataclass(frozen=True)
class SpeedRow:
    """CPU milliseconds a molecule of one execution, and how many times faster than the readable network that is."""

    execution: str
    call: float
    step: float
    call_ratio: float
    step_ratio: float


@dataclass(frozen=True)
class Timing:
    """What sampling took on this machine."""

    num_molecules: int
    num_calls: int
    workers: int
    seconds: float
    products: str  # the kernel's matrix products, in words


def noised_batch(edm: Edm, *, num_molecules: int, seed: int) -> Batch:
    """Molecules of QM9's test split at steps drawn as in training."""
    molecules = load_qm9(split="test", limit=num_molecules)
    graph = Graph.from_sizes(torch.from_numpy(molecules.num_atoms))
    generator = torch.Generator().manual_seed(seed)
    positions = graph.centre(torch.from_numpy(molecules.positions).float())
    clean = encode(edm.config, torch.from_numpy(molecules.atomic_numbers), positions)
    step = draw_steps(graph.num_molecules, edm.config.num_steps, generator=generator)
    noise = draw_noise(graph, edm.config.num_features, generator=generator)
    return Batch(add_noise(clean, noise, edm.log_snr[step][graph.batch].unsqueeze(-1)), noise, step, graph)


def execution_of(network: EdmNetwork, name: str) -> EdmNetwork:
    """The network itself, or behind the kernel with float32 or bfloat16 products."""
    return network if name == "readable" else accelerate(network, precision=name)


def relative_error(found: State, truth: State) -> float:
    """L2 norm of the difference over that of the truth, positions and features together."""
    pairs = [(found.positions, truth.positions), (found.features, truth.features)]
    wrong = sum((a.double() - b).square().sum() for a, b in pairs)
    return float((wrong / sum(b.square().sum() for _, b in pairs)).sqrt())


@torch.no_grad()
def parity(weights: str, *, num_molecules: int, seed: int) -> tuple[ParityRow, ...]:
    """Every execution against the readable network in float64, with fresh weights and with the published ones."""
    fresh = build(EdmConfig(width=96, num_layers=6), seed=seed)
    for block in fresh.network.blocks:
        block.coordinates.length.weight.mul_(HEAD_GAIN)
    rows = []
    for label, edm in (("fresh weights", fresh), (f"weights {weights}", load(weights, fast=False))):
        batch = noised_batch(edm, num_molecules=num_molecules, seed=seed)
        exact = copy.deepcopy(edm.network).double()
        doubled = replace(batch, noisy=batch.noisy.map(torch.Tensor.double))
        truth = _predict(edm, exact, doubled)
        errors = {
            name: relative_error(_predict(edm, execution_of(edm.network, name), batch), truth)
            for name in executions_here()
        }
        rows.append(ParityRow(label, errors, batch.graph.num_molecules))
    return tuple(rows)


def _predict(edm: Edm, network: EdmNetwork, batch: Batch) -> State:
    return predict_noise(network, batch.noisy, batch.step, batch.graph, num_steps=edm.config.num_steps)


def speed(weights: str, *, num_molecules: int, rounds: int, seed: int) -> tuple[SpeedRow, ...]:
    """Sampling calls and gradients of the executions in turns, on one thread; the median round of each counts."""
    torch.set_num_threads(1)
    edm = load(weights, fast=False)
    network = edm.network.requires_grad_(True)
    batch = noised_batch(edm, num_molecules=num_molecules, seed=seed)
    names = executions_here()
    works: dict[tuple[str, str], Callable[[], object]] = {}
    for name in names:
        works[name, "call"] = lambda n=name: _call(edm, execution_of(network, n), batch)
        works[name, "step"] = lambda n=name: _gradients(edm, execution_of(network, n), batch)
    times = _in_turns(works, rounds)
    milliseconds = {key: 1000.0 * seconds / batch.graph.num_molecules for key, seconds in times.items()}
    first = names[0]
    return tuple(
        SpeedRow(
            name,
            milliseconds[name, "call"],
            milliseconds[name, "step"],
            milliseconds[first, "call"] / milliseconds[name, "call"],
            milliseconds[first, "step"] / milliseconds[name, "step"],
        )
        for name in names
    )


def _call(edm: Edm, network: EdmNetwork, batch: Batch) -> None:
    with torch.no_grad():
        _predict(edm, network, batch)


def _gradients(edm: Edm, network: EdmNetwork, batch: Batch) -> None:
    squared_error(batch.noise, _predict(edm, network, batch), batch.graph).sum().backward()


def _in_turns(works: dict[tuple[str, str], Callable[[], object]], rounds: int) -> dict[tuple[str, str], float]:
    """Median CPU seconds of each work; every round does all of them, after one that is not counted."""
    found: dict[tuple[str, str], list[float]] = {key: [] for key in works}
    for turn in range(rounds + 1):
        for key, work in works.items():
            started = process_time()
            work()
            if turn:
                found[key].append(process_time() - started)
    return {key: float(torch.tensor(values).median()) for key, values in found.items()}


def time_sampling(weights: str, *, num_molecules: int, num_calls: int, workers: int, seed: int) -> Timing:
    """Wall seconds for a set of samples with the shipped settings, the start of the processes included."""
    started = perf_counter()
    with engine(workers) as executor:
        sample_many(weights, num_molecules, seed=seed, num_calls=num_calls, executor=executor)
    return Timing(num_molecules, num_calls, workers, perf_counter() - started, products())


def benchmark() -> dict[str, Any]:
    """The stored report of `molkit bench edm` at the paper's size. Raises DataNotFound."""
    if not BENCHMARK.is_file():
        raise DataNotFound(f"{BENCHMARK}: no stored benchmark; make it with `molkit bench edm --out {BENCHMARK}`")
    return json.loads(BENCHMARK.read_text(encoding="utf-8"))
