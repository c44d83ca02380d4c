"""Train the model of a recipe: one YAML file that says which molecules, which model and which training."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from molkit.config import from_dict, read_yaml, to_dict
from molkit.data.drug_size import load_drug_size
from molkit.data.geom_drugs import load_geom_drugs
from molkit.data.qm9 import load_qm9
from molkit.data.qm9_labels import load_generator_molecules
from molkit.edm.conditions import context_of, draw_flags
from molkit.edm.config import EdmConfig
from molkit.edm.dense import Planner, compile_for
from molkit.edm.diffusion import simple_loss
from molkit.edm.engine import accelerate, available, gains_from_bfloat16
from molkit.edm.features import State, encode
from molkit.edm.model import Edm, build, load, resolve, save
from molkit.edm.network import EdmNetwork, standardised
from molkit.edm.property_network import load_property
from molkit.edm.published import training_facts
from molkit.edm.schedule import log_snr_table
from molkit.errors import InvalidInput
from molkit.geometry import random_rotations
from molkit.graphs import Graph, to_device
from molkit.molecule import PackedMolecules
from molkit.training.config import TrainConfig
from molkit.training.loop import TrainResult, make_fabric, train
from molkit.training.precision import use_bfloat16
from molkit.training.run_folder import stored_precision

RECIPES = Path(__file__).resolve().parents[2] / "data" / "recipes"


@dataclass(frozen=True, kw_only=True)
class DataChoice:
    """Which molecules a recipe trains on."""

    name: Literal["qm9", "drug_size", "geom_drugs"] = "qm9"
    split: Literal["train", "valid", "test"] = "train"
    source: Literal["packed", "full"] = "packed"  # of QM9
    labels: Literal["none", "predicted", "full"] = "none"  # of QM9's properties; predicted: where none is at hand
    labeller: str = "qm9_property_labeller"  # published weights that predict them
    hydrogens: bool = True  # False: heavy atoms alone, centred again
    split_by: Literal["molecule", "conformer"] = "molecule"  # of GEOM-Drugs; by conformer as in the paper, which leaks


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One YAML file: method, data, model and training, each read strictly."""

    data: DataChoice
    model: EdmConfig
    training: TrainConfig


def recipe_path(path: Path) -> Path:
    """The file itself, or the recipe of that name in data/recipes."""
    named = RECIPES / f"{path}.yaml"
    return named if not path.is_file() and named.is_file() else path


def read_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file, or of that name in data/recipes.

    Raises DataNotFound, or InvalidInput for an unknown method, section or key.
    """
    path = recipe_path(path)
    values = read_yaml(path)
    unknown = sorted(set(values) - {"method", "data", "model", "training"}, key=str)
    if unknown:
        raise InvalidInput(f"{path}: unknown section {unknown[0]!r}; known are method, data, model, training")
    if values.get("method") != "edm":
        raise InvalidInput(f"{path}: method must be edm, got {values.get('method')!r}")
    sections = {"data": DataChoice, "model": EdmConfig, "training": TrainConfig}
    return Recipe(
        **{name: from_dict(kind, values.get(name) or {}, source=f"{path}: {name}") for name, kind in sections.items()}
    )


def load_training_set(choice: DataChoice, *, limit: int | None = None) -> tuple[PackedMolecules, np.ndarray | None]:
    """The molecules of a recipe and, where it asks for labels, the six properties [N, 6] of `data.qm9_labels`.

    "predicted" takes true labels of the generator's part, and the labeller's for molecules without any.
    """
    if choice.labels == "none":
        return load_molecules(choice, limit=limit), None
    known = load_generator_molecules(source="full" if choice.labels == "full" else "packed")
    rows = np.arange(len(known.index)) if limit is None else np.arange(len(known.index))[:limit]
    molecules, labels = known.molecules.select(rows), known.labels[rows].copy()
    missing = np.isnan(labels).any(axis=1)
    if missing.any():
        labels[missing] = load_property(choice.labeller).predict(molecules.select(missing))
    return molecules, labels


def load_molecules(choice: DataChoice, *, limit: int | None = None) -> PackedMolecules:
    """The molecules that a recipe trains on. Raises what the loader of the data set raises."""
    if choice.name == "drug_size":
        molecules = load_drug_size(split=choice.split, limit=limit).molecules
    elif choice.name == "geom_drugs":
        molecules = load_geom_drugs(split=choice.split, split_by=choice.split_by, limit=limit)
    else:
        molecules = load_qm9(split=choice.split, limit=limit, source=choice.source)
    return molecules if choice.hydrogens else molecules.without_hydrogens()


class EdmTask:
    """Training molecules on one device, and the loss of any rows of them.

    Raises InvalidInput for an element the model cannot place.
    """

    planner: Planner | None = None  # of a network on size buckets, which needs sizes on the host and no edges

    def __init__(
        self,
        config: EdmConfig,
        molecules: PackedMolecules,
        training: TrainConfig,
        device: torch.device | str = "cpu",
        labels: np.ndarray | None = None,
    ) -> None:
        """labels [N, K]: the properties of config.context_names in their units. Raises InvalidInput without them."""
        if config.context_names and (labels is None or labels.shape != (len(molecules), len(config.context_names))):
            raise InvalidInput(f"this model needs a label of each molecule for {', '.join(config.context_names)}")
        self.labels = None if labels is None or not config.context_names else torch.from_numpy(labels)
        self.config, self.training = config, training
        self.table = log_snr_table(config).to(device)
        self.num_atoms = torch.from_numpy(molecules.num_atoms)
        self.ptr = torch.from_numpy(molecules.ptr)
        atomic_numbers = torch.from_numpy(molecules.atomic_numbers).to(device)
        self.clean = encode(config, atomic_numbers, torch.from_numpy(molecules.positions).float().to(device))
        self.device = torch.device(device)

    def graph(self, num_atoms: Tensor) -> Graph:
        """Molecules of the given sizes on the device."""
        if self.planner is None:
            return Graph.from_sizes(num_atoms).to(self.device)
        graph = Graph.without_edges(num_atoms, self.device)
        self.planner.announce(graph.batch, num_atoms)
        return graph

    def batch(self, rows: Tensor) -> tuple[State, Graph]:
        """Centred, scaled molecules of the given rows, and their graph."""
        graph = self.graph(self.num_atoms[rows])
        first = to_device(self.ptr[rows], self.device) - (graph.num_atoms.cumsum(0) - graph.num_atoms)
        atoms = torch.arange(len(graph.batch), device=self.device) + first[graph.batch]
        return State(graph.centre(self.clean.positions[atoms]), self.clean.features[atoms]), graph

    def context(self, rows: Tensor, graph: Graph, *, generator: torch.Generator) -> Tensor | None:
        """Normalised properties and flags of these rows, drawn anew at each step, one row an atom; None without."""
        if self.labels is None:
            return None
        values = self.labels[rows].to(self.device)
        flags = draw_flags(len(rows), values.shape[1], generator=generator).to(self.device)
        return context_of(self.config, torch.where(flags, values, float("nan")))[graph.batch]

    def loss(self, network: nn.Module, rows: Tensor, *, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of the molecules in these rows, and the mean squared error of noise."""
        clean, graph = self.batch(rows)
        if self.training.random_rotations:
            clean = turned(clean, graph, random_rotations(graph.num_molecules, generator=generator))
        terms = simple_loss(
            network,
            self.config,
            self.table,
            clean,
            graph,
            generator=generator,
            weighting=self.training.weighting,
            stratified=self.training.stratified_steps,
            noise_weighting=self.training.noise_weighting,
            step_power=self.training.step_power,
            levels=self.training.noise_levels,
            context=self.context(rows, graph, generator=generator),
        )
        return terms.loss, {"noise_error": terms.noise_error}

    def save_weights(self, folder: Path, network: nn.Module) -> None:
        """Averaged weights and configuration, as `edm.model.load` reads them."""
        save(Edm(self.config, network, self.table), folder)


def turned(state: State, graph: Graph, rotations: Tensor) -> State:
    """Each molecule's positions turned by its rotation, [B, 3, 3]; features stay."""
    own = rotations.to(state.positions)[graph.batch]
    return State(torch.einsum("aij,aj->ai", own, state.positions), state.features)


NEW_COLUMNS = 0.3  # at the spread of the trained columns a preconditioned network overflows, near zero they stay there
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
    """A copy of `onto` with the tensor in its upper left corner; new columns spread NEW_COLUMNS as far as the old."""
    out = onto.clone()
    if tensor.dim() == 2 and tensor.shape[1] < onto.shape[1]:
        out *= NEW_COLUMNS * tensor.std() / onto.std()
    out[tuple(slice(size) for size in tensor.shape)] = tensor
    return out


def take_weights(network: EdmNetwork, config: EdmConfig, source: str) -> int:
    """Copy the weights of published weights or a run into the network; returns the molecule passes they had seen.

    A model that takes conditions may begin with one that takes none: its new columns begin random, so that it
    computes the same where nothing is asked, and is disturbed a little at first where something is.

    Raises DataNotFound, or InvalidInput when they belong to another model.
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
