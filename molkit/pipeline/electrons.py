"""Energy and dipole moment of one structure, with and without orbitals."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from molkit.chem.dft import DftLevel, single_point
from molkit.molecule import Molecule
from molkit.ofdft.attention_functional import AttentionFunctional
from molkit.ofdft.compact import CompactFunctional
from molkit.ofdft.density import density_of, load_functional
from molkit.ofdft.kohn_sham import build_system, require_converged, solve
from molkit.ofdft.observables import dipole

LEVEL = DftLevel(functional="pbe", basis="6-31g(2df,p)")


@dataclass(frozen=True, eq=False)
class WithoutOrbitals:
    """A minimised density: hartree and debye, and its coefficients [M]."""

    energy: float
    dipole: float
    coefficients: np.ndarray
    converged: bool
    steps: int


@dataclass(frozen=True, eq=False)
class WithOrbitals:
    """A Kohn-Sham density: hartree and debye, how it was made, and its fitted coefficients [M], or none."""

    energy: float
    dipole: float
    level: str
    coefficients: np.ndarray | None = None


@lru_cache(maxsize=2)
def functional_named(name: str) -> CompactFunctional | AttentionFunctional:
    """A functional, loaded once in a process."""
    return load_functional(name)


def orbital_free(molecule: Molecule, functional: str) -> WithoutOrbitals:
    """Minimise the density from the MINAO start. Raises InvalidInput for a molecule the functional does not serve."""
    found = density_of(molecule, functional_named(functional))
    return WithoutOrbitals(
        found.result.energy, found.dipole, found.coefficients, found.result.converged, found.result.num_steps
    )


def kohn_sham(molecule: Molecule, *, like_labels: bool) -> WithOrbitals:
    """PBE/6-31G(2df,p). Like the labels of the functionals: without density fitting, on their grid.

    Raises CalculationFailed where the density does not converge.
    """
    if not like_labels:
        found = single_point(molecule, level=LEVEL)
        return WithOrbitals(found.energy, found.dipole, LEVEL.label)
    system = build_system(molecule)
    run = require_converged(solve(system), system)
    fitted = system.fit(run.steps[-1].matrix[None])[0]
    moment = float(np.linalg.norm(dipole(molecule, fitted)))
    return WithOrbitals(run.energy, moment, "PBE/6-31g(2df,p), grid 2", fitted)
