"""Train the ETM energy: a pool of flow samples for the training molecules, then noise-contrastive estimation."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from molkit.cgcf.conformer_set import Batcher, ConformerSet
from molkit.cgcf.conformers import draw_distances
from molkit.cgcf.datasets import ConformerChoice, load_conformers
from molkit.cgcf.embedding import embed
from molkit.cgcf.energy import EnergyConfig, EnergyNetwork, nce_loss
from molkit.cgcf.graph import collate
from molkit.cgcf.model import Cgcf, load_flow
from molkit.cgcf.training import keep_recipe
from molkit.config import from_dict, read_yaml, to_dict
from molkit.data.packed import write_arrays
from molkit.data.registry import load_arrays
from molkit.errors import InvalidInput
from molkit.rng import generator_from
from molkit.training.config import TrainConfig
from molkit.training.files import write_yaml
from molkit.training.loop import TrainResult, make_fabric, train
from molkit.training.weights import read_weights, resolve, write_weights

METHOD = "etm"
POOL = "pool.npz"
PART = 50  # molecules of a pool that are made between two looks at the clock


@dataclass(frozen=True, kw_only=True)
class EnergyRecipe:
    """One YAML file: conformers, the flow to tilt, samples a molecule, model and training."""

    data: ConformerChoice
    flow: str
    model: EnergyConfig
    training: TrainConfig
    pool: int = 10  # flow samples of every training molecule


class EnergyTask:
    """Training conformers, one flow sample of the same molecule for each, and the loss that tells them apart."""

    def __init__(self, data: ConformerSet, drawn: ConformerSet, config: EnergyConfig) -> None:
        """drawn: samples of the same molecules in the same order. Raises InvalidInput where a molecule has none."""
        self.real, self.drawn, self.config = Batcher(data), Batcher(drawn), config
        self.num_atoms = data.num_atoms
        self.counts = torch.bincount(drawn.owner, minlength=len(data.graphs))
        self.first = self.counts.cumsum(0) - self.counts
        if bool((self.counts == 0).any()):
            raise InvalidInput("every training molecule needs at least one flow sample in the pool")

    def loss(
        self, network: torch.nn.Module, rows: Tensor, *, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Noise-contrastive loss of these conformers against samples drawn anew from the pool at each step."""
        owner = self.real.data.owner[rows]
        chosen = (torch.rand(len(rows), generator=generator) * self.counts[owner]).long()
        against = self.first[owner] + chosen
        graph = self.real.graph(rows)
        real = network(graph, self.real.positions(rows))
        drawn = network(graph, self.drawn.positions(against))
        right = 0.5 * ((real < 0).float().mean() + (drawn > 0).float().mean())
        return nce_loss(real, drawn), {"told_apart": right.detach()}

    def save_weights(self, folder: Path, network: EnergyNetwork) -> None:
        """Averaged weights and configuration, as `load_energy` reads them."""
        save_energy(network, self.config, folder)


def save_energy(network: EnergyNetwork, config: EnergyConfig, folder: Path) -> None:
    """Write config.yaml and weights.safetensors into a folder."""
    write_weights(folder / "weights.safetensors", network.state_dict())
    write_yaml(folder / "config.yaml", {"method": METHOD, **to_dict(config)})


def load_energy(path_or_name: str | Path) -> EnergyNetwork:
    """The energy in a run folder or published under that name, float32, in evaluation mode.

    Raises DataNotFound, or InvalidInput for weights of another method.
    """
    folder = resolve(path_or_name)
    values = read_yaml(folder / "config.yaml")
    if (method := values.pop("method", "edm")) != METHOD:
        raise InvalidInput(f"{folder}: these weights belong to method {method}; name weights of method {METHOD}")
    network = EnergyNetwork(from_dict(EnergyConfig, values, source=str(folder / "config.yaml")))
    network.load_state_dict(read_weights(folder / "weights.safetensors", network.state_dict()))
    return network.eval().requires_grad_(False)


def read_energy_recipe(path: Path) -> EnergyRecipe:
    """The recipe in a YAML file. Raises DataNotFound, or InvalidInput for an unknown section or key."""
    values = read_yaml(path)
    unknown = sorted(set(values) - {"method", "flow", "pool", "data", "model", "training"})
    if unknown or not isinstance(values.get("flow"), str):
        what = f"unknown section {unknown[0]!r}" if unknown else "`flow` must name a flow"
        raise InvalidInput(f"{path}: {what}; known are method, flow, pool, data, model, training")
    sections = {"data": ConformerChoice, "model": EnergyConfig, "training": TrainConfig}
    read = {name: from_dict(kind, values.get(name) or {}, source=f"{path}: {name}") for name, kind in sections.items()}
    pool = values.get("pool", 10)
    if not isinstance(pool, int) or pool < 1:
        raise InvalidInput(f"{path}: pool must be a number of samples, at least 1, got {pool!r}")
    return EnergyRecipe(flow=values["flow"], pool=pool, **read)


def draw_pool(model: Cgcf, data: ConformerSet, per_molecule: int, *, seed: int, folder: Path) -> ConformerSet:
    """`per_molecule` converged flow samples of every molecule of the set, kept in parts in the folder.

    Parts that are there are read, so that an interrupted pool continues.
    """
    ensembles: list[np.ndarray] = []
    for first in range(0, len(data.graphs), PART):
        graphs = data.graphs[first : first + PART]
        path = folder / f"{first:06d}_{POOL}"
        if path.is_file():
            flat = load_arrays(path)["positions"].astype(np.float32)
        else:
            drawn = [_samples(model, graph, per_molecule, seed, first + k) for k, graph in enumerate(graphs)]
            flat = np.concatenate([one.reshape(-1, 3) for one in drawn]).astype(np.float32)
            folder.mkdir(parents=True, exist_ok=True)
            write_arrays(path, {"positions": flat})
        ends = np.cumsum([per_molecule * graph.num_atoms for graph in graphs])
        parts = np.split(flat, ends[:-1])
        ensembles += [part.reshape(per_molecule, graph.num_atoms, 3) for part, graph in zip(parts, graphs, strict=True)]
    return ConformerSet.of(data.graphs, ensembles)


def _samples(model: Cgcf, graph: object, count: int, seed: int, number: int) -> np.ndarray:
    generator = generator_from("pool", seed, number)
    batch = collate([graph])
    distances = draw_distances(model.flow, batch, count, generator=generator)
    return embed(batch, distances, generator=generator).positions.numpy()


def train_energy(
    path: Path,
    *,
    out: Path,
    time_budget: float | None = None,
    total_steps: int | None = None,
    resume: bool = False,
    limit: int | None = None,
    progress_bar: bool = True,
) -> TrainResult:
    """Train, or continue, the energy of a recipe; the pool is made first, in the run folder, inside the budget.

    Raises what the recipe, the flow, the data and the training loop raise.
    """
    started = time.monotonic()
    recipe = read_energy_recipe(path)
    config = replace(recipe.model, flow=recipe.flow)
    data, model = load_conformers(recipe.data, limit=limit), load_flow(recipe.flow)
    drawn = draw_pool(model, data, recipe.pool, seed=recipe.training.seed, folder=out / "pool")
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(recipe.training.seed)
        network = EnergyNetwork(config)
    keep_recipe(path, out)
    return train(
        EnergyTask(data, drawn, config),
        network,
        recipe.training,
        out=out,
        fabric=make_fabric("cpu"),
        time_budget=None if time_budget is None else max(0.01, time_budget - (time.monotonic() - started)),
        resume=resume,
        total_steps=total_steps,
        started_from=None,
        progress_bar=progress_bar,
    )
