"""Classical kinetic functionals minimised over densities, an experiment that several pages ask."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from molkit.config import whole_number
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column
from molkit.molecule import Molecule
from molkit.ofdft.classical import ClassicalEnergy
from molkit.ofdft.geometries import geometry
from molkit.ofdft.kohn_sham import KohnShamRun, System, solved
from molkit.ofdft.optimise import OptimiseOptions, optimise

MINIMISED = ("TF", "TF+vW/9", "TF+vW", "APBE")
MILLI = 1e3
# TF+vW/9 often stops without converging, and ended elsewhere in three of four frames of ethanol when computed again.
AUDIT = Comparison(
    within={"before": 0.5, "after": 60.0, "selected": 60.0, "moved": 0.1, "least": 0.01},
    free=("num_steps",),
    alike={"after": 4000.0},
    by=("functional",),
    exact=("TF", "TF+vW", "APBE"),
)
COLUMNS = {
    "functional": "functional",
    "before": Column("on the KS density (mHa)"),
    "after": Column("minimised (mHa)"),
    "electrons": Column("electrons moved", 1),
    "least": Column("least density", 3),
    "num_steps": Column("steps"),
    "converged": Column("converged", names={True: "yes", False: "no"}),
}


@dataclass(frozen=True)
class Task:
    """A functional on a geometry, CLASS:NUMBER: of the split test, or of a class that folds part, any."""

    geometry: str
    functional: str
    max_steps: int  # of L-BFGS
    grid_level: int


@asked
def tasks(
    *,
    geometries: Sequence[str] = ("water:0",),
    functionals: Sequence[str] = MINIMISED,
    max_steps: int = 300,
    grid_level: int = 1,
) -> list[Task]:
    """Every functional on every geometry, such as `ethanol:3`. Raises InvalidInput for what is no geometry."""
    for name in geometries:
        molecule_at(name)
    return [Task(place, name, max_steps, grid_level) for place in geometries for name in functionals]


def measure(task: Task) -> list[dict]:
    """L-BFGS in natural coordinates from the MINAO density; errors against Kohn-Sham in millihartree.

    before: on the Kohn-Sham density. selected: of the step that the rule of M-OFDFT's code chooses. moved: integral of
    |rho - rho_KS|, twice the number of electrons in the wrong place. least: smallest density on the grid, electrons per
    cubic bohr.
    """
    system, run = _solved(task.geometry, task.grid_level)
    first, last = system.fit(np.stack([run.steps[0].matrix, run.steps[-1].matrix]))
    energy = ClassicalEnergy(task.functional, system.integrals, system.grid)
    options = OptimiseOptions(tolerance=1e-4, max_steps=task.max_steps)
    result = optimise(energy, energy.start(first), constraint=energy.constraint, options=options)
    truth = system.grid.fields(last[None])[0, 0]
    density = system.grid.fields(energy.coefficients(result.variables)[None])[0, 0]
    return [
        {
            "before": MILLI * (energy(energy.to_natural @ last)[0] - run.energy),
            "after": MILLI * (result.energy - run.energy),
            "selected": MILLI * (result.selected_energy - run.energy),
            "moved": float(system.grid.weights @ np.abs(density - truth)),
            "least": float(density.min()),
            "num_steps": result.num_steps,
            "converged": result.converged,
        }
    ]


def molecule_at(place: str) -> Molecule:
    """The geometry CLASS:NUMBER. Raises InvalidInput for another form or an unknown class."""
    name, _, index = place.partition(":")
    number = whole_number(index, what=f"{place!r}, where CLASS:NUMBER is expected,")
    return geometry(name, "train" if name == "up_to_five" else "test", number)


@lru_cache(maxsize=1)
def _solved(place: str, grid_level: int) -> tuple[System, KohnShamRun]:
    return solved(molecule_at(place), grid_level=grid_level)
