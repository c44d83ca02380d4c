"""One functional for several compositions, minimised on unseen geometries and on molecules larger than it has met."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from molkit.claims.ledger import REPOSITORY
from molkit.claims.provenance import commit, machine
from molkit.config import stored_json, whole_number
from molkit.errors import InvalidInput, RunError
from molkit.metrics.statistics import Interval, bootstrap_interval, interval_over_runs
from molkit.ofdft.attention import AttentionConfig
from molkit.ofdft.attention_functional import AttentionEnergy, AttentionFunctional, load
from molkit.ofdft.attention_training import AttentionRecipe, read_attention_recipe, train_attention
from molkit.ofdft.guess import guess_coefficients
from molkit.ofdft.label_files import LabelledMolecule
from molkit.ofdft.optimise import OptimiseOptions, optimise
from molkit.studies.ofdft_water import MILLI, StartResult, rounded
from molkit.training.files import write_text
from molkit.training.run_folder import has_run, load_state

STORED = REPOSITORY / "data" / "studies" / "ofdft_small.json"
RECIPE = REPOSITORY / "data" / "recipes" / "ofdft_small.yaml"
STARTS = ("Kohn-Sham", "reference", "MINAO", "Hückel")
ATOMS_ALONE = 1e6  # no pairs, no triples: least in `compositions.held_out_errors` of the training set
ARMS: dict[str, dict[str, Any]] = {
    "full": {},
    "no gradient labels": {"gradient_weight": 0.0},
    "no perturbed samples": {"samples": "steps"},
    "geometry": {"samples": "geometry", "gradient_weight": 0.0},
    "atom roots": {"roots": "atoms"},
    "atomic energies": {"roots": "atoms", "energy_ridge": ATOMS_ALONE},
}
SETS = ("test", "larger")


@dataclass(frozen=True)
class Plan:
    """The published recipe of a study, and what each arm changes in it; the first arm changes nothing.

    other_starts: what all arms but the first are minimised from.
    """

    recipe: Path
    arms: dict[str, dict[str, Any]]
    other_starts: tuple[str, ...] = STARTS


PLAN = Plan(RECIPE, ARMS)
OPTIONS = OptimiseOptions(tolerance=1e-5, max_steps=500)


@dataclass(frozen=True)
class Snapshot:
    """Averaged weights after some steps, and their mean absolute error after minimisation of validation geometries."""

    step: int
    error: float  # millihartree, from MINAO
    converged: float  # share


@dataclass(frozen=True)
class SmallRun:
    """One training of one arm: snapshots, and minimisations with the one whose validation error is least.

    `results` holds for each of SETS the starts; `energies` of the arm `geometry` are those of the network alone.
    """

    arm: str
    seed: int
    snapshots: tuple[Snapshot, ...]
    chosen: int  # step
    results: dict[str, dict[str, StartResult]]
    seconds: float  # CPU, of the evaluation


@dataclass(frozen=True)
class SmallStudy:
    """All runs, and the molecules of each of SETS: formulas, atoms, heavy atoms."""

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


def arm_recipe(arm: str, *, seed: int, plan: Plan = PLAN) -> AttentionRecipe:
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


def read_pairs(text: str, plan: Plan = PLAN) -> list[tuple[str, int]]:
    """`full:0,geometry:1` as pairs. Raises InvalidInput for another form or an unknown arm."""
    found = []
    for part in text.split(","):
        arm, _, seed = part.strip().partition(":")
        number = whole_number(seed, what=f"--arms {part.strip()}: what follows the colon, as in full:0,")
        arm_recipe(arm, seed=number, plan=plan)
        found.append((arm, number))
    return found


def start_of(energy: AttentionEnergy, entry: LabelledMolecule, start: str) -> np.ndarray:
    """z of one of STARTS, at exactly N electrons."""
    if start == "reference":
        return energy.on_constraint(np.zeros(len(energy.constraint)))
    if start == "predicted":
        return energy.on_constraint(energy.predicted())
    coefficients = {"MINAO": entry.guess, "Kohn-Sham": entry.labels.coefficients[entry.ground_state]}.get(start)
    if coefficients is None:
        coefficients = guess_coefficients(energy.integrals, "huckel")
    return energy.on_constraint(energy.reduce(coefficients))


def minimise_all(
    functional: AttentionFunctional, molecules: Sequence[LabelledMolecule], start: str, *, options: OptimiseOptions
) -> StartResult:
    """Minimise every molecule from one kind of start."""
    columns: dict[str, list] = {name: [] for name in StartResult.__annotations__}
    for entry in molecules:
        energy = functional.energy_of(entry.molecule)
        first = start_of(energy, entry, start)
        result = optimise(energy, first, constraint=energy.constraint, options=options)
        coefficients = energy.coefficients(result.variables)
        moved = energy.to_natural @ (coefficients - entry.labels.coefficients[entry.ground_state])
        columns["before"].append(MILLI * (energy(first)[0] - entry.energy))
        columns["after"].append(MILLI * (result.energy - entry.energy))
        columns["selected"].append(MILLI * (result.selected_energy - entry.energy))
        columns["density"].append(float(np.linalg.norm(moved)))
        electrons = float(energy.integrals.basis_integrals @ coefficients)
        columns["electrons"].append(electrons - energy.integrals.num_electrons)
        columns["steps"].append(result.num_steps)
        columns["converged"].append(result.converged)
    return StartResult(**columns)


def geometry_errors(functional: AttentionFunctional, molecules: Sequence[LabelledMolecule]) -> StartResult:
    """Energies of the network at z = 0, where no density enters: the direct network of the same size."""
    errors = []
    for entry in molecules:
        energy = functional.energy_of(entry.molecule)
        errors.append(MILLI * (energy(np.zeros(len(energy.constraint)))[0] - entry.energy))
    count = len(errors)
    nothing = [0.0] * count
    return StartResult(errors, errors, errors, nothing, nothing, [0] * count, [True] * count)


def evaluate(
    functional: AttentionFunctional, molecules: Sequence[LabelledMolecule], arm: str, starts: Sequence[str]
) -> dict[str, StartResult]:
    """Errors from every start; the arm `geometry`, of whatever size of training set, has one, called by that name."""
    if arm.startswith("geometry"):
        return {"geometry": geometry_errors(functional, molecules)}
    return {start: minimise_all(functional, molecules, start, options=OPTIONS) for start in starts}


def snapshots_of(run: Path, until: int | None = None) -> dict[int, Path]:
    """Folders of the snapshots of a run by step, up to a step; without one, of a finished run with its last weights."""
    found = {int(path.name.split("_")[1]): path for path in sorted((run / "snapshots").glob("step_*"))}
    if until is not None:
        return {step: path for step, path in found.items() if step <= until}
    _, numbers = load_state(run)
    return {**found, int(numbers["step"]): run}


class _Reached(Exception):
    """The step that was asked for."""


def train_arm(recipe: AttentionRecipe, out: Path, until: int | None = None) -> None:
    """Train a recipe to its end, or to the snapshot of a step; what is there is not made again.

    The schedule is that of the whole training. Raises RunError where the training was stopped before.
    """
    if until is not None and until in snapshots_of(out, until):
        return

    def on_step(step: int) -> None:
        if step == until:
            raise _Reached

    try:
        finished = train_attention(recipe, out=out, resume=has_run(out), progress_bar=False, on_step=on_step).finished
    except _Reached:
        finished = True
    if not finished or (until is not None and until not in snapshots_of(out, until)):
        raise RunError(
            f"{out}: the training was stopped, or keeps no snapshot of step {until}; the same command goes on"
        )


def run_arm(
    arm: str,
    seed: int,
    *,
    runs: Path,
    valid: Sequence[LabelledMolecule],
    sets: dict[str, Sequence[LabelledMolecule]],
    until: int | None = None,
    plan: Plan = PLAN,
) -> SmallRun:
    """Train one arm (or take its run), choose a snapshot by validation, and minimise on every set.

    Raises what `train_arm` raises.
    """
    out = run_folder(runs, arm, seed)
    train_arm(arm_recipe(arm, seed=seed, plan=plan), out, until)
    started, snapshots, functionals = process_time(), [], {}
    for step, folder in snapshots_of(out, until).items():
        functionals[step] = load(folder)
        (found,) = evaluate(functionals[step], valid, arm, ("MINAO",)).values()
        snapshots.append(Snapshot(step, float(np.abs(found.after).mean()), float(np.mean(found.converged))))
    chosen = min(snapshots, key=lambda entry: entry.error).step
    starts = STARTS if arm == next(iter(plan.arms)) else plan.other_starts
    results = {name: evaluate(functionals[chosen], molecules, arm, starts) for name, molecules in sets.items()}
    return SmallRun(arm, seed, tuple(snapshots), chosen, results, round(process_time() - started, 2))


def run_folder(runs: Path, arm: str, seed: int) -> Path:
    """Where the run of an arm lies."""
    return runs / f"{arm.replace(' ', '_')}_{seed}"


def chosen_weights(study: SmallStudy, runs: Path, arm: str, seed: int) -> Path:
    """The snapshot that validation chose. Raises InvalidInput where the study has no such run."""
    found = [run for run in study.of_arm(arm) if run.seed == seed]
    if not found:
        raise InvalidInput(f"the study of several compositions has no run of arm {arm!r}, seed {seed}")
    folder = run_folder(runs, arm, seed)
    snapshot = folder / "snapshots" / f"step_{found[0].chosen:08d}"
    return snapshot if snapshot.is_dir() else folder


def run_study(
    wanted: Sequence[tuple[str, int]],
    *,
    runs: Path,
    valid: Sequence[LabelledMolecule],
    sets: dict[str, Sequence[LabelledMolecule]],
    until: int | None = None,
    plan: Plan = PLAN,
    report: Callable[[str], None] = lambda text: None,
) -> SmallStudy:
    """Every pair of arm and seed, trained until a step; a finished one is kept in `runs` and not made again."""
    found = []
    for arm, seed in wanted:
        counts = "_".join(str(len(molecules)) for molecules in sets.values())
        kept = run_folder(runs, arm, seed) / f"evaluated_{counts}_{'end' if until is None else until}.json"
        if not kept.is_file():
            made = run_arm(arm, seed, runs=runs, valid=valid, sets=sets, until=until, plan=plan)
            write_text(kept, json.dumps(asdict(made)) + "\n")
        found.append(_run(json.loads(kept.read_text(encoding="utf-8"))))
        start = next(iter(found[-1].results["test"].values()))
        report(f"{arm}, seed {seed}: {np.abs(start.after).mean():.3f} mHa")
    head, dirty = commit()
    stamp = {"commit": head, "dirty": dirty, "machine": machine()}
    snapshot = next(iter(snapshots_of(run_folder(runs, *wanted[0]), until).values()))
    size = sum(p.numel() for p in load(snapshot).network.parameters())
    formulas = {name: [entry.molecule.formula for entry in molecules] for name, molecules in sets.items()}
    atoms = {name: [entry.molecule.num_atoms for entry in molecules] for name, molecules in sets.items()}
    num_train = arm_recipe(next(iter(plan.arms)), seed=0, plan=plan).data.count
    return SmallStudy(tuple(found), formulas, atoms, num_train, size, stamp)


def write_study(study: SmallStudy, path: Path) -> None:
    """Keep a study as JSON. Raises RunError when the disk refuses."""
    write_text(path, json.dumps(rounded(asdict(study))) + "\n")


def stored_study(path: Path = STORED) -> SmallStudy:
    """What `molkit study ofdft-small` wrote. Raises DataNotFound or InvalidInput."""
    with stored_json(path, "a study of several compositions", f"molkit study ofdft-small --out {path}") as values:
        return read_study(values)


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
