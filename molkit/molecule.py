"""Molecules as arrays: one `Molecule`, and many of them back to back as `PackedMolecules`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from molkit.errors import InvalidInput

SYMBOLS = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr "
    "Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu "
    "Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi"
).split()
ATOMIC_NUMBER = {symbol: number for number, symbol in enumerate(SYMBOLS) if number}


FARTHEST = 1e100  # angstrom; beyond about 1e154 squares of distances overflow


@dataclass(frozen=True, eq=False)
class Molecule:
    """Elements and coordinates (angstrom) of one molecule; a change returns a new one.

    Raises InvalidInput when shapes disagree, a coordinate is not finite, or an element is unknown.

    >>> water = Molecule([8, 1, 1], [[0, 0, 0.12], [0, 0.76, -0.47], [0, -0.76, -0.47]])
    >>> water.formula, water.num_atoms
    ('H2O', 3)
    """

    atomic_numbers: np.ndarray  # [A] int64
    positions: np.ndarray  # [A, 3] float64, angstrom
    charge: int = 0
    spin: int = 0  # 2S
    name: str = ""
    properties: Mapping[str, float] = field(default_factory=dict)
    isotopes: np.ndarray | None = None  # [A] int64, mass numbers of labelled atoms, 0 elsewhere; None: no label

    def __post_init__(self) -> None:
        numbers = np.asarray(self.atomic_numbers, dtype=np.int64).reshape(-1)
        positions = np.array(self.positions, dtype=np.float64)
        label = f"molecule {self.name!r}" if self.name else "molecule"
        if positions.shape != (len(numbers), 3):
            raise InvalidInput(f"{label}: positions must have shape ({len(numbers)}, 3), got {positions.shape}")
        if len(numbers) == 0:
            raise InvalidInput(f"{label}: needs at least one atom, got none")
        if not np.isfinite(positions).all():
            raise InvalidInput(f"{label}: coordinates must be finite numbers, got NaN or infinity")
        if np.abs(positions).max() > FARTHEST:
            raise InvalidInput(f"{label}: a coordinate of {np.abs(positions).max():.3g} angstrom cannot be squared")
        if numbers.min() < 1 or numbers.max() >= len(SYMBOLS):
            bad = numbers[(numbers < 1) | (numbers >= len(SYMBOLS))][0]
            raise InvalidInput(f"{label}: atomic numbers must lie in 1..{len(SYMBOLS) - 1}, got {bad}")
        object.__setattr__(self, "atomic_numbers", numbers)
        object.__setattr__(self, "positions", positions)
        if self.isotopes is not None:
            object.__setattr__(self, "isotopes", _labels(self.isotopes, len(numbers), label))

    @property
    def num_atoms(self) -> int:
        """Number of atoms A."""
        return len(self.atomic_numbers)

    @property
    def symbols(self) -> list[str]:
        """Element symbols, one per atom."""
        return [SYMBOLS[number] for number in self.atomic_numbers]

    @property
    def formula(self) -> str:
        """Hill formula: carbon, hydrogen, then the others by name."""
        counts = {symbol: self.symbols.count(symbol) for symbol in set(self.symbols)}
        first = [symbol for symbol in ("C", "H") if symbol in counts] if "C" in counts else []
        order = first + sorted(set(counts) - set(first))
        return "".join(f"{symbol}{counts[symbol] if counts[symbol] > 1 else ''}" for symbol in order)

    def with_positions(self, positions: np.ndarray) -> "Molecule":
        """The same atoms at other coordinates [A, 3], angstrom."""
        return replace(self, positions=positions)

    def centred(self) -> "Molecule":
        """The molecule with the plain mean of its atoms at the origin."""
        return self.with_positions(self.positions - self.positions.mean(axis=0))


def _labels(isotopes: np.ndarray, num_atoms: int, label: str) -> np.ndarray | None:
    """Mass numbers [A] int64, or None where no atom has one."""
    masses = np.asarray(isotopes, dtype=np.int64).reshape(-1)
    if len(masses) != num_atoms or (masses < 0).any():
        raise InvalidInput(f"{label}: isotopes must be {num_atoms} mass numbers from 0, got {masses.tolist()[:10]}")
    return masses if masses.any() else None


@dataclass(frozen=True, eq=False)
class PackedMolecules(Sequence[Molecule]):
    """Many molecules stored back to back; indexing gives a `Molecule`, `select` a smaller pack.

    num_atoms [B] int64; atomic_numbers [A] int64; positions [A, 3] float64, angstrom; names [B] or empty;
    charges [B] int64, or None where all are neutral; isotopes [A] as in `Molecule`.
    """

    num_atoms: np.ndarray
    atomic_numbers: np.ndarray
    positions: np.ndarray
    names: tuple[str, ...] = ()
    charges: np.ndarray | None = None
    isotopes: np.ndarray | None = None

    def __post_init__(self) -> None:
        total = int(self.num_atoms.sum())
        if len(self.atomic_numbers) != total or self.positions.shape != (total, 3):
            raise InvalidInput(
                f"packed molecules: {total} atoms announced, got {len(self.atomic_numbers)} elements "
                f"and positions of shape {self.positions.shape}"
            )

    @property
    def ptr(self) -> np.ndarray:
        """First atom of each molecule and the end of the last, [B + 1]."""
        return np.concatenate([[0], np.cumsum(self.num_atoms, dtype=np.int64)])

    def __len__(self) -> int:
        return len(self.num_atoms)

    def __getitem__(self, row: int) -> Molecule:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} molecules")
        row = row % len(self)
        start = int(self.num_atoms[:row].sum())
        return self._molecule(row, start)

    def __iter__(self) -> Iterator[Molecule]:
        for row, start in enumerate(self.ptr[:-1]):
            yield self._molecule(row, int(start))

    def _molecule(self, row: int, start: int) -> Molecule:
        atoms = slice(start, start + int(self.num_atoms[row]))
        name = self.names[row] if self.names else ""
        charge = 0 if self.charges is None else int(self.charges[row])
        isotopes = None if self.isotopes is None else self.isotopes[atoms]
        numbers, positions = self.atomic_numbers[atoms], self.positions[atoms]
        return Molecule(numbers, positions, charge=charge, name=name, isotopes=isotopes)

    def atom_rows(self, rows: np.ndarray) -> np.ndarray:
        """Rows of the flat arrays that hold the atoms of the given molecules, in that order."""
        rows = np.asarray(rows)
        counts = self.num_atoms[rows]
        ends = np.cumsum(counts)
        inside = np.arange(int(counts.sum())) - np.repeat(ends - counts, counts)
        return np.repeat(self.ptr[rows], counts) + inside

    def select(self, rows: np.ndarray) -> "PackedMolecules":
        """The molecules at the given rows (or where a boolean mask is true), in that order."""
        rows = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows)
        atoms = self.atom_rows(rows)
        names = tuple(self.names[row] for row in rows) if self.names else ()
        charges = None if self.charges is None else self.charges[rows]
        isotopes = None if self.isotopes is None else self.isotopes[atoms]
        numbers, positions = self.atomic_numbers[atoms], self.positions[atoms]
        return PackedMolecules(self.num_atoms[rows], numbers, positions, names, charges, isotopes)

    def without_hydrogens(self) -> "PackedMolecules":
        """The heavy atoms of each molecule, their mean at the origin. Raises InvalidInput for one of hydrogens only."""
        heavy = self.atomic_numbers != 1
        owner = np.repeat(np.arange(len(self)), self.num_atoms)[heavy]
        counts = np.bincount(owner, minlength=len(self))
        if (counts == 0).any():
            raise InvalidInput(f"molecule {int(np.argmin(counts)) + 1} has no atom but hydrogen; leave it out")
        positions = self.positions[heavy]
        sums = np.stack([np.bincount(owner, column, minlength=len(self)) for column in positions.T], axis=1)
        centred = positions - (sums / counts[:, None])[owner]
        isotopes = None if self.isotopes is None else self.isotopes[heavy]
        return PackedMolecules(counts, self.atomic_numbers[heavy], centred, self.names, self.charges, isotopes)

    @classmethod
    def from_molecules(cls, molecules: Iterable[Molecule]) -> "PackedMolecules":
        """Pack molecules in the given order; spins and properties are not kept."""
        molecules = list(molecules)
        names = tuple(molecule.name for molecule in molecules)
        charges = np.array([molecule.charge for molecule in molecules], dtype=np.int64)
        labelled = any(molecule.isotopes is not None for molecule in molecules)
        isotopes = [np.zeros(m.num_atoms, np.int64) if m.isotopes is None else m.isotopes for m in molecules]
        return cls(
            np.array([molecule.num_atoms for molecule in molecules], dtype=np.int64),
            np.concatenate([m.atomic_numbers for m in molecules]) if molecules else np.zeros(0, np.int64),
            np.concatenate([m.positions for m in molecules]) if molecules else np.zeros((0, 3)),
            names if any(names) else (),
            charges if charges.any() else None,
            np.concatenate(isotopes) if labelled else None,
        )
