"""A room with an experiment, for tests: squares of numbers, some of them by chance."""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from molkit.errors import InvalidInput
from molkit.experiments.experiment import Comparison, asked

WRONG_BY = 0.0
CALLS: list[int] = []
AUDIT = Comparison(within={"square": 0.5}, free=("seconds",))
AUDIT_walk = Comparison(alike={"stable": 0.2}, by=("kind",))


@dataclass(frozen=True)
class Task:
    number: int
    kind: str = "plain"
    data: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        return (Path(self.data),) if self.data else ()


@asked
def tasks(*, numbers: Sequence[int], kind: str = "plain", data: str = "") -> list[Task]:
    """Tasks for these numbers."""
    return [Task(number, kind, data) for number in numbers]


def measure(task: Task) -> list[dict]:
    """Two rows a number."""
    CALLS.append(task.number)
    if marker := os.environ.get("SQUARES_CALLS"):
        with open(marker, "a") as file:
            file.write(f"{task.number}\n")
    if task.number < 0 or task.number == 13:
        raise InvalidInput(f"{task.number} has no root")
    if os.environ.get("SQUARES_STOP") == str(task.number):
        raise KeyboardInterrupt
    wrong = float(os.environ.get("SQUARES_WRONG_BY", "0"))
    return [
        {"power": power, "square": task.number**power + wrong, "seconds": random.random(), "near": [1.0, 2.0]}
        for power in (1, 2)
    ]


def measure_walk(task: Task) -> list[dict]:
    """Ten shares of about 0.7, of another stream in each run."""
    share = float(os.environ.get("SQUARES_SHARE", "0.7"))
    return [{"stable": int(random.random() < share)} for _ in range(10)]
