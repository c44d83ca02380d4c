"""Train the model of a recipe: engine, weights to begin with, and the loop."""

import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from molkit.config import from_dict, read_yaml, to_dict
from molkit.edm.compiled import compile_for
from molkit.edm.config import EdmConfig
from molkit.edm.engine import accelerate, available, gains_from_bfloat16
from molkit.edm.model import build, load, resolve
from molkit.edm.network import EdmNetwork
from molkit.edm.preconditioning import standardised
from molkit.edm.published import training_facts
from molkit.edm.recipes import load_training_set, read_recipe
from molkit.edm.task import EdmTask
from molkit.errors import InvalidInput
from molkit.training.config import TrainConfig
from molkit.training.loop import TrainResult, make_fabric, train
from molkit.training.precision import use_bfloat16
from molkit.training.run_folder import stored_precision

NO_CONTEXT = {"num_context": 0, "context_names": (), "context_means": (), "context_spreads": ()}


def settled(training: TrainConfig, width: int, device: torch.device, run: Path | None) -> TrainConfig:
    """The training with a precision instead of "auto": that of the run it continues, else the quicker one here."""
    if training.precision != "auto":
        return training
    known = None if run is None else stored_precision(run)
    if known is None:
        fused = device.type == "cpu" and training.engine in ("auto", "fused") and available()
        quicker = gains_from_bfloat16(width, training=True) if fused else use_bfloat16("auto", device, width=width)
        known = "bfloat16" if quicker else "float32"
    return replace(training, precision=known)


def engine_for(network: EdmNetwork, training: TrainConfig, device: torch.device) -> EdmNetwork:
    """The network, behind the engine that the recipe asks for: the fused kernel on CPUs, torch.compile on GPUs."""
    if training.engine == "compiled" or (training.engine == "auto" and device.type == "cuda"):
        return compile_for(
            network,
            device,
            precision="bfloat16" if use_bfloat16(training.precision, device, width=network.config.width) else "float32",
            widths=training.bucket_widths,
            molecules=training.batch_molecules,
            scope=training.compile_scope,
        )
    if device.type == "cpu" and training.engine in ("auto", "fused"):
        return accelerate(network, precision="bfloat16" if training.precision == "bfloat16" else "float32")
    return network


def check_same_model(folder: Path, config: EdmConfig) -> None:
    """Raises InvalidInput when the run in the folder, if there is one, trains a model other than `config`."""
    path = folder / "config.yaml"
    if not path.is_file():
        return
    stored, wanted = to_dict(from_dict(EdmConfig, read_yaml(path), source=str(path))), to_dict(config)
    for key, value in wanted.items():
        if stored[key] != value:
            raise InvalidInput(
                f"{folder}: the run there trains another model ({key} is {stored[key]}, the recipe says {value}); "
                "use its recipe, or another --out"
            )


def train_recipe(
    path: Path,
    *,
    out: Path,
    seed: int | None = None,
    time_budget: float | None = None,
    total_steps: int | None = None,
    resume: bool = False,
    limit: int | None = None,
    start_from: str | None = None,
    device: str = "auto",
    progress_bar: bool = True,
) -> TrainResult:
    """Train, or continue, the model of a recipe in the run folder `out`; the time budget includes loading the data.

    start_from begins a new run with published weights or those of another run, and a fresh optimiser. `seed` replaces
    the recipe's.

    Raises what `read_recipe`, the data loader and the training loop raise.
    """
    started = time.monotonic()
    recipe = read_recipe(path)
    if seed is not None:
        recipe = replace(recipe, training=replace(recipe.training, seed=seed))
    molecules, labels = load_training_set(recipe.data, limit=limit)
    recipe = replace(recipe, model=standardised(recipe.model, molecules))
    if resume:
        check_same_model(out, recipe.model)
    fabric = make_fabric(device)
    task = EdmTask(recipe.model, molecules, recipe.training, fabric.device, labels)
    fresh = build(recipe.model, seed=recipe.training.seed).network
    earlier_passes = 0 if start_from is None else take_weights(fresh, recipe.model, start_from)
    training = fabric.broadcast(settled(recipe.training, recipe.model.width, fabric.device, out if resume else None))
    network = engine_for(fresh, training, fabric.device)
    task.planner = getattr(network, "planner", None)
    return train(
        task,
        network,
        training,
        out=out,
        fabric=fabric,
        time_budget=None if time_budget is None else max(0.01, time_budget - (time.monotonic() - started)),
        resume=resume,
        total_steps=total_steps,
        started_from=start_from,
        earlier_passes=earlier_passes,
        progress_bar=progress_bar,
    )


def widened(tensor: Tensor, onto: Tensor) -> Tensor:
    """A copy of `onto` with the tensor in its upper left corner."""
    out = onto.clone()
    out[tuple(slice(size) for size in tensor.shape)] = tensor
    return out


def take_weights(network: EdmNetwork, config: EdmConfig, source: str) -> int:
    """Copy the weights of published weights or a run into the network; returns the molecule passes they had seen.

    A model that takes conditions may begin with one that takes none: its new columns keep their random start, so
    that it computes the same where nothing is asked, and is disturbed at first where something is: columns that begin
    near zero stay there for very long. Raises DataNotFound, or InvalidInput when they belong to another model.
    """
    folder = resolve(source)
    old = load(folder, fast=False)
    grows = bool(config.num_context) and not old.config.num_context
    check_same_model(folder, replace(config, **NO_CONTEXT) if grows else config)
    tensors = old.network.state_dict()
    if grows:
        tensors = {name: widened(value, network.state_dict()[name]) for name, value in tensors.items()}
    network.load_state_dict(tensors)
    return training_facts(folder).passes if (folder / "training.json").is_file() else 0
