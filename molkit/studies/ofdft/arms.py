"""Trainings that differ in one thing each, and what their functionals make of molecules, as rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from molkit.errors import InvalidInput, RunError
from molkit.metrics.statistics import Interval, bootstrap_interval, interval_over_runs
from molkit.ofdft.attention import AttentionConfig
from molkit.ofdft.attention_functional import AttentionEnergy, AttentionFunctional, load
from molkit.ofdft.attention_training import AttentionRecipe, read_attention_recipe, train_attention
from molkit.ofdft.compact import CompactEnergy
from molkit.ofdft.guess import guess_coefficients
from molkit.ofdft.label_files import LabelledMolecule
from molkit.ofdft.optimise import OptimiseOptions, optimise
from molkit.training.run_folder import has_run, load_state

STARTS = ("Kohn-Sham", "reference", "MINAO", "Hückel")
OPTIONS = OptimiseOptions(tolerance=1e-5, max_steps=500)
MILLI = 1e3
CHEMICAL = 1.594  # millihartree in a kcal/mol
VALID = "valid"  # the set that chooses a snapshot


@dataclass(frozen=True)
class Plan:
    """The published recipe of a study, and what each arm changes in it; the first arm changes nothing.

    other_starts: what all arms but the first are minimised from.
    """

    recipe: Path
    arms: Mapping[str, Mapping[str, Any]]
    other_starts: tuple[str, ...] = STARTS

    def starts(self, arm: str) -> tuple[str, ...]:
        """What an arm is minimised from."""
        return STARTS if arm == next(iter(self.arms)) else self.other_starts


def arm_recipe(arm: str, *, seed: int, plan: Plan) -> AttentionRecipe:
    """The published recipe with the changes of an arm. Raises InvalidInput for an unknown arm."""
    if arm not in plan.arms:
        raise InvalidInput(f"arms are {', '.join(plan.arms)}; got {arm!r}")
    recipe, changes = read_attention_recipe(plan.recipe), plan.arms[arm]
    of_model = {name: value for name, value in changes.items() if name in AttentionConfig.__dataclass_fields__}
    of_data = {name: value for name, value in changes.items() if name not in of_model}
    return replace(
        recipe,
        data=replace(recipe.data, **of_data),
        model=replace(recipe.model, **of_model),
        training=replace(recipe.training, seed=seed),
    )


def run_folder(runs: Path, arm: str, seed: int | str) -> Path:
    """Where the run of an arm lies."""
    return runs / f"{arm.replace(' ', '_')}_{seed}"


def without_density(arm: str) -> bool:
    """Whether an arm is a network of the geometry alone."""
    return arm.startswith("geometry")


def start_of(energy: AttentionEnergy | CompactEnergy, entry: LabelledMolecule, start: str) -> np.ndarray:
    """z of one of STARTS, or of the mean density of a training, with the right number of electrons."""
    if start == "reference":
        return energy.on_constraint(np.zeros(len(energy.constraint)))
    if start == "mean":
        return energy.on_constraint(energy.mean())
    coefficients = {"MINAO": entry.guess, "Kohn-Sham": entry.labels.coefficients[entry.ground_state]}.get(start)
    if coefficients is None:
        coefficients = guess_coefficients(energy.integrals, "huckel")
    return energy.on_constraint(energy.reduce(coefficients))


def minimised(
    energy: AttentionEnergy | CompactEnergy, entry: LabelledMolecule, start: str, options: OptimiseOptions = OPTIONS
) -> dict[str, Any]:
    """One minimisation; errors against Kohn-Sham in millihartree.

    before, after, selected: of the start, of the last density, of the step that the paper's rule chooses. density: norm
    of the error of the last density in natural coordinates. electrons: of the last density, less N.
    """
    first = start_of(energy, entry, start)
    result = optimise(energy, first, constraint=energy.constraint, options=options)
    coefficients = energy.coefficients(result.variables)
    moved = energy.to_natural @ (coefficients - entry.labels.coefficients[entry.ground_state])
    electrons = float(energy.integrals.basis_integrals @ coefficients)
    return {
        "start": start,
        "before": MILLI * (energy(first)[0] - entry.energy),
        "after": MILLI * (result.energy - entry.energy),
        "selected": MILLI * (result.selected_energy - entry.energy),
        "density": float(np.linalg.norm(moved)),
        "electrons": electrons - energy.integrals.num_electrons,
        "steps": result.num_steps,
        "converged": result.converged,
    }


def not_minimised(energy: AttentionEnergy, entry: LabelledMolecule, start: str = "geometry") -> dict[str, Any]:
    """The network at z = 0, where no density enters: the direct network of the same size. As `minimised`."""
    error = MILLI * (energy(np.zeros(len(energy.constraint)))[0] - entry.energy)
    errors = dict.fromkeys(("before", "after", "selected"), error)
    return {"start": start, **errors, "density": 0.0, "electrons": 0.0, "steps": 0, "converged": True}


def evaluated(
    functional: AttentionFunctional, molecules: Sequence[LabelledMolecule], arm: str, starts: Sequence[str]
) -> list[dict[str, Any]]:
    """A row for every molecule and start, `energy` Kohn-Sham's in hartree; an arm without a density has one start,
    `geometry`.
    """
    found = []
    for entry in molecules:
        molecule = entry.molecule
        about = {
            "molecule": molecule.name,
            "formula": molecule.formula,
            "num_atoms": molecule.num_atoms,
            "num_heavy": int((molecule.atomic_numbers > 1).sum()),
            "energy": entry.energy,
        }
        energy = functional.energy_of(molecule)
        if without_density(arm):
            found.append(about | not_minimised(energy, entry))
        else:
            found += [about | minimised(energy, entry, start) for start in starts]
    return found


def snapshots_of(run: Path, until: int = 0) -> dict[int, Path]:
    """Folders of the snapshots of a run by step, up to a step; at 0, of a finished run with its last weights."""
    found = {int(path.name.split("_")[1]): path for path in sorted((run / "snapshots").glob("step_*"))}
    if until:
        return {step: path for step, path in found.items() if step <= until}
    _, numbers = load_state(run)
    return {**found, int(numbers["step"]): run}


class _Reached(Exception):
    """The step that was asked for."""


def train_arm(recipe: AttentionRecipe, out: Path, until: int = 0) -> None:
    """Train a recipe to its end (0), or to the snapshot of a step; what is there is not made again.

    The schedule is that of the whole training. Raises RunError where the training was stopped before.
    """
    if until and until in snapshots_of(out, until):
        return

    def on_step(step: int) -> None:
        if step == until:
            raise _Reached

    try:
        finished = train_attention(recipe, out=out, resume=has_run(out), progress_bar=False, on_step=on_step).finished
    except _Reached:
        finished = True
    if not finished or (until and until not in snapshots_of(out, until)):
        raise RunError(
            f"{out}: the training was stopped, or keeps no snapshot of step {until}; the same command goes on"
        )


def rows_of_arm(
    plan: Plan,
    arm: str,
    seed: int,
    *,
    runs: Path,
    valid: Sequence[LabelledMolecule],
    sets: Mapping[str, Sequence[LabelledMolecule]],
    until: int = 0,
) -> list[dict[str, Any]]:
    """Train an arm (or take its run), choose a snapshot by validation, minimise on every set.

    Rows of the set `valid` have a step each: mean absolute error from MINAO, share that converged, whether it was
    chosen. Raises what `train_arm` raises.
    """
    out = run_folder(runs, arm, seed)
    train_arm(arm_recipe(arm, seed=seed, plan=plan), out, until)
    functionals = {step: load(folder) for step, folder in snapshots_of(out, until).items()}
    judged = {step: evaluated(functional, valid, arm, ("MINAO",)) for step, functional in functionals.items()}
    errors = {step: float(np.mean([abs(row["after"]) for row in rows])) for step, rows in judged.items()}
    chosen = min(errors, key=lambda step: errors[step])
    found = [
        {
            "set": VALID,
            "step": step,
            "error": errors[step],
            "converged": float(np.mean([row["converged"] for row in rows])),
            "chosen": step == chosen,
        }
        for step, rows in judged.items()
    ]
    for name, molecules in sets.items():
        found += [{"set": name} | row for row in evaluated(functionals[chosen], molecules, arm, plan.starts(arm))]
    return found


def mean_error(rows: pd.DataFrame, column: str = "after") -> Interval:
    """Mean absolute error over molecules; over trainings where there are several (`seed`), else bootstrapped."""
    runs = [bootstrap_interval(np.abs(group[column].to_numpy(float))) for _, group in rows.groupby("seed", sort=False)]
    return interval_over_runs(runs, positive=True)


def by_start(rows: pd.DataFrame) -> pd.DataFrame:
    """What minimisations from every start of these rows come to, in the unit of their errors."""
    lines = []
    for start, group in rows.groupby("start", sort=False):
        errors = {column: mean_error(group, column) for column in ("before", "after", "selected")}
        after, means = group["after"], group[["density", "steps", "converged"]].astype(float).mean()
        lines.append({"start": start, **errors, "largest": after.abs().max(), "bias": after.mean(), **means})
    return pd.DataFrame(lines)
