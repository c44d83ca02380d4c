"""Trajectories like those of ISO17: isomers of C7H10O2 from QM9, GFN2-xTB, Langevin at 500 K, split by isomer."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from molkit.chem.bond_graph import mol_from_bonds, order_of_atoms
from molkit.chem.ensembles import described
from molkit.chem.rdkit_tools import perceive_bonds, plain_smiles
from molkit.chem.xtb import LangevinRules, langevin
from molkit.data.ensemble_molecules import choose_isomers, fair_key
from molkit.data.ensembles import Ensemble
from molkit.data.geom_ensembles import split_of_graph
from molkit.errors import CalculationFailed, InvalidInput
from molkit.farm.run import FarmReport, run_farm
from molkit.molecule import Molecule
from molkit.units import EV_TO_KCAL

TIMEOUT = 3600.0


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


def trajectory_tasks(count: int, *, num_frames: int, seed: int, rules: LangevinRules) -> dict[str, TrajectoryTask]:
    """One task an isomer; its seed follows from its name. Raises InvalidInput for no frames."""
    if num_frames < 1:
        raise InvalidInput(f"the number of frames must be at least 1, got {num_frames}")
    return {
        name: TrajectoryTask(
            smiles,
            tuple(molecule.atomic_numbers.tolist()),
            tuple(map(tuple, molecule.positions.tolist())),
            num_frames,
            (seed + int(fair_key(name)[:7], 16)) % 2**31,
            rules,
        )
        for name, smiles, molecule in choose_isomers(count)
    }


def run_trajectories(
    tasks: dict[str, TrajectoryTask], folder: Path, *, executor: Executor | None = None, progress: bool = False
) -> FarmReport:
    """Make what is missing; what failed is noted."""
    first = next(iter(tasks.values()))
    settings = asdict(first.rules) | {"num_frames": first.num_frames}
    limit = TIMEOUT if executor is not None else None
    return run_farm(
        make_trajectory,
        tasks,
        folder,
        executor=executor,
        timeout=limit,
        settings=settings,
        progress=progress,
        unit="isomer",
    )


def split_by_isomer(ensembles: Sequence[Ensemble]) -> list[Ensemble]:
    """The same ensembles, each in the part that the hash of its graph names; 15 % of isomers are test."""
    return [replace(one, split=split_of_graph(one.smiles)) for one in ensembles]
