import math

import numpy as np
import pytest
import torch

from molkit.geometry import aligned_rmsd, random_rotations, superpose


def test_random_rotations_are_proper_and_orthogonal():
    rotations = random_rotations(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3, dtype=torch.float64).expand(50, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(50, dtype=torch.float64))


def test_random_rotations_are_uniform():
    """Uniform on SO(3): mean 0, E[R_ij^2] = 1/3, E[trace^2] = 1, and angles with density (1 - cos a) / pi."""
    count = 40_000
    rotations = random_rotations(count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    traces = rotations.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert rotations.mean(0).abs().max() < 5 / math.sqrt(3 * count)
    assert (rotations.square().mean(0) - 1 / 3).abs().max() < 5 * 0.3 / math.sqrt(count)
    assert abs(float(traces.square().mean()) - 1.0) < 5 * 1.5 / math.sqrt(count)
    angles = torch.arccos(((traces - 1) / 2).clamp(-1, 1))
    expected = (math.pi / 2 - 1.0) / math.pi  # probability of an angle below 90 degrees
    assert abs(float((angles < math.pi / 2).double().mean()) - expected) < 5 * math.sqrt(expected / count)


@pytest.mark.parametrize("function", [aligned_rmsd, superpose])
def test_coordinates_that_are_not_finite_are_refused_by_atom(function):
    fine = np.arange(9.0).reshape(3, 3)
    broken = fine.copy()
    broken[1, 2] = np.nan
    with pytest.raises(ValueError, match="positions: the coordinates of atom 2 are not finite"):
        function(broken, fine)
    with pytest.raises(ValueError, match="target: the coordinates of atom 2 are not finite"):
        function(fine, broken)
    with pytest.raises(ValueError, match="one shape"):
        function(np.zeros((0, 3)), np.zeros((0, 3)))
