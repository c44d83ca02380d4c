"""What the training loop needs of EDM: molecules as tensors, the simple loss, where weights go."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from molkit.config import from_dict, read_yaml, to_dict
from molkit.data.qm9 import load_qm9
from molkit.edm.compiled import compile_for
from molkit.edm.config import EdmConfig
from molkit.edm.dense import Planner
from molkit.edm.diffusion import simple_loss
from molkit.edm.engine import accelerate
from molkit.edm.features import State, encode
from molkit.edm.model import Edm, build, load, resolve, save
from molkit.edm.network import EdmNetwork
from molkit.edm.published import training_facts
from molkit.edm.schedule import log_snr_table
from molkit.errors import InvalidInput
from molkit.graphs import Graph, to_device
from molkit.molecule import PackedMolecules
from molkit.training.config import TrainConfig
from molkit.training.loop import TrainResult, make_fabric, train, use_bfloat16

RECIPES = Path(__file__).resolve().parents[2] / "data" / "recipes"


class EdmTask:
    """Training molecules on one device, and the loss of any rows of them.

    Raises InvalidInput for an element the model cannot place.
    """

    planner: Planner | None = None  # of a network on size buckets, which needs sizes on the host and no edges

    def __init__(
        self, config: EdmConfig, molecules: PackedMolecules, training: TrainConfig, device: torch.device | str = "cpu"
    ) -> None:
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

    def loss(self, network: nn.Module, rows: Tensor, *, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean simple loss of the molecules in these rows, and the mean squared noise error."""
        clean, graph = self.batch(rows)
        terms = simple_loss(
            network,
            self.config,
            self.table,
            clean,
            graph,
            generator=generator,
            weighting=self.training.weighting,
            stratified=self.training.stratified_steps,
        )
        return terms.loss, {"noise_error": terms.noise_error}

    def save_weights(self, folder: Path, network: nn.Module) -> None:
        """Averaged weights and configuration, as `edm.model.load` reads them."""
        save(Edm(self.config, network, self.table), folder)


@dataclass(frozen=True, kw_only=True)
class DataChoice:
    """Which molecules a recipe trains on."""

    name: Literal["qm9"] = "qm9"
    split: Literal["train", "valid", "test"] = "train"
    source: Literal["packed", "full"] = "packed"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One YAML file: method, data, model and training, each read strictly."""

    data: DataChoice
    model: EdmConfig
    training: TrainConfig


def read_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file, or of that name in data/recipes.

    Raises DataNotFound, or InvalidInput for an unknown method, section or key.
    """
    named = RECIPES / f"{path}.yaml"
    path = named if not path.is_file() and named.is_file() else path
    values = read_yaml(path)
    unknown = sorted(set(values) - {"method", "data", "model", "training"})
    if unknown:
        raise InvalidInput(f"{path}: unknown section {unknown[0]!r}; known are method, data, model, training")
    if values.get("method") != "edm":
        raise InvalidInput(f"{path}: method must be edm, got {values.get('method')!r}")
    sections = {"data": DataChoice, "model": EdmConfig, "training": TrainConfig}
    return Recipe(
        **{name: from_dict(kind, values.get(name) or {}, source=f"{path}: {name}") for name, kind in sections.items()}
    )


def engine_for(network: EdmNetwork, training: TrainConfig, device: torch.device) -> EdmNetwork:
    """The network, behind the engine that the recipe asks for: the fused kernel on CPUs, torch.compile on GPUs."""
    if training.engine == "compiled" or (training.engine == "auto" and device.type == "cuda"):
        return compile_for(
            network,
            device,
            precision="bfloat16" if use_bfloat16(training.precision, device) else "float32",
            widths=training.bucket_widths,
            molecules=training.batch_molecules,
            scope=training.compile_scope,
        )
    if device.type == "cpu" and training.engine in ("auto", "fused"):
        wants_bfloat16 = training.precision == "bfloat16" or (training.precision == "auto" and fused_bfloat16())
        return accelerate(network, precision="bfloat16" if wants_bfloat16 else "float32")
    return network


def fused_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 pairs; the kernel gains from that even without AMX."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


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
    time_budget: float | None = None,
    total_steps: int | None = None,
    resume: bool = False,
    limit: int | None = None,
    start_from: str | None = None,
    device: str = "auto",
    progress_bar: bool = True,
) -> TrainResult:
    """Train, or continue, the model of a recipe in the run folder `out`; the time budget includes loading the data.

    start_from begins a new run with published weights or those of another run, and a fresh optimiser.

    Raises what `read_recipe`, the data loader and the training loop raise.
    """
    started = time.monotonic()
    recipe = read_recipe(path)
    if resume:
        check_same_model(out, recipe.model)
    fabric = make_fabric(device)
    molecules = load_qm9(split=recipe.data.split, limit=limit, source=recipe.data.source)
    task = EdmTask(recipe.model, molecules, recipe.training, fabric.device)
    fresh = build(recipe.model, seed=recipe.training.seed).network
    earlier_passes = 0 if start_from is None else take_weights(fresh, recipe.model, start_from)
    network = engine_for(fresh, recipe.training, fabric.device)
    task.planner = getattr(network, "planner", None)
    return train(
        task,
        network,
        recipe.training,
        out=out,
        fabric=fabric,
        time_budget=None if time_budget is None else max(0.01, time_budget - (time.monotonic() - started)),
        resume=resume,
        total_steps=total_steps,
        started_from=start_from,
        earlier_passes=earlier_passes,
        progress_bar=progress_bar,
    )


def take_weights(network: EdmNetwork, config: EdmConfig, source: str) -> int:
    """Copy the weights of published weights or a run into the network; returns the molecule passes they had seen.

    Raises DataNotFound, or InvalidInput when they belong to another model.
    """
    folder = resolve(source)
    check_same_model(folder, config)
    network.load_state_dict(load(folder, fast=False).network.state_dict())
    return training_facts(folder).passes if (folder / "training.json").is_file() else 0
