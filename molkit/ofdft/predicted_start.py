"""A density to begin with: MINAO's, moved by a correction that is read off the guess and the neighbours of each atom.

M-OFDFT trains a further head of its network for this correction (its initial guess "ProjMINAO"). Here it is a linear
map fitted in closed form: every channel of an atom in the guess, times every scalar feature of its surroundings, says
how far the ground state's channels of the same angular momentum lie. It turns with the molecule as the channels do.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from molkit.ofdft.channels import CENTRES, ELEMENTS, ChannelReduction, Neighbourhood, Prepared

CORRECTION_RIDGE = 1e-4  # of coordinates of about one; the best of five on the compositions of the first fold
INVARIANTS = 1 + len(ELEMENTS) * len(CENTRES)  # scalar features of the surroundings of an atom


def correction_shape(count: int) -> tuple[int, int, int]:
    """Of the map of one angular momentum with so many channels: [elements, inputs, channels]."""
    return len(ELEMENTS), INVARIANTS * count, count


def fit_corrections(reduction: ChannelReduction, molecules: Sequence[Prepared]) -> ChannelReduction:
    """The reduction with maps from MINAO's channels to those of the ground state, least squares over a training set."""
    guesses = [_channels(reduction, molecule, guess=True) for molecule in molecules]
    grounds = [_channels(reduction, molecule, guess=False) for molecule in molecules]
    maps = []
    for momentum, count in enumerate(reduction.layout.counts):
        found = np.zeros(correction_shape(count))
        for element in range(len(ELEMENTS)):
            inputs = [
                _inputs(m.place, z, reduction, momentum, element) for m, z in zip(molecules, guesses, strict=True)
            ]
            wanted = [
                _of_element(m.place, z, reduction, momentum, element) for m, z in zip(molecules, grounds, strict=True)
            ]
            x, y = np.concatenate(inputs), np.concatenate(wanted)
            found[element] = np.linalg.solve(x.T @ x + CORRECTION_RIDGE * np.eye(x.shape[1]), x.T @ y)
        maps.append(found)
    return replace(reduction, corrections=maps)


def predicted_channels(reduction: ChannelReduction, place: Neighbourhood, guess: np.ndarray) -> np.ndarray:
    """z [A K] of the ground state by MINAO's z [A K]."""
    found = np.zeros((len(place.elements), reduction.layout.size))
    for momentum, count in enumerate(reduction.layout.counts):
        for element in np.unique(place.elements):
            inputs = _inputs(place, guess, reduction, momentum, element)
            values = inputs @ reduction.corrections[momentum][element]  # [atoms (2 l + 1), channels]
            shaped = values.reshape(-1, 2 * momentum + 1, count).swapaxes(1, 2)
            atoms = np.flatnonzero(place.elements == element)
            found[np.ix_(atoms, _columns(reduction, momentum))] = shaped.reshape(len(atoms), -1)
    return found.reshape(-1)


def _channels(reduction: ChannelReduction, molecule: Prepared, *, guess: bool) -> np.ndarray:
    """z [A K] of MINAO's density, or of the ground state."""
    _, drop = reduction.matrices(molecule.place)
    natural = molecule.integrals.natural(molecule.roots)[0] @ molecule.entry.guess if guess else molecule.ground_state
    return drop @ (natural - reduction.reference_density(molecule.place, len(natural)))


def _columns(reduction: ChannelReduction, momentum: int) -> np.ndarray:
    """Columns of an atom's channels of one l: channel by channel, the 2 l + 1 components of each together."""
    starts = [start for found, start in reduction.layout.blocks if found == momentum]
    return np.concatenate([np.arange(start, start + 2 * momentum + 1) for start in starts])


def _of_element(
    place: Neighbourhood, z: np.ndarray, reduction: ChannelReduction, momentum: int, element: int
) -> np.ndarray:
    """[atoms of an element (2 l + 1), channels]."""
    atoms, count = z.reshape(len(place.elements), -1)[place.elements == element], reduction.layout.counts[momentum]
    blocks = atoms[:, _columns(reduction, momentum)].reshape(-1, count, 2 * momentum + 1)
    return blocks.swapaxes(1, 2).reshape(-1, count)


def _inputs(
    place: Neighbourhood, z: np.ndarray, reduction: ChannelReduction, momentum: int, element: int
) -> np.ndarray:
    """Channels times scalar features, [atoms of an element (2 l + 1), INVARIANTS channels]."""
    channels = _of_element(place, z, reduction, momentum, element)
    features = place.reference_features(0)[place.elements == element, 0]
    repeated = np.repeat(features, 2 * momentum + 1, axis=0)
    return np.einsum("nk,nf->nkf", channels, repeated).reshape(len(channels), channels.shape[1] * INVARIANTS)
