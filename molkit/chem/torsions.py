"""Torsion angles at the atoms that a pattern names."""

import numpy as np
from rdkit import Chem


def torsion_angles(mol: Chem.Mol, pattern: str, positions: np.ndarray) -> np.ndarray:
    """Torsion angles of positions [C, A, 3] at the atoms :1 to :4 of each match of a SMARTS, without sign.

    Degrees [C, M]; 0 is cis, 180 trans.
    """
    asked = Chem.MolFromSmarts(pattern)
    places = [place for _, place in sorted((atom.GetAtomMapNum(), atom.GetIdx()) for atom in asked.GetAtoms())][-4:]
    matches = np.array(mol.GetSubstructMatches(asked), dtype=int).reshape(-1, asked.GetNumAtoms())[:, places]
    first, second, third = np.moveaxis(np.diff(positions[:, matches], axis=2), 2, 0)
    left, right = np.cross(first, second), np.cross(second, third)
    lengths = np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
    return np.degrees(np.arccos(np.clip((left * right).sum(-1) / lengths, -1.0, 1.0)))
