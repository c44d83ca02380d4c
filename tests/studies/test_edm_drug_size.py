import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from molkit import cli
from molkit.data.drug_size import load_drug_size, size_histogram
from molkit.data.packed import write_packed
from molkit.edm.config import EdmConfig
from molkit.edm.features import decode, encode
from molkit.edm.model import build, save
from molkit.edm.training import read_recipe
from molkit.errors import InvalidInput
from molkit.metrics.energies import FAILURES
from molkit.metrics.stability import stability
from molkit.metrics.statistics import proportion_interval
from molkit.studies import edm_card
from molkit.studies.edm import drug_size as page

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
def rows(weights):
    return page.computed(page.tasks(weights=weights, num_data=24, num_untrained=2))


def test_every_element_of_the_recipe_is_decoded_the_last_one_included():
    """Without a channel for the atomic number the authors' decoder drops the last class: iodine here."""
    config = read_recipe(Path("edm_drug_cpu")).model
    assert config.elements[-1] == 53
    numbers = torch.tensor(config.elements)
    state = encode(config, numbers, torch.zeros(len(numbers), 3))
    assert state.features.shape[1] == len(numbers)
    assert decode(config, state)[0].tolist() == list(config.elements)


def test_the_rows_tell_good_geometries_from_blurred_and_untrained_ones(rows):
    found = page.scores(rows).set_index("data")
    data, blur, noise = (found.loc[name] for name in (page.HELD_BACK, page.BLURRED, page.UNTRAINED))
    assert data.atoms_stable.value > 0.7 > blur.atoms_stable.value > noise.atoms_stable.value == 0.0
    assert data.perceived.value > 0.7 and noise.perceived.value == 0.0
    assert noise.single_bond_valid.value == 1.0  # why validity with single bonds alone says little
    assert noise.molecules_stable.high > 0.5  # two molecules are no proof of zero
    assert data.largest_share.value > 0.9 > noise.largest_share.value


def test_tasks_cover_every_set_once_and_its_failed_chains(weights):
    asked = page.tasks(weights=weights, num_data=120, num_untrained=3)
    counts = {data: sum(t.count for t in asked if t.data == data) for data in dict.fromkeys(t.data for t in asked)}
    assert counts == {page.TRAINED_ON: 120, page.HELD_BACK: 120, page.BLURRED: 120, page.UNTRAINED: 3, page.OURS: 13}
    assert all(t.weights == (weights if t.data in (page.OURS, page.UNTRAINED) else "") for t in asked)


def test_a_failed_chain_counts_as_a_molecule_without_a_stable_atom(rows):
    ours = page.scores(rows).set_index("data").loc[page.OURS]
    kept = load_drug_size(split="test", limit=12).molecules
    stable = stability(kept, rule="geom")
    assert ours.n == 13
    lost = round(stable.num_atoms.mean())
    assert ours.atoms_stable.value == pytest.approx(stable.stable_atoms.sum() / (stable.num_atoms.sum() + lost))
    assert ours.one_piece.value <= 12 / 13


def test_the_zero_row_of_the_energies_is_not_zero_and_the_blur_is_far_above_it(rows):
    found = page.energy_table(rows, num_resamples=50, seed=0).set_index("data")
    untrained, blurred = found.loc[page.UNTRAINED], found.loc[page.BLURRED]
    assert found.loc[page.HELD_BACK].distance is None
    assert untrained.distance is None and untrained.num_energies == 0
    assert sum(int(untrained[word]) for word in FAILURES) == 2
    assert blurred.distance.low > blurred.null.high > 0.0
    assert found.loc[page.OURS, "not finite"] == "1"  # the chain that failed


def made() -> pd.DataFrame:
    """Two sets of eight and four geometries, two conformers a molecule in the first; energies 0 to 7 and 10 to 13."""
    lines = []
    for data, count, first in ((page.HELD_BACK, 8, 0.0), (page.OURS, 4, 10.0)):
        for k in range(count):
            lines.append(
                {"data": data, "entry": k // 2 if data == page.HELD_BACK else None, "num_atoms": 20 + 40 * (k % 2)}
                | {"stable_atoms": 10, "stable": k < 2, "single_bond_valid": k < 3, "perceived": k < 4}
                | {"one_piece": k < 1, "largest_share": 0.5, "energy": first + k, "failure": None}
            )
    return pd.DataFrame(lines)


def test_cells_are_those_of_the_rows():
    paper, _, data, ours = page.scores(made(), published=True).to_dict("records")
    assert paper["atoms_stable"] == 0.813 and paper["single_bond_valid"] == 0.926 and pd.isna(paper["perceived"])
    assert [ours[name].value for name in page.SHARES] == [10 / 40, 0.5, 0.75, 1.0, 0.25, 0.5]
    assert ours["single_bond_valid"] == proportion_interval(3, 4)
    assert [data[name].value for name in page.SHARES] == [10 / 40, 0.25, 3 / 8, 0.5, 1 / 8, 0.5]
    heads = [getattr(column, "head", column) for column in page.SCORES.values()]
    assert heads[2:6] == ["atoms stable", "molecules stable", "valid, bonds single", "bonds perceived"]


def test_points_of_the_sizes_and_bars_of_the_energies_are_the_rows():
    data, ours = page.draw_stability_by_size(made()).axes[0].containers
    assert (data.get_label(), ours.get_label()) == (page.HELD_BACK, page.OURS)
    assert data.lines[0].get_xydata() == pytest.approx(np.array([[0.0, 50.0], [4.0, 100 / 6]]))
    assert ours.lines[0].get_xydata() == pytest.approx(np.array([[0.08, 50.0], [4.08, 100 / 6]]))
    (axes,) = page.draw_energies(made().assign(energy=[*range(8), 3.0, 4.0, 5.0, 999.0])).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert f"{page.OURS} (n = 4, 1 outside)" in labels and f"{page.HELD_BACK} (n = 8, 0 outside)" in labels


def test_the_bound_leaves_out_sizes_that_training_never_saw_and_says_so(weights):
    lines = page.computed(page.tasks_bound(weights=weights, draws=1), page.measure_bound)
    found = page.bounds(lines).set_index("split")
    assert found.loc["test", "n"] + found.loc["test", "unseen"] == 179 and found.loc["test", "unseen"] == 3
    assert found.loc["train", "unseen"] == 0 and found.loc["train", "n"] == 179
    assert all(np.isfinite(one.value) for one in found["per_atom"])
    table = page.bounds(pd.DataFrame({"split": "test", "num_atoms": [10, 30, 5], "nats": [5.0, 15.0, None]}))
    assert table.iloc[0]["per_molecule"].value == 10.0 and table.iloc[0]["per_atom"].value == 0.5


def test_conformers_of_one_molecule_are_not_counted_as_independent():
    """The same ten flags, each repeated ten times: the interval stays that of ten molecules."""
    flags, entries = np.repeat(np.arange(10) % 2 == 0, 10).astype(float), pd.Series(np.repeat(np.arange(10), 10))
    grouped = page.ratio(flags, np.ones(100), entries)
    assert grouped.value == 0.5 and grouped.high - grouped.low > 0.5
    nothing = page.ratio(np.zeros(100), np.ones(100), entries)
    assert nothing.value == 0.0 and nothing.high == pytest.approx(0.2775, abs=1e-3)  # Wilson, 0 of 10


def test_a_blur_moves_coordinates_by_a_tenth_of_an_angstrom_and_nothing_else():
    molecules = load_drug_size(split="test", limit=40).molecules
    moved = page.blurred(molecules, page.Task(page.BLURRED, "", 0, 40, 40, 0))
    assert (moved.positions - molecules.positions).std() == pytest.approx(0.1, rel=0.03)
    np.testing.assert_array_equal(moved.atomic_numbers, molecules.atomic_numbers)


def test_pictures_and_card(weights, monkeypatch):
    assert "frames" in page.film(weights, num_atoms=12, num_calls=5, num_frames=4, seed=0).data
    assert "All 2 molecules" in page.live_gallery(weights, num_molecules=2, num_calls=4, seed=0).data
    facts = page.split_facts().set_index("split")
    assert facts["geometries"].sum() == 7840 and facts.loc["train", "molecules"] == 1427
    (axes,) = page.draw_composition(weights).axes
    assert axes.get_yscale() == "log" and axes.get_xticklabels()[0].get_text() == "H"
    assert page.is_for(weights) and not page.is_for("edm_qm9")
    for name, count in (("DRUG_DATA", 20), ("DRUG_UNTRAINED", 2), ("DRUG_BOUND", 4)):
        monkeypatch.setattr(edm_card, name, count)
    text = edm_card.publish_card(weights).read_text()
    assert "not GEOM-Drugs" in text and "Known limits" in text and " nan" not in text


def test_evaluate_measures_drug_size_weights_against_their_own_set(weights, tmp_path, capsys, monkeypatch):
    whole = page.load_drug_size
    monkeypatch.setattr(page, "load_drug_size", lambda **choice: whole(**{"limit": 30} | choice))
    assert cli.run(["evaluate", weights, "--nll-molecules", "3"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["samples"]["molecules"] == 13 and report["energies_kcal"]["n"] == 13
    assert 0.6 < report["data"]["atoms_stable"]["value"] < 1.0
    assert [row["split"] for row in report["nll_nats"]] == ["train", "valid", "test"]
    with pytest.raises(InvalidInput, match="expected a packed"):
        page.evaluate_weights(weights, samples=tmp_path / "samples.xyz")
