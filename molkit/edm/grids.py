"""Which of the T + 1 steps of the forward process a chain visits: decreasing integer steps, so that the network is only
asked for steps it was trained on."""

from molkit.errors import InvalidInput


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
