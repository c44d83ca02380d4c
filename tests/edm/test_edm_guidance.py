"""Guidance weighs what conditions change in a prediction; it keeps the symmetry and refuses what has no meaning."""

import numpy as np
import pytest
import torch

from molkit.edm.conditions import guided, make_table, write_table
from molkit.edm.config import EdmConfig
from molkit.edm.farm import sample_many
from molkit.edm.model import build, save
from molkit.errors import InvalidInput
from molkit.graphs import Graph

CONFIG = EdmConfig(
    width=16, num_layers=2, num_context=2, context_names=("alpha",), context_means=(0.0,), context_spreads=(1.0,)
)


def prediction(edm, positions, context):
    generator = torch.Generator().manual_seed(1)
    graph = Graph.from_sizes(torch.tensor([4, 3]))
    features = torch.randn(7, 6, generator=generator, dtype=positions.dtype)
    t = torch.full((7, 1), 0.5, dtype=positions.dtype)
    return edm.network(features, positions, t, graph.edge_index, graph.batch, 2, context)


@pytest.fixture
def edm():
    found = build(CONFIG, seed=2)
    found.network.double()
    return found


def positions_of(seed=0):
    graph = Graph.from_sizes(torch.tensor([4, 3]))
    return graph.centre(torch.randn(7, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def test_the_scale_moves_along_the_line_from_free_to_asked(edm):
    places, asked = positions_of(), torch.tensor([[1.5, 1.0]], dtype=torch.float64).expand(7, -1)
    free, told = prediction(edm, places, torch.zeros_like(asked)), prediction(edm, places, asked)
    for scale in (0.0, 1.0, 2.5):
        found = prediction(guided(edm, scale), places, asked)
        for ours, start, end in zip(found, free, told, strict=True):
            torch.testing.assert_close(ours, start + scale * (end - start))
    assert not torch.allclose(free[0], told[0])


def test_guidance_keeps_rotations(edm):
    places, asked = positions_of(), torch.ones(7, 2, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64))[0]
    moved, types = prediction(guided(edm, 3.0), places, asked)
    turned, turned_types = prediction(guided(edm, 3.0), places @ turn.T, asked)
    torch.testing.assert_close(turned_types, types, atol=1e-12, rtol=0.0)
    torch.testing.assert_close(turned, moved @ turn.T, atol=1e-12, rtol=0.0)


def test_nothing_to_emphasise_and_negative_scales_are_refused(edm):
    with pytest.raises(InvalidInput, match="must not be negative"):
        guided(edm, -1.0)
    with pytest.raises(InvalidInput, match="nothing to emphasise"):
        guided(build(EdmConfig(width=16, num_layers=1)), 2.0)
    assert guided(edm, 1.0) is edm


def test_a_folder_of_another_scale_is_refused(tmp_path):
    save(build(CONFIG), tmp_path / "model")
    write_table(tmp_path / "model", make_table(("alpha",), np.array([5] * 40), np.linspace(0.0, 1.0, 40)[:, None]))
    options = {"seed": 0, "folder": tmp_path / "kept", "conditions": {"alpha": 0.1}, "num_atoms": 5, "num_calls": 3}
    assert len(sample_many(tmp_path / "model", 2, guidance=2.0, **options)) <= 2
    with pytest.raises(InvalidInput, match="another 'guidance' .2.0, now 1.0"):
        sample_many(tmp_path / "model", 2, **options)
