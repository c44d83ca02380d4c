"""Starts of a relaxation compared: how far above their own minimum they begin, and how many gradients they need."""

from dataclasses import dataclass

import numpy as np

from molkit.metrics.statistics import Interval, bootstrap_interval, ratio_interval

SAME_RMSD = 0.2  # angstrom; two end points further apart are different minima
SAME_ENERGY = 0.5  # kcal/mol, likewise


@dataclass(frozen=True)
class Outcome:
    """What an optimiser made of one start; energies in kcal/mol."""

    molecule: str
    start: str
    optimiser: str
    excess: float  # energy of the start above the end point of this run
    energy: float  # of the end point
    num_gradients: int
    converged: bool
    seconds: float  # CPU, of the optimisation
    rmsd_to_reference: float = 0.0  # angstrom, of the end point to that of the reference start
    largest_turn: float = 0.0  # degrees, largest dihedral change between those two


def same_minimum(outcome: Outcome, reference: Outcome) -> bool:
    """Whether two runs ended in the same minimum: energy within 0.5 kcal/mol and RMSD within 0.2 angstrom."""
    return outcome.rmsd_to_reference <= SAME_RMSD and abs(outcome.energy - reference.energy) <= SAME_ENERGY


def excess_ratio(reference: np.ndarray, other: np.ndarray, **options: float) -> Interval:
    """Mean excess of the reference over that of the other start, [B] each, with a bootstrap over molecules."""
    return ratio_interval(reference, other, **options)


def median_excess_ratio(reference: np.ndarray, other: np.ndarray, **options: float) -> Interval:
    """Median over molecules of the ratio of excesses, with its bootstrap interval."""
    return bootstrap_interval(np.asarray(reference) / np.asarray(other), statistic=np.median, **options)


def step_ratio(reference: np.ndarray, other: np.ndarray, **options: float) -> Interval:
    """Total gradient evaluations from the reference over those from the other start, with a bootstrap over pairs."""
    return ratio_interval(reference, other, **options)
