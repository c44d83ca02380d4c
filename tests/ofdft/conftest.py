import numpy as np
import pytest

from molkit.molecule import Molecule
from molkit.ofdft.kohn_sham import build_system, solve

WATER = Molecule(
    np.array([8, 1, 1]), np.array([[0.0, 0.0, 0.0], [0.1, 0.757, 0.587], [0.0, -0.757, 0.52]]), name="water"
)


@pytest.fixture(scope="session")
def water_system():
    return build_system(WATER, grid_level=1)


@pytest.fixture(scope="session")
def water_run(water_system):
    return solve(water_system)
