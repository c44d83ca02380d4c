import numpy as np
import pytest

from molkit.errors import InvalidInput
from molkit.metrics.strain import Failure, Strain, bonded_pairs, strain, summary
from molkit.molecule import Molecule, PackedMolecules

WATER = Molecule([8, 1, 1], [[0.0, 0.0, 0.1173], [0.0, 0.7572, -0.4692], [0.0, -0.7572, -0.4692]])
HYDROXYL = Molecule([8, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.97]])


def test_figures_are_over_what_converged_and_the_rest_is_counted():
    good = [Strain(drop, 0.1, 5, True, drop > 2.5) for drop in (1.0, 2.0, 3.0)]
    outcomes = [*good, Strain(9.0, 0.9, 300, False, False), Failure("too close"), Strain(5.0, 0.1, 3, True, False)]
    result = summary([WATER] * 5 + [HYDROXYL], outcomes)
    assert (result.num_odd, result.num_failed, result.num_not_converged, result.num_counted) == (1, 1, 1, 3)
    assert result.energy_drop.value == 2.0 and result.num_bonds_changed == 1
    assert result.reasons == ("too close",)


def test_nothing_that_converged_gives_no_figure():
    result = summary([WATER], [Failure("too close")])
    assert result.energy_drop is None and result.rmsd is None and result.quartiles is None


def test_the_bond_graph_is_that_of_the_distances():
    assert bonded_pairs(WATER) == {(0, 1), (0, 2)}


def test_water_and_atoms_on_top_of_each_other():
    crash = Molecule([8, 1, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.1], [0.0, 0.9, 0.0]])
    result = strain(PackedMolecules.from_molecules([WATER, crash]))
    assert result.num_failed == 1 and result.num_counted == 1
    assert 0.0 <= result.energy_drop.value < 1.0
    with pytest.raises(InvalidInput):
        strain(PackedMolecules(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3))))


def test_an_interrupted_strain_goes_on_in_its_folder_and_gives_the_same(tmp_path):
    bent = WATER.with_positions(WATER.positions * 1.05)
    first = strain([WATER], folder=tmp_path)
    kept = (tmp_path / "results" / "molecule_000000.npz").stat().st_mtime_ns
    both = strain([WATER, bent], folder=tmp_path)
    assert (tmp_path / "results" / "molecule_000000.npz").stat().st_mtime_ns == kept
    assert both == strain([WATER, bent]) and first.num_counted == 1 and both.num_counted == 2
    with pytest.raises(InvalidInput, match="was another one"):
        strain([bent], folder=tmp_path)
