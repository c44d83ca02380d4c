"""Which atom of a geometry is which atom of a molecular graph."""

import numpy as np
from rdkit import Chem

from molkit.chem.rdkit_tools import COVALENT_FACTORS, connectivity
from molkit.molecule import Molecule


def bare_graph(mol: Chem.Mol) -> Chem.Mol:
    """Elements and single bonds of a molecule with explicit hydrogens; no charges, bond orders, rings or stereo."""
    plain = Chem.RWMol()
    for atom in mol.GetAtoms():
        bare = Chem.Atom(atom.GetAtomicNum())
        bare.SetNoImplicit(True)
        plain.AddAtom(bare)
    for bond in mol.GetBonds():
        plain.AddBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), Chem.BondType.SINGLE)
    return plain.GetMol()


def order_of_atoms(mol: Chem.Mol, molecule: Molecule) -> np.ndarray | None:
    """Rows of the geometry's atoms in the order of the graph's, [A]; None where distances join other atoms.

    Atoms closer than 1.15 (or, where that fails, 1.3) times their covalent radii are joined. Where a graph lies on
    itself in several ways, one of them.
    """
    wanted = bare_graph(mol)
    if molecule.num_atoms != mol.GetNumAtoms():
        return None
    for factor in COVALENT_FACTORS:
        found = bare_graph(connectivity(molecule, factor=factor))
        if found.GetNumBonds() == wanted.GetNumBonds():
            match = found.GetSubstructMatch(wanted)
            if match:
                return np.array(match, dtype=np.int64)
    return None
