"""Classes of geometries with the same atoms in the same order: frame, descriptors, and the symmetry that names hide."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement

import numpy as np

from molkit.errors import InvalidInput
from molkit.molecule import Molecule
from molkit.ofdft.basis import density_mole
from molkit.ofdft.frames import bisector_frame, coefficient_permutation, coefficient_rotation
from molkit.ofdft.geometries import water
from molkit.units import ANGSTROM_TO_BOHR


@dataclass(frozen=True)
class Operation:
    """New names for equal atoms, and what that and a mirror do to the frame: signs of its axes.

    Atom k of the image is atom permutation[k]. The operations of a class form a group.
    """

    permutation: tuple[int, ...]
    signs: tuple[int, int, int]


@dataclass(frozen=True)
class MolecularClass:
    """Elements, the atoms (centre, first, second) that fix the frame, and all operations, the identity first."""

    name: str
    atomic_numbers: tuple[int, ...]
    frame_atoms: tuple[int, int, int]
    operations: tuple[Operation, ...]
    example: Molecule

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Pairs of atoms whose distances describe a geometry."""
        return list(combinations(range(len(self.atomic_numbers)), 2))

    def require(self, molecule: Molecule) -> None:
        """Raise InvalidInput for a molecule of other atoms, or the same in another order."""
        if tuple(molecule.atomic_numbers.tolist()) != self.atomic_numbers:
            expected = "".join(self.example.symbols)
            raise InvalidInput(
                f"{molecule.name or molecule.formula}: this functional knows the atoms {expected} in that order, "
                f"got {''.join(molecule.symbols)}"
            )

    def frame(self, molecule: Molecule) -> np.ndarray:
        """Rows are the axes of the molecule's frame. Raises InvalidInput for other or collinear atoms."""
        self.require(molecule)
        return bisector_frame(molecule.positions, *self.frame_atoms)

    def descriptors(self, positions: np.ndarray) -> np.ndarray:
        """Distances of all pairs for every operation, bohr; [operations, pairs] from positions in angstrom."""
        images = [positions[list(operation.permutation)] for operation in self.operations]
        return np.stack([[np.linalg.norm(image[a] - image[b]) for a, b in self.pairs] for image in images]) * (
            ANGSTROM_TO_BOHR
        )

    def operation_matrices(self) -> np.ndarray:
        """What each operation does to coefficients in the frame, [operations, M, M]; natural coordinates go alike."""
        density = density_mole(self.example)
        return np.stack(
            [
                coefficient_rotation(density, np.diag(np.array(operation.signs, dtype=float)))
                @ coefficient_permutation(density, operation.permutation)
                for operation in self.operations
            ]
        )


WATER = MolecularClass(
    name="water",
    atomic_numbers=(8, 1, 1),
    frame_atoms=(0, 1, 2),
    operations=(
        Operation((0, 1, 2), (1, 1, 1)),
        Operation((0, 2, 1), (-1, -1, 1)),
        Operation((0, 1, 2), (1, -1, 1)),
        Operation((0, 2, 1), (-1, 1, 1)),
    ),
    example=water("train", 0),
)
CLASSES = {known.name: known for known in (WATER,)}


def class_named(name: str) -> MolecularClass:
    """The class of that name. Raises InvalidInput with the known names."""
    if name not in CLASSES:
        raise InvalidInput(f"compact functionals are for {', '.join(CLASSES)}; got {name!r}")
    return CLASSES[name]


def monomials(values: np.ndarray, degree: int) -> np.ndarray:
    """All products of at most `degree` of the columns of values [S, D], the constant first; [S, terms]."""
    columns = [np.ones(len(values))]
    for order in range(1, degree + 1):
        columns += [_product(values, chosen) for chosen in combinations_with_replacement(range(values.shape[1]), order)]
    return np.stack(columns, axis=1)


def _product(values: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    return np.prod(values[:, list(chosen)], axis=1)
