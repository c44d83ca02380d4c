"""Reference ensembles: many starts, a force field, GFN2-xTB minima, an energy window, duplicates removed.

Starts come from ETKDGv3 and from plain distance geometry, half each, so that what is found is not only what the ETKDG
baseline can find. Minima, not a search that follows the surface (CREST): conformers may be missing.
Source of the thresholds: CREST (Pracht, Bohle, Grimme, PCCP 22, 7169 (2020)): window 6 kcal/mol, rotational constants
1 %, RMSD 0.125 angstrom. Its energy threshold of 0.05 kcal/mol is 0.1 here, since forces end at 0.05 eV/angstrom.
"""

from dataclasses import dataclass

import numpy as np
from rdkit import Chem

from molkit.chem.bond_graph import graph_mol, stereo_agrees, stereo_rules
from molkit.chem.conformer_rmsd import heavy_atoms, rmsd_matrix
from molkit.chem.rdkit_conformers import rdkit_conformers, relax_conformers, with_stereo_of
from molkit.chem.rdkit_tools import COVALENT_FACTORS, connectivity
from molkit.chem.xtb import XtbEnergy, relax
from molkit.errors import CalculationFailed, InvalidInput
from molkit.molecule import Molecule
from molkit.units import EV_TO_KCAL


@dataclass(frozen=True, kw_only=True)
class EnsembleRules:
    """How conformers are relaxed and told apart."""

    window: float = 6.0  # kcal/mol above the lowest
    same_energy: float = 0.1  # kcal/mol, of xTB minima
    same_field_energy: float = 0.01  # kcal/mol, of force-field minima, which are converged further
    same_constants: float = 0.01  # relative, rotational constants
    same_rmsd: float = 0.125  # angstrom, heavy atoms
    fmax: float = 0.05  # eV/angstrom
    max_steps: int = 300
    force_field_steps: int = 2000
    max_relaxations: int = 0  # xTB relaxations a molecule at most, lowest force-field energies first; 0: all


@dataclass(frozen=True)
class EnsembleTask:
    """One molecule: everything a worker needs, picklable."""

    name: str
    smiles: str
    num_starts: int
    seed: int
    rules: EnsembleRules


def closed_shell_mol(smiles: str) -> Chem.Mol:
    """A molecule for an ensemble; stereo left open in the SMILES stays open. Raises InvalidInput for radicals."""
    mol = graph_mol(smiles)
    if any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
        raise InvalidInput(f"{smiles!r} has unpaired electrons; ensembles are made for closed shells only")
    heavy_atoms(mol)
    return mol


def start_positions(mol: Chem.Mol, count: int, seed: int) -> tuple[Chem.Mol, np.ndarray]:
    """Starts [C, A, 3], half by ETKDGv3 and half by plain distance geometry, and the molecule with stereo complete.

    Where the SMILES leaves a centre or double bond open, all take the form of the first start.
    """
    mol = with_stereo_of(mol, rdkit_conformers(mol, 1, method="etkdgv3", seed=seed))
    informed = rdkit_conformers(mol, (count + 1) // 2, method="etkdgv3", seed=seed)
    if count < 2:
        return mol, informed
    try:
        plain = rdkit_conformers(mol, count // 2, method="plain", seed=seed + 1)
    except CalculationFailed:
        return mol, informed  # the count of starts tells
    return mol, np.concatenate([informed, plain])


def make_ensemble(task: EnsembleTask) -> dict[str, np.ndarray]:
    """The ensemble of one molecule as named arrays: lowest energy first, energies in kcal/mol above it.

    `counts` are: starts, distinct_starts (after the force field), relaxed, unconverged, failed, changed (another
    graph or handedness after relaxing), above_window, duplicates. Raises InvalidInput for a molecule that cannot be
    treated, CalculationFailed where nothing is left.
    """
    rules = task.rules
    mol, starts = start_positions(closed_shell_mol(task.smiles), task.num_starts, task.seed)
    placed, field_energies, _ = relax_conformers(mol, starts, max_iterations=rules.force_field_steps)
    finite = np.isfinite(placed).all(axis=(1, 2)) & np.isfinite(field_energies)
    distinct = distinct_rows(mol, placed, np.where(finite, field_energies, np.inf), rules, rules.same_field_energy)
    chosen = distinct[: rules.max_relaxations or None]
    counts = {"starts": len(starts), "distinct_starts": len(distinct), "relaxed": len(chosen)}
    positions, energies, troubles = xtb_minima(mol, placed[chosen], rules)
    if len(positions) == 0:
        raise CalculationFailed(f"no conformer of {task.smiles} survived: {troubles}")
    energies = energies - energies.min()
    inside = np.flatnonzero(energies <= rules.window)
    kept = inside[distinct_rows(mol, positions[inside], energies[inside], rules, rules.same_energy)]
    counts |= troubles | {"above_window": len(energies) - len(inside), "duplicates": len(inside) - len(kept)}
    return described(mol) | {
        "positions": positions[kept],
        "energies": energies[kept],
        "count_names": np.array(list(counts)),
        "counts": np.array(list(counts.values())),
    }


def xtb_minima(
    mol: Chem.Mol, positions: np.ndarray, rules: EnsembleRules
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """GFN2-xTB minima of conformers [C, A, 3] that stayed the same molecule, energies (kcal/mol), and what failed."""
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    charge, stereo = Chem.GetFormalCharge(mol), stereo_rules(mol)
    troubles = {"unconverged": 0, "failed": 0, "changed": 0}
    found, energies = [], []
    for start in positions:
        molecule = Molecule(numbers, start, charge=charge)
        try:
            relaxed = relax(molecule, energy=XtbEnergy(molecule), fmax=rules.fmax, max_steps=rules.max_steps)
        except CalculationFailed:
            troubles["failed"] += 1
            continue
        right = all(part.all() for part in stereo_agrees(stereo, relaxed.positions[None]))
        if not relaxed.converged:
            troubles["unconverged"] += 1
        elif not (right and keeps_bonds(mol, molecule.with_positions(relaxed.positions))):
            troubles["changed"] += 1
        else:
            found.append(relaxed.positions)
            energies.append(relaxed.energy_after * EV_TO_KCAL)
    return np.array(found).reshape(-1, len(numbers), 3), np.array(energies), troubles


def keeps_bonds(mol: Chem.Mol, molecule: Molecule) -> bool:
    """Whether the distances join the atoms as the bonds of `mol` do, by the tight or by the loose covalent radii."""
    wanted = _bonded(mol)
    return any(_bonded(connectivity(molecule, factor=factor)) == wanted for factor in COVALENT_FACTORS)


def _bonded(mol: Chem.Mol) -> set[tuple[int, int]]:
    return {tuple(sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))) for bond in mol.GetBonds()}


def distinct_rows(
    mol: Chem.Mol, positions: np.ndarray, energies: np.ndarray, rules: EnsembleRules, same_energy: float
) -> np.ndarray:
    """Rows of different conformers, lowest energy first; infinite energies are left out.

    Two are the same where energy, rotational constants and heavy-atom RMSD all agree; the lower one stays. Mirror
    images differ, since the RMSD does not reflect.
    """
    order = [row for row in np.argsort(energies, kind="stable") if np.isfinite(energies[row])]
    masses = np.array([atom.GetMass() for atom in mol.GetAtoms()])
    constants = np.array([rotational_constants(masses, one) for one in positions]).reshape(-1, 3)
    kept: list[int] = []
    for row in order:
        rivals = [
            other
            for other in kept
            if energies[row] - energies[other] < same_energy
            and np.allclose(constants[row], constants[other], rtol=rules.same_constants, atol=0.0)
        ]
        if not rivals or rmsd_matrix(mol, positions[[row]], positions[rivals]).min() >= rules.same_rmsd:
            kept.append(row)
    return np.array(kept, dtype=np.int64)


def rotational_constants(masses: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """1 / moments of inertia [3], ascending in the moments, in 1 / (u angstrom^2); moments below 1e-3 count as 1e-3."""
    centred = positions - (masses[:, None] * positions).sum(0) / masses.sum()
    tensor = (masses[:, None, None] * centred[:, :, None] * centred[:, None, :]).sum(0)
    moments = np.linalg.eigvalsh(np.trace(tensor) * np.eye(3) - tensor)
    return 1.0 / np.maximum(moments, 1e-3)


def described(mol: Chem.Mol) -> dict[str, np.ndarray]:
    """Atoms, charges, Kekule bonds and isomeric SMILES of a molecule, in its order of atoms."""
    kekule = Chem.Mol(mol)
    Chem.Kekulize(kekule, clearAromaticFlags=True)
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), round(b.GetBondTypeAsDouble())) for b in kekule.GetBonds()]
    return {
        "atomic_numbers": np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]),
        "formal_charges": np.array([atom.GetFormalCharge() for atom in mol.GetAtoms()]),
        "bonds": np.array(bonds).reshape(-1, 3),
        "smiles": np.array(Chem.MolToSmiles(Chem.RemoveHs(mol))),
    }
