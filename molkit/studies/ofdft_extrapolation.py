"""Molecules beyond the sizes of the training: functionals minimised, and a network without a density beside."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from molkit.chem.chains import FAMILIES as CHAINS
from molkit.chem.chains import molecule_of
from molkit.claims.ledger import REPOSITORY
from molkit.claims.provenance import commit, machine
from molkit.config import stored_json
from molkit.farm.run import run_farm
from molkit.molecule import Molecule
from molkit.ofdft.attention_functional import load
from molkit.ofdft.geometries import geometry
from molkit.ofdft.optimise import optimise
from molkit.ofdft.tuned_kohn_sham import tuned_energy
from molkit.studies.ofdft_small import OPTIONS
from molkit.studies.ofdft_water import MILLI, rounded
from molkit.training.files import write_text

STORED = REPOSITORY / "data" / "studies" / "ofdft_extrapolation.json"
LARGEST_TRAINED = 5  # heavy atoms
GRID_LEVEL = 2
FAMILIES = ("QM9", *CHAINS)


@dataclass(frozen=True)
class SizeError:
    """One molecule by one arm; errors against Kohn-Sham in millihartree."""

    arm: str
    family: str
    num_heavy: int
    num_atoms: int
    predicted: float  # at the predicted density, not minimised; an arm without a density has only this
    minimised: float
    density_moved: float  # norm of z at the end
    steps: int
    converged: bool


@dataclass(frozen=True)
class ExtrapolationStudy:
    """Errors of all arms on all molecules, and the Kohn-Sham energies (hartree) by family and number."""

    errors: tuple[SizeError, ...]
    energies: dict[str, float]
    stamp: dict[str, Any]

    @property
    def arms(self) -> list[str]:
        """Names, in the order of the runs."""
        return list(dict.fromkeys(entry.arm for entry in self.errors))

    def of(self, arm: str, family: str) -> list[SizeError]:
        """By size."""
        found = [entry for entry in self.errors if (entry.arm, entry.family) == (arm, family)]
        return sorted(found, key=lambda entry: entry.num_heavy)


def member(family: str, number: int) -> Molecule:
    """QM9's molecules with six to nine heavy atoms in turn, from 0 on; chains by their length."""
    return geometry("beyond_five", "test", number) if family == "QM9" else molecule_of(family, number)


def kohn_sham_task(asked: tuple[str, int]) -> dict[str, Any]:
    """The energy of one molecule of a family, as the arrays of a farm."""
    return {"energy": tuned_energy(member(*asked), grid_level=GRID_LEVEL).energy}


def size_error(weights: Path, arm: str, family: str, number: int, kohn_sham: float) -> SizeError:
    """Minimise one molecule from the predicted density; without a density, ask the network at z = 0."""
    molecule = member(family, number)
    energy = load(weights).energy_of(molecule)
    start, heavy = np.zeros(len(energy.constraint)), int((molecule.atomic_numbers > 1).sum())
    if without_density(arm):
        error = MILLI * (energy(start)[0] - kohn_sham)
        return SizeError(arm, family, heavy, molecule.num_atoms, error, error, 0.0, 0, True)
    start = energy.on_constraint(start)
    result = optimise(energy, start, constraint=energy.constraint, options=OPTIONS)
    return SizeError(
        arm=arm,
        family=family,
        num_heavy=heavy,
        num_atoms=molecule.num_atoms,
        predicted=MILLI * (energy(start)[0] - kohn_sham),
        minimised=MILLI * (result.energy - kohn_sham),
        density_moved=float(np.linalg.norm(result.variables)),
        steps=result.num_steps,
        converged=result.converged,
    )


def live_larger(weights: str, *, count: int, grid_level: int, first: int) -> list[tuple[str, SizeError]]:
    """Formulas and errors of `count` of QM9's larger molecules from number `first` on, with Kohn-Sham made now."""
    found = []
    for number in range(first, first + count):
        molecule = member("QM9", number)
        energy = tuned_energy(molecule, grid_level=grid_level).energy
        found.append((molecule.formula, size_error(Path(weights), "live", "QM9", number, energy)))
    return found


def without_density(arm: str) -> bool:
    """Whether an arm is a network of the geometry alone."""
    return arm.startswith("geometry")


def run_study(
    weights: Mapping[str, Path],
    numbers: Mapping[str, Sequence[int]],
    *,
    keep: Path,
    earlier: ExtrapolationStudy | None = None,
    report: Callable[[str], None] = lambda text: None,
) -> ExtrapolationStudy:
    """The weights of every arm on these members of every family; Kohn-Sham energies are kept in a farm.

    Of an earlier study the energies are taken, and the errors of arms that are not asked for again. Raises what its
    parts raise.
    """
    tasks = {f"{family}-{number:03d}": (family, number) for family in numbers for number in numbers[family]}
    energies = {key: value for key, value in earlier.energies.items() if key in tasks} if earlier else {}
    missing = {key: task for key, task in tasks.items() if key not in energies}
    if missing:
        kept = run_farm(kohn_sham_task, missing, keep, settings={"grid_level": GRID_LEVEL}, unit="molecule")
        energies |= {key: float(result["energy"]) for key, result in kept.results().items()}
    found = [entry for entry in (earlier.errors if earlier else ()) if entry.arm not in weights]
    for arm, folder in weights.items():
        found += [size_error(folder, arm, *tasks[key], energy) for key, energy in energies.items()]
        report(f"{arm}: {found[-1].minimised:.1f} mHa at {found[-1].num_heavy} heavy atoms")
    head, dirty = commit()
    stamp = {"commit": head, "dirty": dirty, "machine": machine()}
    if earlier is not None:
        stamp["earlier"] = [*earlier.stamp.get("earlier", ()), {key: earlier.stamp[key] for key in stamp}]
    return ExtrapolationStudy(tuple(found), energies, stamp)


def write_study(study: ExtrapolationStudy, path: Path) -> None:
    """Keep a study as JSON. Raises RunError when the disk refuses."""
    write_text(path, json.dumps(rounded(asdict(study)), indent=1) + "\n")


def stored_study(path: Path = STORED) -> ExtrapolationStudy:
    """What `molkit study ofdft-extrapolation` wrote. Raises DataNotFound or InvalidInput."""
    with stored_json(path, "a study of larger molecules", f"molkit study ofdft-extrapolation --out {path}") as values:
        return ExtrapolationStudy(**{**values, "errors": tuple(SizeError(**entry) for entry in values["errors"])})
