import numpy as np
import pytest

from molkit.data.qm9_labels import NAMES, LabelledMolecules, load_labelled
from molkit.edm.conditions import make_table, write_table
from molkit.edm.config import EdmConfig
from molkit.edm.model import build, save
from molkit.errors import InvalidInput
from molkit.metrics.energies import mean_absolute_error
from molkit.molecule import PackedMolecules
from molkit.studies import edm_conditional as study


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An untrained generator of the six properties with the table of some molecules."""
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
    write_table(folder, make_table(NAMES, sizes, np.linspace(0.0, 1.0, 600).reshape(100, 6)))
    return str(folder)


def test_each_molecule_is_asked_for_one_property_the_same_for_any_chunking(weights):
    asked = study.ask_many(weights, 3, num_calls=3, seed=0)
    again = study.ask_many(weights, 3, num_calls=3, seed=0)
    assert np.bincount(asked.prop, minlength=6).tolist() == [3 - lost for lost in asked.num_failed]
    assert ((asked.value >= 0.0) & (asked.value <= 1.0)).all()
    np.testing.assert_array_equal(asked.molecules.positions, again.molecules.positions)


def test_kept_samples_come_back_with_what_they_were_asked_for(weights, tmp_path):
    from pathlib import Path

    asked = study.ask_many(weights, 2, num_calls=3, seed=1)
    study.keep(asked, Path(weights), num_calls=3, seed=1)
    back, num_calls = study.stored(weights)
    assert num_calls == 3 and back.num_failed == asked.num_failed
    np.testing.assert_array_equal(back.prop, asked.prop)
    np.testing.assert_allclose(back.value, asked.value, rtol=1e-6)
    np.testing.assert_allclose(
        back.molecules.positions.std(), (asked.molecules.positions).std(), rtol=0.5
    )  # centred and rounded


def test_guided_samples_lie_in_a_file_of_their_own(weights):
    from pathlib import Path

    asked = study.ask_many(weights, 2, num_calls=3, seed=1, scale=2.0)
    path = study.keep(asked, Path(weights), num_calls=3, seed=1)
    back, _ = study.stored(weights, study.GUIDED_SAMPLES)
    assert path.name == study.GUIDED_SAMPLES and back.scale == asked.scale == 2.0


def test_the_mean_absolute_error_is_that_and_refuses_what_it_cannot_average():
    assert mean_absolute_error(np.array([1.0, 4.0]), np.array([2.0, 2.0])).value == pytest.approx(1.5)
    with pytest.raises(InvalidInput, match="as many predictions"):
        mean_absolute_error(np.zeros(2), np.zeros(3))
    with pytest.raises(InvalidInput):
        mean_absolute_error(np.array([np.nan]), np.zeros(1))


def test_a_baseline_of_the_number_of_atoms_learns_what_depends_on_it_alone():
    sizes = np.tile(np.arange(5, 25), 20)
    pack = PackedMolecules(sizes, np.ones(sizes.sum(), dtype=np.int64), np.zeros((sizes.sum(), 3)))
    labels = np.stack([4.0 * sizes + k for k in range(6)], axis=1).astype(float)
    toy = LabelledMolecules(pack, np.arange(len(sizes)), labels)
    errors = study.size_baseline(toy, toy, seed=0)
    assert errors["alpha"].value < 2.0  # of values from 20 to 100


def test_evenly_thinned_molecules_keep_their_labels():
    part = load_labelled("test")
    few = study.thinned(part, 5)
    assert len(few.index) == 5
    rows = np.searchsorted(part.index, few.index)
    np.testing.assert_array_equal(few.labels, part.labels[rows])


def test_a_sweep_uses_one_noise_for_all_values(weights, monkeypatch):
    class Judge:
        def predict(self, molecules):
            return np.zeros((len(molecules), 6))

    monkeypatch.setattr(study, "load_property", lambda name: Judge())
    result = study.sweep(weights, "any", name="alpha", num_atoms=5, count=3, num_calls=3, seed=0)
    assert set(result.molecules.num_atoms) == {5}
    assert result.asked[0] < result.asked[-1]
    assert len(result.asked) + result.num_failed == 3
