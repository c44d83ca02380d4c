"""Intervals for the numbers in our tables.

A NaN among the values is an error here, never a silent loss: whoever drops failed calculations counts them first.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from molkit.errors import InvalidInput

Statistic = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its confidence interval."""

    value: float
    low: float
    high: float
    level: float = 0.95

    def scaled(self, factor: float) -> "Interval":
        """The same in another unit, for example percent (factor 100, positive)."""
        return Interval(self.value * factor, self.low * factor, self.high * factor, self.level)


def proportion_interval(successes: int, total: int, *, level: float = 0.95) -> Interval:
    """Wilson score interval of a proportion; reasonable also at 0 %, 100 % and few trials.

    Source: Wilson, J. Am. Stat. Assoc. 22, 209 (1927). Raises InvalidInput unless 0 <= successes <= total, total >= 1.

    >>> found = proportion_interval(9, 10)
    >>> f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
    '0.90 [0.60, 0.98]'
    """
    if total < 1 or not 0 <= successes <= total:
        raise InvalidInput(f"a proportion needs 0 <= successes <= total and total >= 1, got {successes} of {total}")
    z = _normal_quantile(level)
    p = successes / total
    scale = 1.0 + z * z / total
    centre = (p + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return Interval(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)), level)


def proportion_difference_interval(
    successes: int, total: int, other_successes: int, other_total: int, *, level: float = 0.95
) -> Interval:
    """Difference of two independent proportions, first minus second, with Newcombe's hybrid score interval.

    Source: Newcombe, Stat. Med. 17, 873 (1998), method 10.
    """
    first = proportion_interval(successes, total, level=level)
    second = proportion_interval(other_successes, other_total, level=level)
    return difference_of_intervals(first, second)


def bootstrap_interval(
    values: np.ndarray,
    *,
    statistic: Statistic = np.mean,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a statistic of independent rows: values [n] or [n, k], resampled by row.

    Source: Efron, Ann. Stat. 7, 1 (1979). Raises InvalidInput for no values or for any that is NaN or infinite.
    """
    rows = _finite(values)
    random = np.random.default_rng(seed)
    resampled = [statistic(rows[random.integers(len(rows), size=len(rows))]) for _ in range(_positive(num_resamples))]
    return _percentiles(float(statistic(rows)), np.array(resampled), level)


def ratio_interval(
    numerators: np.ndarray,
    denominators: np.ndarray,
    *,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of sum(numerators) / sum(denominators), resampling the pairs.

    For shares of atoms, whose independent units are the molecules: stable atoms and atoms per molecule.
    """
    pairs = np.stack([np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)], axis=1)
    return bootstrap_interval(pairs, statistic=_ratio, level=level, num_resamples=num_resamples, seed=seed)


def interval_over_runs(runs: Sequence[Interval], *, within: tuple[float, float] = (-math.inf, math.inf)) -> Interval:
    """Mean of a figure over independent trainings, with the scatter between them and that of the counted items.

    Half widths added in quadrature: Student's t of the trainings' values, and the mean half width of a single
    training, undivided because the trainings are scored on the same molecules and noise; cut off at the bounds
    `within` which the figure lies (a share: 0 and 1). One training keeps its own interval. Raises InvalidInput for
    none, or for different levels.
    """
    from scipy.special import stdtrit  # takes a second to load

    if not runs or len({run.level for run in runs}) != 1:
        raise InvalidInput(f"need at least one interval, all of one level, got {len(runs)}")
    if len(runs) == 1:
        return runs[0]
    values = _finite(np.array([run.value for run in runs]))
    quantile = float(stdtrit(len(runs) - 1, 0.5 + runs[0].level / 2))
    between = quantile * float(values.std(ddof=1)) / math.sqrt(len(runs))
    below = np.mean([run.value - run.low for run in runs])
    above = np.mean([run.high - run.value for run in runs])
    mean = float(values.mean())
    low, high = mean - math.hypot(between, below), mean + math.hypot(between, above)
    return Interval(mean, max(low, within[0]), min(high, within[1]), runs[0].level)


def difference_of_intervals(first: Interval, second: Interval) -> Interval:
    """first - second of two independent figures, their half widths added in quadrature on each side.

    Source: the construction of Newcombe, Stat. Med. 17, 873 (1998), method 10, for any two intervals.
    """
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Interval(value, value - below, value + above, first.level)


def _ratio(pairs: np.ndarray) -> float:
    numerator, denominator = pairs.sum(axis=0)
    return numerator / denominator


def _finite(values: np.ndarray) -> np.ndarray:
    rows = np.asarray(values, dtype=float)
    if rows.ndim == 0 or len(rows) == 0:
        raise InvalidInput("an interval needs at least one value, got none")
    bad = int((~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)).sum())
    if bad:
        raise InvalidInput(f"{bad} of {len(rows)} values are NaN or infinite; count the failures, then leave them out")
    return rows


def _positive(num_resamples: int) -> int:
    if num_resamples < 1:
        raise InvalidInput(f"num_resamples must be at least 1, got {num_resamples}")
    return num_resamples


def _percentiles(value: float, resampled: np.ndarray, level: float) -> Interval:
    _normal_quantile(level)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level)


def _normal_quantile(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise InvalidInput(f"a confidence level lies between 0 and 1, got {level}")
    return NormalDist().inv_cdf((1.0 + level) / 2.0)
