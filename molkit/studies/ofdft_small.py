"""Trainings of one plan as the page on ethanol keeps them: runs with a result for every set and start."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from molkit.claims.provenance import commit, machine
from molkit.config import whole_number
from molkit.errors import InvalidInput
from molkit.metrics.statistics import Interval, bootstrap_interval, interval_over_runs
from molkit.ofdft.attention_functional import load
from molkit.ofdft.label_files import LabelledMolecule
from molkit.studies.ofdft.arms import STARTS, VALID, Plan, arm_recipe, rows_of_arm, run_folder, snapshots_of
from molkit.studies.ofdft_water import StartResult
from molkit.training.files import write_text


@dataclass(frozen=True)
class Snapshot:
    """Averaged weights after some steps, and their mean absolute error after minimisation of validation geometries."""

    step: int
    error: float  # millihartree, from MINAO
    converged: float  # share


@dataclass(frozen=True)
class SmallRun:
    """One training of one arm: snapshots, and minimisations with the one whose validation error is least."""

    arm: str
    seed: int
    snapshots: tuple[Snapshot, ...]
    chosen: int  # step
    results: dict[str, dict[str, StartResult]]  # by set and start
    seconds: float = 0.0  # CPU, of the evaluation


@dataclass(frozen=True)
class SmallStudy:
    """All runs, and the molecules of each set: formulas, atoms."""

    runs: tuple[SmallRun, ...]
    formulas: dict[str, list[str]]
    num_atoms: dict[str, list[int]]
    num_train: int
    num_parameters: int
    stamp: dict[str, Any]

    @property
    def arms(self) -> list[str]:
        """Arms that have runs, in the order of their first ones."""
        return list(dict.fromkeys(run.arm for run in self.runs))

    def of_arm(self, arm: str) -> list[SmallRun]:
        """The runs of an arm, by seed."""
        return sorted((run for run in self.runs if run.arm == arm), key=lambda run: run.seed)

    def starts(self, arm: str) -> list[str]:
        """The starts that all runs of an arm were minimised from."""
        return [start for start in STARTS if all(start in run.results["test"] for run in self.of_arm(arm))]

    def errors(self, arm: str, where: str, start: str, column: str = "after") -> np.ndarray:
        """Signed errors [runs, molecules] in millihartree."""
        return np.array([getattr(run.results[where][start], column) for run in self.of_arm(arm)])

    def error(self, arm: str, where: str, start: str, column: str = "after") -> Interval:
        """Mean absolute error over molecules; over seeds where there are several, else bootstrapped."""
        found = [bootstrap_interval(np.abs(row)) for row in self.errors(arm, where, start, column)]
        return interval_over_runs(found, positive=True)


def read_pairs(text: str, plan: Plan) -> list[tuple[str, int]]:
    """`full:0,geometry:1` as pairs. Raises InvalidInput for another form or an unknown arm."""
    found = []
    for part in text.split(","):
        arm, _, seed = part.strip().partition(":")
        number = whole_number(seed, what=f"--arms {part.strip()}: what follows the colon, as in full:0,")
        arm_recipe(arm, seed=number, plan=plan)
        found.append((arm, number))
    return found


def chosen_weights(study: SmallStudy, runs: Path, arm: str, seed: int) -> Path:
    """The snapshot that validation chose. Raises InvalidInput where the study has no such run."""
    found = [run for run in study.of_arm(arm) if run.seed == seed]
    if not found:
        raise InvalidInput(f"the study has no run of arm {arm!r}, seed {seed}")
    folder = run_folder(runs, arm, seed)
    snapshot = folder / "snapshots" / f"step_{found[0].chosen:08d}"
    return snapshot if snapshot.is_dir() else folder


def run_study(
    wanted: Sequence[tuple[str, int]],
    *,
    plan: Plan,
    runs: Path,
    valid: Sequence[LabelledMolecule],
    sets: dict[str, Sequence[LabelledMolecule]],
    until: int | None = None,
    report: Callable[[str], None] = lambda text: None,
) -> SmallStudy:
    """Every pair of arm and seed, trained until a step; a finished one is kept in `runs` and not made again."""
    found = []
    for arm, seed in wanted:
        counts = "_".join(str(len(molecules)) for molecules in sets.values())
        kept = run_folder(runs, arm, seed) / f"evaluated_{counts}_{'end' if until is None else until}.json"
        if not kept.is_file():
            rows = rows_of_arm(plan, arm, seed, runs=runs, valid=valid, sets=sets, until=until or 0)
            write_text(kept, json.dumps(asdict(_of_rows(arm, seed, rows))) + "\n")
        found.append(_run(json.loads(kept.read_text(encoding="utf-8"))))
        start = next(iter(found[-1].results["test"].values()))
        report(f"{arm}, seed {seed}: {np.abs(start.after).mean():.3f} mHa")
    head, dirty = commit()
    stamp = {"commit": head, "dirty": dirty, "machine": machine()}
    snapshot = next(iter(snapshots_of(run_folder(runs, *wanted[0]), until or 0).values()))
    size = sum(p.numel() for p in load(snapshot).network.parameters())
    formulas = {name: [entry.molecule.formula for entry in molecules] for name, molecules in sets.items()}
    atoms = {name: [entry.molecule.num_atoms for entry in molecules] for name, molecules in sets.items()}
    num_train = arm_recipe(next(iter(plan.arms)), seed=0, plan=plan).data.count
    return SmallStudy(tuple(found), formulas, atoms, num_train, size, stamp)


def _of_rows(arm: str, seed: int, rows: Sequence[Mapping[str, Any]]) -> SmallRun:
    steps = [row for row in rows if row["set"] == VALID]
    results: dict[str, dict[str, dict[str, list]]] = {}
    for row in (row for row in rows if row["set"] != VALID):
        columns = results.setdefault(row["set"], {}).setdefault(row["start"], {})
        for name in StartResult.__annotations__:
            columns.setdefault(name, []).append(row[name])
    snapshots = tuple(Snapshot(row["step"], row["error"], row["converged"]) for row in steps)
    chosen = next(row["step"] for row in steps if row["chosen"])
    made = {name: {start: StartResult(**columns) for start, columns in of.items()} for name, of in results.items()}
    return SmallRun(arm, seed, snapshots, chosen, made)


def read_study(values: dict[str, Any]) -> SmallStudy:
    """A study from its JSON. Raises KeyError or TypeError for anything else."""
    return SmallStudy(**{**values, "runs": tuple(_run(run) for run in values["runs"])})


def _run(values: dict[str, Any]) -> SmallRun:
    results = {
        name: {start: StartResult(**columns) for start, columns in starts.items()}
        for name, starts in values["results"].items()
    }
    snapshots = tuple(Snapshot(**entry) for entry in values["snapshots"])
    return SmallRun(**{**values, "results": results, "snapshots": snapshots})
