"""Chains from noise, or from a given molecule between two steps, to molecules, in batches that follow from the seed."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from molkit.edm.config import check_context
from molkit.edm.diffusion import predict_noise
from molkit.edm.features import State, decode, encode
from molkit.edm.model import Edm
from molkit.edm.samplers import (
    ANCESTRAL,
    Sampler,
    clean_state,
    difference,
    final_step,
    grid_steps,
    take_step,
    without_signal,
)
from molkit.edm.schedule import transition
from molkit.errors import InvalidInput, RunError
from molkit.graphs import Graph, is_out_of_memory, split_by_pairs
from molkit.molecule import Molecule, PackedMolecules
from molkit.rng import fork

NOISE_CHUNK = 32  # steps of noise drawn at once per molecule; part of the definition of a seed
PAIR_BUDGET = 12_000  # ordered pairs per batch: edge tensors of a small network then stay near the cache
GPU_PAIR_BUDGET = 1_000_000  # about 3,200 QM9 molecules: calls that keep a GPU busy

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Plan:
    """What all batches of a request share: steps to visit, the rule of a step, the ending, the steps to keep.

    Steps fall; where the next one is higher, noise is added by the forward process.
    """

    steps: list[int]
    sampler: Sampler
    ending: Literal["sample", "mean"]
    kept: frozenset[int]
    shared_path: bool = False
    blind_start: bool = False  # the first step is made without the network, as if nothing of the molecule could be seen

    @property
    def num_calls(self) -> int:
        """Network calls of one chain: one a step down, and one at step 0."""
        downs = sum(after < now for now, after in zip(self.steps[:-1], self.steps[1:], strict=True))
        return downs + int(self.steps[-1] == 0) - int(self.blind_start)


class Held(Protocol):
    """What is known of the molecules of a request before they are made, see `molkit.edm.editing`."""

    def select(self, atoms: Tensor) -> "Held":
        """The same for the atoms of a batch."""

    def to(self, device: torch.device | str) -> "Held":
        """The same on another device."""

    def predict(self, call: Callable[[State], State], noisy: State, graph: Graph, log_snr: Tensor) -> State:
        """The noise predicted by `call`, with the known part of it put right."""


def make_plan(
    edm: Edm,
    sampler: Sampler,
    num_calls: int | None,
    *,
    start: int | None = None,
    end: int = 0,
    ending: Literal["sample", "mean"] = "sample",
    keep_frames: int = 0,
    shared_path: bool = False,
) -> Plan:
    """The plan of a chain on the sampler's grid that keeps keep_frames frames evenly, and the first."""
    last = edm.config.num_steps
    seen = round(sampler.first * last)  # where the network is asked first
    blind = start is None and num_calls is not None and num_calls <= seen < last
    steps = grid_steps(edm.config.num_steps, num_calls, grid=sampler.grid, start=seen if blind else start, end=end)
    steps = [last, *steps] if blind else steps
    if sampler.fine is not None:
        steps = sorted({*steps, *range(sampler.fine[0], sampler.fine[1] + 1)}, reverse=True)
    last = len(steps) - 1
    kept = {steps[round(k * last / keep_frames)] for k in range(keep_frames + 1)} if keep_frames else set()
    return Plan(steps, sampler, ending, frozenset(kept), shared_path, blind)


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

    def along(self, log_snr: Tensor, now: int, after: int) -> Tensor:
        """Standard normal [A, columns] that stands for all the noise of a full chain between two steps.

        The noises of the single steps, each with the weight that it has left when the ancestral chain reaches `after`
        (Source: derived here). Where the clean state is known, both chains then meet at that step.
        """
        table = log_snr[after : now + 1]
        weights = torch.sqrt(torch.exp(table[:-1] - table[0]) - torch.exp(table[1:] - table[0])).flip(0).tolist()
        total = sum(weight * self.next() for weight in weights)
        return total / math.sqrt(sum(weight**2 for weight in weights))


def _run_chain(
    edm: Edm,
    start: State | None,
    graph: Graph,
    plan: Plan,
    generators: Sequence[torch.Generator],
    context: Tensor | None,
    held: Held | None = None,
) -> tuple[State, list[tuple[int, State]]]:
    """One batch from the first to the last step of the plan; the frames whose step is kept. context [B, C]."""
    held = None if held is None else held.to(edm.device)
    stream = MoleculeNoise(graph.num_atoms, 3 + edm.config.num_features, generators, edm.device)
    graph = graph.to(edm.device)
    rows = None if context is None else context.float().to(edm.device)[graph.batch]

    def split(values: Tensor) -> State:
        return State(graph.centre(values[:, :3]), values[:, 3:])

    def fresh(now: int, after: int, weight: float) -> State | None:
        if plan.shared_path:
            return split(stream.along(edm.log_snr, now, after))
        return split(stream.next()) if weight else None

    def predict(state: State, step: int) -> State:
        steps = torch.full((graph.num_molecules,), step, device=edm.device)
        options = {"num_steps": edm.config.num_steps, "context": rows}

        def call(noisy: State) -> State:
            return predict_noise(edm.network, noisy, steps, graph, **options)

        return call(state) if held is None else held.predict(call, state, graph, edm.log_snr[step])

    state = split(stream.next()) if start is None else start.map(lambda part: part.to(edm.device))
    frames = [(plan.steps[0], state)] if plan.steps[0] in plan.kept else []
    log_snr_before, clean_before = None, None
    for now, after in zip(plan.steps[:-1], plan.steps[1:], strict=True):
        if after > now:
            state = noisier(state, split(stream.next()), edm.log_snr[now], edm.log_snr[after])
            log_snr_before, clean_before = None, None
            continue
        blind = plan.blind_start and now == plan.steps[0]
        predicted = without_signal(state, edm.log_snr[now]) if blind else predict(state, now)
        weights = plan.sampler.rule(edm.log_snr[now], edm.log_snr[after], log_snr_before)
        change = None
        if plan.sampler.memory and not blind:
            clean = clean_state(state, predicted, edm.log_snr[now])
            change = None if clean_before is None else difference(clean, clean_before)
            log_snr_before, clean_before = edm.log_snr[now], clean
        state = take_step(weights, state, predicted, change, fresh(now, after, weights.noise))
        state = State(graph.centre(state.positions), state.features)
        if after in plan.kept:
            frames.append((after, state))
    if plan.steps[-1] == 0:
        noise = split(stream.next()) if plan.ending == "sample" else None
        state = final_step(state, predict(state, 0), noise, edm.log_snr[0])
    return state, frames


def noisier(state: State, noise: State, log_snr_now: Tensor, log_snr_next: Tensor) -> State:
    """A draw of q(z_t | z_s), from a step to a noisier one."""
    ratio, variance = (float(value) for value in transition(log_snr_now, log_snr_next))
    return State(
        ratio * state.positions + math.sqrt(variance) * noise.positions,
        ratio * state.features + math.sqrt(variance) * noise.features,
    )


@torch.no_grad()
def sample(
    edm: Edm,
    num_atoms: Tensor,
    *,
    generator: torch.Generator | Sequence[torch.Generator],
    num_calls: int | None = None,
    sampler: Sampler = ANCESTRAL,
    context: Tensor | None = None,
    keep_frames: int = 0,
    ending: Literal["sample", "mean"] = "sample",
    shared_path: bool = False,
    pair_budget: int | None = None,
    progress: bool = False,
) -> SampleResult:
    """One molecule for each entry of num_atoms [B], from noise; num_calls network calls (default T + 1).

    `generator` is forked into one for each molecule, unless one for each is given. `context` [B, C] holds normalised
    values, a row for each entry of num_atoms, of a model that was trained with them.
    keep_frames keeps that many frames evenly over the chain (and the noise it starts from). With shared_path a chain
    of few calls follows the noise of the full chain of the same generator, for paired comparisons.
    Source: EDM, sampling algorithm; for the other samplers see `molkit.edm.samplers`. Raises InvalidInput for sizes
    below 1, a wrong num_calls or context.
    """
    num_atoms = torch.as_tensor(num_atoms)
    if len(num_atoms) == 0 or int(num_atoms.min()) < 1:
        raise InvalidInput("num_atoms must hold at least one entry, each at least 1")
    check_context(edm.config, context, len(num_atoms))
    plan = make_plan(edm, sampler, num_calls, ending=ending, keep_frames=keep_frames, shared_path=shared_path)
    return run_batches(edm, None, num_atoms, plan, generator, context, pair_budget, progress)


@torch.no_grad()
def sample_from(
    edm: Edm,
    molecules: Sequence[Molecule] | PackedMolecules,
    *,
    start: int,
    end: int = 0,
    generator: torch.Generator,
    num_calls: int | None = None,
    sampler: Sampler = ANCESTRAL,
    context: Tensor | None = None,
    keep_frames: int = 0,
    ending: Literal["sample", "mean"] = "sample",
    pair_budget: int | None = None,
    progress: bool = False,
) -> SampleResult:
    """Enter the chain at step `start` with given molecules as the noisy state, and leave it after step `end`.

    The geometry enters as z_start: centred, neither noised nor scaled by alpha; one-hot and Z likewise. Every
    molecule has noise of its own. Source: Rothchild et al. 2024, relaxation; positions in angstrom.
    `context` as in `sample`. Raises InvalidInput for no molecules, an element the model cannot place, steps outside
    0..T, or a wrong context.
    """
    packed = molecules if isinstance(molecules, PackedMolecules) else PackedMolecules.from_molecules(molecules)
    if len(packed) == 0:
        raise InvalidInput("need at least one molecule to start from, got none")
    num_atoms = torch.from_numpy(packed.num_atoms)
    check_context(edm.config, context, len(num_atoms))
    graph = Graph.from_sizes(num_atoms)
    positions = graph.centre(torch.from_numpy(packed.positions).float())
    clean = encode(edm.config, torch.from_numpy(packed.atomic_numbers), positions)
    plan = make_plan(edm, sampler, num_calls, start=start, end=end, ending=ending, keep_frames=keep_frames)
    return run_batches(edm, clean, num_atoms, plan, generator, context, pair_budget, progress)


def run_batches(
    edm: Edm,
    start: State | None,
    num_atoms: Tensor,
    plan: Plan,
    generator: torch.Generator | Sequence[torch.Generator],
    context: Tensor | None,
    pair_budget: int | None,
    progress: bool,
    held: Held | None = None,
) -> SampleResult:
    """Chains in batches of similar size, put back into the order of num_atoms; `start` and `held` in that order too."""
    if pair_budget is None:
        pair_budget = GPU_PAIR_BUDGET if edm.device.type == "cuda" else PAIR_BUDGET
    generators = fork(generator, len(num_atoms)) if isinstance(generator, torch.Generator) else generator
    order = torch.argsort(num_atoms, stable=True)
    ends = num_atoms.cumsum(0)
    states: list[tuple[Tensor, State]] = []
    frames: dict[int, list[State]] = {step: [] for step in sorted(plan.kept, reverse=True)}
    waiting = [order[group] for group in reversed(split_by_pairs(num_atoms[order], pair_budget))]
    bar = tqdm(total=len(num_atoms), disable=not progress, unit="molecule")
    while waiting:
        rows = waiting.pop()
        graph = Graph.from_sizes(num_atoms[rows])
        atoms = torch.cat([torch.arange(int(ends[row] - num_atoms[row]), int(ends[row])) for row in rows])
        part = None if start is None else start.map(lambda values, atoms=atoms: values[atoms])
        values = None if context is None else context[rows]
        own = [generators[row] for row in rows]
        marks = [generator.get_state() for generator in own]
        try:
            kept = None if held is None else held.select(atoms)
            state, seen = _run_chain(edm, part, graph, plan, own, values, kept)
        except (RuntimeError, MemoryError) as error:
            waiting += reversed(_halves(rows, error))
            for generator, mark in zip(own, marks, strict=True):
                generator.set_state(mark)
            continue
        bar.update(len(rows))
        states.append((atoms, state))
        for step, frame in seen:
            frames[step].append(frame)
    bar.close()
    atoms = torch.cat([entry[0] for entry in states])
    final = _gather(atoms, [entry[1] for entry in states])
    kept_frames = tuple(_frame(edm, step, _gather(atoms, parts)) for step, parts in frames.items())
    return _result(edm, final, num_atoms, kept_frames, plan.num_calls)


def _halves(rows: Tensor, error: RuntimeError | MemoryError) -> list[Tensor]:
    """The batch in two parts, when memory did not suffice for it. Raises the error, or RunError for one molecule."""
    if not is_out_of_memory(error):
        raise error
    if len(rows) == 1:
        raise RunError("no memory for a single molecule; use a machine with more, or a smaller molecule") from error
    logger.warning("no memory for %d molecules at once; taking them in two batches", len(rows))
    return list(rows.tensor_split(2))


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
