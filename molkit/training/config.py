"""How a run of any method is trained: settings, learning rate by step, gradient clipping."""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from molkit.errors import InvalidInput
from molkit.graphs import WIDTHS


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimiser, schedule and bookkeeping of one run; stored as training.yaml in its folder.

    A learning rate rises linearly over `warmup_steps`, stays, and falls along a cosine to `final_fraction` of its
    value over the last `decay_fraction` of `total_steps` (0: fixed from the time budget after the first minute).
    """

    seed: int = 0
    batching: Literal["pairs", "buckets"] = (
        "pairs"  # any molecules up to a number of pairs, or equally many of a bucket
    )
    batch_pairs: int = 20_000  # ordered atom pairs per batch and process, about 64 QM9 molecules
    batch_molecules: int = 256  # molecules per batch and process of `buckets`, and of a dense call on a GPU
    bucket_widths: tuple[int, ...] = WIDTHS  # atoms to which the molecules of a bucket are padded
    learning_rate: float = 1e-4
    warmup_steps: int = 200
    total_steps: int = 0
    decay_fraction: float = 1.0
    final_fraction: float = 0.02
    weight_decay: float = 1e-12
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW
    amsgrad: bool = False
    ema_decay: float = 0.9999
    clip: Literal["norm", "queue", "none"] = "norm"
    clip_norm: float = 1.0
    skip_above: float = 0.0  # leave out updates whose gradient norm is that many times the recent median; 0: never
    weighting: Literal["per_molecule", "reference"] = "per_molecule"
    stratified_steps: bool = True
    step_power: float = 1.0  # noise levels are drawn as t = u^step_power for uniform u; above 1 small ones more often
    noise_levels: Literal["steps", "lognormal"] = "steps"  # uniform in t (step_power), or normal in ln(sigma / alpha)
    noise_weighting: Literal["simple", "residual"] = "simple"  # residual: of a preconditioned model's inner network
    random_rotations: bool = False  # turn every training molecule at random, anew at each step
    precision: Literal["float32", "bfloat16", "auto"] = "auto"
    engine: Literal["auto", "readable", "fused", "compiled"] = "auto"
    compile_scope: Literal["block", "stack"] = "block"  # one program for each block, or for all of them together
    log_every: int = 100
    checkpoint_seconds: float = 120.0
    snapshot_from: int = 1000  # snapshots of the averaged weights at this step and every doubling; 0 for none

    def __post_init__(self) -> None:
        if not 0.0 < self.ema_decay < 1.0:
            raise InvalidInput(f"ema_decay must lie between 0 and 1, got {self.ema_decay}")
        for name, least in (
            ("batch_pairs", 1),
            ("batch_molecules", 1),
            ("log_every", 1),
            ("warmup_steps", 0),
            ("total_steps", 0),
        ):
            if getattr(self, name) < least:
                raise InvalidInput(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("learning_rate", "clip_norm"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise InvalidInput(f"{name} must be a positive number, got {getattr(self, name)}")
        for name in ("decay_fraction", "final_fraction"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InvalidInput(f"{name} must lie in 0..1, got {getattr(self, name)}")
        if self.skip_above and self.skip_above <= 1.0:
            raise InvalidInput(f"skip_above must be 0 (never) or above 1, got {self.skip_above}")
        if self.snapshot_from < 0 or self.weight_decay < 0.0 or self.checkpoint_seconds < 0.0:
            raise InvalidInput("snapshot_from, weight_decay and checkpoint_seconds must not be negative")
        if not self.step_power > 0.0 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise InvalidInput(f"need step_power > 0 and betas in 0..1, got {self.step_power} and {self.betas}")
        widths = self.bucket_widths
        if not widths or list(widths) != sorted(set(widths)) or widths[0] < 1:
            raise InvalidInput(f"bucket_widths must be ascending numbers of atoms, got {widths}")


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
