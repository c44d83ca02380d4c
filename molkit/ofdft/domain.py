"""Which molecules a functional is for: those with the atoms and bonds of one that it was trained on."""

from collections import Counter

from molkit.chem.rdkit_tools import COVALENT_FACTORS, connectivity
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


def require_kind(molecule: Molecule, domain: tuple[str, ...]) -> None:
    """Raise InvalidInput unless the molecule is of one of these kinds."""
    found = kind_of(molecule)
    if found in domain:
        return
    known = ", ".join(dict.fromkeys(kind.split(":")[0] for kind in domain)) or "nothing, by its configuration"
    raise InvalidInput(f"{found}: this functional is for {known}, with their usual bonds; others it gets wrong")
