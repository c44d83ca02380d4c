"""Labelled densities on disk: one geometry is one task of a farm, so that an interrupted generation continues."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyscf
import torch

from molkit.errors import InvalidInput
from molkit.farm.folder import FarmFolder, read_arrays
from molkit.farm.run import FarmReport, run_farm
from molkit.molecule import Molecule
from molkit.ofdft.basis import basis_fingerprint
from molkit.ofdft.geometries import geometry
from molkit.ofdft.kohn_sham import PerturbedCycles, build_system, require_converged, solve
from molkit.ofdft.labels import FrozenSampling, Labels, frozen_labels, join, step_labels
from molkit.rng import generator_from

LABEL_FIELDS = tuple(field.name for field in fields(Labels))


@dataclass(frozen=True)
class LabelSettings:
    """What the samples of every geometry depend on."""

    frozen: FrozenSampling = FrozenSampling()
    in_loop: bool = False  # also a second calculation with perturbed cycles
    grid_level: int = 2
    seed: int = 0


@dataclass(frozen=True)
class LabelTask:
    """One geometry of a class."""

    name: str
    split: str
    index: int
    settings: LabelSettings


@dataclass(frozen=True, eq=False)
class LabelledMolecule:
    """Labels of one geometry, and the fitted density of its MINAO guess, [M]."""

    molecule: Molecule
    labels: Labels
    guess: np.ndarray
    nuclear: float

    @property
    def ground_state(self) -> int:
        """Row of the converged density: the last unperturbed step."""
        return int(np.flatnonzero(self.labels.source == 0)[-1])

    @property
    def energy(self) -> float:
        """Kohn-Sham energy with nuclei."""
        return float(self.labels.electronic[self.ground_state]) + self.nuclear


def make_labels(molecule: Molecule, settings: LabelSettings) -> LabelledMolecule:
    """Run Kohn-Sham once and label all steps and the perturbed samples.

    Raises CalculationFailed where it does not converge, InvalidInput for a molecule that is not supported.
    """
    torch.set_num_threads(1)
    seed = generator_from("ofdft labels", molecule.name, settings.seed).initial_seed()
    random = np.random.default_rng(seed)
    system = build_system(molecule, grid_level=settings.grid_level)
    run = require_converged(solve(system), system)
    parts = [step_labels(system, run)]
    if settings.frozen.count:
        parts.append(frozen_labels(system, run, settings.frozen, random))
    if settings.in_loop:
        perturbed = require_converged(solve(system, perturbed=PerturbedCycles(), random=random), system)
        parts.insert(0, step_labels(system, perturbed))
    guess = system.fit(system.guess[None])[0]
    return LabelledMolecule(molecule, join(parts), guess, system.integrals.nuclear)


def run_task(task: LabelTask) -> dict[str, Any]:
    """The arrays of one geometry, ready for a file."""
    found = make_labels(geometry(task.name, task.split, task.index), task.settings)
    return {name: getattr(found.labels, name) for name in LABEL_FIELDS} | {
        "guess": found.guess,
        "nuclear": found.nuclear,
        "atomic_numbers": found.molecule.atomic_numbers,
        "positions": found.molecule.positions,
        "name": found.molecule.name,
        "basis": basis_fingerprint(),
    }


def generate(
    name: str,
    split: str,
    numbers: Sequence[int],
    folder: Path,
    *,
    settings: LabelSettings,
    executor: Executor | None = None,
    progress: bool = False,
) -> FarmReport:
    """Label the geometries with these numbers of a class and split; those already in the folder are not made again.

    Geometries whose Kohn-Sham calculation fails are left out and listed. Raises what `run_farm` raises.
    """
    tasks = {f"{name}-{split}-{k:05d}": LabelTask(name, split, k, settings) for k in numbers}
    about = asdict(settings) | {"basis": basis_fingerprint(), "pyscf": pyscf.__version__}
    return run_farm(run_task, tasks, folder, executor=executor, settings=about, progress=progress, unit="geometry")


def require_basis(found: str, *, label: str) -> None:
    """Raise InvalidInput unless labels were made with the density basis of this version."""
    if found != basis_fingerprint():
        raise InvalidInput(
            f"{label}: its density basis is {found}, this version makes {basis_fingerprint()}; "
            "generate the labels again with `molkit labels`"
        )


def read_labelled(arrays: Mapping[str, np.ndarray], *, label: str) -> LabelledMolecule:
    """One geometry from its arrays. Raises InvalidInput for labels of another density basis."""
    missing = sorted({*LABEL_FIELDS, "guess", "nuclear", "basis"} - set(arrays))
    if missing:
        raise InvalidInput(f"{label}: not a file of density labels ({missing[0]} is missing)")
    require_basis(str(arrays["basis"]), label=label)
    molecule = Molecule(arrays["atomic_numbers"], arrays["positions"], name=str(arrays["name"]))
    labels = Labels(**{name: arrays[name] for name in LABEL_FIELDS})
    return LabelledMolecule(molecule, labels, arrays["guess"], float(arrays["nuclear"]))


def load_folder(folder: Path, name: str, split: str, *, limit: int | None = None) -> list[LabelledMolecule]:
    """Labelled geometries of a class and split in a farm's folder, by index.

    Raises InvalidInput when there is none, or one is damaged or of another basis.
    """
    place = FarmFolder(Path(folder))
    paths = sorted((place.root / "results").glob(f"{name}-{split}-*.npz"))[:limit]
    if not paths:
        raise InvalidInput(f"{folder}: no labels of {name}, split {split}; make them with `molkit labels {name}`")
    found = []
    for path in paths:
        arrays = read_arrays(path)
        if arrays is None:
            raise InvalidInput(f"{path}: damaged; run `molkit labels` again, it makes what is missing")
        found.append(read_labelled(arrays, label=str(path)))
    return found
