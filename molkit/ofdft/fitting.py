"""From density matrices to density coefficients."""

from dataclasses import dataclass

import numpy as np

from molkit.ofdft.integrals import DensityIntegrals


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
