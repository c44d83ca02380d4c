"""The same network, faster: speed, rounding, and what rounding does to whole chains (page `engine`)."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from molkit.claims.ledger import REPOSITORY
from molkit.data.qm9 import load_qm9
from molkit.data.registry import data_path
from molkit.edm.config import EdmConfig
from molkit.edm.diffusion import add_noise, draw_noise, draw_steps, predict_noise, squared_error
from molkit.edm.engine import accelerate, available, has_bfloat16
from molkit.edm.farm import sample_many
from molkit.edm.features import State, encode
from molkit.edm.model import Edm, build, load
from molkit.edm.network import EdmNetwork
from molkit.edm.samplers import DEFAULT
from molkit.edm.sampling import sample
from molkit.errors import DataNotFound, InvalidInput, ToolNotFound
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column
from molkit.farm.engines import engine
from molkit.graphs import Graph
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.rng import fork, generator_from
from molkit.studies.edm import chains
from molkit.training.weights import weight_files

BENCHMARK = REPOSITORY / "benchmarks" / "results" / "edm.json"
HEAD_GAIN = 20.0  # fresh coordinate heads are so small that an error in them would hide
EXECUTIONS = {
    "readable": "as written (real pairs), float32",
    "float32": "kernel, float32",
    "bfloat16": "kernel, bfloat16 products",
}
BENCHMARKED = {
    "padded": "padded pairs, float32",
    "real_edges": "real pairs, float32",
    "real_edges_bfloat16": "real pairs, bfloat16 products",
    "fused_float32": "kernel, float32",
    "fused_bfloat16": "kernel, bfloat16 products",
}
AUDIT = Comparison(alike={"stable": 0.2}, by=("execution",))
AUDIT_parity = Comparison(within={"error": 0.02})
AUDIT_speed = Comparison(free=("call", "step"))
BENCHMARK_TABLE = {
    "name": "",
    "training": Column("training step, times faster", 1),
    "training_limit": Column("of the limit, %", 0, 100),
    "sampling": Column("sampling call, times faster", 1),
    "sampling_limit": Column("of the limit, %", 0, 100),
}
SPEED_TABLE = {
    "execution": Column("", names=EXECUTIONS),
    "call": Column("call, CPU ms", 2),
    "call_ratio": Column("times faster", 1),
    "step": Column("gradient, CPU ms", 2),
    "step_ratio": Column("times faster", 1),
}
PAIR_TABLE = {
    "what": "stable",
    "n": Column("chains"),
    "first": Column("float32, %", 1, 100),
    "second": Column("bfloat16, %", 1, 100),
    "difference": Column("difference, points", 2, 100),
    "lost": Column("lost"),
    "gained": Column("gained"),
}


@dataclass(frozen=True)
class Task:
    """Chains `first` to `first + count` of a seed, run by one execution of the network."""

    weights: str
    execution: str
    num_calls: int
    first: int
    count: int
    seed: int

    @property
    def files(self) -> list[Path]:
        """The weights."""
        return weight_files(self.weights)


@asked
def tasks(
    *,
    weights: str = "edm_qm9",
    executions: Sequence[str] = ("float32", "bfloat16"),
    num_chains: int = 1000,
    num_calls: int = 100,
    seed: int = 7,
) -> list[Task]:
    """The same chains in every execution, in parts of 50. Raises InvalidInput for an execution that is none."""
    unknown = set(executions) - set(EXECUTIONS)
    if unknown:
        raise InvalidInput(f"unknown execution {sorted(unknown)[0]!r}: expected {', '.join(EXECUTIONS)}")
    return [
        Task(weights, execution, num_calls, first, min(50, num_chains - first), seed)
        for execution in executions
        for first in range(0, num_chains, 50)
    ]


def measure(task: Task) -> list[dict]:
    """A row a chain: its stable atoms, and whether the molecule is stable. Raises ToolNotFound as `execution_of`."""
    torch.set_num_threads(1)
    edm = load(task.weights, fast=False)
    edm = replace(edm, network=execution_of(edm.network, task.execution))
    generator = generator_from("engine", task.seed, task.first)
    sizes = edm.draw_sizes(task.count, generator=generator)
    started = process_time()
    made = sample(edm, sizes, generator=fork(generator, task.count), num_calls=task.num_calls)
    seconds = (process_time() - started) / task.count
    found = chains.scored(made, task.count)
    return [
        {"num_atoms": int(size), "stable_atoms": one["stable_atoms"], "stable": one["stable"], "seconds": seconds}
        for size, one in zip(sizes, found, strict=True)
    ]


def execution_of(network: EdmNetwork, name: str) -> EdmNetwork:
    """The network itself, or behind the kernel with float32 or bfloat16 products. Raises ToolNotFound without them."""
    if name not in executions_here():
        raise ToolNotFound(f"{EXECUTIONS[name]}: not on this CPU (a C compiler, and AVX512_BF16 or AMX are needed)")
    return network if name == "readable" else accelerate(network, precision=name)


def executions_here() -> tuple[str, ...]:
    """The executions that differ on this machine; without bfloat16 products the last one would be float32 again."""
    known = tuple(EXECUTIONS)
    return known if has_bfloat16() else known[:2] if available() else known[:1]


def compared_here() -> tuple[str, ...]:
    """What a page compares: both products of the kernel, which may be stored; the network itself without a kernel."""
    return tuple(EXECUTIONS)[1:] if available() else tuple(EXECUTIONS)[:1]


def compare(rows: pd.DataFrame, first: str = "float32", second: str = "bfloat16") -> pd.DataFrame:
    """Molecules and atoms of the same chains in two executions: shares, and second - first, 95 % bootstrap over pairs.

    Empty where one of the two did not run.
    """
    one, two = (rows[rows["execution"] == name].reset_index(drop=True) for name in (first, second))
    if len(one) != len(two) or one.empty:
        return pd.DataFrame(columns=list(PAIR_TABLE))
    pairs = two["stable"].astype(int) - one["stable"].astype(int)
    total = one["num_atoms"].sum()
    atoms = (two["stable_atoms"] - one["stable_atoms"]) / one["num_atoms"].mean()  # their mean: that of the shares
    lines = [
        {
            "what": "molecules",
            "first": one["stable"].mean(),
            "second": two["stable"].mean(),
            "difference": bootstrap_interval(pairs.to_numpy(float)),
            "lost": int((pairs < 0).sum()),
            "gained": int((pairs > 0).sum()),
        },
        {
            "what": "atoms",
            "first": one["stable_atoms"].sum() / total,
            "second": two["stable_atoms"].sum() / total,
            "difference": bootstrap_interval(atoms.to_numpy(float)),
        },
    ]
    return pd.DataFrame(lines, dtype=object).assign(n=len(one))


# ---- one call of the network ----


@dataclass(frozen=True)
class CallTask:
    """Noised test molecules for one network, the one of some weights or (none named) a fresh one of width 96."""

    weights: str
    num_molecules: int
    seed: int
    rounds: int = 1  # timed rounds, of which the median counts

    @property
    def files(self) -> list[Path]:
        """Weights and data."""
        return [*(weight_files(self.weights) if self.weights else []), data_path("qm9.npz")]


@asked
def tasks_parity(*, weights: str = "edm_qm9", num_molecules: int = 100, seed: int = 0) -> list[CallTask]:
    """A fresh network and that of the weights."""
    return [CallTask(name, num_molecules, seed) for name in ("", weights)]


@torch.no_grad()
def measure_parity(task: CallTask) -> list[dict]:
    """A row an execution: relative L2 error of the predicted noise against the readable network in float64."""
    edm = load(task.weights, fast=False) if task.weights else build(EdmConfig(width=96, num_layers=6), seed=task.seed)
    if not task.weights:
        for block in edm.network.blocks:
            block.coordinates.length.weight.mul_(HEAD_GAIN)
    batch = noised_batch(edm, num_molecules=task.num_molecules, seed=task.seed)
    doubled = replace(batch, noisy=batch.noisy.map(torch.Tensor.double))
    truth = _predict(edm, copy.deepcopy(edm.network).double(), doubled)
    return [
        {"execution": name, "error": relative_error(_predict(edm, execution_of(edm.network, name), batch), truth)}
        for name in executions_here()
    ]


def errors(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a network and a column an execution: the errors in words."""
    found = rows.assign(network=["fresh weights" if not name else f"weights {name}" for name in rows["weights"]])
    wide = found.pivot(index="network", columns="execution", values="error")
    return wide.map("{:.1e}".format)[[name for name in EXECUTIONS if name in wide]].reset_index()


@asked
def tasks_speed(*, weights: str = "edm_qm9", num_molecules: int = 48, rounds: int = 5, seed: int = 0) -> list[CallTask]:
    """One task."""
    return [CallTask(weights, num_molecules, seed, rounds)]


def measure_speed(task: CallTask) -> list[dict]:
    """A row an execution: CPU milliseconds a molecule of a sampling call and of a gradient, in turns on one thread."""
    torch.set_num_threads(1)
    edm = load(task.weights, fast=False)
    edm.network.requires_grad_(True)
    batch = noised_batch(edm, num_molecules=task.num_molecules, seed=task.seed)
    works: dict[tuple[str, str], Callable[[], object]] = {}
    for name in executions_here():
        works[name, "call"] = lambda n=name: _call(edm, execution_of(edm.network, n), batch)
        works[name, "step"] = lambda n=name: _gradients(edm, execution_of(edm.network, n), batch)
    times = _in_turns(works, task.rounds)
    scale = 1000.0 / batch.graph.num_molecules
    return [
        {"execution": n, "call": scale * times[n, "call"], "step": scale * times[n, "step"]} for n in executions_here()
    ]


def ratios(rows: pd.DataFrame) -> pd.DataFrame:
    """How many times faster than the readable network, the first row, each execution is."""
    return rows.assign(**{f"{name}_ratio": rows[name].iloc[0] / rows[name] for name in ("call", "step")})


@dataclass(frozen=True)
class Batch:
    """Noised test molecules: state, the noise in it, steps [B], graph."""

    noisy: State
    noise: State
    step: Tensor
    graph: Graph


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


def relative_error(found: State, truth: State) -> float:
    """L2 norm of the difference over that of the truth, positions and features together."""
    pairs = [(found.positions, truth.positions), (found.features, truth.features)]
    wrong = sum((a.double() - b).square().sum() for a, b in pairs)
    return float((wrong / sum(b.square().sum() for _, b in pairs)).sqrt())


def _predict(edm: Edm, network: EdmNetwork, batch: Batch) -> State:
    return predict_noise(network, batch.noisy, batch.step, batch.graph, num_steps=edm.config.num_steps)


def _call(edm: Edm, network: EdmNetwork, batch: Batch) -> None:
    with torch.no_grad():
        _predict(edm, network, batch)


def _gradients(edm: Edm, network: EdmNetwork, batch: Batch) -> None:
    squared_error(batch.noise, _predict(edm, network, batch), batch.graph).sum().backward()


def _in_turns(works: Mapping[tuple[str, str], Callable[[], object]], rounds: int) -> dict[tuple[str, str], float]:
    """Median CPU seconds of each work; every round does all of them, after one that is not counted."""
    found: dict[tuple[str, str], list[float]] = {key: [] for key in works}
    for turn in range(rounds + 1):
        for key, work in works.items():
            started = process_time()
            work()
            if turn:
                found[key].append(process_time() - started)
    return {key: float(np.median(values)) for key, values in found.items()}


def time_sampling(weights: str, *, num_molecules: int, num_calls: int, workers: int, seed: int) -> float:
    """Wall seconds for a set of samples with the default sampler, the start of the processes included."""
    started = perf_counter()
    with engine(workers) as executor:
        options = {"num_calls": num_calls, "sampler": DEFAULT.sampler, "executor": executor}
        sample_many(weights, num_molecules, seed=seed, **options)
    return perf_counter() - started


def benchmark() -> dict[str, Any]:
    """The stored report of `molkit bench edm` at the paper's size. Raises DataNotFound."""
    if not BENCHMARK.is_file():
        raise DataNotFound(f"{BENCHMARK}: no stored benchmark; make it with `molkit bench edm --out {BENCHMARK}`")
    return json.loads(BENCHMARK.read_text(encoding="utf-8"))


def speedups(report: Mapping[str, Any]) -> pd.DataFrame:
    """Speed-ups of a benchmark with their range over rounds, and the share of the machine's limit."""
    lines = []
    for name in report["training"]:
        line = {"name": BENCHMARKED.get(name, name)}
        for work in ("training", "sampling"):
            entry = report[work].get(name, {})
            if "speedup" in entry:
                line[work] = Interval(*(entry["speedup"][end] for end in ("median", "min", "max")))
                line[f"{work}_limit"] = entry.get("share_of_limit")
        lines.append(line)
    return pd.DataFrame(lines, columns=list(BENCHMARK_TABLE), dtype=object)
