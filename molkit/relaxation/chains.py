"""Chains of which every frame is kept: from a given molecule, from noise, or walking on one spot of the schedule."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from molkit.edm.editing import step_of_sigma
from molkit.edm.features import State, decode
from molkit.edm.samplers import ANCESTRAL, Sampler, clean_state, difference, final_step, take_step
from molkit.edm.sampling import PAIR_BUDGET, MoleculeNoise
from molkit.edm.schedule import alpha
from molkit.errors import InvalidInput
from molkit.graphs import Graph, split_by_pairs
from molkit.molecule import Molecule
from molkit.relaxation.denoisers import Denoiser, atoms_of, enter
from molkit.rng import fork

Ending = Literal["sample", "mean"]
NoiseShape = Callable[[Tensor], Tensor]  # noise [A, 3] of a molecule -> noise of another shape


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Every frame of the chain of one molecule, from noisy to clean; positions in angstrom.

    Frame k is the state at steps[k]; the last one, at step -1, is the molecule that comes out. It has no prediction, so
    the predicted arrays are one shorter: entry k was predicted from the state that was walked to frame k.
    """

    steps: np.ndarray  # [F]
    positions: np.ndarray  # [F, A, 3]
    elements: np.ndarray  # [F, A], atomic number of the largest noisy channel
    predicted_positions: np.ndarray  # [F, A, 3], clean molecule predicted from the state before the frame
    predicted_elements: np.ndarray  # [F, A]

    @property
    def molecule(self) -> Molecule:
        """The molecule that comes out."""
        return Molecule(self.elements[-1], self.positions[-1])


@dataclass(frozen=True, eq=False)
class Relaxed:
    """Molecules out of a chain, elements as they went in, in the order and frame in which they were given.

    `changed` lists rows whose elements the model would have changed, `failed` those whose chain left the finite
    numbers; these come back as None. num_calls counts network calls of one chain.
    """

    molecules: tuple[Molecule | None, ...]
    trajectories: tuple[Trajectory | None, ...]
    changed: tuple[int, ...]
    failed: tuple[int, ...]
    num_calls: int


@torch.no_grad()
def relax_from(
    denoiser: Denoiser,
    molecules: Sequence[Molecule],
    *,
    sigma: float | None = None,
    step: int | None = None,
    ending: Ending = "sample",
    sampler: Sampler = ANCESTRAL,
    keep_elements: bool = False,
    scaled: bool = False,
    generator: torch.Generator,
) -> Relaxed:
    """Enter the chain with given molecules as the noisy state and walk it to the end, every step.

    The level is `sigma` in angstrom (noise on each coordinate relative to the molecule) or a `step` of the schedule.
    The geometry enters centred, neither noised nor scaled; elements without noise. The last step draws from p(x | z_0)
    ("sample", as in the paper) or takes its mean. keep_elements puts the clean elements back before every call. scaled:
    the geometry is made smaller by alpha, as a noisy state of that level is; not the paper's, 1 % at 0.15 angstrom.
    Source: Rothchild et al. 2024, relaxation. Raises InvalidInput for a wrong level or an element without a channel.
    """
    if not molecules:
        raise InvalidInput("need at least one molecule to start from, got none")
    start = start_step(denoiser, sigma, step)
    num_atoms, entered = enter(denoiser.config, molecules, dtype=denoiser.dtype)
    if scaled:
        entered = State(float(alpha(denoiser.log_snr[start])) * entered.positions, entered.features)
    runs = _in_batches(
        denoiser, entered, num_atoms, list(range(start, -1, -1)), sampler, ending, keep_elements, generator
    )
    made = [_returned(molecule, run) for molecule, run in zip(molecules, runs, strict=True)]
    changed = [
        k for k, run in enumerate(runs) if run is not None and (run.elements[-1] != molecules[k].atomic_numbers).any()
    ]
    failed = [k for k, run in enumerate(runs) if run is None]
    return Relaxed(tuple(made), tuple(runs), tuple(changed), tuple(failed), start + 1)


@torch.no_grad()
def generate(
    denoiser: Denoiser, num_atoms: Sequence[int], *, ending: Ending = "sample", generator: torch.Generator
) -> list[Trajectory | None]:
    """Full chains from noise, every step, one for each entry of num_atoms; None where one left the finite numbers."""
    steps = list(range(denoiser.config.num_steps, -1, -1))
    return _in_batches(denoiser, None, torch.as_tensor(num_atoms), steps, ANCESTRAL, ending, False, generator)


@torch.no_grad()
def walk_on_the_spot(
    denoiser: Denoiser,
    molecules: Sequence[Molecule],
    *,
    step: int,
    num_steps: int,
    generator: torch.Generator,
    thin: int = 1,
    shape: NoiseShape | None = None,
) -> np.ndarray:
    """The chain with the reverse step t -> t - 1 done again and again: positions [F, A, 3] of all molecules' atoms.

    The state that comes out goes in again as if it were at step t; elements are put back each time. `shape` changes the
    noise of the positions, for example by the Hessian. Every `thin`-th frame is kept, the start is not.
    Source: Rothchild et al. 2024, Boltzmann sampling. Raises InvalidInput for a step outside 1..T, or
    where no frame would be kept.
    """
    start_step(denoiser, None, step)
    if not 1 <= thin <= num_steps:
        raise InvalidInput(f"thin must lie in 1..{num_steps}, the number of steps, got {thin}")
    num_atoms, entered = enter(denoiser.config, molecules, dtype=denoiser.dtype)
    graph = Graph.from_sizes(num_atoms)
    stream = MoleculeNoise(num_atoms, 3 + denoiser.config.num_features, fork(generator, len(num_atoms)))
    state, frames = entered, []
    for count in range(1, num_steps + 1):
        drawn = _split(stream.next().to(denoiser.dtype), graph)
        if shape is not None:
            drawn = State(graph.centre(shape(drawn.positions)), drawn.features)
        state, _ = reverse_step(denoiser, State(state.positions, entered.features), graph, step, step - 1, drawn)
        if count % thin == 0:
            frames.append(state.positions)
    return (torch.stack(frames) * denoiser.config.scale_positions).double().numpy()


def start_step(denoiser: Denoiser, level: float | None, step: int | None) -> int:
    """The step of a noise level in angstrom, or the step itself. Raises InvalidInput unless one of both is in range."""
    if (level is None) == (step is None):
        raise InvalidInput(f"give either sigma in angstrom or a step, got sigma {level} and step {step}")
    if step is None:
        return step_of_sigma(denoiser, level)
    if not 1 <= step <= denoiser.config.num_steps:
        raise InvalidInput(f"the step must lie in 1..{denoiser.config.num_steps}, got {step}")
    return step


def reverse_step(
    denoiser: Denoiser, state: State, graph: Graph, now: int, after: int, noise: State | None
) -> tuple[State, State]:
    """One ancestral step, and the clean molecule predicted on the way."""
    predicted = denoiser.noise(state, now, graph)
    weights = ANCESTRAL.rule(denoiser.log_snr[now], denoiser.log_snr[after], None)
    moved = take_step(weights, state, predicted, None, noise)
    return State(graph.centre(moved.positions), moved.features), clean_state(state, predicted, denoiser.log_snr[now])


def _split(values: Tensor, graph: Graph) -> State:
    return State(graph.centre(values[:, :3]), values[:, 3:])


def _walk(
    denoiser: Denoiser,
    start: State | None,
    graph: Graph,
    steps: Sequence[int],
    sampler: Sampler,
    ending: Ending,
    keep_elements: bool,
    generators: Sequence[torch.Generator],
) -> tuple[list[State], list[State]]:
    """Frames after every step and the last one, and the clean states predicted before them."""
    stream = MoleculeNoise(graph.num_atoms, 3 + denoiser.config.num_features, generators)

    def fresh() -> State:
        return _split(stream.next().to(denoiser.dtype), graph)

    state = fresh() if start is None else start
    frames, predictions = [], []
    before, clean_before = None, None
    for now, after in zip(steps[:-1], steps[1:], strict=True):
        predicted = denoiser.noise(state, now, graph)
        clean = clean_state(state, predicted, denoiser.log_snr[now])
        weights = sampler.rule(denoiser.log_snr[now], denoiser.log_snr[after], before)
        change = difference(clean, clean_before) if sampler.memory and clean_before is not None else None
        before, clean_before = (denoiser.log_snr[now], clean) if sampler.memory else (None, None)
        moved = take_step(weights, state, predicted, change, fresh() if weights.noise else None)
        features = start.features if keep_elements and start is not None else moved.features
        state = State(graph.centre(moved.positions), features)
        frames.append(state)
        predictions.append(clean)
    predicted = denoiser.noise(state, 0, graph)
    predictions.append(clean_state(state, predicted, denoiser.log_snr[0]))
    last = final_step(state, predicted, fresh() if ending == "sample" else None, denoiser.log_snr[0])
    frames.append(State(graph.centre(last.positions), last.features))
    return frames, predictions


def _in_batches(
    denoiser: Denoiser,
    start: State | None,
    num_atoms: Tensor,
    steps: list[int],
    sampler: Sampler,
    ending: Ending,
    keep_elements: bool,
    generator: torch.Generator,
) -> list[Trajectory | None]:
    """One trajectory a molecule in the order of num_atoms; batches follow from the sizes, noise from the molecule."""
    generators = fork(generator, len(num_atoms))
    order = torch.argsort(num_atoms, stable=True)
    found: dict[int, Trajectory | None] = {}
    for group in split_by_pairs(num_atoms[order], PAIR_BUDGET):
        rows = order[group]
        atoms = atoms_of(rows, num_atoms)
        part = None if start is None else start.map(lambda values, atoms=atoms: values[atoms])
        graph = Graph.from_sizes(num_atoms[rows])
        own = [generators[row] for row in rows]
        frames, predictions = _walk(denoiser.select(rows), part, graph, steps, sampler, ending, keep_elements, own)
        found |= dict(zip(rows.tolist(), _trajectories(denoiser, steps, frames, predictions, graph), strict=True))
    return [found[row] for row in range(len(num_atoms))]


def _trajectories(
    denoiser: Denoiser, steps: Sequence[int], frames: list[State], predictions: list[State], graph: Graph
) -> list[Trajectory | None]:
    """The frames of a batch cut by molecule."""
    decoded = [decode(denoiser.config, frame) for frame in frames]
    guessed = [decode(denoiser.config, frame) for frame in predictions]
    elements, predicted_elements = (torch.stack([one[0] for one in each]).numpy() for each in (decoded, guessed))
    positions, predicted_positions = (torch.stack([one[1] for one in each]).numpy() for each in (decoded, guessed))
    labels = np.array([*steps[1:], -1])
    ends = graph.num_atoms.cumsum(0).tolist()
    parts = []
    for size, end in zip(graph.num_atoms.tolist(), ends, strict=True):
        atoms = slice(end - size, end)
        one = Trajectory(
            labels, positions[:, atoms], elements[:, atoms], predicted_positions[:, atoms], predicted_elements[:, atoms]
        )
        parts.append(one if np.isfinite(one.positions).all() else None)
    return parts


def _returned(given: Molecule, run: Trajectory | None) -> Molecule | None:
    """The molecule with its own elements, charge and centre at the positions that came out."""
    if run is None:
        return None
    made = run.positions[-1].astype(np.float64)
    return given.with_positions(made - made.mean(axis=0) + given.positions.mean(axis=0))
