"""Functions that workers run in the tests: they behave, fail, hang and die as their task says."""

import ctypes
import os
import signal
import time
from pathlib import Path

import numpy as np

from molkit.errors import CalculationFailed


def work(task):
    """Squares of a seeded draw; `kind` says what happens on the way, `once` a file that makes it happen once."""
    kind, number = task["kind"], task["number"]
    mark = Path(task["once"]) if task.get("once") else None
    if mark is not None and mark.exists():
        kind = "good"
    elif mark is not None:
        mark.touch()
    if kind == "fails":
        raise CalculationFailed(f"no number for {number}")
    if kind == "mistake":
        raise KeyError("a mistake of ours")
    if kind == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "crashes":
        ctypes.string_at(0)
    if kind == "hangs":
        time.sleep(600)
    if kind == "slow":
        time.sleep(0.2)
    draw = np.random.default_rng(number).normal(size=3)
    return {"square": draw**2, "number": number}
