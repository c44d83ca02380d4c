"""Reference ensembles of many molecules: made on a farm, resumable, and packed with what was reached."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import asdict
from pathlib import Path

import numpy as np

from molkit.chem.ensembles import EnsembleRules, EnsembleTask, make_ensemble
from molkit.data.ensemble_molecules import NamedSmiles, fair_key
from molkit.data.ensembles import Ensemble
from molkit.errors import InvalidInput
from molkit.farm.folder import FarmFolder, Result
from molkit.farm.run import FarmReport, report, run_farm

TIMEOUT = 900.0  # seconds of one molecule, where workers are processes


def ensemble_tasks(
    molecules: Sequence[NamedSmiles], *, num_starts: int, seed: int, rules: EnsembleRules
) -> dict[str, EnsembleTask]:
    """One task a molecule; its seed follows from its name. Raises InvalidInput for no starts."""
    if num_starts < 1:
        raise InvalidInput(f"the number of starts must be at least 1, got {num_starts}")
    return {
        one.name: EnsembleTask(
            one.name, one.smiles, num_starts, (seed + int(fair_key(one.name)[:7], 16)) % 2**31, rules
        )
        for one in molecules
    }


def generate(
    tasks: dict[str, EnsembleTask],
    folder: Path,
    *,
    executor: Executor | None = None,
    minutes: float | None = None,
    progress: bool = False,
    say: Callable[[str], object] | None = None,
) -> FarmReport:
    """Make what is missing, in order, until done or the time is up; what failed is noted and not tried again."""
    if not tasks:
        raise InvalidInput("no molecules to make ensembles of")
    first = next(iter(tasks.values()))
    settings = asdict(first.rules) | {"num_starts": first.num_starts}
    found = run_farm(
        make_ensemble,
        tasks,
        folder,
        executor=executor,
        timeout=TIMEOUT if executor is not None else None,
        minutes=minutes,
        settings=settings,
        progress=progress,
        unit="molecule",
    )
    if say is not None:
        say(f"{len(found.done) + len(found.failed)} of {len(tasks)} molecules tried")
    return found


def ensemble_of(name: str, result: Result, *, split: str) -> Ensemble:
    """The ensemble in a farm's result."""
    return Ensemble(
        name=name,
        smiles=str(result["smiles"]),
        atomic_numbers=result["atomic_numbers"],
        formal_charges=result["formal_charges"],
        bonds=result["bonds"].astype(np.int64),
        positions=result["positions"],
        energies=result["energies"],
        split=split,
        counts=dict(zip(result["count_names"].tolist(), result["counts"].tolist(), strict=True)),
    )


def collect(folder: Path, *, split: str, limit: int | None = None) -> tuple[list[Ensemble], dict[str, str]]:
    """Ensembles of a farm's folder in the order of its tasks (the first `limit`), and why others have none.

    Raises InvalidInput for a folder without any.
    """
    place = FarmFolder(Path(folder))
    manifest = place.manifest()
    found = report(place, list(manifest.get("tasks", {})))
    if not found.done:
        raise InvalidInput(f"{folder}: no finished ensembles; `molkit ensembles make` makes them")
    return [ensemble_of(key, found.result(key), split=split) for key in found.done[:limit]], found.failed


def one_ensemble(smiles: str, *, num_starts: int, seed: int) -> Ensemble:
    """The reference ensemble of one molecule, made now. Raises what make_ensemble raises."""
    task = ensemble_tasks([NamedSmiles(smiles, smiles)], num_starts=num_starts, seed=seed, rules=EnsembleRules())
    return ensemble_of(smiles, make_ensemble(task[smiles]), split="test")
