"""Validity of heavy-atom skeletons."""

import numpy as np
import pytest

from molkit.data.qm9 import load_qm9
from molkit.molecule import PackedMolecules
from molkit.studies import edm_heavy as study


def test_skeletons_of_the_data_are_nearly_all_valid_and_differ():
    row = study.heavy_row("data", load_qm9(split="test", limit=300).without_hydrogens())
    assert row.valid.value > 0.95 and row.valid_unique.value > 0.95 and row.novel is None


def test_hydrogens_are_filled_in_and_failed_chains_count():
    """C-C at 1.54 angstrom is ethane without its hydrogens; three chains of four failed."""
    pair = PackedMolecules(np.array([2]), np.array([6, 6]), np.array([[0.0, 0.0, 0.0], [1.54, 0.0, 0.0]]))
    row = study.heavy_row("pair", pair, known=frozenset({"CC"}), num_failed=3)
    assert (row.num_molecules, row.valid.value, row.valid_unique.value) == (4, 0.25, 0.25)
    assert row.novel.value == pytest.approx(0.0)


def test_an_atom_with_too_many_bonds_is_not_valid():
    """An oxygen with three carbons at bonding distance."""
    ring = np.array([[0.0, 0.0, 0.0], [1.43, 0.0, 0.0], [-0.715, 1.238, 0.0], [-0.715, -1.238, 0.0]])
    row = study.heavy_row("oxonium", PackedMolecules(np.array([4]), np.array([8, 6, 6, 6]), ring))
    assert row.valid.value == 0.0
