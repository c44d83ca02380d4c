"""The stored study of several compositions and its tables."""

import numpy as np

from molkit.figures import ofdft_small as draw
from molkit.molecule import Molecule
from molkit.ofdft.basis import density_mole
from molkit.ofdft.integrals import basis_integrals
from molkit.studies import ofdft_small as study
from molkit.studies.ofdft_several import electrons_moved


def test_unseen_geometries_meet_the_bar_and_starts_agree():
    """At most 1.59 mHa over at least 50 geometries, MINAO and reference within 0.2 mHa of one another on each."""
    stored = study.stored_study()
    assert len(stored.formulas["test"]) >= 50 and len(set(stored.formulas["test"])) == 10
    assert stored.error("full", "test", "MINAO").value < 1.59
    ends = [stored.errors("full", "test", start) for start in ("MINAO", "reference")]
    assert np.abs(ends[0] - ends[1]).max() < 0.2


def test_weights_are_chosen_by_validation_after_minimisation():
    for run in study.stored_study().runs:
        assert run.chosen == min(run.snapshots, key=lambda entry: entry.error).step


def test_tables_and_figure_hold_both_sets():
    stored = study.stored_study()
    assert "three heavy atoms" in draw.starts_table(stored).data and "not minimised" in draw.arms_table(stored).data
    assert len(draw.errors_figure(stored).axes) == 2 and len(draw.ablation_figure(stored).axes) == 1


def test_an_electron_that_went_from_one_atom_to_another_counts_once():
    """One electron in a tight s function too many on one atom of H2 at 10 angstrom, and missing on the other."""
    molecule = Molecule(np.array([1, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 10.0]]))
    integrals = basis_integrals(density_mole(molecule))
    half = len(integrals) // 2
    tight = int(np.flatnonzero(np.abs(integrals[:half]) > 1e-8)[3])
    difference = np.zeros(len(integrals))
    difference[tight], difference[half + tight] = 1.0 / integrals[tight], -1.0 / integrals[tight]
    assert abs(electrons_moved(molecule, difference, grid_level=2) - 1.0) < 1e-3
