"""Energies of generated molecules against those of data: force-field single points and distances of distributions.

The paper compares histograms of energies on GEOM-Drugs by a Wasserstein distance and does not publish its energy
model. This protocol is ours: MMFF94s single points on the geometries as they are, bonds perceived for total charge 0,
failures counted and left out. What is left out is not a fair sample, so read the number with its count.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from molkit.errors import InvalidInput
from molkit.metrics.distributions import wasserstein
from molkit.metrics.stability import finite_molecules
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.molecule import PackedMolecules

FAILURES = ("not finite", "not perceived", "in pieces", "no parameters")


@dataclass(frozen=True, eq=False)
class EnergySample:
    """Energies of those molecules of a set that have one, and why the others have none."""

    energies: np.ndarray  # [K] float64, kcal/mol
    rows: np.ndarray  # [K] int64, which molecules they belong to
    perceived: np.ndarray  # [P] int64, molecules whose bonds were found, with an energy or without
    num_molecules: int
    failures: dict[str, int]  # every word of FAILURES -> number of molecules

    @property
    def share(self) -> float:
        """Molecules with an energy / all."""
        return len(self.energies) / self.num_molecules


def mmff_energies(molecules: PackedMolecules) -> EnergySample:
    """MMFF94s energy of every molecule as a neutral one; about 5 ms a molecule of 40 atoms.

    Raises InvalidInput for an empty set.
    """
    from molkit.chem.rdkit_conformers import mmff_energy  # RDKit is not needed by the distances below

    if len(molecules) == 0:
        raise InvalidInput("energies need at least one molecule, got none")
    finite = finite_molecules(molecules)
    usable = np.flatnonzero(finite)
    outcomes = [mmff_energy(molecule, charge=0) for molecule in molecules.select(usable)]
    reasons = Counter(outcome.reason.split(":")[0] for outcome in outcomes if outcome.energy_kcal is None)
    good = np.array([outcome.energy_kcal is not None for outcome in outcomes], dtype=bool)
    return EnergySample(
        np.array([outcome.energy_kcal for outcome in outcomes if outcome.energy_kcal is not None], dtype=np.float64),
        usable[good],
        usable[np.array([not outcome.reason.startswith("not perceived") for outcome in outcomes], dtype=bool)],
        len(molecules),
        {word: reasons[word] for word in FAILURES} | {"not finite": int((~finite).sum())},
    )


def wasserstein_interval(
    sample: np.ndarray,
    reference: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    level: float = 0.95,
    num_resamples: int = 500,
    seed: int = 0,
) -> Interval:
    """1-D Wasserstein distance of two samples with a percentile bootstrap over both, in their unit.

    `groups` [n of reference] resamples the reference by groups (the conformers of a molecule go together).
    Resampling adds scatter of its own, so near zero the interval lies above the distance: compare it with
    `null_distances`. Raises InvalidInput for an empty sample or values that are not finite.
    """
    value = wasserstein(sample, reference)
    members = _members(np.arange(len(reference)) if groups is None else groups, len(reference))
    random = np.random.default_rng(seed)
    distances = []
    for _ in range(num_resamples):
        rows = np.concatenate([members[k] for k in random.integers(len(members), size=len(members))])
        distances.append(wasserstein(sample[random.integers(len(sample), size=len(sample))], reference[rows]))
    low, high = np.quantile(distances, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, min(value, float(low)), max(value, float(high)), level)


def null_distances(
    pool: np.ndarray, reference: np.ndarray, *, size: int, num_draws: int = 500, level: float = 0.95, seed: int = 0
) -> Interval:
    """Distances between `size` values drawn from `pool` and the reference: what a perfect sampler would show.

    The value is the median of the draws, the ends are their percentiles. Raises InvalidInput for size < 1 or nothing
    to draw from.
    """
    if size < 1 or len(pool) == 0 or num_draws < 1:
        raise InvalidInput(f"need values to draw from and a size of at least 1, got {len(pool)} values, size {size}")
    random = np.random.default_rng(seed)
    distances = [wasserstein(pool[random.integers(len(pool), size=size)], reference) for _ in range(num_draws)]
    low, middle, high = np.quantile(distances, [(1 - level) / 2, 0.5, (1 + level) / 2])
    return Interval(float(middle), float(low), float(high), level)


def _members(groups: np.ndarray, count: int) -> list[np.ndarray]:
    """Rows of every group."""
    if len(groups) != count:
        raise InvalidInput(f"every value needs its group: got {len(groups)} groups for {count} values")
    order = np.argsort(groups, kind="stable")
    _, starts = np.unique(groups[order], return_index=True)
    return np.split(order, starts[1:])


def mean_absolute_error(predicted: np.ndarray, truth: np.ndarray) -> Interval:
    """Mean of |predicted - truth| over molecules [B], with a bootstrap interval.

    Raises InvalidInput for different shapes, no values, or one that is not finite: who leaves failures out counts them.
    """
    if predicted.shape != truth.shape:
        raise InvalidInput(f"expected as many predictions as true values, got {predicted.shape} and {truth.shape}")
    return bootstrap_interval(np.abs(predicted - truth))
