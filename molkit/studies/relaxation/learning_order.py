"""What is learned when: alignment of a relaxation with forces and with the minimum, checkpoint by checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from molkit.chem.optimise import optimise
from molkit.chem.xtb import XtbEnergy
from molkit.claims.ledger import Measurement
from molkit.claims.record import record
from molkit.data.qm9 import load_qm9
from molkit.data.registry import data_root
from molkit.edm.model import build, load
from molkit.edm.published import training_facts
from molkit.errors import CalculationFailed, InvalidInput
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column, mean_with_interval
from molkit.figures.style import BLUE, VERMILION, panels
from molkit.molecule import Molecule
from molkit.relaxation.alignment import alignment
from molkit.relaxation.chains import relax_from
from molkit.relaxation.denoisers import Denoiser, ExactDenoiser, NetworkDenoiser
from molkit.relaxation.starts import REFERENCE, classical_starts
from molkit.rng import generator_from
from molkit.training.weights import weight_files

LAGS = (1, 10, 30)
START_STEP = 50
UNTRAINED, PERFECT = "untrained", "perfect model"
REFERENCES = {UNTRAINED: 0, PERFECT: None}  # molecules they were shown
CHECKPOINTS = ("edm_qm9_at_031k", "edm_qm9_at_075k", "edm_qm9_at_175k", "edm_qm9_at_377k", "edm_qm9_at_779k", "edm_qm9")
COSINES = ("with_force", "with_minimum", "force_with_minimum")
EXCESS = "minimum_less_force"
AUDIT = Comparison(alike={"with_force": 0.15, "with_minimum": 0.15}, by=("model", "lag"))
NAMES = {"with_minimum": ("minimum", BLUE), "with_force": ("force", VERMILION)}
COLUMNS = {
    "model": Column(""),
    "passes": Column("molecules shown"),
    "with_force": Column("step with force", 2),
    "with_minimum": Column("step with minimum", 2),
    EXCESS: Column("minimum less force", 2),
    "force_with_minimum": Column("force with minimum", 2),
    "num": Column("n"),
}


@dataclass(frozen=True)
class Task:
    """One molecule and one model; `config_of` are weights whose scales and schedule the two references take."""

    molecule: str
    model: str
    config_of: str
    seed: int

    @property
    def files(self) -> list[Path]:
        """Weights and data behind the task."""
        shown = self.config_of if self.model in REFERENCES else self.model
        return [*weight_files(shown), data_root() / "qm9.npz"]


@asked
def tasks(*, models: Sequence[str] = CHECKPOINTS, molecules: int = 14, seed: int = 0) -> list[Task]:
    """An untrained network, the weights in order, and a perfect model, on the same test molecules, spread evenly."""
    if not models:
        raise InvalidInput("need the name of at least one published checkpoint")
    every = (UNTRAINED, *models, PERFECT)
    return [Task(name, model, models[-1], seed) for model in every for name in _molecules(molecules)]


def measure(task: Task) -> list[dict[str, Any]]:
    """A row for each lag: mean over the frames of a chain of the three cosines of `alignment`, and the model's passes.

    The chain relaxes MMFF94's structure from step 50 of 1,000; the minimum is that next to its last frame. Raises
    CalculationFailed where there is no structure, finite chain, energy on the way or minimum.
    """
    torch.set_num_threads(1)
    made = classical_starts(load_qm9(split="test")[_row(task.molecule)])
    if REFERENCE not in made.places:
        raise CalculationFailed(made.failures[REFERENCE])
    given = made.start(REFERENCE)
    generator = generator_from("learning", task.seed, task.molecule)
    (run,) = relax_from(denoiser_of(task, given), [given], step=START_STEP, generator=generator).trajectories
    if run is None:
        raise CalculationFailed("the chain did not stay finite")
    frames, energy = run.positions.astype(np.float64), XtbEnergy(given)
    forces = np.stack([energy(frame).forces for frame in frames])
    minimum = minimum_near(given.with_positions(frames[-1]))
    found = [alignment(frames, forces, minimum, lag=lag) for lag in LAGS]
    passes = REFERENCES[task.model] if task.model in REFERENCES else int(training_facts(task.model).passes)
    return [
        {"lag": one.lag, "passes": passes, **{name: round(float(getattr(one, name).mean()), 4) for name in COSINES}}
        for one in found
    ]


def denoiser_of(task: Task, given: Molecule) -> Denoiser:
    """The network of the task's model, or what knows the minimum next to the given structure."""
    if task.model not in REFERENCES:
        return NetworkDenoiser(load(task.model))
    edm = load(task.config_of, fast=False)
    if task.model == UNTRAINED:
        return NetworkDenoiser(build(edm.config, seed=task.seed))
    return ExactDenoiser.knowing(edm.config, edm.log_snr, [given.with_positions(minimum_near(given))])


def minimum_near(molecule: Molecule) -> np.ndarray:
    """The GFN2-xTB minimum by internal coordinates. Raises CalculationFailed."""
    ended = optimise(molecule, XtbEnergy(molecule), optimiser="internal")
    if not ended.converged:
        raise CalculationFailed("no minimum was reached")
    return ended.positions


@lru_cache(maxsize=4)
def _molecules(count: int) -> tuple[str, ...]:
    return tuple(one.name for one in load_qm9(split="test", limit=count))


@lru_cache(maxsize=256)
def _row(name: str) -> int:
    return load_qm9(split="test").names.index(name)


def by_model(rows: pd.DataFrame, lag: int) -> pd.DataFrame:
    """Means over molecules at one lag with their intervals, one line a model in the order of the tasks."""
    rows = rows[rows["lag"] == lag].assign(**{EXCESS: lambda one: one["with_minimum"] - one["with_force"]})
    found = mean_with_interval(rows, [*COSINES, EXCESS], by="model")
    per_model = rows.groupby("model", sort=False)
    return found.assign(passes=per_model["passes"].first().array, num=per_model.size().array)


def draw_training(rows: pd.DataFrame) -> Figure:
    """Cosines against the length of training, a panel for each lag; a perfect model as lines."""
    count = rows["molecule"].nunique()
    caption = (
        f"n = {count} QM9 test molecules (fewer where a chain failed), chains from step 50 of 1,000 from MMFF94's "
        "structure, GFN2-xTB forces. Mean over frames, bootstrap 95 % intervals over molecules. Dashed: perfect model."
    )
    with panels(len(LAGS), width=9.6, height=3.1, caption=caption, sharey=True) as (figure, axes):
        for axis, lag in zip(axes, LAGS, strict=True):
            found = by_model(rows, lag)
            models, perfect = found[found["passes"].astype(float) > 0], found[found["model"] == PERFECT]
            for name, (label, colour) in NAMES.items():
                values = np.array([[one.value, one.low, one.high] for one in models[name]]).reshape(-1, 3)
                sides = np.abs(values[:, 1:] - values[:, :1]).T
                style = {"color": colour, "marker": "o", "ms": 4, "lw": 1.2, "label": label}
                axis.errorbar(models["passes"].astype(float), values[:, 0], yerr=sides, **style)
                for one in perfect[name]:
                    axis.axhline(one.value, color=colour, ls="--", lw=1.0)
            axis.set(xscale="log", xlabel="molecules shown", title=f"lag {lag}")
        axes[0].set(ylabel="cosine of the step with")
        axes[0].legend(fontsize=8)
    return figure


def measurements(rows: pd.DataFrame) -> list[Measurement]:
    """First and last checkpoint at lag 10, for the ledger."""
    found = by_model(rows, 10)
    models = found[found["passes"].astype(float) > 0].sort_values("passes")
    claims = {"minimum": "with_minimum", "force": "with_force", "excess_over_force": EXCESS}
    return [
        record(
            f"relaxation.learning.{claim}.{word}",
            line[column],
            rows,
            n=line["num"],
            basis="trained_here",
            interval_kind="bootstrap over molecules, 95 %",
            weights=line["model"],
            training_passes=float(line["passes"]),
            seeds=[int(rows["seed"].iloc[0])],
        )
        for word, line in (("first", models.iloc[0]), ("last", models.iloc[-1]))
        for claim, column in claims.items()
    ]
