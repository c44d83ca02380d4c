"""The compact functional on water: on labelled densities, and arms of the ablation after minimisation (page
`learned_functional`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.interpolate import RBFInterpolator

from molkit.claims.ledger import REPOSITORY, Measurement
from molkit.claims.record import record
from molkit.errors import InvalidInput
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column
from molkit.figures.style import BLACK, BLUE, ORANGE, VERMILION, panels
from molkit.ofdft.classes import class_named
from molkit.ofdft.compact import CompactEnergy, CompactFunctional, load
from molkit.ofdft.compact_training import CompactRecipe, read_compact_recipe, train_compact
from molkit.ofdft.geometries import geometry
from molkit.ofdft.label_files import LabelledMolecule, LabelSettings, generate, load_folder, make_labels
from molkit.ofdft.labels import FrozenSampling
from molkit.ofdft.optimise import OptimiseOptions
from molkit.ofdft.reduction import NaturalFrame, frames_of, reduce_samples
from molkit.studies.ofdft.arms import MILLI, mean_error, minimised
from molkit.studies.ofdft.live import FIRST_LIVE
from molkit.training.files import queued
from molkit.training.weights import weight_files
from molkit.units import HARTREE_TO_KCAL

RECIPE = REPOSITORY / "data" / "recipes" / "ofdft_water.yaml"
LABELS = REPOSITORY / "runs" / "ofdft"
STARTS = ("Kohn-Sham", "reference", "mean", "MINAO")
NUM_TRAIN = 70  # geometries, as the recipe says
REGRESSION = "regression"  # in the place of a start: no minimisation
PLAIN, FIXED = {"coordinates": "variance"}, {"reference_degree": 0}
ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "full": {},
    "no gradient labels": {"data": {"gradient_weight": 0.0}},
    "no perturbed samples": {"data": {"samples": "steps"}},
    "fixed reference": {"model": {"reference_degree": 0}},
    "variance coordinates": {"data": {"coordinates": "variance"}},
    "variance no gradient labels": {"data": {"coordinates": "variance", "gradient_weight": 0.0}},
    "variance no perturbed samples": {"data": {"coordinates": "variance", "samples": "steps"}},
    "plain": {"data": PLAIN, "model": FIXED},
    "plain no gradient labels": {"data": {**PLAIN, "gradient_weight": 0.0}, "model": FIXED},
    "plain no perturbed samples": {"data": {**PLAIN, "samples": "steps"}, "model": FIXED},
}
FAMILIES = {"plain": (ORANGE, "plain coordinates, no reference"), "variance": (VERMILION, "variance coordinates")}
CLAIMED = {
    "mofdft.ablation.full": "plain",
    "mofdft.ablation.no_gradients": "plain no gradient labels",
    "mofdft.ablation.steps_only": "plain no perturbed samples",
}
CHEMICAL = 1.594  # millihartree in a kcal/mol
NEAR, CEILING = 0.02, 0.4  # hartree above the ground state: "near" it, and up to which samples are kept
AUDIT = Comparison(alike={"after": 1000.0}, by=("arm", "start"), repeats="seed")
AUDIT_direct = Comparison(within={"error": 1e-3})
AUDIT_samples = Comparison(within={"excess": 1e-5, "error": 0.01, "labels": 1e-4, "slopes": 1e-4})
TABLE = {
    "arm": "arm",
    "near": Column("regression near (mHa)", 3),
    "after": Column("minimised from MINAO (mHa)", 3),
    "density": Column("density error", 4),
    "converged": Column("converged (%)", 0, 100.0),
    "trainings": Column("trainings"),
}


@dataclass(frozen=True)
class Task:
    """One training of an arm, minimised on test geometries."""

    arm: str
    seed: int
    num_train: int
    num_test: int
    num_frozen: int  # samples a geometry in frozen potentials
    total_steps: int

    @property
    def files(self) -> list[Path]:
        """The recipe."""
        return [RECIPE]


@asked
def tasks(
    *,
    arms: Sequence[str] = tuple(ARMS),
    seeds: int = 3,
    num_train: int = NUM_TRAIN,
    num_test: int = 60,
    num_frozen: int = 40,
    total_steps: int = 2000,
) -> list[Task]:
    """Every arm with every seed; all share their labels, which are made where they are missing. Raises InvalidInput for
    an unknown arm.
    """
    for arm in arms:
        arm_recipe(arm, seed=0)
    return [Task(arm, seed, num_train, num_test, num_frozen, total_steps) for arm in arms for seed in range(seeds)]


def measure(task: Task) -> list[dict]:
    """A row of `arms.minimised` for every start and geometry, and one of the start `regression`: mean absolute errors
    (millihartree) on labelled samples of the test geometries, near the ground state and everywhere.
    """
    folder, _ = labelled("train", task.num_train, task.num_frozen)
    _, test = labelled("test", task.num_test, task.num_frozen)
    recipe, frames = arm_recipe(task.arm, seed=task.seed), frames_of(test, class_named("water"))
    recipe = replace(recipe, data=replace(recipe.data, folder=str(folder), count=task.num_train))
    with TemporaryDirectory() as out:
        train_compact(recipe, out=Path(out) / "run", total_steps=task.total_steps, progress_bar=False)
        functional = load(Path(out) / "run")
    near, everywhere, count = regression_errors(functional, test, frames, ceiling=recipe.data.ceiling)
    rows = [
        {"geometry": number, **minimised(CompactEnergy(functional, frame), entry, start, OptimiseOptions())}
        for start in STARTS
        for number, (entry, frame) in enumerate(zip(test, frames, strict=True))
    ]
    return [*rows, {"start": REGRESSION, "near": near, "everywhere": everywhere, "num_samples": count}]


def arm_recipe(arm: str, *, seed: int) -> CompactRecipe:
    """The published recipe with the changes of an arm. Raises InvalidInput for an unknown arm."""
    if arm not in ARMS:
        raise InvalidInput(f"arms are {', '.join(ARMS)}; got {arm!r}")
    recipe, changes = read_compact_recipe(RECIPE), ARMS[arm]
    return replace(
        recipe,
        data=replace(recipe.data, **changes.get("data", {})),
        model=replace(recipe.model, **changes.get("model", {})),
        training=replace(recipe.training, seed=seed),
    )


@lru_cache(maxsize=4)
def labelled(split: str, count: int, num_frozen: int) -> tuple[Path, list[LabelledMolecule]]:
    """Labels of the first geometries of a split, and their folder; made where they are missing, 2 CPU seconds each."""
    folder = LABELS / ("labels_water" if num_frozen == FrozenSampling().count else f"labels_water_{num_frozen}") / split
    with queued(folder):
        generate("water", split, range(count), folder, settings=LabelSettings(FrozenSampling(count=num_frozen)))
    return folder, load_folder(folder, "water", split, limit=count)


@torch.no_grad()
def regression_errors(
    functional: CompactFunctional,
    molecules: Sequence[LabelledMolecule],
    frames: Sequence[NaturalFrame],
    *,
    ceiling: float,
) -> tuple[float, float, int]:
    """Mean absolute error of R on labelled samples: near the ground state, on all of them; and their number."""
    samples = reduce_samples(functional.reduction, molecules, frames, ceiling=ceiling)
    z, u = torch.from_numpy(samples.z), torch.from_numpy(samples.descriptors[:, 0])
    errors = MILLI * np.abs(functional.network(z, u).numpy() - samples.energy)
    return float(errors[samples.excess < NEAR].mean()), float(errors.mean()), len(errors)


@dataclass(frozen=True)
class DirectTask:
    """The same geometries, without a density."""

    num_train: int
    num_test: int
    num_frozen: int

    @property
    def files(self) -> list[Path]:
        """None: energies follow from the geometries."""
        return []


@asked
def tasks_direct(*, num_train: int = NUM_TRAIN, num_test: int = 60, num_frozen: int = 40) -> list[DirectTask]:
    """One task: nothing is drawn."""
    return [DirectTask(num_train, num_test, num_frozen)]


def measure_direct(task: DirectTask) -> list[dict]:
    """A row a test geometry: error (millihartree) of the spline through the energies of the training geometries.

    Of the distances of the pairs of atoms, both names of the hydrogens counted: a function of the geometry alone.
    """
    kind = class_named("water")
    train, test = (labelled(split, getattr(task, f"num_{split}"), task.num_frozen)[1] for split in ("train", "test"))
    seen, unseen = (np.stack([kind.descriptors(one.molecule.positions)[:2] for one in part]) for part in (train, test))
    energies = np.repeat([one.energy for one in train], 2)
    found = RBFInterpolator(seen.reshape(len(energies), -1), energies)(unseen[:, 0])
    return [{"geometry": k, "error": MILLI * (found[k] - one.energy)} for k, one in enumerate(test)]


@dataclass(frozen=True)
class SamplesTask:
    """Labelled densities of one unseen geometry."""

    weights: str
    index: int
    num_frozen: int
    grid_level: int

    @property
    def files(self) -> list[Path]:
        """The weights."""
        return weight_files(self.weights)


@asked
def tasks_samples(*, weights: str = "ofdft_water", num_frozen: int = 40, grid_level: int = 2) -> list[SamplesTask]:
    """One geometry that no table has used."""
    return [SamplesTask(weights, FIRST_LIVE, num_frozen, grid_level)]


def measure_samples(task: SamplesTask) -> list[dict]:
    """A row a density: hartree above the ground state, error of the energy (millihartree), and slopes [m] along the
    functional's coordinates, of the labels and its own.
    """
    functional = load(task.weights)
    kind = class_named(functional.config.name)
    molecule = geometry(kind.name, "test", task.index)
    entry = make_labels(molecule, LabelSettings(FrozenSampling(count=task.num_frozen), grid_level=task.grid_level))
    samples = reduce_samples(functional.reduction, [entry], frames_of([entry], kind), ceiling=CEILING)
    energy = functional.energy_of(molecule)
    hartree = samples.z @ energy.curvature
    reference = samples.energy + energy.reference_energy + 0.5 * (samples.z * hartree).sum(1)
    found = []
    for row, z in enumerate(samples.z):
        value, slopes = energy(z)
        error, labels = MILLI * (value - reference[row]), samples.gradient[row] + hartree[row]
        found.append({"excess": samples.excess[row], "error": error, "labels": labels, "slopes": slopes})
    return found


def of_arm(rows: pd.DataFrame, arm: str, start: str = "MINAO") -> pd.DataFrame:
    """Rows of an arm from one start. Raises InvalidInput where there are none."""
    found = rows[(rows["arm"] == arm) & (rows["start"] == start)]
    if found.empty:
        raise InvalidInput(f"no rows of the arm {arm!r} from {start}")
    return found


def by_arm(rows: pd.DataFrame) -> pd.DataFrame:
    """A line an arm: regression, minimisation from MINAO, error of the density."""
    lines = []
    for arm in rows["arm"].unique():
        found = of_arm(rows, arm)
        line = {"arm": arm, "near": of_arm(rows, arm, REGRESSION)["near"].mean(), "after": mean_error(found)}
        line |= {"density": found["density"].mean(), "converged": found["converged"].astype(float).mean()}
        lines.append(line | {"trainings": found["seed"].nunique()})
    return pd.DataFrame(lines)


def measurements(rows: pd.DataFrame, arms: Mapping[str, str] = CLAIMED) -> list[Measurement]:
    """Record what the rows say of the paper's ablation (from MINAO), of the arms that were trained.

    By the plain arms, without response coordinates and predicted reference: the paper has neither.
    """
    found = []
    for claim, arm in arms.items():
        if arm not in set(rows["arm"]):
            continue
        own = of_arm(rows, arm)
        common = {"n": own["geometry"].nunique(), "seeds": sorted(own["seed"].unique()), "basis": "scaled_down"}
        common |= {"interval_kind": "trainings, 95 %", "notes": f"water instead of ethanol, arm {arm!r}"}
        found.append(record(claim, mean_error(own).scaled(HARTREE_TO_KCAL / MILLI), rows, **common))
    return found


def draw_arms(rows: pd.DataFrame, *, caption: str) -> Figure:
    """Regression error and minimised error of every training of every arm."""
    arms = list(rows["arm"].unique())
    with panels(1, width=7.6, height=4.2, caption=caption) as (figure, (axes,)):
        for row, arm in enumerate(arms):
            near = of_arm(rows, arm, REGRESSION)["near"]
            after = of_arm(rows, arm).groupby("seed")["after"].apply(lambda errors: errors.abs().mean())
            axes.plot(near, [row + 0.12] * len(near), "o", color=BLACK, fillstyle="none")
            colour, _ = FAMILIES.get(arm.split()[0], (BLUE, ""))
            axes.plot(after, [row - 0.12] * len(after), "o", color=colour)
        axes.plot([], [], "o", color=BLACK, fillstyle="none", label="regression")
        axes.plot([], [], "o", color=BLUE, label="minimised, response coordinates")
        for colour, label in FAMILIES.values():
            axes.plot([], [], "o", color=colour, label=f"minimised, {label}")
        axes.axvline(CHEMICAL, color="#888888", linestyle="--", linewidth=1.0)
        axes.text(1.8, 0.1, "1 kcal/mol", fontsize=8, color="#555555")
        axes.set(xscale="log", xlabel="mean absolute error of the energy (mHa)", ylim=(len(arms) - 0.4, -0.6))
        axes.set_yticks(range(len(arms)), arms)
        axes.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.4, 1.0))
    return figure


def draw_samples(rows: pd.DataFrame, *, caption: str) -> Figure:
    """What the functional says of labelled densities it has not seen."""
    with panels(2, width=8.4, height=3.2, caption=caption) as (figure, (left, right)):
        left.plot(MILLI * rows["excess"], rows["error"].abs(), "o", color=BLUE, markersize=4)
        left.set(xscale="log", yscale="log", xlabel="energy above the ground state (mHa)", ylabel="|error| (mHa)")
        labels, slopes = (np.concatenate(rows[name].to_list()) for name in ("labels", "slopes"))
        right.plot(labels, slopes, ".", color=BLUE, markersize=3)
        ends = [labels.min(), labels.max()]
        right.plot(ends, ends, color=BLACK, linewidth=0.8)
        right.set(xlabel="slope, label (Ha$^{1/2}$)", ylabel="slope, functional (Ha$^{1/2}$)")
    return figure
