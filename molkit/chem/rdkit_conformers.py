"""Conformers and force fields of RDKit: many by ETKDG, a fresh one like a geometry, MMFF94s energies as they are.

What chemists use and start from, and our baselines.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import AllChem, rdForceFieldHelpers

from molkit.chem.bond_graph import mol_with_conformers
from molkit.chem.rdkit_tools import perceive_bonds, rdkit_seed, relax_mmff94
from molkit.errors import CalculationFailed, InvalidInput
from molkit.molecule import Molecule

Method = Literal["etkdgv3", "etkdgv1", "plain"]
ForceField = Literal["uff", "mmff94", "mmff94s"]
HARD_ATTEMPTS = 20  # conformers tried from random coordinates where the first search found none
FORCE_FIELD_STEPS = 200  # RDKit's default, and that of the papers' evaluation


def embed_parameters(method: Method, seed: int, *, timeout_seconds: int = 120) -> AllChem.EmbedParameters:
    """Settings of one method. plain: distance geometry without knowledge of torsions, flat rings or linear bonds.

    etkdgv1 is the default of the RDKit (2020) that the papers' RDKit rows were made with.
    """
    if method not in get_args(Method):
        raise InvalidInput(f"unknown method {method!r}: expected {', '.join(get_args(Method))}")
    made = {"etkdgv3": AllChem.ETKDGv3, "etkdgv1": AllChem.ETKDG, "plain": AllChem.EmbedParameters}[method]()
    made.randomSeed, made.timeout = rdkit_seed(seed), timeout_seconds
    made.enforceChirality = True
    return made


def rdkit_conformers(mol: Chem.Mol, count: int, *, method: Method = "etkdgv3", seed: int = 0) -> np.ndarray:
    """Up to `count` conformers [C, A, 3] of a molecule with explicit hydrogens, in its order of atoms and its stereo.

    Where none comes out, the search is repeated from random coordinates. Raises CalculationFailed for none again.
    """
    if count < 1:
        raise InvalidInput(f"the number of conformers must be at least 1, got {count}")
    mol = Chem.Mol(mol)
    parameters = embed_parameters(method, seed)
    with rdBase.BlockLogs():  # ids of a search that ran out of time name conformers that are not there
        AllChem.EmbedMultipleConfs(mol, count, parameters)
        if not mol.GetNumConformers():
            parameters.useRandomCoords = True
            AllChem.EmbedMultipleConfs(mol, max(count, HARD_ATTEMPTS), parameters)
    if not mol.GetNumConformers():
        raise CalculationFailed(f"{method} found no 3D geometry of {Chem.MolToSmiles(Chem.RemoveHs(mol))}")
    return np.stack([conformer.GetPositions() for conformer in mol.GetConformers()][:count])


def with_stereo_of(mol: Chem.Mol, positions: np.ndarray) -> Chem.Mol:
    """The molecule with conformers [C, A, 3], its centres and double bonds specified as in the first of them."""
    placed = mol_with_conformers(mol, positions)
    Chem.AssignStereochemistryFrom3D(placed, 0)
    return placed


def force_field_of(mol: Chem.Mol) -> Literal["mmff94", "uff"]:
    """MMFF94, or UFF where that lacks parameters. Raises InvalidInput where both do."""
    with rdBase.BlockLogs():
        if AllChem.MMFFHasAllMoleculeParams(mol):
            return "mmff94"
        if AllChem.UFFHasAllMoleculeParams(mol):
            return "uff"
        label = Chem.MolToSmiles(Chem.RemoveHs(mol))
    raise InvalidInput(
        f"neither MMFF94 nor UFF has parameters for {label!r}; relax nothing (molkit conformers --no-relax)"
    )


def relax_conformers(
    mol: Chem.Mol,
    positions: np.ndarray,
    *,
    max_iterations: int = FORCE_FIELD_STEPS,
    field: Literal["mmff94", "uff"] = "mmff94",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A force field from each of the conformers [C, A, 3]: positions, energies [C] in kcal/mol, converged [C].

    Raises InvalidInput where MMFF94 has no parameters for the molecule; for UFF see `force_field_of`.
    """
    if not len(positions):
        return positions, np.zeros(0), np.zeros(0, dtype=bool)
    placed = mol_with_conformers(mol, positions)
    with rdBase.BlockLogs():
        if field == "uff":
            found = AllChem.UFFOptimizeMoleculeConfs(placed, maxIters=max_iterations)
        else:
            label = Chem.MolToSmiles(Chem.RemoveHs(mol))
            outcomes = relax_mmff94(placed, label=label, max_iterations=max_iterations)
            found = [(1.0 - one["mmff94_converged"], one["mmff94_kcal"]) for one in outcomes]
    relaxed = np.stack([conformer.GetPositions() for conformer in placed.GetConformers()])
    energies = np.array([energy for _, energy in found])
    return relaxed, energies, np.array([flag == 0 for flag, _ in found])


VARIANTS = {"mmff94": "MMFF94", "mmff94s": "MMFF94s"}
MAX_ITERATIONS = 200  # RDKit's default
SEED = 42


@dataclass(frozen=True, eq=False)
class Embedded:
    """A conformer of the graph perceived from a geometry; atoms in the order of that geometry."""

    mol: Chem.Mol  # sanitized, one conformer
    molecule: Molecule


def as_embedded(molecule: Molecule) -> Embedded:
    """The molecule's own geometry as a conformer of its graph.

    Raises CalculationFailed where no graph was perceived or it falls into pieces.
    """
    found = perceive_bonds(molecule)
    if found.mol is None:
        raise CalculationFailed(f"no bonds perceived: {found.reason}")
    if len(Chem.GetMolFrags(found.mol)) > 1:
        raise CalculationFailed("the graph falls into pieces")
    return Embedded(found.mol, molecule)


def embed_like(molecule: Molecule, *, seed: int = SEED) -> Embedded:
    """A fresh conformer of the molecule's graph, with the stereochemistry of its geometry, by ETKDGv3.

    Raises CalculationFailed where no graph was perceived, it falls into pieces, or nothing could be embedded.
    """
    mol = Chem.Mol(as_embedded(molecule).mol)
    with rdBase.BlockLogs():
        Chem.AssignStereochemistryFrom3D(mol)
        mol.RemoveAllConformers()
        parameters = AllChem.ETKDGv3()
        parameters.randomSeed = seed
        if AllChem.EmbedMolecule(mol, parameters) != 0:
            parameters.useRandomCoords = True  # cages often need it
            parameters.maxIterations = 200
        if mol.GetNumConformers() == 0 and AllChem.EmbedMolecule(mol, parameters) != 0:
            raise CalculationFailed("no conformer could be embedded")
    return Embedded(mol, molecule.with_positions(mol.GetConformer().GetPositions()))


def force_field_minimum(embedded: Embedded, field: ForceField) -> Molecule:
    """The conformer relaxed by a force field with RDKit's defaults (200 iterations at most).

    The properties hold `converged` (1 or 0). Raises CalculationFailed where the field has no parameters.
    """
    if field not in ("uff", *VARIANTS):
        raise InvalidInput(f"force field must be uff, mmff94 or mmff94s, got {field!r}")
    mol = Chem.Mol(embedded.mol)
    with rdBase.BlockLogs():
        if field == "uff":
            flag = (
                AllChem.UFFOptimizeMolecule(mol, maxIters=MAX_ITERATIONS)
                if AllChem.UFFHasAllMoleculeParams(mol)
                else -1
            )
        else:
            flag = AllChem.MMFFOptimizeMolecule(mol, mmffVariant=VARIANTS[field], maxIters=MAX_ITERATIONS)
    if flag < 0:
        raise CalculationFailed(f"{field} has no parameters for this molecule")
    placed = embedded.molecule.with_positions(mol.GetConformer().GetPositions())
    return replace(placed, properties={"converged": float(flag == 0)})


@dataclass(frozen=True)
class MmffEnergy:
    """Energy of one geometry in kcal/mol, or the reason why there is none."""

    energy_kcal: float | None
    reason: str = ""  # "not perceived", "in pieces" or "no parameters", with a colon and details


def mmff_energy(molecule: Molecule, *, charge: int | None = None, variant: str = "MMFF94s") -> MmffEnergy:
    """Single point of the force field on the given coordinates; nothing is relaxed.

    The bonds are perceived for the total charge (default: molecule.charge). There is no energy where no graph was
    found, where the graph falls into pieces, or where an atom has no type in the force field.
    Source: MMFF94s as in RDKit; Halgren, J. Comput. Chem. 20, 720 (1999).
    """
    found = perceive_bonds(molecule, charge=charge)
    if found.mol is None:
        return MmffEnergy(None, f"not perceived: {found.reason}")
    pieces = len(Chem.GetMolFrags(found.mol))
    if pieces > 1:
        return MmffEnergy(None, f"in pieces: {pieces} of them")
    with rdBase.BlockLogs():
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(found.mol, mmffVariant=variant)
        if properties is None:
            return MmffEnergy(None, "no parameters: an atom has no MMFF type")
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(found.mol, properties, nonBondedThresh=1e6)
    return MmffEnergy(float(field.CalcEnergy()))
