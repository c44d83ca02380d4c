"""Energies that others have published for the geometries of a class, in another basis, as a first surface."""

import numpy as np

from molkit.data.md17 import load_rmd17
from molkit.errors import InvalidInput
from molkit.ofdft.channels import neighbourhood, ridge_energies
from molkit.ofdft.geometries import VALIDATION_FRAMES
from molkit.units import HARTREE_TO_KCAL

PUBLISHED = ("ethanol",)
RIDGE = 1e-6


def published_surface(name: str) -> np.ndarray:
    """Weights of energy features fitted to the published energies of a class, [ENERGY_FEATURES], hartree.

    For ethanol rMD17's, PBE in def2-SVP, of the training frames that do not serve for validation. Raises InvalidInput
    for a class without any.
    """
    if name not in PUBLISHED:
        raise InvalidInput(f"energies are published for {', '.join(PUBLISHED)}; got {name!r}")
    frames = load_rmd17(name, split="train")
    count = len(frames) - VALIDATION_FRAMES
    features = np.stack([neighbourhood(frames.molecule(frame)).energy_features() for frame in range(count)])
    return ridge_energies(features, frames.energies[:count] / HARTREE_TO_KCAL, RIDGE)
