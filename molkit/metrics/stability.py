"""Atom and molecule stability: does every atom carry the number of bonds its element should have?"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from molkit.chem.bond_orders import allowed_valences, overlapping, packed_valences
from molkit.errors import InvalidInput
from molkit.molecule import PackedMolecules

StabilityRule = Literal["edm", "geom", "formal_charge"]


@dataclass(frozen=True, eq=False)
class StabilityResult:
    """Stability of B molecules, per molecule; the fractions are over all atoms and over all molecules."""

    rule: str
    stable_atoms: np.ndarray  # [B] int64, atoms with an allowed valence
    num_atoms: np.ndarray  # [B] int64
    molecule_stable: np.ndarray  # [B] bool
    num_not_finite: int = 0  # molecules with a NaN or infinite coordinate; they count as unstable
    num_not_perceived: int = 0  # molecules whose bonds were not found (formal_charge only); they count as unstable
    num_overlapping: int = 0  # molecules with two atoms closer than 0.5 angstrom; they count as unstable

    @property
    def atom_fraction(self) -> float:
        """Stable atoms / all atoms."""
        return float(self.stable_atoms.sum() / self.num_atoms.sum())

    @property
    def molecule_fraction(self) -> float:
        """Stable molecules / all molecules."""
        return float(self.molecule_stable.mean())


def stability(molecules: PackedMolecules, *, rule: StabilityRule = "edm") -> StabilityResult:
    """Score every molecule; one with a coordinate that is not finite is counted, and has no stable atom.

    `edm`: bond orders from distances, an atom is stable if their sum is exactly an allowed valence, a molecule if all
    its atoms are. Source: EDM (arXiv 2203.17003) reference code, stability analysis.
    `geom`: the same with the elements of GEOM-Drugs.
    `formal_charge`: bonds, aromaticity and charges by RDKit, see `molkit.metrics.formal_charge` (0.3 ms
    a molecule of QM9's size). The others know neutral molecules only.

    Raises InvalidInput for an empty set, an unknown rule, an element or a charge the rule does not know.

    >>> from molkit.molecule import Molecule
    >>> water = Molecule([8, 1, 1], [[0, 0, 0.12], [0, 0.76, -0.47], [0, -0.76, -0.47]])
    >>> stability(PackedMolecules.from_molecules([water])).molecule_fraction
    1.0
    """
    if rule not in get_args(StabilityRule):
        raise InvalidInput(f"stability rule must be one of {', '.join(get_args(StabilityRule))}, got {rule!r}")
    if len(molecules) == 0 or (molecules.num_atoms < 1).any():
        raise InvalidInput("stability needs at least one molecule with at least one atom each, got none")
    if rule == "formal_charge":
        from molkit.metrics.formal_charge import formal_charge_stability  # RDKit is not needed by the other rules

        return formal_charge_stability(molecules)
    return _distance_stability(molecules, rule=rule)


def charge_complaint(charge: int, rule: StabilityRule) -> str:
    """Why a rule cannot score a molecule of this charge, or nothing."""
    if not charge or rule == "formal_charge":
        return ""
    return f"rule {rule!r} knows neutral molecules only, got charge {charge:+d}; rule 'formal_charge' counts charges"


def _distance_stability(molecules: PackedMolecules, *, rule: StabilityRule) -> StabilityResult:
    if molecules.charges is not None and molecules.charges.any():
        raise InvalidInput(charge_complaint(int(molecules.charges[molecules.charges != 0][0]), rule))
    valences = packed_valences(molecules, rule="geom" if rule == "geom" else "qm9")
    allowed = allowed_valences()
    largest = allowed.shape[1] - 1
    stable = (valences <= largest) & allowed[molecules.atomic_numbers, np.minimum(valences, largest)]
    finite = finite_molecules(molecules)
    num_atoms = np.asarray(molecules.num_atoms, dtype=np.int64)
    stable_atoms = np.where(finite, np.add.reduceat(stable.astype(np.int64), molecules.ptr[:-1]), 0)
    apart = ~overlapping(molecules)
    whole = (stable_atoms == num_atoms) & apart
    return StabilityResult(
        rule, stable_atoms, num_atoms, whole, int((~finite).sum()), num_overlapping=int((~apart).sum())
    )


def finite_molecules(molecules: PackedMolecules) -> np.ndarray:
    """Whether every coordinate of a molecule is a finite number, [B] bool."""
    return np.logical_and.reduceat(np.isfinite(molecules.positions).all(axis=1), molecules.ptr[:-1])
