"""Molecules of drug size, on the set at hand (not GEOM-Drugs): scores, energies, the bound, and pictures."""

import csv
import gzip
import io
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from molkit.chem.rdkit_tools import bonded_mol, connectivity, skeleton_smiles
from molkit.data.drug_size import (
    FILE,
    SPLITS,
    ConformerEnsemble,
    Entry,
    elements_of,
    load_conformer_ensembles,
    load_drug_size,
    load_druglike,
    load_tripeptides,
    split_of_key,
)
from molkit.data.packed import read_packed
from molkit.data.registry import data_path
from molkit.edm.editing import check_sizes
from molkit.edm.likelihood import bound
from molkit.edm.model import build, load, quickest
from molkit.edm.published import num_failed_chains, stored_samples, training_facts
from molkit.edm.samplers import Sampler, sampler_named
from molkit.edm.sampling import sample
from molkit.errors import InvalidInput
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column
from molkit.figures import style
from molkit.figures.view3d import show_grid, show_trajectory
from molkit.metrics.distributions import element_fractions
from molkit.metrics.energies import FAILURES, mmff_energies, null_distances, wasserstein_interval
from molkit.metrics.stability import stability
from molkit.metrics.statistics import Interval, bootstrap_interval, proportion_interval, ratio_interval
from molkit.metrics.validity import connectedness, validity
from molkit.molecule import PackedMolecules
from molkit.rng import generator_from
from molkit.studies.edm.chains import draw_shares
from molkit.training.weights import resolve, weight_files

if TYPE_CHECKING:
    from IPython.display import HTML

TRAINED_ON, HELD_BACK, OURS = "data, trained on", "data, held back", "EDM, trained here"
BLURRED, UNTRAINED = "held-back data, blurred by 0.1 Å", "the same network, untrained"
COLOURS = {HELD_BACK: style.DATA_COLOUR, TRAINED_ON: style.SKY, OURS: style.MODEL_COLOUR, BLURRED: style.ORANGE}
BLUR_ANGSTROM = 0.1
MOST_BLURRED = 200  # geometries; bonds of bad ones are slow to find
UNTRAINED_CALLS = 100
PART = 50  # geometries of a task
SIZE_EDGES = (0, 30, 40, 50, 60, 1000)
AUDIT = Comparison(
    within={"energy": 0.01}, alike={"perceived": 0.5}, by=("data",), exact=(TRAINED_ON, HELD_BACK, OURS, BLURRED)
)
AUDIT_bound = Comparison(within={"nats": 0.5})
PUBLISHED = {"EDM on GEOM-Drugs, published": (0.813, 0.926), "GEOM-Drugs itself, published": (0.865, None)}
SHARES = {  # columns of a table -> the rows' numerator and denominator; 1 for shares of molecules
    "atoms_stable": ("stable_atoms", "num_atoms"),
    "molecules_stable": ("stable", None),
    "single_bond_valid": ("single_bond_valid", None),
    "perceived": ("perceived", None),
    "one_piece": ("one_piece", None),
    "largest_share": ("largest_share", None),
}
SCORES = {
    "data": "",
    "n": Column("n"),
    "atoms_stable": Column("atoms stable", 1, 100),
    "molecules_stable": Column("molecules stable", 1, 100),
    "single_bond_valid": Column("valid, bonds single", 1, 100),
    "perceived": Column("bonds perceived", 1, 100),
    "one_piece": Column("in one piece", 1, 100),
    "largest_share": Column("largest piece", 1, 100),
}
ENERGIES = {
    "data": "",
    "n": Column("n"),
    "num_energies": Column("with an energy"),
    "median": Column("median, kcal/mol", 1),
    "distance": Column("distance to held-back data, kcal/mol", 1),
    "null": Column("the same from as many data", 1),
} | {word: word for word in FAILURES}
BOUNDS = {
    "split": "split",
    "n": Column("molecules"),
    "per_molecule": Column("nats per molecule", 1),
    "per_atom": Column("nats per atom", 2),
    "unseen": Column("left out: size not in the training part"),
}
SPLIT = {
    "split": "split",
    "molecules": Column("molecules"),
    "geometries": Column("geometries"),
    "atoms": Column("atoms (mean)", 1),
    "largest": Column("largest"),
    "pairs": Column("pairs (mean)"),
    "charged": Column("charged, %", 1, 100),
    "elements": "elements",
}

# ---- sets of geometries, scored ----


@dataclass(frozen=True)
class Task:
    """Geometries `first` to `first + count` of a spread of `total` over a set."""

    data: str
    weights: str  # whose stored samples, or untrained network, the set is; empty for data
    first: int
    count: int
    total: int
    seed: int  # of the blur, or of the untrained network

    @property
    def files(self) -> list[Path]:
        """The set."""
        if self.data == OURS:
            return [resolve(self.weights) / "samples.npz"]
        return weight_files(self.weights) if self.data == UNTRAINED else data_files()


def data_files() -> list[Path]:
    """The drug-size set."""
    return [data_path(name) for name in (FILE, "conformers_dft.npz", "druglike_tripeptides.npz")]


@asked
def tasks(
    *, weights: str = "edm_drug", num_data: int = 0, num_samples: int = 0, num_untrained: int = 10, seed: int = 0
) -> list[Task]:
    """The data's sets, two that should fail, and the stored samples, failed chains among them; 0 for all there are."""
    train, test = (len(load_drug_size(split=split)) for split in ("train", "test"))
    stored = len(stored_samples(weights)) + num_failed_chains(weights)
    totals = {
        TRAINED_ON: min(num_data or train, train),
        HELD_BACK: min(num_data or test, test),
        BLURRED: min(num_data or test, test, MOST_BLURRED),
        UNTRAINED: num_untrained,
        OURS: min(num_samples or stored, stored),
    }
    return [
        Task(data, weights if data in (UNTRAINED, OURS) else "", k, min(PART, total - k), total, seed)
        for data, total in totals.items()
        for k in range(0, total, PART)
    ]


def measure(task: Task) -> list[dict]:
    """A row a geometry, see `scored`."""
    rows = slice(task.first, task.first + task.count)
    if task.data == UNTRAINED:
        return scored(*untrained_samples(task))
    if task.data == OURS:
        stored, lost = stored_samples(task.weights), num_failed_chains(task.weights)
        spread = np.linspace(0, len(stored) + lost - 1, task.total).round().astype(int)[rows]
        there = spread[spread < len(stored)]
        return scored(stored.select(there), task.count - len(there), mean_size=stored.num_atoms.mean())
    split = "train" if task.data == TRAINED_ON else "test"
    data = load_drug_size(split=split, limit=task.total).select(np.arange(rows.start, rows.stop))
    molecules = blurred(data.molecules, task) if task.data == BLURRED else data.molecules
    return [row | {"entry": int(entry)} for row, entry in zip(scored(molecules), data.entries, strict=True)]


def blurred(molecules: PackedMolecules, task: Task) -> PackedMolecules:
    """Geometries with normal noise of 0.1 angstrom on every coordinate: a yardstick for what a score notices."""
    generator = generator_from("blurred drug-size data", task.seed, task.first)
    noise = torch.randn(molecules.positions.shape, generator=generator, dtype=torch.float64).numpy()
    return replace(molecules, positions=molecules.positions + BLUR_ANGSTROM * noise)


def untrained_samples(task: Task) -> tuple[PackedMolecules, int]:
    """Molecules of a network of the same shape that learned nothing, and how many chains failed."""
    edm = build(load(task.weights, fast=False).config, seed=task.seed)
    edm = replace(edm, network=quickest(edm.network.eval(), edm.device))
    generator = generator_from("untrained drug-size network", task.seed, task.first)
    sizes = edm.draw_sizes(task.count, generator=generator)
    result = sample(edm, sizes, generator=generator, num_calls=UNTRAINED_CALLS)
    return result.molecules, len(result.failed)


def scored(molecules: PackedMolecules, num_failed: int = 0, *, mean_size: float | None = None) -> list[dict]:
    """A row a geometry: stability and validity by GEOM's rules, its pieces, and its MMFF94s energy or why it has none.

    entry: the molecule it belongs to, where geometries are not independent. Chains that failed count as molecules of
    the mean size without a stable atom.
    """
    rows: list[dict] = []
    if len(molecules):
        kept = stability(molecules, rule="geom")
        names = validity(molecules, reference_smiles=None, rule="geom").smiles
        pieces = connectedness(molecules, rule="geom")
        mean_size = molecules.num_atoms.mean() if mean_size is None else mean_size
        for k in range(len(molecules)):
            found = mmff_energies(molecules.select(np.array([k])))
            rows.append(
                {
                    "entry": None,
                    "num_atoms": int(kept.num_atoms[k]),
                    "stable_atoms": int(kept.stable_atoms[k]),
                    "stable": bool(kept.molecule_stable[k]),
                    "single_bond_valid": names[k] is not None,
                    "perceived": len(found.perceived) == 1,
                    "one_piece": bool(pieces.in_one_piece[k]),
                    "largest_share": round(float(pieces.largest_share[k]), 6),
                    "energy": round(float(found.energies[0]), 4) if len(found.energies) else None,
                    "failure": next((word for word, count in found.failures.items() if count), None),
                }
            )
    flags = dict.fromkeys(("stable", "single_bond_valid", "perceived", "one_piece"), False)
    size = round(float(mean_size)) if mean_size is not None else 1
    lost = {"entry": None, "num_atoms": size, "stable_atoms": 0, "largest_share": 0.0, "energy": None}
    return [*rows, *[lost | flags | {"failure": FAILURES[0]} for _ in range(num_failed)]]


def computed(asked_for: Iterable["Task | BoundTask"], measured: Callable[[Any], list[dict]] = measure) -> pd.DataFrame:
    """The rows of tasks with the fields of each, computed here and kept nowhere."""
    return pd.concat([pd.DataFrame(measured(task)).assign(**asdict(task)) for task in asked_for], ignore_index=True)


def scores(rows: pd.DataFrame, *, published: bool = False) -> pd.DataFrame:
    """Every share of each set, and above them what was published about another set."""
    printed = [{"data": name, "atoms_stable": a, "single_bond_valid": v} for name, (a, v) in PUBLISHED.items()]
    found = printed if published else []
    for data, group in rows.groupby("data", sort=False):
        line = {"data": data, "n": len(group)}
        for name, (top, bottom) in SHARES.items():
            whole = np.ones(len(group)) if bottom is None else group[bottom].to_numpy(float)
            line[name] = ratio(group[top].to_numpy(float), whole, group["entry"])
        found.append(line)
    return pd.DataFrame(found, columns=list(SCORES))


def ratio(numerators: np.ndarray, denominators: np.ndarray, entries: pd.Series) -> Interval:
    """Ratio of sums with a bootstrap over molecules, the geometries of a molecule kept together.

    Wilson's interval where every geometry is a molecule of its own and the numbers are flags, and for as many molecules
    where the ratio is exactly 0 or 1, as every resample is then the same.
    """
    grouped = bool(entries.notna().all())
    if grouped:
        place = np.unique(entries.to_numpy(int), return_inverse=True)[1]
        numerators, denominators = np.bincount(place, numerators), np.bincount(place, denominators)
    count, total = len(numerators), numerators.sum()
    if total in (0.0, denominators.sum()):
        return proportion_interval(count if total else 0, count)
    if not grouped and set(np.unique(numerators)) <= {0.0, 1.0} and (denominators == 1.0).all():
        return proportion_interval(int(total), count)
    return ratio_interval(numerators, denominators)


def energy_table(rows: pd.DataFrame, *, num_resamples: int, seed: int) -> pd.DataFrame:
    """Energies of every set against the held-back data, with the distance that data of the same size show."""
    known = rows.dropna(subset=["energy"])
    energies = {data: known.loc[known["data"] == data, "energy"].to_numpy(float) for data in rows["data"].unique()}
    groups = known.loc[known["data"] == HELD_BACK, "entry"].to_numpy(int)
    found = []
    for data, group in rows.groupby("data", sort=False):
        values = energies[data]
        line = {"data": data, "n": len(group), "num_energies": len(values)}
        line |= {word: str(int((group["failure"] == word).sum())) for word in FAILURES}
        if len(values) >= 2:
            line["median"] = bootstrap_interval(values, statistic=np.median)
        if len(values) >= 2 and data != HELD_BACK:
            truth, options = energies[HELD_BACK], {"seed": seed}
            line["distance"] = wasserstein_interval(
                values, truth, groups=groups, num_resamples=num_resamples, **options
            )
            line["null"] = null_distances(
                energies[TRAINED_ON], truth, size=len(values), num_draws=num_resamples, **options
            )
        found.append(line)
    frame = pd.DataFrame(found, columns=list(ENERGIES), dtype=object)
    return frame.where(frame.notna(), None)


def draw_stability_by_size(rows: pd.DataFrame) -> Figure:
    """Share of stable atoms by size, of the held-back data and of the stored samples, with 95 % intervals."""
    names = [f"{low}–{high - 1}" for low, high in zip(SIZE_EDGES[:-1], SIZE_EDGES[1:], strict=True)]
    names[0], names[-1] = f"below {SIZE_EDGES[1]}", f"{SIZE_EDGES[-2]} and more"
    binned = {
        data: dict(list(group.groupby(np.digitize(group["num_atoms"], SIZE_EDGES) - 1)))
        for data, group in rows[rows["data"].isin((HELD_BACK, OURS))].groupby("data", sort=False)
    }
    counts = [
        f"{data}: n = {', '.join(str(len(b.get(k, ()))) for k in range(len(names)))}" for data, b in binned.items()
    ]
    caption = (
        f"Stable atoms by the GEOM rule, bootstrap over molecules, 95 %. Geometries in the bins: {'; '.join(counts)}."
    )
    with style.panels(width=7.0, height=3.2, caption=caption) as (figure, (axes,)):
        for shift, (data, bins) in enumerate(binned.items()):
            shares = [ratio(*(b[c].to_numpy(float) for c in SHARES["atoms_stable"]), b["entry"]) for b in bins.values()]
            draw_shares(axes, np.array(list(bins)) + 0.08 * shift, shares, color=COLOURS[data], ms=5, label=data)
        axes.set_xticks(range(len(names)), names)
        axes.set(xlabel="number of atoms of the molecule", ylabel="stable atoms (%)", ylim=(0, 102))
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def draw_energies(rows: pd.DataFrame) -> Figure:
    """Histograms of MMFF94s energies; what lies outside the window is counted in the legend."""
    known = rows.dropna(subset=["energy"])
    low, high = known.loc[known["data"] == HELD_BACK, "energy"].quantile([0.005, 0.995])
    margin = 0.5 * (high - low)
    edges = np.linspace(low - margin, high + 2 * margin, 41)
    caption = (
        "MMFF94s single points on the geometries as they are, bonds perceived as neutral molecules; each area is "
        "the share of the set inside the window."
    )
    with style.panels(width=7.0, height=3.2, caption=caption) as (figure, (axes,)):
        for data, group in known.groupby("data", sort=False):
            values = group["energy"].to_numpy(float)
            if len(values) < 2:
                continue
            outside = int(((values < edges[0]) | (values > edges[-1])).sum())
            weights = np.full(len(values), 1.0 / (len(values) * (edges[1] - edges[0])))
            label = f"{data} (n = {len(values):,}, {outside:,} outside)"
            axes.hist(values, edges, weights=weights, histtype="step", lw=1.8, color=COLOURS.get(data), label=label)
        axes.set(xlabel="MMFF94s energy (kcal/mol)", ylabel="density (per kcal/mol)")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.26), fontsize=8.5)
    return figure


# ---- the bound ----


@dataclass(frozen=True)
class BoundTask:
    """One geometry of each of some molecules of a split, spread evenly."""

    weights: str
    split: str
    num_molecules: int
    draws: int
    seed: int

    @property
    def files(self) -> list[Path]:
        """The weights and the set."""
        return [*weight_files(self.weights), *data_files()]


@asked
def tasks_bound(*, weights: str = "edm_drug", num_molecules: int = 0, draws: int = 4, seed: int = 0) -> list[BoundTask]:
    """Every split; 0: all molecules of the test split, and as many of the others."""
    count = num_molecules or len(load_drug_size(split="test").one_per_molecule())
    return [BoundTask(weights, split, count, draws, seed) for split in SPLITS]


def measure_bound(task: BoundTask) -> list[dict]:
    """A row a molecule: the bound in nats; none for a size that the training part does not hold."""
    edm, found = load(task.weights), load_drug_size(split=task.split).one_per_molecule().molecules
    chosen = found.select(np.linspace(0, len(found) - 1, min(task.num_molecules, len(found))).round().astype(int))
    seen = np.isin(chosen.num_atoms, [size for size, _ in edm.config.sizes])
    generator = torch.Generator().manual_seed(task.seed)
    nats = iter(bound(edm, chosen.select(seen), generator=generator, draws=task.draws).total.tolist())
    return [
        {"num_atoms": int(size), "nats": round(next(nats), 4) if known else None}
        for size, known in zip(chosen.num_atoms, seen, strict=True)
    ]


def bounds(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each split: means over molecules, and the sum of nats over the sum of atoms."""
    found = []
    for split, group in rows.groupby("split", sort=False):
        known = group.dropna(subset=["nats"])
        nats, sizes = known["nats"].to_numpy(float), known["num_atoms"].to_numpy(float)
        line = {"split": split, "n": len(known), "unseen": len(group) - len(known)}
        found.append(line | {"per_molecule": bootstrap_interval(nats), "per_atom": ratio_interval(nats, sizes)})
    return pd.DataFrame(found)


# ---- the set, pictures, and weights as a whole ----


def split_facts() -> pd.DataFrame:
    """Numbers of molecules, sizes and elements of the three splits; means over geometries."""
    rows = []
    for split in SPLITS:
        found = load_drug_size(split=split)
        sizes = found.molecules.num_atoms
        rows.append(
            {
                "split": split,
                "molecules": len(np.unique(found.entries)),
                "geometries": len(found),
                "atoms": float(sizes.mean()),
                "largest": int(sizes.max()),
                "pairs": float((sizes * (sizes - 1)).mean()),
                "charged": float((found.charges != 0).mean()),
                "elements": " ".join(element_fractions(found.molecules)),
            }
        )
    return pd.DataFrame(rows)


def sampler_of(weights: str | Path) -> Sampler:
    """The sampler behind the stored samples, used for all that is drawn with these weights."""
    return sampler_named(training_facts(weights).sampler or "ancestral")


def film(weights: str, *, num_atoms: int, num_calls: int, num_frames: int, seed: int) -> "HTML":
    """One chain from noise to a molecule of `num_atoms` atoms. Raises InvalidInput for a size nobody trained."""
    edm, size = load(weights, precision="auto"), torch.tensor([num_atoms])
    check_sizes(edm, size)
    options = {"num_calls": num_calls, "sampler": sampler_of(weights), "keep_frames": num_frames}
    result = sample(edm, size, generator=torch.Generator().manual_seed(seed), **options)
    molecule = result.molecules[0]
    frames = (*(frame.positions for frame in result.frames), molecule.positions)
    caption = f"One chain from noise to {molecule.formula}, {len(frames)} frames. Elements as they are at the end."
    return show_trajectory(frames, molecule.atomic_numbers, caption=caption, reps=1)


def live_gallery(weights: str, *, num_molecules: int, num_calls: int, seed: int) -> "HTML":
    """Molecules drawn now, all of them, and what they cost."""
    started = perf_counter()
    edm, generator = load(weights, precision="auto"), torch.Generator().manual_seed(seed)
    sizes = edm.draw_sizes(num_molecules, generator=generator)
    result = sample(edm, sizes, generator=generator, num_calls=num_calls, sampler=sampler_of(weights))
    seconds, pairs = (perf_counter() - started) / num_molecules, float((sizes * (sizes - 1)).double().mean())
    shown = list(result.molecules)
    caption = (
        f"All {len(shown)} molecules drawn for this page, in the order they came: {result.num_calls} network calls and "
        f"{seconds:.1f} s each on one core, {pairs:,.0f} ordered pairs of atoms on average, "
        f"{1e3 * seconds / result.num_calls:.2f} ms for a call of one molecule."
    )
    return show_grid(shown, caption=caption)


def draw_composition(weights: str) -> Figure:
    """Share of each element among all atoms of the training part and of the stored samples."""
    shares = {
        TRAINED_ON: element_fractions(load_drug_size(split="train").molecules),
        OURS: element_fractions(stored_samples(weights)),
    }
    symbols = list(shares[TRAINED_ON]) + sorted(set(shares[OURS]) - set(shares[TRAINED_ON]))
    caption = "Shares among all atoms of the training geometries and of the stored samples; no bar: none at all."
    with style.panels(width=6.4, height=2.8, caption=caption) as (figure, (axes,)):
        for k, (label, found) in enumerate(shares.items()):
            heights = [100.0 * found.get(symbol, 0.0) for symbol in symbols]
            axes.bar(np.arange(len(symbols)) + 0.4 * k - 0.2, heights, 0.38, color=COLOURS[label], label=label)
        axes.set_xticks(range(len(symbols)), symbols)
        axes.set_yscale("log")
        axes.set(xlabel="element", ylabel="share of atoms (%)")
        style.legend_above(axes)
    return figure


def is_for(weights: str | Path) -> bool:
    """Whether the weights place the elements of the drug-size set, so that they are measured against it."""
    return set(load(weights, fast=False).config.elements) >= set(elements_of(load_drug_size(split="train").molecules))


def model_in_words(weights: str) -> str:
    """Size and training of published weights, and how their samples were drawn, in words."""
    edm, facts = load(weights), training_facts(weights)
    count = sum(parameter.numel() for parameter in edm.network.parameters())
    return (
        f"{edm.config.num_layers} layers of width {edm.config.width}, {count:,} parameters, {facts.passes:,} molecule "
        f"passes ({facts.epochs:.0f} epochs) in {facts.seconds / 60:.0f} minutes on {facts.device}; stored samples by "
        f"{facts.sampler or 'ancestral'}, {facts.sample_calls} network calls each"
    )


def evaluate_weights(
    weights: str | Path, *, samples: Path | None = None, nll_molecules: int = 500, draws: int = 1, seed: int = 0
) -> dict[str, Any]:
    """Figures of the samples kept with the weights (or given) and of the bound on every split, as plain numbers.

    Raises DataNotFound when there are no samples, InvalidInput for samples that are not a packed file.
    """
    if samples is not None and samples.suffix != ".npz":
        raise InvalidInput(f"{samples}: expected a packed .npz of molecules (`molkit score` reads .xyz and .sdf)")
    kept = stored_samples(weights) if samples is None else read_packed(samples)
    lost = num_failed_chains(weights) if samples is None else 0
    test = len(load_drug_size(split="test"))
    data = computed(Task(name, "", 0, test, test, seed) for name in (HELD_BACK, TRAINED_ON))
    rows = pd.concat([data, pd.DataFrame(scored(kept, lost)).assign(data=OURS)], ignore_index=True)
    found = scores(rows).set_index("data")
    report: dict[str, Any] = {"weights": str(weights)}
    for word, name in (("data", HELD_BACK), ("samples", OURS)):
        shares = {key: asdict(found.loc[name, key]) for key in SHARES}
        report[word] = {"molecules": int(found.loc[name, "n"])} | shares
    report["energies_kcal"] = _plain(energy_table(rows, num_resamples=200, seed=seed).set_index("data").loc[OURS])
    if nll_molecules:
        asked_for = tasks_bound(weights=str(weights), num_molecules=nll_molecules, draws=draws, seed=seed)
        lines = bounds(computed(asked_for, measure_bound))
        report["nll_nats"] = [_plain(line) for _, line in lines.iterrows()]
    return report


def _plain(line: pd.Series) -> dict[str, Any]:
    """A line of a table as JSON holds it."""
    return {name: asdict(cell) if isinstance(cell, Interval) else cell for name, cell in line.items()}


# ---- how `data/sets/drug_size_splits.csv.gz` was made: keys from bonds, splits from keys ----


def key_of_ensemble(ensemble: ConformerEnsemble) -> str:
    """The skeleton by the bonds that the data set states."""
    bonds = [(int(a), int(b), 1) for a, b, _ in ensemble.bonds]
    return skeleton_smiles(bonded_mol(ensemble.atomic_numbers.tolist(), bonds))


def make_entries() -> list[Entry]:
    """All molecules of the three sources in their order; skeletons of DrugBank and tripeptides from distances."""
    keyed = [("conformers", ensemble.name, key_of_ensemble(ensemble)) for ensemble in load_conformer_ensembles()]
    for source, read in (("druglike", load_druglike), ("tripeptides", load_tripeptides)):
        keyed += [(source, molecule.name, skeleton_smiles(connectivity(molecule))) for molecule in read()]
    return [Entry(source, name, key, split_of_key(key)) for source, name, key in keyed]


def write_entries(path: Path, entries: list[Entry]) -> None:
    """The table as a gzipped CSV without time stamp: equal entries give equal bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("source", "name", "key", "split"))
    writer.writerows((entry.source, entry.name, entry.key, entry.split) for entry in entries)
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
