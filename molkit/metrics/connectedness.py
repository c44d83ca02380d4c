"""Is a generated molecule one molecule? Pieces by the distance rule, and the share of atoms in the largest of them."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from molkit.chem.bond_orders import BondRule, packed_bonds
from molkit.errors import InvalidInput
from molkit.molecule import PackedMolecules


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
