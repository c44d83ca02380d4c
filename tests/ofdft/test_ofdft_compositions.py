"""Folds that share no composition, the ridge that left-out compositions ask for, and a study of five folds."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from molkit.config import to_dict
from molkit.data.qm9 import load_qm9
from molkit.errors import DataNotFound, InvalidInput
from molkit.figures import ofdft_folds as draw
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
    chosen_ridge,
    folds_by_composition,
    held_out_errors,
    of_fold,
    without_fold,
)
from molkit.ofdft.geometries import QM9_UP_TO_FIVE, geometry
from molkit.ofdft.label_files import LabelSettings, generate, load_folder
from molkit.ofdft.labels import FrozenSampling
from molkit.ofdft.predicted_start import fit_corrections
from molkit.studies import ofdft_folds as study
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
    assert chosen_ridge(features, linear, formulas) <= 1e-4
    noise = features[:, :5].sum(1) + random.standard_normal(60)
    assert chosen_ridge(features, noise, formulas) >= 1.0
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
    arms = {**study.PLAN.arms, "published energies": {}}
    plan = replace(study.PLAN, recipe=tmp_path / "recipe.yaml", arms=arms)
    wanted = [(arm, fold) for arm in ("full", "geometry", study.RESPONSE) for fold in range(NUM_FOLDS)] + [
        ("published energies", 0)
    ]
    said: list[str] = []
    found = study.run_study(wanted, runs=tmp_path / "runs", labelled=labelled, plan=plan, report=said.append)
    assert sorted(found.column("full", "formulas")) == sorted(entry.molecule.formula for entry in labelled)
    assert found.arms == ["full", "geometry", study.RESPONSE] and len(said) == 16
    assert found.starts("full") == list(study.FULL_STARTS)
    assert found.errors("full").shape == (NUM_FOLDS,) and np.isfinite(found.errors("full")).all()
    assert {run.num_train for run in found.runs} == {4}
    assert not list((tmp_path / "runs").glob("response_alone_*/weights.safetensors"))
    alone = found.errors(study.RESPONSE, study.REFERENCE_ENERGY)
    assert alone.shape == (NUM_FOLDS,) and np.abs(alone - found.errors(study.RESPONSE)).max() > 0.0
    study.write_study(found, tmp_path / "study.json")
    assert study.stored_study(tmp_path / "study.json").runs[0].names == found.runs[0].names
    drawn = draw.folds_table(found).data, draw.worst_table(found, 2).data
    assert "5 molecules of 5 compositions" in drawn[0] and drawn[1].count("<tr>") == 3
    assert len(draw.folds_figure(found).axes) == 2
    on_all = study.train_on_all(study.RESPONSE, tmp_path / "runs", plan=plan)
    functional, plain = load(on_all), load(tmp_path / "runs" / "full_all")
    molecule = labelled[0].molecule
    energy = functional.energy_of(molecule)
    assert abs(energy(np.zeros(len(energy.constraint)))[0] - energy.reference_energy) < 1e-9
    assert functional.config.from_reference and not plain.config.from_reference
    np.testing.assert_allclose(plain.energy_of(molecule).lift, energy.lift, atol=1e-7)
    before = (tmp_path / "runs" / "full_0" / "weights.safetensors").stat().st_mtime_ns
    study.run_study([("full", 0)], runs=tmp_path / "runs", labelled=labelled, plan=plan)
    assert (tmp_path / "runs" / "full_0" / "weights.safetensors").stat().st_mtime_ns == before


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
    changes = {"further": (str(moved),), "predicts_start": True}
    arms = {"full": {}, "displaced": changes, study.DISPLACED_RESPONSE: {}}
    plan = replace(study.PLAN, recipe=tmp_path / "recipe.yaml", arms=arms)
    further = load_folder(moved, "small", "train")
    wanted = [(arm, fold) for arm in ("displaced", study.DISPLACED_RESPONSE) for fold in range(NUM_FOLDS)]
    found = study.run_study(wanted, runs=tmp_path / "runs", labelled=labelled, displaced=further, plan=plan)
    assert found.arms == found.arms_at("displaced") == ["displaced", study.DISPLACED_RESPONSE]
    assert {run.num_train for run in found.runs} == {8} and found.starts("displaced") == ["MINAO"]
    resting, asked = (found.errors("displaced", where=where) for where in ("resting", "displaced"))
    assert resting.shape == asked.shape == (NUM_FOLDS,) and not np.array_equal(resting, asked)
    assert found.starts(study.DISPLACED_RESPONSE) == [*study.DISPLACED_STARTS, study.REFERENCE_ENERGY]
    assert (
        "predicted</th>" in draw.starts_table(found).data
        and "displaced" in draw.folds_table(found, where="displaced").data
    )
    alone = found.errors(study.DISPLACED_RESPONSE, study.REFERENCE_ENERGY, where="displaced")
    weights = careful_energies(study.trained_on(study.fold_recipe("displaced", 0, plan=plan)))
    (left,) = of_fold(further, 0)
    wanted_error = 1e3 * (neighbourhood(left.molecule).energy_features() @ weights - left.energy)
    assert alone[0] == pytest.approx(wanted_error, abs=1e-3)
    study.write_study(found, tmp_path / "study.json")
    earlier = study.stored_study(tmp_path / "study.json")
    anew = study.run_study(wanted[:1], runs=tmp_path / "runs", labelled=labelled, plan=plan)
    joined = study.with_earlier(anew, earlier)
    assert len(joined.runs) == len(found.runs) and joined.runs[-1] == anew.runs[0]
    assert joined.stamp["earlier"] == [found.stamp]


def test_a_molecule_in_training_and_in_test_stops_the_study(folder, labelled, tmp_path, monkeypatch):
    """Folds come from the formulas that are there: a class with labels missing may be parted otherwise."""
    recipe = {"method": "ofdft_attention", "data": to_dict(AttentionData(folder=str(folder)))}
    write_yaml(tmp_path / "recipe.yaml", recipe)
    monkeypatch.setattr(study, "of_fold", lambda entries, fold: of_fold(entries, fold + 1))
    plan = replace(study.PLAN, recipe=tmp_path / "recipe.yaml")
    with pytest.raises(InvalidInput, match="is in training and in test"):
        study.run_fold("full", 0, runs=tmp_path / "runs", labelled=labelled, plan=plan)
    assert not (tmp_path / "runs").exists()


def test_a_predicted_density_turns_with_the_molecule_and_is_refused_where_none_was_fitted(labelled):
    prepared = [prepare_molecule(entry, ceiling=0.4) for entry in labelled]
    reduction = fit_channels(prepared, CONFIG.layout, floor=0.01)
    config = replace(CONFIG, predicts_start=True)
    model = build(config, seed=1)
    model.stored.store(fit_corrections(reduction, prepared))
    functional, entry = assemble(config, model), labelled[1]
    energy = functional.energy_of(entry.molecule)
    ground = energy.reduce(entry.labels.coefficients[entry.ground_state])
    guess = energy.reduce(entry.guess)
    assert np.linalg.norm(energy.predicted() - ground) < 0.1 * np.linalg.norm(guess - ground)
    turned = replace(entry.molecule, positions=entry.molecule.positions @ ROTATION.T)
    moved = functional.energy_of(turned)
    assert abs(moved(moved.predicted())[0] - energy(energy.predicted())[0]) < 1e-7
    plain = build(CONFIG, seed=1)
    plain.stored.store(reduction)
    with pytest.raises(InvalidInput, match="predict no density"):
        assemble(CONFIG, plain).energy_of(entry.molecule).predicted()


def test_features_scaled_by_their_small_spread_ruin_unseen_compositions():
    """Energies of pairs alone, so that a good fit exists; the smallest forty molecules."""
    molecules = {f"up_to_five-{k}": geometry("up_to_five", "train", k) for k in range(40)}
    energies = {
        name: -float(sum(m.atomic_numbers) + 0.1 * np.exp(-distances(m.positions)).sum())
        for name, m in molecules.items()
    }
    careless, careful = study.energy_fits(energies, ridges=(1e-6,))
    assert (careless.spread, careful.spread) == (0.0, 0.1)
    assert careful.unseen.value < 20.0 < 10.0 * careful.unseen.value < careless.unseen.value
    assert max(careless.fitted, careful.fitted) < careful.unseen.value
    assert "at least 0.1" in draw.fits_table([careless, careful]).data


def distances(positions):
    """Of all pairs of different atoms, [A, A - 1]."""
    apart = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    return apart[~np.eye(len(apart), dtype=bool)].reshape(len(apart), -1)


def test_bad_folds_and_files_are_said(tmp_path):
    with pytest.raises(InvalidInput, match="folds are numbered"):
        study.fold_recipe("full", 5)
    with pytest.raises(DataNotFound, match="ofdft-folds"):
        study.stored_study(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InvalidInput, match="not a study of folds"):
        study.stored_study(tmp_path / "bad.json")
