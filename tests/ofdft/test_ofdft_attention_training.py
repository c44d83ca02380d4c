"""The attention functional from labels to weights, files and minimisation, on two diatomic molecules."""

import numpy as np
import pytest
import torch

from molkit.config import to_dict
from molkit.data.md17 import load_rmd17
from molkit.errors import InvalidInput, RunError
from molkit.molecule import Molecule
from molkit.ofdft import compact
from molkit.ofdft.attention import AttentionConfig
from molkit.ofdft.attention_functional import load, publication, save
from molkit.ofdft.attention_training import (
    AttentionData,
    AttentionRecipe,
    channel_samples,
    prepare,
    published_surface,
    read_attention_recipe,
    train_attention,
)
from molkit.ofdft.channels import (
    ENERGY_FEATURES,
    fit_channels,
    neighbourhood,
    prepare_molecule,
    ridge_energies,
)
from molkit.ofdft.compositions import held_out_errors
from molkit.ofdft.density import density_of, load_functional
from molkit.ofdft.label_files import LabelSettings, generate, load_folder
from molkit.ofdft.labels import FrozenSampling
from molkit.studies.ofdft import arms as study
from molkit.studies.ofdft.several_compositions import PLAN
from molkit.training.config import TrainConfig
from molkit.training.files import write_yaml
from molkit.training.publishing import publish
from molkit.units import HARTREE_TO_KCAL

CONFIG = AttentionConfig(counts=(4, 3, 2), width=8, num_layers=1, num_heads=2, num_gaussians=4)
SETTINGS = LabelSettings(FrozenSampling(count=4, scale=(0.003, 0.1)), grid_level=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Labels of the first methane, ammonia and water of the class."""
    found = tmp_path_factory.mktemp("labels")
    generate("small", "train", range(3), found, settings=SETTINGS)
    return found


@pytest.fixture(scope="module")
def labelled(folder):
    return load_folder(folder, "small", "train")


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    training = TrainConfig(
        total_steps=6, batch_pairs=60, warmup_steps=1, precision="float32", ema_decay=0.5, snapshot_from=3
    )
    train_attention(AttentionRecipe(data=AttentionData(folder=str(folder)), model=CONFIG, training=training), out=out)
    return out


def test_labels_in_channels_are_values_and_slopes_of_one_function(labelled):
    """The trapezoid rule between the last Kohn-Sham steps gives the change of the value."""
    data = AttentionData()
    molecules = [prepare_molecule(entry, ceiling=data.ceiling) for entry in labelled]
    wide = AttentionConfig(counts=(11, 8, 7, 4, 2))
    samples = channel_samples(fit_channels(molecules, wide.layout, floor=data.floor), molecules)
    rows = np.flatnonzero((samples.molecule == 2) & (np.concatenate([m.sources for m in molecules]) == 0))
    near = rows[np.argsort(samples.excess[rows])][1:4]
    for a, b in zip(near, near[1:], strict=False):
        change = samples.energy[b] - samples.energy[a]
        slope = 0.5 * ((samples.gradient[a] + samples.gradient[b]) * (samples.z[b] - samples.z[a])).sum()
        assert abs(slope - change) < 0.05 * abs(change) + 1e-6


def test_the_quadratic_form_begins_with_that_of_the_labels(labelled):
    errors = []
    for gradient_weight in (1.0, 0.0):
        task, model = prepare(CONFIG, AttentionData(gradient_weight=gradient_weight), labelled, seed=0)
        _, terms = task.loss(model, torch.arange(len(task.z)), generator=torch.Generator())
        errors.append(float(terms["gradient_error"]))
    assert errors[0] < errors[1]


def test_ablations_leave_samples_out(labelled):
    counts = {}
    for samples in ("all", "steps", "geometry"):
        task, _ = prepare(CONFIG, AttentionData(samples=samples, gradient_weight=0.0), labelled, seed=0)
        counts[samples] = len(task.z)
        if samples == "geometry":
            assert float(task.z.abs().max()) == 0.0
    assert counts["all"] > counts["steps"] > counts["geometry"] == 3


def test_a_run_is_loaded_published_and_minimised(run, labelled, tmp_path):
    functional = load(run)
    entry = labelled[2]
    found = study.minimised(functional.energy_of(entry.molecule), entry, "MINAO")
    assert abs(found["electrons"]) < 1e-6 and np.isfinite(found["after"])
    again = load(publish(publication(run / "snapshots" / "step_00000003"), "tiny", root=tmp_path))
    energy = again.energy_of(entry.molecule)
    start = energy.on_constraint(np.zeros(len(energy.constraint)))
    assert np.isfinite(energy(start)[0]) and "Others are refused" in (tmp_path / "tiny" / "card.md").read_text()
    assert sorted(study.snapshots_of(run)) == [3, 6]


def test_gradients_of_the_whole_energy_agree_with_finite_differences(run, labelled):
    energy = load(run).energy_of(labelled[1].molecule)
    random = np.random.default_rng(0)
    z, direction = 0.1 * random.standard_normal((2, len(energy.constraint)))
    slope = energy(z)[1] @ direction
    ends = [energy(z + sign * 1e-4 * direction)[0] for sign in (1, -1)]
    assert abs((ends[0] - ends[1]) / 2e-4 / slope - 1.0) < 1e-5


def test_channels_that_an_element_lacks_say_nothing(run, labelled):
    energy = load(run).energy_of(labelled[2].molecule)
    lacking = np.flatnonzero(np.abs(energy.lift).sum(0) == 0.0)
    z = np.zeros(len(energy.constraint))
    z[lacking] = 0.3
    value, slope = energy(z)
    assert len(lacking) and value == energy(np.zeros_like(z))[0] and not slope[lacking].any()


def test_without_gradient_labels_the_loss_is_that_of_values(labelled):
    task, model = prepare(CONFIG, AttentionData(gradient_weight=0.0), labelled, seed=0)
    loss, terms = task.loss(model, torch.arange(len(task.z)), generator=torch.Generator())
    loss.backward()
    assert (
        float(loss.detach()) == pytest.approx(float(terms["value_error"])) and not terms["gradient_error"].requires_grad
    )


def test_the_energy_of_a_turned_molecule_is_the_same(run, labelled):
    functional, entry = load(run), labelled[0]
    turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))
    moved = Molecule(entry.molecule.atomic_numbers, entry.molecule.positions @ turn.T, name="turned")
    values = []
    for molecule in (entry.molecule, moved):
        energy = functional.energy_of(molecule)
        values.append(energy(energy.on_constraint(np.zeros(len(energy.constraint))))[0])
    assert abs(values[0] - values[1]) < 1e-6


def test_a_users_molecule_is_served_or_refused(run, labelled):
    functional = load_functional(run)
    found = density_of(labelled[2].molecule, functional, start="reference")
    assert abs(found.num_electrons - 10.0) < 1e-6 and abs(found.charges.sum()) < 1e-5
    far = Molecule(np.array([6, 6, 6, 6, 1, 1]), 3.0 * np.arange(18.0).reshape(6, 3), name="C4H2")
    with pytest.raises(InvalidInput, match="this functional is for CH4"):
        density_of(far, functional)
    with pytest.raises(InvalidInput, match="minao, huckel, reference"):
        density_of(labelled[2].molecule, functional, start="mean")
    with pytest.raises(InvalidInput, match="not a compact"):
        compact.load(run)


def test_an_arm_is_trained_chosen_by_validation_and_asked_for_every_molecule_from_every_start(
    folder, labelled, tmp_path
):
    training = TrainConfig(total_steps=6, batch_pairs=60, precision="float32", snapshot_from=2)
    recipe = AttentionRecipe(data=AttentionData(folder=str(folder)), model=CONFIG, training=training)
    sections = {name: to_dict(getattr(recipe, name)) for name in ("data", "model", "training")}
    write_yaml(tmp_path / "recipe.yaml", {"method": "ofdft_attention", **sections})
    plan = study.Plan(tmp_path / "recipe.yaml", {"full": {}}, other_starts=("MINAO",))
    sets = {"test": labelled[:2], "larger": labelled[2:]}
    rows = study.rows_of_arm(plan, "full", 0, runs=tmp_path, valid=labelled[:1], sets=sets)
    judged, asked = ([row for row in rows if (row["set"] == "valid") == flag] for flag in (True, False))
    (chosen,) = [row for row in judged if row["chosen"]]
    assert chosen["error"] == min(row["error"] for row in judged) and {row["step"] for row in judged} == {2, 4, 6}
    wanted = [(name, entry.molecule.name, start) for name in sets for entry in sets[name] for start in study.STARTS]
    assert [(row["set"], row["molecule"], row["start"]) for row in asked] == wanted
    weights = study.snapshots_of(tmp_path / "full_0")[chosen["step"]]
    assert (
        asked[2]["after"]
        == study.minimised(load(weights).energy_of(labelled[0].molecule), labelled[0], "MINAO")["after"]
    )


def test_recipes_and_arms_are_read_strictly(tmp_path):
    assert study.arm_recipe("geometry", seed=1, plan=PLAN).data.samples == "geometry"
    with pytest.raises(InvalidInput, match="arms are"):
        study.arm_recipe("nothing", seed=0, plan=PLAN)
    (tmp_path / "a.yaml").write_text("method: ofdft_attention\nextra: {}\n")
    with pytest.raises(InvalidInput, match="unknown section"):
        read_attention_recipe(tmp_path / "a.yaml")
    with pytest.raises(InvalidInput, match="positive"):
        AttentionData(floor=0.0)


def test_a_restrained_reference_energy_is_worse_where_it_was_fitted_and_better_where_not(labelled):
    """Methane, ammonia and water: with hydrogen in all, no composition can be held out without losing its element."""
    molecules = [prepare_molecule(entry, ceiling=0.4, roots="atoms") for entry in labelled]
    features = np.stack([m.place.energy_features() for m in molecules])
    energies = np.array([m.entry.energy for m in molecules])
    free, tied = (ridge_energies(features, energies, ridge) for ridge in (1e-6, 1e6))
    assert np.abs(tied[5:]).max() < 1e-3 * np.abs(free[5:]).max()
    assert np.abs(tied[:5]).max() > 1.0
    with pytest.raises(InvalidInput, match="element to itself"):
        held_out_errors(features, np.zeros(3), ["CH4", "H3N", "H2O"], (1.0,))


def test_atom_roots_are_trained_stored_and_asked(labelled, tmp_path):
    config = AttentionConfig(counts=(4, 3, 2), width=8, num_layers=1, num_heads=2, num_gaussians=4, roots="atoms")
    task, model = prepare(config, AttentionData(energy_ridge=1e6), labelled, seed=0)
    save(tmp_path, task.config, model)
    energy = load(tmp_path).energy_of(labelled[2].molecule)
    assert np.abs(energy.to_natural[:116, 116:]).max() == 0.0
    assert np.isfinite(energy(np.zeros(len(energy.constraint)))[0])
    with pytest.raises(InvalidInput, match="molecule or atoms"):
        AttentionConfig(roots="none")


def test_an_arm_is_trained_to_a_snapshot_and_not_again(folder, tmp_path, monkeypatch):
    recipe = AttentionRecipe(
        data=AttentionData(folder=str(folder)),
        model=CONFIG,
        training=TrainConfig(total_steps=50, batch_pairs=60, precision="float32", ema_decay=0.5, snapshot_from=2),
    )
    study.train_arm(recipe, tmp_path / "run", 4)
    assert sorted(study.snapshots_of(tmp_path / "run", 4)) == [2, 4]
    monkeypatch.setattr(study, "train_attention", None)
    study.train_arm(recipe, tmp_path / "run", 4)
    assert sorted(study.snapshots_of(tmp_path / "run", 3)) == [2]


def test_a_step_without_a_snapshot_is_said(folder, tmp_path):
    training = TrainConfig(total_steps=4, batch_pairs=60, precision="float32", snapshot_from=2)
    recipe = AttentionRecipe(data=AttentionData(folder=str(folder)), model=CONFIG, training=training)
    with pytest.raises(RunError, match="no snapshot of step 3"):
        study.train_arm(recipe, tmp_path / "run", 3)


def test_a_restraint_draws_the_reference_energy_towards_its_prior():
    random = np.random.default_rng(0)
    features, prior = random.standard_normal((40, ENERGY_FEATURES)), random.standard_normal(ENERGY_FEATURES)
    energies = features @ prior
    assert np.abs(features @ ridge_energies(features, energies, 1e8, prior) - energies).max() < 1e-6
    assert np.abs(features @ ridge_energies(features, energies, 1e8) - energies).max() > 1.0
    assert np.abs(features @ ridge_energies(features, energies + 1.0, 1e-9, prior) - energies - 1.0).max() < 1e-4


def test_water_has_no_published_energies():
    with pytest.raises(InvalidInput, match="published for ethanol; got 'water'"):
        published_surface("water")


def test_published_energies_of_frames_that_were_not_fitted_are_close():
    """Below one kcal/mol on the hundred frames that serve for validation, whose spread is four."""
    frames, weights = load_rmd17("ethanol", split="train"), published_surface("ethanol")
    features = np.stack([neighbourhood(frames.molecule(k)).energy_features() for k in range(900, 1000)])
    wrong = features @ weights * HARTREE_TO_KCAL - frames.energies[900:]
    assert np.abs(wrong).mean() < 1.0 < frames.energies[900:].std()


def test_a_rare_feature_scaled_by_its_small_spread_ruins_molecules_that_have_more_of_it():
    """One feature differs by 1e-6 among the training molecules and by 1 in the one that is asked."""
    random = np.random.default_rng(3)
    features, asked = np.zeros((20, ENERGY_FEATURES)), np.zeros(ENERGY_FEATURES)
    features[:, :5] = random.integers(1, 5, (20, 5))
    features[:, 7] = 1e-6 * random.random(20)
    asked[:5], asked[7] = 2.0, 1.0
    energies = features[:, :5].sum(1) + 1e-3 * random.standard_normal(20)
    free, held = (float(asked @ ridge_energies(features, energies, 1e-4, spread=s)) for s in (0.0, 0.1))
    assert abs(held - 10.0) < 0.1 < 10.0 < abs(free - 10.0)
