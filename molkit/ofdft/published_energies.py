"""Energies that others have published for the geometries of a class, by another method, as a first surface."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from molkit.data.md17 import load_rmd17
from molkit.data.qm9 import load_qm9, qm9_index, qm9_properties
from molkit.errors import InvalidInput
from molkit.ofdft.channels import neighbourhood, ridge_energies
from molkit.ofdft.geometries import QM9_UP_TO_FIVE, VALIDATION_FRAMES
from molkit.units import HARTREE_TO_KCAL

RIDGE = 1e-6
NUM_QM9, QM9_RIDGE, QM9_SPREAD = 3000, 0.1, 0.1


def published_surface(name: str) -> np.ndarray:
    """Weights of energy features fitted to the published energies of a class, [ENERGY_FEATURES], hartree.

    Raises InvalidInput for a class without any.
    """
    if name not in PUBLISHED:
        raise InvalidInput(f"energies are published for {', '.join(PUBLISHED)}; got {name!r}")
    return PUBLISHED[name]()


def _ethanol() -> np.ndarray:
    """rMD17's, PBE in def2-SVP, of the training frames that do not serve for validation."""
    frames = load_rmd17("ethanol", split="train")
    count = len(frames) - VALIDATION_FRAMES
    features = np.stack([neighbourhood(frames.molecule(frame)).energy_features() for frame in range(count)])
    return ridge_energies(features, frames.energies[:count] / HARTREE_TO_KCAL, RIDGE)


@lru_cache(maxsize=1)
def qm9_surface(count: int = NUM_QM9) -> np.ndarray:
    """QM9's, B3LYP in 6-31G(2df,p), without vibrations, of `count` molecules with more than five heavy atoms."""
    molecules, table = load_qm9(split="all"), qm9_properties()
    place = {number: row for row, number in enumerate(qm9_index(split="all").tolist())}
    rows = np.array([place.get(number, -1) for number in table["index"].tolist()])
    larger = np.flatnonzero(rows >= QM9_UP_TO_FIVE)
    chosen = larger[:: len(larger) // count][:count]
    features = np.stack([neighbourhood(molecules[int(rows[k])]).energy_features() for k in chosen])
    return ridge_energies(features, (table["U0"] - table["zpve"])[chosen], QM9_RIDGE, spread=QM9_SPREAD)


PUBLISHED: dict[str, Callable[[], np.ndarray]] = {"ethanol": _ethanol, "up_to_five": qm9_surface}
