"""Bond orders from interatomic distances: the rule behind every stability figure of the EDM paper's tables.

A pair at distance d is bonded if d < B1 + 10 pm, at least double if d < B2 + 5 pm and triple if moreover d < B3 + 3 pm,
where B1, B2, B3 are typical single, double and triple bond lengths of the two elements; a pair without a tabulated
length is never bonded. Formal charges and aromatic bonds do not exist here.
Source: EDM (arXiv 2203.17003) reference code, bond analysis. Departure: the tables are symmetric (there C=S was only
found from the carbon's side).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from molkit.errors import InvalidInput
from molkit.molecule import ATOMIC_NUMBER, SYMBOLS, PackedMolecules

BondRule = Literal["qm9", "geom"]

# typical bond lengths in picometre, each unordered pair once
SINGLE_BONDS = {
    "H": dict(H=74, C=109, N=101, O=96, F=92, B=119, Si=148, P=144, S=134, Cl=127, Br=141, I=161, As=152),
    "C": dict(C=154, N=147, O=143, F=135, Si=185, P=184, S=182, Cl=177, Br=194, I=214),
    "N": dict(N=145, O=140, F=136, P=177, S=168, Cl=175, Br=214, I=222),
    "O": dict(O=148, F=142, Si=163, P=163, S=151, Cl=164, Br=172, I=194),
    "F": dict(F=142, Si=160, P=156, S=158, Cl=166, Br=178, I=187),
    "B": dict(Cl=175),
    "Si": dict(Si=233, S=200, Cl=202, Br=215, I=243),
    "P": dict(P=221, S=210, Cl=203, Br=222),
    "S": dict(S=204, Cl=207, Br=225, I=234),
    "Cl": dict(Cl=199, Br=214),
    "Br": dict(Br=228),
    "I": dict(I=266),
}
DOUBLE_BONDS = {
    "C": dict(C=134, N=129, O=120, S=160),
    "N": dict(N=125, O=121),
    "O": dict(O=121, P=150),
    "P": dict(S=186),
}
TRIPLE_BONDS = {"C": dict(C=120, N=116, O=113), "N": dict(N=110)}
MARGINS = (10, 5, 3)  # picometre, for single, double and triple bonds

ALLOWED_VALENCES: dict[str, tuple[int, ...]] = {
    **{"H": (1,), "C": (4,), "N": (3,), "O": (2,), "F": (1,), "B": (3,), "Al": (3,), "Si": (4,), "P": (3, 5)},
    **{"S": (4,), "Cl": (1,), "As": (3,), "Br": (1,), "I": (1,), "Hg": (1, 2), "Bi": (3, 5)},
}

# The two rules share tables, margins and valences; GEOM's knows three more elements, which never form a bond.
RULE_ELEMENTS: dict[str, tuple[str, ...]] = {
    "qm9": ("H", "C", "N", "O", "F", "B", "Si", "P", "S", "Cl", "Br", "I", "As"),
    "geom": ("H", "B", "C", "N", "O", "F", "Al", "Si", "P", "S", "Cl", "As", "Br", "I", "Hg", "Bi"),
}
OVERLAP_ANGSTROM = 0.5  # no bond is shorter than 0.74, that of H2
PAIRS_PER_CHUNK = 200_000  # a working set that stays in the cache


@dataclass(frozen=True, eq=False)
class PackedBonds:
    """Bonds of many molecules as rows of their flat atom arrays; first < second, K bonds in all."""

    first: np.ndarray  # [K] int64, row of one atom
    second: np.ndarray  # [K] int64, row of the other
    order: np.ndarray  # [K] int8, 1, 2 or 3
    length: np.ndarray  # [K] float32, angstrom

    def valences(self, total_atoms: int) -> np.ndarray:
        """Sum of the bond orders at each atom, [A] int64."""
        ends = np.concatenate([self.first, self.second])
        orders = np.concatenate([self.order, self.order])
        return np.bincount(ends, weights=orders, minlength=total_atoms).astype(np.int64)


def thresholds() -> np.ndarray:
    """Distance (picometre) below which two elements have order 1, 2, 3: [3, Z, Z] float32, -inf where there is none."""
    table = np.full((3, len(SYMBOLS), len(SYMBOLS)), -np.inf, dtype=np.float32)
    for row, (lengths, margin) in enumerate(zip((SINGLE_BONDS, DOUBLE_BONDS, TRIPLE_BONDS), MARGINS, strict=True)):
        for symbol, partners in lengths.items():
            for partner, length in partners.items():
                a, b = ATOMIC_NUMBER[symbol], ATOMIC_NUMBER[partner]
                table[row, a, b] = table[row, b, a] = length + margin
    return table


def allowed_valences() -> np.ndarray:
    """Whether an element may have a valence: bool [Z, 6], true where the atom counts as stable."""
    table = np.zeros((len(SYMBOLS), 6), dtype=bool)
    for symbol, valences in ALLOWED_VALENCES.items():
        table[ATOMIC_NUMBER[symbol], list(valences)] = True
    return table


def known_elements(rule: BondRule = "qm9") -> np.ndarray:
    """Whether the rule knows an element: bool [Z], by atomic number. Raises InvalidInput for an unknown rule."""
    if rule not in RULE_ELEMENTS:
        raise InvalidInput(f"bond rule must be one of {', '.join(get_args(BondRule))}, got {rule!r}")
    known = np.zeros(len(SYMBOLS), dtype=bool)
    known[[ATOMIC_NUMBER[symbol] for symbol in RULE_ELEMENTS[rule]]] = True
    return known


def require_known_elements(atomic_numbers: np.ndarray, *, rule: BondRule) -> None:
    """Raise InvalidInput naming the first element that the rule has no bond lengths for."""
    numbers = np.asarray(atomic_numbers)
    known = known_elements(rule)
    outside = (numbers < 0) | (numbers >= len(SYMBOLS))
    unknown = outside | ~known[np.where(outside, 0, numbers)]
    if unknown.any():
        number = int(numbers[unknown][0])
        label = SYMBOLS[number] if 0 < number < len(SYMBOLS) else f"atomic number {number}"
        expected = " ".join(RULE_ELEMENTS[rule])
        raise InvalidInput(f"bond rule {rule!r} knows the elements {expected}; got {label} at atom {unknown.argmax()}")


def bond_orders(positions: np.ndarray, atomic_numbers: np.ndarray, *, rule: BondRule = "qm9") -> np.ndarray:
    """Bond orders 0..3 of one molecule from positions [A, 3] in angstrom: symmetric [A, A] int8, zero diagonal.

    Raises InvalidInput for elements the rule does not know.
    """
    numbers = np.asarray(atomic_numbers, dtype=np.int64)
    one = PackedMolecules(np.array([len(numbers)]), numbers, np.asarray(positions, dtype=np.float64))
    bonds = packed_bonds(one, rule=rule)
    orders = np.zeros((len(numbers), len(numbers)), dtype=np.int8)
    orders[bonds.first, bonds.second] = orders[bonds.second, bonds.first] = bonds.order
    return orders


def packed_valences(molecules: PackedMolecules, *, rule: BondRule = "qm9") -> np.ndarray:
    """Valence (sum of bond orders) of every atom, [A] int64."""
    return packed_bonds(molecules, rule=rule).valences(len(molecules.atomic_numbers))


def packed_bonds(molecules: PackedMolecules, *, rule: BondRule = "qm9") -> PackedBonds:
    """All bonds of all molecules, sorted by their first atom; distances in float32 as in the reference.

    Atoms at coordinates that are not finite have no bonds. Raises InvalidInput for elements the rule does not know.
    """
    require_known_elements(molecules.atomic_numbers, rule=rule)
    limits = thresholds()
    numbers = np.asarray(molecules.atomic_numbers, dtype=np.int64)
    present = np.flatnonzero(np.bincount(numbers, minlength=1))
    reach = float(limits[0][np.ix_(present, present)].max(initial=0.0)) * 0.01
    parts = [
        _bonds_from_pairs(first, second, length, numbers, limits)
        for first, second, length in _close_pairs(molecules, reach=reach)
    ]
    if not parts:
        empty = np.zeros(0, np.int64)
        return PackedBonds(empty, empty, np.zeros(0, np.int8), np.zeros(0, np.float32))
    first, second, order, length = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    sorting = np.lexsort((second, first))
    return PackedBonds(first[sorting], second[sorting], order[sorting], length[sorting])


def overlapping(molecules: PackedMolecules, *, closer: float = OVERLAP_ANGSTROM) -> np.ndarray:
    """Whether two atoms of a molecule are closer than that many angstrom, [B] bool."""
    found = np.zeros(len(molecules), dtype=bool)
    ends = molecules.ptr[1:]
    for first, _, length in _close_pairs(molecules, reach=closer):
        found[np.searchsorted(ends, first[length < closer], side="right")] = True
    return found


def _close_pairs(molecules: PackedMolecules, *, reach: float) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Atom rows and distances (angstrom) of pairs closer than `reach`, for many molecules of one size at a time."""
    starts = molecules.ptr[:-1]
    for size in np.unique(molecules.num_atoms[molecules.num_atoms > 1]).tolist():
        i, j = np.triu_indices(size, k=1)
        rows = starts[molecules.num_atoms == size]
        step = max(1, PAIRS_PER_CHUNK // len(i))
        for begin in range(0, len(rows), step):
            chunk = rows[begin : begin + step]
            positions = molecules.positions[chunk[:, None] + np.arange(size)]
            with np.errstate(invalid="ignore", over="ignore"):
                x, y, z = np.moveaxis((positions - positions[:, :1]).astype(np.float32), -1, 0)
                squared = (x[:, i] - x[:, j]) ** 2 + (y[:, i] - y[:, j]) ** 2 + (z[:, i] - z[:, j]) ** 2
                molecule, pair = np.nonzero(squared < np.float32(reach * reach * 1.0001))
            yield chunk[molecule] + i[pair], chunk[molecule] + j[pair], np.sqrt(squared[molecule, pair])


def _bonds_from_pairs(
    first: np.ndarray, second: np.ndarray, length: np.ndarray, numbers: np.ndarray, limits: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Keep the bonded pairs, with their order and length. A higher limit is never above a lower one, so orders add."""
    picometre = length * np.float32(100.0)
    order = (picometre < limits[:, numbers[first], numbers[second]]).sum(axis=0, dtype=np.int8)
    bonded = order > 0
    return first[bonded], second[bonded], order[bonded], length[bonded]
