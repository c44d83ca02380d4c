"""Which molecules a functional is for: with atoms and bonds of its training, or small ones of the same elements."""

import re
from collections import Counter

from molkit.chem.rdkit_tools import COVALENT_FACTORS, connectivity, num_pieces
from molkit.errors import InvalidInput
from molkit.molecule import Molecule


def kind_of(molecule: Molecule) -> str:
    """Formula and numbers of bonds, such as `CH2O: 2 C-H, 1 C-O`.

    Atoms are joined where they are closer than 1.3 times the sum of their covalent radii, so a stretched bond still
    counts and a broken one does not.
    """
    bonds = Counter(
        "-".join(sorted((bond.GetBeginAtom().GetSymbol(), bond.GetEndAtom().GetSymbol())))
        for bond in connectivity(molecule, factor=COVALENT_FACTORS[1]).GetBonds()
    )
    return f"{molecule.formula}: {', '.join(f'{count} {ends}' for ends, count in sorted(bonds.items())) or 'no bond'}"


def require_kind(molecule: Molecule, domain: tuple[str, ...], *, most_heavy_atoms: int = 0) -> None:
    """Raise InvalidInput unless the molecule is of one of these kinds.

    most_heavy_atoms: of connected molecules of the domain's elements, those with up to so many are served as well.
    """
    found = kind_of(molecule)
    if found in domain or _small_enough(molecule, domain, most_heavy_atoms):
        return
    if most_heavy_atoms:
        known = f"connected molecules of {', '.join(_elements(domain))} with up to {most_heavy_atoms} heavy atoms"
        raise InvalidInput(f"{found}: this functional is for {known}; others it gets wrong")
    known = ", ".join(dict.fromkeys(kind.split(":")[0] for kind in domain)) or "nothing, by its configuration"
    raise InvalidInput(f"{found}: this functional is for {known}, with their usual bonds; others it gets wrong")


def _elements(domain: tuple[str, ...]) -> list[str]:
    return sorted({symbol for kind in domain for symbol in re.findall("[A-Z][a-z]?", kind.split(":")[0])})


def _small_enough(molecule: Molecule, domain: tuple[str, ...], most_heavy_atoms: int) -> bool:
    if not set(molecule.symbols) <= set(_elements(domain)) or (molecule.atomic_numbers > 1).sum() > most_heavy_atoms:
        return False
    return num_pieces(molecule, factor=COVALENT_FACTORS[1]) == 1
