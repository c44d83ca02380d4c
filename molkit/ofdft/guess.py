"""Densities to begin with."""

import numpy as np
from pyscf import scf

from molkit.chem.threads import one_thread
from molkit.errors import InvalidInput
from molkit.ofdft.basis import density_mole, orbital_mole
from molkit.ofdft.fitting import density_fit
from molkit.ofdft.integrals import DensityIntegrals, three_centre

ORBITAL_GUESSES = {"minao": scf.hf.init_guess_by_minao, "huckel": scf.hf.init_guess_by_huckel}


@one_thread()
def guess_coefficients(integrals: DensityIntegrals, kind: str) -> np.ndarray:
    """Fitted coefficients [M] of one of PySCF's densities to begin with: `minao`, or `huckel` (parameter-free).

    Raises InvalidInput for another name.
    """
    if kind not in ORBITAL_GUESSES:
        raise InvalidInput(f"densities to begin with are {', '.join(ORBITAL_GUESSES)}; got {kind!r}")
    orbitals, density = orbital_mole(integrals.molecule), density_mole(integrals.molecule)
    attraction = scf.hf.get_hcore(orbitals) - orbitals.intor("int1e_kin")
    fit = density_fit(integrals, three_centre(orbitals, density, "coulomb"), attraction)
    return fit(np.asarray(ORBITAL_GUESSES[kind](orbitals))[None])[0]
