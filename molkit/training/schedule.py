"""Learning rate by step, and gradient clipping by a fixed norm or by the queue of recent norms."""

import math
from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np

from molkit.training.config import TrainConfig

RECENT = 100  # gradient norms behind the median of `is_outlier`


def learning_rate(config: TrainConfig, step: int, total_steps: int) -> float:
    """Learning rate of a step (0-based); total_steps = 0 means that the end is not known yet."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    length = config.decay_fraction * total_steps
    if total_steps == 0 or length == 0:
        return config.learning_rate * warm
    progress = min(1.0, max(0.0, (step - (total_steps - length)) / length))
    fall = config.final_fraction + (1.0 - config.final_fraction) * 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.learning_rate * warm * fall


class NormQueue:
    """Clipping limit from the last 50 gradient norms: 1.5 mean + 2 standard deviations; starts from 3000.

    Source: EDM reference code, gradient clipping queue (population standard deviation).
    """

    def __init__(self, norms: Iterable[float] = (3000.0,), *, length: int = 50) -> None:
        self.norms = deque(norms, maxlen=length)

    def limit(self) -> float:
        """The norm to which the next gradient is clipped."""
        values = np.array(self.norms)
        return float(1.5 * values.mean() + 2.0 * values.std())

    def push(self, norm: float) -> None:
        """Remember a gradient norm, itself limited."""
        self.norms.append(min(norm, self.limit()))


def is_outlier(norm: float, recent: Sequence[float], *, times: float) -> bool:
    """Whether a gradient norm is more than `times` the median of the last RECENT norms, once there are that many.

    A few such steps in a row can throw a trained network far off, clipped or not. Every norm is remembered, those of
    steps left out too, so that a lasting change is accepted after RECENT / 2 steps. Source: ours.
    """
    return times > 0.0 and len(recent) >= RECENT and norm > times * float(np.median(recent))
