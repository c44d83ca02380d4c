"""The density of a user's molecule: which functional serves it, the minimisation, and a cube file."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from molkit.chem.text_files import write_atomically
from molkit.config import read_yaml
from molkit.errors import InvalidInput
from molkit.molecule import Molecule
from molkit.ofdft import attention_functional, compact
from molkit.ofdft.attention_functional import AttentionEnergy, AttentionFunctional
from molkit.ofdft.basis import require_supported
from molkit.ofdft.compact import CompactEnergy, CompactFunctional
from molkit.ofdft.domain import require_kind
from molkit.ofdft.guess import ORBITAL_GUESSES, guess_coefficients
from molkit.ofdft.integrals import DensityIntegrals
from molkit.ofdft.observables import atomic_charges, density_at, dipole
from molkit.ofdft.optimise import Optimised, OptimiseOptions, optimise
from molkit.training.weights import resolve
from molkit.units import ANGSTROM_TO_BOHR

PUBLISHED = ("ofdft_water", "ofdft_ethanol", "ofdft_small", "ofdft_up_to_five")  # the most accurate ones first
FARTHEST = 4.0  # standard deviations of a training distance, beyond which a geometry is out of the domain
STARTS = ("minao", "huckel", "reference", "predicted", "mean")


@dataclass(frozen=True, eq=False)
class MoleculeDensity:
    """A minimised density; atoms are in the order of the molecule that was asked for, energies in hartree."""

    molecule: Molecule
    coefficients: np.ndarray  # [M], of `molecule` in the functional's order of atoms
    result: Optimised
    charges: np.ndarray  # [A]
    dipole: float  # debye
    num_electrons: float


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


def require_in_domain(functional: CompactFunctional, molecule: Molecule) -> None:
    """Raise InvalidInput for a geometry, atoms in the functional's order, far from all it was trained on."""
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
    """The first of PUBLISHED that serves a molecule. Raises InvalidInput, with the reason of the last, if none does."""
    for name in PUBLISHED:
        functional = load_functional(name)
        try:
            _served(functional, molecule)
        except InvalidInput:
            if name == PUBLISHED[-1]:
                raise
        else:
            return functional
    raise InvalidInput("no functional is published")


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
    ordered, rows = _served(functional, molecule)
    energy = functional.energy_of(ordered)
    first = energy.on_constraint(energy.reduce(p0) if p0 is not None else _start(energy, start))
    result = optimise(energy, first, constraint=energy.constraint, options=options)
    coefficients = energy.coefficients(result.variables)
    charges = np.empty(molecule.num_atoms)
    charges[rows] = atomic_charges(ordered, coefficients)
    moment = float(np.linalg.norm(dipole(ordered, coefficients)))
    count = float(_integrals(energy).basis_integrals @ coefficients)
    return MoleculeDensity(ordered, coefficients, result, charges, moment, count)


def _served(functional: CompactFunctional | AttentionFunctional, molecule: Molecule) -> tuple[Molecule, np.ndarray]:
    """The molecule in the functional's order of atoms, and their rows before; no integral is needed to know.

    Raises InvalidInput for a molecule that the functional does not serve.
    """
    if isinstance(functional, CompactFunctional):
        ordered, rows = in_order(functional, molecule)
        require_in_domain(functional, ordered)
        return ordered, rows
    require_supported(molecule)
    require_kind(molecule, functional.config.domain, most_heavy_atoms=functional.config.most_heavy_atoms)
    return molecule, np.arange(molecule.num_atoms)


def _integrals(energy: CompactEnergy | AttentionEnergy) -> DensityIntegrals:
    return energy.frame.integrals if isinstance(energy, CompactEnergy) else energy.integrals


def _start(energy: CompactEnergy | AttentionEnergy, start: str) -> np.ndarray:
    if start in ORBITAL_GUESSES:
        return energy.reduce(guess_coefficients(_integrals(energy), start))
    if start == "reference":
        return np.zeros(len(energy.constraint))
    if start == "mean" and isinstance(energy, CompactEnergy):
        return energy.from_natural_density(energy.functional.reduction.mean_density)
    if start == "predicted" and isinstance(energy, AttentionEnergy):
        return energy.predicted()
    other = "predicted" if isinstance(energy, CompactEnergy) else "mean"
    known = ", ".join(name for name in STARTS if name != other)
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
