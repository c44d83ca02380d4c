import numpy as np
import pytest

from molkit.data.qm9_labels import NAMES, load_labelled
from molkit.edm.conditions import make_table, write_table
from molkit.edm.config import EdmConfig
from molkit.edm.model import build, save
from molkit.edm.property_network import PropertyConfig, build_property, save_property
from molkit.errors import InvalidInput
from molkit.figures import edm_conditional_live as near
from molkit.studies import edm_conditional as study
from molkit.studies import edm_conditional_live as live


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An untrained generator of the six properties: small molecules with small values, larger ones with larger."""
    folder = tmp_path_factory.mktemp("generator")
    config = EdmConfig(
        width=16,
        num_layers=1,
        num_context=12,
        context_names=NAMES,
        context_means=(0.0,) * 6,
        context_spreads=(1.0,) * 6,
    )
    save(build(config), folder)
    sizes = np.repeat([5, 7], 50)
    write_table(folder, make_table(NAMES, sizes, np.linspace(0.0, 1.0, 100)[:, None].repeat(6, axis=1)))
    return str(folder)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """An untrained judge."""
    folder = tmp_path_factory.mktemp("judge")
    config = PropertyConfig(width=16, num_layers=1, means=(0.0,) * 6, spreads=(1.0,) * 6)
    save_property(folder, config, build_property(config).network)
    return str(folder)


def test_sizes_given_a_request_are_shares_and_move_with_it(weights):
    result = live.size_shift(weights, [{"alpha": 0.1}, {"gap": 0.9}])
    assert result.plain.tolist() == [0.5, 0.5]
    assert result.asked["alpha = 0.1"].tolist() == [1.0, 0.0]
    assert result.asked["gap = 0.9"].tolist() == [0.0, 1.0]
    with pytest.raises(InvalidInput, match="outside 0 to 1"):
        live.size_shift(weights, [{"alpha": 2.0}])
    assert near.size_curves(result).axes[0].get_xlabel() == "atoms in the molecule"


def test_requests_are_answered_with_sizes_that_go_with_them(weights, judge):
    answers = live.answer(weights, judge, live.requests_of(0.1, 0.2), count=3, num_calls=3, seed=0)
    assert [set(result.molecules.num_atoms) for result in answers] == [{5}] * 3
    assert all(len(result.molecules) + result.num_failed == 3 for result in answers)
    assert "alpha = 0.1, gap = 0.2" in near.request_table(answers).data


def test_contexts_tell_all_part_another_s_or_nothing():
    part = study.thinned(load_labelled("test"), 8)
    told = live.contexts(part, seed=0)
    assert np.isnan(told["nothing"]).all()
    assert np.isfinite(told["alpha"]).sum() == 8
    np.testing.assert_array_equal(told["all six"], part.labels)
    np.testing.assert_array_equal(np.sort(told["another's"], axis=0), np.sort(part.labels, axis=0))


def test_what_is_told_changes_the_bound_with_the_noise_held_fixed(weights):
    result = live.context_bounds(weights, num_molecules=3, draws=1, seed=0)
    again = live.context_bounds(weights, num_molecules=3, draws=1, seed=0)
    assert result == again and set(result.changes) == {"alpha", "all six", "another's"}
    assert result.changes["all six"].value == pytest.approx(
        result.bounds["all six"].value - result.bounds["nothing"].value, rel=1e-6
    )
    assert "told nothing" in near.bounds_table(result).data


def test_a_limited_sample_holds_equal_shares_of_every_property():
    molecules = load_labelled("test").molecules.select(np.arange(60))
    asked = study.Asked(molecules, np.repeat(np.arange(6), 10), np.arange(60.0), (0,) * 6)
    few = study.evenly(asked, 12)
    assert np.bincount(few.prop).tolist() == [2] * 6
    assert few.value.tolist() == [0.0, 9.0, 10.0, 19.0, 20.0, 29.0, 30.0, 39.0, 40.0, 49.0, 50.0, 59.0]


def test_the_four_rows_of_a_limited_run_are_counted_and_not_recorded(weights, judge):
    options = {"recompute": 2, "num_calls": 3, "seed": 0}
    result = study.error_table(weights, judge, limit=12, **options)
    assert result.counts == {"naive": 12, "num_atoms": 12, "edm": 2, "guided": 2, "data": 12}
    assert set(result.errors) == set(result.counts) and set(result.stability) == {"edm", "guided"}
    assert result.num_calls == 3 and result.measurements == ()
    errors = result.errors["naive"]["alpha"]
    assert errors.low <= errors.value <= errors.high
