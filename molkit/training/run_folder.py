"""A run on disk, written by temporary name and rename, so that a kill leaves it whole.

And one call of `train` in it: clock, progress bar, log lines, when to save and when to stop.
"""

import json
import logging
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

import molkit
from molkit.errors import InvalidInput, RunError
from molkit.training.files import whole_file, write_text
from molkit.training.precision import Precision

STATE = "training/state.safetensors"


def has_run(folder: Path) -> bool:
    """Whether a run can be continued there."""
    return (folder / STATE).is_file()


def require_run(folder: Path) -> None:
    """Raise InvalidInput unless a run can be continued there."""
    if not has_run(folder):
        raise InvalidInput(f"{folder}: no checkpoint to continue there; leave out --resume to begin a run")


def append_json(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON line. Raises RunError when the disk refuses."""
    try:
        with open(path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(record) + "\n")
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error}); the last good checkpoint is kept") from error


def keep_lines_until(path: Path, step: int) -> None:
    """Drop the JSON lines of steps after `step`, which a resumed run takes again, and a line that a kill tore."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["step"] <= step:
            kept.append(line + "\n")
    write_text(path, "".join(kept))


def save_state(folder: Path, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    """Write everything needed to continue into one file; a failure leaves the last good one.

    Raises RunError when the disk refuses.
    """
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(folder / STATE) as temporary:
        temporary.write_bytes(save(ready, metadata={"molkit": json.dumps(numbers, sort_keys=True)}))


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and numbers of the last checkpoint. Raises InvalidInput when the file is damaged."""
    path = folder / STATE
    try:
        with safe_open(path, framework="pt") as handle:
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
            return tensors, json.loads((handle.metadata() or {})["molkit"])
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise InvalidInput(f"{path}: the checkpoint is damaged ({error}); start a new run folder") from error


def stored_precision(folder: Path) -> Precision | None:
    """The precision of matrix products in the last session of a run; None where the run does not tell."""
    path = folder / "provenance.jsonl"
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with suppress(json.JSONDecodeError):  # a line that a kill tore
            records.append(json.loads(line))
    if not records or "autocast_bfloat16" not in records[-1]:
        return None
    own = records[-1].get("network_precision", "float32") == "bfloat16"
    return "bfloat16" if own or records[-1]["autocast_bfloat16"] else "float32"


def provenance(**more: Any) -> dict[str, Any]:
    """Where and with what a run was made."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "molkit": molkit.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        **more,
    }


def _processor() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if TYPE_CHECKING:
    from molkit.training.loop import Trainer

log = logging.getLogger(__name__)

RATE_SECONDS = 60.0  # the rate measured in the first minute fixes the number of steps
SAVING_SHARE = 0.97  # share of the time budget that steps may use


class Session:
    """Runs the steps of a trainer until its schedule ends, the time is up, or a signal asks it to stop."""

    def __init__(self, trainer: "Trainer", time_budget: float | None, *, show: bool) -> None:
        self.trainer, self.time_budget = trainer, time_budget
        self.started = self.saved = self.logged = time.monotonic()
        state = trainer.progress
        self.earlier_seconds, self.first_step, self.shown_passes = state.seconds, state.step, state.passes
        self.stop_asked = False
        self.bar = tqdm(
            total=state.total_steps or None, initial=state.step, disable=not show, unit="step", mininterval=2.0
        )

    @property
    def elapsed(self) -> float:
        """Seconds since this session began."""
        return time.monotonic() - self.started

    def ask_stop(self, signal_number: int, _: object) -> None:
        """Signal handler: finish the step, save, leave."""
        self.stop_asked = True
        log.warning("%s: saving and stopping", signal.Signals(signal_number).name)

    def must_stop(self) -> bool:
        """Whether all processes leave the loop before the next step: time is up, or any of them was asked to."""
        return self.agree(self.stop_asked or bool(self.time_budget and self.elapsed > SAVING_SHARE * self.time_budget))

    def agree(self, vote: bool) -> bool:
        """Whether any process votes yes; their clocks and signals differ, so each must ask at the same places."""
        fabric = self.trainer.fabric
        if fabric.world_size == 1:
            return vote
        votes = fabric.all_reduce(torch.tensor(float(vote), device=fabric.device), reduce_op="sum")
        return bool(votes > 0)

    def run(self, on_step: Callable[[int], None] | None = None) -> None:
        """Steps until the schedule's end or a reason to stop; saves now and then."""
        state = self.trainer.progress
        while not state.total_steps or state.step < state.total_steps:
            if self.must_stop():
                break
            for name, value in self.trainer.step().items():
                state.sums[name] = state.sums.get(name, 0.0) + value
            state.summed += 1
            state.seconds = self.earlier_seconds + self.elapsed
            self.fix_total()
            if state.step % self.trainer.config.log_every == 0:
                self.write_metrics()
            self.bar.update(1)
            self.keep()
            if on_step is not None:
                on_step(state.step)

    def fix_total(self) -> None:
        """Fix the number of steps once, from the rate measured so far and the time budget."""
        state, budget = self.trainer.progress, self.time_budget
        if state.total_steps or not budget or not self.agree(self.elapsed > min(RATE_SECONDS, 0.2 * budget)):
            return
        rate = (state.step - self.first_step) / self.elapsed
        total = state.step + int(rate * (SAVING_SHARE * budget - self.elapsed))
        state.total_steps = int(self.trainer.fabric.broadcast(total, src=0))
        self.saved = -float("inf")  # a checkpoint follows, so that a kill cannot change the schedule
        log.info("%.2f steps a second: the run will take %d steps", rate, state.total_steps)

    def keep(self) -> None:
        """Snapshot and checkpoint when due."""
        trainer, step = self.trainer, self.trainer.progress.step
        if trainer.snapshot_due() and trainer.fabric.is_global_zero:
            trainer.require_finite()
            trainer.task.save_weights(trainer.out / "snapshots" / f"step_{step:08d}", trainer.average.module)
        if time.monotonic() - self.saved > trainer.config.checkpoint_seconds:
            trainer.save()
            self.saved = time.monotonic()

    def write_metrics(self) -> None:
        """One JSON line with the means since the last one (means of the first process), and the bar's text."""
        state = self.trainer.progress
        means = {name: float(value) / state.summed for name, value in state.sums.items()}
        now = time.monotonic()
        rate = (state.passes - self.shown_passes) / max(now - self.logged, 1e-9)
        state.loss, state.sums, state.summed = means["loss"], {}, 0
        self.logged, self.shown_passes = now, state.passes
        self.bar.total = state.total_steps or None
        self.bar.set_postfix(loss=f"{state.loss:.4f}", mol_s=f"{rate:.0f}")
        if self.trainer.fabric.is_global_zero:
            record = {"step": state.step, "epoch": state.epoch, "passes": state.passes, "rate": round(rate, 1)}
            record |= {"seconds": round(state.seconds, 1)} | {name: round(value, 7) for name, value in means.items()}
            append_json(self.trainer.out / "metrics.jsonl", record)

    def last_loss(self) -> float:
        """Mean loss since the last log line, or of that line."""
        state = self.trainer.progress
        return float(state.sums["loss"]) / state.summed if state.summed else state.loss


@contextmanager
def signals_to(handler: Callable[[int, object], None]) -> Iterator[None]:
    """SIGINT and SIGTERM go to the handler while the context lasts; only the main thread can do that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
