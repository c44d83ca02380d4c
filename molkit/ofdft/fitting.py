"""From density matrices to density coefficients."""

from dataclasses import dataclass

import numpy as np
from pyscf import df, scf

from molkit.chem.threads import one_thread
from molkit.molecule import Molecule
from molkit.ofdft.basis import density_mole, orbital_mole
from molkit.ofdft.integrals import DensityIntegrals, density_integrals

SHELLS = 20  # of the density basis, whose integrals are held at one time


@dataclass(frozen=True, eq=False)
class DensityFit:
    """Coulomb normal equations with the external energy as one more row; the pseudo-inverse is made once a molecule.

    [J; v_ext^T] p = [(omega|D); tr(V_ext D)], solved in the least-squares sense. Source: M-OFDFT's released code.
    """

    inverse: np.ndarray  # [M, M + 1]
    pairs: np.ndarray  # [N * N, M], (eta_a eta_b | omega_m)
    attraction: np.ndarray  # [N * N], nuclear attraction

    def __call__(self, matrices: np.ndarray) -> np.ndarray:
        """Coefficients [S, M] of density matrices [S, N, N]."""
        flat = matrices.reshape(len(matrices), -1)
        right = np.concatenate([flat @ self.pairs, (flat @ self.attraction)[:, None]], axis=1)
        return right @ self.inverse.T


def density_fit(integrals: DensityIntegrals, pairs: np.ndarray, attraction: np.ndarray) -> DensityFit:
    """The fit of one molecule from (eta_a eta_b | omega_m) [N, N, M] and the attraction matrix [N, N]."""
    stacked = np.concatenate([integrals.coulomb, integrals.external[None]])
    inverse = np.linalg.pinv(stacked, rcond=np.finfo(float).eps * len(stacked))
    return DensityFit(inverse, pairs.reshape(-1, pairs.shape[-1]), attraction.reshape(-1))


@one_thread()
def fitted_density(molecule: Molecule, matrix: np.ndarray) -> np.ndarray:
    """Coefficients [M] of one density matrix [N, N]: the fit of `density_fit`, without keeping its integrals.

    Raises InvalidInput for a molecule that the density basis does not support.
    """
    orbitals, density, integrals = orbital_mole(molecule), density_mole(molecule), density_integrals(molecule)
    attraction = scf.hf.get_hcore(orbitals) - orbitals.intor("int1e_kin")
    parts = []
    for start in range(0, density.nbas, SHELLS):
        shells = (0, orbitals.nbas, 0, orbitals.nbas, start, min(start + SHELLS, density.nbas))
        block = df.incore.aux_e2(orbitals, density, "int3c2e", aosym="s1", shls_slice=shells)
        parts.append(np.tensordot(matrix, block, axes=([0, 1], [0, 1])))
    stacked = np.concatenate([integrals.coulomb, integrals.external[None]])
    right = np.append(np.concatenate(parts), np.vdot(attraction, matrix))
    return np.linalg.lstsq(stacked, right, rcond=np.finfo(float).eps * len(stacked))[0]
