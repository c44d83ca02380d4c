import numpy as np
import pytest

from molkit.cli import run
from molkit.data.ensembles import load_ensembles
from molkit.errors import DataNotFound, InvalidInput
from molkit.metrics.conformers import MEASURES
from molkit.studies.conformer_baselines import all_facts, baselines, kept_references, read_study, write_study


@pytest.fixture(scope="module")
def found():
    return baselines("conformers_dft", num_molecules=2, methods=("plain", "etkdgv3"), max_references=4)


def test_every_method_is_scored_on_every_molecule(found):
    assert [row.title for row in found.rows] == [
        *("distance geometry", "ETKDGv3", "distance geometry + MMFF94", "ETKDGv3 + MMFF94")
    ]
    for row in found.rows:
        assert [score.num_references for score in row.scores] == [4, 4]
        assert all(score.num_generated + score.num_failed == 8 for score in row.scores)
        assert row.spread.value > 0.05 and row.seconds_per_conformer > 0.0


def test_knowledge_of_torsions_and_a_force_field_bring_conformers_nearer(found):
    plain, *_, relaxed = (row.summary("mat_recall").mean.value for row in found.rows)
    assert relaxed < plain


def test_a_stored_table_says_what_the_computed_one_did(found, tmp_path):
    write_study(found, tmp_path / "table.json")
    again = read_study(tmp_path / "table.json")
    assert again.molecules == found.molecules and again.stamp["rdkit"] == found.stamp["rdkit"]
    for before, after in zip(found.rows, again.rows, strict=True):
        for measure in MEASURES:
            assert after.summary(measure).mean.value == pytest.approx(before.summary(measure).mean.value, abs=1e-4)
        assert after.spread == before.spread


def test_references_of_lowest_energy_count():
    ensemble = load_ensembles("conformers_dft", split="test", limit=1)[0]
    lowest = np.argsort(ensemble.energies)[:3]
    np.testing.assert_array_equal(kept_references(ensemble, 3), ensemble.positions[lowest])


def test_the_sets_are_counted():
    facts = {(one.name, one.split): one for one in all_facts()}
    assert sum(one.num_molecules for (name, _), one in facts.items() if name == "conformers_dft") == 708


def test_wrong_tables_end_in_a_line(tmp_path):
    with pytest.raises(DataNotFound, match="conformer-baselines"):
        read_study(tmp_path / "none.json")
    (tmp_path / "x.json").write_text('{"rows": [{}]}')
    with pytest.raises(InvalidInput, match="not a stored table"):
        read_study(tmp_path / "x.json")
    assert run(["study", "conformer-baselines", "geom"]) == 2
