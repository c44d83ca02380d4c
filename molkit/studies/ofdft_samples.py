"""The functional of water on labelled densities that it has not seen, before anything is minimised."""

from dataclasses import dataclass

import numpy as np

from molkit.ofdft.classes import class_named
from molkit.ofdft.compact import load
from molkit.ofdft.geometries import geometry
from molkit.ofdft.label_files import LabelSettings, make_labels
from molkit.ofdft.labels import FrozenSampling
from molkit.ofdft.reduction import frames_of, reduce_samples
from molkit.studies.ofdft_minimise import FIRST_LIVE, MILLI

CEILING = 0.4  # hartree above the ground state


@dataclass(frozen=True, eq=False)
class LiveSamples:
    """Samples of one geometry; slopes [2, S, m] are labels and the functional's, along its coordinates."""

    name: str
    excess: np.ndarray  # [S], hartree
    errors: np.ndarray  # [S], millihartree
    slopes: np.ndarray


def live_samples(weights: str, *, num_frozen: int, grid_level: int) -> LiveSamples:
    """Label densities of an unseen geometry and compare."""
    functional = load(weights)
    kind = class_named(functional.config.name)
    molecule = geometry(kind.name, "test", FIRST_LIVE)
    entry = make_labels(molecule, LabelSettings(FrozenSampling(count=num_frozen), grid_level=grid_level))
    frames = frames_of([entry], kind)
    samples = reduce_samples(functional.reduction, [entry], frames, ceiling=CEILING)
    energy = functional.energy_of(molecule)
    found = [energy(z) for z in samples.z]
    hartree = samples.z @ energy.curvature
    labels = samples.gradient + hartree
    reference = energy.reference_energy + 0.5 * (samples.z * hartree).sum(1)
    errors = MILLI * (np.array([value for value, _ in found]) - samples.energy - reference)
    slopes = np.stack([labels, np.stack([slope for _, slope in found])])
    return LiveSamples(molecule.name, samples.excess, errors, slopes)
