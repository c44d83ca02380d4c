"""The density of a user's molecule: which functional serves it, the minimisation, and a cube file."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from molkit.chem.text_files import write_atomically
from molkit.chem.threads import one_thread
from molkit.config import read_yaml
from molkit.errors import InvalidInput
from molkit.molecule import Molecule
from molkit.ofdft import attention_functional, compact
from molkit.ofdft.attention_functional import AttentionEnergy, AttentionFunctional
from molkit.ofdft.basis import require_supported
from molkit.ofdft.compact import CompactEnergy, CompactFunctional
from molkit.ofdft.domain import require_kind
from molkit.ofdft.guess import ORBITAL_GUESSES, guess_coefficients
from molkit.ofdft.observables import density_at, dipole, hirshfeld_charges
from molkit.ofdft.optimise import Optimised, OptimiseOptions, optimise
from molkit.training.weights import resolve
from molkit.units import ANGSTROM_TO_BOHR

PUBLISHED = ("ofdft_water", "ofdft_ethanol", "ofdft_small", "ofdft_up_to_five")  # the most accurate ones first
FARTHEST = 4.0  # standard deviations of a training distance
STARTS = ("minao", "huckel", "reference", "mean")


class OutsideDomain(InvalidInput):
    """A molecule of a kind that a functional serves, at a geometry or with neighbours that it was not tested on."""


@dataclass(frozen=True, eq=False)
class MoleculeDensity:
    """A minimised density; atoms are in the order of the molecule that was asked for, energies in hartree."""

    molecule: Molecule
    coefficients: np.ndarray  # [M], of `molecule` in the functional's order of atoms
    result: Optimised
    charges: np.ndarray  # [A], Hirshfeld's, see `molkit.ofdft.hirshfeld`
    dipole: float  # debye, of the fitted density
    num_electrons: float
    expected_error: float | None  # kcal/mol, of the energy; None for weights without held-out molecules


def in_order(functional: CompactFunctional, molecule: Molecule) -> tuple[Molecule, np.ndarray]:
    """The molecule with its atoms in the functional's order, and their rows before.

    Raises InvalidInput for a charged or open-shell molecule, or other atoms.
    """
    require_supported(molecule)
    wanted = functional.kind.atomic_numbers
    if sorted(molecule.atomic_numbers.tolist()) != sorted(wanted):
        functional.kind.require(molecule)
    rows = np.lexsort((np.arange(molecule.num_atoms), [wanted.index(z) for z in molecule.atomic_numbers]))
    ordered = replace(molecule, atomic_numbers=molecule.atomic_numbers[rows], positions=molecule.positions[rows])
    functional.kind.require(ordered)
    return ordered, rows


def require_trained_distances(functional: CompactFunctional, molecule: Molecule) -> None:
    """Raise InvalidInput for a geometry, atoms in the functional's order, far from all it was trained on.

    This is all that is known of weights that nothing was held out of.
    """
    reduction, kind = functional.reduction, functional.kind
    distances = kind.descriptors(molecule.positions)[:1]
    standard = reduction.descriptors(distances)[0]
    worst = int(np.abs(standard).argmax())
    if abs(standard[worst]) > FARTHEST:
        a, b = kind.pairs[worst]
        middle, width = reduction.descriptor_mean[worst], FARTHEST * reduction.descriptor_scale[worst]
        low, high = ((middle + sign * width) / ANGSTROM_TO_BOHR for sign in (-1, 1))
        raise InvalidInput(
            f"{molecule.formula}: atoms {a + 1} and {b + 1} are {distances[0, worst] / ANGSTROM_TO_BOHR:.2f} angstrom "
            f"apart, this functional was trained between {low:.2f} and {high:.2f}"
        )


def load_functional(path_or_name: str | Path) -> CompactFunctional | AttentionFunctional:
    """A functional of either kind. Raises DataNotFound or InvalidInput as their loaders do."""
    values = read_yaml(resolve(path_or_name) / "config.yaml")
    kind = attention_functional if values.get("method") == attention_functional.METHOD else compact
    return kind.load(path_or_name)


def functional_for(molecule: Molecule) -> CompactFunctional | AttentionFunctional:
    """The first of PUBLISHED that serves a molecule.

    Raises InvalidInput if none does: with the reason of the first that knows its kind, or else of the last.
    """
    reason: InvalidInput | None = None
    for name in PUBLISHED:
        functional = load_functional(name)
        try:
            served(functional, molecule)
        except InvalidInput as error:
            reason = reason if isinstance(reason, OutsideDomain) else error
        else:
            return functional
    raise reason or InvalidInput("no functional is published")


def expected_error(molecule: Molecule, functional: CompactFunctional | AttentionFunctional) -> float | None:
    """How far off the energy of a molecule is to be expected, kcal/mol, from molecules held out of like trainings.

    None for weights that nothing was held out of (a training of one's own). No integral is needed to know. Raises
    InvalidInput for a molecule that the functional does not serve, with the atom and the reason.
    """
    return served(functional, molecule).expected


@dataclass(frozen=True, eq=False)
class Served:
    """A molecule that a functional serves, its atoms in the functional's order, and their rows before."""

    ordered: Molecule
    rows: np.ndarray  # [A]
    expected: float | None  # kcal/mol


def served(functional: CompactFunctional | AttentionFunctional, molecule: Molecule) -> Served:
    """What `density_of` asks first. Raises InvalidInput for a molecule that the functional does not serve."""
    if isinstance(functional, CompactFunctional):
        ordered, rows = in_order(functional, molecule)
        if functional.domain is None:
            require_trained_distances(functional, ordered)
    else:
        require_supported(molecule)
        require_kind(molecule, functional.config.domain, most_heavy_atoms=functional.config.most_heavy_atoms)
        ordered, rows = molecule, np.arange(molecule.num_atoms)
    if functional.domain is None:
        return Served(ordered, rows, None)
    try:
        return Served(ordered, rows, functional.domain.expect(ordered).error_kcal)
    except InvalidInput as error:
        raise OutsideDomain(f"{molecule.formula} is not served by {functional.name}: {error}") from None


@one_thread()
def density_of(
    molecule: Molecule,
    functional: CompactFunctional | AttentionFunctional,
    *,
    start: str = "minao",
    p0: np.ndarray | None = None,
    options: OptimiseOptions | None = None,
) -> MoleculeDensity:
    """Minimise the density of a molecule from one of STARTS, or from coefficients p0 [M].

    p0 is in the functional's order of atoms. Raises InvalidInput for a molecule the functional does not serve.
    """
    asked = served(functional, molecule)
    ordered, energy = asked.ordered, functional.energy_of(asked.ordered)
    first = energy.on_constraint(energy.reduce(p0) if p0 is not None else _start(energy, start))
    result = optimise(energy, first, constraint=energy.constraint, options=options)
    coefficients = energy.coefficients(result.variables)
    charges = np.empty(molecule.num_atoms)
    charges[asked.rows] = hirshfeld_charges(ordered, coefficients)
    moment = float(np.linalg.norm(dipole(ordered, coefficients)))
    count = float(energy.integrals.basis_integrals @ coefficients)
    return MoleculeDensity(ordered, coefficients, result, charges, moment, count, asked.expected)


def _start(energy: CompactEnergy | AttentionEnergy, start: str) -> np.ndarray:
    if start in ORBITAL_GUESSES:
        return energy.reduce(guess_coefficients(energy.integrals, start))
    if start == "reference":
        return np.zeros(len(energy.constraint))
    if start == "mean" and isinstance(energy, CompactEnergy):
        return energy.mean()
    known = ", ".join(name for name in STARTS if name != "mean" or isinstance(energy, CompactEnergy))
    raise InvalidInput(f"start must be one of {known}, got {start!r}")


def write_cube(path: Path, found: MoleculeDensity, *, spacing: float = 0.2, margin: float = 5.0) -> None:
    """Gaussian cube file of the density on a box `margin` bohr beyond the atoms, points `spacing` bohr apart."""
    positions = found.molecule.positions * ANGSTROM_TO_BOHR
    low, high = positions.min(0) - margin, positions.max(0) + margin
    counts = np.ceil((high - low) / spacing).astype(int) + 1
    lines = ["density, electrons per cubic bohr", "molkit", _row(len(positions), low)]
    lines += [_row(count, step) for count, step in zip(counts, spacing * np.eye(3), strict=True)]
    numbers = found.molecule.atomic_numbers
    lines += [_row(number, (float(number), *where)) for number, where in zip(numbers, positions, strict=True)]
    for x in range(counts[0]):
        y, z = np.meshgrid(np.arange(counts[1]), np.arange(counts[2]), indexing="ij")
        points = low + spacing * np.stack([np.full(y.size, x), y.ravel(), z.ravel()], axis=1)
        values = density_at(found.molecule, found.coefficients, points).reshape(counts[1], counts[2])
        for column in values:
            lines += [" ".join(f"{v:12.5E}" for v in column[k : k + 6]) for k in range(0, len(column), 6)]
    write_atomically(path, "\n".join(lines) + "\n")


def _row(first: int, values: np.ndarray | tuple[float, ...]) -> str:
    return f"{first:5d}" + "".join(f"{value:12.6f}" for value in values)
