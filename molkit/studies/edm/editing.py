"""Editing measured: completions with a known answer, variations by noise level, a formula against waiting for it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from molkit.chem.bond_orders import allowed_valences, packed_valences
from molkit.chem.composition import parse_formula
from molkit.chem.rdkit_tools import smiles_by_distance
from molkit.data.qm9 import load_qm9, load_reference_smiles
from molkit.data.registry import data_path
from molkit.edm.editing import GUIDANCE, START, Edits, complete, vary, with_composition
from molkit.edm.model import build, load
from molkit.edm.published import stored_samples
from molkit.edm.samplers import sampler_named
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column
from molkit.figures import style
from molkit.figures.view3d import ELEMENT_COLOURS, facing, show_grid
from molkit.geometry import aligned_rmsd
from molkit.metrics.stability import stability
from molkit.metrics.statistics import bootstrap_interval, ratio_interval
from molkit.molecule import Molecule, PackedMolecules
from molkit.rng import generator_from
from molkit.studies.edm.chains import draw_shares, molecules_of, pictured, scored, share
from molkit.training.weights import resolve, weight_files

if TYPE_CHECKING:
    from IPython.display import HTML

PART = 25  # molecules of one task
TRAINING = "training"  # the formulas of QM9's training molecules
SHOWN = 12  # first molecules whose coordinates are kept, for pictures
FEWEST = 5  # molecules behind a mean displacement
UNTRAINED = "untrained"  # a way of completing: the same as from noise, by a network that has learnt nothing
AUDIT = Comparison(alike={"stable": 0.3}, by=("weights", "sampler", "way"))
AUDIT_vary = Comparison(alike={"stable": 0.3, "same": 0.3}, by=("keep_elements", "level"))
AUDIT_compose = Comparison(alike={"stable": 0.3}, by=("way",))


class Way(NamedTuple):
    """How the unknown part is found: where the chain begins (angstrom; None: noise alone), pull, passes, elements."""

    start: float | None = None
    guidance: float = 0.0
    passes: int = 1
    by_atom: bool = False


WAYS = {
    UNTRAINED: Way(),
    "from noise": Way(),
    "from noise + guided": Way(guidance=GUIDANCE),
    "from noise + guided + 4 passes": Way(guidance=GUIDANCE, passes=4),
    "from open valences": Way(START),
    "from open valences + 4 passes": Way(START, passes=4),
    "from open valences + guided": Way(START, GUIDANCE),
}
FORMULA_WAYS = {
    "each atom's element fixed": Way(by_atom=True),
    "each atom's element fixed + guided": Way(guidance=GUIDANCE, by_atom=True),
    "numbers of atoms fixed": Way(),
    "numbers of atoms fixed + guided": Way(guidance=GUIDANCE),
}
BY_NUMBERS = [name for name, way in FORMULA_WAYS.items() if not way.by_atom]
COMPLETED = {
    "weights": "weights",
    "sampler": "sampler",
    "way": "",
    "n": Column("n"),
    "calls": Column("calls"),
    "stable": Column("molecules stable, %", 1, 100),
    "atoms": Column("atoms stable, %", 1, 100),
    "fixed": Column("fixed atoms satisfied, %", 1, 100),
    "odd": Column("odd electrons, %", 1, 100),
    "same": Column("original recovered, %", 1, 100),
    "seconds": Column("CPU s a molecule", 2),
}
COMPOSED = {
    "way": "",
    "n": Column("n"),
    "right": Column("right formula, %", 1, 100),
    "stable": Column("right and stable, %", 1, 100),
    "isomers": Column("different isomers"),
    "novel": Column("novel of these"),
    "seconds": Column("CPU s a molecule", 2),
}

# ---- completions of molecules of which a quarter was cut off ----

MASKS = {"a molecule": True, "the fragment, held": None, "wanted: new atoms": False}  # drawn, left out, dashed


@dataclass(frozen=True)
class Task:
    """Test molecules `first` to `first + count` of a spread of `total`, cut and completed in one way."""

    weights: str
    sampler: str
    way: str
    num_calls: int  # of one pass
    first: int
    count: int
    total: int
    seed: int

    @property
    def files(self) -> list[Path]:
        """The weights and QM9."""
        return [*weight_files(self.weights), data_path("qm9.npz")]


@asked
def tasks(
    *,
    weights: Sequence[str] = ("edm_qm9_preconditioned",),
    samplers: Sequence[str] = ("sde-2m-extra",),
    ways: Sequence[str] = tuple(WAYS),
    num_molecules: int = 300,
    num_calls: int = 50,
    seed: int = 0,
) -> list[Task]:
    """All weights with all samplers and ways (of `WAYS`), in parts; the same fragments in each."""
    return [
        Task(name, sampler, way, num_calls, first, min(PART, num_molecules - first), num_molecules, seed)
        for name in weights
        for sampler in samplers
        for way in ways
        for first in range(0, num_molecules, PART)
    ]


def measure(task: Task) -> list[dict]:
    """A row a molecule: is it stable, are its fixed atoms satisfied, is it the one that was cut; `whole` of that one.

    A chain that did not stay finite is a molecule that is nothing.
    """
    way, whole = WAYS[task.way], originals_of(task)
    fragments = [cut(one, seed=(task.seed, task.first + k)) for k, one in enumerate(whole)]
    edm = load(task.weights)
    started = process_time()
    edits = complete(
        edm if task.way != UNTRAINED else build(edm.config, seed=task.seed),
        fragments,
        num_new=[one.num_atoms - part.num_atoms for one, part in zip(whole, fragments, strict=True)],
        generator=generator_from("complete", task.seed, task.first),
        num_calls=task.num_calls,
        guidance=way.guidance,
        start=way.start,
        resamplings=way.passes,
        sampler=sampler_named(task.sampler),
    )
    about = {"calls": edits.num_calls, "seconds": round((process_time() - started) / task.count, 5)}
    kept = stability(whole).molecule_stable
    rows = pictured(_compared(edits, whole), [task.first + k < SHOWN for k in range(task.count)])
    fixed = dict(zip(edits.rows.tolist(), satisfied(edits, fragments), strict=True))
    return [
        row
        | about
        | {"molecule": task.first + k, "whole": bool(kept[k])}
        | {"num_fixed": fragments[k].num_atoms, "fixed": fixed.get(k, False)}
        for k, row in enumerate(rows)
    ]


def originals_of(task: "Task | VaryTask") -> PackedMolecules:
    """The molecules of the test split that a task is about."""
    return load_qm9(split="test", limit=task.total).select(np.arange(task.first, task.first + task.count))


def cut(molecule: Molecule, *, seed: Sequence[int]) -> Molecule:
    """The molecule without the quarter of its atoms (one at least) that lies farthest in a random direction."""
    along = molecule.centred().positions @ np.random.default_rng(seed).normal(size=3)
    kept = np.sort(np.argsort(along)[: molecule.num_atoms - max(1, molecule.num_atoms // 4)])
    return Molecule(molecule.atomic_numbers[kept], molecule.positions[kept], name=molecule.name)


def satisfied(edits: Edits, fragments: Sequence[Molecule]) -> list[bool]:
    """Whether the first atoms of each molecule, those of its fragment, all have an allowed valence."""
    if not len(edits.molecules):
        return []
    allowed, valences = allowed_valences(), packed_valences(edits.molecules)
    last = allowed.shape[1] - 1
    good = (valences <= last) & allowed[edits.molecules.atomic_numbers, np.minimum(valences, last)]
    starts = edits.molecules.ptr[:-1]
    return [bool(good[a : a + fragments[row].num_atoms].all()) for a, row in zip(starts, edits.rows, strict=True)]


def _compared(edits: Edits, originals: PackedMolecules) -> list[dict]:
    """What became of each request, and whether it is the molecule it came from, by SMILES."""
    truth, rows = smiles_by_distance(originals), scored(edits, len(originals))
    found = smiles_by_distance(edits.molecules) if len(edits.molecules) else []
    same = {int(row) for row, one in zip(edits.rows, found, strict=True) if one is not None and one == truth[row]}
    sizes = originals.num_atoms.tolist()
    return [row | {"num_atoms": sizes[k], "same": k in same} for k, row in enumerate(rows)]


def completions(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each way, weights and sampler: shares of all requests; and one for the molecules before the cut."""
    found = []
    for name, group in rows.groupby(["weights", "sampler", "way"], sort=False):
        line = dict(zip(("weights", "sampler", "way"), name, strict=True))
        line |= {"n": len(group), "calls": group["calls"].max(), "seconds": group["seconds"].mean()}
        line |= {column: share(group[column]) for column in ("stable", "fixed", "odd", "same")}
        line["atoms"] = ratio_interval(group["stable_atoms"].to_numpy(float), group["num_atoms"].to_numpy(float))
        found.append(line)
    before = share(group["whole"])
    return pd.DataFrame([{"way": "the molecules before the cut", "n": len(group), "stable": before}, *found])


def gallery(rows: pd.DataFrame, *, way: str, count: int = 4) -> "HTML":
    """Molecules before the cut, and below them what became of their fragments; the fixed atoms stand in a halo."""
    chosen = rows[rows["way"] == way]
    chosen = chosen[chosen["weights"] == chosen["weights"].iloc[-1]].dropna(subset=["positions"])
    chosen = chosen.drop_duplicates("molecule").head(count)
    whole = load_qm9(split="test", limit=int(chosen["total"].iloc[0]))
    shown = [whole[int(row)] for row in chosen["molecule"]] + list(molecules_of(chosen))
    caption = (
        f"Above: the first {len(chosen)} of the test molecules before the cut. Below: what became of their fragments, "
        f"{way}, in the same order; the fixed atoms stand in a halo."
    )
    return show_grid(
        shown, caption=caption, columns=len(chosen), marked=[0] * len(chosen) + chosen["num_fixed"].tolist()
    )


def draw_mask(*, row: int = 6000, seed: int = 0) -> Figure:
    """A test molecule, what is held of it, and what is made anew: a sketch in the plane in which it is widest."""
    whole = facing(load_qm9(split="test")[row])
    kept = cut(whole, seed=(seed, row)).positions
    width, height = np.abs(whole.positions[:, :2]).max(0) + 0.6
    known = (np.abs(whole.positions[:, None] - kept).sum(-1) < 1e-6).any(1)
    caption = "A test molecule. Filled: known. Dashed: no element and no place yet."
    with style.panels(3, width=8.6, height=2.0, caption=caption) as (figure, axes):
        for axis, (title, filled) in zip(axes, MASKS.items(), strict=True):
            for place, number, held in zip(whole.positions, whole.atomic_numbers, known, strict=True):
                if held or filled is not None:
                    colour = ELEMENT_COLOURS[int(number)] if held or filled else "none"
                    line = "-" if held or filled else "--"
                    axis.add_patch(Circle(place[:2], 0.4, fc=colour, ec="#444444", ls=line))
            axis.set_title(title, fontsize=10)
            axis.set(aspect="equal", xlim=(-width, width), ylim=(-height, height))
            axis.axis("off")
    return figure


# ---- molecules noised and cleaned up ----


@dataclass(frozen=True)
class VaryTask:
    """Test molecules noised to a level and cleaned up again."""

    weights: str
    sampler: str
    level: float  # angstrom, noise on each coordinate
    keep_elements: bool
    num_calls: int
    first: int
    count: int
    total: int
    seed: int

    @property
    def files(self) -> list[Path]:
        """The weights and QM9."""
        return [*weight_files(self.weights), data_path("qm9.npz")]


@asked
def tasks_vary(
    *,
    weights: str = "edm_qm9_preconditioned",
    sampler: str = "sde-2m-extra",
    levels: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.5),
    num_molecules: int = 200,
    num_calls: int = 50,
    seed: int = 0,
) -> list[VaryTask]:
    """All levels, elements noised too or kept, in parts; the same molecules at every level."""
    return [
        VaryTask(weights, sampler, level, keep, num_calls, first, min(PART, num_molecules - first), num_molecules, seed)
        for keep in (False, True)
        for level in levels
        for first in range(0, num_molecules, PART)
    ]


def measure_vary(task: VaryTask) -> list[dict]:
    """A row a molecule: is it stable, is it the same, and then its RMSD from where it began (angstrom)."""
    originals = originals_of(task)
    edits = vary(
        load(task.weights),
        list(originals),
        sigma=task.level,
        num_calls=task.num_calls,
        keep_elements=task.keep_elements,
        guidance=0.0,
        sampler=sampler_named(task.sampler),
        generator=generator_from("vary", task.seed, task.first),
    )
    rows = _compared(edits, originals)
    for row, made in zip(edits.rows, edits.molecules, strict=True):
        moved = aligned_rmsd(made.positions, originals[int(row)].positions)
        rows[row]["rmsd"] = round(float(moved), 4) if rows[row]["same"] else None
    rows = pictured(rows, [task.first + k == (task.total - 1) // 2 for k in range(task.count)])
    return [{"molecule": task.first + k, "rmsd": None} | row for k, row in enumerate(rows)]


def draw_variation(rows: pd.DataFrame, *, caption: str) -> Figure:
    """The share of unchanged and of stable molecules, and how far unchanged ones moved, against the noise level."""
    with style.panels(3, width=9.6, height=3.0, caption=caption) as (figure, axes):
        for (keep, group), colour in zip(
            rows.groupby("keep_elements"), (style.MODEL_COLOUR, style.ORANGE), strict=False
        ):
            look = {"color": colour, "label": "positions only" if keep else "elements too"}
            by_level = group.groupby("level")
            for axis, column in zip(axes, ("same", "stable"), strict=False):
                draw_shares(axis, list(by_level.groups), [share(one) for _, one in by_level[column]], **look)
            moved = {level: one.dropna() for level, one in by_level["rmsd"] if one.count() >= FEWEST}
            means = [bootstrap_interval(one.to_numpy(float)).scaled(0.01) for one in moved.values()]
            draw_shares(axes[2], list(moved), means, **look)
        for axis, label in zip(axes, ("same molecule (%)", "stable molecules (%)", "RMSD (Å)"), strict=True):
            axis.set(xlabel="noise σ (Å)", ylabel=label, xscale="log", ylim=(0, None if "RMSD" in label else 102))
            levels = sorted(rows["level"].unique())[::2]
            axis.set_xticks(levels, [f"{level:g}" for level in levels])
            axis.minorticks_off()
        style.legend_above(axes[0])
    return figure


def ladder(rows: pd.DataFrame, *, levels: Sequence[float]) -> "HTML":
    """The molecule in the middle of the spread, and what became of it at some of the levels, elements noised too."""
    middle = int(rows["molecule"].max()) // 2
    chosen = rows[~rows["keep_elements"].astype(bool) & (rows["molecule"] == middle)].set_index("level")
    chosen = chosen.loc[[level for level in levels if level in chosen.index]].dropna(subset=["positions"])
    original = load_qm9(split="test", limit=int(rows["total"].iloc[0]))[middle]
    named = ", ".join(f"{level:g} Å" for level in chosen.index)
    caption = f"A test molecule, and one variation of it from each of the noise levels {named}, in this order."
    return show_grid([original, *molecules_of(chosen)], caption=caption, columns=1 + len(chosen), cell=150)


# ---- isomers of a formula ----


@dataclass(frozen=True)
class ComposeTask:
    """Molecules `first` to `first + count` of a formula, its elements held in one way."""

    weights: str
    sampler: str
    formula: str  # or `TRAINING`: of each molecule another, drawn from those of the training molecules
    way: str
    num_calls: int
    first: int
    count: int
    seed: int

    @property
    def files(self) -> list[Path]:
        """The weights, and QM9 where formulas are drawn from it."""
        return [*weight_files(self.weights), *([data_path("qm9.npz")] if self.formula == TRAINING else [])]

    def formulas(self) -> list[str | Counter[int]]:
        """What is asked of each molecule."""
        if self.formula != TRAINING:
            return [self.formula] * self.count
        known = load_qm9(split="train")
        chance = generator_from("formulas", self.seed, self.first)
        drawn = torch.randint(len(known), (self.count,), generator=chance).tolist()
        return [Counter(known[row].atomic_numbers.tolist()) for row in drawn]


@asked
def tasks_compose(
    *,
    weights: str = "edm_qm9_preconditioned",
    sampler: str = "sde-2m-extra",
    formula: str = "C7H10O2",
    ways: Sequence[str] = tuple(FORMULA_WAYS),
    count: int = 200,
    num_calls: int = 50,
    seed: int = 0,
) -> list[ComposeTask]:
    """All ways (of `FORMULA_WAYS`), in parts."""
    return [
        ComposeTask(weights, sampler, formula, way, num_calls, first, min(PART, count - first), seed)
        for way in ways
        for first in range(0, count, PART)
    ]


def measure_compose(task: ComposeTask) -> list[dict]:
    """A row a request: whether it has the formula (`right`), is stable, and its SMILES."""
    edm, way = load(task.weights), FORMULA_WAYS[task.way]
    started = process_time()
    edits = with_composition(
        edm,
        task.formulas(),
        generator=generator_from("compose", task.seed, task.first),
        by_atom=way.by_atom,
        guidance=way.guidance,
        num_calls=task.num_calls,
        sampler=sampler_named(task.sampler),
    )
    seconds = round((process_time() - started) / task.count, 5)
    rows = [row | {"right": row["positions"] is not None, "seconds": seconds} for row in scored(edits, task.count)]
    return pictured(rows, [task.first + k < SHOWN for k in range(task.count)])


@dataclass(frozen=True)
class WaitTask:
    """What a set of molecules holds of a formula, without asking for it."""

    source: str  # "QM9", or the weights whose stored samples are meant
    formula: str

    @property
    def files(self) -> list[Path]:
        """The set."""
        return [data_path("qm9.npz") if self.source == "QM9" else resolve(self.source) / "samples.npz"]


@asked
def tasks_waiting(*, weights: str = "edm_qm9_preconditioned", formula: str = "C7H10O2") -> list[WaitTask]:
    """QM9 and the stored samples of the weights."""
    return [WaitTask("QM9", formula), WaitTask(weights, formula)]


def measure_waiting(task: WaitTask) -> list[dict]:
    """A row for each molecule of that many atoms: whether it has the formula, is then stable, and its SMILES."""
    molecules = load_qm9(split="all") if task.source == "QM9" else stored_samples(task.source)
    wanted = parse_formula(task.formula)
    same_size = molecules.select(molecules.num_atoms == sum(wanted.values()))
    numbers = same_size.atomic_numbers.reshape(len(same_size), -1)
    right = np.logical_and.reduce([(numbers == number).sum(axis=1) == count for number, count in wanted.items()])
    kept = stability(same_size).molecule_stable if len(same_size) else right
    names = iter(smiles_by_distance(same_size.select(right)) if right.any() else [])
    way = "QM9" if task.source == "QM9" else "free samples, stored"
    return [
        {"way": f"{way}, {sum(wanted.values())} atoms", "right": bool(yes), "stable": bool(yes and good)}
        | {"smiles": next(names) if yes else None}
        for yes, good in zip(right, kept, strict=True)
    ]


def compositions(waited: pd.DataFrame, composed: pd.DataFrame) -> pd.DataFrame:
    """A line for each way; isomers are different SMILES among the stable ones, novel those not in training."""
    known, found = load_reference_smiles().smiles, []
    for way, group in pd.concat([waited, composed]).groupby("way", sort=False):
        isomers = set(group.loc[group["stable"].astype(bool), "smiles"].dropna())
        line = {"way": way, "n": len(group), "right": share(group["right"]), "stable": share(group["stable"])}
        line |= {"isomers": len(isomers), "novel": None if way.startswith("QM9") else len(isomers - known)}
        found.append(line | {"seconds": group["seconds"].mean()})
    return pd.DataFrame(found)


def composed_gallery(rows: pd.DataFrame, *, count: int = 8) -> "HTML":
    """The first molecules of the last way, stable or not."""
    chosen = rows[rows["way"] == rows["way"].iloc[-1]].dropna(subset=["positions"]).head(count)
    caption = f"The first {len(chosen)} molecules made with {rows['way'].iloc[-1]}, stable or not."
    return show_grid(list(molecules_of(chosen)), caption=caption)
