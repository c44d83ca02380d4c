"""Classes of geometries that functionals are trained and tested on; each follows from its split and index alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from molkit.data.md17 import load_rmd17
from molkit.data.qm9 import load_qm9
from molkit.errors import InvalidInput
from molkit.molecule import Molecule
from molkit.rng import generator_from

Split = Literal["train", "valid", "test"]
SPLITS: tuple[str, ...] = get_args(Split)
BOND, BOND_SPREAD = 0.97, 0.04  # angstrom
ANGLE, ANGLE_SPREAD = 104.5, 6.0  # degrees
VALIDATION_FRAMES = 100  # the last ones of the published training split of rMD17
DIATOMICS = ((1, 9, 0.917), (6, 8, 1.128))  # experimental bond lengths of HF and CO, angstrom
DISPLACEMENT = 0.04  # angstrom, of every coordinate of a molecule of several compositions
ETHANOL_ROW = 13  # of QM9; trans, atoms C C O, methyl, methylene, hydroxyl
# For each torsion of ethanol: the four atoms of its dihedral angle, what turns with the last one, and its degrees.
TORSIONS: dict[str, tuple[tuple[int, int, int, int], tuple[int, ...], tuple[int, ...]]] = {
    "hydroxyl": ((0, 1, 2, 8), (8,), tuple(range(0, 360, 30))),
    "methyl": ((2, 1, 0, 5), (3, 4, 5), tuple(range(60, 181, 15))),
}
# QM9 is ordered by heavy atoms: its first 8 molecules have up to two, 17 up to three, 174 up to five.
QM9_UP_TO_TWO, QM9_UP_TO_THREE, QM9_UP_TO_FIVE = 8, 17, 174
LARGER_SIZES = (6, 7, 8, 9)  # heavy atoms


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


def torsion_points() -> list[tuple[str, float]]:
    """Name and degrees of every point of the torsion curves of ethanol, hydroxyl first."""
    return [(name, float(degrees)) for name, (_, _, angles) in TORSIONS.items() for degrees in angles]


def ethanol_torsions(split: Split, index: int) -> Molecule:
    """QM9's ethanol as it lies (number 0, the reference of relative energies), then turned rigidly about one bond.

    Raises InvalidInput beyond the points, and for training or validation: the curves judge.
    """
    points = torsion_points()
    if split != "test" or index > len(points):
        raise InvalidInput(f"the torsions of ethanol are {1 + len(points)} test geometries, asked for {split} {index}")
    resting = load_qm9(split="all")[ETHANOL_ROW]
    name = f"ethanol-torsions-{index}"
    if index == 0:
        return Molecule(resting.atomic_numbers, resting.positions, name=name)
    torsion, degrees = points[index - 1]
    atoms, moving, _ = TORSIONS[torsion]
    turned = turn_to(resting.positions, atoms, moving, degrees)
    return Molecule(resting.atomic_numbers, turned, name=name)


def turn_to(
    positions: np.ndarray, atoms: tuple[int, int, int, int], moving: Sequence[int], degrees: float
) -> np.ndarray:
    """Positions [A, 3] with the dihedral angle of four atoms at so many degrees; `moving` turn, all others stay."""
    axis = positions[atoms[2]] - positions[atoms[1]]
    missing = math.radians(degrees) - dihedral_angle(positions, atoms)
    rotation = Rotation.from_rotvec(missing * axis / np.linalg.norm(axis))
    found, origin = positions.copy(), positions[atoms[2]]
    found[list(moving)] = rotation.apply(positions[list(moving)] - origin) + origin
    return found


def dihedral_angle(positions: np.ndarray, atoms: tuple[int, int, int, int]) -> float:
    """Of four atoms, radians; turning the last one about the middle bond by the right hand makes it larger."""
    first, middle, last = (positions[b] - positions[a] for a, b in zip(atoms, atoms[1:], strict=False))
    one, other = np.cross(first, middle), np.cross(middle, last)
    return math.atan2(float(np.linalg.norm(middle) * (first @ other)), float(one @ other))


@lru_cache(maxsize=1)
def compositions() -> tuple[Molecule, ...]:
    """Equilibrium geometries of QM9's molecules with up to three heavy atoms, then HF and CO."""
    qm9 = load_qm9(split="all")
    pairs = [
        Molecule(np.array([first, second]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, bond]]))
        for first, second, bond in DIATOMICS
    ]
    return tuple([qm9[row] for row in range(QM9_UP_TO_THREE)] + pairs)


def small(split: Split, index: int) -> Molecule:
    """Ten compositions with at most two heavy atoms in turn, every coordinate displaced (0.04 angstrom, normal).

    Methane, ammonia, water, acetylene, hydrogen cyanide, formaldehyde, ethane and methanol as in QM9; HF and CO.
    """
    known = compositions()
    return _displaced([*known[:QM9_UP_TO_TWO], *known[QM9_UP_TO_THREE:]], "small", split, index)


def larger(split: Split, index: int) -> Molecule:
    """The nine molecules of QM9 with three heavy atoms in turn, displaced like `small`."""
    return _displaced(compositions()[QM9_UP_TO_TWO:QM9_UP_TO_THREE], "larger", split, index)


def up_to_five(split: Split, index: int) -> Molecule:
    """QM9's 174 molecules with up to five heavy atoms: all as they lie, then, from number 174 on, displaced.

    Folds by composition part them, no split does: raises InvalidInput for another split than train.
    """
    if split != "train":
        raise InvalidInput(f"the molecules with up to five heavy atoms have one split, train; got {split!r}")
    known = _first_of_qm9()
    if index >= QM9_UP_TO_FIVE:
        return _displaced(known, "up_to_five", split, index)
    return replace(known[index], name=f"up_to_five-{index}")


def beyond_five(split: Split, index: int) -> Molecule:
    """Molecules of QM9 with six to nine heavy atoms as they lie, in turn; drawn once for each number of heavy atoms.

    Raises InvalidInput for another split than test: they judge.
    """
    if split != "test":
        raise InvalidInput(f"molecules with more than five heavy atoms are test geometries, asked for {split}")
    qm9, size = load_qm9(split="all"), LARGER_SIZES[index % len(LARGER_SIZES)]
    num_heavy = np.add.reduceat(qm9.atomic_numbers > 1, np.cumsum(qm9.num_atoms) - qm9.num_atoms, dtype=np.int64)
    rows = np.flatnonzero(num_heavy == size)
    drawn = torch.randperm(len(rows), generator=generator_from("ofdft", "beyond_five", size))
    row = rows[int(drawn[index // len(LARGER_SIZES)])]
    return replace(qm9[int(row)], name=f"beyond_five-{index}")


@lru_cache(maxsize=1)
def _first_of_qm9() -> tuple[Molecule, ...]:
    qm9 = load_qm9(split="all")
    return tuple(qm9[row] for row in range(QM9_UP_TO_FIVE))


def _displaced(known: Sequence[Molecule], name: str, split: Split, index: int) -> Molecule:
    molecule = known[index % len(known)]
    generator = generator_from("ofdft", name, split, index)
    moved = torch.randn(molecule.positions.shape, generator=generator, dtype=torch.float64).numpy()
    label = f"{name}-{split}-{index}"
    return Molecule(molecule.atomic_numbers, molecule.positions + DISPLACEMENT * moved, name=label)


GEOMETRIES: dict[str, Callable[[Split, int], Molecule]] = {
    "water": water,
    "ethanol": ethanol,
    "ethanol_torsions": ethanol_torsions,
    "small": small,
    "larger": larger,
    "up_to_five": up_to_five,
    "beyond_five": beyond_five,
}


def geometry(name: str, split: str, index: int) -> Molecule:
    """Geometry number `index` of a class and split. Raises InvalidInput for an unknown class or split."""
    if name not in GEOMETRIES:
        raise InvalidInput(f"geometries are those of {', '.join(GEOMETRIES)}; got {name!r}")
    if split not in SPLITS or index < 0:
        raise InvalidInput(f"need a split of {', '.join(SPLITS)} and an index >= 0, got {split!r} and {index}")
    return GEOMETRIES[name](split, index)
