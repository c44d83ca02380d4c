import numpy as np
import pytest
from rdkit import Chem

from molkit.chem.bond_graph import mol_from_bonds
from molkit.chem.conformer_rmsd import rmsd_matrix
from molkit.chem.ensembles import (
    EnsembleRules,
    EnsembleTask,
    distinct_rows,
    keeps_bonds,
    make_ensemble,
    rotational_constants,
    start_positions,
)
from molkit.chem.rdkit_conformers import embed_parameters, rdkit_conformers, relax_conformers
from molkit.chem.xtb import XtbEnergy
from molkit.errors import CalculationFailed, InvalidInput, MolkitError
from molkit.molecule import Molecule
from molkit.units import EV_TO_KCAL

RULES = EnsembleRules()


@pytest.fixture(scope="module")
def propanol():
    return make_ensemble(EnsembleTask("propanol", "CCCO", 30, 0, RULES))


def test_an_ensemble_holds_minima_of_the_same_molecule_lowest_first(propanol):
    energies, positions = propanol["energies"], propanol["positions"]
    assert len(energies) >= 3 and energies[0] == 0.0 and (np.diff(energies) >= 0).all() and energies[-1] <= 6.0
    molecules = [Molecule(propanol["atomic_numbers"], one) for one in positions]
    exact = [XtbEnergy(one)(one.positions) for one in molecules]
    assert max(np.linalg.norm(one.forces, axis=1).max() for one in exact) <= 0.05 + 1e-6
    assert [(one.energy - exact[0].energy) * EV_TO_KCAL for one in exact] == pytest.approx(energies.tolist(), abs=1e-4)
    mol = mol_from_bonds(propanol["atomic_numbers"], propanol["bonds"], propanol["formal_charges"])
    assert all(keeps_bonds(mol, one) for one in molecules)


def test_counts_add_up(propanol):
    counts = dict(zip(propanol["count_names"].tolist(), propanol["counts"].tolist(), strict=True))
    lost = [counts[name] for name in ("unconverged", "failed", "changed", "above_window", "duplicates")]
    assert counts["starts"] == 30 and counts["relaxed"] == counts["distinct_starts"]
    assert len(propanol["energies"]) == counts["relaxed"] - sum(lost)


def test_both_hands_of_a_gauche_chain_are_kept(propanol):
    mol = mol_from_bonds(propanol["atomic_numbers"], propanol["bonds"], propanol["formal_charges"])
    positions = propanol["positions"]
    mirrored = rmsd_matrix(mol, positions, positions * [1.0, 1.0, -1.0])
    plain = rmsd_matrix(mol, positions, positions) + 9.0 * np.eye(len(positions))
    assert ((mirrored.argmin(1) != np.arange(len(positions))) & (mirrored.min(1) < 0.1)).any()
    assert plain.min() > 0.0


def test_the_same_task_gives_the_same_ensemble(propanol):
    again = make_ensemble(EnsembleTask("propanol", "CCCO", 30, 0, RULES))
    np.testing.assert_array_equal(again["positions"], propanol["positions"])


def test_open_stereo_is_fixed_and_given_stereo_is_kept():
    made = make_ensemble(EnsembleTask("x", "C[C@@H](F)O", 4, 0, RULES))
    assert str(made["smiles"]) == Chem.CanonSmiles("C[C@@H](F)O")
    open_one = make_ensemble(EnsembleTask("x", "CC(F)O", 4, 0, RULES))
    assert "@" in str(open_one["smiles"])


def test_copies_are_found_and_only_copies():
    mol = Chem.AddHs(Chem.MolFromSmiles("CCCO"))
    mol, starts = start_positions(mol, 6, 0)
    relaxed, energies, _ = relax_conformers(mol, starts, max_iterations=5000)
    turned = relaxed @ np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]) + 2.0
    once = distinct_rows(mol, relaxed, energies, RULES, 0.1)
    twice = distinct_rows(mol, np.concatenate([relaxed, turned]), np.concatenate([energies, energies]), RULES, 0.1)
    assert len(once) == len(twice) > 1


def test_rotational_constants_of_water_have_the_measured_ratios():
    positions = np.array([[0.0, 0.0, 0.0], [0.7572, 0.5865, 0.0], [-0.7572, 0.5865, 0.0]])
    found = rotational_constants(np.array([15.995, 1.008, 1.008]), positions)
    assert found / found[0] == pytest.approx([1.0, 14.512 / 27.877, 9.285 / 27.877], rel=0.05)  # cm^-1, spectroscopy


def test_a_broken_molecule_is_seen():
    mol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    positions = rdkit_conformers(mol, 1)[0]
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    assert keeps_bonds(mol, Molecule(numbers, positions))
    away = positions.copy()
    away[-1] += 5.0
    assert not keeps_bonds(mol, Molecule(numbers, away))


@pytest.mark.parametrize("smiles", ["C1CC", "CC.O", "[He]", "[CH3]", "F[B-](F)(F)F", "*C", "C" * 200, "[H][H]"])
def test_molecules_that_cannot_be_treated_are_refused_in_a_line(smiles):
    with pytest.raises(MolkitError) as caught:
        make_ensemble(EnsembleTask("x", smiles, 2, 0, RULES))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("smiles", ["C[NH3+]", "CC#N", "C=C"])
def test_ions_and_rigid_molecules_have_ensembles(smiles):
    assert len(make_ensemble(EnsembleTask("x", smiles, 4, 0, RULES))["energies"]) == 1


@pytest.mark.parametrize("method", ["etkdgv3", "etkdgv1", "plain"])
def test_baselines_keep_order_stereo_and_seed(method):
    mol = Chem.AddHs(Chem.MolFromSmiles("C[C@@H](F)CCO"))
    positions = rdkit_conformers(mol, 4, method=method, seed=3)
    assert positions.shape == (4, mol.GetNumAtoms(), 3)
    np.testing.assert_array_equal(positions, rdkit_conformers(mol, 4, method=method, seed=3))
    assert rmsd_matrix(mol, positions, rdkit_conformers(mol, 4, method=method, seed=0)).min() > 1e-6
    assert len(np.unique(rdkit_conformers(mol, 4, method=method, seed=0)[:, 0, 0])) == 4
    relaxed, energies, converged = relax_conformers(mol, positions)
    assert np.isfinite(relaxed).all() and energies.shape == converged.shape == (4,)


@pytest.mark.parametrize("wrong", [{"count": 0}, {"method": "best"}])
def test_wrong_baselines_are_refused(wrong):
    with pytest.raises(InvalidInput):
        rdkit_conformers(Chem.AddHs(Chem.MolFromSmiles("CC")), **({"count": 1} | wrong))


def test_a_search_out_of_time_is_an_error_of_ours(monkeypatch):
    """RDKit then returns ids of conformers that are not there."""

    def hurried(method, seed):
        parameters = embed_parameters(method, seed)
        parameters.timeout = 1
        return parameters

    monkeypatch.setattr("molkit.chem.rdkit_conformers.embed_parameters", hurried)
    mol = Chem.AddHs(Chem.MolFromSmiles("CC(C)C[C@H](N)C(=O)N[C@@H](Cc1ccccc1)C(=O)NCCCCCCCCCCCC"))
    with pytest.raises(CalculationFailed, match="no 3D geometry"):
        rdkit_conformers(mol, 5000)
