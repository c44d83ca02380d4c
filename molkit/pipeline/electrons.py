"""Energy and dipole moment of one structure, with and without orbitals; every dipole is that of a fitted density."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from molkit.chem.dft import DftEnergy, DftLevel
from molkit.errors import InvalidInput
from molkit.molecule import Molecule
from molkit.ofdft.attention_functional import AttentionFunctional
from molkit.ofdft.basis import require_supported
from molkit.ofdft.compact import CompactFunctional
from molkit.ofdft.density import density_of, load_functional
from molkit.ofdft.fitting import fitted_density
from molkit.ofdft.kohn_sham import build_system, require_converged, solve
from molkit.ofdft.observables import dipole

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
