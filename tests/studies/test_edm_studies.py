"""What the EDM chapters compute, with the published weights and tiny counts."""

import json
import math
import shutil

import numpy as np
import pytest
import torch

from molkit.data.packed import write_packed
from molkit.data.qm9 import load_qm9
from molkit.data.qm9_labels import LabelledMolecules, load_labelled
from molkit.edm.likelihood import step_probabilities
from molkit.edm.model import load, resolve
from molkit.edm.published import stored_samples, training_facts
from molkit.edm.schedule import log_snr_table
from molkit.graphs import Graph
from molkit.studies import edm_card
from molkit.studies.edm.conditional import judge_error

WEIGHTS = "edm_qm9"


@pytest.fixture(scope="module")
def nll():
    return edm_card.nll_on_test(WEIGHTS, num_molecules=20)


def test_published_weights_come_with_facts_and_samples():
    facts = training_facts(WEIGHTS)
    assert facts.passes > 0 and facts.sample_calls and facts.device
    assert len(stored_samples(WEIGHTS)) > 0


def test_the_card_of_qm9_weights_shows_their_scores_beside_the_data(tmp_path, monkeypatch, nll):
    folder = tmp_path / "copy"
    shutil.copytree(resolve(WEIGHTS), folder)
    write_packed(folder / "samples.npz", stored_samples(WEIGHTS).select(np.arange(50)))
    facts = json.loads((folder / "training.json").read_text())
    (folder / "training.json").write_text(json.dumps(facts | {"samples_requested": 60, "remarks": ["A remark."]}))
    data = edm_card.score_data(limit=40)
    monkeypatch.setattr(edm_card, "score_data", lambda: data)
    monkeypatch.setattr(edm_card, "nll_on_test", lambda weights, **choice: nll)
    text = edm_card.publish_card(folder).read_text()
    stable = 100 * edm_card.score_stored(folder).molecule_stability.value
    assert (
        f"| molecules stable, % | {stable:.1f} [" in text and f"] | {100 * data.molecule_stability.value:.1f} [" in text
    )
    assert "506,029 parameters" in text and "Of 60 chains 10 did not stay finite" in text and "- A remark." in text
    assert "| 2,489,945 | 0.1285 | 2.06 |" in text and "| 35,000 | 2026-11-21 | 1 | the compiled kernel |" in text


@pytest.mark.parametrize("part", ["judge", "labeller"])
def test_the_card_of_a_property_network_shows_its_errors(tmp_path, monkeypatch, part):
    folder = tmp_path / "copy"
    shutil.copytree(resolve(f"qm9_property_{part}"), folder)
    monkeypatch.setattr(edm_card, "property_publication", lambda run, *, num_molecules: run)
    monkeypatch.setattr(edm_card, "publish", lambda run, name: folder)
    monkeypatch.setattr(edm_card, "load_labelled", lambda split: first(load_labelled(split), 30))
    text = (edm_card.publish_network(tmp_path, "toy", part=part) / "card.md").read_text()
    errors = judge_error(str(folder), first(load_labelled("valid"), 30))
    assert f"|  | validation (30) | test (30) |\n|---|---|---|\n| α, bohr³ | {errors['alpha'].value:.3g} [" in text
    assert f"30 labelled molecules of the training split, the part named `{part}`" in text


def first(known, count):
    """The first labelled molecules."""
    rows = np.arange(count)
    return LabelledMolecules(known.molecules.select(rows), known.index[:count], known.labels[:count])


def test_published_weights_turn_with_the_molecule_in_float32():
    """1e-4 of the largest entry, readable network and engine alike."""
    generator = torch.Generator().manual_seed(1)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator))
    for fast in (False, True):
        edm = load(WEIGHTS, fast=fast)
        graph = Graph.from_sizes(torch.tensor([19, 9]))
        positions = graph.centre(torch.randn(28, 3, generator=generator))
        features = torch.randn(28, edm.config.num_features, generator=generator)
        inputs = (torch.full((28, 1), 0.3), graph.edge_index, graph.batch, 2)
        with torch.no_grad():
            plain, plain_features = edm.network(features, positions, *inputs)
            turned, turned_features = edm.network(features, positions @ turn.T, *inputs)
        assert (turned - plain @ turn.T).abs().max() <= 1e-4 * plain.abs().max()
        assert (turned_features - plain_features).abs().max() <= 1e-4 * plain_features.abs().max()


def test_step_probabilities_are_probabilities_and_uniform_when_asked():
    table = log_snr_table(load(WEIGHTS).config)
    assert step_probabilities(table, uniform_share=0.1).sum().item() == pytest.approx(1.0)
    np.testing.assert_allclose(step_probabilities(table, uniform_share=1.0).numpy(), 1e-3, rtol=1e-12)


def test_guided_and_uniform_steps_estimate_the_same_sum():
    """Same molecules, 8 draws each; the two means agree within four standard errors of their difference."""
    edm = load(WEIGHTS)
    molecules = load_qm9(split="test", limit=40)
    values = [
        edm_card.likelihood.bound(
            edm, molecules, generator=torch.Generator().manual_seed(2), draws=8, uniform_share=share
        ).diffusion
        for share in (0.1, 1.0)
    ]
    error = math.hypot(*[float(value.std()) / math.sqrt(len(value)) for value in values])
    assert abs(float(values[0].mean() - values[1].mean())) < 4 * error


def test_evaluation_gives_plain_numbers():
    report = edm_card.evaluate_weights(WEIGHTS, nll_molecules=4)
    assert json.loads(json.dumps(report))["samples"]["num_molecules"] == training_facts(WEIGHTS).samples_requested


def test_failed_chains_count_as_failures():
    molecules = stored_samples(WEIGHTS).select(np.arange(50))
    whole, lossy = edm_card.score(molecules), edm_card.score(molecules, num_failed=50)
    assert lossy.num_molecules == 100 and lossy.num_failed == 50
    assert lossy.molecule_stability.value == pytest.approx(0.5 * whole.molecule_stability.value)
    assert lossy.atom_stability.value == pytest.approx(0.5 * whole.atom_stability.value, rel=0.03)
    assert lossy.valid_and_unique.value == pytest.approx(0.5 * whole.valid_and_unique.value)
