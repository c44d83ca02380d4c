"""Which of the T + 1 steps of the forward process a chain visits.

Steps are integers and strictly decreasing, so the network is only asked for steps that it was trained on.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from molkit.errors import InvalidInput

KARRAS_POWER = 7.0


def _even(log_snr: Tensor) -> Tensor:
    """Equal distances in t."""
    return torch.arange(len(log_snr), dtype=torch.float64)


def _log_snr(log_snr: Tensor) -> Tensor:
    """Equal distances in log-SNR."""
    return log_snr[0] - log_snr


def _mixed(log_snr: Tensor) -> Tensor:
    """The mean of equal distances in t and in log-SNR: half of the steps each."""
    return _even(log_snr) / (len(log_snr) - 1) + _log_snr(log_snr) / (log_snr[0] - log_snr[-1])


def _quadratic(log_snr: Tensor) -> Tensor:
    """Equal distances in the square root of t: t falls as a parabola, its smallest steps at the clean end."""
    return _even(log_snr).sqrt()


def _karras(log_snr: Tensor) -> Tensor:
    """Equal distances in (sigma / alpha)^(1/7). Source: Karras et al. 2022, equation 5."""
    return torch.exp(-0.5 * log_snr / KARRAS_POWER)


GRIDS: dict[str, Callable[[Tensor], Tensor]] = {
    "even": _even,
    "log_snr": _log_snr,
    "mixed": _mixed,
    "quadratic": _quadratic,
    "karras": _karras,
}


def step_grid(num_steps: int, num_calls: int | None, *, start: int | None = None, end: int = 0) -> list[int]:
    """Decreasing steps from `start` (default T) to `end`; with num_calls, that many network calls evenly in t.

    One call a step down, and one at step 0 where the chain ends there. Raises InvalidInput outside 0..T.
    """
    start = num_steps if start is None else start
    if not 0 <= end < start <= num_steps:
        raise InvalidInput(f"need 0 <= end < start <= {num_steps} steps, got start {start} and end {end}")
    downs = start - end if num_calls is None else num_calls - int(end == 0)
    if not 1 <= downs <= start - end:
        last = start - end + int(end == 0)
        raise InvalidInput(f"number of network calls must lie in {1 + int(end == 0)}..{last}, got {num_calls}")
    return [round(start - (start - end) * k / downs) for k in range(downs + 1)]


def grid_steps(
    log_snr: Tensor, num_calls: int | None, *, grid: str = "even", start: int | None = None, end: int = 0
) -> list[int]:
    """`step_grid` with equal distances in another measure of the way, for the schedule log_snr [T + 1].

    Where the measure asks for more than one visit of an integer step, the neighbours are taken.
    Raises InvalidInput for an unknown grid, and as `step_grid`.
    """
    if grid not in GRIDS:
        raise InvalidInput(f"the grid of steps must be one of {', '.join(GRIDS)}, got {grid!r}")
    steps = step_grid(len(log_snr) - 1, num_calls, start=start, end=end)
    if grid == "even" or num_calls is None:
        return steps
    way = GRIDS[grid](log_snr)[end : steps[0] + 1].numpy()
    points = np.interp(np.linspace(way[-1], way[0], len(steps)), way, np.arange(end, steps[0] + 1))
    return distinct_steps(points.tolist())


def distinct_steps(points: list[float]) -> list[int]:
    """Integers near the decreasing `points`, strictly decreasing, the ends kept; there must be room for them."""
    start, end, last = round(points[0]), round(points[-1]), len(points) - 1
    steps = [round(point) for point in points]
    for k in range(last - 1, -1, -1):
        steps[k] = max(steps[k], steps[k + 1] + 1)
    return [min(step, start - k) if k < last else end for k, step in enumerate(steps)]
