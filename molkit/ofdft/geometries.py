"""Classes of geometries that functionals are trained and tested on; each follows from its split and index alone."""

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch

from molkit.data.md17 import load_rmd17
from molkit.errors import InvalidInput
from molkit.molecule import Molecule
from molkit.rng import generator_from

Split = Literal["train", "valid", "test"]
SPLITS: tuple[str, ...] = get_args(Split)
BOND, BOND_SPREAD = 0.97, 0.04  # angstrom
ANGLE, ANGLE_SPREAD = 104.5, 6.0  # degrees
VALIDATION_FRAMES = 100  # the last ones of the published training split of rMD17


def water(split: Split, index: int) -> Molecule:
    """Water with normal bond lengths (0.97 +- 0.04 angstrom, independent) and angle (104.5 +- 6 degrees)."""
    drawn = torch.randn(3, generator=generator_from("ofdft", "water", split, index), dtype=torch.float64).tolist()
    first, second = BOND + BOND_SPREAD * drawn[0], BOND + BOND_SPREAD * drawn[1]
    half = math.radians(ANGLE + ANGLE_SPREAD * drawn[2]) / 2.0
    positions = np.array(
        [
            [0.0, 0.0, 0.0],
            [first * math.sin(half), 0.0, first * math.cos(half)],
            [-second * math.sin(half), 0.0, second * math.cos(half)],
        ]
    )
    return Molecule(np.array([8, 1, 1]), positions, name=f"water-{split}-{index}")


def ethanol(split: Split, index: int) -> Molecule:
    """Frames of rMD17: split 01, whose last hundred training frames serve for validation.

    Raises InvalidInput beyond the frames of the split.
    """
    frames = load_rmd17("ethanol", split="test" if split == "test" else "train")
    count = len(frames.positions)
    rows = {"train": range(count - VALIDATION_FRAMES), "valid": range(count - VALIDATION_FRAMES, count)}
    chosen = rows.get(split, range(count))
    if index >= len(chosen):
        raise InvalidInput(f"the {split} split of ethanol has {len(chosen)} frames, asked for number {index}")
    return Molecule(frames.atomic_numbers, frames.positions[chosen[index]], name=f"ethanol-{split}-{index}")


GEOMETRIES: dict[str, Callable[[Split, int], Molecule]] = {"water": water, "ethanol": ethanol}


def geometry(name: str, split: str, index: int) -> Molecule:
    """Geometry number `index` of a class and split. Raises InvalidInput for an unknown class or split."""
    if name not in GEOMETRIES:
        raise InvalidInput(f"geometries are those of {', '.join(GEOMETRIES)}; got {name!r}")
    if split not in SPLITS or index < 0:
        raise InvalidInput(f"need a split of {', '.join(SPLITS)} and an index >= 0, got {split!r} and {index}")
    return GEOMETRIES[name](split, index)
