"""Train the ETM energy: a pool of flow samples for the training molecules, then noise-contrastive estimation.

Without a bridge this is the paper's objective. With one, each part of the energy tells neighbours on the bridge apart.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from molkit.cgcf.bridge import bridge
from molkit.cgcf.conformer_set import Batcher, ConformerSet
from molkit.cgcf.datasets import ConformerChoice, load_conformers
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
MISFIT_WEIGHT = 10.0  # 1 / angstrom, of the springs' misfit beside the noise-contrastive loss
PART = 50  # molecules of a pool that are made between two looks at the clock


@dataclass(frozen=True, kw_only=True)
class EnergyRecipe:
    """One YAML file: conformers, the flow to tilt, samples a molecule, model and training."""

    data: ConformerChoice
    flow: str
    model: EnergyConfig
    training: TrainConfig
    pool: int = 10  # flow samples of every training molecule, and of every level of the bridge
    bridge: tuple[float, ...] = ()  # shares of noise of the levels between data and flow


class EnergyTask:
    """Training conformers, samples of the same molecules at each level, and the loss that tells neighbours apart."""

    def __init__(self, data: ConformerSet, levels: Sequence[ConformerSet], config: EnergyConfig) -> None:
        """levels: samples of the same molecules in the same order, the flow's last.

        Raises InvalidInput where a molecule has none, or for another number of levels than the energy has parts.
        """
        self.levels, self.config = [Batcher(one) for one in (data, *levels)], config
        if len(levels) != config.num_levels:
            raise InvalidInput(f"an energy of {config.num_levels} parts needs as many levels, got {len(levels)}")
        self.num_atoms = data.num_atoms
        self.counts = [torch.bincount(one.data.owner, minlength=len(data.graphs)) for one in self.levels]
        self.first = [counts.cumsum(0) - counts for counts in self.counts]
        if any(bool((counts == 0).any()) for counts in self.counts):
            raise InvalidInput("every training molecule needs at least one flow sample in the pool")

    def loss(
        self, network: torch.nn.Module, rows: Tensor, *, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Noise-contrastive loss of these conformers and of samples drawn anew from the pool at each step.

        The sum over the levels, divided by their number: 2 ln 2 before training. An energy with springs also learns
        their lengths from the data.
        """
        owner = self.levels[0].data.owner[rows]
        graph = self.levels[0].graph(rows)
        inner = getattr(network, "module", network)
        springs = inner.springs(graph)
        found = [inner.parts(graph, self.levels[0].positions(rows), springs=springs)]
        for level, counts, first in zip(self.levels[1:], self.counts[1:], self.first[1:], strict=True):
            chosen = first[owner] + (torch.rand(len(rows), generator=generator) * counts[owner]).long()
            found.append(inner.parts(graph, level.positions(chosen), springs=springs))
        real = torch.stack([parts[:, k] for k, parts in enumerate(found[:-1])])
        drawn = torch.stack([parts[:, k] for k, parts in enumerate(found[1:])])
        right = 0.5 * ((real < 0).float() + (drawn > 0).float()).mean(-1)
        terms = {f"told_apart_{k}": share.detach() for k, share in enumerate(right)}
        loss = nce_loss(real, drawn)
        if springs is not None:
            misfit = springs.misfit(self.levels[0].positions(rows))
            loss, terms["misfit"] = loss + MISFIT_WEIGHT * misfit, misfit.detach()
        return loss, terms

    def save_weights(self, folder: Path, network: EnergyNetwork) -> None:
        """Averaged weights and configuration, as `load_energy` reads them."""
        save_energy(network, self.config, folder)


def save_energy(network: EnergyNetwork, config: EnergyConfig, folder: Path) -> None:
    """Write config.yaml and weights.safetensors into a folder."""
    write_weights(folder / "weights.safetensors", network.state_dict())
    write_yaml(folder / "config.yaml", {"method": METHOD, **to_dict(config)})


def load_energy(path_or_name: str | Path, *, flow: str | Path | None = None) -> EnergyNetwork:
    """The energy in a run folder or published under that name, float32, in evaluation mode.

    flow: the one that it shall tilt. Raises DataNotFound, or InvalidInput for weights of another method, or of an
    energy that learned on samples of another flow.
    """
    folder = resolve(path_or_name)
    values = read_yaml(folder / "config.yaml")
    if (method := values.pop("method", "edm")) != METHOD:
        raise InvalidInput(f"{folder}: these weights belong to method {method}; name weights of method {METHOD}")
    network = EnergyNetwork(from_dict(EnergyConfig, values, source=str(folder / "config.yaml")))
    if flow is not None and (own := Path(network.config.flow).name) != (asked := resolve(flow).resolve().name):
        raise InvalidInput(f"{path_or_name} tilts {own or 'an unnamed flow'}, not {asked}; name one that tilts it")
    network.load_state_dict(read_weights(folder / "weights.safetensors", network.state_dict()))
    return network.eval().requires_grad_(False)


def read_energy_recipe(path: Path) -> EnergyRecipe:
    """The recipe in a YAML file. Raises DataNotFound, or InvalidInput for an unknown section or key."""
    values = read_yaml(path)
    unknown = sorted(set(values) - {"method", "flow", "pool", "bridge", "data", "model", "training"}, key=str)
    if unknown or not isinstance(values.get("flow"), str):
        what = f"unknown section {unknown[0]!r}" if unknown else "`flow` must name a flow"
        raise InvalidInput(f"{path}: {what}; known are method, flow, pool, bridge, data, model, training")
    sections = {"data": ConformerChoice, "model": EnergyConfig, "training": TrainConfig}
    read = {name: from_dict(kind, values.get(name) or {}, source=f"{path}: {name}") for name, kind in sections.items()}
    pool = values.get("pool", 10)
    if not isinstance(pool, int) or pool < 1:
        raise InvalidInput(f"{path}: pool must be a number of samples, at least 1, got {pool!r}")
    shares = values.get("bridge") or []
    if not isinstance(shares, list) or any(not isinstance(x, float) or not 0.0 < x < 1.0 for x in shares):
        raise InvalidInput(f"{path}: bridge must be a list of shares of noise between 0 and 1, got {shares!r}")
    if sorted(set(shares)) != shares:
        raise InvalidInput(f"{path}: the shares of a bridge must rise, got {shares!r}")
    return EnergyRecipe(flow=values["flow"], pool=pool, bridge=tuple(shares), **read)


def draw_pool(
    model: Cgcf, data: ConformerSet, per_molecule: int, *, seed: int, folder: Path, shares: Sequence[float] = ()
) -> list[ConformerSet]:
    """`per_molecule` converged samples of every molecule at each level of the bridge and by the flow itself.

    Data conformers of a molecule take turns as starts of the bridge. Kept in parts in the folder; parts that are there
    are read, so that an interrupted pool continues.
    """
    levels: list[list[np.ndarray]] = [[] for _ in range(len(shares) + 1)]
    for first in range(0, len(data.graphs), PART):
        numbers = range(first, min(first + PART, len(data.graphs)))
        path = folder / f"{first:06d}_{POOL}"
        if not path.is_file():
            flat = [_samples(model, data, number, per_molecule, seed, shares).reshape(-1, 3) for number in numbers]
            folder.mkdir(parents=True, exist_ok=True)
            write_arrays(path, {"positions": np.concatenate(flat).astype(np.float32)})
        _put(
            levels, load_arrays(path)["positions"], [data.graphs[number].num_atoms for number in numbers], per_molecule
        )
    return [ConformerSet.of(data.graphs, one) for one in levels]


def _samples(
    model: Cgcf, data: ConformerSet, number: int, count: int, seed: int, shares: Sequence[float]
) -> np.ndarray:
    """Samples [count, levels, A, 3] of one molecule of the set."""
    rows = torch.nonzero(data.owner == number).flatten()
    positions = Batcher(data).positions(rows[torch.arange(count) % len(rows)]).reshape(count, -1, 3)
    graph, generator = collate([data.graphs[number]]), generator_from("pool", seed, number)
    return bridge(model, graph, positions, shares, generator=generator).numpy()


def _put(levels: list[list[np.ndarray]], flat: np.ndarray, sizes: Sequence[int], count: int) -> None:
    """Append the samples of molecules of these sizes, stored back to back, to the lists of their levels."""
    ends = np.cumsum([count * len(levels) * size for size in sizes])[:-1]
    for part, size in zip(np.split(flat, ends), sizes, strict=True):
        for level, own in zip(levels, np.moveaxis(part.reshape(count, len(levels), size, 3), 1, 0), strict=True):
            level.append(own)


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
    config = replace(recipe.model, flow=recipe.flow, num_levels=len(recipe.bridge) + 1)
    data, model = load_conformers(recipe.data, limit=limit), load_flow(recipe.flow)
    seed = recipe.training.seed
    levels = draw_pool(model, data, recipe.pool, seed=seed, folder=out / "pool", shares=recipe.bridge)
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        network = EnergyNetwork(config)
    keep_recipe(path, out)
    return train(
        EnergyTask(data, levels, config),
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
