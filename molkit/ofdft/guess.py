"""Densities to begin with."""

import numpy as np
from pyscf import scf

from molkit.ofdft.basis import density_mole, orbital_mole
from molkit.ofdft.fitting import density_fit
from molkit.ofdft.integrals import DensityIntegrals, three_centre


def minao_coefficients(integrals: DensityIntegrals) -> np.ndarray:
    """Fitted coefficients [M] of the superposition of atomic densities in PySCF's minimal basis."""
    orbitals, density = orbital_mole(integrals.molecule), density_mole(integrals.molecule)
    attraction = scf.hf.get_hcore(orbitals) - orbitals.intor("int1e_kin")
    fit = density_fit(integrals, three_centre(orbitals, density, "coulomb"), attraction)
    return fit(np.asarray(scf.hf.init_guess_by_minao(orbitals))[None])[0]
