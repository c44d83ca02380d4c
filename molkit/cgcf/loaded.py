"""Weights of flows and energies, each read once a process: for jobs that treat many molecules with the same ones.

What is handed out is shared. Whoever wants to change it (another precision, training) loads a copy of their own.
"""

from functools import lru_cache

from molkit.cgcf.energy import EnergyNetwork
from molkit.cgcf.energy_training import load_energy
from molkit.cgcf.model import Cgcf, load_flow


@lru_cache(maxsize=4)
def shared_flow(name: str) -> Cgcf:
    """The flow of a run folder or published under that name. Raises as `load_flow` does."""
    return load_flow(name)


@lru_cache(maxsize=4)
def shared_energy(name: str, flow: str | None = None) -> EnergyNetwork:
    """The energy of a run folder or published under that name, which tilts this flow. Raises as `load_energy` does."""
    return load_energy(name, flow=flow)
