"""The stages of a journey: each takes what the one before left, checks it, and says what it saw.

Energy and dipole moment come with and without orbitals; every dipole is that of a fitted density.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from time import process_time
from typing import Any

import numpy as np
import torch

from molkit.cgcf.conformers import Conformers, generate
from molkit.cgcf.loaded import shared_energy, shared_flow
from molkit.chem.dft import DftEnergy, DftLevel
from molkit.chem.ensembles import EnsembleRules, distinct_rows, keeps_bonds, xtb_minima
from molkit.chem.rdkit_conformers import with_stereo_of
from molkit.chem.rdkit_tools import graph_by_distance, stereo_smiles
from molkit.chem.xtb import XtbEnergy
from molkit.edm.farm import shared_edm
from molkit.errors import CalculationFailed, InvalidInput, MolkitError
from molkit.geometry import aligned_rmsd
from molkit.molecule import Molecule
from molkit.ofdft.attention_functional import AttentionFunctional
from molkit.ofdft.basis import require_supported
from molkit.ofdft.compact import CompactFunctional
from molkit.ofdft.density import density_of, load_functional
from molkit.ofdft.fitting import fitted_density
from molkit.ofdft.kohn_sham import build_system, require_converged, solve
from molkit.ofdft.observables import dipole
from molkit.pipeline.journey import (
    CONFORMERS,
    DRAWN,
    KOHN_SHAM,
    LOWEST,
    MINIMA,
    ORBITAL_FREE,
    PRE_RELAXED,
    Journey,
    PipelineSettings,
    Stage,
)
from molkit.relaxation.recipe import pre_relax
from molkit.rng import generator_from
from molkit.units import EV_TO_KCAL

LEVEL = DftLevel(functional="pbe", basis="6-31g(2df,p)")


@dataclass(frozen=True, eq=False)
class WithoutOrbitals:
    """A minimised density: hartree, the error expected of it (kcal/mol), debye, and its coefficients [M]."""

    energy: float
    expected_error: float | None
    dipole: float
    coefficients: np.ndarray
    converged: bool
    steps: int


@dataclass(frozen=True, eq=False)
class WithOrbitals:
    """A Kohn-Sham density: hartree, debye of the fitted density, how it was made, its coefficients [M], or none.

    There is no dipole where the density basis does not support the molecule: one of the density matrix would be another
    quantity (the two are up to a tenth of a debye apart).
    """

    energy: float
    level: str
    dipole: float | None = None
    coefficients: np.ndarray | None = None


@lru_cache(maxsize=2)
def functional_named(name: str) -> CompactFunctional | AttentionFunctional:
    """A functional, loaded once in a process."""
    return load_functional(name)


def orbital_free(molecule: Molecule, functional: str) -> WithoutOrbitals:
    """Minimise the density from the MINAO start. Raises InvalidInput for a molecule the functional does not serve."""
    found = density_of(molecule, functional_named(functional))
    return WithoutOrbitals(
        found.result.energy,
        found.expected_error,
        found.dipole,
        found.coefficients,
        found.result.converged,
        found.result.num_steps,
    )


def kohn_sham(molecule: Molecule, *, like_labels: bool) -> WithOrbitals:
    """PBE/6-31G(2df,p). Like the labels of the functionals: without density fitting, on their grid.

    Raises CalculationFailed where the density does not converge.
    """
    if not like_labels:
        return _density_fitted(molecule)
    system = build_system(molecule)
    run = require_converged(solve(system), system)
    fitted = system.fit(run.steps[-1].matrix[None])[0]
    moment = float(np.linalg.norm(dipole(molecule, fitted)))
    return WithOrbitals(run.energy, "PBE/6-31g(2df,p), grid 2", moment, fitted)


def _density_fitted(molecule: Molecule) -> WithOrbitals:
    field = DftEnergy(molecule, level=LEVEL).converged_field(molecule.positions)
    try:
        require_supported(molecule)
    except InvalidInput:
        return WithOrbitals(float(field.e_tot), LEVEL.label)
    fitted = fitted_density(molecule, np.asarray(field.make_rdm1()))
    return WithOrbitals(float(field.e_tot), LEVEL.label, float(np.linalg.norm(dipole(molecule, fitted))))


ROOM_TEMPERATURE_KCAL = 0.592484  # k T at 298.15 K, kcal/mol
RULES = EnsembleRules()
Outcome = tuple[Journey, bool, str]  # with what the stage found, whether it passed, what was looked at


@dataclass(frozen=True)
class Task:
    """A drawn molecule that was accepted, and how it goes on. Picklable."""

    journey: Journey
    settings: PipelineSettings


def load_all(settings: PipelineSettings) -> None:
    """Load every model once, so that a wrong name is said before anything is drawn. Raises what the loaders raise."""
    shared_edm(settings.generator)
    shared_edm(settings.relaxer)
    shared_flow(settings.flow)
    if settings.energy:
        shared_energy(settings.energy, settings.flow)
    functional_named(settings.functional)


def travel(task: Task) -> Journey:
    """All stages after the drawing. A stage that raises a MolkitError ends the journey there, with its reason."""
    torch.set_num_threads(1)
    journey = task.journey
    for name, step in STEPS:
        began = process_time()
        try:
            journey, passed, note = step(journey, task.settings)
            over = False
        except MolkitError as error:
            passed, note, over = False, str(error), True
        stage = Stage(name, passed, note, round(process_time() - began, 4))
        journey = replace(journey, stages=(*journey.stages, stage))
        if over:
            break
    return journey


def handed_graph(journey: Journey, positions: np.ndarray) -> Any:
    """RDKit's graph of the drawn molecule, atoms in their order, with the stereo of positions [A, 3]."""
    return with_stereo_of(graph_by_distance(journey.molecule), positions[None])


def pre_relaxed(journey: Journey, settings: PipelineSettings) -> Outcome:
    """A diffusion model relaxes the drawn molecule. Raises CalculationFailed where another molecule comes out."""
    drawn = journey.at(DRAWN)
    generator = generator_from("pipeline", settings.seed, journey.name, "relax")
    found = pre_relax(shared_edm(settings.relaxer), [drawn], generator=generator)
    if found.molecules[0] is None:
        raise CalculationFailed(found.problems[0])
    relaxed = found.molecules[0]
    if not keeps_bonds(graph_by_distance(drawn), relaxed):
        raise CalculationFailed("other atoms are bonded after the pre-relaxation")
    moved = aligned_rmsd(drawn.positions, relaxed.positions)
    journey = journey.knowing(structures={PRE_RELAXED: relaxed.positions}, values={"moved_angstrom": moved})
    journey = replace(journey, smiles=stereo_smiles(handed_graph(journey, relaxed.positions)))
    return journey, True, f"same bonds, moved by {moved:.3f} angstrom"


def conformers(journey: Journey, settings: PipelineSettings) -> Outcome:
    """Conformers with the handedness of the pre-relaxed structure, by the flow and, where asked for, its ETM."""
    mol = handed_graph(journey, journey.structures[PRE_RELAXED])
    model, generator = shared_flow(settings.flow), generator_from("pipeline", settings.seed, journey.name, "conformers")
    count = settings.num_conformers
    energy = shared_energy(settings.energy, settings.flow) if settings.energy else None
    made = generate(model, journey.smiles, count, generator=generator, stereo="redraw", mol=mol, energy=energy)
    whole = _with_bonds(mol, journey.molecule, made)
    if not len(whole):
        raise CalculationFailed(f"none of {made.num_drawn} conformers has the bonds and the handedness asked for")
    return replace(journey, conformers=whole), True, f"{len(whole)} of {made.num_drawn} drawn keep bonds and handedness"


def _with_bonds(mol: Any, molecule: Molecule, made: Conformers) -> np.ndarray:
    """Positions [C, A, 3] of the conformers that are the molecule asked for."""
    kept = [
        positions
        for positions, right in zip(made.positions, made.stereo_agrees, strict=True)
        if right and keeps_bonds(mol, molecule.with_positions(positions))
    ]
    return np.array(kept).reshape(-1, molecule.num_atoms, 3)


def minima(journey: Journey, settings: PipelineSettings) -> Outcome:
    """GFN2-xTB minima from the conformers and from the pre-relaxed structure, told apart and ranked."""
    mol = handed_graph(journey, journey.structures[PRE_RELAXED])
    own, own_energy, trouble = xtb_minima(mol, journey.structures[PRE_RELAXED][None], RULES)
    found, energies, troubles = xtb_minima(mol, journey.conformers, RULES)
    lost = {name: number + trouble[name] for name, number in troubles.items() if number + trouble[name]}
    positions, energies = np.concatenate([own, found]), np.concatenate([own_energy, energies])
    if not len(positions):
        raise CalculationFailed(f"no relaxation kept the molecule: {_words(lost)}")
    rows = distinct_rows(mol, positions, energies, RULES, RULES.same_energy)
    lowest = float(energies[rows[0]])
    excess = energies[rows] - lowest
    weights = np.exp(-excess / ROOM_TEMPERATURE_KCAL)
    values = {"num_minima": float(len(rows)), "population_of_lowest": float(weights[0] / weights.sum())}
    if len(own):
        values["own_minimum_kcal"] = float(own_energy[0]) - lowest
    journey = replace(journey, minima=positions[rows], minima_energies=excess)
    journey = journey.knowing(structures={LOWEST: positions[rows[0]]}, values=values)
    note = f"{len(rows)} different minima of {1 + len(journey.conformers)} starts"
    return with_energies(journey, lowest), True, note + (f" ({_words(lost)})" if lost else "")


def _words(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items()) or "nothing to relax"


def with_energies(journey: Journey, lowest: float) -> Journey:
    """The journey with GFN2-xTB energies of its structures above `lowest` (kcal/mol); those that fail are left out.

    The conformer with the lowest energy as generated becomes a structure too.
    """
    energy = XtbEnergy(journey.molecule)

    def excess(positions: np.ndarray) -> float:
        try:
            return energy(positions).energy * EV_TO_KCAL - lowest
        except CalculationFailed:
            return float("inf")

    raw = [excess(positions) for positions in journey.conformers]
    journey = journey.knowing(structures={CONFORMERS: journey.conformers[int(np.argmin(raw))]})
    found = {name: excess(journey.structures[name]) for name in (DRAWN, PRE_RELAXED, CONFORMERS, LOWEST)}
    return journey.knowing(energies={name: value for name, value in found.items() if np.isfinite(value)})


def without_orbitals(journey: Journey, settings: PipelineSettings) -> Outcome:
    """The learned functional's density of the lowest minimum; a molecule outside its domain goes on without."""
    try:
        found = orbital_free(journey.at(LOWEST), settings.functional)
    except InvalidInput as error:
        return journey, False, str(error)
    note = f"converged in {found.steps} steps" if found.converged else f"not converged in {found.steps} steps"
    values = {"orbital_free_hartree": found.energy, "orbital_free_fitted_dipole_debye": found.dipole}
    if found.expected_error is not None:
        values["orbital_free_expected_error_kcal"] = found.expected_error
        note += f", expected to be off by {found.expected_error:.2g} kcal/mol"
    densities = {ORBITAL_FREE: found.coefficients}
    return journey.knowing(values=values, densities=densities), found.converged, note


def with_orbitals(journey: Journey, settings: PipelineSettings) -> Outcome:
    """Kohn-Sham PBE of the lowest minimum, the same way as the functional's labels where there is one to compare."""
    ours = journey.values.get("orbital_free_hartree")
    found = kohn_sham(journey.at(LOWEST), like_labels=ours is not None)
    values = {"kohn_sham_hartree": found.energy}
    if found.dipole is not None:
        values["kohn_sham_fitted_dipole_debye"] = found.dipole
    if ours is None:
        return journey.knowing(values=values), True, found.level
    error = 1000.0 * (ours - found.energy)
    note = f"{found.level}; the functional is off by {error:+.2f} mHa"
    values["orbital_free_error_mha"] = error
    return journey.knowing(values=values, densities={KOHN_SHAM: found.coefficients}), True, note


STEPS: tuple[tuple[str, Callable[[Journey, PipelineSettings], Outcome]], ...] = (
    (PRE_RELAXED, pre_relaxed),
    (CONFORMERS, conformers),
    (MINIMA, minima),
    (ORBITAL_FREE, without_orbitals),
    (KOHN_SHAM, with_orbitals),
)
