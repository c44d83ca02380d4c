"""Speed of the EDM network against the padded all-pairs network, side by side in one process.

`molkit bench edm` starts this file as a process of its own, because caps on instruction sets only count when they are
in the environment before PyTorch is loaded: `python -m benchmarks.edm '{"width": 256, ...}'` prints the report.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks import machine
from benchmarks.launch import CAP_NAMES, PROGRESS
from benchmarks.padded_edm import PaddedEdmNetwork
from benchmarks.timing import CLOCKS, Times, load_average, side_by_side
from molkit.claims.provenance import commit
from molkit.claims.provenance import machine as processor
from molkit.config import from_dict
from molkit.data.qm9 import load_qm9
from molkit.edm import engine
from molkit.edm.config import EdmConfig
from molkit.edm.diffusion import add_noise, draw_noise, draw_steps, predict_noise, squared_error
from molkit.edm.features import State, encode
from molkit.edm.model import build
from molkit.edm.network import EdmNetwork
from molkit.errors import CalculationFailed, InvalidInput, MolkitError
from molkit.graphs import Graph, split_by_pairs
from molkit.molecule import PackedMolecules

Isa = Literal["auto", "amx_bf16", "avx512_bf16", "avx512", "avx2"]
Task = Literal["training", "sampling"]

LARGEST_QM9 = 29  # atoms; the reference's sampler pads every molecule to it
HEAD_GAIN = 20.0  # fresh coordinate heads are so small that an error in them would hide; these are 20 times larger
TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2}  # float32: largest difference; bfloat16: L2 error over L2 norm
GRADIENT_TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-1}  # L2 error over L2 norm, all parameters together
BARS = {  # least speed-up at width 256 and 9 layers: (training step, sampling call)
    "real_edges": (2.5, 3.5),
    "real_edges_bfloat16": (3.3, 5.0),
    "fused_bfloat16": (6.0, 12.0),
}


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """What to measure."""

    width: int = 256
    layers: int = 9
    molecules: int = 32  # of one batch
    rounds: int = 3
    isa: Isa = "auto"  # the cap that the environment of this process sets
    device: str = "cpu"
    seed: int = 0
    padded_chunk: int = 8  # molecules the padded network takes at once; its pair tensors leave the cache otherwise
    pair_budget: int = 6000  # pairs the other networks take at once

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.molecules, self.rounds, self.padded_chunk, self.pair_budget) < 1:
            raise InvalidInput("width, layers, molecules, rounds and both batch sizes must be at least 1")


@dataclass(frozen=True)
class Chunk:
    """Some molecules of the batch: noisy input, the noise in it, steps [b], numbers of atoms [b]."""

    noisy: State
    noise: State
    step: Tensor
    num_atoms: Tensor


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to evaluate the network, and the batches it takes."""

    name: str
    network: nn.Module
    precision: Literal["float32", "bfloat16"] = "float32"
    autocast: bool = False
    padded: bool = False

    def precision_context(self, device: torch.device):
        """Autocast where the variant asks for it."""
        return torch.autocast(device.type, torch.bfloat16) if self.autocast else nullcontext()


def draw_molecules(num_atoms: Tensor, *, generator: torch.Generator) -> PackedMolecules:
    """A random QM9 molecule of each of the given sizes [B]."""
    molecules = load_qm9(split="all")
    sizes = torch.from_numpy(molecules.num_atoms)
    rows = []
    for size in num_atoms.tolist():
        fitting = torch.nonzero(sizes == size).flatten()
        rows.append(int(fitting[torch.randint(len(fitting), (), generator=generator)]))
    return molecules.select(rows)


def noisy_batch(config: EdmConfig, table: Tensor, molecules: PackedMolecules, *, generator: torch.Generator) -> Chunk:
    """The molecules at steps drawn as in training; table holds log_snr [T + 1]."""
    graph = Graph.from_sizes(torch.from_numpy(molecules.num_atoms))
    positions = graph.centre(torch.from_numpy(molecules.positions).float())
    clean = encode(config, torch.from_numpy(molecules.atomic_numbers), positions)
    step = draw_steps(graph.num_molecules, config.num_steps, generator=generator)
    noise = draw_noise(graph, config.num_features, generator=generator)
    noisy = add_noise(clean, noise, table[step][graph.batch].unsqueeze(-1))
    return Chunk(noisy, noise, step, graph.num_atoms)


def cut(whole: Chunk, groups: list[Tensor], device: torch.device) -> list[Chunk]:
    """The batch in pieces of consecutive molecules; the sizes stay on the host, where graphs are made."""
    lengths = [len(group) for group in groups]
    atoms = [int(part.sum()) for part in whole.num_atoms.split(lengths)]

    def pieces(state: State) -> list[State]:
        parts = zip(state.positions.to(device).split(atoms), state.features.to(device).split(atoms), strict=True)
        return [State(*part) for part in parts]

    columns = (pieces(whole.noisy), pieces(whole.noise), whole.step.to(device).split(lengths))
    return [Chunk(*fields) for fields in zip(*columns, whole.num_atoms.split(lengths), strict=True)]


def predict(config: EdmConfig, network: nn.Module, chunk: Chunk) -> tuple[State, Graph]:
    """Predicted noise, and the graph, which is made here because a caller has to make it too."""
    graph = Graph.from_sizes(chunk.num_atoms).to(chunk.step.device)
    return predict_noise(network, chunk.noisy, chunk.step, graph, num_steps=config.num_steps), graph


@torch.no_grad()
def sampling_call(config: EdmConfig, variant: Variant, chunks: list[Chunk]) -> State:
    """One evaluation of the network for every molecule of the batch."""
    with variant.precision_context(chunks[0].step.device):
        states = [predict(config, variant.network, chunk)[0] for chunk in chunks]
    return State(torch.cat([s.positions for s in states]), torch.cat([s.features for s in states]))


def gradients(config: EdmConfig, variant: Variant, chunks: list[Chunk]) -> float:
    """Leave the gradients of the batch's mean loss in the network; the loss of the steps above 0, per molecule."""
    total, molecules = 0.0, sum(len(chunk.step) for chunk in chunks)
    for chunk in chunks:
        with variant.precision_context(chunk.step.device):
            predicted, graph = predict(config, variant.network, chunk)
        error = squared_error(chunk.noise, predicted, graph) / (graph.num_atoms * (3 + config.num_features))
        loss = 0.5 * error.sum() / molecules
        loss.backward()
        total += loss.item()
    return total


def training_step(config: EdmConfig, variant: Variant, chunks: list[Chunk], optimiser: torch.optim.Optimizer) -> float:
    """Forward, backward and an AdamW step on the whole batch."""
    optimiser.zero_grad()
    loss = gradients(config, variant, chunks)
    optimiser.step()
    return loss


def make_variants(config: EdmConfig, request: BenchRequest, task: Task) -> tuple[list[Variant], dict[str, str]]:
    """The padded network first, then ours, each with parameters of its own and the same values; and what is left out.

    The padded network pads to 29 in sampling and to the batch's largest molecule in training.
    """
    device = torch.device(request.device)
    weights = scaled_weights(build(config, seed=request.seed).network)
    native = machine.has_bfloat16(device, request.isa)

    def fresh() -> EdmNetwork:
        network = build(config).network
        network.load_state_dict(weights)
        return network.to(device)

    padded = PaddedEdmNetwork(config, padded_size=LARGEST_QM9 if task == "sampling" else None)
    padded.load_state_dict(weights)
    variants = [
        Variant(name="padded", network=padded.to(device), padded=True),
        Variant(name="real_edges", network=fresh()),
    ]
    left_out = {}
    if native:
        variants.append(Variant(name="real_edges_bfloat16", network=fresh(), precision="bfloat16", autocast=True))
    else:
        left_out["real_edges_bfloat16"] = "no bfloat16 products in hardware here, or capped"
    for precision in ("float32", "bfloat16"):
        name, reason = f"fused_{precision}", fused_reason(precision, device)
        if reason:
            left_out[name] = reason
            continue
        network = engine.accelerate(fresh(), precision=precision)
        if type(network) is EdmNetwork:
            left_out[name] = "the engine does not take this network"
            continue
        variants.append(Variant(name=name, network=network, precision=precision))
    return variants, left_out


def fused_reason(precision: Literal["float32", "bfloat16"], device: torch.device) -> str:
    """Why the fused engine is not measured; empty if it is."""
    if device.type != "cpu":
        return "the fused engine is for CPUs"
    if not engine.available():
        return engine.why_not()
    if precision == "bfloat16" and engine.instruction_set("bfloat16") <= engine.FLOAT_LEVEL:
        return "the engine has no bfloat16 products here, or they are capped"
    return ""


def scaled_weights(network: EdmNetwork) -> dict[str, Tensor]:
    """Its weights with the coordinate heads enlarged by HEAD_GAIN."""
    heads = {name for name, _ in network.named_parameters() if name.endswith("coordinates.length.weight")}
    return {name: value * (HEAD_GAIN if name in heads else 1.0) for name, value in network.state_dict().items()}


def matmul_flops(config: EdmConfig, num_atoms: Tensor) -> float:
    """FLOPs of the matrix products of one forward pass over molecules [B] on real pairs, first layer split by atoms.

    A product of [n, a] with [a, b] counts 2 n a b. Source: counted here.
    """
    width, sublayers = config.width, config.message_sublayers
    atoms, pairs = float(num_atoms.sum()), float((num_atoms * (num_atoms - 1)).sum())
    columns = config.num_features + 1 + config.num_context
    per_pair = (sublayers + 1) * (2 * width**2 + 2 * 2 * width + 2 * width)
    per_atom = (sublayers + 1) * 4 * width**2 + sublayers * 6 * width**2
    return config.num_layers * (pairs * per_pair + atoms * per_atom) + atoms * 4 * width * columns


def silu_evaluations(config: EdmConfig, num_atoms: Tensor) -> float:
    """SiLU evaluations of one forward pass over molecules [B] on real pairs."""
    atoms, pairs = float(num_atoms.sum()), float((num_atoms * (num_atoms - 1)).sum())
    per_block = pairs * 2 * (config.message_sublayers + 1) + atoms * config.message_sublayers
    return config.num_layers * config.width * per_block


def limit_seconds(
    config: EdmConfig, num_atoms: Tensor, peaks: Mapping[str, Times], task: Task, precision: str
) -> float | None:
    """Matrix products and activations of a batch at the measured peaks, one after the other.

    A training step counts three times the products and twice the activations (value, derivative). The peaks are
    PyTorch's best calls; a kernel with better products or exponentials may pass this limit.
    """
    if f"gemm_{precision}" not in peaks:
        return None
    products, activations = (3.0, 2.0) if task == "training" else (1.0, 1.0)
    at_gemm = products * matmul_flops(config, num_atoms) / max(peaks[f"gemm_{precision}"].rounds)
    return at_gemm + activations * silu_evaluations(config, num_atoms) / max(peaks["silu_float32"].rounds)


def relative_error(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """L2 norm of the differences over the L2 norm of `theirs`, all tensors together."""
    wrong = sum((a.double() - b.double()).square().sum() for a, b in zip(ours, theirs, strict=True))
    return float((wrong / sum(b.double().square().sum() for b in theirs)).sqrt())


def check_outputs(config: EdmConfig, variants: list[Variant], chunks: Mapping[str, list[Chunk]]) -> dict[str, dict]:
    """Outputs of every variant against the padded network. Raises CalculationFailed beyond TOLERANCE."""
    outputs = [sampling_call(config, variant, chunks[variant.name]) for variant in variants]
    truth = [outputs[0].positions, outputs[0].features]
    report = {}
    for variant, output in zip(variants[1:], outputs[1:], strict=True):
        found = [output.positions, output.features]
        largest = float(torch.cat([(a - b).abs().flatten() for a, b in zip(found, truth, strict=True)]).max())
        relative = relative_error(found, truth)
        report[variant.name] = {
            "largest_output": max(float(part.abs().max()) for part in truth),
            "largest_output_difference": largest,
            "relative_output_error": relative,
        }
        _refuse(variant, "outputs", largest if variant.precision == "float32" else relative, TOLERANCE)
    return report


def check_gradients(config: EdmConfig, variants: list[Variant], chunks: Mapping[str, list[Chunk]]) -> dict[str, dict]:
    """Gradients of every variant against the padded network. Raises CalculationFailed beyond GRADIENT_TOLERANCE."""
    found = []
    for variant in variants:
        variant.network.zero_grad()
        gradients(config, variant, chunks[variant.name])
        found.append({name: p.grad for name, p in variant.network.named_parameters() if p.grad is not None})
    report = {}
    for variant, ours in zip(variants[1:], found[1:], strict=True):
        if ours.keys() != found[0].keys():
            raise CalculationFailed(f"{variant.name}: gradients reach other parameters than in the padded network")
        relative = relative_error(list(ours.values()), [found[0][name] for name in ours])
        report[variant.name] = {"relative_gradient_error": relative}
        _refuse(variant, "gradients", relative, GRADIENT_TOLERANCE)
    return report


def _refuse(variant: Variant, what: str, error: float, tolerance: Mapping[str, float]) -> None:
    if not error <= tolerance[variant.precision]:
        raise CalculationFailed(
            f"{variant.name}: {what} differ from the padded network by {error:.1e}, "
            f"more than {tolerance[variant.precision]:.0e}; nothing was timed"
        )


def measure_task(
    config: EdmConfig,
    request: BenchRequest,
    task: Task,
    whole: Chunk,
    report: Callable[[str], None],
) -> dict[str, object]:
    """Parity, then times of all variants for one task, without shares of the limit."""
    device = torch.device(request.device)
    variants, left_out = make_variants(config, request, task)
    chunks = {variant.name: batch_for(variant, request, task, whole, device) for variant in variants}
    report(f"{task}: comparing {', '.join(variant.name for variant in variants)}")
    parity = check_outputs(config, variants, chunks)
    if task == "training":
        for name, entry in check_gradients(config, variants, chunks).items():
            parity[name] |= entry
    works = {variant.name: _work(config, variant, chunks[variant.name], task) for variant in variants}
    times = side_by_side(works, rounds=request.rounds, device=device, report=report)
    return {"variants": variants, "times": times, "parity": parity, "left_out": left_out}


def batch_for(variant: Variant, request: BenchRequest, task: Task, whole: Chunk, device: torch.device) -> list[Chunk]:
    """The batch in the pieces that a variant takes at once."""
    if not variant.padded:
        return cut(whole, split_by_pairs(whole.num_atoms, request.pair_budget), device)
    if task == "training":
        variant.network.padded_size = int(whole.num_atoms.max())  # of the batch, not of the piece
    return cut(whole, list(torch.arange(len(whole.num_atoms)).split(request.padded_chunk)), device)


def _work(config: EdmConfig, variant: Variant, chunks: list[Chunk], task: Task) -> Callable[[], object]:
    if task == "sampling":
        return partial(sampling_call, config, variant, chunks)
    optimiser = torch.optim.AdamW(variant.network.parameters(), lr=1e-5)
    return partial(training_step, config, variant, chunks, optimiser)


def rows_of(
    config: EdmConfig, task: Task, num_atoms: Tensor, measured: dict[str, object], peaks: Mapping[str, Times]
) -> dict[str, dict]:
    """The table of one task: time a molecule, speed-up over the padded network, share of the limit, parity."""
    times: dict[str, Times] = measured["times"]
    rows = {}
    for variant in measured["variants"]:
        taken = times[variant.name]
        limit = limit_seconds(config, num_atoms, peaks, task, variant.precision)
        rows[variant.name] = {
            "precision": variant.precision,
            "milliseconds_per_molecule": taken.summary(1e3 / len(num_atoms)),
            "speedup": times["padded"].over(taken).summary(digits=2),
            "limit_milliseconds_per_molecule": None if limit is None else round(1e3 * limit / len(num_atoms), 3),
            "share_of_limit": None if limit is None else round(limit / taken.median, 3),
            **measured["parity"].get(variant.name, {}),
        }
    return rows | {name: {"left_out": reason} for name, reason in measured["left_out"].items()}


def bars_of(request: BenchRequest, tables: Mapping[str, Mapping[str, dict]]) -> list[dict]:
    """Which bars were met; they are set for width 256 and 9 layers, that of PyTorch's bfloat16 for CPUs with AMX."""
    if (request.width, request.layers) != (256, 9) or request.device != "cpu":
        return []
    rows = []
    for name, bars in BARS.items():
        for task, bar in zip(("training", "sampling"), bars, strict=True):
            entry = {"task": task, "variant": name, "bar": bar}
            if name == "real_edges_bfloat16" and not machine.has_amx(request.isa):
                entry["note"] = "the bar assumes AMX, which this CPU lacks or the cap forbids"
            found = tables[task].get(name, {}).get("speedup")
            rows.append(entry | {"measured": found and found["median"], "met": bool(found and found["median"] >= bar)})
    return rows


def measure(request: BenchRequest, *, report: Callable[[str], None] = lambda line: None) -> dict[str, object]:
    """The whole report, ready for JSON. Raises CalculationFailed when a variant computes something else."""
    device = torch.device(request.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("no CUDA device was found by PyTorch; use --device cpu")
    config = EdmConfig(width=request.width, num_layers=request.layers)
    edm = build(config, seed=request.seed)
    generator = torch.Generator().manual_seed(request.seed)
    molecules = draw_molecules(edm.draw_sizes(request.molecules, generator=generator), generator=generator)
    whole = noisy_batch(config, edm.log_snr, molecules, generator=generator)
    load_before = load_average()
    native = machine.has_bfloat16(device, request.isa)
    tables, peaks = {}, []
    for task in ("training", "sampling"):
        peaks.append(machine.measure_peaks(request.width, device, bfloat16=native, rounds=request.rounds))
        measured = measure_task(config, request, task, whole, report)
        peaks.append(machine.measure_peaks(request.width, device, bfloat16=native, rounds=request.rounds))
        around = _joined(peaks[-2:])  # the machine's rates just before and just after
        tables[task] = rows_of(config, task, whole.num_atoms, measured, around)
    return {
        "benchmark": "edm",
        "request": asdict(request),
        "clock": CLOCKS[device.type],
        "machine": {
            "processor": processor(),
            **machine.description(),
            "capabilities": machine.capabilities(device),
            "caps": {name: os.environ[name] for name in CAP_NAMES if name in os.environ},
            "load_before": load_before,
            "load_after": load_average(),
            "commit": commit()[0],
        },
        "batch": _batch_summary(whole.num_atoms, request, sum(p.numel() for p in edm.network.parameters())),
        "peaks": {name: _rate_summary(name, rates) for name, rates in _joined(peaks).items()},
        "work": {
            "forward_gflop_per_molecule": round(matmul_flops(config, whole.num_atoms) / request.molecules / 1e9, 4),
            "forward_silu_per_molecule": round(silu_evaluations(config, whole.num_atoms) / request.molecules),
        },
        **tables,
        "bars": bars_of(request, tables),
    }


def _joined(peaks: list[dict[str, Times]]) -> dict[str, Times]:
    return {name: Times(tuple(rate for part in peaks for rate in part[name].rounds)) for name in peaks[0]}


def _rate_summary(name: str, rates: Times) -> dict[str, object]:
    return {"unit": "GFLOP/s" if name.startswith("gemm") else "billion elements/s", **rates.summary(1e-9)}


def _batch_summary(num_atoms: Tensor, request: BenchRequest, parameters: int) -> dict[str, object]:
    pairs = (num_atoms * (num_atoms - 1)).float()
    return {
        "parameters": parameters,
        "molecules": len(num_atoms),
        "mean_atoms": round(float(num_atoms.float().mean()), 2),
        "mean_pairs": round(float(pairs.mean()), 1),
        "padded_to": {"training": int(num_atoms.max()), "sampling": LARGEST_QM9},
        "padded_chunk": request.padded_chunk,
        "pair_budget": request.pair_budget,
    }


def main(text: str) -> int:
    """Measure what the JSON asks for; the report goes to standard output, everything else to standard error."""
    torch.set_num_threads(1)
    try:
        request = from_dict(BenchRequest, json.loads(text), source="benchmark")
        result = measure(request, report=lambda line: print(f"{PROGRESS}{line}", file=sys.stderr, flush=True))
    except MolkitError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
