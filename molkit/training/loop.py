"""One training loop for all methods: Lightning Fabric for devices and processes, our own step.

A step is a function of the checkpoint and its number: batches follow from (seed, epoch), noise from
(seed, rank, step), so a resumed run takes bit for bit the steps the uninterrupted one would have taken.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from molkit.config import from_dict, read_yaml
from molkit.errors import InvalidInput, RunError
from molkit.rng import generator_from
from molkit.training import run_folder
from molkit.training.batches import PairBatches
from molkit.training.config import TrainConfig
from molkit.training.schedule import NormQueue, learning_rate

log = logging.getLogger(__name__)

RATE_SECONDS = 60.0  # the rate measured in the first minute fixes the number of steps
SAVING_SHARE = 0.97  # share of the time budget that steps may use


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


def use_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether matrix work runs in bfloat16: on GPUs, and on CPUs whose AMX units make it pay."""
    if precision != "auto":
        return precision == "bfloat16"
    return device.type == "cuda" or bool(torch.cpu.get_capabilities().get("amx_bf16", False))


class Trainer:
    """State of one run: network, average, optimiser, progress. `train` below is the way in."""

    def __init__(self, task: Task, network: nn.Module, config: TrainConfig, out: Path, fabric: Fabric) -> None:
        self.task, self.config, self.out, self.fabric = task, config, out, fabric
        self.raw = network.to(fabric.device)
        self.average = AveragedModel(self.raw, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
        optimiser = torch.optim.AdamW(
            self.raw.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            amsgrad=config.amsgrad,
            fused=True,
        )
        self.network, self.optimiser = fabric.setup(network, optimiser)
        self.batches = PairBatches(task.num_atoms, config.batch_pairs, config.seed)
        self.progress = Progress(total_steps=config.total_steps)
        self.order: tuple[int, list[Tensor]] = (-1, [])
        self.bfloat16 = use_bfloat16(config.precision, fabric.device)

    def next_rows(self) -> Tensor:
        """Rows of this process's next batch; moves the progress on."""
        state, world = self.progress, self.fabric.world_size
        if self.order[0] != state.epoch:
            self.order = (state.epoch, self.batches.epoch(state.epoch))
        if state.batch + world > len(self.order[1]):
            state.epoch, state.batch = state.epoch + 1, 0
            self.order = (state.epoch, self.batches.epoch(state.epoch))
        if world > len(self.order[1]):
            raise InvalidInput(
                f"{len(self.task.num_atoms)} molecules make {len(self.order[1])} batches, fewer than the {world} "
                "processes; lower batch_pairs"
            )
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

    def step(self) -> dict[str, float]:
        """One update; returns what was measured. Raises RunError when the loss or its gradient is not finite."""
        state = self.progress
        rate = learning_rate(self.config, state.step, state.total_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        rows = self.next_rows()
        generator = generator_from(self.config.seed, self.fabric.global_rank, state.step)
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.fabric.device.type, torch.bfloat16, enabled=self.bfloat16):
            loss, terms = self.task.loss(self.network, rows, generator=generator)
        self.fabric.backward(loss)
        norm = self.clip()
        if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
            raise RunError(
                f"step {state.step}: loss {float(loss):.4g}, gradient norm {float(norm):.4g} are not finite; the last "
                f"good checkpoint in {self.out} is kept; lower learning_rate, then continue with --resume"
            )
        self.optimiser.step()
        self.average.update_parameters(self.raw)
        state.step += 1
        return {"loss": loss.detach(), "gradient_norm": norm, "learning_rate": rate, **terms}

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
        """Write the checkpoint and the averaged weights (first process only)."""
        if self.fabric.is_global_zero:
            self.task.save_weights(self.out, self.average.module)
            run_folder.save_state(self.out, self.tensors(), asdict(self.progress))

    def restore(self) -> None:
        """Continue from the checkpoint in the run folder. Raises InvalidInput when it does not fit this model."""
        tensors, numbers = run_folder.load_state(self.out)
        part = lambda prefix: {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}  # noqa: E731
        try:
            self.raw.load_state_dict(part("raw."))
            self.average.module.load_state_dict(part("average."))
        except RuntimeError as error:
            raise InvalidInput(f"{self.out}: the checkpoint belongs to another model; use another --out") from error
        self.average.n_averaged.copy_(tensors["average_count"])
        for name, parameter in self.raw.named_parameters():
            state = {}
            for key in ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
                if f"optimiser.{key}.{name}" in tensors:
                    state[key] = tensors[f"optimiser.{key}.{name}"].to(parameter.device)
            if state:
                self.optimiser.state[parameter] = state
        self.progress = Progress(**numbers)

    def snapshot_due(self) -> bool:
        """Whether this step keeps a snapshot: snapshot_from and its doublings."""
        first = self.config.snapshot_from
        ratio = self.progress.step / first if first else 0.0
        return ratio >= 1.0 and ratio.is_integer() and int(ratio) & (int(ratio) - 1) == 0

    def fix_total(self, elapsed: float, steps: int, time_budget: float | None) -> None:
        """Fix the number of steps once, from the rate measured so far and the time budget."""
        if self.progress.total_steps == 0 and time_budget and elapsed > min(RATE_SECONDS, 0.2 * time_budget):
            rate = steps / elapsed
            self.progress.total_steps = self.progress.step + int(rate * (SAVING_SHARE * time_budget - elapsed))
            log.info("%.2f steps a second: the run will take %d steps", rate, self.progress.total_steps)


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
    on_step: Callable[[int], None] | None = None,
    progress_bar: bool = True,
) -> TrainResult:
    """Train until total_steps or the time budget (seconds), whichever comes first; the run folder stays resumable.

    Raises InvalidInput when `out` already holds a run and resume is false, RunError when a step is not finite.
    """
    with run_folder.locked(out) if fabric.is_global_zero else _nothing():
        has_run = (out / run_folder.STATE).is_file()
        if has_run and not resume:
            raise InvalidInput(f"{out}: already holds a run; continue it with --resume, or choose another --out")
        trainer = Trainer(task, network, config, out, fabric)
        if has_run:
            trainer.restore()
        if total_steps is not None:
            trainer.progress.total_steps = total_steps
        _write_header(trainer, config, resumed=has_run, time_budget=time_budget)
        return _run(trainer, time_budget, on_step, progress_bar and fabric.is_global_zero)


class _nothing:
    """A context that does nothing, for processes that do not own the run folder."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _write_header(trainer: Trainer, config: TrainConfig, *, resumed: bool, time_budget: float | None) -> None:
    """training.yaml at the start of a run, and one provenance line a session."""
    if not trainer.fabric.is_global_zero:
        return
    run_folder.write_yaml(trainer.out / "training.yaml", asdict(config))
    record = run_folder.provenance(
        resumed=resumed,
        step=trainer.progress.step,
        total_steps=trainer.progress.total_steps,
        time_budget=time_budget,
        device=str(trainer.fabric.device),
        processes=trainer.fabric.world_size,
        bfloat16=trainer.bfloat16,
        engine=config.engine,
    )
    run_folder.append_json(trainer.out / "provenance.jsonl", record)


def _run(trainer: Trainer, time_budget: float | None, on_step: Callable[[int], None] | None, show: bool) -> TrainResult:
    """The loop itself; saves at the end whatever ends it, except a step that was not finite."""
    state, config = trainer.progress, trainer.config
    started = logged = saved = time.monotonic()
    before, first_step, first_passes = state.seconds, state.step, state.passes
    sums: dict[str, Any] = {}
    loss = float("nan")
    bar = tqdm(total=state.total_steps or None, initial=state.step, disable=not show, unit="step", mininterval=2.0)
    try:
        while not state.total_steps or state.step < state.total_steps:
            elapsed = time.monotonic() - started
            if _agree(trainer, time_budget is not None and elapsed > SAVING_SHARE * time_budget):
                break
            for name, value in trainer.step().items():
                sums[name] = sums.get(name, 0.0) + value
            now = time.monotonic()
            state.seconds = before + now - started
            trainer.fix_total(now - started, state.step - first_step, time_budget)
            if state.step % config.log_every == 0:
                means = {name: float(value) / config.log_every for name, value in sums.items()}
                loss, sums = means["loss"], {}
                rate = (state.passes - first_passes) / max(now - logged, 1e-9)
                logged, first_passes = now, state.passes
                bar.total = state.total_steps or None
                bar.set_postfix(loss=f"{loss:.4f}", mol_s=f"{rate:.0f}")
                if trainer.fabric.is_global_zero:
                    record = {"step": state.step, "epoch": state.epoch, "passes": state.passes, "rate": round(rate, 1)}
                    record |= {"seconds": round(state.seconds, 1)} | {k: round(v, 7) for k, v in means.items()}
                    run_folder.append_json(trainer.out / "metrics.jsonl", record)
            bar.update(1)
            if trainer.snapshot_due() and trainer.fabric.is_global_zero:
                trainer.task.save_weights(trainer.out / "snapshots" / f"step_{state.step:08d}", trainer.average.module)
            if now - saved > config.checkpoint_seconds:
                trainer.save()
                saved = now
            if on_step is not None:
                on_step(state.step)
    except KeyboardInterrupt:
        log.warning("interrupted at step %d; saving", state.step)
    finally:
        bar.close()
    trainer.save()
    if sums and state.step % config.log_every:
        loss = float(sums["loss"]) / (state.step % config.log_every)
    finished = bool(state.total_steps) and state.step >= state.total_steps
    return TrainResult(state.step, state.total_steps, state.passes, state.seconds, finished, loss)


def _agree(trainer: Trainer, stop: bool) -> bool:
    """Whether the first process says stop: all processes leave the loop at the same step."""
    if trainer.fabric.world_size == 1:
        return stop
    return bool(trainer.fabric.broadcast(stop, src=0))


def stored_config(out: Path, config: TrainConfig, **overrides: Any) -> TrainConfig:
    """The training configuration a run was started with, or `config` for a new run; then the overrides."""
    path = out / "training.yaml"
    if path.is_file():
        config = from_dict(TrainConfig, read_yaml(path), source=str(path))
    return replace(config, **overrides)
