"""Chemical formulas as numbers of atoms, and which of them no neutral closed-shell molecule can have."""

import re
from collections.abc import Mapping

from molkit.config import whole_number
from molkit.errors import InvalidInput
from molkit.molecule import ATOMIC_NUMBER, SYMBOLS

# the most bonds an atom of a neutral molecule makes; elements that are not listed are not judged
LARGEST_VALENCE = {
    **{"H": 1, "B": 3, "C": 4, "N": 3, "O": 2, "F": 1, "Al": 3, "Si": 4, "P": 5, "S": 6, "Cl": 1},
    **{"As": 5, "Se": 6, "Br": 1, "I": 1},
}
TERM = re.compile(r"([A-Z][a-z]?)([0-9]*)")
LARGEST = 100_000  # atoms of an element


def parse_formula(text: str) -> dict[int, int]:
    """Atomic number -> number of atoms, from a formula such as C7H10O2 (in any order, no brackets).

    Raises InvalidInput for anything else, an unknown element, or a count of zero.

    >>> parse_formula("C7H10O2")
    {6: 7, 1: 10, 8: 2}
    """
    text = text.strip()
    if not text or TERM.sub("", text):
        raise InvalidInput(f"expected a chemical formula such as C7H10O2, got {text!r}")
    counts: dict[int, int] = {}
    for symbol, digits in TERM.findall(text):
        if symbol not in ATOMIC_NUMBER:
            raise InvalidInput(f"formula {text!r}: {symbol} is no chemical element")
        number = whole_number(digits or "1", what=f"formula {text}: {symbol}", low=1, high=LARGEST)
        counts[ATOMIC_NUMBER[symbol]] = counts.get(ATOMIC_NUMBER[symbol], 0) + number
    return counts


def formula_of(composition: Mapping[int, int]) -> str:
    """Hill formula of a composition."""
    symbols = {SYMBOLS[number]: count for number, count in composition.items() if count}
    first = [symbol for symbol in ("C", "H") if symbol in symbols] if "C" in symbols else []
    order = first + sorted(set(symbols) - set(first))
    return "".join(f"{symbol}{symbols[symbol] if symbols[symbol] > 1 else ''}" for symbol in order)


def check_composition(composition: Mapping[int, int]) -> None:
    """Raise InvalidInput where no neutral connected molecule without unpaired electrons has these atoms.

    Two rules: the number of electrons is even, and M atoms need M - 1 bonds, so the valences must add up to at least
    2 (M - 1): hydrogens at most 2 C + N + 2. Elements without a listed valence switch the second rule off.
    """
    formula = formula_of(composition)
    if sum(number * count for number, count in composition.items()) % 2:
        raise InvalidInput(
            f"{formula} has an odd number of electrons, so it is no closed-shell molecule; add or remove one hydrogen"
        )
    valences = [LARGEST_VALENCE.get(SYMBOLS[number]) for number in composition]
    if None in valences:
        return
    total = sum(composition.values())
    bonds = sum(valence * count for valence, count in zip(valences, composition.values(), strict=True))
    if bonds < 2 * (total - 1):
        surplus = 2 * (total - 1) - bonds
        raise InvalidInput(
            f"{formula} is impossible: its atoms make at most {bonds // 2} bonds, {total} atoms need {total - 1}; "
            f"remove {surplus} hydrogen{'s' if surplus > 1 else ''} or other atoms with one bond"
        )
