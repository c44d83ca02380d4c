"""Molecules of any size for the measurement of cost: straight alkanes, and capped chains of alanine."""

import math

import numpy as np
from rdkit import Chem
from rdkit.Chem import AllChem

from molkit.errors import CalculationFailed, InvalidInput
from molkit.molecule import Molecule

BOND, HYDROGEN_BOND = 1.53, 1.09  # angstrom
ANGLE, HYDROGEN_ANGLE = math.radians(112.0), math.radians(107.0)
FAMILIES = ("alkane", "peptide")


def alkane(num_carbons: int) -> Molecule:
    """C_n H_(2n+2), all bonds anti: 8 n + 2 electrons, carbons first. Raises InvalidInput below one carbon."""
    if num_carbons < 1:
        raise InvalidInput(f"an alkane has at least one carbon atom, got {num_carbons}")
    along, across = BOND * math.sin(ANGLE / 2.0), BOND * math.cos(ANGLE / 2.0)
    index = np.arange(-1, num_carbons + 1)
    chain = np.stack([along * index, across * (index % 2), 0.0 * index], axis=1)
    carbons, hydrogens = chain[1:-1], []
    for before, here, after in zip(chain, carbons, chain[2:], strict=False):
        outward = 2.0 * here - before - after
        outward /= np.linalg.norm(outward)
        for side in (1.0, -1.0):
            lift = side * math.sin(HYDROGEN_ANGLE / 2.0) * np.array([0.0, 0.0, 1.0])
            hydrogens.append(here + HYDROGEN_BOND * (math.cos(HYDROGEN_ANGLE / 2.0) * outward + lift))
    for end, towards in ((carbons[0], chain[0]), (carbons[-1], chain[-1])):
        hydrogens.append(end + HYDROGEN_BOND * (towards - end) / BOND)
    numbers = np.array([6] * num_carbons + [1] * (2 * num_carbons + 2))
    return Molecule(numbers, np.concatenate([carbons, np.array(hydrogens)]), name=f"alkane-{num_carbons}")


def peptide(num_residues: int) -> Molecule:
    """Ace-Ala_n-NMe: 38 n + 40 electrons; RDKit's geometry with MMFF94 (seed 0).

    Raises InvalidInput below one residue, CalculationFailed where no geometry is found.
    """
    if num_residues < 1:
        raise InvalidInput(f"a chain has at least one residue, got {num_residues}")
    found = Chem.AddHs(Chem.MolFromSmiles("CC(=O)" + "N[C@@H](C)C(=O)" * num_residues + "NC"))
    if AllChem.EmbedMolecule(found, randomSeed=0, useRandomCoords=True) != 0:
        raise CalculationFailed(f"no geometry of {num_residues} residues")
    AllChem.MMFFOptimizeMolecule(found, maxIters=200)
    numbers = np.array([atom.GetAtomicNum() for atom in found.GetAtoms()])
    return Molecule(numbers, found.GetConformer().GetPositions(), name=f"peptide-{num_residues}")


def molecule_of(family: str, size: int) -> Molecule:
    """One molecule of a family. Raises InvalidInput for an unknown one, and what its maker raises."""
    if family not in FAMILIES:
        raise InvalidInput(f"families are {', '.join(FAMILIES)}; got {family!r}")
    return alkane(size) if family == "alkane" else peptide(size)
