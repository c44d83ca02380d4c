"""What is kept beside published weights: samples, learning curve, training facts; and how a run is published."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from molkit.data.packed import read_packed
from molkit.edm.config import QM9_SIZES, EdmConfig
from molkit.edm.model import load, resolve, save
from molkit.edm.property_network import load_property, save_property
from molkit.errors import DataNotFound, InvalidInput
from molkit.molecule import PackedMolecules
from molkit.training.publishing import Publication
from molkit.training.run_folder import load_state


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


def publication(
    run: Path,
    *,
    sample_calls: int | None = None,
    sample_seed: int | None = None,
    samples_requested: int | None = None,
    sampler: str | None = None,
    remarks: Sequence[str] = (),
) -> Publication:
    """The averaged weights of a run of EDM, and how its samples were drawn; the card comes with their scores."""
    edm = load(run, fast=False)
    facts = replace(
        _facts(run, edm.config, load_state(run)[1]),
        sample_calls=sample_calls,
        sample_seed=sample_seed,
        samples_requested=samples_requested,
        sampler=sampler,
        remarks=tuple(remarks),
    )
    metadata = {"step": facts.step, "passes": facts.passes}
    return Publication(run=run, save=partial(save, edm, half=True, metadata=metadata), facts=asdict(facts))


def snapshot_publication(run: Path, step: int) -> Publication:
    """The weights that a run of EDM kept at `step`, with a short card.

    Raises DataNotFound where the run kept no such snapshot or logged no such step.
    """
    source = run / "snapshots" / f"step_{step:08d}"
    if not (source / "weights.safetensors").is_file():
        kept = sorted(int(path.name[5:]) for path in (run / "snapshots").glob("step_*"))
        raise DataNotFound(f"{run}: no snapshot of step {step}; kept are {', '.join(map(str, kept)) or 'none'}")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    logged = next((line for line in lines if line["step"] == step), None)
    if logged is None:
        raise DataNotFound(f"{run / 'metrics.jsonl'}: step {step} was not logged, so its passes are not known")
    edm = load(source, fast=False)
    facts = _facts(run, edm.config, {"step": step, "passes": logged["passes"], "seconds": logged["seconds"]})
    told = [
        f"Step {facts.step:,}, {facts.passes:,} molecule passes ({facts.epochs:.2f} epochs), "
        f"{facts.seconds / 3600:.2f} h of wall time, {facts.device}.",
        f"Squared error per noise component while training: {logged['noise_error']:.4f}.",
        "Weights: exponential average, stored in half precision. Kept to show what is learned when; molecules sampled "
        "from it are worse than those of the finished training.",
    ]
    return Publication(
        run=run,
        save=partial(save, edm, half=True, metadata={"step": facts.step, "passes": facts.passes}),
        facts=asdict(facts),
        subject="an early state of a training",
        told=told,
        kept=(),
    )


def property_publication(run: Path, *, num_molecules: int) -> Publication:
    """The averaged weights of a property network's run; num_molecules is the size of its training part."""
    model = load_property(run)
    numbers = load_state(run)[1]
    facts = replace(_facts(run, EdmConfig(), numbers), epochs=round(numbers["passes"] / num_molecules, 2))

    def write(folder: Path) -> None:
        save_property(folder, model.config, model.network, half=True)

    return Publication(run=run, save=write, facts=asdict(facts))


def training_molecules(config: EdmConfig) -> int:
    """Geometries of the training set behind a size histogram; the packed QM9 lacks 1,588 of the published ones."""
    return 98_412 if config.sizes == QM9_SIZES else sum(count for _, count in config.sizes)


def _facts(run: Path, config: EdmConfig, numbers: dict) -> TrainingFacts:
    """What the checkpoint and the last session say."""
    last = json.loads((run / "provenance.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return TrainingFacts(
        step=numbers["step"],
        passes=numbers["passes"],
        epochs=round(numbers["passes"] / training_molecules(config), 2),
        seconds=round(numbers["seconds"], 1),
        processes=last["processes"],
        device=f"{last['device']} ({last['processor']})",
        sample_calls=None,
        sample_seed=None,
    )
