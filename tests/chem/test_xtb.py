from dataclasses import replace

import numpy as np
import pytest

from molkit.chem.rdkit_tools import embed_smiles
from molkit.chem.xtb import EnergyForces, XtbEnergy, closest_distance, relax
from molkit.data.qm9 import load_qm9
from molkit.errors import CalculationFailed, InvalidInput
from molkit.geometry import aligned_rmsd, random_rotations
from molkit.molecule import Molecule
from molkit.units import HARTREE_TO_EV

WATER = Molecule([8, 1, 1], [[0.0, 0.0, 0.1173], [0.0, 0.7572, -0.4692], [0.0, -0.7572, -0.4692]])


def test_forces_are_the_slope_of_the_energy():
    function = XtbEnergy(WATER)
    positions, step = WATER.positions + np.array([[0.05, 0.0, 0.0], [0.0, 0.03, 0.0], [0.0, 0.0, 0.02]]), 1e-4
    forces = function(positions).forces
    for atom, axis in ((0, 2), (1, 1), (2, 0)):
        ahead, behind = positions.copy(), positions.copy()
        ahead[atom, axis] += step
        behind[atom, axis] -= step
        slope = (function(ahead).energy - function(behind).energy) / (2 * step)
        assert forces[atom, axis] == pytest.approx(-slope, abs=1e-5)


def test_the_energy_of_water_is_the_programs_own():
    from tblite.interface import Calculator

    calculator = Calculator("GFN2-xTB", WATER.atomic_numbers, WATER.positions / 0.529177210544)
    calculator.set("verbosity", 0)
    expected = float(calculator.singlepoint().get("energy")) * HARTREE_TO_EV
    assert XtbEnergy(WATER)(WATER.positions).energy == pytest.approx(expected, abs=1e-9)
    assert expected == pytest.approx(-5.07 * HARTREE_TO_EV, abs=0.01 * HARTREE_TO_EV)


def test_the_energy_does_not_change_under_rotation():
    import torch

    turn = random_rotations(1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[0].numpy()
    function = XtbEnergy(WATER)
    assert function(WATER.positions @ turn.T).energy == pytest.approx(function(WATER.positions).energy, abs=1e-7)


def test_a_molecule_of_qm9_lies_next_to_its_minimum():
    molecule = load_qm9(split="test", limit=20)[0]
    found = relax(molecule)
    assert found.converged
    assert 0.0 < found.energy_drop < 0.1
    assert found.rmsd < 0.1
    assert np.abs(XtbEnergy(molecule)(found.positions).forces).max() < 0.05 * 1.01


def test_a_search_that_stops_early_says_so():
    stretched = Molecule(WATER.atomic_numbers, WATER.positions * 1.3)
    found = relax(stretched, max_steps=1)
    assert not found.converged and found.energy_after < found.energy_before


def test_what_cannot_be_computed_is_refused_and_never_a_number():
    function = XtbEnergy(Molecule([1, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]]))
    with pytest.raises(CalculationFailed, match=r"only 0\.10 angstrom apart"):
        function(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.1]]))
    with pytest.raises(CalculationFailed, match="finite"):
        function(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, np.nan]]))
    with pytest.raises(InvalidInput, match="GFN2-xTB or GFN1-xTB"):
        XtbEnergy(WATER, method="GFN9-xTB")


def test_an_odd_number_of_electrons_makes_a_doublet():
    assert XtbEnergy(Molecule([8, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.97]])).unpaired == 1
    assert XtbEnergy(WATER).unpaired == 0


def test_distances_and_superposition():
    assert closest_distance(WATER.positions) == pytest.approx(0.9578, abs=1e-3)
    assert closest_distance(np.zeros((1, 3))) == float("inf")
    turned = WATER.positions[:, [1, 2, 0]] + 5.0  # a proper rotation and a shift
    assert aligned_rmsd(WATER.positions, turned) == pytest.approx(0.0, abs=1e-7)
    chiral = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]])
    assert aligned_rmsd(chiral, -chiral) > 0.1
    with pytest.raises(ValueError, match="one shape"):
        aligned_rmsd(chiral, chiral[:2])


def test_electrons_that_cannot_be_and_elements_beyond_radon_are_refused():
    with pytest.raises(InvalidInput, match="10 electrons cannot have 1 unpaired"):
        XtbEnergy(replace(WATER, spin=1))
    with pytest.raises(InvalidInput, match="0 electrons"):
        XtbEnergy(Molecule([1], [[0.0, 0.0, 0.0]], charge=1))
    with pytest.raises(CalculationFailed, match="angstrom apart"):
        relax(Molecule([8, 1, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.1], [0.0, 0.9, 0.0]]))


def test_any_energy_function_can_be_relaxed():
    """A spring between two atoms, 4 eV/A^2 about 1.2 A: the minimum and the energy drop are known."""

    def spring(positions):
        bond = positions[1] - positions[0]
        length = np.linalg.norm(bond)
        force = -4.0 * (length - 1.2) * bond / length
        return EnergyForces(2.0 * (length - 1.2) ** 2, np.stack([-force, force]))

    found = relax(Molecule([1, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 1.5]]), energy=spring, fmax=1e-4)
    assert found.converged and np.ptp(found.positions[:, 2]) == pytest.approx(1.2, abs=1e-4)
    assert found.energy_drop == pytest.approx(2.0 * 0.3**2, abs=1e-6)


def test_a_charged_molecule_keeps_its_charge():
    ammonium = embed_smiles("[NH4+]")[0]
    assert XtbEnergy(ammonium).unpaired == 0
    assert relax(ammonium).rmsd < 0.1


ALONE = """
from time import perf_counter, process_time
from molkit.chem.optimise import optimise
from molkit.chem.rdkit_tools import embed_smiles
from molkit.chem.threads import thread_pools
from molkit.chem.xtb import XtbEnergy, relax
molecule = embed_smiles("CC(C)Cc1ccc(cc1)C(C)C(=O)O")[0]
before = {name: read() for name, (read, _) in thread_pools().items()}
started, used = perf_counter(), process_time()
relax(molecule, optimiser="bfgs", max_steps=20)
optimise(molecule, XtbEnergy(molecule), optimiser="internal", max_steps=4)
share = (process_time() - used) / (perf_counter() - started)
assert before == {name: read() for name, (read, _) in thread_pools().items()}, "the number of threads is not restored"
print(share)
"""


@pytest.mark.parametrize("variable", [{}, {"OMP_NUM_THREADS": "2"}])
def test_xtb_takes_one_cpu_whatever_the_shell_says(variable):
    import os
    import subprocess
    import sys

    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")} | variable
    ended = subprocess.run([sys.executable, "-c", ALONE], env=environment, capture_output=True, text=True, check=True)
    assert float(ended.stdout) < 1.15


def test_xtb_has_one_thread_inside_the_call_and_gives_back_the_others(monkeypatch):
    from tblite.interface import Calculator

    from molkit.chem.threads import thread_pools

    seen, pools = [], thread_pools()
    assert set(pools) == {"tblite._libtblite", "numpy.linalg._umath_linalg", "scipy.linalg._fblas"}
    before = {name: read() for name, (read, _) in pools.items()}
    real = Calculator.singlepoint
    monkeypatch.setattr(
        Calculator, "singlepoint", lambda self: seen.append([read() for read, _ in pools.values()]) or real(self)
    )
    for _, put in pools.values():
        put(2)
    try:
        XtbEnergy(WATER)(WATER.positions)
        with pytest.raises(CalculationFailed):
            XtbEnergy(WATER)(WATER.positions * 0.1)
        assert seen == [[1, 1, 1]] and {read() for read, _ in pools.values()} == {2}
    finally:
        for name, (_, put) in pools.items():
            put(before[name])
