"""Frames fixed in a molecule, and how density coefficients turn with them."""

from collections.abc import Sequence

import numpy as np
from pyscf import gto
from pyscf.symm import sph

from molkit.errors import InvalidInput

NUM_POINTS = 40  # more than the functions of a shell
STRAIGHT = 1e-3  # sine of an angle below which three atoms count as lying on a line


def bisector_frame(positions: np.ndarray, centre: int, first: int, second: int) -> np.ndarray:
    """Rows x, y, z of a frame: z bisects the angle at `centre`, x lies in the plane on the side of `first`.

    Turns with the molecule; exchanging `first` and `second` turns it by 180 degrees about z. Raises InvalidInput where
    the three atoms lie on a line.
    """
    to_first, to_second = (positions[atom] - positions[centre] for atom in (first, second))
    to_first, to_second = to_first / np.linalg.norm(to_first), to_second / np.linalg.norm(to_second)
    if np.linalg.norm(np.cross(to_first, to_second)) < STRAIGHT:
        raise InvalidInput(f"atoms {centre}, {first} and {second} lie on a line; they cannot fix a frame")
    z = to_first + to_second
    x = to_first - to_second
    z, x = z / np.linalg.norm(z), x / np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def shell_rotation(momentum: int, rotation: np.ndarray) -> np.ndarray:
    """How the 2 l + 1 coefficients of a shell turn with an orthogonal matrix (determinant 1 or -1), PySCF's order.

    The matrix D with Y(R r) = D Y(r), from PySCF's own real spherical harmonics at fixed points: no convention of axes,
    signs or order can differ, and nothing is rounded to float32.
    Raises InvalidInput for a matrix that is not orthogonal.
    """
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-8:
        raise InvalidInput("a rotation of coefficients needs an orthogonal 3 x 3 matrix")
    points = np.random.default_rng(0).standard_normal((NUM_POINTS, 3))
    before, after = (_harmonics(momentum, where) for where in (points, points @ rotation.T))
    return np.linalg.lstsq(before, after, rcond=None)[0].T


def _harmonics(momentum: int, points: np.ndarray) -> np.ndarray:
    return np.stack(sph.real_sph_vec(points, momentum, reorder_p=True)[momentum], axis=1)  # [points, 2 l + 1]


def coefficient_rotation(density: gto.Mole, rotation: np.ndarray) -> np.ndarray:
    """Orthogonal [M, M]: coefficients of the turned density on the turned atoms, from those before."""
    momenta = [density.bas_angular(shell) for shell in range(density.nbas)]
    blocks = {momentum: shell_rotation(momentum, rotation) for momentum in set(momenta)}
    found, start = np.zeros((density.nao, density.nao)), 0
    for momentum in momenta:
        stop = start + 2 * momentum + 1
        found[start:stop, start:stop] = blocks[momentum]
        start = stop
    return found


def coefficient_permutation(density: gto.Mole, permutation: Sequence[int]) -> np.ndarray:
    """[M, M] that puts the functions of atom permutation[k] in the place of atom k (atoms of equal elements)."""
    slices = density.aoslice_by_atom()[:, 2:]
    rows = np.concatenate([np.arange(*slices[atom]) for atom in permutation])
    return np.eye(density.nao)[rows]
