"""Forces of minimised densities, against differences of minimised energies and against Kohn-Sham, an experiment that
several pages ask."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column
from molkit.molecule import Molecule
from molkit.ofdft.attention_functional import AttentionEnergy, AttentionFunctional
from molkit.ofdft.compact import CompactEnergy, CompactFunctional
from molkit.ofdft.density import load_functional
from molkit.ofdft.forces import central_differences, forces, hellmann_feynman
from molkit.ofdft.geometries import geometry
from molkit.ofdft.label_files import LabelSettings, make_labels
from molkit.ofdft.labels import FrozenSampling
from molkit.ofdft.optimise import Optimised, OptimiseOptions, optimise
from molkit.ofdft.reference_energies import pbe_forces
from molkit.studies.ofdft.live import FIRST_LIVE
from molkit.training.weights import weight_files
from molkit.units import ANGSTROM_TO_BOHR, HARTREE_TO_KCAL

UNIT = HARTREE_TO_KCAL * ANGSTROM_TO_BOHR  # kcal/mol per angstrom
OPTIONS = OptimiseOptions(tolerance=1e-7)
COLUMNS = {
    "formula": "geometry",
    "kohn_sham": Column("mean force", 1),
    "error": Column("error, all moving", 3),
    "differences": Column("against differences", 5),
    "electrostatic": Column("error, electrostatic", 2),
    "missed": Column("electrostatic alone misses", 1),
}
CAPTION = (
    "kcal/mol per angstrom, mean absolute values of components. All moving: against Kohn-Sham's analytic forces. "
    "Against differences: of minimised energies, the largest component. Electrostatic: the force of Hellmann and "
    "Feynman against the same of the Kohn-Sham density; the last column is what the latter misses of Kohn-Sham's force."
)
AUDIT = Comparison(within={name: 0.01 for name in COLUMNS if name != "formula"})


@dataclass(frozen=True)
class Task:
    """A geometry of a class that no table has used."""

    weights: str
    kind: str
    index: int
    grid_level: int  # of Kohn-Sham

    @property
    def files(self) -> list[Path]:
        """The weights."""
        return weight_files(self.weights)


@asked
def tasks(
    *, weights: str = "ofdft_water", kind: str = "water", count: int = 5, first: int = FIRST_LIVE, grid_level: int = 2
) -> list[Task]:
    """Geometries of the split test of a class, one after the other."""
    return [Task(weights, kind, first + number, grid_level) for number in range(count)]


def measure(task: Task) -> list[dict]:
    """Mean absolute values or differences of force components of one geometry, kcal/mol per angstrom.

    error: everything moving, against Kohn-Sham's analytic forces. differences: the same against differences of
    minimised energies, the largest component. electrostatic: Hellmann-Feynman, against that of the Kohn-Sham density,
    which is what the paper reports; missed: the latter against Kohn-Sham's analytic forces.
    """
    functional, molecule = load_functional(task.weights), geometry(task.kind, "test", task.index)
    energy, result = minimised(functional, molecule)
    ours = forces(functional.energy_of, molecule, result.variables)
    numeric = -central_differences(lambda moved: minimised(functional, moved)[1].energy, molecule)
    entry = make_labels(molecule, LabelSettings(FrozenSampling(count=0), grid_level=task.grid_level))
    theirs = pbe_forces(molecule, grid_level=task.grid_level)
    electrostatic, wanted = (
        hellmann_feynman(molecule, coefficients)
        for coefficients in (energy.coefficients(result.variables), entry.labels.coefficients[entry.ground_state])
    )
    return [
        {
            "formula": molecule.formula,
            "kohn_sham": UNIT * float(np.abs(theirs).mean()),
            "error": UNIT * float(np.abs(ours - theirs).mean()),
            "differences": UNIT * float(np.abs(ours - numeric).max()),
            "electrostatic": UNIT * float(np.abs(electrostatic - wanted).mean()),
            "missed": UNIT * float(np.abs(wanted - theirs).mean()),
        }
    ]


def minimised(
    functional: CompactFunctional | AttentionFunctional, molecule: Molecule
) -> tuple[CompactEnergy | AttentionEnergy, Optimised]:
    """The energy of a molecule, and its minimum from the predicted density."""
    energy = functional.energy_of(molecule)
    start = energy.on_constraint(np.zeros(len(energy.constraint)))
    return energy, optimise(energy, start, constraint=energy.constraint, options=OPTIONS)
