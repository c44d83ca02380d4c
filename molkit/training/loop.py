"""One training loop for all methods: Lightning Fabric for devices and processes, our own step.

A step is a function of the checkpoint and its number: batches follow from (seed, epoch), noise from
(seed, rank, step), so a resumed run takes bit for bit the steps the uninterrupted one would have taken.
"""

import logging
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from molkit.errors import InvalidInput, RunError
from molkit.graphs import is_out_of_memory
from molkit.rng import generator_from
from molkit.training import run_folder
from molkit.training.batches import batches_for
from molkit.training.config import RECENT, NormQueue, TrainConfig, is_outlier, learning_rate
from molkit.training.files import locked, write_yaml
from molkit.training.precision import use_bfloat16
from molkit.training.run_folder import Session, signals_to

log = logging.getLogger(__name__)

try:
    from lightning_fabric import Fabric
except ModuleNotFoundError as error:  # the same code lies inside the package `lightning`
    if error.name != "lightning_fabric":
        raise
    from lightning.fabric import Fabric


class Task(Protocol):
    """What the loop needs of a method."""

    num_atoms: Tensor  # [N], sizes of the training molecules

    def loss(self, network: nn.Module, rows: Tensor, *, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the molecules in these rows, and terms worth logging."""

    def save_weights(self, folder: Path, network: nn.Module) -> None:
        """Write the averaged weights and the method's configuration."""


@dataclass
class Progress:
    """The numbers of a run that its checkpoint keeps."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # next batch of the epoch, counted over all processes
    passes: int = 0  # molecules seen, all processes
    total_steps: int = 0
    seconds: float = 0.0  # training time of all sessions
    norms: list[float] = field(default_factory=lambda: [3000.0])
    recent: list[float] = field(default_factory=list)  # gradient norms of the last steps, where outliers are left out
    skipped: int = 0  # updates left out
    sums: dict[str, Any] = field(default_factory=dict)  # of what was measured since the last log line, by name
    summed: int = 0  # steps in them
    loss: float = float("nan")  # of that line

    def numbers(self) -> dict[str, Any]:
        """As JSON can hold it; sums of single precision are exact there."""
        return asdict(replace(self, sums={name: float(value) for name, value in self.sums.items()}))


@dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended."""

    step: int
    total_steps: int
    passes: int
    seconds: float
    finished: bool
    loss: float


def make_fabric(device: str = "auto") -> Fabric:
    """Fabric on one device, or on all that torchrun started; full precision, autocast is ours.

    Raises InvalidInput for a device that is not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InvalidInput(f"device must be auto, cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("device cuda was asked for, but PyTorch sees no GPU here; use --device cpu")
    world, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    accelerator = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    fabric = Fabric(
        accelerator=accelerator,
        devices=local,
        num_nodes=max(1, world // local),
        strategy="ddp" if world > 1 else "auto",
        precision="32-true",
    )
    fabric.launch()
    if fabric.world_size != world:
        raise RunError(f"torchrun announced {world} processes, {fabric.world_size} joined")
    return fabric


class Trainer:
    """State of one run: network, average, optimiser, progress. `train` below is the way in."""

    def __init__(self, task: Task, network: nn.Module, config: TrainConfig, out: Path, fabric: Fabric) -> None:
        self.task, self.config, self.out, self.fabric = task, config, out, fabric
        self.raw = network.to(fabric.device)
        self.average = AveragedModel(self.raw, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
        options = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "betas": config.betas}
        optimiser = torch.optim.AdamW(self.raw.parameters(), amsgrad=config.amsgrad, fused=True, **options)
        self.network, self.optimiser = fabric.setup(network, optimiser)
        self.batches = batches_for(config, task.num_atoms, processes=fabric.world_size)
        if (count := len(self.batches.epoch(0))) < fabric.world_size:
            raise InvalidInput(
                f"{len(task.num_atoms)} molecules make {count} batches, fewer than the {fabric.world_size} processes; "
                f"lower {'batch_pairs' if config.batching == 'pairs' else 'batch_molecules'}"
            )
        self.progress = Progress(total_steps=config.total_steps)
        self.order: tuple[int, list[Tensor]] = (-1, [])
        own_precision = getattr(network, "precision", None)  # an engine that rounds its products itself
        width = max((p.shape[0] for p in network.parameters() if p.ndim == 2), default=1)
        wanted = own_precision is None and use_bfloat16(config.precision, fabric.device, width=width)
        self.bfloat16 = fabric.broadcast(wanted)  # measured times differ between processes
        self.at_once = sys.maxsize  # molecules of one forward and backward pass; falls when memory does not suffice
        self.unchecked = torch.zeros((), device=fabric.device)  # losses and norms not looked at; NaN stays in the sum

    def next_rows(self) -> Tensor:
        """Rows of this process's next batch; moves the progress on."""
        state, world = self.progress, self.fabric.world_size
        if self.order[0] != state.epoch:
            self.order = (state.epoch, self.batches.epoch(state.epoch))
        if state.batch + world > len(self.order[1]):
            state.epoch, state.batch = state.epoch + 1, 0
            self.order = (state.epoch, self.batches.epoch(state.epoch))
        group = self.order[1][state.batch : state.batch + world]
        state.batch += world
        state.passes += sum(len(rows) for rows in group)
        return group[self.fabric.global_rank]

    def clip(self) -> Tensor:
        """Clip the gradients as configured; returns their norm before clipping."""
        parameters = [p for p in self.raw.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters], foreach=True)
        if self.config.clip == "none":
            return norm
        queue = NormQueue(self.progress.norms)
        limit = queue.limit() if self.config.clip == "queue" else self.config.clip_norm
        nn.utils.clip_grads_with_norm_(parameters, limit, norm, foreach=True)
        if self.config.clip == "queue":
            queue.push(float(norm))
            self.progress.norms = list(queue.norms)
        return norm

    def gradients(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and logged terms of these rows; their gradients are left in the network.

        A batch for which memory does not suffice is taken in halves from then on (one process only: several would have
        to agree). Raises RunError when a single molecule is too large.
        """
        try:
            parts = [self.part_gradients(part, len(part) / len(rows), generator) for part in rows.split(self.at_once)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            most = min(self.at_once, len(rows))
            if self.fabric.world_size > 1 or most == 1:
                raise RunError(
                    f"no memory for {most} molecules at once; lower batch_pairs or batch_molecules"
                ) from error
            self.at_once = -(-most // 2)
            log.warning("no memory for %d molecules at once; taking at most %d", len(rows), self.at_once)
            self.optimiser.zero_grad(set_to_none=True)
            return self.gradients(rows, generator)
        return sum(part[0] for part in parts), {name: sum(part[1][name] for part in parts) for name in parts[0][1]}

    def part_gradients(
        self, rows: Tensor, share: float, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and terms of some rows times their share of the batch; their gradients are added up."""
        with torch.autocast(self.fabric.device.type, torch.bfloat16, enabled=self.bfloat16):
            loss, terms = self.task.loss(self.network, rows, generator=generator)
        self.fabric.backward(loss * share)
        return loss.detach() * share, {name: value * share for name, value in terms.items()}

    def skips(self, norm: Tensor) -> bool:
        """Whether this update is left out, as its gradient is an outlier; remembers the norm."""
        if not self.config.skip_above:
            return False
        state, value = self.progress, float(norm)
        outlier = is_outlier(value, state.recent, times=self.config.skip_above)
        state.recent = [*state.recent, value][-RECENT:]
        if outlier:
            state.skipped += 1
            log.warning("step %d: update left out, its gradient norm is %.3g", state.step, value)
        return outlier

    def step(self) -> dict[str, float]:
        """One update; returns what was measured. Raises RunError when the loss or its gradient is not finite."""
        state = self.progress
        rate = learning_rate(self.config, state.step, state.total_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        rows = self.next_rows()
        device = self.fabric.device
        generator = generator_from(self.config.seed, self.fabric.global_rank, state.step, device=device)
        self.optimiser.zero_grad(set_to_none=True)
        loss, terms = self.gradients(rows, generator)
        norm = self.clip()
        self.unchecked = self.unchecked + loss + norm
        if device.type == "cpu" or state.step % self.config.log_every == 0:  # looking makes a GPU wait
            self.require_finite(f"loss {float(loss):.4g}, gradient norm {float(norm):.4g}")
        if not self.skips(norm):
            self.optimiser.step()
            self.average.update_parameters(self.raw)
        state.step += 1
        return {"loss": loss, "gradient_norm": norm, "learning_rate": rate, **terms}

    def require_finite(self, found: str = "loss or gradient norm") -> None:
        """Raise RunError when the loss or the gradient norm of a step since the last look was not finite."""
        if bool(torch.isfinite(self.unchecked)):
            self.unchecked = torch.zeros_like(self.unchecked)
            return
        saved = (self.out / run_folder.STATE).is_file()
        advice = (
            f"the last good checkpoint in {self.out} is kept; lower learning_rate, then continue with --resume"
            if saved
            else f"nothing was saved yet in {self.out}; lower learning_rate and start again"
        )
        raise RunError(f"step {self.progress.step}: {found} are not finite; {advice}")

    def tensors(self) -> dict[str, Tensor]:
        """Raw weights, averaged weights and optimiser state by name."""
        named = dict(self.raw.named_parameters())
        found = {f"raw.{name}": value for name, value in self.raw.state_dict().items()}
        found |= {f"average.{name}": value for name, value in self.average.module.state_dict().items()}
        found["average_count"] = self.average.n_averaged
        for name, parameter in named.items():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                found[f"optimiser.{key}.{name}"] = value
        return found

    def save(self) -> None:
        """Write the checkpoint and the averaged weights (first process only). Raises RunError as `step` does."""
        self.require_finite()
        if self.fabric.is_global_zero:
            self.task.save_weights(self.out, self.average.module)
            run_folder.save_state(self.out, self.tensors(), self.progress.numbers())

    def restore(self) -> None:
        """Continue from the checkpoint in the run folder. Raises InvalidInput when it does not fit this model."""
        tensors, numbers = run_folder.load_state(self.out)
        try:
            self.raw.load_state_dict(_under("raw.", tensors))
            self.average.module.load_state_dict(_under("average.", tensors))
            self.average.n_averaged.copy_(tensors["average_count"])
            self.progress = Progress(**numbers)
        except (RuntimeError, KeyError, TypeError) as error:
            raise InvalidInput(f"{self.out}: the checkpoint belongs to another model; use another --out") from error
        named = dict(self.raw.named_parameters())
        for entry, value in _under("optimiser.", tensors).items():
            key, name = entry.split(".", 1)  # what the optimiser keeps, and of which parameter
            self.optimiser.state[named[name]][key] = value.to(named[name].device)

    def snapshot_due(self) -> bool:
        """Whether this step keeps a snapshot: snapshot_from and its doublings."""
        first = self.config.snapshot_from
        ratio = self.progress.step / first if first else 0.0
        return ratio >= 1.0 and ratio.is_integer() and int(ratio) & (int(ratio) - 1) == 0


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def train(
    task: Task,
    network: nn.Module,
    config: TrainConfig,
    *,
    out: Path,
    fabric: Fabric,
    time_budget: float | None = None,
    resume: bool = False,
    total_steps: int | None = None,
    started_from: str | None = None,
    earlier_passes: int = 0,
    on_step: Callable[[int], None] | None = None,
    progress_bar: bool = True,
) -> TrainResult:
    """Train until total_steps or the time budget (seconds), whichever comes first; the run folder stays resumable.

    resume continues the run in `out`. started_from names the weights a new run begins with, earlier_passes what they
    had seen; both are recorded, and passes are counted on.

    Raises InvalidInput when `out` already holds a run and resume is false, or none and it is true, RunError when a step
    is not finite.
    """
    with locked(out) if fabric.is_global_zero else nullcontext():
        has_run = run_folder.has_run(out)
        if has_run and not resume:
            raise InvalidInput(f"{out}: already holds a run; continue it with --resume, or choose another --out")
        if resume:
            run_folder.require_run(out)
        if has_run and config.precision == "auto":  # to continue exactly
            config = replace(config, precision=run_folder.stored_precision(out) or "auto")
        trainer = Trainer(task, network, config, out, fabric)
        if has_run:
            trainer.restore()
            if fabric.is_global_zero:
                run_folder.keep_lines_until(out / "metrics.jsonl", trainer.progress.step)
        else:
            trainer.progress.passes = earlier_passes
        if total_steps is not None:
            trainer.progress.total_steps = total_steps
        _write_header(trainer, config, resumed=has_run, time_budget=time_budget, started_from=started_from)
        return _run(trainer, time_budget, on_step, progress_bar and fabric.is_global_zero)


def _write_header(
    trainer: Trainer, config: TrainConfig, *, resumed: bool, time_budget: float | None, started_from: str | None
) -> None:
    """training.yaml at the start of a run, and one provenance line a session."""
    if not trainer.fabric.is_global_zero:
        return
    write_yaml(trainer.out / "training.yaml", asdict(config))
    record = run_folder.provenance(
        resumed=resumed,
        started_from=None if started_from is None else Path(started_from).name,
        passes=trainer.progress.passes,
        step=trainer.progress.step,
        total_steps=trainer.progress.total_steps,
        time_budget=time_budget,
        device=str(trainer.fabric.device),
        processes=trainer.fabric.world_size,
        autocast_bfloat16=trainer.bfloat16,
        network=type(trainer.raw).__name__,
        network_precision=getattr(trainer.raw, "precision", "float32"),
        engine=config.engine,
    )
    run_folder.append_json(trainer.out / "provenance.jsonl", record)


def _run(trainer: Trainer, time_budget: float | None, on_step: Callable[[int], None] | None, show: bool) -> TrainResult:
    """The session; saved at its end unless a step was not finite (then the last good checkpoint stays)."""
    session = Session(trainer, time_budget, show=show)
    try:
        with signals_to(session.ask_stop):
            session.run(on_step)
    finally:
        session.bar.close()
    trainer.save()
    state = trainer.progress
    finished = bool(state.total_steps) and state.step >= state.total_steps
    return TrainResult(state.step, state.total_steps, state.passes, state.seconds, finished, session.last_loss())
