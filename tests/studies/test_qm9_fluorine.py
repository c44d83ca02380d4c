"""The missing fluorine molecules account for the paper's data row."""

import pytest

from molkit.chem.rdkit_tools import without_fluorine
from molkit.studies.qm9_fluorine import estimate_with_fluorine


@pytest.mark.parametrize(
    ("smiles", "analogue"), [("FC(F)(F)C", "CC"), ("c1cc(cnc1)F", "c1ccncc1"), ("FC=O", "C=O"), ("CCO", "CCO")]
)
def test_fluorine_becomes_hydrogen(smiles, analogue):
    assert without_fluorine(smiles) == analogue


def test_hydrogen_analogues_of_the_fluorine_molecules_explain_the_papers_row_of_qm9():
    """Paper: 95.2 % of molecules, 97.7 % valid. The interval is that of 179 analogues."""
    estimate = estimate_with_fluorine(num_validity=5000)
    assert (estimate.num_fluorine, estimate.num_analogues) == (208, 179)
    assert 100 * estimate.packed_molecules == pytest.approx(95.73, abs=0.05)
    assert estimate.analogue_molecules.high < 0.7
    assert estimate.whole_molecules.low < 0.9525 and estimate.whole_molecules.high > 0.9515
    assert 100 * estimate.whole_validity == pytest.approx(97.7, abs=0.4)
    assert 0.990 < estimate.whole_atoms < estimate.packed_atoms
