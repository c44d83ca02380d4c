"""Molecular graphs for networks that see bonds, their handedness, and which atom of a geometry is which."""

from dataclasses import dataclass

import numpy as np
from rdkit import Chem, rdBase

from molkit.chem.rdkit_tools import BOND_TYPES, COVALENT_FACTORS, connectivity, mol_from_smiles
from molkit.errors import InvalidInput
from molkit.molecule import Molecule

MAX_ATOMS = 400
CIS = (Chem.BondStereo.STEREOZ, Chem.BondStereo.STEREOCIS)
TRANS = (Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOTRANS)
CUMULATED = Chem.MolFromSmarts("[#6,#7]=[#6D2]=[#6,#7]")
TETRAHEDRAL = (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW)
LEAST_VOLUME = 0.1  # of three unit vectors, 0.77 at a regular tetrahedron; a flatter centre has no handedness
LEAST_COSINE = 0.5  # of the torsion about a double bond: one twisted by more than 60 degrees is neither cis nor trans


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

    triples [T, 4]: a stereocentre and three of its neighbours; signs [T]: sign of their triple product seen from the
    centre. A centre with four neighbours has four triples, one with a lone pair has one; firsts [S]: where those of
    each centre begin. double_bonds [D, 4]: neighbour, atom, atom, neighbour; cis [D]: whether both are on one side.
    """

    triples: np.ndarray
    signs: np.ndarray
    firsts: np.ndarray
    double_bonds: np.ndarray
    cis: np.ndarray

    def __len__(self) -> int:
        return len(self.firsts) + len(self.double_bonds)


def graph_mol(smiles: str) -> Chem.Mol:
    """A molecule of one piece, all hydrogens explicit, sanitized. Raises InvalidInput where it has no conformers."""
    plain = mol_from_smiles(smiles)
    _require_no_axis(smiles)
    Chem.AssignStereochemistry(plain, cleanIt=True, force=True)
    mol = Chem.AddHs(plain)
    pieces = len(Chem.GetMolFrags(mol))
    if pieces > 1:
        raise InvalidInput(
            f"SMILES {smiles!r} has {pieces} fragments; give one molecule at a time, without salts "
            "(molkit conformers --largest-fragment)"
        )
    if mol.GetNumAtoms() < 2:
        raise InvalidInput(f"SMILES {smiles!r} is a single atom; a conformer needs at least two")
    if mol.GetNumAtoms() > MAX_ATOMS:
        raise InvalidInput(f"SMILES {smiles!r} has {mol.GetNumAtoms()} atoms, more than the {MAX_ATOMS} that are tried")
    if any(atom.GetAtomicNum() == 0 for atom in mol.GetAtoms()):
        raise InvalidInput(f"SMILES {smiles!r} holds a dummy atom (*); give an element in its place")
    return mol


def _require_no_axis(smiles: str) -> None:
    """Raise InvalidInput where cumulated double bonds are given stereo, which RDKit would drop without a word."""
    written = Chem.MolFromSmiles(smiles, sanitize=False)
    for _, middle, _ in written.GetSubstructMatches(CUMULATED):
        ends = _ends_of_chain(written, middle)
        marks = [bond.GetBondDir() for end in ends for bond in written.GetAtomWithIdx(end).GetBonds()]
        if written.GetAtomWithIdx(middle).GetChiralTag() or any(marks):
            raise InvalidInput(f"SMILES {smiles!r} specifies the stereo of cumulated double bonds; leave it out")


def _ends_of_chain(mol: Chem.Mol, middle: int) -> set[int]:
    """The atoms where the chain of cumulated double bonds through an atom ends."""
    ends, seen, ahead = set(), set(), [middle]
    while ahead:
        atom = ahead.pop()
        seen.add(atom)
        bonds = [bond for bond in mol.GetAtomWithIdx(atom).GetBonds() if bond.GetBondType() == Chem.BondType.DOUBLE]
        ahead += [other for bond in bonds if (other := bond.GetOtherAtomIdx(atom)) not in seen]
        if len(bonds) == 1:
            ends.add(atom)
    return ends


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
    """The specified stereo of tetrahedral centres with four neighbours, or three and a lone pair, and of double bonds.

    Raises InvalidInput for specified stereo of another kind (octahedral centres, axes), which nothing here checks.
    """
    triples, signs, firsts, double_bonds, cis = [], [], [], [], []
    for atom in mol.GetAtoms():
        if atom.GetChiralTag() == Chem.ChiralType.CHI_UNSPECIFIED:
            continue
        centre, around = atom.GetIdx(), [bond.GetOtherAtomIdx(atom.GetIdx()) for bond in atom.GetBonds()]
        if len(around) not in (3, 4) or atom.GetChiralTag() not in TETRAHEDRAL:
            raise InvalidInput(f"the stereo of atom {centre + 1} ({atom.GetSymbol()}) is not tetrahedral; leave it out")
        sign = 1 if atom.GetChiralTag() == Chem.ChiralType.CHI_TETRAHEDRAL_CW else -1
        firsts.append(len(triples))
        for left_out in range(4) if len(around) == 4 else (3,):  # seen from the first neighbour, the rest is clockwise
            triples.append((centre, *(one for place, one in enumerate(around) if place != left_out)))
            signs.append(sign * (-1) ** left_out)
    for bond in mol.GetBonds():
        if bond.GetStereo() in CIS + TRANS:
            first, last = bond.GetStereoAtoms()
            double_bonds.append((first, bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), last))
            cis.append(bond.GetStereo() in CIS)
        elif bond.GetStereo() not in (Chem.BondStereo.STEREONONE, Chem.BondStereo.STEREOANY):
            raise InvalidInput(f"the stereo of bond {bond.GetIdx() + 1} is that of an axis; leave it out")
    return StereoRules(
        np.array(triples, dtype=np.int64).reshape(-1, 4),
        np.array(signs, dtype=np.int64),
        np.array(firsts, dtype=np.int64),
        np.array(double_bonds, dtype=np.int64).reshape(-1, 4),
        np.array(cis, dtype=bool),
    )


def stereo_volumes(rules: StereoRules, positions: np.ndarray) -> np.ndarray:
    """Triple product of the unit vectors of each triple [C, T] in conformers [C, A, 3]; positive where it is right."""
    centre, *around = (positions[:, rules.triples[:, k]] for k in range(4))
    first, second, third = (_unit(atom - centre) for atom in around)
    return (np.cross(first, second) * third).sum(-1) * rules.signs


def is_inverted(rules: StereoRules, positions: np.ndarray) -> np.ndarray:
    """Whether there are centres and all are the other way round [C]: a mirror image has them right."""
    volumes = stereo_volumes(rules, positions)[:, rules.firsts]
    return (volumes < 0.0).all(axis=1) & (volumes.shape[1] > 0)


def stereo_agrees(rules: StereoRules, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For conformers [C, A, 3]: whether each centre [C, S] and each double bond [C, D] is as specified.

    A centre that is nearly flat, or outside its four neighbours, and a double bond twisted to near 90 degrees are not.
    """
    volumes = stereo_volumes(rules, positions)
    centres = np.minimum.reduceat(volumes, rules.firsts, axis=1) if len(rules.firsts) else volumes
    left, start, end, right = (positions[:, rules.double_bonds[:, k]] for k in range(4))
    axis = _unit(end - start)
    flat = [_unit(side - (side * axis).sum(-1, keepdims=True) * axis) for side in (left - start, right - end)]
    cosine = (flat[0] * flat[1]).sum(-1)
    return centres > LEAST_VOLUME, np.where(rules.cis, cosine, -cosine) > LEAST_COSINE


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


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
