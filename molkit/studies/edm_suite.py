"""Suites: recipes trained side by side, each with several seeds, sampled and scored in one and the same way.

A suite is a folder data/recipes/suites/NAME with one complete recipe an arm and `protocol.yaml`, which says how every
arm is sampled and scored. Every (arm, seed) has a run folder and, once finished, a result file; both are kept, so that
an interrupted suite continues.
"""

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch

from molkit.claims.ledger import REPOSITORY
from molkit.claims.provenance import commit, machine, versions
from molkit.config import from_dict, read_yaml, stored_json
from molkit.edm.farm import sample_many
from molkit.edm.model import build
from molkit.edm.recipes import RECIPES, read_recipe
from molkit.edm.training import train_recipe
from molkit.errors import DataNotFound, InvalidInput, MolkitError, RunError
from molkit.metrics.statistics import Interval
from molkit.studies.edm_evaluation import nll_on_test, score
from molkit.training.files import write_text
from molkit.training.run_folder import append_json, has_run

SUITES = RECIPES / "suites"
STORED = REPOSITORY / "data" / "studies"
CURVE_POINTS = 40


class Interrupted(MolkitError):
    """A training of a suite was asked to stop before its end; it continues when the suite is run again."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How every arm of a suite is sampled and scored."""

    num_samples: int = 1000
    num_calls: int = 100
    sampler: str = "ancestral"
    sample_seed: int = 0
    nll_molecules: int = 2000  # of the test split


@dataclass(frozen=True)
class ArmResult:
    """One training of one arm: what it cost and what it reached. Shares are in 0..1, the bound in nats."""

    suite: str
    arm: str
    seed: int
    failure: str  # why there are no figures; empty when there are
    passes: int
    steps: int
    num_parameters: int
    cpu_seconds: float  # of the training process, all sessions
    wall_seconds: float
    error: tuple[tuple[int, float], ...]  # (passes, mean squared error of noise per component), thinned
    num_samples: int  # asked for; chains that failed count as molecules without a stable atom
    num_failed: int
    atom_stability: Interval | None
    molecule_stability: Interval | None
    validity: Interval | None
    valid_and_unique: Interval | None
    nll: Interval | None  # None where the model has no such bound
    provenance: dict[str, Any]


def arms_of(suite: str, *, root: Path = SUITES) -> dict[str, Path]:
    """Arm -> recipe file. Raises DataNotFound naming the suites there are."""
    recipes = {path.stem: path for path in sorted((root / suite).glob("*.yaml")) if path.stem != "protocol"}
    if not recipes:
        known = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
        raise DataNotFound(f"{suite}: no suite of that name in {root}; there are {', '.join(known) or 'none'}")
    return recipes


def protocol_of(suite: str, *, root: Path = SUITES) -> Protocol:
    """The suite's protocol; the default one where it has no file."""
    path = root / suite / "protocol.yaml"
    return from_dict(Protocol, read_yaml(path), source=str(path)) if path.is_file() else Protocol()


def result_path(runs: Path, arm: str, seed: int) -> Path:
    """Where the result of one training is kept."""
    return runs / "results" / f"{arm}_seed{seed}.json"


def run_suite(
    suite: str,
    runs: Path,
    *,
    arms: Sequence[str] = (),
    seeds: Iterable[int] = (0,),
    executor: Executor | None = None,
    root: Path = SUITES,
) -> list[ArmResult]:
    """Train, sample and score the arms (default: all) with every seed; finished ones are read, not repeated.

    All arms of one seed come before the next seed. Raises InvalidInput for an unknown arm.
    """
    recipes = arms_of(suite, root=root)
    for arm in arms:
        if arm not in recipes:
            raise InvalidInput(f"suite {suite} has no arm {arm!r}; it has {', '.join(recipes)}")
    jobs = [(suite, arm, seed, str(runs), str(root)) for seed in seeds for arm in arms or recipes]
    if executor is None:
        return [run_arm(*job) for job in jobs]
    return [future.result() for future in [executor.submit(run_arm, *job) for job in jobs]]


def run_arm(suite: str, arm: str, seed: int, runs: str, root: str = str(SUITES)) -> ArmResult:
    """One arm with one seed, continued where it stood. A training that fails is a result that says why."""
    target = result_path(Path(runs), arm, seed)
    if target.is_file():
        return read_result(target)
    torch.set_num_threads(1)
    protocol, recipe = protocol_of(suite, root=Path(root)), arms_of(suite, root=Path(root))[arm]
    folder = Path(runs) / f"{arm}_seed{seed}"
    failure = _train(recipe, folder, seed)
    num_parameters = sum(p.numel() for p in build(read_recipe(recipe).model).network.parameters())
    result = _evaluate(suite, arm, seed, folder, protocol, failure, num_parameters)
    write_text(target, json.dumps(asdict(result), indent=1) + "\n")
    return result


def _train(recipe: Path, folder: Path, seed: int) -> str:
    """Train to the end; CPU and wall seconds of the session are noted. Returns why it failed, or nothing.

    Raises Interrupted where the training was asked to stop: half a training is no result.
    """
    started, wall = process_time(), perf_counter()
    if not read_recipe(recipe).training.total_steps:
        raise InvalidInput(f"{recipe}: a recipe of a suite fixes its total_steps")
    try:
        result = train_recipe(recipe, out=folder, seed=seed, resume=has_run(folder), device="cpu", progress_bar=False)
    except RunError as error:
        return str(error)
    finally:
        seconds = {"cpu_seconds": process_time() - started, "wall_seconds": perf_counter() - wall}
        if folder.is_dir():
            append_json(folder / "cost.jsonl", seconds)
    if not result.finished:
        raise Interrupted(f"{folder}: stopped at step {result.step} of {result.total_steps}; run the suite again")
    return ""


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _evaluate(
    suite: str, arm: str, seed: int, folder: Path, protocol: Protocol, failure: str, num_parameters: int
) -> ArmResult:
    lines, costs = _json_lines(folder / "metrics.jsonl"), _json_lines(folder / "cost.jsonl")
    figures = dict.fromkeys(("atom_stability", "molecule_stability", "validity", "valid_and_unique", "nll"))
    lost = 0
    if not failure:
        molecules = sample_many(
            folder,
            protocol.num_samples,
            seed=protocol.sample_seed,
            num_calls=protocol.num_calls,
            sampler=protocol.sampler,
            folder=folder / "samples",
        )
        lost = protocol.num_samples - len(molecules)
        found = score(molecules, num_failed=lost)
        figures |= {name: getattr(found, name) for name in figures if name != "nll"}
        figures["nll"] = nll_on_test(folder, num_molecules=protocol.nll_molecules).mean
    head, dirty = commit()
    stamp = {"commit": head, "dirty": dirty, "machine": machine(), "versions": versions(), **asdict(protocol)}
    return ArmResult(
        suite=suite,
        arm=arm,
        seed=seed,
        failure=failure,
        passes=lines[-1]["passes"] if lines else 0,
        steps=lines[-1]["step"] if lines else 0,
        num_parameters=num_parameters,
        cpu_seconds=round(sum(cost["cpu_seconds"] for cost in costs), 1),
        wall_seconds=round(sum(cost["wall_seconds"] for cost in costs), 1),
        error=thinned([(line["passes"], line["noise_error"]) for line in lines]),
        num_samples=protocol.num_samples,
        num_failed=lost,
        provenance=stamp,
        **figures,
    )


def thinned(points: list[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """At most CURVE_POINTS means over stretches of equal length, at the end of each stretch."""
    if not points:
        return ()
    parts = np.array_split(np.array(points, dtype=float), min(CURVE_POINTS, len(points)))
    return tuple((int(part[-1, 0]), round(float(part[:, 1].mean()), 6)) for part in parts)


def result_from(values: dict[str, Any], source: str) -> ArmResult:
    """An ArmResult from its JSON. Raises InvalidInput naming the source."""
    try:
        fields = dict(values)
        for name in ("atom_stability", "molecule_stability", "validity", "valid_and_unique", "nll"):
            fields[name] = None if fields[name] is None else Interval(**fields[name])
        fields["error"] = tuple((int(passes), float(error)) for passes, error in fields["error"])
        return ArmResult(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"{source}: not a result of a suite ({error})") from error


def read_result(path: Path) -> ArmResult:
    """The stored result of one training. Raises InvalidInput."""
    try:
        return result_from(json.loads(path.read_text(encoding="utf-8")), str(path))
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{path}: not a result of a suite ({error})") from error


def collect(suite: str, runs: Path, *, target: Path | None = None) -> Path:
    """Write the results found in `runs` to one file, data/studies/SUITE.json; returns its path.

    Raises DataNotFound when there are none.
    """
    results = [read_result(path) for path in sorted((runs / "results").glob("*.json"))]
    if not results:
        raise DataNotFound(f"{runs}: no finished arm; run `molkit suite run {suite} --out {runs}` first")
    target = STORED / f"{suite}.json" if target is None else target
    write_text(target, json.dumps([asdict(result) for result in results], indent=1) + "\n")
    return target


def stored_results(suite: str, *, folder: Path = STORED) -> list[ArmResult]:
    """The collected results of a suite. Raises DataNotFound or InvalidInput."""
    path = folder / f"{suite}.json"
    with stored_json(path, "the results of a suite", f"molkit suite run {suite}") as entries:
        return [result_from(entry, str(path)) for entry in entries]
