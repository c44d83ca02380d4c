"""What makes a training step worth more: what the page on training methods computes."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import process_time

import numpy as np
import torch
from torch import Tensor

from molkit.data.qm9 import load_qm9
from molkit.edm import likelihood
from molkit.edm.diffusion import add_noise, draw_noise, predict_noise, squared_error
from molkit.edm.features import State, encode
from molkit.edm.flow import mix, predict_velocity
from molkit.edm.model import Edm, build, load
from molkit.edm.network import EdmNetwork
from molkit.edm.recipes import Recipe, read_recipe
from molkit.edm.sampling import sample
from molkit.edm.task import EdmTask
from molkit.edm.training import engine_for
from molkit.errors import DataNotFound, InvalidInput, RunError
from molkit.graphs import Graph, split_by_pairs
from molkit.metrics.score import Score
from molkit.metrics.statistics import Interval, difference_of_intervals, interval_over_runs
from molkit.molecule import PackedMolecules
from molkit.rng import generator_from
from molkit.studies.edm_evaluation import score
from molkit.studies.edm_suite import STORED, SUITES, ArmResult
from molkit.training.files import write_text
from molkit.training.loop import Fabric, Trainer, make_fabric, train

SUITE, PLAIN = "training_methods", "plain"
FOLDER = SUITES / SUITE
TRIALS = STORED / "training_methods_trials.json"
TRIAL_SEED = 100  # of the trainings that chose learning rates; no table shows them
TITLES = {
    "plain": "plain recipe",
    "low_noise": "small noise drawn more often",
    "self_conditioning": "self-conditioning",
    "muon": "Muon",
    "flow": "flow matching",
}


def _parts(recipe: Recipe, limit: int | None) -> tuple[EdmTask, EdmNetwork, Fabric]:
    """Molecules, fresh network and device of a recipe, as the training loop wants them."""
    fabric = make_fabric("cpu")
    task = EdmTask(recipe.model, load_qm9(split=recipe.data.split, limit=limit), recipe.training, fabric.device)
    network = engine_for(build(recipe.model, seed=recipe.training.seed).network, recipe.training, fabric.device)
    return task, network, fabric


def _trainer(recipe: Recipe, limit: int | None) -> Trainer:
    """A training that is stepped by hand and writes nothing."""
    task, network, fabric = _parts(recipe, limit)
    return Trainer(task, network, recipe.training, Path("nowhere"), fabric)


@dataclass(frozen=True)
class Cost:
    """CPU milliseconds of one training step of one arm, measured in turns with the others in one process."""

    arm: str
    milliseconds: float  # median over the rounds
    ratio: float  # to the first arm, median over the rounds
    rounds: int


def costs(arms: Sequence[str] = tuple(TITLES), *, steps: int = 20, rounds: int = 5, limit: int = 5000) -> list[Cost]:
    """CPU cost of a step of every arm: blocks of `steps` steps in turns, after one block that nobody counts."""
    trainers = {arm: _trainer(read_recipe(FOLDER / f"{arm}.yaml"), limit) for arm in arms}
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    for _ in range(rounds + 1):
        for arm, trainer in trainers.items():
            started = process_time()
            for _ in range(steps):
                trainer.step()
            seconds[arm].append((process_time() - started) / steps)
    counted = {arm: np.array(values[1:]) for arm, values in seconds.items()}
    return [
        Cost(arm, 1000.0 * float(np.median(values)), float(np.median(values / counted[arms[0]])), rounds)
        for arm, values in counted.items()
    ]


@torch.no_grad()
def validation_error(edm: Edm, molecules: PackedMolecules, *, seed: int = 0, pair_budget: int = 20_000) -> float:
    """Mean squared error per component of the predicted noise (a flow: velocity), evenly over all noise levels.

    The same levels and noise for every model of a seed; a model with self-conditioning gets no estimate.
    """
    num_atoms, total = torch.from_numpy(molecules.num_atoms), 0.0
    levels = (torch.arange(len(molecules)) * 0.6180339887 + 0.5).frac()  # even in any stretch of the list
    for k, chosen in enumerate(split_by_pairs(num_atoms, pair_budget)):
        graph, part = Graph.from_sizes(num_atoms[chosen]), molecules.select(chosen.numpy())
        positions = graph.centre(torch.from_numpy(part.positions).float())
        clean = encode(edm.config, torch.from_numpy(part.atomic_numbers), positions)
        noise = draw_noise(graph, clean.features.shape[1], generator=generator_from("validation", seed, k))
        error = _errors(edm, clean, noise, levels[chosen], graph)
        total += float((error / (graph.num_atoms * (3 + clean.features.shape[1]))).sum())
    return total / len(molecules)


def _errors(edm: Edm, clean: State, noise: State, t: Tensor, graph: Graph) -> Tensor:
    """Summed squared error of every molecule at shares t [B] of the chain, [B]."""
    if edm.config.process == "flow":
        found = predict_velocity(edm.network, mix(clean, noise, t[graph.batch].unsqueeze(-1)), t, graph)
        wanted = State(clean.positions - noise.positions, clean.features - noise.features)
        return squared_error(wanted, found, graph)
    step = (t * edm.config.num_steps).round().long()
    noisy = add_noise(clean, noise, edm.log_snr[step][graph.batch].unsqueeze(-1))
    found = predict_noise(edm.network, noisy, step, graph, num_steps=edm.config.num_steps)
    return squared_error(noise, found, graph)


@dataclass(frozen=True)
class Trial:
    """One short training with another seed than those of the table, and its error on the validation split."""

    arm: str
    learning_rate: float
    steps: int
    seed: int
    error: float  # of the noise; of a flow of the velocity
    nll: float | None  # nats, of the same molecules; None for a flow


def trial(arm: str, learning_rate: float, *, steps: int, folder: Path, num_valid: int = 2000) -> Trial:
    """Train an arm for `steps` steps at a learning rate and score it on the validation split."""
    recipe = read_recipe(FOLDER / f"{arm}.yaml")
    training = replace(recipe.training, learning_rate=learning_rate, total_steps=steps, seed=TRIAL_SEED)
    task, network, fabric = _parts(replace(recipe, training=training), None)
    done = train(task, network, training, out=folder, fabric=fabric, resume=folder.is_dir(), progress_bar=False)
    if not done.finished:
        raise RunError(f"{folder}: stopped at step {done.step} of {steps}; the same command continues it")
    edm, valid = load(folder), load_qm9(split="valid", limit=num_valid)
    nll = None
    if recipe.model.process == "diffusion":
        nll = float(likelihood.bound(edm, valid, generator=generator_from("trial")).total.mean())
    return Trial(arm, learning_rate, steps, TRIAL_SEED, validation_error(edm, valid), nll)


def write_trials(trials: Sequence[Trial], path: Path = TRIALS) -> None:
    """Write the trials as JSON, whole or not at all."""
    write_text(path, json.dumps([asdict(entry) for entry in trials], indent=1) + "\n")


def stored_trials(path: Path = TRIALS) -> list[Trial]:
    """The trials that chose learning rates. Raises DataNotFound or InvalidInput."""
    if not path.is_file():
        raise DataNotFound(f"{path}: no stored trials; make them with `molkit study learning-rates --out {path}`")
    try:
        return [Trial(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (json.JSONDecodeError, TypeError) as error:
        raise InvalidInput(f"{path}: not the trials of learning rates ({error})") from error


def untrained(num_molecules: int, *, num_calls: int = 20, seed: int = 0) -> Score:
    """Score of what the plain recipe's network makes of noise before any training: the row to compare with."""
    edm, generator = build(read_recipe(FOLDER / f"{PLAIN}.yaml").model), generator_from("untrained", seed)
    drawn = sample(edm, edm.draw_sizes(num_molecules, generator=generator), generator=generator, num_calls=num_calls)
    return score(drawn.molecules, num_failed=len(drawn.failed))


@dataclass(frozen=True)
class Row:
    """One arm of the table: means over trainings with their intervals, and the difference to the plain recipe."""

    arm: str
    trainings: int
    failed: int
    cpu_seconds: tuple[float, ...]  # of every training
    passes: float  # molecules seen, mean
    atoms: tuple[Interval, ...]  # shares of stable atoms, one a training
    bounds: tuple[Interval, ...]  # NLL bounds in nats, one a training; empty for a flow
    atom_stability: Interval | None
    molecule_stability: Interval | None
    nll: Interval | None
    gain: Interval | None  # of atom stability over the plain recipe; None where either has a single training
    nll_gain: Interval | None  # of the bound over the plain recipe, in nats; negative is better


def rows(results: Sequence[ArmResult]) -> list[Row]:
    """One row for each arm of the suite that has results, the plain recipe first.

    Raises DataNotFound when the plain recipe has none.
    """
    by_arm = {arm: [result for result in results if result.arm == arm] for arm in TITLES}
    if not by_arm[PLAIN]:
        raise DataNotFound(f"no training of the arm {PLAIN}; run `molkit suite run {SUITE}` and `molkit suite collect`")
    plain = _row(PLAIN, by_arm[PLAIN], None)
    return [plain, *(_row(arm, found, plain) for arm, found in by_arm.items() if found and arm != PLAIN)]


def _row(arm: str, results: Sequence[ArmResult], plain: Row | None) -> Row:
    good = [result for result in results if not result.failure]
    values = {
        name: tuple(getattr(result, name) for result in good if getattr(result, name) is not None)
        for name in ("atom_stability", "molecule_stability", "nll")
    }
    share = (0.0, 1.0)
    limits = {"atom_stability": share, "molecule_stability": share, "nll": (-math.inf, math.inf)}
    means = {name: interval_over_runs(values[name], within=limits[name]) if values[name] else None for name in values}

    def against(name: str) -> Interval | None:
        other = None if plain is None else getattr(plain, name)
        few = plain is None or min(len(good), len(plain.atoms)) < 2
        return None if few or means[name] is None or other is None else difference_of_intervals(means[name], other)

    return Row(
        arm=arm,
        trainings=len(results),
        failed=len(results) - len(good),
        cpu_seconds=tuple(result.cpu_seconds for result in results),
        passes=float(np.mean([result.passes for result in results])),
        atoms=values["atom_stability"],
        bounds=values["nll"],
        gain=against("atom_stability"),
        nll_gain=against("nll"),
        **means,
    )


def conclusions(table: Sequence[Row]) -> list[str]:
    """A sentence for each arm but the plain one: what the intervals of its differences show, and nothing beyond.

    Single trainings do not show how much trainings scatter, so nothing follows from them.
    """
    found = []
    for row in table:
        if row.arm == PLAIN:
            continue
        gain = None if row.gain is None else row.gain.scaled(100.0)
        atoms = difference_in_words(gain, "points", ("more stable atoms", "fewer stable atoms"), "in stable atoms")
        bound = difference_in_words(row.nll_gain, "nats", ("a worse bound", "a better bound"), "of the bound")
        found.append(f"{TITLES[row.arm]}: {atoms}; {bound}.")
    return found


def difference_in_words(gain: Interval | None, unit: str, words: tuple[str, str], of_what: str) -> str:
    """The first of `words` where the interval lies above zero, the second where it lies below, else no difference."""
    if gain is None:
        return f"nothing is concluded {of_what}"
    word = words[0] if gain.low > 0.0 else words[1] if gain.high < 0.0 else f"no difference {of_what} is shown"
    return f"{word} ({gain.value:+.1f} {unit}, {gain.low:+.1f} to {gain.high:+.1f})".replace("-", "\u2212")


@dataclass(frozen=True)
class Curve:
    """A training of a toy network watched from outside: validation error against CPU seconds."""

    arm: str
    seconds: tuple[float, ...]
    error: tuple[float, ...]
    steps: int
    num_valid: int


def race(
    arms: Sequence[str],
    *,
    steps: int,
    points: int,
    width: int,
    num_layers: int,
    num_train: int | None,
    num_valid: int,
    seed: int = 0,
) -> list[Curve]:
    """Train the arms in turns at toy size, and score their averaged weights `points` times on the validation split.

    Every arm takes `steps` steps, so a dearer one ends later on the axis of seconds.
    """
    valid = load_qm9(split="valid", limit=num_valid)
    trainers = {arm: _trainer(_toy(arm, steps, width, num_layers, seed), num_train) for arm in arms}
    spent = dict.fromkeys(arms, 0.0)
    seen: dict[str, list[tuple[float, float]]] = {arm: [] for arm in arms}
    for _ in range(points):
        for arm, trainer in trainers.items():
            started = process_time()
            for _ in range(steps // points):
                trainer.step()
            spent[arm] += process_time() - started
            averaged = Edm(trainer.task.config, trainer.average.module, trainer.task.table)
            seen[arm].append((spent[arm], validation_error(averaged, valid)))
    columns = {arm: zip(*found, strict=True) for arm, found in seen.items()}
    return [Curve(arm, *map(tuple, pair), steps, len(valid)) for arm, pair in columns.items()]


def _toy(arm: str, steps: int, width: int, num_layers: int, seed: int) -> Recipe:
    """The recipe of an arm at toy size."""
    recipe = read_recipe(FOLDER / f"{arm}.yaml")
    changes = {"total_steps": steps, "warmup_steps": steps // 10, "ema_decay": 0.98, "seed": seed}
    model = replace(recipe.model, width=width, num_layers=num_layers)
    return replace(recipe, model=model, training=replace(recipe.training, **changes))


def protocol_in_words(results: Sequence[ArmResult]) -> str:
    """How the arms were trained and scored, read from the results and the plain recipe."""
    recipe, stamp = read_recipe(FOLDER / f"{PLAIN}.yaml"), results[0].provenance
    steps = max(result.steps for result in results if result.arm == PLAIN)
    return (
        f"{recipe.model.num_layers} layers of width {recipe.model.width}, {steps} steps of the plain recipe; "
        f"{stamp['num_samples']} samples of {stamp['num_calls']} calls and {stamp['nll_molecules']} test molecules for "
        "each training."
    )
