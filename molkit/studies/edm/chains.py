"""Whole chains from noise to molecules, a row for each molecule: what several pages ask of weights and samplers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

from molkit.chem.pose_checks import pose_checks
from molkit.config import whole_number
from molkit.data.qm9 import load_reference_smiles
from molkit.edm.farm import CHUNK, PART, request_of, settled, shared_edm
from molkit.edm.samplers import Sampler, sampler_named
from molkit.edm.sampling import SampleResult, sample
from molkit.errors import InvalidInput
from molkit.experiments.experiment import Comparison, asked, key_of
from molkit.experiments.show import Column
from molkit.experiments.store import Store
from molkit.metrics.distributions import compare_distributions
from molkit.metrics.stability import stability
from molkit.metrics.statistics import Interval, bootstrap_interval, proportion_interval, ratio_interval
from molkit.metrics.strain import Strain, relax_all
from molkit.metrics.validity import validity
from molkit.molecule import PackedMolecules
from molkit.rng import fork, generator_from
from molkit.training.weights import weight_files

ARM = ["weights", "sampler", "num_calls"]  # columns that say how a molecule was drawn
AUDIT = Comparison(alike={"stable": 0.15}, by=tuple(ARM))
AUDIT_checks = Comparison(alike={"passed": 0.25}, by=tuple(ARM))
SHAPES = 1000  # molecules of an arm whose coordinates are kept
EXAMPLE = "sde-2m-extra:100:1000"
LOST = dict.fromkeys(["smiles", "atomic_numbers", "positions"]) | {"stable_atoms": 0, "stable": False, "odd": False}
QUALITY = {
    "sampler": "sampler",
    "num_calls": "calls",
    "n": Column("n"),
    "molecules": Column("stable molecules, %", 1, 100),
    "atoms": Column("stable atoms, %", 2, 100),
    "valid": Column("valid, %", 1, 100),
    "valid_unique": Column("valid and unique, %", 1, 100),
    "novel": Column("novel of these, %", 1, 100),
    "odd": Column("odd electrons, %", 1, 100),
    "even_stable": Column("stable of the even, %", 1, 100),
    "bonds": Column("bond lengths, mÅ", 1, 1000),
    "seconds": Column("CPU s a molecule", 3),
}
CHECKS = {
    "weights": "weights",
    "sampler": "sampler",
    "num_calls": "calls",
    "n": Column("n"),
    "passed": Column("PoseBusters, %", 1, 100),
    "relaxed": Column("relaxed"),
    "strain": Column("strain, kcal/mol", 1),
    "rmsd": Column("moved, Å", 2),
}


@dataclass(frozen=True)
class Task:
    """Molecules `first` to `first + count` of the seed: sizes and noise follow from it, as in `molkit sample`."""

    weights: str
    sampler: str
    num_calls: int
    first: int
    count: int
    seed: int
    shared: bool  # whether chains of few calls follow the noise of the full chain, so that arms are compared in pairs

    @property
    def files(self) -> list[Path]:
        """The weights."""
        return weight_files(self.weights)


@asked
def tasks(
    *,
    weights: str = "edm_qm9",
    arms: Sequence[str] = (EXAMPLE,),
    seed: int = 0,
    shared: bool = True,
) -> list[Task]:
    """Chains of arms SAMPLER:CALLS:MOLECULES, in parts of 50 molecules; every arm begins with the same sizes and noise.

    sampler+60-200 takes every step from 60 to 200 besides. The word `stored` stands for all arms of these weights that
    are stored; of an arm that is named twice the larger number counts. Raises InvalidInput for an arm that cannot be.
    """
    found: dict[tuple[str, int], int] = {}
    for text in arms:
        named = stored_arms(weights, seed, shared) if text.strip() == "stored" else [read_arm(text)]
        for sampler, calls, count in named:
            found[sampler, calls] = max(count, found.get((sampler, calls), 0))
    if not found:
        raise InvalidInput(f"no chains of {weights} with this seed are stored: name arms, as in {EXAMPLE}")
    return [
        Task(weights, sampler, calls, first, min(PART, count - first), seed, shared)
        for (sampler, calls), count in found.items()
        for first in range(0, count, PART)
    ]


def stored_arms(weights: str, seed: int, shared: bool) -> list[tuple[str, int, int]]:
    """Sampler, network calls and molecules of the arms that are stored for these very weights."""
    counts: Counter[tuple[str, int]] = Counter()
    for key, entry in Store("chains").read().entries.items():
        task = Task(**entry.task)
        if (task.weights, task.seed, task.shared) == (weights, seed, shared) and key_of(task) == key:
            counts[task.sampler, task.num_calls] += task.count
    return [(sampler, calls, count) for (sampler, calls), count in counts.items()]


def read_arm(text: str) -> tuple[str, int, int]:
    """Sampler, network calls and molecules of an arm. Raises InvalidInput."""
    name, *numbers = text.strip().split(":")
    if len(numbers) != 2:
        raise InvalidInput(f"an arm is SAMPLER:CALLS:MOLECULES, as in {EXAMPLE}, got {text!r}")
    chosen_sampler(name)
    calls, count = (whole_number(number, what=f"a number of the arm {text}", low=1) for number in numbers)
    return name, calls, count


def chosen_sampler(name: str) -> Sampler:
    """The sampler of that name; name+60-200 takes every step of that part of the chain besides. Raises InvalidInput."""
    base, plus, part = name.partition("+")
    sampler = sampler_named(base)
    if not plus:
        return sampler
    low, _, high = part.partition("-")
    ends = [whole_number(end, what=f"the steps of the sampler {name}", low=0) for end in (low, high)]
    return replace(sampler, name=name, fine=tuple(ends))


def measure(task: Task) -> list[dict]:
    """A row a molecule: stability by EDM's rule, electron count, SMILES where valid.

    Of the first `SHAPES` of an arm, and of molecules without hydrogens, also elements and positions in mÅ. A chain that
    did not stay finite is a molecule that is nothing. seconds: CPU time of one chain.
    """
    made, sizes, about = draw(task)
    rows = scored(made, len(sizes))
    bare = [1 not in (row["atomic_numbers"] or []) for row in rows]
    rows = pictured(rows, [task.first + k < SHAPES or one for k, one in enumerate(bare)])
    return [about | {"num_atoms": size} | one for size, one in zip(sizes, rows, strict=True)]


def draw(task: Task) -> tuple[SampleResult, list[int], dict]:
    """The chains of a task, their sizes, and what they took: network calls, precision, CPU seconds of each."""
    torch.set_num_threads(1)
    request = settled(request_of(task.weights, seed=task.seed), None)
    edm = shared_edm(request.weights, "cpu", request.precision, request.fingerprint)
    chunk, row = divmod(task.first, CHUNK)
    generator = generator_from("sample", task.seed, chunk)
    sizes = edm.draw_sizes(CHUNK, generator=generator)[row : row + task.count]
    options = {"num_calls": task.num_calls, "sampler": chosen_sampler(task.sampler), "shared_path": task.shared}
    started = process_time()
    made = sample(edm, sizes, generator=fork(generator, CHUNK)[row : row + task.count], **options)
    seconds = round((process_time() - started) / task.count, 5)
    return made, sizes.tolist(), {"calls": made.num_calls, "precision": request.precision, "seconds": seconds}


def scored(made: SampleResult, count: int) -> list[dict]:
    """What became of each of `count` chains."""
    rows = [dict(LOST) for _ in range(count)]
    if len(made.molecules):
        kept, smiles = stability(made.molecules), validity(made.molecules, reference_smiles=None).smiles
        for k, row in enumerate(np.delete(np.arange(count), list(made.failed))):
            molecule = made.molecules[k]
            rows[row] = {
                "stable_atoms": int(kept.stable_atoms[k]),
                "stable": bool(kept.molecule_stable[k]),
                "odd": bool(molecule.atomic_numbers.sum() % 2),
                "smiles": smiles[k],
                "atomic_numbers": molecule.atomic_numbers.tolist(),
                "positions": np.rint(1000.0 * molecule.positions).astype(int).ravel().tolist(),
            }
    return rows


def pictured(rows: list[dict], kept: Iterable[bool]) -> list[dict]:
    """The rows with elements and positions where `kept` says so; the others would only fill the store."""
    bare = {"atomic_numbers": None, "positions": None}
    return [row if keep else row | bare for row, keep in zip(rows, kept, strict=True)]


def arm(rows: pd.DataFrame, sampler: str) -> pd.DataFrame:
    """The rows of a sampler. Raises InvalidInput where there are none."""
    found = rows[rows["sampler"] == sampler]
    if found.empty:
        raise InvalidInput(f"no molecules were drawn by {sampler}; there are {', '.join(rows['sampler'].unique())}")
    return found


def most(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the arm with the most molecules, the last one of several."""
    return max((group for _, group in rows.iloc[::-1].groupby(ARM, sort=False)), key=len).sort_index()


def molecules_of(rows: pd.DataFrame) -> PackedMolecules:
    """The molecules of the rows that kept their coordinates; positions rounded to mÅ."""
    kept = rows.dropna(subset=["positions"])
    if kept.empty:
        return PackedMolecules.from_molecules([])
    numbers = [np.array(one, dtype=np.int64) for one in kept["atomic_numbers"]]
    positions = np.concatenate([np.array(one, dtype=float) for one in kept["positions"]]).reshape(-1, 3) / 1000.0
    return PackedMolecules(np.array([len(one) for one in numbers]), np.concatenate(numbers), positions)


def quality(rows: pd.DataFrame, *, reference: PackedMolecules | None = None) -> pd.DataFrame:
    """Quality of each arm; a chain that failed counts as a molecule that is nothing, in every share.

    `bonds` is the distance of the bond lengths from those of `reference`. Of rows of which only stability was kept, the
    other columns are empty. Uniqueness falls with n, so compare rows of equal n.
    """
    known = load_reference_smiles().smiles
    return pd.DataFrame(
        [
            dict(zip(ARM, name, strict=True)) | _quality(group, known) | {"bonds": bond_distance(group, reference)}
            for name, group in rows.groupby(ARM, sort=False)
        ]
    )


def _quality(group: pd.DataFrame, known: frozenset[str]) -> dict[str, Interval | float | int | None]:
    found = {
        "n": len(group),
        "molecules": share(group["stable"]),
        "calls": group["calls"].max(),
        "seconds": group["seconds"].mean(),
    }
    kept = group.dropna(subset=["stable_atoms"])
    nothing = dict.fromkeys(["atoms", "valid", "valid_unique", "novel", "novel_of_all", "odd", "even_stable"])
    if kept.empty:
        return found | nothing
    distinct, even = set(kept["smiles"].dropna()), kept[~kept["odd"].astype(bool)]
    return found | {
        "atoms": ratio_interval(kept["stable_atoms"].to_numpy(float), kept["num_atoms"].to_numpy(float)),
        "valid": share(kept["smiles"].notna()),
        "valid_unique": proportion_interval(len(distinct), len(kept)),
        "novel": proportion_interval(len(distinct - known), len(distinct)) if distinct else None,
        "novel_of_all": proportion_interval(len(distinct - known), len(kept)),
        "odd": share(kept["odd"]),
        "even_stable": share(even["stable"]) if len(even) else None,
    }


def share(flags: pd.Series) -> Interval:
    """Share of rows that are true, with its interval."""
    return proportion_interval(int(flags.astype(bool).sum()), len(flags))


def bond_distance(rows: pd.DataFrame, reference: PackedMolecules | None) -> float | None:
    """Wasserstein distance of bond lengths in angstrom: mean over kinds of bond, by their number in the reference.

    None where no kind occurs often enough on both sides, or no coordinates were kept.
    """
    molecules = molecules_of(rows)
    if reference is None or not len(molecules):
        return None
    found = [one for one in compare_distributions(molecules, reference) if one.quantity == "bond_length"]
    known = np.array([(one.distance, one.num_reference) for one in found if one.distance is not None])
    return float(np.average(known[:, 0], weights=known[:, 1])) if len(known) else None


@asked
def tasks_checks(
    *,
    weights: str = "edm_qm9",
    arms: Sequence[str] = ("sde-2m-extra:100:100",),
    seed: int = 0,
    shared: bool = True,
) -> list[Task]:
    """The first molecules of arms SAMPLER:CALLS:MOLECULES, to be relaxed and checked, in parts of 10."""
    return [
        replace(task, first=first, count=min(10, task.first + task.count - first))
        for task in tasks(weights=weights, arms=arms, seed=seed, shared=shared)
        for first in range(task.first, task.first + task.count, 10)
    ]


def measure_checks(task: Task) -> list[dict]:
    """A row a molecule: energy (kcal/mol) and shape (angstrom) that GFN2-xTB takes out of it, and PoseBusters' word.

    Both are empty where the relaxation did not converge, or the number of electrons is odd.
    """
    made, sizes, _ = draw(task)
    molecules = list(made.molecules)
    rows = [{"num_atoms": size, "passed": False, "strain": None, "rmsd": None} for size in sizes]
    kept = np.delete(np.arange(len(sizes)), list(made.failed))
    for row, molecule, found in zip(kept, molecules, relax_all(molecules) if molecules else [], strict=True):
        rows[row]["passed"] = all((pose_checks(molecule) or {"bonds": False}).values())
        if isinstance(found, Strain) and found.converged and molecule.atomic_numbers.sum() % 2 == 0:
            rows[row] |= {"strain": round(found.energy_drop, 3), "rmsd": round(found.rmsd, 4)}
    return rows


def checks(*rows: pd.DataFrame) -> pd.DataFrame:
    """Medians of strain and displacement, and the share that passes every check of PoseBusters, for each arm."""
    found = []
    for name, group in pd.concat(rows).groupby(ARM, sort=False):
        line = dict(zip(ARM, name, strict=True)) | {"n": len(group), "passed": share(group["passed"])}
        for column in ("strain", "rmsd"):
            values = group[column].dropna().to_numpy(float)
            line[column] = bootstrap_interval(values, statistic=np.median) if len(values) else None
        found.append(line | {"relaxed": int(group["strain"].notna().sum())})
    return pd.DataFrame(found)


def draw_shares(axis: Axes, x: Sequence[float], shares: Sequence[Interval], **look: object) -> None:
    """Points of shares in per cent with their intervals."""
    values = 100 * np.array([[one.value, one.low, one.high] for one in shares])
    axis.errorbar(x, values[:, 0], np.abs(values[:, 1:] - values[:, :1]).T, marker="o", capsize=2, **look)
