"""Grids of steps: as many calls as asked for, ends kept, spacing as named."""

import numpy as np
import pytest

from molkit.edm.samplers import GRIDS, distinct_steps, grid_steps, step_grid
from molkit.errors import InvalidInput


@pytest.mark.parametrize("grid", list(GRIDS))
@pytest.mark.parametrize("num_calls", [2, 3, 10, 50, 100, 500, 1000, 1001])
def test_every_grid_falls_from_noise_to_step_0_in_the_calls_asked_for(grid, num_calls):
    steps = grid_steps(1000, num_calls, grid=grid)
    assert len(steps) == num_calls and steps[0] == 1000 and steps[-1] == 0
    assert (np.diff(steps) < 0).all()


@pytest.mark.parametrize("grid", list(GRIDS))
def test_every_grid_serves_a_part_of_the_chain(grid):
    steps = grid_steps(1000, 12, grid=grid, start=60, end=10)
    assert len(steps) == 13 and steps[0] == 60 and steps[-1] == 10
    assert (np.diff(steps) < 0).all()


@pytest.mark.parametrize("grid", list(GRIDS))
def test_without_a_number_of_calls_every_grid_is_the_full_chain(grid):
    assert grid_steps(1000, None, grid=grid) == step_grid(1000, None)


def test_the_even_grid_is_the_strided_chain():
    assert grid_steps(1000, 100) == step_grid(1000, 100)


def test_steps_of_the_quadratic_grid_lie_evenly_in_the_square_root_of_t():
    """21 calls of 100,000 steps: rounding to integers then hides nothing."""
    way = np.sqrt(grid_steps(100_000, 21, grid="quadratic"))
    np.testing.assert_allclose((way[:-1] - way[1:]) / way[0], 1 / 20, rtol=0.03)


def test_a_parabola_of_t():
    assert grid_steps(1000, 11, grid="quadratic") == [1000, 810, 640, 490, 360, 250, 160, 90, 40, 10, 0]


def test_points_that_fall_together_are_moved_to_their_neighbours():
    assert distinct_steps([6.0, 5.9, 5.8, 0.2, 0.1, 0.0]) == [6, 5, 4, 2, 1, 0]
    assert distinct_steps([4.0, 0.0, 0.0, 0.0, 0.0]) == [4, 3, 2, 1, 0]
    assert distinct_steps([9.0, 9.0, 4.4, 4.0]) == [9, 8, 5, 4]


def test_unknown_grids_and_impossible_numbers_are_refused_in_one_line():
    with pytest.raises(InvalidInput, match="must be one of even, quadratic, got 'cubic'"):
        grid_steps(1000, 10, grid="cubic")
    with pytest.raises(InvalidInput, match="network calls must lie in 2..1001, got 1002"):
        grid_steps(1000, 1002, grid="quadratic")
    with pytest.raises(InvalidInput, match="0 <= end < start"):
        grid_steps(10, 3, grid="quadratic", start=11)
