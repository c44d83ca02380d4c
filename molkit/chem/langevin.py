"""Langevin trajectories on any energy surface, GFN2-xTB by default."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from molkit.chem.xtb import EnergyFunction, XtbEnergy, ase_calculator
from molkit.errors import InvalidInput
from molkit.molecule import Molecule


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
