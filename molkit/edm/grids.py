"""Which of the T + 1 steps of the forward process a chain visits.

Steps are integers and strictly decreasing, so the network is only asked for steps that it was trained on.
"""

import numpy as np

from molkit.errors import InvalidInput

GRIDS = ("even", "quadratic")


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
    num_steps: int, num_calls: int | None, *, grid: str = "even", start: int | None = None, end: int = 0
) -> list[int]:
    """`step_grid`, or with grid "quadratic" equal distances in the square root of t: its smallest steps at the end.

    Where the square root asks for more than one visit of an integer step, the neighbours are taken.
    Raises InvalidInput for an unknown grid, and as `step_grid`.
    """
    if grid not in GRIDS:
        raise InvalidInput(f"the grid of steps must be one of {', '.join(GRIDS)}, got {grid!r}")
    steps = step_grid(num_steps, num_calls, start=start, end=end)
    if grid == "even" or num_calls is None:
        return steps
    between = np.arange(end, steps[0] + 1)
    points = np.interp(np.linspace(steps[0] ** 0.5, end**0.5, len(steps)), np.sqrt(between), between)
    return distinct_steps(points.tolist())


def distinct_steps(points: list[float]) -> list[int]:
    """Integers near the decreasing `points`, strictly decreasing, the ends kept; there must be room for them."""
    start, end, last = round(points[0]), round(points[-1]), len(points) - 1
    steps = [round(point) for point in points]
    for k in range(last - 1, -1, -1):
        steps[k] = max(steps[k], steps[k + 1] + 1)
    return [min(step, start - k) if k < last else end for k, step in enumerate(steps)]
