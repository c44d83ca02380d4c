"""A functional on molecules it has never met: QM9's with up to five heavy atoms, in five folds by composition."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import process_time
from typing import Any, Literal

import numpy as np

from molkit.claims.ledger import REPOSITORY, Measurement
from molkit.claims.provenance import commit, machine
from molkit.claims.store import record
from molkit.config import stored_json
from molkit.errors import InvalidInput
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.ofdft.attention_functional import load, save_functional
from molkit.ofdft.attention_training import AttentionRecipe
from molkit.ofdft.channels import neighbourhood, ridge_energies
from molkit.ofdft.compositions import (
    NUM_FOLDS,
    careful_energies,
    careful_weights,
    folds_by_composition,
    of_fold,
    without_fold,
)
from molkit.ofdft.geometries import QM9_UP_TO_FIVE, geometry
from molkit.ofdft.label_files import LabelledMolecule
from molkit.ofdft.recipes import training_labels
from molkit.studies.ofdft_extrapolation import STORED as LARGER_STORED
from molkit.studies.ofdft_extrapolation import ExtrapolationStudy, without_density
from molkit.studies.ofdft_small import Plan, arm_recipe, evaluate, geometry_errors, run_folder, train_arm
from molkit.studies.ofdft_water import MILLI, StartResult, rounded
from molkit.training.files import write_text
from molkit.units import HARTREE_TO_KCAL

STORED = REPOSITORY / "data" / "studies" / "ofdft_folds.json"
NO_DENSITY: dict[str, Any] = {"samples": "geometry", "gradient_weight": 0.0}
PACKED = "data/sets/density_labels_up_to_five.npz"
# The least spread of the reference energy by compositions left out, as its restraint is.
CHOSEN: dict[str, Any] = {"folder": PACKED, "energy_spread": 0.0}
DISPLACED: dict[str, Any] = CHOSEN | {
    "further": ("runs/ofdft/labels_up_to_five/displaced",),
    "predicts_start": True,
}
RESPONSE, DISPLACED_RESPONSE = "response alone", "displaced response alone"
# Arms that are not trained: another reference energy under the same weights.
TAKEN_FROM = {RESPONSE: "full", DISPLACED_RESPONSE: "displaced"}
PLAN = Plan(
    REPOSITORY / "data" / "recipes" / "ofdft_up_to_five.yaml",
    {
        "full": {},
        "geometry": NO_DENSITY,
        "geometry on chosen spread": NO_DENSITY | CHOSEN,
        "published energies": {"published": True},
        RESPONSE: {},
        "displaced": DISPLACED,
        "geometry displaced": DISPLACED | NO_DENSITY,
        DISPLACED_RESPONSE: {},
    },
    other_starts=("MINAO", "reference"),
)
Where = Literal["resting", "displaced"]
FOLD_NOTE = "QM9's molecules with up to five heavy atoms, each by a training without its composition; total energies"
LARGER_NOTE = "trained on up to five heavy atoms, asked for QM9's with six to nine; total energies, per atom"
FULL_STARTS = ("Kohn-Sham", "reference", "MINAO")
DISPLACED_STARTS = ("MINAO", "reference", "predicted")
REFERENCE_ENERGY = "reference energy alone"


@dataclass(frozen=True)
class FoldRun:
    """One arm trained without one fold and minimised on it; results by start, errors in millihartree.

    where: the molecules as they lie in QM9, or with every coordinate displaced.
    """

    arm: str
    fold: int
    names: list[str]
    formulas: list[str]
    num_atoms: list[int]
    num_heavy: list[int]
    num_train: int
    results: dict[str, StartResult]
    seconds: float  # CPU, of the evaluation
    where: Where = "resting"


@dataclass(frozen=True)
class FoldStudy:
    """All folds of all arms, and the Kohn-Sham energies (hartree) of all molecules by name."""

    runs: tuple[FoldRun, ...]
    energies: dict[str, float]
    stamp: dict[str, Any]

    @property
    def arms(self) -> list[str]:
        """Arms of which every fold is there, in the order of their first runs."""
        return self.arms_at("resting")

    def arms_at(self, where: Where) -> list[str]:
        """Arms of which every fold has been asked for such geometries."""
        arms = dict.fromkeys(run.arm for run in self.runs)
        return [arm for arm in arms if len(self.of_arm(arm, where)) == NUM_FOLDS]

    def of_arm(self, arm: str, where: Where = "resting") -> list[FoldRun]:
        """The runs of an arm, by fold."""
        found = [run for run in self.runs if (run.arm, run.where) == (arm, where)]
        return sorted(found, key=lambda run: run.fold)

    def start(self, arm: str, start: str = "MINAO") -> str:
        """The start of an arm; the arms without a density have but one."""
        return "geometry" if without_density(arm) else start

    def starts(self, arm: str) -> list[str]:
        """What an arm was minimised from."""
        return list(self.of_arm(arm)[0].results)

    def energies_at(self, where: Where) -> dict[str, float]:
        """Kohn-Sham energies of the molecules as they lie, or of the displaced ones."""
        moved = where == "displaced"
        return {name: value for name, value in self.energies.items() if (_number(name) >= QM9_UP_TO_FIVE) == moved}

    def column(self, arm: str, name: str, where: Where = "resting") -> np.ndarray:
        """A column of `FoldRun` over all molecules, fold by fold."""
        return np.concatenate([np.array(getattr(run, name)) for run in self.of_arm(arm, where)])

    def errors(self, arm: str, start: str = "MINAO", column: str = "after", where: Where = "resting") -> np.ndarray:
        """Signed errors of all molecules by the training that has not met them, millihartree."""
        start = self.start(arm, start)
        return np.concatenate([np.array(getattr(run.results[start], column)) for run in self.of_arm(arm, where)])

    def error(self, arm: str, start: str = "MINAO", column: str = "after", where: Where = "resting") -> Interval:
        """Mean absolute error, molecules resampled; millihartree."""
        return bootstrap_interval(np.abs(self.errors(arm, start, column, where)))

    def by_heavy_atoms(self, arm: str, start: str = "MINAO", column: str = "after") -> dict[int, Interval]:
        """Mean absolute error for every number of heavy atoms that ten molecules have, millihartree."""
        heavy, errors = self.column(arm, "num_heavy"), np.abs(self.errors(arm, start, column))
        sizes = [int(size) for size in np.unique(heavy) if (heavy == size).sum() >= 10]
        return {size: bootstrap_interval(errors[heavy == size]) for size in sizes}


def fold_recipe(arm: str, fold: int, *, plan: Plan = PLAN) -> AttentionRecipe:
    """The recipe of an arm that does not see a fold. Raises InvalidInput for an unknown arm or fold."""
    if not 0 <= fold < NUM_FOLDS:
        raise InvalidInput(f"folds are numbered 0 to {NUM_FOLDS - 1}, got {fold}")
    recipe = arm_recipe(arm, seed=0, plan=plan)
    return replace(recipe, data=replace(recipe.data, held_out=fold))


def trained_on(recipe: AttentionRecipe) -> list[LabelledMolecule]:
    """The labelled molecules that a recipe learns from. Raises what the loader raises."""
    return without_fold(training_labels(recipe, recipe.data.name, recipe.data.further), recipe.data.held_out)


def run_fold(
    arm: str,
    fold: int,
    *,
    runs: Path,
    labelled: Sequence[LabelledMolecule],
    plan: Plan = PLAN,
    where: Where = "resting",
) -> FoldRun:
    """Train without a fold, or take the run that is there; minimise every molecule of the fold with the last weights.

    No snapshot is chosen, so no molecule of the fold is ever asked before the end. Raises what `train_arm` raises, and
    InvalidInput where training and test do not agree on the fold, because some of the labels are missing.
    """
    trained = TAKEN_FROM.get(arm, arm)
    out, recipe = run_folder(runs, trained, fold), fold_recipe(trained, fold, plan=plan)
    known, molecules = trained_on(recipe), of_fold(labelled, fold)
    met = {entry.molecule.formula for entry in known} & {entry.molecule.formula for entry in molecules}
    if met:
        raise InvalidInput(f"fold {fold}: {min(met)} is in training and in test; label all molecules of the class")
    train_arm(recipe, out)
    started, functional = process_time(), load(out)
    if arm in TAKEN_FROM:
        functional = functional.on_reference_energy(careful_energies(known))
    results = evaluate(functional, molecules, arm, starts_of(arm, plan))
    if arm in TAKEN_FROM:
        results[REFERENCE_ENERGY] = geometry_errors(functional, molecules)
    return FoldRun(
        arm=arm,
        fold=fold,
        names=[entry.molecule.name for entry in molecules],
        formulas=[entry.molecule.formula for entry in molecules],
        num_atoms=[entry.molecule.num_atoms for entry in molecules],
        num_heavy=[int((entry.molecule.atomic_numbers > 1).sum()) for entry in molecules],
        num_train=len(known),
        results=results,
        seconds=round(process_time() - started, 2),
        where=where,
    )


def starts_of(arm: str, plan: Plan = PLAN) -> tuple[str, ...]:
    """What an arm is minimised from; the response alone of weights that keep a correction, from its start as well."""
    if plan.arms[TAKEN_FROM.get(arm, arm)].get("predicts_start"):
        return DISPLACED_STARTS if arm in TAKEN_FROM else DISPLACED_STARTS[:1]
    return FULL_STARTS if arm == next(iter(plan.arms)) else plan.other_starts


def train_on_all(arm: str, runs: Path, *, plan: Plan = PLAN) -> Path:
    """Train an arm with no fold held out, or take the run that is there; returns the folder of its weights."""
    trained = TAKEN_FROM.get(arm, arm)
    out, recipe = runs / f"{trained.replace(' ', '_')}_all", arm_recipe(trained, seed=0, plan=plan)
    train_arm(recipe, out)
    if arm == trained:
        return out
    folder = out / "snapshots" / arm.replace(" ", "_")
    save_functional(folder, load(out).on_reference_energy(careful_energies(trained_on(recipe))))
    return folder


def run_study(
    wanted: Sequence[tuple[str, int]],
    *,
    runs: Path,
    labelled: Sequence[LabelledMolecule],
    displaced: Sequence[LabelledMolecule] = (),
    plan: Plan = PLAN,
    report: Callable[[str], None] = lambda text: None,
) -> FoldStudy:
    """Every pair of arm and fold, on the molecules as they lie and, where there are any, on displaced ones.

    A finished pair is kept in `runs` and not made again.
    """
    found = []
    asked: list[tuple[Where, Sequence[LabelledMolecule]]] = [("resting", labelled), ("displaced", displaced)]
    for arm, fold in wanted:
        for where, molecules in asked:
            if not molecules:
                continue
            kept = run_folder(runs, arm, fold) / f"held_out_{where}_{len(molecules)}.json"
            if not kept.is_file():
                made = run_fold(arm, fold, runs=runs, labelled=molecules, plan=plan, where=where)
                write_text(kept, json.dumps(asdict(made)) + "\n")
            found.append(_run(json.loads(kept.read_text(encoding="utf-8"))))
            first = next(iter(found[-1].results.values()))
            report(f"{arm}, fold {fold}, {where}: {np.abs(first.after).mean():.3f} mHa")
    head, dirty = commit()
    energies = {entry.molecule.name: round(entry.energy, 6) for entry in [*labelled, *displaced]}
    return FoldStudy(tuple(found), energies, {"commit": head, "dirty": dirty, "machine": machine()})


def with_earlier(study: FoldStudy, earlier: FoldStudy) -> FoldStudy:
    """A study and those runs of an earlier one that it has not made anew; the stamp says where they come from."""
    made = {(run.arm, run.fold, run.where) for run in study.runs}
    kept = tuple(run for run in earlier.runs if (run.arm, run.fold, run.where) not in made)
    stamps = [*earlier.stamp.get("earlier", ()), {key: earlier.stamp[key] for key in ("commit", "dirty", "machine")}]
    stamp = study.stamp | {"earlier": stamps} if kept else study.stamp
    return FoldStudy((*kept, *study.runs), earlier.energies | study.energies, stamp)


def write_study(study: FoldStudy, path: Path) -> None:
    """Keep a study as JSON. Raises RunError when the disk refuses."""
    write_text(path, json.dumps(rounded(asdict(study))) + "\n")


def stored_study(path: Path = STORED) -> FoldStudy:
    """What `molkit study ofdft-folds` wrote. Raises DataNotFound or InvalidInput."""
    with stored_json(path, "a study of folds", f"molkit study ofdft-folds --out {path}") as values:
        return FoldStudy(**{**values, "runs": tuple(_run(run) for run in values["runs"])})


@dataclass(frozen=True)
class EnergyFit:
    """A reference energy fitted without a fold and asked for it; mean absolute errors in millihartree."""

    ridge: float
    spread: float
    fitted: float  # of the molecules of the fit
    unseen: Interval
    largest: float  # of the unseen ones


def energy_fits(
    energies: Mapping[str, float], *, ridges: Sequence[float] = (1e-6, 1e-2), spreads: Sequence[float] = (0.0, 0.1)
) -> list[EnergyFit]:
    """The linear model of energies alone, in the folds of the study, restrained and scaled in several ways.

    energies: of the names of `up_to_five` geometries, hartree.
    """
    molecules = [geometry("up_to_five", "train", _number(name)) for name in energies]
    features = np.stack([neighbourhood(molecule).energy_features() for molecule in molecules])
    folds = folds_by_composition([molecule.formula for molecule in molecules])
    known = np.array(list(energies.values()))
    return [_energy_fit(features, known, folds, ridge, spread) for spread in spreads for ridge in ridges]


@dataclass(frozen=True)
class DisplacedFit:
    """Reference energies fitted without a fold, to these geometries, and asked for it; millihartree."""

    fitted_to: str
    resting: Interval
    displaced: Interval


def displaced_fits(study: FoldStudy) -> list[DisplacedFit]:
    """The reference energy alone, restraint and spread chosen inside each training, fitted without and with displaced
    geometries, and asked for both on the compositions that it has not met."""
    energies = study.energies_at("resting") | study.energies_at("displaced")
    molecules = [geometry("up_to_five", "train", _number(name)) for name in energies]
    features = np.stack([neighbourhood(molecule).energy_features() for molecule in molecules])
    formulas, known = [molecule.formula for molecule in molecules], np.array(list(energies.values()))
    moved = np.array([_number(name) >= QM9_UP_TO_FIVE for name in energies])
    folds = folds_by_composition(formulas)
    found = []
    for fitted_to, used in (("resting molecules", ~moved), ("resting and displaced ones", np.full(len(moved), True))):
        errors = np.zeros(len(known))
        for fold in range(NUM_FOLDS):
            kept, left = np.flatnonzero(used & (folds != fold)), folds == fold
            weights = careful_weights(features[kept], known[kept], [formulas[row] for row in kept])
            errors[left] = MILLI * np.abs(features[left] @ weights - known[left])
        found.append(DisplacedFit(fitted_to, bootstrap_interval(errors[~moved]), bootstrap_interval(errors[moved])))
    return found


def _number(name: str) -> int:
    """Of a geometry of the class, by its name."""
    return int(name.rpartition("-")[2])


def _energy_fit(
    features: np.ndarray, energies: np.ndarray, folds: np.ndarray, ridge: float, spread: float
) -> EnergyFit:
    fitted, unseen = [], np.zeros(len(energies))
    for fold in range(NUM_FOLDS):
        kept, left = folds != fold, folds == fold
        weights = ridge_energies(features[kept], energies[kept], ridge, spread=spread)
        fitted.append(np.abs(features[kept] @ weights - energies[kept]).mean())
        unseen[left] = MILLI * np.abs(features[left] @ weights - energies[left])
    return EnergyFit(ridge, spread, MILLI * float(np.mean(fitted)), bootstrap_interval(unseen), float(unseen.max()))


def measurements(study: FoldStudy, larger: ExtrapolationStudy) -> list[Measurement]:
    """Record the error on molecules that were not trained on; per atom on larger ones, with and without a density.

    Up to five heavy atoms: by the arm of the published weights, at the geometries of QM9; the note holds the error of
    its reference energy alone. Larger: QM9's drawn molecules with six to nine heavy atoms, by trainings that are not
    among the published weights.
    """
    beyond = {arm: larger.of(arm, "QM9") for arm in ("full", "geometry")}
    per_atom = {
        arm: bootstrap_interval(np.array([abs(entry.minimised) / entry.num_atoms for entry in entries]))
        for arm, entries in beyond.items()
    }
    unseen = DISPLACED_RESPONSE if DISPLACED_RESPONSE in study.arms else "full"
    fold_note = f"arm '{unseen}': {FOLD_NOTE}"
    if REFERENCE_ENERGY in study.starts(unseen):
        alone = study.error(unseen, REFERENCE_ENERGY).scaled(HARTREE_TO_KCAL / MILLI)
        fold_note += f"; its {REFERENCE_ENERGY}: {alone.value:.2f}"
    asked = {
        "structures25.qm9.energy": (study.error(unseen), len(study.errors(unseen)), fold_note),
        "mofdft.extrapolation.minimised": (per_atom["full"], len(beyond["full"]), LARGER_NOTE),
        "mofdft.extrapolation.direct": (per_atom["geometry"], len(beyond["geometry"]), LARGER_NOTE),
    }
    return [
        record(
            claim,
            error.scaled(HARTREE_TO_KCAL / MILLI).value,
            interval=(error.scaled(HARTREE_TO_KCAL / MILLI).low, error.scaled(HARTREE_TO_KCAL / MILLI).high),
            interval_kind="molecules resampled, 95 %",
            n=count,
            counts="molecules",
            basis="scaled_down",
            data_files=[STORED, LARGER_STORED],
            seeds=[0],
            seconds=sum(run.seconds for run in study.of_arm(unseen)),
            notes=f"{note}; trained on our labels alone",
        )
        for claim, (error, count, note) in asked.items()
    ]


def _run(values: dict[str, Any]) -> FoldRun:
    results = {start: StartResult(**columns) for start, columns in values["results"].items()}
    return FoldRun(**{**values, "results": results})
