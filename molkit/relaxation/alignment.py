"""Does a chain move along the force, or towards the minimum? Cosines between steps, forces and the way that is left."""

from dataclasses import dataclass

import numpy as np

from molkit.geometry import superpose


@dataclass(frozen=True)
class Alignment:
    """Mean over atoms of cosines at every frame that has one `lag` frames later, each [F - lag]."""

    lag: int
    with_force: np.ndarray  # of the step and the force
    with_minimum: np.ndarray  # of the step and the way to the minimum
    force_with_minimum: np.ndarray


def alignment(frames: np.ndarray, forces: np.ndarray, minimum: np.ndarray, *, lag: int) -> Alignment:
    """Cosines of x[i + lag] - x[i] with the force and with the way to the minimum, frames and forces [F, A, 3].

    The later frame and the minimum [A, 3] are first superposed on frame i. Per-atom cosines are averaged over atoms; a
    zero vector counts as 0. Source: Rothchild et al. 2024 as in the authors' code, which does not superpose.
    """
    rows = range(len(frames) - lag)
    steps = np.stack([superpose(frames[i + lag], frames[i]) - frames[i] for i in rows])
    ways = np.stack([superpose(minimum, frames[i]) - frames[i] for i in rows])
    here = forces[: len(frames) - lag]
    return Alignment(lag, cosines(steps, here), cosines(steps, ways), cosines(here, ways))


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mean over atoms of the cosine between two vectors of each atom, [F, A, 3] -> [F]; 0 where one is zero."""
    product = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    dots = (first * second).sum(-1)
    return np.divide(dots, product, out=np.zeros_like(dots), where=product > 0).mean(-1)
