"""Learning rate by step, and gradient clipping by a fixed norm or by the queue of recent norms."""

import math
from collections import deque
from collections.abc import Iterable

import numpy as np

from molkit.training.config import TrainConfig


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
