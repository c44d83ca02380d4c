"""A run becomes published weights: half precision, learning curve, facts, samples and a card."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from molkit.edm.config import QM9_SIZES, EdmConfig
from molkit.edm.model import WEIGHTS_ROOT, load, save
from molkit.edm.property_network import load_property, save_property
from molkit.edm.published import TrainingFacts
from molkit.errors import DataNotFound, InvalidInput
from molkit.training.publishing import keep_training, write_card, write_facts
from molkit.training.run_folder import load_state
from molkit.training.weights import folder_to_publish

MAX_FILE_BYTES = 15 * 2**20


def publish(
    run: Path,
    name: str,
    *,
    samples: Path | None = None,
    sample_calls: int | None = None,
    sample_seed: int | None = None,
    samples_requested: int | None = None,
    sampler: str | None = None,
    remarks: Sequence[str] = (),
    root: Path = WEIGHTS_ROOT,
) -> Path:
    """Write the averaged weights of `run` to root/name with all that a page needs; returns the folder.

    Raises DataNotFound when the run or the samples are absent, InvalidInput for a name with a separator, weights that
    are not finite in half precision, or a file above 15 MiB.
    """
    folder = folder_to_publish(name, root)
    if samples is not None and not samples.is_file():
        raise DataNotFound(f"{samples}: no such file")
    edm = load(run, fast=False)
    _, numbers = load_state(run)
    facts = replace(
        _facts(run, edm.config, numbers),
        sample_calls=sample_calls,
        sample_seed=sample_seed,
        samples_requested=samples_requested,
        sampler=sampler,
        remarks=tuple(remarks),
    )
    save(edm, folder, half=True, metadata={"step": facts.step, "passes": facts.passes})
    keep_training(run, folder, asdict(facts))
    if samples is not None:
        shutil.copyfile(samples, folder / "samples.npz")
    for path in folder.iterdir():
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidInput(f"{path}: {path.stat().st_size} bytes, above the 15 MiB a published file may have")
    return folder


def publish_snapshot(run: Path, step: int, name: str, *, root: Path = WEIGHTS_ROOT) -> Path:
    """Write the weights that a run kept at `step` to root/name, with facts and a short card; returns the folder.

    Raises DataNotFound where the run kept no such snapshot or logged no such step.
    """
    folder = folder_to_publish(name, root)
    source = run / "snapshots" / f"step_{step:08d}"
    if not (source / "weights.safetensors").is_file():
        kept = sorted(int(path.name[5:]) for path in (run / "snapshots").glob("step_*"))
        raise DataNotFound(f"{run}: no snapshot of step {step}; kept are {', '.join(map(str, kept)) or 'none'}")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    logged = next((line for line in lines if line["step"] == step), None)
    if logged is None:
        raise DataNotFound(f"{run / 'metrics.jsonl'}: step {step} was not logged, so its passes are not known")
    edm = load(source, fast=False)
    numbers = {"step": step, "passes": logged["passes"], "seconds": logged["seconds"]}
    facts = _facts(run, edm.config, numbers)
    save(edm, folder, half=True, metadata={"step": facts.step, "passes": facts.passes})
    write_facts(folder, asdict(facts))
    told = [
        f"Step {facts.step:,}, {facts.passes:,} molecule passes ({facts.epochs:.2f} epochs), "
        f"{facts.seconds / 3600:.2f} h of wall time, {facts.device}.",
        f"Squared error per noise component while training: {logged['noise_error']:.4f}.",
        "Weights: exponential average, stored in half precision. Kept to show what is learned when; molecules sampled "
        "from it are worse than those of the finished training.",
    ]
    write_card(folder, f"{name}: an early state of a training", told)
    return folder


def publish_property(run: Path, name: str, *, num_molecules: int, root: Path = WEIGHTS_ROOT) -> Path:
    """Write the averaged weights of a property network's run to root/name; returns the folder. Raises as `publish`.

    num_molecules is the size of its training part.
    """
    folder = folder_to_publish(name, root)
    model = load_property(run)
    _, numbers = load_state(run)
    facts = replace(_facts(run, EdmConfig(), numbers), epochs=round(numbers["passes"] / num_molecules, 2))
    save_property(folder, model.config, model.network, half=True)
    keep_training(run, folder, asdict(facts))
    return folder


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
