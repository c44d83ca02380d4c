"""Time of a call: CPU seconds of this process, or the GPU's own clock."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

CLOCKS = {"cpu": "CPU seconds of the process", "cuda": "CUDA events"}


@dataclass(frozen=True)
class Times:
    """Seconds of one piece of work, one entry a round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Middle of the rounds."""
        return statistics.median(self.rounds)

    def over(self, other: "Times") -> "Times":
        """Quotients round by round, so that a machine that slows down meanwhile divides out."""
        return Times(tuple(mine / theirs for mine, theirs in zip(self.rounds, other.rounds, strict=True)))

    def summary(self, scale: float = 1.0, *, digits: int = 3) -> dict[str, float]:
        """Median, least and largest round times `scale`."""
        values = {"median": self.median, "min": min(self.rounds), "max": max(self.rounds)}
        return {name: round(value * scale, digits) for name, value in values.items()}


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call on the device's clock (CLOCKS)."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        work()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1e3
    before = time.process_time()
    work()
    return time.process_time() - before


def side_by_side(
    works: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    device: torch.device,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Times]:
    """Every piece of work once a round, in turn, after one call to warm up; `report` gets a line a round."""
    for work in works.values():
        work()
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        for name, work in works.items():
            taken[name].append(seconds(work, device))
        report(f"round {number + 1} of {rounds} done, load {load_average()}")
    return {name: Times(tuple(values)) for name, values in taken.items()}


def load_average() -> float | None:
    """Runnable processes, mean of the last minute; None where the system does not count them."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None
