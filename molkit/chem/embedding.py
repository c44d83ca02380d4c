"""The structure a chemist starts from: a fresh conformer of a molecule's graph, and what force fields make of it."""

from dataclasses import dataclass, replace
from typing import Literal

from rdkit import Chem, rdBase
from rdkit.Chem import AllChem

from molkit.chem.rdkit_tools import perceive_bonds
from molkit.errors import CalculationFailed, InvalidInput
from molkit.molecule import Molecule

ForceField = Literal["uff", "mmff94", "mmff94s"]
VARIANTS = {"mmff94": "MMFF94", "mmff94s": "MMFF94s"}
MAX_ITERATIONS = 200  # RDKit's default
SEED = 42


@dataclass(frozen=True, eq=False)
class Embedded:
    """A conformer by ETKDG of the graph perceived from a geometry; atoms in the order of that geometry."""

    mol: Chem.Mol  # sanitized, one conformer
    molecule: Molecule


def embed_like(molecule: Molecule, *, seed: int = SEED) -> Embedded:
    """A fresh conformer of the molecule's graph, with the stereochemistry of its geometry, by ETKDGv3.

    Raises CalculationFailed where no graph was perceived, it falls into pieces, or nothing could be embedded.
    """
    found = perceive_bonds(molecule)
    if found.mol is None:
        raise CalculationFailed(f"no bonds perceived: {found.reason}")
    mol = Chem.Mol(found.mol)
    if len(Chem.GetMolFrags(mol)) > 1:
        raise CalculationFailed("the graph falls into pieces")
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
