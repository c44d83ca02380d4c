"""Conformers by RDKit's distance geometry, with and without a force field: what chemists use, and our baselines."""

from typing import Literal, get_args

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import AllChem

from molkit.chem.bond_graph import mol_with_conformers
from molkit.chem.rdkit_tools import rdkit_seed, relax_mmff94
from molkit.errors import CalculationFailed, InvalidInput

Method = Literal["etkdgv3", "etkdgv1", "plain"]
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


def relax_conformers(
    mol: Chem.Mol, positions: np.ndarray, *, max_iterations: int = FORCE_FIELD_STEPS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """MMFF94 from each of the conformers [C, A, 3]: positions, energies [C] in kcal/mol, converged [C].

    Raises InvalidInput where the force field has no parameters for the molecule.
    """
    if not len(positions):
        return positions, np.zeros(0), np.zeros(0, dtype=bool)
    placed = mol_with_conformers(mol, positions)
    with rdBase.BlockLogs():
        label = Chem.MolToSmiles(Chem.RemoveHs(mol))
        outcomes = relax_mmff94(placed, label=label, max_iterations=max_iterations)
    relaxed = np.stack([conformer.GetPositions() for conformer in placed.GetConformers()])
    energies = np.array([outcome["mmff94_kcal"] for outcome in outcomes])
    return relaxed, energies, np.array([outcome["mmff94_converged"] == 1.0 for outcome in outcomes])
