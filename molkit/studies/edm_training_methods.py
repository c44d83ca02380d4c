"""What makes a training step worth more: what the page on training methods computes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time

import torch

from molkit.data.qm9 import load_qm9
from molkit.edm.diffusion import add_noise, draw_noise, predict_noise
from molkit.edm.features import encode
from molkit.edm.flow import mix, predict_velocity
from molkit.edm.model import Edm, build, load
from molkit.edm.recipes import RECIPES, Recipe, read_recipe
from molkit.edm.task import EdmTask
from molkit.edm.training import engine_for
from molkit.graphs import Graph, split_by_pairs
from molkit.molecule import PackedMolecules
from molkit.rng import generator_from
from molkit.training.loop import Trainer, make_fabric, train

STORED = Path(__file__).resolve().parents[2] / "data" / "studies"
SUITE = "training_methods"
SUITE_FOLDER = RECIPES / "suites" / SUITE
SWEEP_SEED = 100  # of the trainings that chose learning rates; no table shows them


@dataclass(frozen=True)
class Cost:
    """CPU milliseconds of one training step of one arm, measured in turns with the others in one process."""

    arm: str
    milliseconds: float  # median over the rounds
    ratio: float  # to the first arm, median over the rounds
    rounds: int


def costs(
    recipes: Mapping[str, Recipe], *, steps: int = 25, rounds: int = 5, limit: int | None = 5000, folder: Path
) -> list[Cost]:
    """CPU cost of a step of every arm: blocks of `steps` steps in turns, after one block that nobody counts."""
    trainers = {name: _trainer(recipe, folder / name, limit) for name, recipe in recipes.items()}
    first = next(iter(recipes))
    seconds: dict[str, list[float]] = {name: [] for name in recipes}
    for _ in range(rounds + 1):
        for name, trainer in trainers.items():
            started = process_time()
            for _ in range(steps):
                trainer.step()
            seconds[name].append((process_time() - started) / steps)
    counted = {name: torch.tensor(values[1:], dtype=torch.float64) for name, values in seconds.items()}
    return [
        Cost(name, 1000.0 * float(values.median()), float((values / counted[first]).median()), rounds)
        for name, values in counted.items()
    ]


def _trainer(recipe: Recipe, folder: Path, limit: int | None) -> Trainer:
    fabric = make_fabric("cpu")
    task = EdmTask(recipe.model, load_qm9(split=recipe.data.split, limit=limit), recipe.training, fabric.device)
    network = engine_for(build(recipe.model, seed=recipe.training.seed).network, recipe.training, fabric.device)
    return Trainer(task, network, recipe.training, folder, fabric)


@torch.no_grad()
def validation_error(edm: Edm, molecules: PackedMolecules, *, seed: int = 0, pair_budget: int = 20_000) -> float:
    """Mean squared error per component of the predicted noise (a flow: velocity), evenly over all noise levels.

    The same levels and noise for every model of a seed; a model with self-conditioning gets no estimate.
    """
    num_atoms, total = torch.from_numpy(molecules.num_atoms), 0.0
    levels = (torch.arange(len(molecules)) * 0.6180339887 + 0.5).frac()  # even in any stretch of the list
    for k, rows in enumerate(split_by_pairs(num_atoms, pair_budget)):
        graph, chosen = Graph.from_sizes(num_atoms[rows]), molecules.select(rows.numpy())
        positions = graph.centre(torch.from_numpy(chosen.positions).float())
        clean = encode(edm.config, torch.from_numpy(chosen.atomic_numbers), positions)
        noise = draw_noise(graph, clean.features.shape[1], generator=generator_from("validation", seed, k))
        t = levels[rows]
        if edm.config.process == "flow":
            state = mix(clean, noise, t[graph.batch].unsqueeze(-1))
            found = predict_velocity(edm.network, state, t, graph)
            wanted = replace(
                clean, positions=clean.positions - noise.positions, features=clean.features - noise.features
            )
        else:
            step = (t * edm.config.num_steps).round().long()
            state = add_noise(clean, noise, edm.log_snr[step][graph.batch].unsqueeze(-1))
            found, wanted = predict_noise(edm.network, state, step, graph, num_steps=edm.config.num_steps), noise
        error = (found.positions - wanted.positions).square().sum(-1)
        error = graph.sum(error + (found.features - wanted.features).square().sum(-1))
        total += float((error / (graph.num_atoms * (3 + clean.features.shape[1]))).sum())
    return total / len(molecules)


@dataclass(frozen=True)
class Trial:
    """One short training with another seed than those of the table, and its error on the validation split."""

    arm: str
    learning_rate: float
    steps: int
    seed: int
    error: float  # noise; of a flow velocity
    nll: float | None  # nats, of the first validation molecules; None for a flow


def trial(arm: str, learning_rate: float, *, steps: int, folder: Path, num_valid: int = 2000) -> Trial:
    """Train an arm for `steps` steps at a learning rate and score it on the validation split."""
    from molkit.edm import likelihood

    recipe = read_recipe(SUITE_FOLDER / f"{arm}.yaml")
    training = replace(recipe.training, learning_rate=learning_rate, total_steps=steps, seed=SWEEP_SEED)
    fabric = make_fabric("cpu")
    task = EdmTask(recipe.model, load_qm9(split="train"), training, fabric.device)
    network = engine_for(build(recipe.model, seed=SWEEP_SEED).network, training, fabric.device)
    train(task, network, training, out=folder, fabric=fabric, resume=True, progress_bar=False)
    edm, valid = load(folder), load_qm9(split="valid", limit=num_valid)
    nll = None
    if recipe.model.process == "diffusion":
        nll = float(likelihood.bound(edm, valid, generator=generator_from("sweep")).total.mean())
    return Trial(arm, learning_rate, steps, SWEEP_SEED, validation_error(edm, valid), nll)
