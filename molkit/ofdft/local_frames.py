"""Axes of atom pairs and candidate frames of atoms, and what they do to multipole channels.

No single frame of an atom can follow the molecule smoothly: the frame of the two nearest neighbours jumps where two
distances are equal, and none exists on a line. So every ordered pair of neighbours offers a frame, with a weight that
fades where the pair leaves the cutoff or comes to lie on a line, and the axis to each neighbour serves by itself, used
only through what does not change under rotations about it.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pyscf.symm import sph

from molkit.ofdft.edges import edges_within, following_pairs
from molkit.ofdft.frames import NUM_POINTS

FRAME_CUTOFF = 4.0  # bohr, beyond which a neighbour offers no axis and no frame
FRAME_WIDTH = 2.5  # bohr
STRAIGHT = 1e-6  # sine of an angle below which two neighbours fix no frame


@dataclass(frozen=True)
class Layout:
    """Channels of an atom: counts[l] radial channels of angular momentum l, as blocks of 2 l + 1 components."""

    counts: tuple[int, ...]

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """(l, first component) of every channel, in order."""
        found, start = [], 0
        for momentum, count in enumerate(self.counts):
            for _ in range(count):
                found.append((momentum, start))
                start += 2 * momentum + 1
        return found

    @property
    def size(self) -> int:
        """Components K."""
        return sum(count * (2 * momentum + 1) for momentum, count in enumerate(self.counts))

    @property
    def orders(self) -> np.ndarray:
        """Signed m of every component, PySCF's order, [K]; x, y, z for l = 1."""
        return np.concatenate([signed_orders(momentum) for momentum, _ in self.blocks])

    @property
    def channels(self) -> np.ndarray:
        """Number of the channel of every component, [K]."""
        return np.repeat(np.arange(len(self.blocks)), [2 * momentum + 1 for momentum, _ in self.blocks])


def signed_orders(momentum: int) -> np.ndarray:
    """m of PySCF's real functions of one shell; positive for cosines."""
    return np.array([1, -1, 0]) if momentum == 1 else np.arange(-momentum, momentum + 1)


@lru_cache(maxsize=8)
def _fixed_points(momentum: int) -> tuple[np.ndarray, np.ndarray]:
    points = np.random.default_rng(0).standard_normal((NUM_POINTS, 3))
    return points, np.linalg.pinv(_harmonics(momentum, points))


def _harmonics(momentum: int, points: np.ndarray) -> np.ndarray:
    return np.stack(sph.real_sph_vec(points, momentum, reorder_p=True)[momentum], axis=1)


def shell_rotations(momentum: int, rotations: np.ndarray) -> np.ndarray:
    """`frames.shell_rotation` of many rotations [n, 3, 3] at once; [n, 2 l + 1, 2 l + 1]."""
    points, inverse = _fixed_points(momentum)
    turned = (points @ rotations.transpose(0, 2, 1)).reshape(-1, 3)
    after = _harmonics(momentum, turned).reshape(len(rotations), len(points), 2 * momentum + 1)
    return (inverse @ after).transpose(0, 2, 1)


def axis_harmonics(momentum: int, directions: np.ndarray) -> np.ndarray:
    """Real harmonics of unit vectors [n, 3], scaled to 1 for m = 0 on the z axis; [n, 2 l + 1], PySCF's order."""
    on_axis = _harmonics(momentum, np.array([[0.0, 0.0, 1.0]]))[0]
    return _harmonics(momentum, directions) / on_axis[signed_orders(momentum) == 0]


def layout_rotations(layout: Layout, rotations: np.ndarray) -> np.ndarray:
    """Orthogonal matrices that turn all channels of an atom into frames [n, 3, 3]; [n, K, K]."""
    found = np.zeros((len(rotations), layout.size, layout.size))
    of_shell = {momentum: shell_rotations(momentum, rotations) for momentum, _ in set(layout.blocks)}
    for momentum, start in layout.blocks:
        stop = start + 2 * momentum + 1
        found[:, start:stop, start:stop] = of_shell[momentum]
    return found


def axis_frames(directions: np.ndarray) -> np.ndarray:
    """Frames [n, 3, 3] (rows are axes) whose z lies along directions [n, 3]; where x and y point is arbitrary."""
    z = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    helper = np.eye(3)[np.abs(z).argmin(1)]
    x = np.cross(helper, z)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.stack([x, np.cross(z, x), z], axis=1)


def neighbour_weights(distances: np.ndarray) -> np.ndarray:
    """Smooth weights that vanish with two derivatives at FRAME_CUTOFF; distances in bohr, any shape."""
    inside = np.clip(1.0 - (distances / FRAME_CUTOFF) ** 2, 0.0, None)
    return np.exp(-((distances / FRAME_WIDTH) ** 2) / 2.0) * inside**3


@dataclass(frozen=True, eq=False)
class CandidateFrames:
    """Frames of the atoms of one molecule: atom [F], axes [F, 3, 3], weight [F]."""

    atom: np.ndarray
    axes: np.ndarray
    weight: np.ndarray


def candidate_frames(positions: np.ndarray) -> CandidateFrames:
    """All frames (z to one neighbour, x towards another) of positions [A, 3] in bohr; none for a diatomic molecule.

    The weight is that of both neighbours times the squared sine of their angle: it fades before the frame is lost.
    """
    edges = edges_within(positions, FRAME_CUTOFF)
    to_b, to_c = following_pairs(edges.bounds(len(positions)))
    z, other = edges.directions[to_b], edges.directions[to_c]
    sine = np.linalg.norm(np.cross(z, other), axis=1)
    bent = sine >= STRAIGHT
    to_b, to_c, z, other, sine = to_b[bent], to_c[bent], z[bent], other[bent], sine[bent]
    x = other - z * (z * other).sum(1, keepdims=True)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    weights = neighbour_weights(edges.distances)
    return CandidateFrames(
        edges.first[to_b], np.stack([x, np.cross(z, x), z], axis=1), weights[to_b] * weights[to_c] * sine**2
    )
