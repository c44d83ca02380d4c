import json
from pathlib import Path

import numpy as np
import pytest
import torch

from molkit import cli
from molkit.data.drug_size import load_drug_size, size_histogram
from molkit.data.packed import write_packed
from molkit.edm.config import EdmConfig
from molkit.edm.features import decode, encode
from molkit.edm.model import build, save
from molkit.edm.recipes import read_recipe
from molkit.errors import InvalidInput
from molkit.figures import edm_drug_size as draw
from molkit.metrics.stability import stability
from molkit.molecule import PackedMolecules
from molkit.studies import edm_card
from molkit.studies import edm_drug_size as study

FACTS = {"step": 10, "passes": 100, "epochs": 0.02, "seconds": 60.0, "processes": 1, "device": "cpu (test)"}
SAMPLES = {"sample_calls": 10, "sample_seed": 0, "samples_requested": 13}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Published weights of a tiny network, whose 'samples' are twelve held-back molecules; one chain failed."""
    folder = tmp_path_factory.mktemp("weights") / "toy_drug"
    folder.mkdir()
    train = load_drug_size(split="train").molecules
    config = EdmConfig(
        width=16,
        num_layers=1,
        message_scale=30.0,
        atomic_number_channel=False,
        elements=(1, 6, 7, 8, 9, 15, 16, 17, 35, 53),
        sizes=size_histogram(train),
    )
    save(build(config), folder)
    write_packed(folder / "samples.npz", load_drug_size(split="test", limit=12).molecules)
    (folder / "training.json").write_text(json.dumps(FACTS | SAMPLES))
    (folder / "metrics.jsonl").write_text('{"passes": 50, "noise_error": 1.0, "seconds": 1.0}\n')
    (folder / "provenance.jsonl").write_text('{"step": 0, "date": "2026-11-21", "processes": 1}\n')
    return str(folder)


@pytest.fixture(scope="module")
def sets(weights):
    return study.score_sets(weights, num_data=24, num_samples=0, num_untrained=2, seed=0)


def named(sets, label):
    return next(one for one in sets if one.label == label)


def test_every_element_of_the_recipe_is_decoded_the_last_one_included():
    """Without a channel for the atomic number the authors' decoder drops the last class: iodine here."""
    config = read_recipe(Path("edm_drug_cpu")).model
    assert config.elements[-1] == 53
    numbers = torch.tensor(config.elements)
    state = encode(config, numbers, torch.zeros(len(numbers), 3))
    assert state.features.shape[1] == len(numbers)
    assert decode(config, state)[0].tolist() == list(config.elements)


def test_the_rows_tell_good_geometries_from_blurred_and_untrained_ones(sets):
    data, blur = named(sets, study.HELD_BACK), named(sets, study.BLURRED)
    noise = named(sets, study.UNTRAINED)
    assert data.atoms_stable.value > 0.7 > blur.atoms_stable.value > noise.atoms_stable.value == 0.0
    assert data.perceived.value > 0.7 and noise.perceived.value == 0.0
    assert noise.single_bond_valid.value == 1.0  # why validity with single bonds alone says little
    assert noise.molecules_stable.high > 0.5  # two molecules are no proof of zero
    assert data.largest_share.value > 0.9 > noise.largest_share.value


def test_a_failed_chain_counts_as_a_molecule_without_a_stable_atom(sets, weights):
    ours = named(sets, study.OURS)
    kept = load_drug_size(split="test", limit=12).molecules
    stable = stability(kept, rule="geom")
    assert ours.num_molecules == 13
    lost = stable.num_atoms.mean()
    assert ours.atoms_stable.value == pytest.approx(stable.stable_atoms.sum() / (stable.num_atoms.sum() + lost))
    assert ours.one_piece.value <= 12 / 13


def test_the_zero_row_of_the_energies_is_not_zero_and_the_blur_is_far_above_it(sets):
    rows = {row.label: row for row in study.energy_table(sets, num_resamples=50, seed=0)}
    assert rows[study.HELD_BACK].distance is None
    assert rows[study.UNTRAINED].distance is None and rows[study.UNTRAINED].num_energies == 0
    assert sum(rows[study.UNTRAINED].failures.values()) == 2
    assert rows[study.BLURRED].distance.low > rows[study.BLURRED].null.high > 0.0


def test_the_bound_leaves_out_sizes_that_training_never_saw_and_says_so(weights):
    rows = {row.split: row for row in study.bounds(weights, num_molecules=0, draws=1, seed=0)}
    assert rows["test"].num_molecules + rows["test"].unseen_sizes == 179 and rows["test"].unseen_sizes == 3
    assert rows["train"].unseen_sizes == 0 and rows["train"].num_molecules == 179
    assert all(np.isfinite(row.per_atom.value) for row in rows.values())


def test_conformers_of_one_molecule_are_not_counted_as_independent():
    """The same ten flags, each repeated ten times: the interval stays that of ten molecules."""
    flags = np.repeat(np.arange(10) % 2 == 0, 10).astype(float)
    grouped = study._share(flags, np.repeat(np.arange(10), 10))
    assert grouped.value == 0.5 and grouped.high - grouped.low > 0.5
    nothing = study._share(np.zeros(100), np.repeat(np.arange(10), 10))
    assert nothing.value == 0.0 and nothing.high == pytest.approx(0.2775, abs=1e-3)  # Wilson, 0 of 10


def test_sizes_are_binned_without_losing_a_molecule(weights):
    bins = study.stability_by_size(weights, num_data=0)
    assert sum(bins.counts[study.HELD_BACK]) == 829 and sum(bins.counts[study.OURS]) == 12
    assert len(bins.labels) == len(bins.shares[study.OURS])


def test_a_blur_moves_coordinates_by_a_tenth_of_an_angstrom_and_nothing_else():
    data = load_drug_size(split="test", limit=40)
    moved = study.blurred(data, seed=0)
    assert isinstance(moved, PackedMolecules)
    assert (moved.positions - data.molecules.positions).std() == pytest.approx(0.1, rel=0.03)
    np.testing.assert_array_equal(moved.atomic_numbers, data.molecules.atomic_numbers)


def test_film_live_draw_tables_figures_and_card(weights, sets, monkeypatch):
    film = study.film(weights, num_atoms=12, num_calls=5, num_frames=4, seed=0)
    assert film.frames[0].shape == (12, 3) and len(film.steps) == len(film.sigma)
    live = study.live_draw(weights, num_molecules=2, num_calls=4, seed=0)
    assert live.requested == 2 and live.milliseconds_a_call > 0.0
    assert "drug-size set" in draw.split_table(study.split_facts()).data
    assert "[" in draw.score_table(sets, model="toy").data and "GEOM-Drugs" in draw.score_table(sets, model="toy").data
    assert len(draw.energies(sets).axes[0].patches) >= 3
    assert draw.composition(study.compositions(weights)).axes[0].get_yscale() == "log"
    assert study.is_for(weights) and not study.is_for("edm_qm9")
    for name, count in (("DRUG_DATA", 20), ("DRUG_UNTRAINED", 2), ("DRUG_BOUND", 4)):
        monkeypatch.setattr(edm_card, name, count)
    text = edm_card.publish_card(weights).read_text()
    assert "not GEOM-Drugs" in text and "Known limits" in text and " nan" not in text


def test_evaluate_measures_drug_size_weights_against_their_own_set(weights, tmp_path, capsys, monkeypatch):
    whole = study.load_drug_size
    monkeypatch.setattr(study, "load_drug_size", lambda **choice: whole(**{"limit": 30} | choice))
    assert cli.run(["evaluate", weights, "--nll-molecules", "3"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["samples"]["molecules"] == 13 and report["energies_kcal"]["num_molecules"] == 13
    assert 0.6 < report["data"]["atoms_stable"]["value"] < 1.0
    assert [row["split"] for row in report["nll_nats"]] == ["train", "valid", "test"]
    with pytest.raises(InvalidInput, match="expected a packed"):
        study.evaluate_weights(weights, samples=tmp_path / "samples.xyz")
