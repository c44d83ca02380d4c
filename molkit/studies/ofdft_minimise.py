"""Densities of unseen water geometries, minimised in front of the reader beside Kohn-Sham."""

from dataclasses import dataclass
from time import process_time

import numpy as np

from molkit.ofdft.compact import CompactFunctional, load
from molkit.ofdft.geometries import geometry
from molkit.ofdft.kohn_sham import solved
from molkit.ofdft.label_files import LabelSettings, make_labels
from molkit.ofdft.labels import FrozenSampling
from molkit.ofdft.observables import density_at, dipole
from molkit.ofdft.optimise import Optimised, optimise
from molkit.studies.ofdft_water import STARTS, start_of
from molkit.units import ANGSTROM_TO_BOHR

MILLI = 1e3
FIRST_LIVE = 1000  # index of test geometries that no stored study has used


@dataclass(frozen=True, eq=False)
class LiveGeometry:
    """One geometry, minimised from every start; energies in hartree, errors in millihartree, dipoles in debye."""

    name: str
    kohn_sham: float
    start_error: float  # of the MINAO density
    error: float  # minimised from there
    predicted_error: float  # at the density predicted from the geometry
    dipole: float
    kohn_sham_dipole: float
    seconds: float  # CPU: integrals, MINAO start left out, minimisation
    kohn_sham_seconds: float  # CPU: integrals, grid, cycles
    traces: dict[str, np.ndarray]  # start -> energy errors along the way
    line: np.ndarray  # bohr
    density: np.ndarray
    kohn_sham_density: np.ndarray


@dataclass(frozen=True, eq=False)
class LiveStudy:
    """Geometries of this page."""

    geometries: tuple[LiveGeometry, ...]


def live_study(weights: str, *, count: int, grid_level: int = 2) -> LiveStudy:
    """Minimise the first `count` live geometries from every start."""
    functional = load(weights)
    return LiveStudy(tuple(live_geometry(functional, FIRST_LIVE + k, grid_level=grid_level) for k in range(count)))


def live_geometry(functional: CompactFunctional, index: int, *, grid_level: int) -> LiveGeometry:
    """Kohn-Sham and the learned functional on one test geometry."""
    molecule = geometry("water", "test", index)
    started = process_time()
    solved(molecule, grid_level=grid_level)
    kohn_sham_seconds = process_time() - started
    entry = make_labels(molecule, LabelSettings(FrozenSampling(count=0), grid_level=grid_level))
    started = process_time()
    energy = functional.energy_of(molecule)
    results: dict[str, Optimised] = {}
    results["MINAO"] = optimise(energy, start_of(energy, entry, "MINAO"), constraint=energy.constraint)
    seconds = process_time() - started
    for start in STARTS:
        if start not in results:
            results[start] = optimise(energy, start_of(energy, entry, start), constraint=energy.constraint)
    ours = energy.coefficients(results["MINAO"].variables)
    theirs = entry.labels.coefficients[entry.ground_state]
    line = np.linspace(-4.0, 4.0, 401)
    points = molecule.positions[0] * ANGSTROM_TO_BOHR + line[:, None] * functional.kind.frame(molecule)[2]
    errors = {start: MILLI * (result.energies - entry.energy) for start, result in results.items()}
    return LiveGeometry(
        name=molecule.name,
        kohn_sham=entry.energy,
        start_error=float(errors["MINAO"][0]),
        error=float(errors["MINAO"][-1]),
        predicted_error=float(errors["reference"][0]),
        dipole=float(np.linalg.norm(dipole(molecule, ours))),
        kohn_sham_dipole=float(np.linalg.norm(dipole(molecule, theirs))),
        seconds=seconds,
        kohn_sham_seconds=kohn_sham_seconds,
        traces=errors,
        line=line,
        density=density_at(molecule, ours, points),
        kohn_sham_density=density_at(molecule, theirs, points),
    )
