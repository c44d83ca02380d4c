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
    """A value with the ends of its confidence interval; both ends are NaN where one item says nothing about scatter."""

    value: float
    low: float
    high: float
    level: float = 0.95

    @property
    def known(self) -> bool:
        """Whether there is an interval at all."""
        return not (math.isnan(self.low) or math.isnan(self.high))

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


def bootstrap_interval(
    values: np.ndarray,
    *,
    statistic: Statistic = np.mean,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a statistic of independent rows: values [n] or [n, k], resampled by row.

    Source: Efron, Ann. Stat. 7, 1 (1979). A single row has no interval. Raises InvalidInput for no values or for any
    that is NaN or infinite.
    """
    rows = _finite(values)
    if len(rows) == 1:
        return Interval(float(statistic(rows)), math.nan, math.nan, level)
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


def interval_over_runs(
    runs: Sequence[Interval], *, within: tuple[float, float] = (-math.inf, math.inf), positive: bool = False
) -> Interval:
    """Mean of a figure over independent trainings, with the scatter between them and that of the counted items.

    Half widths added in quadrature: Student's t of the trainings' values, and the mean half width of a single
    training, undivided because the trainings are scored on the same molecules and noise; cut off at the bounds
    `within` which the figure lies (a share: 0 and 1). positive: the figure cannot be negative (a mean absolute error);
    then half widths are those of its logarithm, that of the trainings by the delta method, so that the interval stays
    above zero. One training keeps its own interval. Raises InvalidInput for none, for different levels, or for a
    positive figure that is not.
    """
    if not runs or len({run.level for run in runs}) != 1:
        raise InvalidInput(f"need at least one interval, all of one level, got {len(runs)}")
    if len(runs) == 1:
        return runs[0]
    values = _finite(np.array([run.value for run in runs]))
    mean, between = float(values.mean()), _half_width_of_mean(values, runs[0].level)
    if positive:
        below, above = _log_widths(values, runs)
        between = between / mean
        low, high = mean * math.exp(-math.hypot(between, below)), mean * math.exp(math.hypot(between, above))
        return Interval(mean, low, high, runs[0].level)
    below = np.mean([run.value - run.low for run in runs])
    above = np.mean([run.high - run.value for run in runs])
    low, high = mean - math.hypot(between, below), mean + math.hypot(between, above)
    return Interval(mean, max(low, within[0]), min(high, within[1]), runs[0].level)


def _half_width_of_mean(values: np.ndarray, level: float) -> float:
    """Half width of Student's t interval of the mean of independent values [n], n at least 2."""
    from scipy.special import stdtrit  # takes a second to load

    quantile = float(stdtrit(len(values) - 1, 0.5 + level / 2))
    return quantile * float(values.std(ddof=1)) / math.sqrt(len(values))


def _log_widths(values: np.ndarray, runs: Sequence[Interval]) -> tuple[float, float]:
    """Mean distance of the ends from the values in the logarithm; an end at zero lies infinitely far."""
    if not (values > 0.0).all() or any(run.low < 0.0 for run in runs):
        raise InvalidInput("a positive figure needs values above zero and intervals that do not go below it")
    with np.errstate(divide="ignore"):
        ends = np.log(np.array([[run.low, run.high] for run in runs]))
    return float(np.mean(np.log(values) - ends[:, 0])), float(np.mean(ends[:, 1] - np.log(values)))


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
