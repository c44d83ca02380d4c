"""Which precision of matrix products is faster here: measured once a process, not read off the processor's flags."""

import functools
import os
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from molkit.errors import InvalidInput

Precision = Literal["float32", "bfloat16"]
OVERRIDE = "MOLKIT_PRECISION"  # float32 or bfloat16: what "auto" then means, without measuring
GAIN = 1.1  # bfloat16 is taken where it is faster by this factor; less is not worth its rounding
SECONDS = 0.1  # of a measurement
ROWS = 2048  # of the matrices that are multiplied, about the atom pairs of a small batch


def precision_override() -> Precision | None:
    """What MOLKIT_PRECISION says "auto" means; None where it says nothing. Raises InvalidInput for another word."""
    word = os.environ.get(OVERRIDE) or None
    if word not in (None, "float32", "bfloat16"):
        raise InvalidInput(f"{OVERRIDE} must be float32 or bfloat16, got {word!r}")
    return word


def speed_ratio(slow: Callable[[], object], fast: Callable[[], object], *, seconds: float = SECONDS) -> float:
    """How many times faster the second call is than the first: least times of alternating rounds, three at least.

    Times are those of this thread on a processor, so that other work on the machine does not count.
    """
    calls, least = (slow, fast), [float("inf")] * 2
    for call in calls:
        call()
    rounds, end = 0, time.perf_counter() + seconds
    while rounds < 3 or time.perf_counter() < end:
        for k, call in enumerate(calls):
            started = time.thread_time()
            call()
            least[k] = min(least[k], time.thread_time() - started)
        rounds += 1
    return least[0] / least[1]


@functools.cache
def product_gain(width: int) -> float:
    """How many times faster the CPU multiplies matrices of that width, forward and backward, in bfloat16."""
    with torch.random.fork_rng(devices=[]):
        layer, rows = nn.Linear(width, width), torch.randn(ROWS, width)

    def step(enabled: bool) -> None:
        with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            torch.autograd.grad(layer(rows).float().square().sum(), layer.weight)

    return speed_ratio(lambda: step(False), lambda: step(True))


def use_bfloat16(precision: Precision | Literal["auto"], device: torch.device, *, width: int) -> bool:
    """Whether PyTorch's matrix work runs in bfloat16: as asked; for "auto" on GPUs, and on CPUs that it makes faster.

    Raises InvalidInput for a wrong word in MOLKIT_PRECISION.
    """
    asked = precision_override() if precision == "auto" else precision
    if asked is not None:
        return asked == "bfloat16"
    return device.type == "cuda" or product_gain(width) >= GAIN
