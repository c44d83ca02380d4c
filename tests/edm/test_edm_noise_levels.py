"""How often noise levels are drawn."""

import pytest
import torch

from molkit.edm.diffusion import draw_steps


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
def test_steps_are_drawn_as_often_as_said(power):
    """200,000 draws in ten bins of t = u^power; five standard errors of the counts."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.bincount(draw_steps(200_000, 99, generator=generator, power=power), minlength=100)
    edges = torch.linspace(0.0, 1.0, 11, dtype=torch.float64) ** (1.0 / power)
    counts, expected = drawn.view(10, 10).sum(1), 200_000 * edges.diff()
    assert ((counts - expected).abs() < 5 * expected.sqrt()).all()
