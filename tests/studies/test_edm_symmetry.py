"""Turned molecules and readable elements."""

import math

import numpy as np
import pytest
import torch

from molkit.data.qm9 import load_qm9
from molkit.edm.config import EdmConfig
from molkit.edm.model import build
from molkit.geometry import random_rotations
from molkit.studies import edm_symmetry as study


def errors(architecture, turn):
    edm = build(EdmConfig(architecture=architecture, width=16, num_layers=2), seed=1)
    network = edm.network.double() if architecture == "egnn" else edm.network
    molecules = load_qm9(split="test", limit=12)
    return study.errors_at(type(edm)(edm.config, network.float(), edm.log_snr), molecules, step=None, turn=turn, seed=3)


def test_only_the_equivariant_network_makes_the_same_error_on_turned_molecules():
    turns = random_rotations(12, generator=torch.Generator().manual_seed(0))
    still = torch.eye(3).expand(12, 3, 3)
    np.testing.assert_allclose(errors("egnn", turns), errors("egnn", still), rtol=1e-4)
    assert np.abs(errors("gdm", turns) / errors("gdm", still) - 1.0).max() > 1e-3


def test_a_sweep_closes_after_a_full_turn():
    sweep = study.turn_sweep({"EDM": "edm_qm9"}, row=100, step=300, num_angles=5, draws=3, seed=0)
    assert sweep.errors["EDM"] == pytest.approx(sweep.errors["EDM"][0], rel=1e-3)
    assert sweep.degrees[0] == 0.0 and sweep.degrees[-1] == 360.0


def test_orientations_of_the_equivariant_network_have_ratio_one():
    (row,) = study.orientations({"EDM": "edm_qm9"}, num_molecules=20, seed=0)
    assert row.ratio.value == pytest.approx(1.0, abs=1e-3)


def test_two_channels_are_compared_by_the_normal_distribution():
    """With two channels the chance is Phi(d / sqrt 2); without a signal it is one in K."""
    distance = np.array([0.0, 0.5, 2.0, 6.0])
    exact = [0.5 * (1 + math.erf(d / 2.0)) for d in distance]
    np.testing.assert_allclose(study.largest_channel_is_right(distance, num_types=2), exact, atol=1e-8)
    assert study.largest_channel_is_right(np.zeros(1), num_types=5)[0] == pytest.approx(0.2, abs=1e-8)


def test_the_largest_channel_agrees_with_random_draws():
    """100,000 draws: error bar 0.0015."""
    random = np.random.default_rng(0)
    channels = random.normal(size=(100_000, 5))
    channels[:, 0] += 1.3
    drawn = (channels.argmax(1) == 0).mean()
    assert study.largest_channel_is_right(np.array([1.3]), num_types=5)[0] == pytest.approx(drawn, abs=0.006)


def test_scaling_down_moves_the_decision_to_smaller_blur():
    curves = study.readability()
    for chances in (curves.types, curves.hydrogen):
        large, small = chances.values()
        assert (large >= small - 1e-12).all()
        assert chances[1.0][0] > 0.999
