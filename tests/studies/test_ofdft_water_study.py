"""The stored study of water, the direct network beside it, and labelled densities made now."""

import json

import numpy as np
import pytest

from molkit.errors import DataNotFound, InvalidInput
from molkit.figures import ofdft as draw
from molkit.ofdft.direct import train_direct, width_for
from molkit.ofdft.domain import read_domain
from molkit.studies import ofdft_domains, ofdft_samples
from molkit.studies import ofdft_water as study
from molkit.training.weights import WEIGHTS_ROOT


@pytest.fixture(scope="module")
def stored():
    return study.stored_study()


def test_every_arm_has_three_trainings_on_the_same_geometries(stored):
    assert stored.arms == list(study.ARMS)
    for arm in stored.arms:
        runs = stored.of_arm(arm)
        assert [run.seed for run in runs] == [0, 1, 2]
        assert {len(start.after) for run in runs for start in run.starts.values()} == {stored.num_test}
    assert stored.num_test >= 50


def test_the_published_recipe_meets_its_bar_and_its_starts_agree(stored):
    """At most 1.59 mHa, and the starts within 0.2 mHa of one another on every geometry."""
    for run in stored.of_arm("full"):
        ends = np.array([run.starts[start].after for start in study.STARTS])
        assert np.abs(ends).mean(1).max() < 1.59
        assert np.ptp(ends, axis=0).max() < 0.2
        assert all(all(run.starts[start].converged) for start in study.STARTS)


def test_the_domain_beside_the_weights_is_the_one_that_the_study_gives(stored):
    made, kept = ofdft_domains.domain_of("ofdft_water"), read_domain(WEIGHTS_ROOT / "ofdft_water")
    assert len(made.molecules) == len(kept.molecules) == stored.num_train
    for name in ("distances", "gaps", "errors"):
        np.testing.assert_allclose(getattr(kept, name), getattr(made, name), rtol=1e-4, atol=1e-6)
    errors = np.abs(stored.of_arm("full")[0].starts["MINAO"].after) * 0.6275094740630558
    np.testing.assert_allclose(kept.errors, errors, rtol=1e-5)
    with pytest.raises(InvalidInput, match="ofdft_up_to_five, ofdft_water"):
        ofdft_domains.domain_of("edm_qm9")


def test_the_direct_network_has_the_size_of_the_functional(stored):
    assert abs(stored.direct[0].num_parameters / 28833 - 1.0) < 0.02
    assert len(stored.direct) == 3 and len(stored.direct[0].errors) == stored.num_test


def test_a_direct_network_learns_a_smooth_function_of_distances():
    random = np.random.default_rng(0)
    u = 2.0 + 0.1 * random.standard_normal((40, 2, 3))
    u[:, 1] = u[:, 0][:, [1, 0, 2]]
    energies = -76.0 + (u[:, 0] - 2.0).sum(1) + u[:, 0, 0] * u[:, 0, 1]
    model = train_direct(u[:30], energies[:30], width=width_for(1000, 3), steps=600, seed=0)
    assert np.abs(model.energies(u[30:]) - energies[30:]).mean() < 0.1 * energies.std()
    np.testing.assert_allclose(model.energies(u[:, ::-1]), model.energies(u), atol=1e-12)


def test_samples_near_the_ground_state_are_near_the_labels():
    found = ofdft_samples.live_samples("ofdft_water", num_frozen=6, grid_level=1)
    near = found.excess < 0.02
    assert near.any() and np.abs(found.errors[near]).max() < 2.0
    assert np.corrcoef(found.slopes.reshape(2, -1))[0, 1] > 0.95
    assert draw.samples_figure(found).axes


def test_tables_and_figure_hold_every_arm_and_way(stored):
    assert "direct network" in draw.ways_table(stored, []).data
    assert len(draw.arms_figure(stored).axes[0].get_yticks()) == len(study.ARMS)


def test_measurements_are_of_the_plain_family(stored):
    found = {entry.claim_id: entry for entry in study.measurements(stored)}
    assert set(found) == set(study.CLAIMED)
    assert found["mofdft.ablation.full"].value == pytest.approx(
        stored.error("plain", "MINAO").value * 0.6275094740630558, rel=1e-6
    )


def test_a_missing_or_foreign_file_is_named(tmp_path):
    with pytest.raises(DataNotFound, match="ofdft-water"):
        study.stored_study(tmp_path / "none.json")
    (tmp_path / "other.json").write_text(json.dumps({"runs": []}))
    with pytest.raises(InvalidInput, match="not a study of water"):
        study.stored_study(tmp_path / "other.json")
