"""Molecular graphs for networks that see bonds, and what a graph says about handedness."""

from dataclasses import dataclass

import numpy as np
from rdkit import Chem, rdBase

from molkit.chem.rdkit_tools import BOND_TYPES, mol_from_smiles
from molkit.errors import InvalidInput

MAX_ATOMS = 400
CIS = (Chem.BondStereo.STEREOZ, Chem.BondStereo.STEREOCIS)
TRANS = (Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOTRANS)


@dataclass(frozen=True, eq=False)
class BondGraph:
    """Atoms and bonds of one molecule, hydrogens explicit.

    bonds [K, 3]: first atom, second atom, RDKit's number of the bond type (1 single, 2 double, 3 triple, 12 aromatic).
    """

    atomic_numbers: np.ndarray  # [A] int64
    bonds: np.ndarray  # [K, 3] int64
    smiles: str = ""

    @property
    def num_atoms(self) -> int:
        """Number of atoms A."""
        return len(self.atomic_numbers)


@dataclass(frozen=True, eq=False)
class StereoRules:
    """What the specified stereo of a graph demands of coordinates.

    centres [S, 4]: a stereocentre and three of its neighbours; signs [S]: sign of their triple product seen from the
    centre. double_bonds [D, 4]: neighbour, atom, atom, neighbour; cis [D]: whether the neighbours are on one side.
    """

    centres: np.ndarray
    signs: np.ndarray
    double_bonds: np.ndarray
    cis: np.ndarray

    def __len__(self) -> int:
        return len(self.centres) + len(self.double_bonds)


def graph_mol(smiles: str) -> Chem.Mol:
    """A molecule of one piece, all hydrogens explicit, sanitized. Raises InvalidInput where it has no conformers."""
    plain = mol_from_smiles(smiles)
    Chem.AssignStereochemistry(plain, cleanIt=True, force=True)
    mol = Chem.AddHs(plain)
    pieces = len(Chem.GetMolFrags(mol))
    if pieces > 1:
        raise InvalidInput(f"SMILES {smiles!r} has {pieces} fragments; give one molecule at a time, without salts")
    if mol.GetNumAtoms() < 2:
        raise InvalidInput(f"SMILES {smiles!r} is a single atom; a conformer needs at least two")
    if mol.GetNumAtoms() > MAX_ATOMS:
        raise InvalidInput(f"SMILES {smiles!r} has {mol.GetNumAtoms()} atoms, more than the {MAX_ATOMS} that are tried")
    if any(atom.GetAtomicNum() == 0 for atom in mol.GetAtoms()):
        raise InvalidInput(f"SMILES {smiles!r} holds a dummy atom (*); give an element in its place")
    return mol


def mol_from_bonds(atomic_numbers: np.ndarray, bonds: np.ndarray, formal_charges: np.ndarray | None = None) -> Chem.Mol:
    """A sanitized molecule from explicit atoms and Kekule bonds [K, 3] (atom, atom, order 1, 2 or 3), as they are.

    Raises InvalidInput where RDKit finds no possible molecule.
    """
    mol = Chem.RWMol()
    charges = np.zeros(len(atomic_numbers), dtype=int) if formal_charges is None else formal_charges
    for number, charge in zip(atomic_numbers.tolist(), charges.tolist(), strict=True):
        atom = Chem.Atom(number)
        atom.SetNoImplicit(True)
        atom.SetFormalCharge(charge)
        mol.AddAtom(atom)
    for first, second, order in bonds.tolist():
        mol.AddBond(first, second, BOND_TYPES[order])
    try:
        with rdBase.BlockLogs():
            Chem.SanitizeMol(mol)
    except ValueError as error:
        raise InvalidInput(f"these atoms and bonds make no possible molecule: {error}") from None
    return mol.GetMol()


def bond_graph(mol: Chem.Mol, *, smiles: str = "") -> BondGraph:
    """Atoms and typed bonds of a sanitized molecule with explicit hydrogens (aromatic bonds as such, not Kekule)."""
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), int(bond.GetBondType())) for bond in mol.GetBonds()]
    return BondGraph(
        np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64),
        np.array(bonds, dtype=np.int64).reshape(-1, 3),
        smiles,
    )


def stereo_rules(mol: Chem.Mol) -> StereoRules:
    """The specified stereo of tetrahedral centres with four explicit neighbours, and of double bonds."""
    centres, signs, double_bonds, cis = [], [], [], []
    for atom in mol.GetAtoms():
        tag = atom.GetChiralTag()
        around = [bond.GetOtherAtomIdx(atom.GetIdx()) for bond in atom.GetBonds()]
        if len(around) == 4 and tag in (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW):
            centres.append((atom.GetIdx(), *around[1:]))  # as seen from the first neighbour
            signs.append(1 if tag == Chem.ChiralType.CHI_TETRAHEDRAL_CW else -1)
    for bond in mol.GetBonds():
        if bond.GetStereo() in CIS + TRANS:
            first, last = bond.GetStereoAtoms()
            double_bonds.append((first, bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), last))
            cis.append(bond.GetStereo() in CIS)
    return StereoRules(
        np.array(centres, dtype=np.int64).reshape(-1, 4),
        np.array(signs, dtype=np.int64),
        np.array(double_bonds, dtype=np.int64).reshape(-1, 4),
        np.array(cis, dtype=bool),
    )


def stereo_agrees(rules: StereoRules, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For conformers [C, A, 3]: whether each centre [C, S] and each double bond [C, D] is as specified."""
    centre, first, second, third = (positions[:, rules.centres[:, k]] for k in range(4))
    volume = (np.cross(first - centre, second - centre) * (third - centre)).sum(-1)
    left, start, end, right = (positions[:, rules.double_bonds[:, k]] for k in range(4))
    axis = end - start
    square = np.maximum((axis**2).sum(-1, keepdims=True), 1e-12)
    flat = [side - (side * axis).sum(-1, keepdims=True) / square * axis for side in (left - start, right - end)]
    return np.sign(volume) == rules.signs, ((flat[0] * flat[1]).sum(-1) > 0) == rules.cis


def mol_with_conformers(mol: Chem.Mol, positions: np.ndarray) -> Chem.Mol:
    """A copy of the molecule with conformers [C, A, 3] (angstrom) in place of its own, numbered from 0."""
    copy = Chem.Mol(mol)
    copy.RemoveAllConformers()
    for row, coordinates in enumerate(positions):
        conformer = Chem.Conformer(mol.GetNumAtoms())
        conformer.SetPositions(np.ascontiguousarray(coordinates, dtype=np.float64))
        conformer.Set3D(True)
        conformer.SetId(row)
        copy.AddConformer(conformer)
    return copy
