import json

import numpy as np
import pytest

from molkit.edm import engine as kernel
from molkit.errors import DataNotFound, InvalidInput
from molkit.studies import edm_engine, edm_speed
from molkit.studies.edm_engine import Outcomes, compare

NUM_ATOMS = np.array([4, 4, 4, 4])


def outcomes(stable_atoms, seconds=1.0):
    atoms = np.array(stable_atoms)
    return Outcomes(atoms, NUM_ATOMS, atoms == NUM_ATOMS, seconds)


def test_differences_count_second_minus_first_and_pairs_that_disagree():
    found = compare({"a": outcomes([4, 4, 2, 0]), "b": outcomes([4, 3, 4, 4])}, "a", "b", num_calls=10)
    assert found.molecule_stability == (0.5, 0.75)
    assert found.discordant == (1, 2)
    assert found.molecule_difference.value == pytest.approx(0.25)
    assert found.atom_difference.value == pytest.approx(5 / 16)
    assert found.molecule_difference.low <= 0.25 <= found.molecule_difference.high


def test_equal_executions_differ_by_nothing():
    found = compare({"a": outcomes([4, 1, 2, 0]), "b": outcomes([4, 1, 2, 0])}, "a", "b", num_calls=10)
    assert (found.molecule_difference.low, found.molecule_difference.high) == (0.0, 0.0)


def test_a_stored_comparison_is_read_back_as_it_was(tmp_path):
    found = compare({"a": outcomes([4, 4, 2, 0]), "b": outcomes([4, 3, 4, 4])}, "a", "b", num_calls=10)
    edm_engine.write_trajectories("edm_qm9", tmp_path / "t.json", found, seed=3)
    assert edm_engine.stored_trajectories(tmp_path / "t.json") == ("edm_qm9", found)
    assert json.loads((tmp_path / "t.json").read_text())["seed"] == 3


def test_a_missing_or_foreign_file_ends_in_one_line(tmp_path):
    with pytest.raises(DataNotFound, match="molkit bench trajectories"):
        edm_engine.stored_trajectories(tmp_path / "none.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InvalidInput, match="not a comparison"):
        edm_engine.stored_trajectories(tmp_path / "other.json")


@pytest.mark.skipif(not kernel.available(), reason="no C compiler or no AVX2")
def test_the_kernel_repeats_the_readable_network_with_fresh_and_with_published_weights():
    for row in edm_speed.parity("edm_qm9", num_molecules=8, seed=1):
        assert row.errors["readable"] < 1e-5
        assert row.errors["float32"] < 1e-5
        assert row.errors.get("bfloat16", 0.0) < 2e-2


def test_every_execution_is_timed_against_the_readable_network():
    rows = edm_speed.speed("edm_qm9", num_molecules=4, rounds=1, seed=0)
    assert rows[0].execution == "readable"
    assert rows[0].call_ratio == rows[0].step_ratio == 1.0
    assert all(row.call > 0.0 and row.step > 0.0 for row in rows)
