"""Starts of a relaxation on the GFN2-xTB surface: force fields, GFN1-xTB, diffusion, a perfect model; and how the way
to use a model was chosen."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from molkit.chem.optimise import optimise
from molkit.chem.xtb import Relaxation, XtbEnergy
from molkit.claims.ledger import Measurement
from molkit.claims.provenance import hash_files
from molkit.data.qm9 import load_qm9
from molkit.data.registry import data_root
from molkit.edm.model import Edm, load
from molkit.edm.samplers import ANCESTRAL, SAMPLERS
from molkit.errors import CalculationFailed, InvalidInput
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.run import table_of
from molkit.experiments.show import Column
from molkit.experiments.store import Store
from molkit.figures.style import BLACK, BLUE, GREEN, ORANGE, panels
from molkit.metrics.statistics import Interval, bootstrap_interval, ratio_interval
from molkit.molecule import Molecule
from molkit.relaxation.boltzmann import cartesian_hessian, modes
from molkit.relaxation.comparison import parts_of_excess
from molkit.relaxation.denoisers import NetworkDenoiser
from molkit.relaxation.recipe import pre_relax
from molkit.relaxation.starts import (
    ENDINGS,
    LEVELS,
    REFERENCE,
    Starts,
    classical_starts,
    edm_name,
    with_diffusion,
    with_xtb,
)
from molkit.rng import generator_from
from molkit.studies.relaxation import comparison
from molkit.studies.relaxation.comparison import CARTESIAN, DIGITS, GFN1, INTERNAL, PERFECT, Run, run_rows, structure
from molkit.training.weights import weight_files
from molkit.units import EV_TO_KCAL

STORED = 57  # molecules of the page, spread evenly over the test split
SURFACE = "GFN2-xTB"
AUDIT = comparison.AUDIT


@dataclass(frozen=True)
class Task:
    """A QM9 test molecule, all of its starts, both optimisers."""

    molecule: str
    weights: str
    seed: int

    @property
    def files(self) -> list[Path]:
        """Weights and data behind the task."""
        return [*weight_files(self.weights), data_root() / "qm9.npz"]


@asked
def tasks(*, molecules: int = STORED, weights: str = "edm_qm9", seed: int = 0) -> list[Task]:
    """Held-back QM9 molecules, spread evenly: a task for each. Raises InvalidInput for more than the page has."""
    names = list(_molecules("test"))
    if not 1 <= molecules <= len(names):
        raise InvalidInput(f"the page compares 1 to {len(names)} molecules, got {molecules}")
    return [Task(names[row * len(names) // molecules], weights, seed) for row in range(molecules)]


def measure(task: Task) -> list[dict[str, Any]]:
    """A row for each start and optimiser, see `comparison.run_rows`."""
    made = starts_of(_molecules("test")[task.molecule], _model(task.weights), seed=task.seed)
    return run_rows(made, tuple(dict.fromkeys(runs())), seed=task.seed)


def starts_of(molecule: Molecule, model: Edm, *, seed: int) -> Starts:
    """Classical starts, GFN1-xTB, and diffusion at three levels with both endings; noise of the molecule's own."""
    found = with_xtb(classical_starts(molecule), GFN1, "GFN1-xTB")
    own = generator_from("starts of", seed, molecule.name).initial_seed()
    return with_diffusion([found], NetworkDenoiser(model), seed=own)[0]


def runs() -> tuple[Run, ...]:
    """Every start with both optimisers, and the data set's own geometry once."""
    names = [REFERENCE, "etkdg", "uff", "mmff94s", GFN1]
    names += [edm_name(level, ending) for level in LEVELS for ending in ENDINGS] + [PERFECT]
    return ((REFERENCE, INTERNAL), ("dataset", INTERNAL), *((n, k) for k in (CARTESIAN, INTERNAL) for n in names))


@lru_cache(maxsize=2)
def _molecules(split: str) -> dict[str, Molecule]:
    return {one.name: one for one in load_qm9(split=split, limit=STORED)}


@lru_cache(maxsize=2)
def _model(weights: str) -> Edm:
    return load(weights)


def conformer_energies(rows: pd.DataFrame) -> pd.Series:
    """Energy of the minimum next to MMFF94's structure above that next to the data set's geometry, kcal/mol."""
    found = comparison.pairs(rows, "dataset", INTERNAL)
    return found["energy_reference"] - found["energy"].astype(float)


@dataclass(frozen=True)
class KnownError:
    """How far relaxed structures of held-back molecules lay above the GFN2-xTB minimum next to MMFF94's, kcal/mol."""

    num_molecules: int
    elements: tuple[str, ...]
    num_atoms: tuple[int, int]
    median: float
    ninth: float  # nine in ten lay below

    def __str__(self) -> str:
        low, high = self.num_atoms
        return (
            f"expected error: tested on {self.num_molecules} held-back molecules of QM9 ({' '.join(self.elements)}; "
            f"{low} to {high} atoms; neutral closed shells) from MMFF94's structures, half lay within "
            f"{self.median:.1f}, nine in ten within {self.ninth:.1f} kcal/mol of the GFN2-xTB minimum beside"
        )


def known_error(weights: str, sigma: float | str, ending: str, sampler: str) -> KnownError | None:
    """What the stored rows of these weights say about relaxations with these settings (one chain); None without any."""
    name = "versus_force_field" if sampler == ANCESTRAL.name else "versus_force_field_recipe"
    rows = stored_rows(name, weights)
    if sigma == "auto" or rows.empty:
        return None
    if sampler == ANCESTRAL.name:
        own = (rows["start"] == edm_name(float(sigma), ending)) & (rows["optimiser"] == INTERNAL)
    else:
        own = (rows["split"] == "test") & (rows["sigma"] == float(sigma)) & (rows["sampler"] == sampler)
        own &= ending == "mean"
    heights = rows[own].groupby("molecule")["excess"].mean().dropna()
    if heights.empty:
        return None
    tested = [_molecules("test")[molecule] for molecule in heights.index]
    sizes = [one.num_atoms for one in tested]
    return KnownError(
        num_molecules=len(heights),
        elements=tuple(sorted({symbol for one in tested for symbol in one.symbols})),
        num_atoms=(min(sizes), max(sizes)),
        median=float(heights.median()),
        ninth=float(heights.quantile(0.9)),
    )


def stored_rows(name: str, weights: str) -> pd.DataFrame:
    """Stored rows of an experiment by weights of this name, as they are now: rows of older ones do not count."""
    stored, now = Store(name).read(), hash_files(weight_files(weights)[:1])
    own = [one for one in stored.entries.values() if one.task["weights"] == str(weights)]
    return table_of(one for one in own if now.items() <= stored.batches[one.batch].inputs.items())


def measurements(rows: pd.DataFrame, level: float) -> list[Measurement]:
    """Ratios of excesses and of gradients at the level chosen on validation molecules, for the ledger."""
    sampled, mean = (edm_name(level, ending) for ending in ENDINGS)
    asked_for = {
        "relaxation.energy.ratio_xtb": (sampled, CARTESIAN, "ratio"),
        "relaxation.energy.ratio_xtb_mean": (mean, CARTESIAN, "ratio"),
        "relaxation.speedup.xtb_cartesian": (sampled, CARTESIAN, "step_ratio"),
        "relaxation.speedup.xtb_internal": (sampled, INTERNAL, "step_ratio"),
    }
    return comparison.measurements(rows, asked_for, notes=f"{SURFACE}, noise {level} angstrom")


# ---- how the way to use a model was chosen, and what the chosen way comes to ----

AUDIT_recipe = Comparison(
    within={"excess": 0.02}, alike={"excess": 1.5}, by=("way",), exact=(REFERENCE, GFN1, "dataset")
)


@dataclass(frozen=True)
class RecipeTask:
    """A molecule of a split; every level with every sampler."""

    split: str
    molecule: str
    weights: str
    levels: tuple[float, ...]  # angstrom
    samplers: tuple[str, ...]
    seed: int

    @property
    def files(self) -> list[Path]:
        """Weights and data behind the task."""
        return [*weight_files(self.weights), data_root() / "qm9.npz"]


@asked
def tasks_recipe(
    *,
    split: Literal["valid", "test"] = "valid",
    molecules: int = 18,
    weights: Sequence[str] = ("edm_qm9_low_noise", "edm_qm9_preconditioned"),
    levels: Sequence[float] = (0.0425, 0.0707, 0.1061, 0.15),
    samplers: Sequence[str] = ("ancestral", "ddim"),
    seeds: Sequence[int] = (0, 1, 2),
) -> list[RecipeTask]:
    """The ways of using weights on molecules of a split, spread evenly: a task for each molecule, weights and seed."""
    names = list(_molecules(split))
    if not 1 <= molecules <= len(names):
        raise InvalidInput(f"the page has 1 to {len(names)} molecules, got {molecules}")
    chosen = [names[row * len(names) // molecules] for row in range(molecules)]
    ways = (tuple(levels), tuple(samplers))
    return [RecipeTask(split, name, one, *ways, seed) for one in weights for seed in seeds for name in chosen]


def measure_recipe(task: RecipeTask) -> list[dict[str, Any]]:
    """A row for each way, MMFF94, GFN1-xTB and a perfect model: energy above the minimum next to MMFF94's structure.

    GFN2-xTB, kcal/mol; the mean ending, elements held. QM9's own geometry is compared with the minimum next to itself:
    a model that learned such geometries without an error lies as high. Raises CalculationFailed without a minimum.
    """
    torch.set_num_threads(1)
    made, beside, own = _known_minimum(task.split, task.molecule)
    given, lowest = made.start(REFERENCE), beside.energy_after
    known = {REFERENCE: given, PERFECT: structure(made, PERFECT, beside.positions, task.seed)}
    known |= {GFN1: made.start(GFN1)} if GFN1 in made.places else {}
    rows = [_way_row(name, _height(molecule, lowest)) for name, molecule in known.items()]
    rows.append(_way_row("dataset", own.energy_drop * EV_TO_KCAL))
    for sigma, sampler in product(task.levels, task.samplers):
        generator = generator_from("recipe", task.seed, task.molecule, str(sigma))
        options = {"sigma": sigma, "sampler": SAMPLERS[sampler], "generator": generator}
        (molecule,) = pre_relax(_model(task.weights), [given], **options).molecules
        excess = None if molecule is None else _height(molecule, lowest)
        rows.append(_way_row(task.weights, excess, sigma=sigma, sampler=sampler))
    return rows


def _way_row(way: str, excess: float | None, **about: Any) -> dict[str, Any]:
    rounded = None if excess is None else round(excess, DIGITS)
    return {"way": way, "excess": rounded, "sigma": None, "sampler": ""} | about


def _height(molecule: Molecule, lowest: float) -> float:
    return (XtbEnergy(molecule)(molecule.positions).energy - lowest) * EV_TO_KCAL


@lru_cache(maxsize=2 * STORED)
def _known_minimum(split: str, name: str) -> tuple[Starts, Relaxation, Relaxation]:
    """Starts of a molecule, and its relaxations by GFN2-xTB from MMFF94's structure and from QM9's own geometry."""
    made = with_xtb(classical_starts(_molecules(split)[name]), GFN1, "GFN1-xTB")
    given = structure(made, REFERENCE, None, 0)
    ended, own = (optimise(one, XtbEnergy(one), optimiser=INTERNAL) for one in (given, made.molecule))
    if not ended.converged:
        raise CalculationFailed(f"{name}: no minimum was reached")
    return made, ended, own


def ways(rows: pd.DataFrame) -> pd.DataFrame:
    """Each way's excess over molecules (a molecule's is the mean over seeds): mean, median, MMFF94's mean over it.

    The lowest mean first. Chains that did not stay finite are counted and left out.
    """
    own = ["way", "sigma", "sampler"]
    reference, found = rows[rows["way"] == REFERENCE].groupby("molecule")["excess"].mean(), []
    for names, group in rows.groupby(own, dropna=False, sort=False):
        values = group.groupby("molecule", sort=False)["excess"].mean().dropna()
        numbers = values.to_numpy()
        line: dict[str, Any] = dict(zip(own, names, strict=True)) | {"num": len(values)}
        line |= {"num_failed": int(group["excess"].isna().sum()), "mean": bootstrap_interval(numbers)}
        line["median"] = bootstrap_interval(numbers, statistic=np.median)
        found.append(line | {"ratio": ratio_interval(reference[values.index].to_numpy(), numbers)})
    return pd.DataFrame(sorted(found, key=lambda line: line["mean"].value), dtype=object)


def chosen(rows: pd.DataFrame, weights: str) -> dict[str, Any]:
    """Levels, samplers and seeds for `tasks_recipe`: the way of these weights with the lowest mean excess.

    Without noise in the steps (ddim) all seeds give the same, so one is enough.
    Raises InvalidInput where no row is of these weights.
    """
    if weights not in set(rows["way"]):
        raise InvalidInput(f"no row was made by the weights {weights!r}")
    best = ways(rows[rows["way"].isin([REFERENCE, weights])]).set_index("way").loc[[weights]].iloc[0]
    seeds = sorted(rows["seed"].unique().tolist())
    seeds = seeds[:1] if best["sampler"] == "ddim" else seeds
    return {"levels": (float(best["sigma"]),), "samplers": (best["sampler"],), "seeds": tuple(seeds)}


def difference(rows: pd.DataFrame, others: pd.DataFrame) -> Interval:
    """Mean excess of the weights of one table less that of the other's, over the molecules that both have, kcal/mol."""
    first, second = (one[one["sigma"].notna()].groupby("molecule")["excess"].mean() for one in (rows, others))
    return bootstrap_interval((first - second).dropna().to_numpy())


# ---- which part of a structure the excess sits in ----

PARTS = {"bonds": ORANGE, "angles": BLUE, "torsions": GREEN}
AUDIT_parts = Comparison(
    within=dict.fromkeys(("excess", *PARTS), 0.05),
    alike={"excess": 1.5},
    by=("way",),
    exact=(REFERENCE, "dataset"),
)


@dataclass(frozen=True)
class PartsTask:
    """A test molecule, and weights without noise in the steps from each level."""

    molecule: str
    weights: str
    levels: tuple[float, ...]  # angstrom
    seed: int

    @property
    def files(self) -> list[Path]:
        """Weights and data behind the task."""
        return [*weight_files(self.weights), data_root() / "qm9.npz"]


@asked
def tasks_parts(
    *,
    molecules: int = 24,
    weights: str = "edm_qm9_preconditioned",
    levels: Sequence[float] = (0.0285, 0.0707, 0.15),
    seed: int = 0,
) -> list[PartsTask]:
    """Held-back molecules, spread evenly: a task for each. Raises InvalidInput for more than the page has."""
    return [PartsTask(one.molecule, weights, tuple(levels), seed) for one in tasks(molecules=molecules)]


def measure_parts(task: PartsTask) -> list[dict[str, Any]]:
    """A row for each structure: excess over the minimum as in `measure_recipe`, and its parts, kcal/mol.

    `bonds` and `angles` as in `parts_of_excess`; `torsions` is what is left. QM9's own geometry is compared with the
    minimum next to itself. Raises CalculationFailed without a minimum.
    """
    torch.set_num_threads(1)
    made, beside, own = _known_minimum("test", task.molecule)
    given = made.start(REFERENCE)
    known = [(REFERENCE, None, given), (PERFECT, None, structure(made, PERFECT, beside.positions, task.seed))]
    for level in task.levels:
        options = {"sigma": level, "sampler": SAMPLERS["ddim"], "generator": generator_from("parts", task.seed)}
        known.append((task.weights, level, pre_relax(_model(task.weights), [given], **options).molecules[0]))
    rows = _parts_rows(beside, known)
    return rows + _parts_rows(own, [("dataset", None, made.molecule)])


def _parts_rows(
    minimum: Relaxation, known: Sequence[tuple[str, float | None, Molecule | None]]
) -> list[dict[str, Any]]:
    """A row for each structure (way, level, molecule) beside a minimum; nothing but the way where there is none."""
    surface = XtbEnergy(known[0][2])
    found = modes(cartesian_hessian(surface, minimum.positions), minimum.positions)
    rows = []
    for way, level, one in known:
        parts = dict.fromkeys(("excess", *PARTS))
        if one is not None:
            excess = (surface(one.positions).energy - minimum.energy_after) * EV_TO_KCAL
            pair = parts_of_excess(one.positions, minimum.positions, one.atomic_numbers, found) * EV_TO_KCAL
            parts = dict(zip(parts, (excess, *pair, excess - pair.sum()), strict=True))
        rows.append({"way": way, "sigma": level} | {name: value and round(value, 3) for name, value in parts.items()})
    return rows


def parts(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean excess of each way and level and of its parts over molecules, with intervals, in the order of the rows.

    Chains that did not stay finite are counted; a way without any other has no line.
    """
    found = []
    for (way, level), group in rows.groupby(["way", "sigma"], dropna=False, sort=False):
        whole = group.dropna(subset=["excess"])
        if whole.empty:
            continue
        means = {name: bootstrap_interval(whole[name].to_numpy(dtype=float)) for name in ("excess", *PARTS)}
        found.append({"way": way, "sigma": level, **means, "num": len(whole), "num_failed": len(group) - len(whole)})
    return pd.DataFrame(found, dtype=object)


def draw_parts(rows: pd.DataFrame) -> Figure:
    """Mean excess of each way and what its bonds, angles and the rest have of it, with intervals."""
    found = parts(rows)
    names = [
        comparison.WORDS.get(way, "model") + ("" if pd.isna(level) else f", from {level:.3g} Å")
        for way, level in zip(found["way"], found["sigma"], strict=True)
    ]
    caption = (
        f"Energy above the GFN2-xTB minimum, n = {found['num'].max()} QM9 test molecules, means with 95 % bootstrap. "
        f"Model: {rows['weights'].iloc[0]}, without noise in the steps. Torsions: with all that is not harmonic, which "
        "takes away where angles are far off."
    )
    with panels(width=7.6, height=0.55 * len(found) + 1.0, caption=caption) as (figure, (axes,)):
        for k, (name, colour) in enumerate({"excess": BLACK, **PARTS}.items()):
            middle = np.array([one.value for one in found[name]])
            ends = [[one.value - one.low for one in found[name]], [one.high - one.value for one in found[name]]]
            label = "all" if name == "excess" else name
            places = np.arange(len(found)) + 0.15 * (k - 1.5)
            axes.errorbar(middle, places, xerr=ends, fmt="o", color=colour, label=label)
        axes.axvline(0.0, color=BLACK, lw=0.8)
        axes.set_yticks(range(len(found)), names)
        axes.invert_yaxis()
        axes.set_xlabel("mean excess (kcal/mol)")
        axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(0.0, 1.0))
    return figure


PART_COLUMNS = {
    "way": Column("structure", names=comparison.WORDS),
    "sigma": Column("noise, Å", 4),
    "excess": Column("excess, kcal/mol", 2),
    "bonds": Column("in bonds", 2),
    "angles": Column("in angles", 2),
    "torsions": Column("in torsions and the rest", 2),
    "num": Column("n"),
    "num_failed": Column("failed"),
}


def measurements_chosen(rows: pd.DataFrame, weights: str) -> list[Measurement]:
    """MMFF94's mean excess over that of weights by the chosen way, for the ledger."""
    (line,) = ways(rows[rows["way"].isin([REFERENCE, weights])]).query("way == @weights").to_dict("records")
    told = f"{SURFACE}, noise {line['sigma']:g} angstrom, {line['sampler']}, mean ending"
    return [comparison.ratio_measurement("relaxation.energy.ratio_xtb_chosen", line, rows, weights, notes=told)]


WAYS = {
    "way": Column("", names=comparison.WORDS),
    "sigma": Column("noise, Å", 4),
    "sampler": Column("sampler", names={"": "–"}),
    "mean": Column("excess, mean, kcal/mol", 2),
    "median": Column("median", 2),
    "ratio": Column("MMFF94's mean over it", 2),
    "num": Column("n"),
    "num_failed": Column("failed"),
}
COSTS = {"way": "", "milliseconds": Column("CPU ms a molecule"), "num": Column("n")}


def costs(weights: str, *, count: int, seed: int) -> pd.DataFrame:
    """CPU milliseconds a molecule from MMFF94's structure on, for the same test molecules, on one core, now."""
    torch.set_num_threads(1)
    edm, molecules = load(weights), load_qm9(split="test", limit=count)
    pre_relax(edm, [molecules[0]], generator=generator_from("warm"))  # the kernel is loaded before the clock runs
    began = process_time()
    given = [one.start(REFERENCE) for one in map(classical_starts, molecules) if REFERENCE in one.places]
    lines = [("ETKDG, UFF, MMFF94 and MMFF94s", process_time() - began, count)]
    began = process_time()
    pre_relax(edm, given, generator=generator_from("costs", seed))
    lines.append(("diffusion, the default of molkit relax, in one batch", process_time() - began, len(given)))
    for method in ("GFN1-xTB", "GFN2-xTB"):
        began = process_time()
        for one in given:
            optimise(one, XtbEnergy(one, method=method), optimiser=INTERNAL)
        lines.append((f"{method} relaxation", process_time() - began, len(given)))
    return pd.DataFrame([{"way": way, "milliseconds": 1000 * spent / num, "num": num} for way, spent, num in lines])
