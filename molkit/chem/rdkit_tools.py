"""RDKit in and out: molecules with given or perceived bonds, SMILES, 3D embedding.

Nothing here keeps state; RDKit's own messages are silenced around the calls that are expected to fail sometimes.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import AllChem, rdDetermineBonds, rdMolDescriptors
from rdkit.Chem.MolStandardize import rdMolStandardize

from molkit.chem.bond_orders import BondRule, packed_bonds
from molkit.errors import CalculationFailed, InvalidInput
from molkit.molecule import Molecule, PackedMolecules

BOND_TYPES = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
COVALENT_FACTORS = (1.15, 1.3)  # bonded below factor x (sum of covalent radii); the second only where the first fails
MAX_PERCEPTION_STEPS = 10_000  # of RDKit's bond order search, whose cost can grow exponentially (about 0.2 s at most)
MAX_PERCEPTION_ATOMS = 400


@dataclass(frozen=True, eq=False)
class Perception:
    """Bonds, bond orders, formal charges and aromaticity found from coordinates, or the reason why they were not."""

    mol: Chem.Mol | None  # sanitized, explicit hydrogens, one conformer
    reason: str = ""

    @property
    def perceived(self) -> bool:
        """Whether a molecular graph with the wanted total charge was found."""
        return self.mol is not None


@dataclass(frozen=True)
class AtomState:
    """How one atom sits in a molecular graph."""

    atomic_number: int
    formal_charge: int
    valence: int  # sum of the bond orders in a Kekule form
    unpaired_electrons: int


def rdkit_version() -> str:
    """Version of RDKit; validity and SMILES move with it."""
    return rdBase.rdkitVersion


def molecule_from_rdkit(mol: Chem.Mol, *, conformer: int = -1, name: str = "") -> Molecule:
    """Atoms, one conformer's coordinates, total formal charge and unpaired electrons of an RDKit molecule.

    Hydrogens that are not atoms of `mol` are not added. Raises InvalidInput when there is no conformer.
    """
    if mol.GetNumConformers() == 0:
        raise InvalidInput(
            "an RDKit molecule needs coordinates to become a Molecule, got one without conformer; embed it"
        )
    atoms = [(atom.GetAtomicNum(), atom.GetIsotope(), atom.GetNumRadicalElectrons()) for atom in mol.GetAtoms()]
    numbers, isotopes, unpaired = zip(*atoms, strict=True) if atoms else ((), (), ())
    return Molecule(
        np.array(numbers, dtype=np.int64),
        mol.GetConformer(conformer).GetPositions(),
        charge=Chem.GetFormalCharge(mol),
        spin=sum(unpaired),
        name=name or (mol.GetProp("_Name") if mol.HasProp("_Name") else ""),
        isotopes=np.array(isotopes, dtype=np.int64),
    )


def rdkit_atoms(molecule: Molecule) -> Chem.RWMol:
    """The atoms of a molecule with coordinates and isotopes, neutral, without bonds and implicit hydrogens."""
    mol = Chem.RWMol()
    isotopes = [0] * molecule.num_atoms if molecule.isotopes is None else molecule.isotopes.tolist()
    for number, isotope in zip(molecule.atomic_numbers.tolist(), isotopes, strict=True):
        atom = Chem.Atom(number)
        atom.SetNoImplicit(True)
        atom.SetIsotope(isotope)
        mol.AddAtom(atom)
    conformer = Chem.Conformer(molecule.num_atoms)
    conformer.SetPositions(np.array(molecule.positions))
    conformer.Set3D(True)
    mol.AddConformer(conformer)
    if molecule.name:
        mol.SetProp("_Name", molecule.name)
    return mol


def bonded_mol(atomic_numbers: Iterable[int], bonds: Iterable[tuple[int, int, int]]) -> Chem.RWMol:
    """Neutral explicit atoms with the given (atom, atom, order) bonds, not sanitized.

    Under-valenced atoms may be completed with implicit hydrogens by RDKit later, as in the EDM paper's validity.
    """
    mol = Chem.RWMol()
    for number in atomic_numbers:
        mol.AddAtom(Chem.Atom(number))
    for first, second, order in bonds:
        mol.AddBond(first, second, BOND_TYPES[order])
    return mol


def rdkit_by_distance(molecule: Molecule, *, rule: BondRule = "qm9") -> Chem.RWMol:
    """RDKit molecule with the bonds of the distance rule, not sanitized; rule "geom" makes every bond single.

    Source: EDM (arXiv 2203.17003) reference code, molecule building for the validity table.
    """
    pack = PackedMolecules.from_molecules([molecule])
    return bonded_mol(molecule.atomic_numbers.tolist(), _bond_lists(pack, rule=rule)[0])


def graph_by_distance(molecule: Molecule) -> Chem.Mol:
    """The sanitized graph of EDM's distance rule, atoms neutral and in their order.

    Raises InvalidInput where RDKit refuses it, or it falls into pieces.
    """
    mol = rdkit_by_distance(molecule)
    try:
        with rdBase.BlockLogs():
            Chem.SanitizeMol(mol)
    except ValueError as error:
        raise InvalidInput(f"{molecule.formula} is no possible molecule: {' '.join(str(error).split())}") from None
    if pieces := len(Chem.GetMolFrags(mol)) - 1:
        raise InvalidInput(f"{molecule.formula} falls into {pieces + 1} pieces")
    return mol.GetMol()


def smiles_by_distance(molecules: PackedMolecules, *, rule: BondRule = "qm9") -> list[str | None]:
    """Canonical SMILES (hydrogens written as atoms) of each molecule's largest fragment, None where RDKit refuses.

    Bonds come from distances, atoms are neutral; a molecule counts if sanitization accepts all of it.
    Source: EDM reference code, validity. About 0.16 ms a molecule. Raises InvalidInput for unknown elements.
    """
    numbers, ptr = molecules.atomic_numbers.tolist(), molecules.ptr.tolist()
    with rdBase.BlockLogs():
        return [
            _largest_fragment_smiles(bonded_mol(numbers[ptr[row] : ptr[row + 1]], bonds))
            for row, bonds in enumerate(_bond_lists(molecules, rule=rule))
        ]


def ion_smiles(molecule: Molecule) -> str | None:
    """Canonical SMILES (hydrogens written as atoms) of the largest fragment, perceived for its charge, or None."""
    mol = perceive_bonds(molecule).mol
    return None if mol is None else _largest_fragment_smiles(Chem.RWMol(mol))


def _bond_lists(molecules: PackedMolecules, *, rule: BondRule) -> list[list[tuple[int, int, int]]]:
    """Bonds of each molecule as (atom, atom, order), atoms counted inside the molecule."""
    bonds = packed_bonds(molecules, rule=rule)
    ptr = molecules.ptr
    bounds = np.searchsorted(bonds.first, ptr)
    offset = np.repeat(ptr[:-1], np.diff(bounds))
    order = np.ones_like(bonds.order) if rule == "geom" else bonds.order
    rows = list(zip((bonds.first - offset).tolist(), (bonds.second - offset).tolist(), order.tolist(), strict=True))
    return [rows[begin:end] for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)]


def _largest_fragment_smiles(mol: Chem.RWMol) -> str | None:
    try:
        Chem.SanitizeMol(mol)
    except ValueError:
        return None
    fragments = Chem.GetMolFrags(mol, asMols=True)
    return Chem.MolToSmiles(max(fragments, key=lambda fragment: fragment.GetNumAtoms()))


def perceive_bonds(
    molecule: Molecule,
    *,
    charge: int | None = None,
    allow_radicals: bool = False,
    factors: Sequence[float] = COVALENT_FACTORS,
    max_steps: int = MAX_PERCEPTION_STEPS,
) -> Perception:
    """Find bonds, bond orders, formal charges and aromaticity for a known total charge (default: molecule.charge).

    Atoms closer than a factor times the sum of their covalent radii are connected; RDKit (its version of xyz2mol)
    then distributes bond orders and formal charges, or with `allow_radicals` unpaired electrons instead of charges.
    The tight first factor suits relaxed geometries (all QM9 cages), the second stretched ones. The search is bounded:
    where it would run on, or the molecule has more than 400 atoms, the result says "not perceived" and why.
    """
    if molecule.num_atoms > MAX_PERCEPTION_ATOMS:
        return Perception(None, f"{molecule.num_atoms} atoms are more than the {MAX_PERCEPTION_ATOMS} that are tried")
    charge = molecule.charge if charge is None else charge
    reason = ""
    with rdBase.BlockLogs():
        for factor in factors:
            for set_aside in (False, True):
                mol = rdkit_atoms(molecule)
                rdDetermineBonds.DetermineConnectivity(mol, useVdw=True, covFactor=factor)
                nitro = _nitro_groups(mol) if set_aside else []
                if set_aside and not nitro:
                    continue
                try:
                    mol = _with_orders(mol, nitro, charge, allow_radicals, max_steps)
                except (ValueError, RuntimeError) as error:  # no assignment, over-valenced, or too many steps
                    reason = reason or " ".join(str(error).split())
                    continue
                return Perception(mol)
    return Perception(None, reason)


def _with_orders(
    mol: Chem.RWMol, nitro: Sequence[tuple[int, int, int]], charge: int, allow_radicals: bool, max_steps: int
) -> Chem.Mol:
    """Bond orders and formal charges on a connected skeleton; raises what RDKit raises.

    RDKit's search grows exponentially with nitro groups: while it runs a fluorine stands for each that is named.
    """
    for nitrogen, first, second in nitro:
        mol.GetAtomWithIdx(nitrogen).SetAtomicNum(9)
        mol.RemoveBond(nitrogen, first)
        mol.RemoveBond(nitrogen, second)
    apart = sorted({oxygen for _, *oxygens in nitro for oxygen in oxygens}, reverse=True)
    rest = Chem.RWMol(mol)
    for oxygen in apart:
        rest.RemoveAtom(oxygen)
    rdDetermineBonds.DetermineBondOrders(
        rest, charge=charge, allowChargedFragments=not allow_radicals, embedChiral=False, maxIterations=max_steps
    )
    if not nitro:
        Chem.SanitizeMol(rest)
        return rest.GetMol()
    kept = [atom for atom in range(mol.GetNumAtoms()) if atom not in set(apart)]
    Chem.Kekulize(rest, clearAromaticFlags=True)
    for bond in rest.GetBonds():
        ends = kept[bond.GetBeginAtomIdx()], kept[bond.GetEndAtomIdx()]
        mol.GetBondBetweenAtoms(*ends).SetBondType(bond.GetBondType())
    for row, atom in enumerate(kept):
        mol.GetAtomWithIdx(atom).SetFormalCharge(rest.GetAtomWithIdx(row).GetFormalCharge())
        mol.GetAtomWithIdx(atom).SetNumRadicalElectrons(rest.GetAtomWithIdx(row).GetNumRadicalElectrons())
    for nitrogen, first, second in nitro:
        mol.GetAtomWithIdx(nitrogen).SetAtomicNum(7)
        mol.GetAtomWithIdx(nitrogen).SetFormalCharge(1)
        mol.GetAtomWithIdx(second).SetFormalCharge(-1)
        mol.AddBond(nitrogen, first, Chem.BondType.DOUBLE)
        mol.AddBond(nitrogen, second, Chem.BondType.SINGLE)
    Chem.SanitizeMol(mol)
    return mol.GetMol()


def _nitro_groups(mol: Chem.Mol) -> list[tuple[int, int, int]]:
    """Nitrogen and both oxygens of every group N(O)O on another atom, where the oxygens have no other neighbour."""
    groups = []
    for atom in mol.GetAtoms():
        around = list(atom.GetNeighbors()) if atom.GetAtomicNum() == 7 else []
        oxygens = [one.GetIdx() for one in around if one.GetAtomicNum() == 8 and one.GetDegree() == 1]
        if len(around) == 3 and len(oxygens) == 2:
            groups.append((atom.GetIdx(), *oxygens))
    return groups


def atom_states(mol: Chem.Mol) -> tuple[list[AtomState], bool]:
    """State of every atom of a sanitized molecule in one Kekule form, and whether all atoms are connected."""
    kekule = Chem.Mol(mol)
    Chem.Kekulize(kekule, clearAromaticFlags=True)
    states = [
        AtomState(
            atom.GetAtomicNum(),
            atom.GetFormalCharge(),
            round(sum(bond.GetBondTypeAsDouble() for bond in atom.GetBonds())),
            atom.GetNumRadicalElectrons(),
        )
        for atom in kekule.GetAtoms()
    ]
    return states, len(Chem.GetMolFrags(mol)) == 1


def plain_smiles(mol: Chem.Mol) -> str:
    """Canonical SMILES without stereo and without explicit hydrogens."""
    with rdBase.BlockLogs():
        copy = Chem.RemoveHs(mol)
    Chem.RemoveStereochemistry(copy)
    return Chem.MolToSmiles(copy)


def stereo_smiles(mol: Chem.Mol) -> str:
    """Canonical SMILES without explicit hydrogens, with the stereo of the molecule's conformer."""
    copy = Chem.Mol(mol)
    Chem.AssignStereochemistryFrom3D(copy)
    with rdBase.BlockLogs():
        return Chem.MolToSmiles(Chem.RemoveHs(copy))


def rotatable_bonds(mol: Chem.Mol) -> int:
    """Single bonds outside rings between heavy atoms that both have other heavy neighbours, as RDKit counts them.

    Bonds that conjugation stiffens (amides, esters) do not count.
    """
    with rdBase.BlockLogs():
        return rdMolDescriptors.CalcNumRotatableBonds(Chem.RemoveHs(mol))


def perceived_smiles(molecule: Molecule, *, charge: int | None = None) -> str | None:
    """Canonical SMILES without stereo of the perceived graph, or None where no graph was found."""
    mol = perceive_bonds(molecule, charge=charge).mol
    return None if mol is None else plain_smiles(mol)


def mol_from_smiles(smiles: str) -> Chem.Mol:
    """Parse a SMILES without adding hydrogens; raises InvalidInput with RDKit's complaint."""
    if len(smiles.split()) > 1:
        raise InvalidInput(f"expected one SMILES, got {smiles!r}: a blank ends a SMILES; give each molecule by itself")
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles, sanitize=False)
        if mol is None or mol.GetNumAtoms() == 0:
            raise InvalidInput(
                f"expected a SMILES string, got {smiles!r}; check parentheses, rings and element symbols"
            )
        try:
            Chem.SanitizeMol(mol)
        except ValueError as error:
            raise InvalidInput(f"SMILES {smiles!r} is no possible molecule: {error}") from None
    return mol


def largest_fragment(smiles: str) -> str:
    """The largest organic part of a SMILES with several, charges as they are; the SMILES itself where it has one.

    Raises InvalidInput as `mol_from_smiles`.
    """
    mol = mol_from_smiles(smiles)
    if len(Chem.GetMolFrags(mol)) < 2:
        return smiles
    with rdBase.BlockLogs():
        return Chem.MolToSmiles(rdMolStandardize.LargestFragmentChooser(preferOrganic=True).choose(mol))


def embed_smiles(
    smiles: str,
    *,
    num_conformers: int = 1,
    seed: int = 0,
    force_field: Literal["mmff94", "none"] = "mmff94",
    timeout_seconds: int = 60,
) -> list[Molecule]:
    """3D conformers of a SMILES with all hydrogens, by ETKDGv3 distance geometry, relaxed with MMFF94 unless "none".

    With MMFF94 the properties of each molecule hold `mmff94_kcal` and `mmff94_converged` (1 or 0). Fewer conformers
    than asked for may come out (duplicates are not removed). The same seed gives the same conformers.
    Raises InvalidInput for an unreadable SMILES or an element without parameters, CalculationFailed when no conformer
    could be embedded in the given time.
    """
    if num_conformers < 1:
        raise InvalidInput(f"num_conformers must be at least 1, got {num_conformers}")
    mol = Chem.AddHs(mol_from_smiles(smiles))
    parameters = AllChem.ETKDGv3()
    parameters.randomSeed, parameters.timeout = rdkit_seed(seed), timeout_seconds
    with rdBase.BlockLogs():
        conformers = list(AllChem.EmbedMultipleConfs(mol, num_conformers, parameters))
    if not conformers:
        raise CalculationFailed(f"no 3D geometry of {smiles!r} was found within {timeout_seconds} s; try another seed")
    outcomes = relax_mmff94(mol, label=smiles) if force_field == "mmff94" else [{}] * len(conformers)
    plain = [molecule_from_rdkit(mol, conformer=row, name=smiles) for row in conformers]
    return [replace(molecule, properties=outcome) for molecule, outcome in zip(plain, outcomes, strict=True)]


def rdkit_seed(seed: int) -> int:
    """The seed to hand to RDKit's embedding for a seed of ours: positive, and far from those of other seeds.

    RDKit gives conformer i of a molecule the seed (i + 1) times its argument: 0 makes all conformers the same, and
    small numbers share conformers between seeds.
    """
    return int(hashlib.sha256(f"rdkit/{seed}".encode()).hexdigest()[:7], 16) | 1


def relax_mmff94(mol: Chem.Mol, *, label: str, max_iterations: int = 2000) -> list[dict[str, float]]:
    """Relax all conformers of a molecule in place with MMFF94; energy (kcal/mol) and convergence of each.

    Raises InvalidInput, naming the molecule by its label, where the force field has no parameters.
    """
    if not AllChem.MMFFHasAllMoleculeParams(mol):
        raise InvalidInput(f"MMFF94 has no parameters for {label!r}; go without a force field (force_field='none')")
    outcomes = AllChem.MMFFOptimizeMoleculeConfs(mol, maxIters=max_iterations)
    return [{"mmff94_kcal": energy, "mmff94_converged": float(flag == 0)} for flag, energy in outcomes]


def without_fluorine(smiles: str) -> str:
    """Canonical SMILES, without stereo, of the molecule with a hydrogen in place of every fluorine."""
    mol = Chem.RWMol(mol_from_smiles(smiles))
    for atom in reversed([atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() == 9]):
        mol.RemoveAtom(atom)
    plain = mol_from_smiles(Chem.MolToSmiles(mol))
    Chem.RemoveStereochemistry(plain)
    return Chem.MolToSmiles(plain)


def skeleton_smiles(mol: Chem.Mol) -> str:
    """Which heavy atoms are bonded to which: canonical SMILES without hydrogens, bond orders, charges and stereo.

    Stereoisomers, tautomers and protonation states of a molecule share it, and so may molecules that differ more.
    """
    heavy = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1]
    place = {atom: new for new, atom in enumerate(heavy)}
    plain = Chem.RWMol()
    for atom in heavy:
        bare = Chem.Atom(mol.GetAtomWithIdx(atom).GetAtomicNum())
        bare.SetNoImplicit(True)
        plain.AddAtom(bare)
    for bond in mol.GetBonds():
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if all(end in place for end in ends):
            plain.AddBond(place[ends[0]], place[ends[1]], Chem.BondType.SINGLE)
    return Chem.MolToSmiles(plain)


def connectivity(molecule: Molecule, *, factor: float = COVALENT_FACTORS[0]) -> Chem.Mol:
    """Atoms joined where they are closer than a factor times the sum of their covalent radii; no bond orders."""
    mol = rdkit_atoms(molecule)
    with rdBase.BlockLogs():
        rdDetermineBonds.DetermineConnectivity(mol, useVdw=True, covFactor=factor)
    return mol.GetMol()


def num_pieces(molecule: Molecule, *, factor: float = COVALENT_FACTORS[0]) -> int:
    """Parts of a molecule that no bond of `connectivity` joins."""
    return len(Chem.GetMolFrags(connectivity(molecule, factor=factor)))
