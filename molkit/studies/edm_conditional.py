"""Molecules with a wanted property: the paper's four rows, a sweep, and what the judge itself is worth."""

from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import nn

from molkit.claims.ledger import Measurement
from molkit.claims.store import record
from molkit.data.packed import read_packed, write_packed
from molkit.data.qm9_labels import NAMES, PROPERTIES, LabelledMolecules, Property, load_labelled
from molkit.data.registry import data_path, load_arrays
from molkit.edm.conditions import ConditionTable, context_of, read_table
from molkit.edm.guidance import guided
from molkit.edm.model import Edm, load, resolve
from molkit.edm.property_network import load_property
from molkit.edm.published import training_facts
from molkit.edm.samplers import DEFAULT, sampler_named
from molkit.edm.sampling import sample
from molkit.errors import DataNotFound
from molkit.metrics.energies import mean_absolute_error
from molkit.metrics.stability import stability
from molkit.metrics.statistics import Interval, proportion_interval, ratio_interval
from molkit.molecule import PackedMolecules
from molkit.rng import fork, generator_from

SAMPLES = "samples.npz"
GUIDED_SAMPLES = "samples_guided.npz"
GUIDANCE = 2.0  # scale of the guided row, fixed before its table was seen
CHUNK = 250  # molecules per task
ROWS = ("naive", "num_atoms", "edm", "data")  # of the paper
GUIDED = "guided"  # a row of ours
LABELS = {
    "naive": "Naive: shuffled labels",
    "num_atoms": "number of atoms only",
    "edm": "EDM, asked for the value",
    "guided": f"EDM, guidance scale {GUIDANCE:g}",
    "data": "QM9's own molecules",
}
LARGEST = 29.0  # atoms; the number of atoms enters the baseline divided by it


@dataclass(frozen=True)
class Asked:
    """Generated molecules and what each was asked for: one property by its number, and its value; the scale used."""

    molecules: PackedMolecules
    prop: np.ndarray  # [B], position in NAMES
    value: np.ndarray  # [B], in the property's unit
    num_failed: tuple[int, ...]  # chains of each property that gave no molecule
    scale: float = 1.0  # of guidance


@dataclass(frozen=True)
class ErrorTable:
    """Mean absolute errors by row and property in the tables' units, and what was recorded for the ledger."""

    errors: dict[str, dict[str, Interval]]
    counts: dict[str, int]
    num_failed: tuple[int, ...]
    stability: dict[str, tuple[Interval, Interval]]  # of the rows made by the model: atoms, molecules
    num_calls: int
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True)
class Sweep:
    """One noise, many wanted values: molecules, the values, and what the judge finds."""

    molecules: PackedMolecules
    asked: np.ndarray
    found: np.ndarray
    num_failed: int


def ask(edm: Edm, table: ConditionTable, name: str, count: int, *, num_calls: int, seed: int, chunk: int) -> Asked:
    """`count` molecules, each asked for one value of the property: M by p(M), the value by p(c | M).

    Sizes, values and noise follow from (seed, property, chunk) alone. Molecules of sizes without a label are not asked.
    """
    generator = generator_from("conditional", seed, name, chunk)
    random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    k = NAMES.index(name)
    known = table.histogram[k].sum(axis=1) > 0
    sizes = table.draw_sizes(count, generator=random, weights=table.counts * known)
    values = table.draw_values(name, sizes, generator=random)
    molecules, kept = _draw(edm, name, sizes, values, num_calls, fork(generator, count))
    failed = tuple(count - len(molecules) if entry == name else 0 for entry in NAMES)
    return Asked(molecules, np.full(len(kept), k), values[kept], failed)


def _draw(
    edm: Edm, name: str, sizes: np.ndarray, values: np.ndarray, num_calls: int, generators: list[torch.Generator]
) -> tuple[PackedMolecules, np.ndarray]:
    """Molecules of these sizes asked for these values, and the rows that gave one."""
    wanted = torch.full((len(sizes), len(edm.config.context_names)), float("nan"), dtype=torch.float64)
    wanted[:, edm.config.context_names.index(name)] = torch.from_numpy(values)
    result = sample(
        edm,
        torch.from_numpy(sizes),
        generator=generators,
        num_calls=num_calls,
        sampler=sampler_named(DEFAULT.sampler),
        context=context_of(edm.config, wanted),
    )
    return result.molecules, np.delete(np.arange(len(sizes)), list(result.failed))


def ask_chunk(weights: str, name: str, count: int, num_calls: int, seed: int, chunk: int, scale: float) -> Asked:
    """One task of a farm."""
    torch.set_num_threads(1)
    asked = ask(
        guided(load(weights, precision="auto"), scale),
        read_table(resolve(weights)),
        name,
        count,
        num_calls=num_calls,
        seed=seed,
        chunk=chunk,
    )
    return replace(asked, scale=scale)


def ask_many(
    weights: str, count: int, *, num_calls: int, seed: int, scale: float = 1.0, executor: Executor | None = None
) -> Asked:
    """`count` molecules for each of the six properties, the same for any executor; scale as in `edm.guidance`."""
    jobs = [
        (weights, name, min(CHUNK, count - start), num_calls, seed, chunk, scale)
        for name in NAMES
        for chunk, start in enumerate(range(0, count, CHUNK))
    ]
    if executor is None:
        return join([ask_chunk(*job) for job in jobs])
    return join([future.result() for future in [executor.submit(ask_chunk, *job) for job in jobs]])


def join(parts: list[Asked]) -> Asked:
    """Tasks one after the other."""
    molecules = PackedMolecules(
        *[
            np.concatenate([getattr(p.molecules, f) for p in parts])
            for f in ("num_atoms", "atomic_numbers", "positions")
        ]
    )
    failed = tuple(sum(part.num_failed[k] for part in parts) for k in range(len(NAMES)))
    columns = [np.concatenate([getattr(part, f) for part in parts]) for f in ("prop", "value")]
    return Asked(molecules, *columns, failed, parts[0].scale)


def keep(asked: Asked, folder: Path, *, num_calls: int, seed: int) -> Path:
    """Store the samples beside the weights they came from."""
    path = folder / (SAMPLES if asked.scale == 1.0 else GUIDED_SAMPLES)
    facts = {"num_failed": np.array(asked.num_failed), "num_calls": np.array(num_calls), "seed": np.array(seed)}
    facts["scale"] = np.array(asked.scale)
    write_packed(path, asked.molecules, prop=asked.prop.astype(np.uint8), value=asked.value.astype(np.float32), **facts)
    return path


def stored(weights: str, name: str = SAMPLES) -> tuple[Asked, int]:
    """The samples kept with the weights, and the steps of each chain. Raises DataNotFound."""
    path = resolve(weights) / name
    if not path.is_file():
        raise DataNotFound(f"{path}: no stored samples; make them with `molkit study conditional {weights}`")
    extra = load_arrays(path)
    failed = tuple(int(number) for number in extra["num_failed"])
    scale = float(extra.get("scale", 1.0))
    asked = Asked(read_packed(path), extra["prop"].astype(int), extra["value"].astype(float), failed, scale)
    return asked, int(extra["num_calls"])


def judge_error(judge: str, part: LabelledMolecules) -> dict[str, Interval]:
    """Mean absolute error of the judge on labelled molecules, in the tables' units."""
    found = load_property(judge).predict(part.molecules)
    return {
        entry.name: mean_absolute_error(found[:, k], part.labels[:, k]).scaled(entry.to_table)
        for k, entry in enumerate(PROPERTIES)
    }


def naive_error(judge: str, part: LabelledMolecules, *, seed: int) -> dict[str, Interval]:
    """The same with every molecule given the labels of another one: knowing nothing but the distribution."""
    order = np.random.default_rng(seed).permutation(len(part.index))
    return judge_error(judge, LabelledMolecules(part.molecules, part.index, part.labels[order]))


def size_baseline(train: LabelledMolecules, test: LabelledMolecules, *, seed: int) -> dict[str, Interval]:
    """Errors of a small network that sees the number of atoms alone: 1 -> 128 -> 6, SiLU, trained on absolute errors.

    Source: EDM, the row "#Atoms" (there one network a property).
    """
    mean, spread = train.labels.mean(0), train.labels.std(0)
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        network = nn.Sequential(nn.Linear(1, 128), nn.SiLU(), nn.Linear(128, len(NAMES)))
    sizes = torch.from_numpy(train.molecules.num_atoms[:, None] / LARGEST).float()
    target = torch.from_numpy((train.labels - mean) / spread).float()
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    steps = 1500
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        (network(sizes) - target).abs().mean().backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        found = network(torch.from_numpy(test.molecules.num_atoms[:, None] / LARGEST).float()).numpy() * spread + mean
    return {
        entry.name: mean_absolute_error(found[:, k], test.labels[:, k]).scaled(entry.to_table)
        for k, entry in enumerate(PROPERTIES)
    }


def asked_error(judge: str, asked: Asked) -> dict[str, Interval]:
    """Mean absolute difference of what was asked for and what the judge finds, by property, nothing filtered."""
    found = load_property(judge).predict(asked.molecules)
    errors = {}
    for k, entry in enumerate(PROPERTIES):
        rows = asked.prop == k
        errors[entry.name] = mean_absolute_error(found[rows, k], asked.value[rows]).scaled(entry.to_table)
    return errors


def samples_for(weights: str, *, recompute: int, num_calls: int, seed: int, scale: float = 1.0) -> tuple[Asked, int]:
    """The stored samples and the steps of each chain; or `recompute` new ones a property with `num_calls`."""
    if not recompute:
        return stored(weights, SAMPLES if scale == 1.0 else GUIDED_SAMPLES)
    return ask_many(weights, recompute, num_calls=num_calls, seed=seed, scale=scale), num_calls


def error_table(weights: str, judge: str, *, limit: int, recompute: int, num_calls: int, seed: int) -> ErrorTable:
    """The paper's four rows and a guided one, of stored samples or new ones; limited runs are not recorded.

    limit: molecules behind each row, evenly spread; 0 for all. The other arguments as in `samples_for`.
    """
    started = perf_counter()
    part = thinned(load_labelled("generator"), limit or None)
    options = {"recompute": recompute, "num_calls": num_calls, "seed": seed}
    made = {row: samples_for(weights, scale=scale, **options) for row, scale in (("edm", 1.0), (GUIDED, GUIDANCE))}
    num_calls = made["edm"][1]
    asked = {row: evenly(found, limit) if limit else found for row, (found, _) in made.items()}
    errors = {
        "naive": naive_error(judge, part, seed=seed),
        "num_atoms": size_baseline(load_labelled("judge"), part, seed=seed),
        **{row: asked_error(judge, own) for row, own in asked.items()},
        "data": judge_error(judge, part),
    }
    counts = {row: len(part.index) for row in ROWS}
    counts |= {row: int(np.bincount(own.prop).min()) for row, own in asked.items()}
    seconds = perf_counter() - started
    measurements = [] if limit else _record(weights, judge, errors, counts, asked["edm"], seconds)
    stable = {row: stable_shares(own.molecules) for row, own in asked.items()}
    return ErrorTable(errors, counts, asked["edm"].num_failed, stable, num_calls, tuple(measurements))


def stable_shares(molecules: PackedMolecules) -> tuple[Interval, Interval]:
    """Shares of stable atoms and of stable molecules."""
    flags = stability(molecules)
    whole = proportion_interval(int(flags.molecule_stable.sum()), len(flags.molecule_stable))
    return ratio_interval(flags.stable_atoms, flags.num_atoms), whole


def evenly(asked: Asked, limit: int) -> Asked:
    """About `limit` of the molecules in equal shares of each property, evenly spread."""
    each = max(1, limit // len(NAMES))
    rows = [np.flatnonzero(asked.prop == k) for k in range(len(NAMES))]
    spread = [own[np.linspace(0, len(own) - 1, min(each, len(own))).round().astype(int)] for own in rows if len(own)]
    chosen = np.concatenate(spread)
    molecules = asked.molecules.select(chosen)
    return Asked(molecules, asked.prop[chosen], asked.value[chosen], asked.num_failed, asked.scale)


def thinned(part: LabelledMolecules, limit: int | None) -> LabelledMolecules:
    """At most `limit` molecules, evenly spread."""
    if limit is None or limit >= len(part.index):
        return part
    rows = np.linspace(0, len(part.index) - 1, limit).round().astype(int)
    return LabelledMolecules(part.molecules.select(rows), part.index[rows], part.labels[rows])


def _record(
    weights: str,
    judge: str,
    errors: dict[str, dict[str, Interval]],
    counts: dict[str, int],
    asked: Asked,
    seconds: float,
) -> list[Measurement]:
    facts = training_facts(weights)
    found = []
    for row in ROWS:
        for k, entry in enumerate(PROPERTIES):
            error = errors[row][entry.name]
            lost = f"{asked.num_failed[k]} chains without a molecule; " if row == "edm" else ""
            found.append(
                record(
                    f"edm.conditional.{row}.{entry.name}",
                    error.value,
                    interval=(error.low, error.high),
                    interval_kind="bootstrap over molecules, 95 %",
                    n=int((asked.prop == k).sum()) if row == "edm" else counts[row],
                    counts="molecules",
                    basis="trained_here",
                    weights=weights if row == "edm" else judge,
                    training_passes=facts.passes if row == "edm" else training_facts(judge).passes,
                    seconds=seconds + (facts.seconds if row == "edm" else 0.0),
                    notes=f"{lost}one generator for all properties, most labels predicted; judged by {judge}",
                    data_files=[data_path("qm9.npz"), data_path("qm9_properties_subset.csv.gz")],
                )
            )
    return found


def sweep(
    weights: str,
    judge: str,
    *,
    name: str,
    num_atoms: int,
    count: int,
    num_calls: int,
    seed: int,
    scale: float = 1.0,
) -> Sweep:
    """Molecules of one size from the same noise, asked for values from the smallest to the largest of training."""
    edm, table = guided(load(weights, precision="auto"), scale), read_table(resolve(weights))
    k, row = table.names.index(name), int(np.searchsorted(table.sizes, num_atoms))
    values = np.linspace(table.low[k, row], table.high[k, row], count)
    generators = [generator_from("sweep", seed) for _ in range(count)]
    molecules, kept = _draw(edm, name, np.full(count, num_atoms), values, num_calls, generators)
    found = load_property(judge).predict(molecules)[:, NAMES.index(name)]
    return Sweep(molecules, values[kept], found, count - len(molecules))


def property_of(name: str) -> Property:
    """The property with its units and symbol."""
    return PROPERTIES[NAMES.index(name)]
