"""Molecules minimised in front of the reader with an attention functional."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from molkit.molecule import Molecule
from molkit.ofdft.attention_functional import AttentionFunctional, load
from molkit.ofdft.geometries import geometry
from molkit.ofdft.grid import grid_points
from molkit.ofdft.label_files import LabelSettings, make_labels
from molkit.ofdft.labels import FrozenSampling
from molkit.ofdft.observables import density_at
from molkit.ofdft.optimise import Optimised, optimise
from molkit.studies.ofdft_minimise import FIRST_LIVE, MILLI
from molkit.studies.ofdft_small import OPTIONS, start_of
from molkit.units import ANGSTROM_TO_BOHR

NUM_SHELLS, RADII = 50, np.linspace(0.01, 4.0, 200)  # directions of a spherical average; bohr


@dataclass(frozen=True, eq=False)
class SeveralEntry:
    """One molecule; energies in hartree, errors in millihartree; radial densities about its first heavy atom."""

    name: str
    formula: str
    kohn_sham: float
    start_error: float  # of the MINAO density
    error: float  # minimised from there
    selected_error: float
    predicted_error: float  # at the reference density, not minimised
    reference_error: float  # minimised from the reference
    steps: int
    converged: bool
    radial: np.ndarray  # [R], 4 pi r^2 rho, electrons per bohr
    kohn_sham_radial: np.ndarray
    moved: float  # half the integral of |rho - rho_KS| of the minimised density: electrons in the wrong place


def live_several(
    weights: str, *, count: int, grid_level: int, name: str = "small", first: int = FIRST_LIVE
) -> list[SeveralEntry]:
    """`count` test geometries of a class from number `first` on, which no table has used.

    Of the class `small`, one composition after the other.
    """
    functional = load(weights)
    molecules = [geometry(name, "test", index) for index in range(first, first + count)]
    return [_entry(functional, molecule, grid_level=grid_level) for molecule in molecules]


def _entry(functional: AttentionFunctional, molecule: Molecule, *, grid_level: int) -> SeveralEntry:
    entry = make_labels(molecule, LabelSettings(FrozenSampling(count=0), grid_level=grid_level))
    energy = functional.energy_of(molecule)
    results: dict[str, Optimised] = {}
    for start in ("MINAO", "reference"):
        results[start] = optimise(energy, start_of(energy, entry, start), constraint=energy.constraint, options=OPTIONS)
    found = {start: MILLI * (result.energies - entry.energy) for start, result in results.items()}
    result = results["MINAO"]
    ours, theirs = energy.coefficients(result.variables), entry.labels.coefficients[entry.ground_state]
    return SeveralEntry(
        name=molecule.name,
        formula=molecule.formula,
        kohn_sham=entry.energy,
        start_error=float(found["MINAO"][0]),
        error=float(found["MINAO"][-1]),
        selected_error=MILLI * (result.selected_energy - entry.energy),
        predicted_error=float(found["reference"][0]),
        reference_error=float(found["reference"][-1]),
        steps=result.num_steps,
        converged=result.converged,
        radial=radial_density(molecule, ours),
        kohn_sham_radial=radial_density(molecule, theirs),
        moved=electrons_moved(molecule, ours - theirs, grid_level=grid_level),
    )


def electrons_moved(molecule: Molecule, difference: np.ndarray, *, grid_level: int) -> float:
    """Electrons in the wrong place, from a difference of densities with coefficients [M].

    Half the integral of its absolute value, which counts every electron where it is and where it should be.
    """
    points, weights = grid_points(molecule, level=grid_level)
    return 0.5 * float(weights @ np.abs(density_at(molecule, difference, points)))


def radial_density(molecule: Molecule, coefficients: np.ndarray, *, radii: Sequence[float] = RADII) -> np.ndarray:
    """4 pi r^2 times the spherical average of the density about the first heavy atom, electrons per bohr; [R].

    Directions are those of a Fibonacci lattice of NUM_SHELLS points.
    """
    centre = molecule.positions[int(np.argmax(molecule.atomic_numbers > 1))] * ANGSTROM_TO_BOHR
    steps = np.arange(NUM_SHELLS) + 0.5
    height, angle = 1.0 - 2.0 * steps / NUM_SHELLS, np.pi * (1.0 + np.sqrt(5.0)) * steps
    ring = np.sqrt(1.0 - height**2)
    directions = np.stack([ring * np.cos(angle), ring * np.sin(angle), height], axis=1)
    points = centre + np.asarray(radii)[:, None, None] * directions
    values = density_at(molecule, coefficients, points.reshape(-1, 3)).reshape(len(points), -1).mean(1)
    return 4.0 * np.pi * np.asarray(radii) ** 2 * values
