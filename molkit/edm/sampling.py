"""Ancestral sampling: from noise, or from a given molecule between two steps, in batches that follow from the seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from molkit.edm.diffusion import predict_noise
from molkit.edm.features import State, decode, encode
from molkit.edm.model import Edm
from molkit.edm.schedule import alpha, sigma, transition
from molkit.errors import InvalidInput
from molkit.graphs import Graph, split_by_pairs
from molkit.molecule import Molecule, PackedMolecules
from molkit.rng import fork

NOISE_CHUNK = 32  # steps of noise drawn at once per molecule; part of the definition of a seed
PAIR_BUDGET = 12_000  # ordered pairs per batch: edge tensors of a small network then stay near the cache
GPU_PAIR_BUDGET = 1_000_000  # about 3,200 QM9 molecules: calls that keep a GPU busy


@dataclass(frozen=True)
class Frame:
    """The un-scaled state of all molecules at one step: positions [A, 3] in angstrom and atomic numbers [A]."""

    step: int
    positions: np.ndarray
    atomic_numbers: np.ndarray


@dataclass(frozen=True)
class SampleResult:
    """Sampled molecules, in the order asked for; `failed` lists the rows that are missing and why none is hidden."""

    molecules: PackedMolecules
    failed: tuple[int, ...]  # rows whose chain did not stay finite
    frames: tuple[Frame, ...]  # from noisy to clean; all molecules, only when keep_frames > 0
    num_calls: int  # network calls of one chain


class MoleculeNoise:
    """Standard normal numbers for every step of a batch, one independent stream per molecule.

    A molecule's noise depends on its own generator alone, so a seed gives the same molecules in any batching.
    """

    def __init__(
        self,
        num_atoms: Tensor,
        num_columns: int,
        generators: Sequence[torch.Generator],
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_atoms = num_atoms.tolist()
        self.num_columns, self.generators, self.device = num_columns, generators, device
        self.chunk, self.used = torch.empty(0), NOISE_CHUNK

    def next(self) -> Tensor:
        """The next [A, columns] of noise."""
        if self.used == NOISE_CHUNK:
            pieces = [
                torch.randn(NOISE_CHUNK, size, self.num_columns, generator=generator)
                for size, generator in zip(self.num_atoms, self.generators, strict=True)
            ]
            self.chunk, self.used = torch.cat(pieces, dim=1).to(self.device), 0
        self.used += 1
        return self.chunk[self.used - 1]


def step_grid(num_steps: int, num_calls: int | None, *, start: int | None = None, end: int = 0) -> list[int]:
    """Decreasing steps from `start` (default T) to `end`; with num_calls, that many network calls evenly in t.

    One call a step down, and one at step 0 where the chain ends there. Raises InvalidInput outside 0..T.
    """
    start = num_steps if start is None else start
    if not 0 <= end < start <= num_steps:
        raise InvalidInput(f"need 0 <= end < start <= {num_steps} steps, got start {start} and end {end}")
    downs = start - end if num_calls is None else num_calls - int(end == 0)
    if not 1 <= downs <= start - end:
        last = start - end + int(end == 0)
        raise InvalidInput(f"number of network calls must lie in {1 + int(end == 0)}..{last}, got {num_calls}")
    return [round(start - (start - end) * k / downs) for k in range(downs + 1)]


def ancestral_step(noisy: State, predicted: State, noise: State, log_snr_now: Tensor, log_snr_next: Tensor) -> State:
    """One step of p(z_s | z_t), from log_snr_now to the cleaner log_snr_next; the noise is an argument.

    z_s = z_t / alpha_{t|s} - sigma^2_{t|s} / (alpha_{t|s} sigma_t) predicted + sigma_{t|s} sigma_s / sigma_t noise.
    Source: EDM, sampling algorithm. Positions must be centred again afterwards.
    """
    ratio, variance = transition(log_snr_next, log_snr_now)
    spread = sigma(log_snr_now)
    scale, pull = float(1.0 / ratio), float(variance / (ratio * spread))
    width = float(torch.sqrt(variance) * sigma(log_snr_next) / spread)
    return State(
        scale * noisy.positions - pull * predicted.positions + width * noise.positions,
        scale * noisy.features - pull * predicted.features + width * noise.features,
    )


def final_step(noisy: State, predicted: State, noise: State | None, log_snr: Tensor) -> State:
    """Positions from p(x | z_0), a sample or (noise None) the mean; the features stay as they are at step 0."""
    signal, spread = float(alpha(log_snr)), float(sigma(log_snr))
    positions = (noisy.positions - spread * predicted.positions) / signal
    if noise is not None:
        positions = positions + spread / signal * noise.positions
    return State(positions, noisy.features)


def _run_chain(
    edm: Edm,
    start: State | None,
    graph: Graph,
    steps: list[int],
    generators: Sequence[torch.Generator],
    ending: Literal["sample", "mean"],
    kept: set[int],
) -> tuple[State, list[tuple[int, State]]]:
    """One batch from the first to the last of `steps`; the frames whose step is in `kept`."""
    stream = MoleculeNoise(graph.num_atoms, 3 + edm.config.num_features, generators, edm.device)

    def draw() -> State:
        values = stream.next()
        return State(graph.centre(values[:, :3]), values[:, 3:])

    graph = graph.to(edm.device)
    state = draw() if start is None else start.map(lambda part: part.float().to(edm.device))
    frames = [(steps[0], state)] if steps[0] in kept else []
    for now, after in zip(steps[:-1], steps[1:], strict=True):
        predicted = _predict(edm, state, now, graph)
        state = ancestral_step(state, predicted, draw(), edm.log_snr[now], edm.log_snr[after])
        state = State(graph.centre(state.positions), state.features)
        if after in kept:
            frames.append((after, state))
    if steps[-1] == 0:
        noise = draw() if ending == "sample" else None
        state = final_step(state, _predict(edm, state, 0, graph), noise, edm.log_snr[0])
    return state, frames


def _predict(edm: Edm, state: State, step: int, graph: Graph) -> State:
    steps = torch.full((graph.num_molecules,), step, device=edm.device)
    return predict_noise(edm.network, state, steps, graph, num_steps=edm.config.num_steps)


@torch.no_grad()
def sample(
    edm: Edm,
    num_atoms: Tensor,
    *,
    generator: torch.Generator | Sequence[torch.Generator],
    num_calls: int | None = None,
    keep_frames: int = 0,
    ending: Literal["sample", "mean"] = "sample",
    pair_budget: int | None = None,
    progress: bool = False,
) -> SampleResult:
    """One molecule for each entry of num_atoms [B], from noise; num_calls network calls (default T + 1).

    `generator` is forked into one for each molecule, unless one for each is given.
    keep_frames keeps that many frames evenly over the chain (and the noise it starts from). Source: EDM, sampling
    algorithm; fewer calls stride the steps evenly. Raises InvalidInput for sizes below 1 or a wrong num_calls.
    """
    num_atoms = torch.as_tensor(num_atoms)
    if len(num_atoms) == 0 or int(num_atoms.min()) < 1:
        raise InvalidInput("num_atoms must hold at least one entry, each at least 1")
    steps = step_grid(edm.config.num_steps, num_calls)
    return _sample_batches(edm, None, num_atoms, steps, generator, ending, keep_frames, pair_budget, progress)


@torch.no_grad()
def sample_from(
    edm: Edm,
    molecules: Sequence[Molecule] | PackedMolecules,
    *,
    start: int,
    end: int = 0,
    generator: torch.Generator,
    num_calls: int | None = None,
    keep_frames: int = 0,
    ending: Literal["sample", "mean"] = "sample",
    pair_budget: int | None = None,
    progress: bool = False,
) -> SampleResult:
    """Enter the chain at step `start` with given molecules as the noisy state, and leave it after step `end`.

    The geometry enters as z_start: centred, neither noised nor scaled by alpha; one-hot and Z likewise. Every
    molecule has noise of its own. Source: Rothchild et al. 2024, relaxation; positions in angstrom.
    Raises InvalidInput for no molecules, an element the model cannot place, or steps outside 0..T.
    """
    packed = molecules if isinstance(molecules, PackedMolecules) else PackedMolecules.from_molecules(molecules)
    if len(packed) == 0:
        raise InvalidInput("need at least one molecule to start from, got none")
    num_atoms = torch.from_numpy(packed.num_atoms)
    graph = Graph.from_sizes(num_atoms)
    positions = graph.centre(torch.from_numpy(packed.positions).float())
    clean = encode(edm.config, torch.from_numpy(packed.atomic_numbers), positions)
    steps = step_grid(edm.config.num_steps, num_calls, start=start, end=end)
    return _sample_batches(edm, clean, num_atoms, steps, generator, ending, keep_frames, pair_budget, progress)


def _sample_batches(
    edm: Edm,
    start: State | None,
    num_atoms: Tensor,
    steps: list[int],
    generator: torch.Generator | Sequence[torch.Generator],
    ending: Literal["sample", "mean"],
    keep_frames: int,
    pair_budget: int | None,
    progress: bool,
) -> SampleResult:
    """Chains in batches of similar size, put back into the order of num_atoms."""
    if pair_budget is None:
        pair_budget = GPU_PAIR_BUDGET if edm.device.type == "cuda" else PAIR_BUDGET
    generators = fork(generator, len(num_atoms)) if isinstance(generator, torch.Generator) else generator
    order = torch.argsort(num_atoms, stable=True)
    ends = num_atoms.cumsum(0)
    kept = {steps[round(k * (len(steps) - 1) / keep_frames)] for k in range(keep_frames + 1)} if keep_frames else set()
    states: list[tuple[Tensor, State]] = []
    frames: dict[int, list[State]] = {step: [] for step in sorted(kept, reverse=True)}
    for group in tqdm(split_by_pairs(num_atoms[order], pair_budget), disable=not progress, unit="batch"):
        rows = order[group]
        graph = Graph.from_sizes(num_atoms[rows])
        atoms = torch.cat([torch.arange(int(ends[row] - num_atoms[row]), int(ends[row])) for row in rows])
        part = None if start is None else start.map(lambda values, atoms=atoms: values[atoms])
        state, seen = _run_chain(edm, part, graph, steps, [generators[row] for row in rows], ending, kept)
        states.append((atoms, state))
        for step, frame in seen:
            frames[step].append(frame)
    atoms = torch.cat([entry[0] for entry in states])
    final = _gather(atoms, [entry[1] for entry in states])
    kept_frames = tuple(_frame(edm, step, _gather(atoms, parts)) for step, parts in frames.items())
    return _result(edm, final, num_atoms, kept_frames, len(steps) - 1 + int(steps[-1] == 0))


def _gather(atoms: Tensor, parts: list[State]) -> State:
    """Batches put together and sorted back to the order of the request."""
    back = torch.argsort(atoms)
    return State(
        torch.cat([part.positions.cpu() for part in parts])[back],
        torch.cat([part.features.cpu() for part in parts])[back],
    )


def _frame(edm: Edm, step: int, state: State) -> Frame:
    numbers, positions = decode(edm.config, state)
    return Frame(step, positions.numpy(), numbers.numpy())


def _result(edm: Edm, final: State, num_atoms: Tensor, frames: tuple[Frame, ...], num_calls: int) -> SampleResult:
    """Decoded molecules; chains that left the finite numbers are listed, not returned."""
    numbers, positions = decode(edm.config, final)
    bad_atoms = ~(torch.isfinite(final.positions).all(-1) & torch.isfinite(final.features).all(-1))
    graph_sum = torch.zeros(len(num_atoms)).index_add(
        0, torch.repeat_interleave(torch.arange(len(num_atoms)), num_atoms), bad_atoms.float()
    )
    good = (graph_sum == 0).numpy()
    safe = torch.nan_to_num(positions, nan=0.0, posinf=0.0, neginf=0.0)
    packed = PackedMolecules(num_atoms.numpy(), numbers.numpy().astype(np.int64), safe.double().numpy())
    failed = tuple(int(row) for row in np.flatnonzero(~good))
    return SampleResult(packed if good.all() else packed.select(good), failed, frames, num_calls)
