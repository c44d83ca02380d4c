"""A tiny training: random molecules, a network of width 16, and the loop on one CPU."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from molkit.edm.config import EdmConfig
from molkit.edm.model import build
from molkit.edm.training import EdmTask, engine_for
from molkit.molecule import Molecule, PackedMolecules
from molkit.training.config import TrainConfig
from molkit.training.loop import TrainResult, make_fabric, train
from molkit.training.run_folder import load_state

TINY = EdmConfig(width=16, num_layers=2)
TINY_YAML = "method: edm\nmodel: {width: 16, num_layers: 2}\ntraining: {batch_pairs: 600, log_every: 2, %s}\n"


def random_molecules(count: int = 60, *, seed: int = 0) -> PackedMolecules:
    """Molecules of 2 to 8 random atoms at random places."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(2, 9, (count,), generator=generator).tolist()
    return PackedMolecules.from_molecules(
        Molecule(
            [(1, 6, 7, 8)[k] for k in torch.randint(0, 4, (size,), generator=generator)],
            torch.randn(size, 3, generator=generator, dtype=torch.float64).numpy(),
        )
        for size in sizes
    )


def settings(**changes) -> TrainConfig:
    """Small batches, a short warm-up, no snapshots, a log line each step, a checkpoint at the end only."""
    defaults = {"batch_pairs": 150, "learning_rate": 1e-3, "warmup_steps": 3, "total_steps": 12, "ema_decay": 0.9}
    bookkeeping = {"log_every": 1, "checkpoint_seconds": 1e9, "snapshot_from": 0}
    numerics = {"precision": "float32", "engine": "readable"}
    return TrainConfig(**defaults | bookkeeping | numerics | changes)


def run(out: Path, *, task=None, model: EdmConfig = TINY, config: TrainConfig | None = None, **options) -> TrainResult:
    """Train the tiny model in a folder."""
    config = config or settings()
    fabric = make_fabric("cpu")
    task = task or EdmTask(model, random_molecules(), config)
    network = engine_for(build(model, seed=config.seed).network, config, fabric.device)
    return train(task, network, config, out=out, fabric=fabric, progress_bar=False, **options)


def metrics(out: Path) -> list[dict]:
    """The log lines of a run, each of which must be valid JSON."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(out: Path) -> dict[str, torch.Tensor]:
    """The averaged weights of a run."""
    return load_file(out / "weights.safetensors")


def same_state(one: Path, other: Path) -> bool:
    """Whether two checkpoints agree bit for bit in everything but the seconds they took."""
    (tensors, numbers), (others, other_numbers) = load_state(one), load_state(other)
    numbers.pop("seconds"), other_numbers.pop("seconds")
    equal = all(torch.equal(tensors[name], others[name]) for name in tensors)
    return tensors.keys() == others.keys() and numbers == other_numbers and equal


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder and its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
