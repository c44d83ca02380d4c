"""Reference sets made here, molecule by molecule on a farm: ensembles of minima, and trajectories split by isomer."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from molkit.chem.bond_graph import mol_from_bonds, order_of_atoms
from molkit.chem.ensembles import EnsembleRules, EnsembleTask, described, make_ensemble
from molkit.chem.rdkit_tools import perceive_bonds, plain_smiles
from molkit.chem.xtb import LangevinRules, langevin
from molkit.data.ensembles import Ensemble, NamedSmiles, choose_isomers, fair_key
from molkit.data.geom_ensembles import split_of_graph
from molkit.errors import CalculationFailed, InvalidInput
from molkit.farm.folder import FarmFolder, Result
from molkit.farm.run import FarmReport, report, run_farm
from molkit.molecule import Molecule
from molkit.units import EV_TO_KCAL

TIMEOUT = 3600.0  # seconds of one molecule, where workers are processes


@dataclass(frozen=True)
class TrajectoryTask:
    """One isomer: everything a worker needs, picklable."""

    smiles: str
    atomic_numbers: tuple[int, ...]
    positions: tuple[tuple[float, float, float], ...]
    num_frames: int
    seed: int
    rules: LangevinRules


def make_trajectory(task: TrajectoryTask) -> dict[str, np.ndarray]:
    """Frames of one isomer, from its QM9 geometry; frames in which a bond has changed are counted and left out.

    Raises CalculationFailed where none is left.
    """
    molecule = Molecule(np.array(task.atomic_numbers), np.array(task.positions))
    mol = perceive_bonds(molecule).mol
    if mol is None:
        raise CalculationFailed(f"no bonds perceived in the geometry of {task.smiles}")
    told = described(mol)
    graph = mol_from_bonds(told["atomic_numbers"], told["bonds"], told["formal_charges"])
    frames = list(langevin(molecule, num_frames=task.num_frames, seed=task.seed, rules=task.rules))
    kept = [one for one in frames if order_of_atoms(graph, molecule.with_positions(one.positions)) is not None]
    if not kept:
        raise CalculationFailed(f"{task.smiles}: no frame of {len(frames)} has the bonds of the molecule")
    energies = np.array([one.potential for one in kept]) * EV_TO_KCAL
    return told | {
        "smiles": np.array(plain_smiles(mol)),
        "positions": np.array([one.positions for one in kept]),
        "energies": energies - energies.min(),
        "kelvin": np.array([one.kelvin for one in kept]),
        "count_names": np.array(["frames", "changed"]),
        "counts": np.array([len(frames), len(frames) - len(kept)]),
    }


def seed_of(name: str, seed: int) -> int:
    """The seed of a molecule, which follows from its name."""
    return (seed + int(fair_key(name)[:7], 16)) % 2**31


def ensemble_tasks(
    molecules: Sequence[NamedSmiles], *, num_starts: int, seed: int, rules: EnsembleRules
) -> dict[str, EnsembleTask]:
    """One task a molecule. Raises InvalidInput for no starts."""
    if num_starts < 1:
        raise InvalidInput(f"the number of starts must be at least 1, got {num_starts}")
    return {
        one.name: EnsembleTask(one.name, one.smiles, num_starts, seed_of(one.name, seed), rules) for one in molecules
    }


def trajectory_tasks(count: int, *, num_frames: int, seed: int, rules: LangevinRules) -> dict[str, TrajectoryTask]:
    """One task an isomer of C7H10O2. Raises InvalidInput for no frames."""
    if num_frames < 1:
        raise InvalidInput(f"the number of frames must be at least 1, got {num_frames}")
    return {
        name: TrajectoryTask(
            smiles,
            tuple(molecule.atomic_numbers.tolist()),
            tuple(map(tuple, molecule.positions.tolist())),
            num_frames,
            seed_of(name, seed),
            rules,
        )
        for name, smiles, molecule in choose_isomers(count)
    }


def make_all(
    make: Callable[[EnsembleTask], Result] | Callable[[TrajectoryTask], Result],
    tasks: Mapping[str, EnsembleTask] | Mapping[str, TrajectoryTask],
    folder: Path,
    *,
    executor: Executor | None = None,
    minutes: float | None = None,
    progress: bool = False,
) -> FarmReport:
    """Make what is missing, in order, until done or the time is up; what failed is noted and not tried again."""
    if not tasks:
        raise InvalidInput("no molecules to make references of")
    first = next(iter(tasks.values()))
    number = {name: getattr(first, name) for name in ("num_starts", "num_frames") if hasattr(first, name)}
    return run_farm(
        make,
        tasks,
        folder,
        executor=executor,
        timeout=TIMEOUT if executor is not None else None,
        minutes=minutes,
        settings=asdict(first.rules) | number,
        progress=progress,
        unit="molecule",
    )


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


def split_by_isomer(ensembles: Sequence[Ensemble]) -> list[Ensemble]:
    """The same ensembles, each in the part that the hash of its graph names; 15 % of isomers are test."""
    return [replace(one, split=split_of_graph(one.smiles)) for one in ensembles]
