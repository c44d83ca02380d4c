"""The compact functional on water: arms of the ablation, and what minimisation makes of each on unseen geometries."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch

from molkit.claims.ledger import REPOSITORY, Measurement
from molkit.claims.provenance import commit, machine
from molkit.claims.store import record
from molkit.errors import DataNotFound, InvalidInput, RunError
from molkit.metrics.statistics import Interval, bootstrap_interval, interval_over_runs
from molkit.ofdft.classes import class_named
from molkit.ofdft.compact import CompactEnergy, CompactFunctional, load
from molkit.ofdft.compact_training import CompactRecipe, read_compact_recipe, train_compact
from molkit.ofdft.direct import train_direct, width_for
from molkit.ofdft.label_files import LabelledMolecule, load_folder
from molkit.ofdft.natural import NaturalFrame
from molkit.ofdft.optimise import OptimiseOptions, optimise
from molkit.ofdft.reduction import frames_of, reduce_samples
from molkit.training.files import read_packed, write_packed, write_text
from molkit.training.run_folder import has_run
from molkit.units import HARTREE_TO_KCAL

STORED = REPOSITORY / "data" / "studies" / "ofdft_water.json.gz"
RECIPE = REPOSITORY / "data" / "recipes" / "ofdft_water.yaml"
STARTS = ("Kohn-Sham", "reference", "mean", "MINAO")
PLAIN, FIXED = {"coordinates": "variance"}, {"reference_degree": 0}
ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "full": {},
    "no gradient labels": {"data": {"gradient_weight": 0.0}},
    "no perturbed samples": {"data": {"samples": "steps"}},
    "fixed reference": {"model": {"reference_degree": 0}},
    "variance coordinates": {"data": {"coordinates": "variance"}},
    "variance, no gradient labels": {"data": {"coordinates": "variance", "gradient_weight": 0.0}},
    "variance, no perturbed samples": {"data": {"coordinates": "variance", "samples": "steps"}},
    "plain": {"data": PLAIN, "model": FIXED},
    "plain, no gradient labels": {"data": {**PLAIN, "gradient_weight": 0.0}, "model": FIXED},
    "plain, no perturbed samples": {"data": {**PLAIN, "samples": "steps"}, "model": FIXED},
}
DIRECT_STEPS = 2000
MILLI = 1e3
NEAR = 0.02  # hartree above the ground state: "near" it


@dataclass(frozen=True)
class StartResult:
    """Minimisations from one kind of start on every test geometry; errors against Kohn-Sham in millihartree."""

    before: list[float]  # energy error of the start
    after: list[float]  # of the last density
    selected: list[float]  # of the step chosen by the paper's rule
    density: list[float]  # norm of the error of the last density in natural coordinates
    electrons: list[float]  # number of electrons of the last density minus N
    steps: list[int]
    converged: list[bool]


@dataclass(frozen=True)
class ArmRun:
    """One training of one arm; regression errors are means over test samples in millihartree."""

    arm: str
    seed: int
    regression_near: float
    regression_all: float
    num_samples: int
    starts: dict[str, StartResult]
    seconds: float  # CPU, training and minimisations


@dataclass(frozen=True)
class DirectRun:
    """A network from distances to energy, of the size of the functional's; errors in millihartree."""

    seed: int
    errors: list[float]
    num_parameters: int
    seconds: float  # CPU


@dataclass(frozen=True)
class WaterStudy:
    """All runs, and what they rest on."""

    runs: tuple[ArmRun, ...]
    num_train: int
    num_test: int
    spread: float  # standard deviation of the Kohn-Sham energies of the test geometries, millihartree
    stamp: dict[str, Any]
    direct: tuple[DirectRun, ...] = ()

    @property
    def arms(self) -> list[str]:
        """Arms that have runs, in the order of ARMS."""
        return [arm for arm in ARMS if self.of_arm(arm)]

    def of_arm(self, arm: str) -> list[ArmRun]:
        """The runs of an arm, by seed."""
        return sorted((run for run in self.runs if run.arm == arm), key=lambda run: run.seed)

    def error(self, arm: str, start: str, column: str = "after") -> Interval:
        """Mean absolute error of an arm over geometries, with the interval over its seeds."""
        runs = [np.abs(getattr(run.starts[start], column)) for run in self.of_arm(arm)]
        return interval_over_runs([bootstrap_interval(values) for values in runs], positive=True)

    def direct_error(self) -> Interval:
        """Mean absolute error of the direct networks, with the interval over their seeds."""
        return interval_over_runs([bootstrap_interval(np.abs(run.errors)) for run in self.direct], positive=True)


def arm_recipe(arm: str, *, seed: int, path: Path = RECIPE) -> CompactRecipe:
    """The published recipe with the changes of an arm. Raises InvalidInput for an unknown arm."""
    if arm not in ARMS:
        raise InvalidInput(f"arms are {', '.join(ARMS)}; got {arm!r}")
    recipe = read_compact_recipe(path)
    changes = ARMS[arm]
    return replace(
        recipe,
        data=replace(recipe.data, **changes.get("data", {})),
        model=replace(recipe.model, **changes.get("model", {})),
        training=replace(recipe.training, seed=seed),
    )


def start_of(energy: CompactEnergy, entry: LabelledMolecule, start: str) -> np.ndarray:
    """z of one of STARTS, at the reference's number of electrons."""
    functional = energy.functional
    starts: dict[str, Callable[[], np.ndarray]] = {
        "Kohn-Sham": lambda: energy.reduce(entry.labels.coefficients[entry.ground_state]),
        "reference": lambda: np.zeros(functional.config.num_components),
        "mean": lambda: energy.from_natural_density(functional.reduction.mean_density),
        "MINAO": lambda: energy.reduce(entry.guess),
    }
    return energy.on_constraint(starts[start]())


def minimise_on(
    functional: CompactFunctional, molecules: Sequence[LabelledMolecule], frames: Sequence[NaturalFrame], start: str
) -> StartResult:
    """Minimise on every geometry from one kind of start."""
    columns: dict[str, list] = {name: [] for name in StartResult.__annotations__}
    for entry, frame in zip(molecules, frames, strict=True):
        energy = CompactEnergy(functional, frame)
        first = start_of(energy, entry, start)
        result = optimise(energy, first, constraint=energy.constraint, options=OptimiseOptions())
        coefficients = energy.coefficients(result.variables)
        natural = frame.to_natural @ (coefficients - entry.labels.coefficients[entry.ground_state])
        count = float(frame.integrals.basis_integrals @ coefficients)
        columns["before"].append(MILLI * (energy(first)[0] - entry.energy))
        columns["after"].append(MILLI * (result.energy - entry.energy))
        columns["selected"].append(MILLI * (result.selected_energy - entry.energy))
        columns["density"].append(float(np.linalg.norm(natural)))
        columns["electrons"].append(count - frame.integrals.num_electrons)
        columns["steps"].append(result.num_steps)
        columns["converged"].append(result.converged)
    return StartResult(**columns)


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


def run_arm(
    arm: str, seed: int, *, runs: Path, test: Sequence[LabelledMolecule], frames: Sequence[NaturalFrame]
) -> ArmRun:
    """Train one arm (or take its finished run), then minimise on the test geometries from every start.

    Raises RunError where the training was stopped before its end.
    """
    started = process_time()
    recipe, out = arm_recipe(arm, seed=seed), runs / _folder(arm, seed)
    if not train_compact(recipe, out=out, resume=has_run(out), progress_bar=False).finished:
        raise RunError(f"{out}: the training was stopped; the same command continues it")
    functional = load(out)
    near, everywhere, count = regression_errors(functional, test, frames, ceiling=recipe.data.ceiling)
    starts = {start: minimise_on(functional, test, frames, start) for start in STARTS}
    return ArmRun(arm, seed, near, everywhere, count, starts, round(process_time() - started, 2))


def run_direct(seed: int, train: Sequence[LabelledMolecule], test: Sequence[LabelledMolecule]) -> DirectRun:
    """Train a direct network on the geometries and energies of the functional's training set."""
    started, kind = process_time(), class_named("water")
    size = sum(parameter.numel() for parameter in load("ofdft_water").network.parameters())
    (seen, energies), (unseen, wanted) = (
        (
            np.stack([kind.descriptors(entry.molecule.positions) for entry in entries]),
            np.array([entry.energy for entry in entries]),
        )
        for entries in (train, test)
    )
    model = train_direct(seen, energies, width=width_for(size, len(kind.pairs)), steps=DIRECT_STEPS, seed=seed)
    errors = MILLI * (model.energies(unseen) - wanted)
    return DirectRun(seed, errors.tolist(), model.num_parameters, round(process_time() - started, 2))


def run_study(
    arms: Sequence[str],
    seeds: Sequence[int],
    *,
    runs: Path,
    labels: Path,
    num_test: int | None = None,
    report: Callable[[str], None] = lambda text: None,
) -> WaterStudy:
    """Every arm with every seed; a finished arm is kept in `runs` and not made again."""
    test = load_folder(labels, "water", "test", limit=num_test)
    frames = frames_of(test, class_named("water"))
    found = []
    for arm in arms:
        for seed in seeds:
            kept = runs / _folder(arm, seed) / f"test_{len(test)}.json"
            if not kept.is_file():
                write_text(kept, json.dumps(asdict(run_arm(arm, seed, runs=runs, test=test, frames=frames))) + "\n")
            found.append(_arm_run(json.loads(kept.read_text(encoding="utf-8"))))
            report(f"{arm}, seed {seed}: {np.abs(found[-1].starts['MINAO'].after).mean():.3f} mHa from MINAO")
    energies = np.array([entry.energy for entry in test])
    data = arm_recipe("full", seed=0).data
    train = load_folder(REPOSITORY / data.folder, "water", "train", limit=data.count or None)
    direct = tuple(run_direct(seed, train, test) for seed in seeds)
    head, dirty = commit()
    stamp = {"commit": head, "dirty": dirty, "machine": machine()}
    return WaterStudy(tuple(found), len(train), len(test), float(MILLI * energies.std(ddof=1)), stamp, direct)


def write_study(study: WaterStudy, path: Path) -> None:
    """Keep a study as JSON. Raises RunError when the disk refuses."""
    write_packed(path, json.dumps(rounded(asdict(study))) + "\n")


def rounded(value: Any) -> Any:
    """Six significant digits for every number, so that the table stays small."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return [rounded(entry) for entry in value] if isinstance(value, list | tuple) else value


def stored_study(path: Path = STORED) -> WaterStudy:
    """What `molkit study ofdft-water` wrote. Raises DataNotFound or InvalidInput."""
    if not path.is_file():
        raise DataNotFound(f"{path}: no stored study; make it with `molkit study ofdft-water --out {path}`")
    try:
        values = json.loads(read_packed(path))
        direct = tuple(DirectRun(**run) for run in values.get("direct", ()))
        return WaterStudy(**{**values, "runs": tuple(_arm_run(run) for run in values["runs"]), "direct": direct})
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path}: not a study of water ({error})") from error


CLAIMED = {
    "mofdft.ablation.full": "plain",
    "mofdft.ablation.no_gradients": "plain, no gradient labels",
    "mofdft.ablation.steps_only": "plain, no perturbed samples",
}


def measurements(study: WaterStudy) -> list[Measurement]:
    """Record what the study says of the paper's ablation (from MINAO).

    By the plain arms, without response coordinates and predicted reference: the paper has neither.
    """
    seconds = sum(run.seconds for run in study.runs)
    common = {"counts": "geometries", "basis": "scaled_down", "seconds": seconds, "interval_kind": "trainings, 95 %"}
    common |= {"seeds": [run.seed for run in study.of_arm("full")], "n": study.num_test}
    found = []
    for claim, arm in CLAIMED.items():
        error = study.error(arm, "MINAO").scaled(HARTREE_TO_KCAL / MILLI)
        note = f"water instead of ethanol, arm {arm!r}"
        found.append(record(claim, error.value, interval=(error.low, error.high), notes=note, **common))
    return found


def _arm_run(values: dict[str, Any]) -> ArmRun:
    starts = {name: StartResult(**columns) for name, columns in values["starts"].items()}
    return ArmRun(**{**values, "starts": starts})


def _folder(arm: str, seed: int) -> str:
    return f"{arm.replace(',', '').replace(' ', '_')}_{seed}"
