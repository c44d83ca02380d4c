"""GFN-xTB through tblite and ASE: energies, forces, relaxations; and Langevin trajectories on any energy surface.

A calculation that fails raises CalculationFailed; it never returns a number in its place. Every call uses one thread,
whatever OMP_NUM_THREADS says: with more, numbers would not repeat bit for bit, and the CPU time is many times as much.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import all_changes
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import BFGS, LBFGS
from tblite.interface import Calculator

from molkit.chem.threads import one_thread
from molkit.errors import CalculationFailed, InvalidInput
from molkit.geometry import aligned_rmsd
from molkit.molecule import Molecule
from molkit.units import ANGSTROM_TO_BOHR, BOHR_TO_ANGSTROM, HARTREE_TO_EV

Method = Literal["GFN2-xTB", "GFN1-xTB"]
LAST_ELEMENT = 86  # radon
CLOSEST = 0.4  # angstrom; nearer atoms get an energy from the program all the same, and a wrong one


@dataclass(frozen=True)
class EnergyForces:
    """Energy in eV and forces [A, 3] in eV/angstrom."""

    energy: float
    forces: np.ndarray


class EnergyFunction(Protocol):
    """Energy (eV) and forces (eV/angstrom) at positions [A, 3] in angstrom; raises CalculationFailed, never guesses."""

    def __call__(self, positions: np.ndarray) -> EnergyForces: ...


@dataclass(frozen=True)
class Relaxation:
    """A structure and the minimum near it; energies in eV, positions [A, 3] and rmsd in angstrom."""

    positions: np.ndarray
    energy_before: float
    energy_after: float
    rmsd: float
    num_steps: int
    num_gradients: int  # energy and force evaluations
    converged: bool

    @property
    def energy_drop(self) -> float:
        """How much the energy fell, eV."""
        return self.energy_before - self.energy_after


def closest_distance(positions: np.ndarray) -> float:
    """Smallest distance between two atoms, infinite for one atom."""
    if len(positions) < 2:
        return float("inf")
    squared = ((positions[:, None] - positions[None]) ** 2).sum(-1)
    return float(np.sqrt(squared[np.triu_indices(len(positions), 1)].min()))


def num_electrons(molecule: Molecule) -> int:
    """Electrons of the molecule with its charge."""
    return int(molecule.atomic_numbers.sum()) - molecule.charge


def _require_possible(molecule: Molecule, unpaired: int) -> None:
    heaviest, electrons = int(molecule.atomic_numbers.max()), num_electrons(molecule)
    if heaviest > LAST_ELEMENT:
        raise InvalidInput(f"xTB knows the elements up to radon ({LAST_ELEMENT}), got atomic number {heaviest}")
    if electrons < max(unpaired, 1) or (electrons - unpaired) % 2:
        raise InvalidInput(f"{electrons} electrons cannot have {unpaired} unpaired ones; correct charge or spin")


class XtbEnergy:
    """Energy and forces of one molecule at any positions; charge and unpaired electrons are the molecule's.

    An odd number of electrons makes a doublet where the molecule says nothing else. Raises InvalidInput for an unknown
    method, an element beyond radon or a spin its electrons cannot have, CalculationFailed where there is no energy.
    """

    def __init__(self, molecule: Molecule, *, method: Method = "GFN2-xTB") -> None:
        if method not in ("GFN2-xTB", "GFN1-xTB"):
            raise InvalidInput(f"method must be GFN2-xTB or GFN1-xTB, got {method!r}")
        self.molecule, self.method = molecule, method
        self.unpaired = max(molecule.spin, num_electrons(molecule) % 2)
        _require_possible(molecule, self.unpaired)
        self.calculator: Calculator | None = None

    def __call__(self, positions: np.ndarray) -> EnergyForces:
        """Energy in eV and forces in eV/angstrom at positions [A, 3] in angstrom."""
        if not np.isfinite(positions).all():
            raise CalculationFailed("a coordinate is not a finite number")
        if (near := closest_distance(positions)) < CLOSEST:
            raise CalculationFailed(f"two atoms are only {near:.2f} angstrom apart")
        try:
            with one_thread():
                result = self._prepared(positions * ANGSTROM_TO_BOHR).singlepoint()
        except (RuntimeError, ValueError) as error:  # tblite's own errors are of these kinds
            raise CalculationFailed(f"{self.method}: {' '.join(str(error).split())}") from error
        energy, gradient = float(result.get("energy")), result.get("gradient")
        if not np.isfinite(energy) or not np.isfinite(gradient).all():
            raise CalculationFailed(f"{self.method}: the energy is not a finite number")
        return EnergyForces(energy * HARTREE_TO_EV, -gradient * HARTREE_TO_EV / BOHR_TO_ANGSTROM)

    def _prepared(self, positions: np.ndarray) -> Calculator:
        if self.calculator is None:
            numbers, charge = self.molecule.atomic_numbers, float(self.molecule.charge)
            self.calculator = Calculator(self.method, numbers, positions, charge, self.unpaired)
            self.calculator.set("verbosity", 0)
        else:
            self.calculator.update(positions)
        return self.calculator


class _ForAse(AseCalculator):
    """Our energy function as ASE wants it."""

    implemented_properties = ("energy", "forces")

    def __init__(self, function: EnergyFunction) -> None:
        super().__init__()
        self.function, self.num_calls = function, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        """ASE's hook."""
        super().calculate(atoms, properties, system_changes)
        self.num_calls += 1
        found = self.function(atoms.get_positions())
        self.results = {"energy": found.energy, "forces": found.forces}


def ase_calculator(function: EnergyFunction) -> AseCalculator:
    """An energy function as a calculator of ASE."""
    return _ForAse(function)


def relax(
    molecule: Molecule,
    *,
    method: Method = "GFN2-xTB",
    energy: EnergyFunction | None = None,
    optimiser: Literal["lbfgs", "bfgs"] = "lbfgs",
    fmax: float = 0.05,
    max_steps: int = 300,
) -> Relaxation:
    """Follow the forces until the largest is below fmax (eV/angstrom) or max_steps are taken (converged=False then).

    `energy` takes the place of the xTB method. Raises InvalidInput for a molecule that the method cannot treat,
    CalculationFailed where an energy on the way fails.
    """
    function = _ForAse(XtbEnergy(molecule, method=method) if energy is None else energy)
    atoms = Atoms(numbers=molecule.atomic_numbers, positions=molecule.positions, calculator=function)
    kind = LBFGS if optimiser == "lbfgs" else BFGS
    search = kind(atoms, logfile=None)
    with one_thread():
        before = float(atoms.get_potential_energy())
        converged = bool(search.run(fmax=fmax, steps=max_steps))
    positions = atoms.get_positions()
    return Relaxation(
        positions=positions,
        energy_before=before,
        energy_after=float(atoms.get_potential_energy()),
        rmsd=aligned_rmsd(molecule.positions, positions),
        num_steps=search.get_number_of_steps(),
        num_gradients=function.num_calls,
        converged=converged,
    )


def relaxed_molecule(molecule: Molecule, found: Relaxation) -> Molecule:
    """The molecule at its minimum."""
    return replace(molecule, positions=found.positions)


@dataclass(frozen=True, kw_only=True)
class LangevinRules:
    """ISO17's 500 K; time step 1 fs and friction are ours."""

    kelvin: float = 500.0
    step_fs: float = 1.0
    friction_per_fs: float = 0.01
    settle: int = 1000  # steps that are not kept
    every: int = 20  # steps between frames

    def __post_init__(self) -> None:
        if min(self.kelvin, self.step_fs, self.friction_per_fs) <= 0.0 or self.settle < 0 or self.every < 1:
            raise InvalidInput(
                f"temperature, time step, friction and steps between frames must be positive, got {self}"
            )


@dataclass(frozen=True)
class Frame:
    """One frame: positions [A, 3] in angstrom, energies in eV, temperature in kelvin."""

    positions: np.ndarray
    potential: float
    kelvin: float


def langevin(
    molecule: Molecule, *, num_frames: int, seed: int, rules: LangevinRules, energy: EnergyFunction | None = None
) -> Iterator[Frame]:
    """Frames of a trajectory that begins at the molecule's geometry with velocities of the wanted temperature.

    The centre of mass is left free. Raises CalculationFailed where an energy on the way fails.
    """
    if num_frames < 1:
        raise InvalidInput(f"the number of frames must be at least 1, got {num_frames}")
    random = np.random.RandomState(seed)
    atoms = Atoms(numbers=molecule.atomic_numbers, positions=molecule.positions)
    atoms.calc = ase_calculator(XtbEnergy(molecule) if energy is None else energy)
    MaxwellBoltzmannDistribution(atoms, temperature_K=rules.kelvin, rng=random)
    motion = Langevin(
        atoms,
        rules.step_fs * units.fs,
        temperature_K=rules.kelvin,
        friction=rules.friction_per_fs / units.fs,
        fixcm=False,
        rng=random,
    )
    motion.run(rules.settle)
    for _ in range(num_frames):
        motion.run(rules.every)
        yield Frame(atoms.get_positions(), float(atoms.get_potential_energy()), float(atoms.get_temperature()))
