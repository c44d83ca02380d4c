"""Densities of geometries that no table has used, minimised beside Kohn-Sham, an experiment that several pages ask."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column
from molkit.figures import style
from molkit.molecule import Molecule
from molkit.ofdft.density import load_functional
from molkit.ofdft.geometries import geometry
from molkit.ofdft.grid import grid_points
from molkit.ofdft.label_files import LabelSettings, make_labels
from molkit.ofdft.labels import FrozenSampling
from molkit.ofdft.observables import density_at, dipole
from molkit.ofdft.optimise import OptimiseOptions, optimise
from molkit.studies.ofdft.arms import CHEMICAL, MILLI, start_of
from molkit.training.weights import weight_files
from molkit.units import ANGSTROM_TO_BOHR

FIRST_LIVE = 1000  # index of test geometries that no training and no table has used
OPTIONS = OptimiseOptions(tolerance=1e-6, max_steps=500)
NUM_SHELLS, RADII = 50, np.linspace(0.01, 4.0, 200)  # directions of a spherical average; bohr
AUDIT = Comparison(
    within={name: 0.01 for name in ("start_error", "error", "selected_error", "predicted_error", "reference_error")}
    | {"kohn_sham": 1e-6, "moved": 1e-3, "dipole": 1e-3, "kohn_sham_dipole": 1e-3}
    | dict.fromkeys(("radial", "kohn_sham_radial"), 1e-3)
    | dict.fromkeys(("trace", "reference_trace"), 0.05),
    free=("steps",),
)
TABLE = {
    "formula": "molecule",
    "kohn_sham": Column("Kohn-Sham, Ha", 6),
    "start_error": Column("MINAO, mHa", 1),
    "error": Column("minimised, mHa", 3),
    "selected_error": Column("selected step, mHa", 3),
    "reference_error": Column("from the reference, mHa", 3),
    "predicted_error": Column("not minimised, mHa", 3),
    "moved": Column("electrons misplaced", 3),
    "steps": Column("steps"),
}


@dataclass(frozen=True)
class Task:
    """A test geometry that no training has used."""

    weights: str
    kind: str  # class of geometries
    index: int
    grid_level: int

    @property
    def files(self) -> list[Path]:
        """The weights."""
        return weight_files(self.weights)


@asked
def tasks(
    *, weights: str = "ofdft_small", kind: str = "small", first: int = FIRST_LIVE, count: int = 10, grid_level: int = 2
) -> list[Task]:
    """Test geometries of a class from number `first` on; of `small`, one composition after the other."""
    return [Task(weights, kind, number, grid_level) for number in range(first, first + count)]


def measure(task: Task) -> list[dict]:
    """One molecule; errors against Kohn-Sham in millihartree, radial densities about its first heavy atom.

    predicted_error: at the reference density, not minimised; reference_error: minimised from there. moved: half the
    integral of |rho - rho_KS| of the minimised density. radial: 4 pi r^2 rho at RADII, electrons per bohr. Dipoles of
    the fitted densities in debye. traces: errors along the two minimisations.
    """
    molecule = geometry(task.kind, "test", task.index)
    entry = make_labels(molecule, LabelSettings(FrozenSampling(count=0), grid_level=task.grid_level))
    energy = load_functional(task.weights).energy_of(molecule)
    result, other = (
        optimise(energy, start_of(energy, entry, start), constraint=energy.constraint, options=OPTIONS)
        for start in ("MINAO", "reference")
    )
    ours, theirs = energy.coefficients(result.variables), entry.labels.coefficients[entry.ground_state]
    return [
        {
            "formula": molecule.formula,
            "kohn_sham": entry.energy,
            "start_error": MILLI * (result.energies[0] - entry.energy),
            "error": MILLI * (result.energy - entry.energy),
            "selected_error": MILLI * (result.selected_energy - entry.energy),
            "predicted_error": MILLI * (other.energies[0] - entry.energy),
            "reference_error": MILLI * (other.energy - entry.energy),
            "steps": result.num_steps,
            "converged": result.converged,
            "moved": electrons_moved(molecule, ours - theirs, grid_level=task.grid_level),
            "dipole": float(np.linalg.norm(dipole(molecule, ours))),
            "kohn_sham_dipole": float(np.linalg.norm(dipole(molecule, theirs))),
            "trace": MILLI * (result.energies - entry.energy),
            "reference_trace": MILLI * (other.energies - entry.energy),
            "radial": radial_density(molecule, ours).round(5),
            "kohn_sham_radial": radial_density(molecule, theirs).round(5),
        }
    ]


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


def draw_shells(rows: pd.DataFrame, *, caption: str) -> Figure:
    """Electrons at a distance from the first heavy atom, of up to three molecules."""
    shown = rows.head(3).to_dict("records")
    with style.panels(len(shown), width=8.6, height=2.8, caption=caption) as (figure, axes):
        for row, place in zip(shown, axes, strict=True):
            place.plot(RADII, row["kohn_sham_radial"], color=style.BLACK, label="Kohn-Sham")
            place.plot(RADII, row["radial"], "--", color=style.BLUE, label="minimised")
            place.set(xlabel="r (bohr)", ylabel="electrons per bohr", title=row["formula"])
            place.legend(fontsize=7)
    return figure


def draw_trace(rows: pd.DataFrame, *, caption: str) -> Figure:
    """Of the first geometry: energy along the minimisations, and the density that comes out, about its heavy atom."""
    first = rows.iloc[0]
    with style.panels(2, width=8.4, height=3.4, caption=caption) as (figure, (left, right)):
        for column, label, colour in (("trace", "MINAO", style.BLUE), ("reference_trace", "reference", style.GREEN)):
            left.plot(np.abs(first[column]), "o-", color=colour, label=f"from {label}", markersize=3.5)
        left.axhline(CHEMICAL, color="#888888", linestyle="--", linewidth=1.0)
        left.set(xlabel="step", ylabel="|energy error| (mHa)", yscale="log")
        ours, theirs = (np.array(first[name]) for name in ("radial", "kohn_sham_radial"))
        right.plot(RADII, theirs, color=style.BLACK, label="Kohn-Sham")
        right.plot(RADII, ours, "--", color=style.BLUE, label="minimised")
        right.plot(RADII, np.abs(ours - theirs), color=style.VERMILION, label="|difference|")
        right.set(xlabel="r (bohr)", ylabel="electrons per bohr", yscale="log", ylim=(1e-6, 50))
        for place in (left, right):
            place.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return figure
