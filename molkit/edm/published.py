"""What is kept beside published weights: samples, learning curve, training facts."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molkit.data.packed import read_packed
from molkit.edm.model import resolve
from molkit.errors import DataNotFound, InvalidInput
from molkit.molecule import PackedMolecules


@dataclass(frozen=True)
class TrainingFacts:
    """What a run had seen and cost when its weights were published."""

    step: int
    passes: int  # molecules shown to the network
    epochs: float
    seconds: float  # wall clock, all sessions together
    processes: int
    device: str
    sample_calls: int | None  # network calls behind the stored samples
    sample_seed: int | None
    samples_requested: int | None = None  # chains that did not stay finite are missing among the stored samples
    sampler: str | None = None  # name of the sampler behind the stored samples
    remarks: tuple[str, ...] = ()  # what a reader of the figures must know about the run


def training_facts(weights: str | Path) -> TrainingFacts:
    """Facts of published weights. Raises DataNotFound for a run that was not published."""
    path = resolve(weights) / "training.json"
    if not path.is_file():
        raise DataNotFound(f"{path}: no training facts; publish the run with `molkit publish RUN NAME`")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return TrainingFacts(**{**facts, "remarks": tuple(facts.get("remarks", ()))})
    except (json.JSONDecodeError, TypeError) as error:
        raise InvalidInput(f"{path}: not the facts of a training ({error})") from error


def stored_samples(weights: str | Path) -> PackedMolecules:
    """The molecules sampled with these weights when they were published. Raises DataNotFound."""
    path = resolve(weights) / "samples.npz"
    if not path.is_file():
        raise DataNotFound(f"{path}: no stored samples; draw some with `molkit sample {weights} --out FILE.npz`")
    return read_packed(path)


def num_failed_chains(weights: str | Path) -> int:
    """How many of the chains behind the stored samples did not stay finite (0 where that was not noted)."""
    requested = training_facts(weights).samples_requested
    return 0 if requested is None else requested - len(stored_samples(weights))


def sessions(weights: str | Path) -> list[dict[str, Any]]:
    """One record for every session of the training, oldest first. Raises DataNotFound or InvalidInput."""
    return _json_lines(resolve(weights) / "provenance.jsonl", "record of the training sessions")


def learning_curve(weights: str | Path) -> list[dict[str, Any]]:
    """The log lines of the training, oldest first. Raises DataNotFound or InvalidInput."""
    return _json_lines(resolve(weights) / "metrics.jsonl", "learning curve")


def _json_lines(path: Path, what: str) -> list[dict[str, Any]]:
    if not path.is_file():
        raise DataNotFound(f"{path}: no {what} was kept with these weights")
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{path}: not a file of JSON lines ({error})") from error
