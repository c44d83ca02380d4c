"""The bound on -log p of test molecules, taken apart: its terms, where along the chain it is paid, what is constant."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from molkit.claims.ledger import Measurement
from molkit.claims.record import record
from molkit.data.qm9 import load_qm9
from molkit.data.registry import data_path
from molkit.edm.config import EdmConfig
from molkit.edm.diffusion import HALF_LOG_TWO_PI
from molkit.edm.features import encode
from molkit.edm.likelihood import BoundTerms, bound, diffusion_term, log_prob_size
from molkit.edm.model import load
from molkit.edm.published import training_facts
from molkit.edm.schedule import log_snr_table, step_weight
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column
from molkit.figures import style
from molkit.graphs import Graph
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.rng import generator_from
from molkit.training.weights import weight_files

PART = 250  # molecules of one task
TERMS = {
    "size": "number of atoms, −log p(M)",
    "prior": "prior, KL at t = T",
    "diffusion": "diffusion, sum of L_t over t = 1..T",
    "positions": "reconstruction of positions at t = 0",
    "types": "reconstruction of elements at t = 0",
    "atomic_number": "reconstruction of atomic numbers at t = 0",
    "volume": "volume of the scaling",
    "total": "bound on −log p(x, h, M)",
}
TABLE = {"term": "term", "nats": Column("nats per molecule", 2)}
AUDIT = Comparison(alike={"total": 10.0}, by=("weights",))
AUDIT_steps = Comparison(alike={"weighted": 1.0}, by=("weights", "step"))


@dataclass(frozen=True)
class Task:
    """Molecules `first` to `first + count` of `spread` ones spread evenly over QM9's test split."""

    weights: str
    first: int
    count: int
    spread: int
    draws: int  # random steps t for each molecule
    seed: int

    @property
    def files(self) -> list[Path]:
        """Weights and data."""
        return [*weight_files(self.weights), data_path("qm9.npz")]


@asked
def tasks(*, weights: str = "edm_qm9", num_molecules: int = 0, draws: int = 1, seed: int = 0) -> list[Task]:
    """The bound of so many test molecules (0: all), in parts of 250."""
    total = len(load_qm9(split="test", limit=num_molecules or None))
    parts = range(0, total, PART)
    return [Task(weights, first, min(PART, total - first), total, draws, seed) for first in parts]


def measure(task: Task) -> list[dict]:
    """A row a molecule: the terms of the bound and their sum, in nats. Raises what loading the weights raises."""
    molecules = load_qm9(split="test", limit=task.spread).select(np.arange(task.first, task.first + task.count))
    generator = generator_from("bound", task.seed, task.first)
    terms = bound(load(task.weights), molecules, generator=generator, draws=task.draws)
    columns = {field.name: getattr(terms, field.name).tolist() for field in fields(BoundTerms)}
    columns |= {"total": terms.total.tolist(), "num_atoms": molecules.num_atoms.tolist()}
    return [{name: round(values[row], 4) for name, values in columns.items()} for row in range(task.count)]


@dataclass(frozen=True)
class StepTask:
    """The first molecules of a spread over the test split at one step of the chain."""

    weights: str
    step: int
    count: int
    seed: int

    @property
    def files(self) -> list[Path]:
        """Weights and data."""
        return [*weight_files(self.weights), data_path("qm9.npz")]


@asked
def tasks_steps(
    *, weights: str = "edm_qm9", num_steps: int = 24, num_molecules: int = 200, seed: int = 0
) -> list[StepTask]:
    """Steps spread evenly in log t over 1..T, the same molecules at each."""
    last = load(weights, fast=False).config.num_steps
    steps = np.unique(np.round(np.geomspace(1, last, num_steps)).astype(int))
    return [StepTask(weights, int(step), num_molecules, seed) for step in steps]


@torch.no_grad()
def measure_steps(task: StepTask) -> list[dict]:
    """A row a molecule: its term L_t (nats), and the plain squared error of the noise for each component of it."""
    edm, molecules = load(task.weights), load_qm9(split="test", limit=task.count)
    graph = Graph.from_sizes(torch.from_numpy(molecules.num_atoms))
    positions = graph.centre(torch.from_numpy(molecules.positions).float())
    clean = encode(edm.config, torch.from_numpy(molecules.atomic_numbers), positions)
    steps = torch.full((len(molecules),), task.step)
    generator = generator_from("step", task.seed, task.step)
    terms = diffusion_term(edm, clean, graph, steps=steps, generator=generator).numpy()
    weight = float(step_weight(edm.log_snr)[task.step - 1])
    errors = terms / (0.5 * weight * (3 + edm.config.num_features) * molecules.num_atoms)
    return [{"weight": weight, "weighted": float(a), "error": float(b)} for a, b in zip(terms, errors, strict=True)]


@dataclass(frozen=True)
class EntropyTask:
    """The histogram of sizes that the paper's configuration holds."""

    num_steps: int = EdmConfig().num_steps


@asked
def tasks_entropy() -> list[EntropyTask]:
    """One task."""
    return [EntropyTask()]


def measure_entropy(task: EntropyTask) -> list[dict]:
    """Entropy of the histogram in nats: the floor of a training loss that adds −log p(M); and its molecules."""
    config = EdmConfig(num_steps=task.num_steps)
    sizes = torch.tensor([size for size, _ in config.sizes])
    counts = torch.tensor([float(count) for _, count in config.sizes], dtype=torch.float64)
    entropy = float(-(counts / counts.sum() * log_prob_size(config, sizes)).sum())
    return [{"entropy": entropy, "molecules": int(counts.sum())}]


def terms(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean of every term in nats, with a bootstrap interval over molecules; the last one is their sum."""
    return pd.DataFrame([{"term": TERMS[name], "nats": bootstrap_interval(rows[name].to_numpy())} for name in TERMS])


def draw_terms(found: pd.DataFrame, *, caption: str) -> Figure:
    """A waterfall: every term begins where the sum of those above it ends; the last bar is the sum."""
    values = np.array([one.value for one in found["nats"]])
    starts, places = np.append(np.cumsum(values[:-1]) - values[:-1], 0.0), np.arange(len(values))
    colours = [*np.where(values[:-1] > 0, style.ORANGE, style.BLUE), style.BLACK]
    with style.panels(width=7.6, height=3.4, caption=caption) as (figure, (axis,)):
        axis.barh(places, values, left=starts, color=colours, height=0.7)
        for place, value in zip(places, values, strict=True):
            told = f"{value:+.1f}".replace("-", "\u2212")
            axis.text(1.01, place, told, transform=axis.get_yaxis_transform(), va="center", fontsize=9)
        axis.axvline(0.0, color="#767676", lw=1.0)
        axis.set_yticks(places, found["term"])
        axis.invert_yaxis()
        axis.set(xlabel="nats per molecule, added from the top")
    return figure


def record_bound(rows: pd.DataFrame, found: Interval, *, weights: str) -> Measurement:
    """Record the bound of the paper's model."""
    draws, seed = int(rows["draws"].iloc[0]), int(rows["seed"].iloc[0])
    return record(
        "edm.qm9.edm.nll",
        found,
        rows,
        n=len(rows),
        basis="trained_here",
        interval_kind="bootstrap over molecules, 95 %",
        weights=weights,
        training_passes=training_facts(weights).passes,
        seeds=(seed,),
        notes=f"{draws} drawn step{'s' if draws > 1 else ''} t a molecule",
    )


def positions_constant(num_atoms: np.ndarray | Sequence[int]) -> np.ndarray:
    """The part of −log p(x | z_0) that no network changes: d(M) (log(sigma_0 / alpha_0) + log(2 pi) / 2), in nats."""
    first = float(log_snr_table(EdmConfig())[0])
    return 3.0 * (np.asarray(num_atoms) - 1) * (-0.5 * first + HALF_LOG_TWO_PI)


def draw_steps(rows: pd.DataFrame) -> Figure:
    """Where along the chain the bound is paid, and the plain error there."""
    found = rows.groupby("step")[["weighted", "error", "weight"]].agg(["mean", "sem", "size"])
    weighted, error = found["weighted"], found["error"]
    caption = f"{weighted['size'].max():,} test molecules behind every point; bars: 1.96 standard errors over them."
    with style.panels(2, width=8.4, height=3.0, caption=caption) as (figure, (left, right)):
        left.errorbar(found.index, weighted["mean"], 1.96 * weighted["sem"], color=style.BLUE, marker="o", ms=3.5)
        left.set(xscale="log", xlabel="step t", ylabel="L_t (nats per molecule)")
        right.plot(error["mean"], color=style.GREEN, marker="o", ms=3.5, label="squared error per component")
        right.plot(found["weight"]["mean"], color=style.PURPLE, ls="--", label="weight w_t")
        right.set(xscale="log", yscale="log", xlabel="step t", ylabel="dimensionless")
        style.legend_above(right)
    return figure


def draw_sizes(rows: pd.DataFrame) -> Figure:
    """The bound against the number of atoms, and the part of it that no network changes."""
    sizes, totals = rows["num_atoms"], rows["total"]
    grid = np.arange(sizes.min(), sizes.max() + 1)
    low, high = np.percentile(totals, [0.5, 99.0])
    caption = f"{len(rows):,} test molecules, steps drawn for each: {rows['draws'].iloc[0]}."
    with style.panels(width=6.6, height=3.2, caption=caption) as (figure, (axis,)):
        axis.scatter(sizes, totals, s=9, color=style.BLUE, alpha=0.45, label="test molecules", linewidths=0)
        label = "−4.84 · 3 (M − 1): constant part"
        axis.plot(grid, positions_constant(grid), color=style.PAPER_COLOUR, ls="--", label=label)
        bottom = min(low, positions_constant(grid[-1:])[0]) - 20
        axis.set(xlabel="number of atoms M", ylabel="bound on −log p (nats)", ylim=(bottom, high + 40))
        style.legend_above(axis)
    return figure
