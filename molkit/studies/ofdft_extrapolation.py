"""Alkanes beyond the sizes of the training: functionals minimised, and a network without a density beside."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from molkit.chem.chains import alkane
from molkit.claims.ledger import REPOSITORY
from molkit.claims.provenance import commit, machine
from molkit.errors import DataNotFound, InvalidInput
from molkit.farm.run import run_farm
from molkit.ofdft.attention_functional import load
from molkit.ofdft.optimise import optimise
from molkit.ofdft.tuned_kohn_sham import tuned_energy
from molkit.studies.ofdft_small import OPTIONS, SmallStudy, run_folder
from molkit.studies.ofdft_water import MILLI
from molkit.training.files import write_text

STORED = REPOSITORY / "data" / "studies" / "ofdft_extrapolation.json"
LARGEST_TRAINED = 2  # heavy atoms
GRID_LEVEL = 2


@dataclass(frozen=True)
class ChainError:
    """One alkane by one arm; errors against Kohn-Sham in millihartree."""

    arm: str
    seed: int
    num_carbons: int
    num_atoms: int
    predicted: float  # at the predicted density, not minimised; the arm without a density has only this
    minimised: float
    density_moved: float  # norm of z at the end
    steps: int
    converged: bool


@dataclass(frozen=True)
class ExtrapolationStudy:
    """Errors of all arms on all chains, and the Kohn-Sham energies (hartree) by carbons."""

    errors: tuple[ChainError, ...]
    energies: dict[str, float]
    stamp: dict[str, Any]

    @property
    def arms(self) -> list[str]:
        """Names, in the order of the runs."""
        return list(dict.fromkeys(entry.arm for entry in self.errors))

    def of_arm(self, arm: str) -> list[ChainError]:
        """By size."""
        return sorted((entry for entry in self.errors if entry.arm == arm), key=lambda entry: entry.num_carbons)


def kohn_sham_task(num_carbons: int) -> dict[str, Any]:
    """The energy of one alkane, as the arrays of a farm."""
    return {"energy": tuned_energy(alkane(num_carbons), grid_level=GRID_LEVEL).energy}


def chain_error(weights: Path, arm: str, seed: int, num_carbons: int, kohn_sham: float) -> ChainError:
    """Minimise one alkane from the predicted density; without a density, ask the network at z = 0."""
    molecule = alkane(num_carbons)
    energy = load(weights).energy_of(molecule)
    start = np.zeros(len(energy.constraint))
    if arm == "geometry":
        error = MILLI * (energy(start)[0] - kohn_sham)
        return ChainError(arm, seed, num_carbons, molecule.num_atoms, error, error, 0.0, 0, True)
    start = energy.on_constraint(start)
    result = optimise(energy, start, constraint=energy.constraint, options=OPTIONS)
    return ChainError(
        arm=arm,
        seed=seed,
        num_carbons=num_carbons,
        num_atoms=molecule.num_atoms,
        predicted=MILLI * (energy(start)[0] - kohn_sham),
        minimised=MILLI * (result.energy - kohn_sham),
        density_moved=float(np.linalg.norm(result.variables)),
        steps=result.num_steps,
        converged=result.converged,
    )


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
    sizes: Sequence[int],
    *,
    study: SmallStudy,
    runs: Path,
    keep: Path,
    report: Callable[[str], None] = lambda text: None,
) -> ExtrapolationStudy:
    """Every arm on every size; Kohn-Sham energies are kept in a farm. Raises what its parts raise."""
    tasks = {f"alkane-{size:03d}": size for size in sizes}
    kept = run_farm(kohn_sham_task, tasks, keep, settings={"grid_level": GRID_LEVEL}, unit="molecule")
    energies = {tasks[key]: float(result["energy"]) for key, result in kept.results().items()}
    found = []
    for arm, seed in wanted:
        weights = chosen_weights(study, runs, arm, seed)
        found += [chain_error(weights, arm, seed, size, energy) for size, energy in energies.items()]
        report(f"{arm}, seed {seed}: {found[-1].minimised:.1f} mHa at {found[-1].num_carbons} carbons")
    head, dirty = commit()
    stamp = {"commit": head, "dirty": dirty, "machine": machine()}
    return ExtrapolationStudy(tuple(found), {str(size): energy for size, energy in energies.items()}, stamp)


def write_study(study: ExtrapolationStudy, path: Path) -> None:
    """Keep a study as JSON. Raises RunError when the disk refuses."""
    write_text(path, json.dumps(asdict(study), indent=1) + "\n")


def stored_study(path: Path = STORED) -> ExtrapolationStudy:
    """What `molkit study ofdft-extrapolation` wrote. Raises DataNotFound or InvalidInput."""
    if not path.is_file():
        raise DataNotFound(f"{path}: no stored study; make it with `molkit study ofdft-extrapolation --out {path}`")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return ExtrapolationStudy(**{**values, "errors": tuple(ChainError(**entry) for entry in values["errors"])})
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path}: not a study of alkanes ({error})") from error
