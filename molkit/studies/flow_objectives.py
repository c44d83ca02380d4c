"""The flow trained by matching beside the same flow trained on by likelihood, the paper's objective.

Three flows: the published weights, and two continuations of them over the same time on the same data, one by each
objective. Compared are exact likelihoods of held-back minima, coverage of test ensembles, and what a step costs. Which
molecules and how many is fixed here and not chosen after looking.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch

from molkit.cgcf.conformer_set import Batcher
from molkit.cgcf.datasets import qm9_minima
from molkit.cgcf.model import build_flow, load_flow
from molkit.cgcf.publish import part_facts
from molkit.cgcf.task import FlowTask
from molkit.claims.ledger import REPOSITORY
from molkit.claims.provenance import commit
from molkit.data.registry import sha256_of
from molkit.errors import DataNotFound, InvalidInput
from molkit.experiments.run import run
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.rng import generator_from
from molkit.studies.conformers.arms import tasks_on
from molkit.studies.conformers.comparison import per_molecule
from molkit.studies.conformers.flow import measure
from molkit.studies.conformers_live import MAX_EXACT_PAIRS, nats_per_pair
from molkit.training.files import write_text
from molkit.training.run_folder import provenance
from molkit.training.weights import resolve

STORED = REPOSITORY / "data" / "studies" / "flow_objectives.json"
NUM_HELD_BACK = 60  # QM9 minima of the validation split, spread evenly
NUM_TEST = 40  # test ensembles, spread evenly
MAX_REFERENCES = 8
THRESHOLD = 0.5
ARMS = ("flow", "flow_ff")
COUNTED = ("cov_recall", "mat_recall")
BATCH = 32  # conformers of a timed step
ROUNDS = 5
DIGITS = 4


@dataclass(frozen=True)
class FlowRow:
    """One flow: what its last run saw, and its numbers for each molecule by name."""

    name: str
    objective: str  # of its last run
    steps: int
    passes: int  # conformers seen in that run
    noised: Mapping[str, float]  # -log p(d|G) per pair with the noise of training, nats
    clean: Mapping[str, float]
    scores: Mapping[str, Mapping[str, float | None]]  # "arm measure" to molecules

    def values(self, what: str) -> Mapping[str, float | None]:
        """Numbers of each molecule: `noised`, `clean`, or an arm and a measure."""
        return getattr(self, what) if what in ("noised", "clean") else self.scores[what]


@dataclass
class ObjectiveStudy:
    """The flows in the order they were given, the first being the one the others began with; cost of training."""

    flows: list[FlowRow] = field(default_factory=list)
    milliseconds: dict[str, float] = field(default_factory=dict)  # CPU of a training step a conformer, by objective
    made: dict[str, Any] = field(default_factory=dict)


def run_study(sources: Sequence[str], folder: Path, *, report: Callable[[str], None] = print) -> ObjectiveStudy:
    """Measure the flows (published names or run folders), each kept in the folder as soon as it is done.

    Raises InvalidInput for fewer than two flows, and what loading them raises.
    """
    if len(sources) < 2:
        raise InvalidInput("a comparison needs the flow that was trained first and at least one that goes on from it")
    head, dirty = commit()
    hashes = {resolve(source).name: sha256_of(resolve(source) / "weights.safetensors") for source in sources}
    found = ObjectiveStudy(made=provenance() | {"commit": head, "dirty": dirty, "weights_sha256": hashes})
    for source in sources:
        kept = folder / f"{resolve(source).name}.json"
        if not kept.is_file():
            write_text(kept, json.dumps(asdict(measured(source))) + "\n")
        found.flows.append(FlowRow(**json.loads(kept.read_text(encoding="utf-8"))))
        report(f"{source}: {len(found.flows[-1].noised)} likelihoods, {NUM_TEST} ensembles")
    found.milliseconds = {objective: step_cost(sources[0], objective) for objective in ("matching", "likelihood")}
    return found


def measured(source: str) -> FlowRow:
    """All numbers of one flow."""
    noised, clean = likelihoods(source, num_molecules=NUM_HELD_BACK)
    about = last_run(resolve(source))
    return FlowRow(resolve(source).name, *about, noised, clean, coverage(source))


def last_run(folder: Path) -> tuple[str, int, int]:
    """Objective, steps and conformer passes of the run that ended with these weights."""
    if (folder / "training.json").is_file():
        part = json.loads((folder / "training.json").read_text(encoding="utf-8"))["parts"][-1]
    else:
        part = part_facts(folder)
    return part["objective"], int(part["step"]), int(part["passes"])


def likelihoods(source: str, *, num_molecules: int, seed: int = 0) -> tuple[dict[str, float], dict[str, float]]:
    """-log p(d|G) per pair of held-back minima with noise and without, exact; the same noise for every flow."""
    flow, data = load_flow(source).flow.double(), qm9_minima("valid", limit=num_molecules)
    batcher, noised, clean = Batcher(data), {}, {}
    for row, name in enumerate(data.names):
        graph = flow.graph(batcher.graph(torch.tensor([row])))
        if graph.pairs.shape[1] > MAX_EXACT_PAIRS:
            continue
        exact = graph.distances(batcher.positions(torch.tensor([row])).double())
        noise = torch.randn(exact.shape, generator=generator_from("objectives", seed, name), dtype=torch.float64)
        with torch.no_grad():
            clean[name] = round(nats_per_pair(flow, graph, exact), DIGITS)
            noised[name] = round(nats_per_pair(flow, graph, exact + flow.config.noise * noise), DIGITS)
    return noised, clean


def coverage(source: str) -> dict[str, dict[str, float | None]]:
    """COV-R and MAT-R of test ensembles at the converged search, wrong stereo redrawn, with and without MMFF94."""
    tasks = tasks_on(
        "ensembles_qm9",
        split="test",
        molecules=NUM_TEST,
        seeds=(0,),
        arms=ARMS,
        weights=str(source),
        energy="",
        threshold=THRESHOLD,
        max_references=MAX_REFERENCES,
        stereo="redraw",
    )
    found = per_molecule(run(measure, tasks)).replace({np.nan: None}).set_index("molecule")
    return {f"{arm} {what}": found.loc[found["arm"] == arm, what].to_dict() for arm in ARMS for what in COUNTED}


def step_cost(source: str, objective: str) -> float:
    """CPU milliseconds of loss and gradient for one conformer, median over rounds, batches of equal size."""
    start, data = load_flow(source).flow, qm9_minima("train", limit=BATCH)
    flow = build_flow(start.config)
    flow.load_state_dict(start.state_dict())
    task, generator = FlowTask(data, objective=objective, noise=start.config.noise), torch.Generator().manual_seed(0)
    rows, seconds = torch.arange(len(data)), []
    for _ in range(ROUNDS + 1):
        began = process_time()
        loss, _ = task.loss(flow.train(), rows, generator=generator)
        loss.backward()
        seconds.append(process_time() - began)
    return round(1e3 * float(np.median(seconds[1:])) / len(data), 2)


def mean_of(row: FlowRow, what: str) -> Interval:
    """Mean over molecules with its bootstrap interval."""
    return bootstrap_interval(np.array([value for value in row.values(what).values() if value is not None]))


def change(row: FlowRow, start: FlowRow, what: str) -> Interval:
    """Mean over molecules of the paired difference row - start, with its bootstrap interval."""
    first, second = row.values(what), start.values(what)
    pairs = [(first[name], second[name]) for name in first if first[name] is not None and second.get(name) is not None]
    return bootstrap_interval(np.array([a - b for a, b in pairs]))


def write_study(study: ObjectiveStudy, path: Path) -> None:
    """Keep a study as JSON. Raises RunError when the disk refuses."""
    write_text(path, json.dumps(asdict(study), separators=(",", ":")) + "\n")


def stored_study(path: Path = STORED) -> ObjectiveStudy:
    """A stored study. Raises DataNotFound or InvalidInput."""
    if not path.is_file():
        raise DataNotFound(f"{path}: no such study; `molkit study flow-objectives` makes it")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return ObjectiveStudy([FlowRow(**row) for row in values["flows"]], values["milliseconds"], values["made"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path}: not a study of objectives ({error})") from error
