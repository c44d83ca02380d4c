"""What an edit must not ask for: overlapping atoms, elements or sizes that the model does not know."""

import numpy as np
from torch import Tensor

from molkit.edm.config import EdmConfig
from molkit.edm.model import Edm
from molkit.errors import InvalidInput
from molkit.molecule import SYMBOLS, Molecule

FLUORINE = 9  # a channel of the models of QM9; its packed set, known by its sizes, holds none
CLOSEST_ANGSTROM = 0.5  # fixed atoms nearer than this overlap; the shortest bond, in H2, has 0.74


def check_molecule(edm: Edm, molecule: Molecule) -> None:
    """Raise InvalidInput for an element that the model cannot place, or two atoms closer than 0.5 angstrom."""
    check_elements(edm, molecule.atomic_numbers)
    distances = np.linalg.norm(molecule.positions[:, None] - molecule.positions[None], axis=-1)
    first, second = np.nonzero(np.triu(distances < CLOSEST_ANGSTROM, k=1))
    if len(first):
        i, j = int(first[0]), int(second[0])
        raise InvalidInput(
            f"atoms {i + 1} ({molecule.symbols[i]}) and {j + 1} ({molecule.symbols[j]}) overlap: "
            f"{distances[i, j]:.2f} angstrom apart, expected at least {CLOSEST_ANGSTROM}"
        )


def check_neutral(molecule: Molecule, *, closed_shell: bool) -> None:
    """Raise InvalidInput for a charge, and where a closed shell is asked for, for unpaired electrons."""
    if molecule.charge or (closed_shell and molecule.spin):
        raise InvalidInput(
            f"charge {molecule.charge}, spin {molecule.spin} (unpaired electrons): "
            "the model knows neutral closed shells only"
        )


def check_elements(edm: Edm, atomic_numbers: np.ndarray) -> None:
    """Raise InvalidInput naming the first element that the model cannot place, or has a channel for but never saw."""
    unknown = ~np.isin(atomic_numbers, edm.config.elements)
    if unknown.any():
        known = " ".join(SYMBOLS[number] for number in edm.config.elements)
        where = int(unknown.argmax())
        symbol = SYMBOLS[int(atomic_numbers[where])]
        raise InvalidInput(f"atom {where + 1} is {symbol}, which this model cannot place; it knows {known}")
    if FLUORINE in atomic_numbers and edm.config.sizes == EdmConfig().sizes:
        where = int(np.flatnonzero(np.asarray(atomic_numbers) == FLUORINE)[0])
        raise InvalidInput(
            f"atom {where + 1} is F, which this model has a channel for but never saw: the packed QM9 that it was "
            "trained on holds no fluorine"
        )


def check_sizes(edm: Edm, num_atoms: Tensor) -> None:
    """Raise InvalidInput naming the first size [B] that the training histogram does not hold."""
    known = sorted(size for size, _ in edm.config.sizes)
    gaps = [str(size) for size in range(known[0], known[-1]) if size not in known]
    for size in num_atoms.tolist():
        if size not in known:
            raise InvalidInput(
                f"{size} atoms in all: a size that the model's training histogram does not hold "
                f"(it has {known[0]}..{known[-1]}{' without ' if gaps else ''}{', '.join(gaps)})"
            )
