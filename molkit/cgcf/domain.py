"""What published flows were tested on, and what is said of a molecule outside of that."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from molkit.chem.rdkit_tools import rotatable_bonds
from molkit.config import from_dict, read_yaml
from molkit.training.weights import resolve

FILE = "tested.yaml"  # beside the weights; made by `molkit.studies.conformers.comparison.as_tested`


@dataclass(frozen=True, kw_only=True)
class Tested:
    """One set of test molecules, what they have at most, and how the flow did on them.

    Coverages are means over the molecules of the share of reference conformers within `threshold` (angstrom) of one of
    twice as many generated ones: as generated, after MMFF94, and of RDKit with MMFF94.
    """

    data: str
    num_molecules: int
    elements: tuple[int, ...]
    heavy_atoms: int
    rotatable_bonds: int
    charges: tuple[int, ...]
    threshold: float
    covered: float
    covered_relaxed: float
    covered_rdkit: float

    @property
    def quality(self) -> str:
        """How the flow did, in words."""
        return (
            f"on {self.num_molecules} molecules of {self.data} the conformers cover {self.covered:.0%} of the "
            f"references within {self.threshold:g} angstrom, {self.covered_relaxed:.0%} after MMFF94 "
            f"(RDKit with MMFF94: {self.covered_rdkit:.0%})"
        )


def known_tests(weights: str) -> list[Tested]:
    """The sets that weights were tested on; none where nothing is recorded. Raises DataNotFound for unknown weights."""
    path = resolve(weights) / FILE
    sets = read_yaml(path).get("sets", []) if path.is_file() else []
    return [from_dict(Tested, one, source=str(path)) for one in sets]


def described(sets: Sequence[Tested]) -> str:
    """The domain and the quality inside it, in words."""
    charges = {charge for one in sets for charge in one.charges}
    return (
        f"Tested on up to {max(one.heavy_atoms for one in sets)} heavy atoms, "
        f"{max(one.rotatable_bonds for one in sets)} rotatable bonds, "
        f"total charges {_signed(charges)}: "
        f"{_quality(sets)}."
    )


def outside(mol: Any, weights: str) -> str:
    """How a molecule is outside of what weights were tested on, and how they did there; empty: it is inside."""
    sets = known_tests(weights)
    if not sets:
        return f"nothing is recorded of tests of {weights}; how good its conformers are is not known"
    atoms = list(mol.GetAtoms())
    known = {number for one in sets for number in one.elements}
    charges, charge = {one for each in sets for one in each.charges}, sum(atom.GetFormalCharge() for atom in atoms)
    heavy, most = mol.GetNumHeavyAtoms(), max(one.heavy_atoms for one in sets)
    turns, most_turns = rotatable_bonds(mol), max(one.rotatable_bonds for one in sets)
    new = sorted({atom.GetSymbol() for atom in atoms if atom.GetAtomicNum() not in known})
    ways = [f"{symbol} (in no test molecule)" for symbol in new]
    ways += [f"{heavy} heavy atoms (tested: up to {most})"] if heavy > most else []
    ways += [f"{turns} rotatable bonds (tested: up to {most_turns})"] if turns > most_turns else []
    if charge not in charges:
        ways.append(f"total charge {charge:+d} (tested: {_signed(charges)})")
    if not ways:
        return ""
    return f"outside of what {weights} was tested on: {', '.join(ways)}. Expect less than inside: {_quality(sets)}"


def _quality(sets: Sequence[Tested]) -> str:
    return "; ".join(one.quality for one in sets)


def _signed(charges: Iterable[int]) -> str:
    return ", ".join(f"{charge:+d}" if charge else "0" for charge in sorted(charges))
