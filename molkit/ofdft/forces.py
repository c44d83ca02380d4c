"""Forces on nuclei: those of Hellmann and Feynman, and those with everything that moves with the atoms."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np
from pyscf import gto

from molkit.molecule import Molecule
from molkit.ofdft.basis import density_mole
from molkit.units import ANGSTROM_TO_BOHR

STEP = 1e-3  # bohr


class DensityEnergy(Protocol):
    """What `CompactEnergy` and `AttentionEnergy` have in common."""

    constraint: np.ndarray

    def __call__(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy and derivative."""
        ...

    def on_constraint(self, z: np.ndarray) -> np.ndarray:
        """z with the right number of electrons."""
        ...


def hellmann_feynman(molecule: Molecule, coefficients: np.ndarray) -> np.ndarray:
    """Electrostatic forces of a density [M] and the other nuclei, [A, 3], hartree per bohr.

    Only the operators are differentiated, as in M-OFDFT's released code; the basis functions stay where they are.
    """
    density = density_mole(molecule)
    charges = gto.fakemol_for_charges(density.atom_coords())
    numbers = density.atom_charges().astype(float)
    slopes = gto.intor_cross("int2c2e_ip1", charges, density) @ coefficients  # [3, A], by the electron
    return nuclear_repulsion_forces(density.atom_coords(), numbers) - (numbers * slopes).T


def nuclear_repulsion_forces(positions: np.ndarray, charges: np.ndarray) -> np.ndarray:
    """Of nuclei on each other, [A, 3], hartree per bohr; positions in bohr."""
    displacement = positions[:, None] - positions[None]
    cubes = np.linalg.norm(displacement, axis=-1) ** 3
    np.fill_diagonal(cubes, np.inf)
    return (charges[:, None, None] * charges[None, :, None] * displacement / cubes[..., None]).sum(1)


def forces(
    energy_of: Callable[[Molecule], DensityEnergy], molecule: Molecule, z: np.ndarray, *, step: float = STEP
) -> np.ndarray:
    """Minus the derivative of the minimised energy by the nuclei, [A, 3], hartree per bohr, at a minimum z.

    At a minimum the density's own response does not count: what remains is the derivative at fixed z, with basis,
    frames, reference and network moving along, less the multiplier times that of the electron number. It is taken by
    central differences of single evaluations; nothing is minimised again.
    """
    energy = energy_of(molecule)
    multiplier = float(energy.constraint @ energy(z)[1]) / float(energy.constraint @ energy.constraint)

    def lagrangian(moved: Molecule) -> float:
        there = energy_of(moved)
        missing = float(there.constraint @ (there.on_constraint(z) - z))
        return there(z)[0] + multiplier * missing

    return -central_differences(lagrangian, molecule, step=step)


def central_differences(function: Callable[[Molecule], float], molecule: Molecule, *, step: float = STEP) -> np.ndarray:
    """Derivative of a function of the geometry by all coordinates, [A, 3], per bohr."""
    found = np.zeros_like(molecule.positions)
    for place in np.ndindex(*found.shape):
        ends = []
        for sign in (1.0, -1.0):
            positions = molecule.positions.copy()
            positions[place] += sign * step / ANGSTROM_TO_BOHR
            ends.append(function(replace(molecule, positions=positions)))
        found[place] = (ends[0] - ends[1]) / (2.0 * step)
    return found
