"""At which noise level molecules are lost (page `noise_levels`)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from molkit.data.qm9 import load_qm9
from molkit.edm.config import EdmConfig
from molkit.edm.diffusion import LEVEL_MEAN, LEVEL_SPREAD, add_noise, draw_noise
from molkit.edm.features import encode
from molkit.edm.model import Edm, load
from molkit.edm.samplers import sampler_named
from molkit.edm.sampling import Plan, make_plan, run_batches
from molkit.edm.schedule import log_snr_table
from molkit.experiments.experiment import Comparison, asked
from molkit.figures import style
from molkit.graphs import Graph
from molkit.metrics.stability import stability
from molkit.metrics.statistics import proportion_interval
from molkit.molecule import PackedMolecules
from molkit.rng import generator_from
from molkit.training.weights import weight_files

CHUNK = 50  # molecules of one task
AUDIT = Comparison(alike={"stable": 0.25, "odd": 0.25}, by=("sampler", "level"))
COLOURS = (style.BLUE, style.VERMILION, style.GREEN, style.PURPLE)


@dataclass(frozen=True)
class Task:
    """Stable test molecules chunk * CHUNK ... of a spread of them, noised to a level and denoised by a sampler."""

    weights: str
    sampler: str
    level: float  # sigma / alpha, angstrom
    num_calls: int  # of the whole chain, whose steps below the level are taken
    first: int  # row of the first molecule
    count: int
    total: int  # molecules of the whole spread
    seed: int

    @property
    def files(self) -> list[Path]:
        """The weights."""
        return weight_files(self.weights)


@asked
def tasks(
    *,
    weights: str = "edm_qm9",
    samplers: Sequence[str] = ("sde-2m", "sde-2m-extra"),
    levels: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.45, 0.65, 1.0, 1.7),
    num_molecules: int = 250,
    num_calls: int = 100,
    seed: int = 0,
) -> list[Task]:
    """All levels with all samplers, in chunks; every sampler and level sees the same molecules."""
    return [
        Task(weights, sampler, level, num_calls, first, min(CHUNK, num_molecules - first), num_molecules, seed)
        for sampler in samplers
        for level in levels
        for first in range(0, num_molecules, CHUNK)
    ]


def measure(task: Task) -> list[dict]:
    """One row a molecule: whether it is stable again, has an odd number of electrons, keeps its elements."""
    molecules = stable_molecules(task.total).select(np.arange(task.first, task.first + task.count))
    made = denoised(load(task.weights), molecules, task)
    kept = stability(made).molecule_stable
    return [
        {
            "molecule": task.first + row,
            "stable": bool(kept[row]),
            "odd": bool(made[row].atomic_numbers.sum() % 2),
            "same_elements": sorted(made[row].atomic_numbers) == sorted(molecules[row].atomic_numbers),
        }
        for row in range(task.count)
    ]


def stable_molecules(count: int) -> PackedMolecules:
    """The first `count` stable ones of twice as many molecules spread evenly over QM9's test split."""
    molecules = load_qm9(split="test", limit=2 * count)
    return molecules.select(np.flatnonzero(stability(molecules).molecule_stable)[:count])


def denoised(edm: Edm, molecules: PackedMolecules, task: Task) -> PackedMolecules:
    """The molecules noised to the level of the task, and led back along the steps of the sampler's whole chain."""
    step = nearest_step(edm.log_snr, task.level)
    generator = generator_from("noise level", task.seed, task.first, step)
    sizes = torch.from_numpy(molecules.num_atoms)
    graph = Graph.from_sizes(sizes)
    positions = graph.centre(torch.from_numpy(molecules.positions).float())
    clean = encode(edm.config, torch.from_numpy(molecules.atomic_numbers), positions)
    noise = draw_noise(graph, edm.config.num_features, generator=generator)
    noisy = add_noise(clean, noise, edm.log_snr[step].expand(len(graph.batch), 1))
    plan = shortened(make_plan(edm, sampler_named(task.sampler), task.num_calls), step)
    with torch.no_grad():
        return run_batches(edm, noisy, sizes, plan, generator, None, None, False).molecules


def nearest_step(log_snr: torch.Tensor, level: float) -> int:
    """The step whose sigma / alpha is nearest to a level, by ratio."""
    return int((-0.5 * log_snr - np.log(level)).abs().argmin())


def shortened(plan: Plan, start: int) -> Plan:
    """The part of a plan below a step, entered at that step."""
    return replace(plan, steps=[start, *(step for step in plan.steps if step < start)], blind_start=False)


def shares(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Share of rows with the property, with its interval, for each sampler and level."""
    found = rows.groupby(["sampler", "level"], sort=False)[column].agg(["sum", "count"]).reset_index()
    found[column] = [
        proportion_interval(int(hits), int(count)) for hits, count in zip(found["sum"], found["count"], strict=True)
    ]
    return found[["sampler", "level", column]]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """The shares of stable molecules, odd electron counts and kept elements, side by side."""
    first, *others = (shares(rows, column) for column in ("stable", "odd", "same_elements"))
    for other in others:
        first = first.merge(other, on=["sampler", "level"], sort=False)
    return first


def draw_losses(rows: pd.DataFrame, *, caption: str) -> Figure:
    """Stable molecules and molecules with an odd number of electrons against the noise level."""
    with style.panels(2, width=9.0, caption=caption) as (figure, axes):
        for axis, column, title in zip(
            axes, ("stable", "odd"), ("stable molecules", "odd electron counts"), strict=True
        ):
            for (sampler, group), colour in zip(
                shares(rows, column).groupby("sampler", sort=False), COLOURS, strict=False
            ):
                values = 100 * np.array([[one.value, one.low, one.high] for one in group[column]])
                errors = np.abs(values[:, 1:] - values[:, :1]).T
                axis.errorbar(group["level"], values[:, 0], errors, color=colour, marker="o", capsize=3, label=sampler)
            axis.set(xscale="log", xlabel="noise added to the molecule, σ/α (Å)", ylabel=f"{title} (%)", ylim=(0, 100))
            levels = sorted(rows["level"].unique())
            axis.set_xticks(levels, [f"{level:g}" for level in levels])
            axis.minorticks_off()
        style.legend_above(axes[0])
    return figure


def draw_training_levels(config: EdmConfig, *, caption: str) -> Figure:
    """How often training visits a noise level: uniform steps of the schedule, and normal logarithms."""
    levels = -0.5 * log_snr_table(config).numpy()
    centres = 0.5 * (levels[1:] + levels[:-1])
    uniform = 1.0 / (len(levels) - 1) / np.diff(levels)
    normal = np.exp(-0.5 * ((centres - LEVEL_MEAN) / LEVEL_SPREAD) ** 2) / (LEVEL_SPREAD * np.sqrt(2.0 * np.pi))
    with style.panels(1, width=7.0, caption=caption) as (figure, (axis,)):
        axis.plot(np.exp(centres), uniform, color=style.BLUE, label="uniform steps (the paper)")
        axis.plot(np.exp(centres), normal, color=style.VERMILION, label="normal in ln(σ/α)")
        axis.axvspan(0.1, 0.5, color=style.YELLOW, alpha=0.3, lw=0, label="where hydrogens are lost")
        axis.set(xscale="log", xlabel="σ/α (Å)", ylabel="draws per unit of ln(σ/α)", ylim=(0, None))
        style.legend_above(axis, 3)
    return figure
