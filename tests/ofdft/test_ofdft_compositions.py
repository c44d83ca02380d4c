"""Folds that share no composition, the ridge that left-out compositions ask for, and a study of five folds."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from molkit.config import to_dict
from molkit.data.qm9 import load_qm9
from molkit.errors import InvalidInput
from molkit.ofdft.attention import AttentionConfig
from molkit.ofdft.attention_functional import assemble, build, load
from molkit.ofdft.attention_training import AttentionData, AttentionRecipe, energy_fit
from molkit.ofdft.channels import (
    ENERGY_FEATURES,
    fit_channels,
    neighbourhood,
    prepare_molecule,
    ridge_energies,
    ridge_path,
)
from molkit.ofdft.compositions import (
    NUM_FOLDS,
    RIDGES,
    SPREADS,
    careful_energies,
    chosen_restraint,
    folds_by_composition,
    held_out_errors,
    of_fold,
    without_fold,
)
from molkit.ofdft.geometries import QM9_UP_TO_FIVE, geometry
from molkit.ofdft.label_files import LabelSettings, generate, load_folder
from molkit.ofdft.labels import FrozenSampling
from molkit.studies.ofdft import unseen_functionals as study
from molkit.training.config import TrainConfig
from molkit.training.files import write_yaml

CONFIG = AttentionConfig(counts=(3, 2), width=8, num_layers=1, num_heads=2, num_gaussians=4)
ROTATION = Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Labels of methane, ammonia, water, acetylene and hydrogen cyanide."""
    found = tmp_path_factory.mktemp("labels")
    generate("small", "train", range(NUM_FOLDS), found, settings=LabelSettings(FrozenSampling(count=1), grid_level=0))
    return found


@pytest.fixture(scope="module")
def labelled(folder):
    return load_folder(folder, "small", "train")


def test_the_first_174_of_qm9_lie_as_they_are_and_then_displaced():
    resting, moved = geometry("up_to_five", "train", 40), geometry("up_to_five", "train", 40 + QM9_UP_TO_FIVE)
    known = load_qm9(split="all")
    np.testing.assert_array_equal(resting.positions, known[40].positions)
    assert 0.0 < np.abs(moved.positions - resting.positions).max() < 0.3
    assert max((known[row].atomic_numbers > 1).sum() for row in range(QM9_UP_TO_FIVE)) == 5
    assert (known[QM9_UP_TO_FIVE].atomic_numbers > 1).sum() == 6
    with pytest.raises(InvalidInput, match="one split"):
        geometry("up_to_five", "test", 0)


def test_folds_share_no_formula_and_are_of_one_size():
    known = load_qm9(split="all")
    formulas = [known[row].formula for row in range(QM9_UP_TO_FIVE)]
    folds = folds_by_composition(formulas)
    met = [{formulas[row] for row in np.flatnonzero(folds == fold)} for fold in range(NUM_FOLDS)]
    assert sum(map(len, met)) == len(set(formulas)) == 65
    sizes = np.bincount(folds)
    assert sizes.sum() == QM9_UP_TO_FIVE and sizes.max() - sizes.min() <= 14
    np.testing.assert_array_equal(folds, folds_by_composition(formulas))
    np.testing.assert_array_equal(np.tile(folds, 2), folds_by_composition([*formulas, *formulas]))
    with pytest.raises(InvalidInput, match="at least two folds"):
        folds_by_composition(["CH4", "CH4"], count=2)


def test_a_molecule_is_trained_on_or_held_out(labelled):
    for fold in range(NUM_FOLDS):
        kept, left = ({e.molecule.formula for e in part(labelled, fold)} for part in (without_fold, of_fold))
        assert len(left) == 1 and not kept & left and len(kept) == 4
    assert len(without_fold(labelled, -1)) == 5
    with pytest.raises(InvalidInput, match="numbered 0 to 4, got 5"):
        without_fold(labelled, 5)


def test_the_chosen_ridge_errs_least_on_compositions_left_out(labelled):
    """Energies linear in the features want no restraint, energies of atoms with noise want one."""
    random = np.random.default_rng(1)
    features = np.zeros((60, ENERGY_FEATURES))
    features[:, :5] = random.integers(1, 6, (60, 5))
    features[:, 5:25] = random.random((60, 20))
    formulas = [str(row[:5]) for row in features]
    linear = features @ random.standard_normal(ENERGY_FEATURES)
    assert chosen_restraint(features, linear, formulas, spreads=(0.0,))[0] <= 1e-4
    noise = features[:, :5].sum(1) + random.standard_normal(60)
    assert chosen_restraint(features, noise, formulas, spreads=(0.0,))[0] >= 1.0
    found = held_out_errors(features, linear, formulas, RIDGES)
    assert found[1e-6] < 1e-4 < found[1e6]
    molecules = [prepare_molecule(entry, ceiling=0.4) for entry in labelled]
    assert energy_fit(AttentionData(energy_ridge=0.3), molecules) == (0.3, 0.0, None)
    ridge, spread, _ = energy_fit(AttentionData(energy_ridge=0.0, energy_spread=0.3), molecules)
    assert ridge in RIDGES and spread == 0.3
    chosen = energy_fit(AttentionData(energy_ridge=0.0), molecules)
    assert chosen[0] in RIDGES and chosen[1] in SPREADS


def test_many_restraints_by_one_eigenvalue_problem_are_the_fits_one_by_one():
    molecules = [geometry("up_to_five", "train", k) for k in range(40)]
    features = np.stack([neighbourhood(molecule).energy_features() for molecule in molecules])
    energies = -np.array([sum(m.atomic_numbers) ** 1.4 for m in molecules])
    prior = np.random.default_rng(0).standard_normal(ENERGY_FEATURES)
    ridges = (1e-3, 1.0, 1e3)
    for spread in (0.0, 0.3):
        path = ridge_path(features, energies, ridges, prior, spread=spread)
        for ridge, weights in zip(ridges, path, strict=True):
            alone = ridge_energies(features, energies, ridge, prior, spread=spread)
            np.testing.assert_allclose(features @ weights, features @ alone, atol=1e-6)
            np.testing.assert_allclose(weights, alone, rtol=1e-4, atol=1e-4)


def test_the_spread_is_chosen_by_compositions_left_out(labelled):
    """A pair that hardly occurs, and says nothing, must not cost a molecule that has much of it."""
    random = np.random.default_rng(3)
    features = np.zeros((60, ENERGY_FEATURES))
    features[:, :5] = random.integers(1, 6, (60, 5))
    features[:, 5:25] = random.random((60, 20)) * (random.random((60, 20)) < 0.1)
    features[:50, 5:25] *= 1e-4
    energies = features[:, :5].sum(1) + 0.1 * random.standard_normal(60)
    formulas = [str(row[:5]) for row in features]
    ridge, spread = chosen_restraint(features, energies, formulas)
    found = held_out_errors(features, energies, formulas, [ridge], spread=spread)[ridge]
    careless = held_out_errors(features, energies, formulas, RIDGES[:4], spread=0.0)
    assert ridge in RIDGES and spread in SPREADS and found < min(careless.values())
    weights = careful_energies(labelled)
    place = neighbourhood(labelled[0].molecule)
    assert abs(place.energy_features() @ weights - labelled[0].energy) < 0.5


def test_counted_from_the_reference_energy_is_that_energy_and_the_same_response(labelled):
    prepared = [prepare_molecule(entry, ceiling=0.4) for entry in labelled]
    model = build(CONFIG, seed=1)
    model.stored.store(fit_channels(prepared, CONFIG.layout, floor=0.01))
    plain = assemble(CONFIG, model)
    weights = np.random.default_rng(0).standard_normal(ENERGY_FEATURES)
    energy, moved = (f.energy_of(labelled[2].molecule) for f in (plain, plain.on_reference_energy(weights)))
    z = 0.1 * np.random.default_rng(1).standard_normal(len(energy.constraint))
    nothing = np.zeros_like(z)
    wanted = energy.place.energy_features() @ weights
    assert abs(moved(nothing)[0] - wanted) < 1e-9
    assert abs((moved(z)[0] - moved(nothing)[0]) - (energy(z)[0] - energy(nothing)[0])) < 1e-9
    np.testing.assert_allclose(moved(z)[1], energy(z)[1], atol=1e-12)


def test_every_molecule_is_judged_by_a_training_that_has_not_met_it(folder, labelled, tmp_path):
    recipe = AttentionRecipe(
        data=AttentionData(folder=str(folder), energy_ridge=0.0),
        model=CONFIG,
        training=TrainConfig(total_steps=2, batch_pairs=60, precision="float32"),
    )
    sections = {name: to_dict(getattr(recipe, name)) for name in ("data", "model", "training")}
    write_yaml(tmp_path / "recipe.yaml", {"method": "ofdft_attention", **sections})
    plan = replace(study.PLAN, recipe=tmp_path / "recipe.yaml")
    rows = {
        arm: [study.rows_of_fold(arm, fold, labelled, runs=tmp_path / "runs", plan=plan) for fold in range(NUM_FOLDS)]
        for arm in ("full", "geometry", study.RESPONSE)
    }
    asked = [part[0]["formula"] for part in rows["full"]]
    assert sorted(asked) == sorted(entry.molecule.formula for entry in labelled)
    assert [row["start"] for row in rows["full"][0]] == list(study.FULL_STARTS)
    assert [row["start"] for row in rows["geometry"][0]] == ["geometry"]
    assert [row["start"] for row in rows[study.RESPONSE][0]] == ["MINAO", "reference", study.REFERENCE_ENERGY]
    assert {row["num_train"] for parts in rows.values() for part in parts for row in part} == {4}
    assert {row["energy"] for part in rows["full"] for row in part} == {entry.energy for entry in labelled}
    assert not list((tmp_path / "runs").glob("response_alone_*/weights.safetensors"))
    assert all(part[2]["after"] != part[0]["after"] for part in rows[study.RESPONSE])
    on_all = study.train_on_all(study.RESPONSE, runs=tmp_path / "runs", plan=plan)
    functional, plain = load(on_all), load(tmp_path / "runs" / "full_all")
    molecule = labelled[0].molecule
    energy = functional.energy_of(molecule)
    assert abs(energy(np.zeros(len(energy.constraint)))[0] - energy.reference_energy) < 1e-9
    assert functional.config.from_reference and not plain.config.from_reference
    np.testing.assert_allclose(plain.energy_of(molecule).lift, energy.lift, atol=1e-7)


def test_displaced_geometries_are_learned_from_and_asked_for(folder, labelled, tmp_path):
    """Ten geometries of five compositions: five as the study's molecules, five as its displaced ones."""
    moved = tmp_path / "moved"
    settings = LabelSettings(FrozenSampling(count=0), grid_level=0)
    generate("small", "train", range(10, 10 + NUM_FOLDS), moved, settings=settings)
    recipe = AttentionRecipe(
        data=AttentionData(folder=str(folder), energy_ridge=0.0),
        model=CONFIG,
        training=TrainConfig(total_steps=2, batch_pairs=60, precision="float32"),
    )
    sections = {name: to_dict(getattr(recipe, name)) for name in ("data", "model", "training")}
    write_yaml(tmp_path / "recipe.yaml", {"method": "ofdft_attention", **sections})
    changes = {"further": (str(moved),)}
    arms = {"full": {}, "geometry displaced": changes | study.NO_DENSITY, study.DISPLACED_RESPONSE: changes}
    plan = replace(study.PLAN, recipe=tmp_path / "recipe.yaml", arms=arms)
    further = load_folder(moved, "small", "train")
    found = {
        arm: study.rows_of_fold(arm, 0, molecules, runs=tmp_path / "runs", plan=plan)
        for arm, molecules in (("geometry displaced", labelled), (study.DISPLACED_RESPONSE, further))
    }
    assert {row["num_train"] for rows in found.values() for row in rows} == {8}
    assert [row["start"] for row in found["geometry displaced"]] == ["geometry"]
    starts = [row["start"] for row in found[study.DISPLACED_RESPONSE]]
    assert starts == ["MINAO", "reference", study.REFERENCE_ENERGY]
    weights = careful_energies(study.trained_on(study.fold_recipe(study.DISPLACED_RESPONSE, 0, plan=plan)))
    (left,) = of_fold(further, 0)
    wanted_error = 1e3 * (neighbourhood(left.molecule).energy_features() @ weights - left.energy)
    assert found[study.DISPLACED_RESPONSE][2]["after"] == pytest.approx(wanted_error, abs=1e-3)


def test_a_molecule_in_training_and_in_test_stops_the_study(folder, labelled, tmp_path, monkeypatch):
    """Folds come from the formulas that are there: a class with labels missing may be parted otherwise."""
    recipe = {"method": "ofdft_attention", "data": to_dict(AttentionData(folder=str(folder)))}
    write_yaml(tmp_path / "recipe.yaml", recipe)
    monkeypatch.setattr(study, "of_fold", lambda entries, fold: of_fold(entries, fold + 1))
    plan = replace(study.PLAN, recipe=tmp_path / "recipe.yaml")
    with pytest.raises(InvalidInput, match="is in training and in test"):
        study.rows_of_fold("full", 0, labelled, runs=tmp_path / "runs", plan=plan)
    assert not (tmp_path / "runs").exists()


def test_a_fold_that_is_none_is_refused(labelled, tmp_path):
    with pytest.raises(InvalidInput, match="folds are numbered"):
        study.rows_of_fold("full", 5, labelled, runs=tmp_path)
