"""Classical kinetic functionals: on Kohn-Sham densities, after minimisation, and exact where one orbital is filled."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from molkit.claims.ledger import REPOSITORY
from molkit.claims.provenance import commit, machine
from molkit.config import stored_json, whole_number
from molkit.errors import InvalidInput
from molkit.molecule import Molecule
from molkit.ofdft.classical import ClassicalEnergy
from molkit.ofdft.functionals import FUNCTIONALS
from molkit.ofdft.geometries import geometry
from molkit.ofdft.kohn_sham import KohnShamRun, System, build_system, require_converged, solve
from molkit.ofdft.labels import kinetic_functional
from molkit.ofdft.optimise import OptimiseOptions, optimise
from molkit.ofdft.reference_energies import pbe_energy
from molkit.training.files import write_text

STORED = REPOSITORY / "data" / "studies" / "ofdft_classical.json"
ORBITAL_BASES = ("6-31g", "6-31g(2df,p)", "cc-pvtz", "cc-pvqz", "cc-pv5z")
MINIMISED = ("TF", "TF+vW/9", "TF+vW", "APBE")
MILLI = 1e3
SMALL = {
    "H2": Molecule(np.array([1, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]]), name="H2"),
    "HF": Molecule(np.array([9, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.917]]), name="HF"),
    "H2O": Molecule(
        np.array([8, 1, 1]), np.array([[0.0, 0.0, 0.0], [0.757, 0.0, 0.587], [-0.757, 0.0, 0.587]]), name="H2O"
    ),
}
HELIUM = Molecule(np.array([2]), np.zeros((1, 3)), name="He")


@dataclass(frozen=True)
class OnKohnSham:
    """Kinetic energy of the converged orbitals (hartree), and each functional's error on their density, per cent."""

    molecule: str
    kinetic: float
    errors: dict[str, float]


@dataclass(frozen=True)
class OneOrbital:
    """A minimisation with the exact functional of one orbital; millihartree above Kohn-Sham in the orbital basis."""

    molecule: str
    start: str
    method: str
    offset: float
    num_steps: int
    converged: bool


@dataclass(frozen=True)
class Minimised:
    """One functional before and after minimisation; errors against Kohn-Sham in millihartree.

    moved: integral of |rho - rho_KS|, twice the number of electrons in the wrong place. least: smallest density on the
    grid, electrons per cubic bohr.
    """

    functional: str
    before: float
    after: float
    selected: float
    moved: float
    least: float
    num_steps: int
    converged: bool
    geometry: str = "water-test-0"


def solved(molecule: Molecule, *, grid_level: int) -> tuple[System, KohnShamRun]:
    """The molecule's system and its converged Kohn-Sham run."""
    system = build_system(molecule, grid_level=grid_level)
    return system, require_converged(solve(system), system)


def on_kohn_sham(names: Sequence[str], *, grid_level: int = 2) -> list[OnKohnSham]:
    """Every functional on the fitted Kohn-Sham densities of molecules of SMALL. Raises InvalidInput for others."""
    if not names or (unknown := [name for name in names if name not in SMALL]):
        raise InvalidInput(
            f"molecules must be some of {', '.join(SMALL)}; got {', '.join(unknown) if names else 'none'}"
        )
    found = []
    for name in names:
        system, run = solved(SMALL[name], grid_level=grid_level)
        kinetic = run.steps[-1].parts.kinetic
        coefficients = system.fit(run.steps[-1].matrix[None])
        errors = {
            label: 100.0 * (float(kinetic_functional(label, system.grid, coefficients)[0][0]) / kinetic - 1.0)
            for label in FUNCTIONALS
        }
        found.append(OnKohnSham(name, kinetic, errors))
    return found


def one_orbital(*, grid_level: int = 2, descent_steps: int = 3000) -> list[OneOrbital]:
    """H2 and He with vW, which is exact there: two starts, two methods."""
    methods = {
        "L-BFGS": OptimiseOptions(tolerance=1e-5),
        "descent": OptimiseOptions(method="descent", tolerance=1e-4, step=0.01, momentum=0.9, max_steps=descent_steps),
    }
    found = []
    for molecule in (SMALL["H2"], HELIUM):
        system, run = solved(molecule, grid_level=grid_level)
        energy = ClassicalEnergy("vW", system.integrals, system.grid)
        starts = {"MINAO": run.steps[0], "Kohn-Sham": run.steps[-1]}
        for start, step in starts.items():
            first = energy.start(system.fit(step.matrix[None])[0])
            for method, options in methods.items():
                result = optimise(energy, first, constraint=energy.constraint, options=options)
                offset = MILLI * (result.energy - run.energy)
                found.append(OneOrbital(molecule.name, start, method, offset, result.num_steps, result.converged))
    return found


@dataclass(frozen=True)
class BasisOffset:
    """The vW minimum minus Kohn-Sham in one orbital basis, millihartree."""

    molecule: str
    basis: str
    num_functions: int
    offset: float


def offsets_by_basis(bases: Sequence[str] = ORBITAL_BASES, *, grid_level: int = 2) -> list[BasisOffset]:
    """H2 and He: the minimum of vW in the density basis against Kohn-Sham in larger and larger orbital basis sets."""
    found = []
    for molecule in (SMALL["H2"], HELIUM):
        system, run = solved(molecule, grid_level=grid_level)
        energy = ClassicalEnergy("vW", system.integrals, system.grid)
        first = energy.start(system.fit(run.steps[-1].matrix[None])[0])
        lowest = optimise(energy, first, constraint=energy.constraint, options=OptimiseOptions(tolerance=1e-5)).energy
        for basis in bases:
            reference, size = pbe_energy(molecule, basis, grid_level=grid_level)
            found.append(BasisOffset(molecule.name, basis, size, MILLI * (lowest - reference)))
    return found


def minimise_classical(
    names: Sequence[str] = MINIMISED, *, max_steps: int, grid_level: int = 1, molecule: Molecule | None = None
) -> list[Minimised]:
    """Functionals from the MINAO density of a molecule, with L-BFGS in natural coordinates.

    Without a molecule, the first test geometry of water.
    """
    molecule = geometry("water", "test", 0) if molecule is None else molecule
    system, run = solved(molecule, grid_level=grid_level)
    first, last = system.fit(np.stack([run.steps[0].matrix, run.steps[-1].matrix]))
    truth = system.grid.fields(last[None])[0, 0]
    found = []
    for name in names:
        energy = ClassicalEnergy(name, system.integrals, system.grid)
        options = OptimiseOptions(tolerance=1e-4, max_steps=max_steps)
        result = optimise(energy, energy.start(first), constraint=energy.constraint, options=options)
        density = system.grid.fields(energy.coefficients(result.variables)[None])[0, 0]
        found.append(
            Minimised(
                functional=name,
                before=MILLI * (energy(energy.to_natural @ last)[0] - run.energy),
                after=MILLI * (result.energy - run.energy),
                selected=MILLI * (result.selected_energy - run.energy),
                moved=float(system.grid.weights @ np.abs(density - truth)),
                least=float(density.min()),
                num_steps=result.num_steps,
                converged=result.converged,
                geometry=molecule.name,
            )
        )
    return found


def read_geometries(text: str) -> list[Molecule]:
    """Test geometries such as `water:0,ethanol:3`; of a class that folds part, such as `up_to_five:20`, any.

    Raises InvalidInput for another form or an unknown class.
    """
    found = []
    for part in text.split(","):
        name, _, index = part.strip().partition(":")
        number = whole_number(index, what=f"{part.strip()!r}, where CLASS:NUMBER is expected,")
        found.append(geometry(name, "train" if name == "up_to_five" else "test", number))
    return found


def write_classical(found: Sequence[Minimised], path: Path, *, report: Callable[[str], None]) -> None:
    """Keep minimisations as JSON with their stamp. Raises RunError when the disk refuses."""
    head, dirty = commit()
    stamp = {"commit": head, "dirty": dirty, "machine": machine()}
    write_text(path, json.dumps({"stamp": stamp, "minimised": [asdict(entry) for entry in found]}) + "\n")
    report(f"{path}: {len(found)} functionals")


def stored_classical(path: Path = STORED) -> list[Minimised]:
    """What `molkit study ofdft-classical` wrote. Raises DataNotFound or InvalidInput."""
    with stored_json(path, "a study of classical functionals", f"molkit study ofdft-classical --out {path}") as values:
        return [Minimised(**entry) for entry in values["minimised"]]
