"""Figures that are known from elsewhere: the packed QM9 data row, and the G-SchNet row of the EDM paper's tables."""

import pytest

from molkit.data.qm9 import load_qm9
from molkit.data.registry import load_gschnet
from molkit.metrics.stability import stability
from molkit.metrics.validity import validity


def test_packed_qm9_by_the_distance_rule():
    """99.44 % of atoms and 95.73 % of molecules; the packed coordinates are rounded to 2.5e-4 angstrom."""
    result = stability(load_qm9(split="all"))
    assert 100 * result.atom_fraction == pytest.approx(99.44, abs=0.05)
    assert 100 * result.molecule_fraction == pytest.approx(95.73, abs=0.05)


def test_ten_thousand_gschnet_samples_reproduce_the_papers_row():
    """Published: 95.7 % of atoms, 68.1 % of molecules, 85.5 % valid, 80.3 % valid and unique."""
    molecules = load_gschnet()
    stable = stability(molecules)
    assert 100 * stable.atom_fraction == pytest.approx(95.71, abs=0.01)
    assert 100 * stable.molecule_fraction == pytest.approx(68.05, abs=0.05)
    chemical = validity(molecules, reference_smiles=None)
    assert 100 * chemical.validity == pytest.approx(85.45, abs=0.3)
    assert 100 * chemical.valid_and_unique == pytest.approx(80.31, abs=0.3)
