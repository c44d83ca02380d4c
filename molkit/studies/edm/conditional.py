"""Molecules asked for a value of a property, and how far off a judge finds them (page `conditional`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from molkit.claims.ledger import Claim, Measurement, load_claims
from molkit.claims.record import record
from molkit.data.qm9_labels import NAMES, PROPERTIES, LabelledMolecules, Property, load_labelled
from molkit.data.registry import data_path
from molkit.edm.conditions import TABLE, context_of, guided, read_table
from molkit.edm.farm import sample_many
from molkit.edm.likelihood import bound
from molkit.edm.model import Edm, load
from molkit.edm.property_network import load_property
from molkit.edm.published import training_facts
from molkit.edm.samplers import sampler_named
from molkit.edm.sampling import sample
from molkit.errors import InvalidInput
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column
from molkit.figures import style
from molkit.figures.view3d import show_grid
from molkit.metrics.energies import mean_absolute_error
from molkit.metrics.stability import stability
from molkit.metrics.statistics import Interval, bootstrap_interval, proportion_interval, ratio_interval
from molkit.metrics.validity import validity
from molkit.molecule import PackedMolecules
from molkit.rng import fork, generator_from
from molkit.training.weights import resolve, weight_files

if TYPE_CHECKING:
    from IPython.display import HTML

CHUNK = 250  # molecules of one task
LARGEST = 29.0  # atoms; the number of atoms enters the baseline divided by it
BOUNDS = ("naive", "num_atoms", "data")
KINDS: dict[str, Property] = {one.name: one for one in PROPERTIES}
DIGITS = {"alpha": 2, "gap": 0, "homo": 0, "lumo": 0, "mu": 3, "cv": 3}
LABELS = {
    "naive": "shuffled labels",
    "num_atoms": "number of atoms only",
    "data": "QM9's own molecules",
    "edm": "EDM, asked for the value",
}
AUDIT = Comparison(alike={"miss": 0.3, "stable": 0.2}, by=("guidance", "sampler"), repeats="chunk")
AUDIT_bounds = Comparison(within={"share": 0.01}, free=("error", "low", "high"))
ERRORS = {"row": "", "num": Column("n")} | {
    name: Column(f"{one.symbol} ({one.table_unit})", DIGITS[name]) for name, one in KINDS.items()
}


@dataclass(frozen=True)
class Task:
    """A chunk of molecules, each asked for one value of one property."""

    prop: str
    weights: str
    judge: str
    guidance: float
    sampler: str
    num_calls: int
    seed: int
    chunk: int
    count: int

    @property
    def files(self) -> list[Path]:
        """Weights, the table of what may be asked for, and the judge."""
        return [*weight_files(self.weights), resolve(self.weights) / TABLE, *weight_files(self.judge)]


@asked
def tasks(
    *,
    weights: str = "edm_qm9_conditional",
    judge: str = "qm9_property_judge",
    properties: Sequence[str] = NAMES,
    guidance: Sequence[float] = (1.0,),
    samplers: Sequence[str] = ("sde-2m",),
    num_calls: int = 100,
    num_molecules: int = 1000,
    seed: int = 0,
) -> list[Task]:
    """Molecules asked for values of properties, `num_molecules` for each, in chunks of 250 that end side by side.

    Guidance 1 is the model as trained. Raises InvalidInput for an unknown property.
    """
    if unknown := [name for name in properties if name not in NAMES]:
        raise InvalidInput(f"unknown property {unknown[0]!r}; there are {', '.join(NAMES)}")
    return [
        Task(name, weights, judge, scale, sampler, num_calls, seed, chunk, min(CHUNK, num_molecules - chunk * CHUNK))
        for chunk in range(-(-num_molecules // CHUNK))
        for sampler in samplers
        for scale in guidance
        for name in properties
    ]


def measure(task: Task) -> list[dict[str, Any]]:
    """A row a molecule: the value asked for and the one the judge finds (units of `molkit.data.qm9_labels`), stability
    and validity; `miss` is their distance in mean absolute deviations of the data. A lost chain has no value found.

    Sizes by p(M), values by p(c | M). Sizes, values and noise follow from (seed, property, chunk) alone.
    """
    edm = guided(load(task.weights, precision="auto"), task.guidance)
    generator = generator_from("conditional", task.seed, task.prop, task.chunk)
    sizes, values = draw_request(task, generator)
    molecules, kept = answered(edm, task, sizes, values, fork(generator, task.count))
    found = load_property(task.judge).predict(molecules)[:, NAMES.index(task.prop)]
    spread = edm.config.context_spreads[edm.config.context_names.index(task.prop)]
    return rows_of(molecules, kept, sizes, values, found, spread)


def draw_request(task: Task, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sizes by p(M) and a value for each by p(c | M), [count] both; sizes without a label are not drawn."""
    random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    table = read_table(resolve(task.weights))
    known = table.histogram[table.names.index(task.prop)].sum(axis=1) > 0
    sizes = table.draw_sizes(task.count, generator=random, weights=table.counts * known)
    return sizes, table.draw_values(task.prop, sizes, generator=random)


def answered(
    edm: Edm, task: Task, sizes: np.ndarray, values: np.ndarray, generators: list[torch.Generator]
) -> tuple[PackedMolecules, np.ndarray]:
    """Molecules of these sizes asked for these values, and the rows that gave one."""
    wanted = torch.full((len(sizes), len(edm.config.context_names)), float("nan"), dtype=torch.float64)
    wanted[:, edm.config.context_names.index(task.prop)] = torch.from_numpy(values)
    made = sample(
        edm,
        torch.from_numpy(sizes),
        generator=generators,
        num_calls=task.num_calls,
        sampler=sampler_named(task.sampler),
        context=context_of(edm.config, wanted),
    )
    return made.molecules, np.delete(np.arange(len(sizes)), list(made.failed))


def rows_of(
    molecules: PackedMolecules,
    kept: np.ndarray,
    sizes: np.ndarray,
    values: np.ndarray,
    found: np.ndarray,
    spread: float,
) -> list[dict[str, Any]]:
    """The rows of molecules asked for `values`; those not `kept` were lost."""
    flags, chemical = stability(molecules), validity(molecules, reference_smiles=None)
    rows = [
        {"asked": round(float(value), 4), "judged": None, "miss": None, "num_atoms": int(size)}
        | {"stable_atoms": 0, "stable": False, "valid": False}
        for size, value in zip(sizes, values, strict=True)
    ]
    for place, row in enumerate(kept):
        rows[row] |= {
            "judged": round(float(found[place]), 4),
            "miss": round(abs(float(found[place] - values[row])) / spread, 4),
            "stable_atoms": int(flags.stable_atoms[place]),
            "stable": bool(flags.molecule_stable[place]),
            "valid": chemical.smiles[place] is not None,
        }
    return rows


@dataclass(frozen=True)
class BoundTask:
    """One of the rows beside the model's, for all properties."""

    row: str  # of BOUNDS
    judge: str
    num_molecules: int  # labelled ones of the generator's part; 0 for all
    seed: int

    @property
    def files(self) -> list[Path]:
        """The judge and the labels."""
        return [*weight_files(self.judge), data_path("qm9.npz"), data_path("qm9_properties_subset.csv.gz")]


@asked
def tasks_bounds(*, judge: str = "qm9_property_judge", num_molecules: int = 0, seed: int = 1) -> list[BoundTask]:
    """What can be had without a generator: shuffled labels, the number of atoms alone, and the judge on real molecules.

    Num-molecules: labelled ones of the generator's part, evenly spread; 0 for all.
    """
    return [BoundTask(row, judge, num_molecules, seed) for row in BOUNDS]


def measure_bounds(task: BoundTask) -> list[dict[str, Any]]:
    """A row for each property: mean absolute error with its interval in the unit of the tables, and its `share` of the
    labels' mean absolute deviation."""
    part = thinned(load_labelled("generator"), task.num_molecules)
    found = errors_of(task, part)
    spread = np.abs(part.labels - part.labels.mean(0)).mean(0)
    return [
        {"prop": one.name, "error": found[one.name].value, "low": found[one.name].low, "high": found[one.name].high}
        | {"num": len(part.index), "share": found[one.name].value / (one.to_table * spread[k])}
        for k, one in enumerate(PROPERTIES)
    ]


def errors_of(task: BoundTask, part: LabelledMolecules) -> dict[str, Interval]:
    """Errors behind one of the rows, by property."""
    if task.row == "num_atoms":
        return size_baseline(thinned(load_labelled("judge"), task.num_molecules), part, seed=task.seed)
    if task.row == "naive":
        order = np.random.default_rng(task.seed).permutation(len(part.index))
        part = LabelledMolecules(part.molecules, part.index, part.labels[order])
    return judge_error(task.judge, part)


def judge_error(judge: str, part: LabelledMolecules) -> dict[str, Interval]:
    """Mean absolute error of the judge on labelled molecules, in the tables' units."""
    return in_tables(load_property(judge).predict(part.molecules), part.labels)


def in_tables(found: np.ndarray, wanted: np.ndarray) -> dict[str, Interval]:
    """Mean absolute difference of each property, [B, 6] both, in the tables' units."""
    return {
        one.name: mean_absolute_error(found[:, k], wanted[:, k]).scaled(one.to_table)
        for k, one in enumerate(PROPERTIES)
    }


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
    return in_tables(found, test.labels)


def thinned(part: LabelledMolecules, limit: int) -> LabelledMolecules:
    """At most `limit` molecules, evenly spread; 0 for all."""
    if not 0 < limit < len(part.index):
        return part
    rows = np.linspace(0, len(part.index) - 1, limit).round().astype(int)
    return LabelledMolecules(part.molecules.select(rows), part.index[rows], part.labels[rows])


def bound_errors(bounds: pd.DataFrame) -> pd.DataFrame:
    """The rows that need no generator as a table: a published line above each."""
    lines = []
    for row, group in bounds.groupby("row", sort=False):
        errors = {line.prop: Interval(line.error, line.low, line.high) for line in group.itertuples()}
        lines += [published(row), {"row": LABELS[row], "num": int(group["num"].iloc[0]), **errors}]
    return pd.DataFrame(lines, dtype=object)


def errors(*rows: pd.DataFrame) -> pd.DataFrame:
    """What the judge finds against what was asked for: a line for each guidance scale, below the published one.

    Mean absolute errors in the tables' units, lost chains left out; `num` is the least number of molecules a property.
    """
    lines = [published("edm")]
    for scale, group in pd.concat(rows).groupby("guidance", sort=False):
        own = group.dropna(subset=["judged"])
        parts = {str(name): part for name, part in own.groupby("prop", sort=False)}
        found = {
            name: mean_absolute_error(part["judged"].to_numpy(), part["asked"].to_numpy()).scaled(KINDS[name].to_table)
            for name, part in parts.items()
        }
        label = LABELS["edm"] if scale == 1.0 else f"EDM, guidance scale {scale:g}"
        lines.append({"row": label, "num": min(map(len, parts.values())), **found})
    return pd.DataFrame(lines, dtype=object)


def published(row: str) -> dict[str, Any]:
    """The paper's line of a table."""
    claims = load_claims(study="edm")
    return {"row": f"{LABELS[row]} (published)", "num": 10_000} | {name: value_of(claims, row, name) for name in NAMES}


def value_of(claims: Mapping[str, Claim], row: str, name: str) -> float:
    """The published error of a property in one of the paper's rows."""
    return float(claims[f"edm.conditional.{row}.{name}"].value)


def quality(*rows: pd.DataFrame) -> pd.DataFrame:
    """What the molecules are worth otherwise, by guidance scale; lost chains are neither stable nor valid."""
    return pd.DataFrame(
        [
            {
                "guidance": scale,
                "num": len(group),
                "lost": int(group["judged"].isna().sum()),
                "atoms": ratio_interval(group["stable_atoms"], group["num_atoms"]),
                "molecules": proportion_interval(int(group["stable"].sum()), len(group)),
                "valid": proportion_interval(int(group["valid"].sum()), len(group)),
            }
            for scale, group in pd.concat(rows).groupby("guidance", sort=False)
        ]
    )


def record_errors(rows: pd.DataFrame, bounds: pd.DataFrame) -> list[Measurement]:
    """Record the paper's four rows: those of the model as trained, and those that need none."""
    weights, judge = str(rows["weights"].iloc[0]), str(rows["judge"].iloc[0])
    plain = rows[rows["guidance"] == 1.0]
    ours, kept = errors(plain).iloc[1], plain.dropna(subset=["judged"]).groupby("prop").size()
    about = {"basis": "trained_here", "interval_kind": "bootstrap over molecules, 95 %"}
    told = f"one generator for all properties, most labels predicted; judged by {judge}"
    found = []
    for name in plain["prop"].unique():
        lost = int((plain["prop"] == name).sum() - kept[name])
        notes = f"{lost} chains without a molecule; {told}"
        facts = {"weights": weights, "training_passes": training_facts(weights).passes, "notes": notes}
        found.append(record(f"edm.conditional.edm.{name}", ours[name], rows, n=int(kept[name]), **facts, **about))
    for line in bounds.itertuples():
        facts = {"weights": judge, "training_passes": training_facts(judge).passes, "notes": told}
        error = Interval(line.error, line.low, line.high)
        found.append(
            record(f"edm.conditional.{line.row}.{line.prop}", error, bounds, n=int(line.num), **facts, **about)
        )
    return found


@dataclass(frozen=True)
class Answer:
    """Molecules drawn for one request, and the six properties the judge finds [B, 6]."""

    request: Mapping[str, float]
    molecules: PackedMolecules
    found: np.ndarray
    num_failed: int


def requests_of(alpha: float, gap: float) -> list[dict[str, float]]:
    """The page's requests: one property, the other, and both together."""
    return [{"alpha": alpha}, {"gap": gap}, {"alpha": alpha, "gap": gap}]


def in_words(conditions: Mapping[str, float]) -> str:
    """A request as it is written on the command line."""
    return ", ".join(f"{name} = {value:g}" for name, value in conditions.items())


def answers(
    weights: str,
    judge: str,
    requests: Sequence[Mapping[str, float]],
    *,
    count: int,
    num_calls: int,
    sampler: str,
    seed: int,
) -> list[Answer]:
    """`count` molecules for each request, as `molkit sample --condition` draws them. Raises InvalidInput for none."""
    network, found = load_property(judge), []
    for request in requests:
        options = {"seed": seed, "num_calls": num_calls, "sampler": sampler}
        molecules = sample_many(weights, count, conditions=request, **options)
        if not len(molecules):
            raise InvalidInput(f"none of {count} chains asked for {in_words(request)} gave a molecule")
        found.append(Answer(request, molecules, network.predict(molecules), count - len(molecules)))
    return found


def means(found: Sequence[Answer]) -> pd.DataFrame:
    """Molecules and lost chains of each request, and the mean of every property that any asks for, tables' units."""
    names = [name for name in NAMES if any(name in one.request for one in found)]
    return pd.DataFrame(
        [
            {"request": in_words(one.request), "molecules": len(one.molecules), "lost": one.num_failed}
            | {name: bootstrap_interval(one.found[:, NAMES.index(name)]).scaled(KINDS[name].to_table) for name in names}
            for one in found
        ]
    )


def sweep(
    weights: str, judge: str, *, prop: str, num_atoms: int, count: int, num_calls: int, sampler: str, seed: int
) -> tuple[PackedMolecules, pd.DataFrame]:
    """Molecules of one size from the same noise, asked for values from the smallest to the largest of training.

    The frame has `prop`, `asked` and `judged` of each; chains that gave none are left out.
    """
    edm, table = load(weights, precision="auto"), read_table(resolve(weights))
    k, row = table.names.index(prop), int(np.searchsorted(table.sizes, num_atoms))
    values = np.linspace(table.low[k, row], table.high[k, row], count)
    task = Task(prop, weights, judge, 1.0, sampler, num_calls, seed, 0, count)
    generators = [generator_from("sweep", seed) for _ in range(count)]
    molecules, kept = answered(edm, task, np.full(count, num_atoms), values, generators)
    found = load_property(judge).predict(molecules)[:, NAMES.index(prop)]
    return molecules, pd.DataFrame({"prop": prop, "asked": values[kept], "judged": found})


def size_shift(weights: str, requests: Sequence[Mapping[str, float]]) -> pd.DataFrame:
    """Shares of the sizes: `request`, `num_atoms`, `share`; in training, and given each request.

    Raises InvalidInput for a request that training never saw.
    """
    table = read_table(resolve(weights))
    shares = {"nothing asked": table.counts, **{in_words(one): table.size_weights(one) for one in requests}}
    return pd.concat(
        [
            pd.DataFrame({"request": name, "num_atoms": table.sizes, "share": found / found.sum()})
            for name, found in shares.items()
        ]
    )


def parts(weights: str, *, base: str = "edm_qm9") -> tuple[pd.DataFrame, int, int]:
    """Labelled molecules of each part and its use; molecules and molecule passes that the generator learned from."""
    uses = {
        "judge": ("judge", "learns to read properties off a geometry; scores every row"),
        "labeller": ("labeller", "learns the same, to label what the generator lacks"),
        "generator": ("generator", "true labels of the generator; the rows that need no generator"),
        "valid": ("validation", "mean and mean absolute deviation of each property"),
        "test": ("test", "errors of judge and labeller; likelihoods on this page"),
    }
    lines = [(word, len(load_labelled(part).index), use) for part, (word, use) in uses.items()]
    passes, before = training_facts(weights).passes, training_facts(base).passes
    known = int(read_table(resolve(weights)).counts.sum())
    return pd.DataFrame(lines, columns=["part", "num", "use"]), known, passes - before if passes > before else passes


def contexts(part: LabelledMolecules, *, seed: int) -> dict[str, np.ndarray]:
    """What the model is told of each molecule [B, 6], NaN where nothing: nothing, alpha alone, all, another's."""
    nothing = np.full_like(part.labels, np.nan)
    alone = nothing.copy()
    alone[:, NAMES.index("alpha")] = part.labels[:, NAMES.index("alpha")]
    order = np.random.default_rng(seed).permutation(len(part.index))
    told = {"told nothing": nothing, "told α": alone, "told all six properties": part.labels}
    return told | {"told all six of another molecule": part.labels[order]}


def context_bounds(weights: str, *, num_molecules: int, draws: int, seed: int) -> pd.DataFrame:
    """The bound on -log p(x, h, M | c) of labelled test molecules (0: all), told the truth, part of it, or another's.

    `nats` of a molecule, and their `change` against nothing told. p(M) is taken without c, as the bound's docstring
    says; the noise and the steps are the same for every context.
    """
    part = thinned(load_labelled("test"), num_molecules)
    edm, totals = load(weights), {}
    for name, values in contexts(part, seed=seed).items():
        told = context_of(edm.config, torch.from_numpy(values))
        generator = torch.Generator().manual_seed(seed)
        totals[name] = bound(edm, part.molecules, generator=generator, context=told, draws=draws).total.numpy()
    plain = next(iter(totals.values()))
    lines = [
        {"told": name, "nats": bootstrap_interval(total)}
        | {"change": None if total is plain else bootstrap_interval(total - plain)}
        for name, total in totals.items()
    ]
    return pd.DataFrame(lines, dtype=object)


def draw_relative(errors: pd.DataFrame, bounds: pd.DataFrame, *, caption: str) -> Figure:
    """Every error over that of shuffled labels: 1 is knowing nothing, 0 is knowing the value; crosses: published."""
    claims = load_claims(study="edm")
    naive = {name: bounds.set_index("row")[name][LABELS["naive"]].value for name in NAMES}
    ours = errors[~errors["row"].str.endswith("(published)")]
    lines = pd.concat([bounds[bounds["row"] == LABELS["num_atoms"]], ours, bounds[bounds["row"] == LABELS["data"]]])
    keys = {label: key for key, label in LABELS.items()}
    colours = (style.ORANGE, style.BLUE, style.GREEN, style.PURPLE, style.SKY)
    with style.panels(width=7.6, height=3.4, caption=caption) as (figure, (axis,)):
        width = 0.8 / len(lines)
        for shift, line in enumerate(lines.to_dict("records")):
            label = line["row"]
            colour = style.BLACK if label == LABELS["data"] else colours[shift]
            places = np.arange(len(NAMES)) + width * (shift - (len(lines) - 1) / 2)
            values = np.array([[x.value, x.low, x.high] for x in map(line.get, NAMES)]) / [[naive[n]] for n in NAMES]
            axis.bar(places, values[:, 0], 0.9 * width, color=colour, label=label)
            axis.errorbar(places, values[:, 0], np.abs(values[:, 1:] - values[:, :1]).T, fmt="none", ecolor="#555555")
            if label in keys:
                paper = [value_of(claims, keys[label], n) / value_of(claims, "naive", n) for n in NAMES]
                told = None if shift else "published"
                axis.plot(places, paper, ls="", marker="x", color=style.PAPER_COLOUR, label=told)
        axis.set_xticks(range(len(NAMES)), [one.symbol for one in PROPERTIES])
        axis.set(ylabel="error / error of shuffled labels", ylim=(0, None))
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def draw_asked(rows: pd.DataFrame, *, caption: str) -> Figure:
    """What the judge finds against what was asked for, a panel for each property, and the line where they are equal."""
    groups = list(rows.dropna(subset=["judged"]).groupby("prop", sort=False))
    columns = min(3, len(groups))
    size = {"width": max(4.6, 3.0 * columns), "height": 2.8 if len(groups) > 1 else 3.6}
    with style.panels(columns, -(-len(groups) // columns), caption=caption, **size) as (figure, axes):
        for axis, (name, group) in zip(axes, groups, strict=False):
            one = KINDS[str(name)]
            ends = [group["asked"].min(), group["asked"].max()]
            axis.plot(group["asked"], group["judged"], "o", ms=3, alpha=0.5, color=style.MODEL_COLOUR)
            axis.plot(ends, ends, color=style.BLACK, lw=1.0)
            unit = one.unit.replace("^3", "³")
            axis.set(xlabel=f"{one.symbol} asked for ({unit})", ylabel=f"{one.symbol} found ({unit})")
            axis.locator_params(axis="x", nbins=4)
    return figure


def draw_sizes(shares: pd.DataFrame, *, caption: str) -> Figure:
    """Shares of the sizes with nothing asked, and given each request."""
    colours = (style.BLACK, style.BLUE, style.ORANGE, style.GREEN)
    with style.panels(width=6.4, height=3.0, caption=caption) as (figure, (axis,)):
        for (name, group), colour in zip(shares.groupby("request", sort=False), colours, strict=False):
            axis.plot(group["num_atoms"], 100 * group["share"], marker="o", ms=3, lw=1.2, color=colour, label=name)
        axis.set(xlabel="atoms in the molecule", ylabel="share (%)", ylim=(0, None))
        style.legend_above(axis)
    return figure


def gallery(molecules: PackedMolecules, caption: str, *, count: int = 8) -> "HTML":
    """At most `count` of the molecules, evenly spread over them and in their order."""
    rows = np.linspace(0, len(molecules) - 1, min(count, len(molecules))).round().astype(int)
    return show_grid([molecules[int(row)] for row in rows], caption=caption)
