"""Orbital and density basis: 6-31G(2df,p), and the even-tempered Gaussians made from it."""

import hashlib
from functools import lru_cache

import numpy as np
from pyscf import df, gto
from pyscf.df import addons

from molkit.errors import InvalidInput
from molkit.molecule import ATOMIC_NUMBER, SYMBOLS, Molecule
from molkit.units import ANGSTROM_TO_BOHR

ORBITAL_BASIS = "6-31g(2df,p)"
RATIO = 2.5  # of neighbouring exponents
NUM_FUNCTIONS = {"H": 20, "C": 109, "N": 116, "O": 116, "F": 116}
HELIUM = "He"  # not in the reference set of the paper; its shells are made alone
CLOSEST = 0.5  # bohr
Shells = list[list]


@lru_cache(maxsize=2)
def density_shells(elements: tuple[str, ...] = tuple(NUM_FUNCTIONS)) -> dict[str, Shells]:
    """Even-tempered shells [l, [exponent, 1]] of each element, made once for a reference holding all of them.

    Source: M-OFDFT's released code, `pyscf.df.aug_etb` with ratio 2.5. Raises RuntimeError where another version of
    PySCF makes other shells: the labels of two basis sets must never be mixed.
    """
    electrons = sum(ATOMIC_NUMBER[symbol] for symbol in elements)
    atoms = [(symbol, (10.0 * row, 0.0, 0.0)) for row, symbol in enumerate(elements)]
    reference = gto.M(atom=atoms, basis=ORBITAL_BASIS, spin=electrons % 2, verbose=0)
    before = addons.USE_VERSION_26_AUXBASIS
    try:
        addons.USE_VERSION_26_AUXBASIS = True  # the other rule makes 188 functions of carbon
        shells = df.aug_etb(reference, beta=RATIO)
    finally:
        addons.USE_VERSION_26_AUXBASIS = before
    for symbol, entries in shells.items():
        count = sum(2 * entry[0] + 1 for entry in entries)
        if NUM_FUNCTIONS.get(symbol, count) != count:
            raise RuntimeError(f"PySCF makes {count} density functions of {symbol}, {NUM_FUNCTIONS[symbol]} expected")
    return shells


def shells_of(molecule: Molecule) -> dict[str, Shells]:
    """Density shells of the elements of this molecule."""
    shells = density_shells()
    if HELIUM in molecule.symbols:
        shells = shells | density_shells((HELIUM,))
    return {symbol: shells[symbol] for symbol in set(molecule.symbols)}


def basis_fingerprint() -> str:
    """Changes with the exponents of any element; stored with every set of labels."""
    text = repr(sorted((symbol, entries) for symbol, entries in density_shells().items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def require_supported(molecule: Molecule) -> None:
    """Raise InvalidInput for other elements, charged and open-shell molecules, and overlapping atoms."""
    label = molecule.name or molecule.formula
    unknown = sorted(set(molecule.symbols) - {*NUM_FUNCTIONS, HELIUM})
    if unknown:
        raise InvalidInput(f"{label}: elements {', '.join(NUM_FUNCTIONS)} are supported, got {unknown[0]}")
    if molecule.charge or molecule.spin or int(molecule.atomic_numbers.sum()) % 2:
        electrons = int(molecule.atomic_numbers.sum()) - molecule.charge
        raise InvalidInput(
            f"{label}: neutral closed-shell molecules are supported, "
            f"got charge {molecule.charge}, spin {molecule.spin} (unpaired electrons) and {electrons} electrons"
        )
    if molecule.num_atoms > 1:
        distances = np.linalg.norm(molecule.positions[:, None] - molecule.positions[None], axis=-1)
        near = distances[np.triu_indices(molecule.num_atoms, 1)].min() * ANGSTROM_TO_BOHR
        if near < CLOSEST:
            raise InvalidInput(f"{label}: two atoms are only {near:.2f} bohr apart; correct the geometry")


def orbital_mole(molecule: Molecule) -> gto.Mole:
    """PySCF's molecule in the orbital basis. Raises InvalidInput as `require_supported` does."""
    require_supported(molecule)
    return _mole(molecule, ORBITAL_BASIS)


def density_mole(molecule: Molecule) -> gto.Mole:
    """PySCF's molecule in the density basis; its functions are those of `coefficients`, in PySCF's order."""
    return _mole(molecule, shells_of(molecule))


def _mole(molecule: Molecule, basis: str | dict[str, Shells]) -> gto.Mole:
    positions = molecule.positions * ANGSTROM_TO_BOHR
    atoms = [(SYMBOLS[number], tuple(row)) for number, row in zip(molecule.atomic_numbers, positions, strict=True)]
    return gto.M(atom=atoms, unit="Bohr", basis=basis, verbose=0, max_memory=4000)
