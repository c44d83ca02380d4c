"""Forces of minimised densities, against differences of minimised energies and against Kohn-Sham."""

from dataclasses import dataclass

import numpy as np

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
from molkit.studies.ofdft_minimise import FIRST_LIVE
from molkit.units import ANGSTROM_TO_BOHR, HARTREE_TO_KCAL

UNIT = HARTREE_TO_KCAL * ANGSTROM_TO_BOHR  # kcal/mol per angstrom
OPTIONS = OptimiseOptions(tolerance=1e-7)


@dataclass(frozen=True)
class ForceEntry:
    """Mean absolute differences of force components of one geometry, kcal/mol per angstrom."""

    formula: str
    kohn_sham: float  # mean absolute component
    against_kohn_sham: float  # everything moving, against Kohn-Sham's analytic forces
    against_differences: float  # the same against differences of minimised energies, largest component
    electrostatic: float  # Hellmann-Feynman, against that of the Kohn-Sham density: what the paper reports
    electrostatic_kohn_sham: float  # Hellmann-Feynman of the Kohn-Sham density against its analytic forces


def live_forces(weights: str, *, name: str, count: int, grid_level: int) -> list[ForceEntry]:
    """The first `count` geometries of a class that no table has used."""
    functional = load_functional(weights)
    molecules = [geometry(name, "test", index) for index in range(FIRST_LIVE, FIRST_LIVE + count)]
    return [_entry(functional, molecule, grid_level=grid_level) for molecule in molecules]


def _entry(functional: CompactFunctional | AttentionFunctional, molecule: Molecule, *, grid_level: int) -> ForceEntry:
    energy, result = minimised(functional, molecule)
    ours = forces(functional.energy_of, molecule, result.variables)
    numeric = -central_differences(lambda moved: minimised(functional, moved)[1].energy, molecule)
    entry = make_labels(molecule, LabelSettings(FrozenSampling(count=0), grid_level=grid_level))
    theirs = pbe_forces(molecule, grid_level=grid_level)
    electrostatic, wanted = (
        hellmann_feynman(molecule, coefficients)
        for coefficients in (energy.coefficients(result.variables), entry.labels.coefficients[entry.ground_state])
    )
    return ForceEntry(
        formula=molecule.formula,
        kohn_sham=UNIT * float(np.abs(theirs).mean()),
        against_kohn_sham=UNIT * float(np.abs(ours - theirs).mean()),
        against_differences=UNIT * float(np.abs(ours - numeric).max()),
        electrostatic=UNIT * float(np.abs(electrostatic - wanted).mean()),
        electrostatic_kohn_sham=UNIT * float(np.abs(wanted - theirs).mean()),
    )


def minimised(
    functional: CompactFunctional | AttentionFunctional, molecule: Molecule
) -> tuple[CompactEnergy | AttentionEnergy, Optimised]:
    """The energy of a molecule, and its minimum from the predicted density."""
    energy = functional.energy_of(molecule)
    start = energy.on_constraint(np.zeros(len(energy.constraint)))
    return energy, optimise(energy, start, constraint=energy.constraint, options=OPTIONS)
