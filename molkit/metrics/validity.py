"""Is a generated molecule one molecule? Pieces by the distance rule, and the share of atoms in the largest of them.

Validity, uniqueness and novelty of generated molecules, by the protocol of the EDM paper.

Bonds come from distances, atoms are neutral; a molecule is valid if RDKit's sanitization accepts it, and its SMILES is
that of its largest fragment, hydrogens written out. Read these figures with three things in mind: an atom with too
few bonds passes (RDKit adds implicit hydrogens, and the SMILES then differs from that of the whole molecule), a
nitrogen with four neighbours fails (a nitro group found as two N=O is repaired by RDKit), and a molecule in pieces
counts through its largest piece. A molecule with a stated charge is valid if bonds and formal charges are perceived for
that charge, since the distance rule knows neutral atoms only.
Source: EDM (arXiv 2203.17003) reference code, RDKit metrics. Departure: novelty looks the SMILES up in a set, there it
was a list.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from molkit.chem.bond_orders import BondRule, packed_bonds
from molkit.chem.rdkit_tools import ion_smiles, rdkit_version, smiles_by_distance
from molkit.errors import InvalidInput
from molkit.metrics.stability import finite_molecules
from molkit.metrics.statistics import Interval, proportion_interval
from molkit.molecule import Molecule, PackedMolecules


@dataclass(frozen=True, eq=False)
class Connectedness:
    """Pieces of B molecules."""

    num_pieces: np.ndarray  # [B] int64
    largest: np.ndarray  # [B] int64, atoms of the largest piece
    num_atoms: np.ndarray  # [B] int64

    @property
    def in_one_piece(self) -> np.ndarray:
        """Whether all atoms of a molecule are connected, [B] bool."""
        return self.num_pieces == 1

    @property
    def largest_share(self) -> np.ndarray:
        """Atoms of the largest piece / all atoms of the molecule, [B]."""
        return self.largest / self.num_atoms


def connectedness(molecules: PackedMolecules, *, rule: BondRule = "geom") -> Connectedness:
    """Connected pieces by bonds from distances; atoms at coordinates that are not finite are pieces of their own.

    Raises InvalidInput for an empty set or an element the rule does not know.
    """
    if len(molecules) == 0 or (molecules.num_atoms < 1).any():
        raise InvalidInput("connectedness needs at least one molecule with at least one atom each, got none")
    total = len(molecules.atomic_numbers)
    bonds = packed_bonds(molecules, rule=rule)
    joined = coo_array((np.ones(len(bonds.first), dtype=np.int8), (bonds.first, bonds.second)), shape=(total, total))
    _, piece = connected_components(joined, directed=False)
    owner = np.repeat(np.arange(len(molecules)), molecules.num_atoms)
    _, first_atom, sizes = np.unique(piece, return_index=True, return_counts=True)
    num_pieces = np.bincount(owner[first_atom], minlength=len(molecules))
    largest = np.zeros(len(molecules), dtype=np.int64)
    np.maximum.at(largest, owner[first_atom], sizes)
    return Connectedness(num_pieces, largest, np.asarray(molecules.num_atoms, dtype=np.int64))


@dataclass(frozen=True)
class ValidityResult:
    """Counts over the molecules that were scored; fractions follow the paper's denominators."""

    smiles: tuple[str | None, ...]  # one per molecule, None where invalid
    num_unique: int  # distinct SMILES
    num_novel: int | None  # distinct SMILES that are not in the reference set; None without one
    reference: str  # what the reference set is
    rdkit_version: str
    num_not_finite: int  # molecules with a NaN or infinite coordinate, which are invalid

    @property
    def num_molecules(self) -> int:
        """All molecules that were scored."""
        return len(self.smiles)

    @property
    def num_valid(self) -> int:
        """Molecules with a SMILES."""
        return sum(entry is not None for entry in self.smiles)

    @property
    def validity(self) -> float:
        """Valid / all."""
        return self.num_valid / self.num_molecules

    @property
    def uniqueness(self) -> float:
        """Distinct / valid; 0 when none is valid."""
        return self.num_unique / self.num_valid if self.num_valid else 0.0

    @property
    def valid_and_unique(self) -> float:
        """Distinct / all: the second column of the paper's table."""
        return self.num_unique / self.num_molecules

    @property
    def novelty(self) -> float | None:
        """Novel / distinct; None without a reference set or without a valid molecule."""
        return None if self.num_novel is None or not self.num_unique else self.num_novel / self.num_unique


def validity(
    molecules: PackedMolecules,
    *,
    reference_smiles: Collection[str] | None,
    reference: str = "",
    rule: BondRule = "qm9",
) -> ValidityResult:
    """Score molecules; `reference_smiles` are those novelty is counted against, `reference` says what they are.

    Rule "geom" makes every bond single, as the paper does for GEOM-Drugs. About 0.16 ms a molecule of QM9's size.
    Raises InvalidInput for no molecules or elements the rule does not know.
    """
    if len(molecules) == 0:
        raise InvalidInput("validity needs at least one molecule, got none")
    finite = finite_molecules(molecules)
    found = smiles_by_distance(molecules, rule=rule)
    if molecules.charges is not None:
        for row in np.flatnonzero(molecules.charges * finite).tolist():
            found[row] = ion_smiles(molecules[row])
    smiles = tuple(entry if usable else None for entry, usable in zip(found, finite.tolist(), strict=True))
    distinct = {entry for entry in smiles if entry is not None}
    known = None if reference_smiles is None else distinct.intersection(reference_smiles)
    return ValidityResult(
        smiles,
        len(distinct),
        None if known is None else len(distinct) - len(known),
        reference or ("none" if known is None else f"{len(reference_smiles)} SMILES, not described"),
        rdkit_version(),
        int((~finite).sum()),
    )


def reference_smiles(molecules: PackedMolecules, *, rule: BondRule = "qm9") -> frozenset[str]:
    """Distinct SMILES of (training) molecules by the same distance rule; those RDKit refuses are left out."""
    return frozenset(entry for entry in smiles_by_distance(molecules, rule=rule) if entry is not None)


@dataclass(frozen=True)
class PoseChecks:
    """Share of molecules that pass each check of PoseBusters, of those whose bonds were found."""

    num_molecules: int
    num_not_perceived: int
    shares: dict[str, Interval]
    all_passed: Interval  # of all molecules; those without bonds do not pass


def poses(molecules: Sequence[Molecule]) -> PoseChecks:
    """PoseBusters' checks of every molecule, see `molkit.chem.pose_checks`."""
    from molkit.chem.pose_checks import pose_checks  # takes seconds to import

    found = [pose_checks(molecule) for molecule in molecules]
    known = [entry for entry in found if entry is not None]
    names = list(known[0]) if known else []
    shares = {name: proportion_interval(sum(entry[name] for entry in known), len(known)) for name in names}
    passed = sum(all(entry.values()) for entry in known)
    return PoseChecks(len(found), len(found) - len(known), shares, proportion_interval(passed, len(found)))
