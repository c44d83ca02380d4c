"""Starts of a relaxation compared on two surfaces: what the chapters on force fields and on DFT compute and show."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic

import numpy as np

from molkit.chem.dft import DftLevel
from molkit.claims.ledger import REPOSITORY, Measurement
from molkit.claims.provenance import commit, hash_files, machine
from molkit.claims.store import record
from molkit.config import stored_json
from molkit.data.qm9 import Split, load_qm9
from molkit.edm.model import load, resolve
from molkit.edm.published import training_facts
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.molecule import Molecule, PackedMolecules
from molkit.relaxation.comparison import Outcome, excess_ratio, median_excess_ratio, same_minimum, step_ratio
from molkit.relaxation.denoisers import NetworkDenoiser
from molkit.relaxation.farm import PERFECT, Failed, Job, run_jobs
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
from molkit.training.files import write_text

FOLDER = REPOSITORY / "data" / "studies"
STORED = FOLDER / "relaxation_dft.json"
CARTESIAN, INTERNAL = "cartesian", "internal"
DFT_LEVEL = DftLevel(basis="6-31g(d)")
DFT_SIGMA = LEVELS[0]  # the level with the lowest mean excess over GFN2-xTB minima on 12 validation molecules
DFT_SIZES = ((5, 6), (6, 4), (7, 2))  # heavy atoms, molecules
GFN1, GFN2 = "gfn1", "gfn2"


@dataclass(frozen=True)
class Comparison:
    """All runs of a study and where they come from."""

    surface: str
    level: str
    weights: str
    seed: int
    molecules: tuple[str, ...]  # names, those without a result included
    formulas: tuple[str, ...]
    num_atoms: tuple[int, ...]
    outcomes: tuple[Outcome, ...]
    failures: tuple[Failed, ...]
    preparation: dict[str, float]  # start -> mean CPU seconds to make it, all before it included
    stamp: dict

    def of(self, start: str, optimiser: str) -> dict[str, Outcome]:
        """Outcomes of one start and optimiser by molecule."""
        return {one.molecule: one for one in self.outcomes if (one.start, one.optimiser) == (start, optimiser)}


def molecules_of_sizes(sizes: Sequence[tuple[int, int]], *, split: Split = "test") -> PackedMolecules:
    """`count` molecules of each number of heavy atoms, spread evenly over those of the split."""
    pack = load_qm9(split=split)
    heavy = np.add.reduceat((pack.atomic_numbers > 1).astype(int), pack.ptr[:-1])
    rows = []
    for number, count in sizes:
        members = np.flatnonzero(heavy == number)
        rows += members[np.arange(count) * len(members) // count].tolist()
    return pack.select(np.array(rows))


def dft_starts(weights: str, molecules: Sequence[Molecule], *, seed: int) -> list[Starts]:
    """Classical starts, GFN2-xTB, and diffusion at one level with both endings."""
    found = [with_xtb(classical_starts(molecule), GFN2, "GFN2-xTB") for molecule in molecules]
    return with_diffusion(found, NetworkDenoiser(load(weights)), levels=(DFT_SIGMA,), seed=seed)


def dft_passes() -> tuple[tuple[tuple[str, str], ...], ...]:
    """Runs in the order of their worth: each pass goes over all molecules before the next begins."""
    sampled, mean = (edm_name(DFT_SIGMA, ending) for ending in ENDINGS)
    reference = ((REFERENCE, CARTESIAN), (REFERENCE, INTERNAL))
    return (
        (*reference, (sampled, CARTESIAN), (sampled, INTERNAL), (GFN2, INTERNAL)),
        (*reference, (PERFECT, CARTESIAN), (PERFECT, INTERNAL)),
        (*reference, (mean, CARTESIAN), (mean, INTERNAL), (GFN2, CARTESIAN)),
    )


def compare_on_dft(
    weights: str,
    molecules: Sequence[Molecule],
    *,
    seed: int,
    part: tuple[int, int] = (0, 1),
    level: DftLevel = DFT_LEVEL,
    folder: Path | None = None,
    executor: Executor | None = None,
    minutes: float | None = None,
    report: Callable[[str], object] | None = None,
) -> Comparison:
    """The starts of every part[1]-th molecule, from part[0] on, on a DFT surface, pass by pass."""
    starts = dft_starts(weights, molecules, seed=seed)[part[0] :: part[1]]
    stop_at = float("inf") if minutes is None else monotonic() + 60.0 * minutes
    found: list[Outcome | Failed] = []
    for runs in dft_passes():
        jobs = [Job(one, runs, level, seed) for one in starts]
        left = None if minutes is None else max(0.0, stop_at - monotonic()) / 60.0
        found += run_jobs(jobs, folder=folder, executor=executor, minutes=left, report=report)
    return _comparison("dft", level.label, weights, seed, starts, list(dict.fromkeys(found)))


def _comparison(
    surface: str, level: str, weights: str, seed: int, starts: Sequence[Starts], found: Sequence[Outcome | Failed]
) -> Comparison:
    names = {name for one in starts for name in one.seconds}
    head, dirty = commit()
    stamp = {"commit": head, "dirty": dirty, "machine": machine()}
    stamp["weights_sha256"] = hash_files([resolve(weights) / "weights.safetensors"])
    return Comparison(
        surface,
        level,
        weights,
        seed,
        tuple(one.molecule.name for one in starts),
        tuple(one.molecule.formula for one in starts),
        tuple(one.molecule.num_atoms for one in starts),
        tuple(one for one in found if isinstance(one, Outcome)),
        tuple(one for one in found if isinstance(one, Failed)),
        {n: float(np.mean([one.seconds[n] for one in starts if n in one.seconds])) for n in sorted(names)},
        stamp,
    )


def write_comparison(found: Comparison, path: Path) -> None:
    """Keep a comparison as JSON, outcomes as columns. Raises RunError when the disk refuses."""
    values = asdict(found)
    for key in ("outcomes", "failures"):
        rows = values.pop(key)
        values[key] = {name: [_short(row[name]) for row in rows] for name in (rows[0] if rows else {})}
    write_text(path, json.dumps(values, indent=0) + "\n")


def _short(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value


def read_comparison(path: Path) -> Comparison:
    """A comparison that was kept. Raises DataNotFound or InvalidInput."""
    with stored_json(path, "a comparison of starts", "molkit study relaxation-starts") as stored:
        for key, kind in (("outcomes", Outcome), ("failures", Failed)):
            columns = stored[key]
            rows = zip(*columns.values(), strict=True)
            stored[key] = tuple(kind(**dict(zip(columns, row, strict=True))) for row in rows)
        for key in ("molecules", "formulas", "num_atoms"):
            stored[key] = tuple(stored[key])
        return Comparison(**stored)


@dataclass(frozen=True)
class StartRow:
    """One start with one optimiser against the reference start, over molecules that both have."""

    start: str
    optimiser: str
    num: int
    num_failed: int
    num_capped: int  # runs that did not converge; they count at their cap
    num_other_minimum: int  # left out of the ratio of gradients and of the ratio of excesses
    excess: Interval | None  # kcal/mol, median over molecules
    mean_excess: Interval | None
    ratio: Interval | None  # mean excess of the reference / mean excess
    median_ratio: Interval | None
    gradients: Interval | None  # mean over molecules
    step_ratio: Interval | None  # total gradients of the reference / total
    seconds: float  # mean CPU seconds of the optimisation
    preparation: float  # mean CPU seconds before it


def start_row(found: Comparison, start: str, optimiser: str) -> StartRow:
    """The figures of one start; ratios are over pairs that end in the same minimum."""
    mine, reference = found.of(start, optimiser), found.of(REFERENCE, optimiser)
    names = [name for name in found.molecules if name in mine and name in reference]
    pairs = [(mine[name], reference[name]) for name in names]
    same = [(one, other) for one, other in pairs if same_minimum(one, other)]
    excesses = np.array([one.excess for one, _ in pairs])
    both = np.array([[one.excess, other.excess] for one, other in same]).reshape(-1, 2)
    counts = np.array([[one.num_gradients, other.num_gradients] for one, other in same], dtype=float).reshape(-1, 2)
    ratios = len(same) >= 2 and start != REFERENCE
    return StartRow(
        start=start,
        optimiser=optimiser,
        num=len(pairs),
        num_failed=sum((one.start, one.optimiser) == (start, optimiser) for one in found.failures),
        num_capped=sum(not one.converged for one, _ in pairs),
        num_other_minimum=len(pairs) - len(same),
        excess=bootstrap_interval(excesses, statistic=np.median) if pairs else None,
        mean_excess=bootstrap_interval(excesses) if pairs else None,
        ratio=excess_ratio(both[:, 1], both[:, 0]) if ratios else None,
        median_ratio=median_excess_ratio(both[:, 1], both[:, 0]) if ratios else None,
        gradients=bootstrap_interval(np.array([one.num_gradients for one, _ in pairs], float)) if pairs else None,
        step_ratio=step_ratio(counts[:, 1], counts[:, 0]) if ratios else None,
        seconds=float(np.mean([one.seconds for one, _ in pairs])) if pairs else 0.0,
        preparation=found.preparation.get(start, 0.0),
    )


def rows(found: Comparison, optimiser: str) -> list[StartRow]:
    """A row for every start that has an outcome with this optimiser, in the order of the runs."""
    names = dict.fromkeys(one.start for one in found.outcomes if one.optimiser == optimiser)
    return [start_row(found, name, optimiser) for name in names if name != "dataset"]


def conformer_energies(found: Comparison) -> np.ndarray:
    """Energy of the minimum next to MMFF94's structure above that next to the data set's geometry, kcal/mol [B]."""
    mine, reference = found.of(REFERENCE, INTERNAL), found.of("dataset", INTERNAL)
    return np.array([mine[name].energy - reference[name].energy for name in mine if name in reference])


def headline(ending: str) -> str:
    """The diffusion start whose ratios go to the ledger, with one of the two endings."""
    return edm_name(DFT_SIGMA, ending)


def live_on_dft(weights: str, count: int, *, heavy: int, seed: int) -> Comparison:
    """MMFF94, GFN2-xTB and sampled diffusion with internal coordinates, for a few tiny test molecules, computed now."""
    starts = dft_starts(weights, list(molecules_of_sizes(((heavy, count),))), seed=seed)
    runs = tuple((name, INTERNAL) for name in (REFERENCE, GFN2, headline("sample")))
    found = run_jobs([Job(one, runs, DFT_LEVEL, seed=seed) for one in starts])
    return _comparison("dft", DFT_LEVEL.label, weights, seed, starts, found)


def measurements(found: Comparison) -> list[Measurement]:
    """Ratios of excesses and of gradients at the level chosen on validation molecules, for the ledger.

    A ratio over fewer than two pairs is not recorded.
    """
    sampled = headline("sample")
    cartesian, internal = start_row(found, sampled, CARTESIAN), start_row(found, sampled, INTERNAL)
    values = {
        f"energy.ratio_{found.surface}": (cartesian, cartesian.ratio),
        f"speedup.{found.surface}_cartesian": (cartesian, cartesian.step_ratio),
        f"speedup.{found.surface}_internal": (internal, internal.step_ratio),
    }
    return [
        record(
            f"relaxation.{name}",
            value.value,
            interval=(value.low, value.high),
            interval_kind="bootstrap over molecules, 95 %",
            n=row.num - row.num_other_minimum,
            counts="molecules",
            basis="trained_here",
            weights=found.weights,
            training_passes=float(training_facts(found.weights).passes),
            seeds=[found.seed],
            seconds=sum(one.seconds for one in found.outcomes),
            data_files=[STORED] if STORED.is_file() else [],
            notes=f"{found.level}, noise {DFT_SIGMA} angstrom; {row.num_other_minimum} pairs end in different minima "
            "and are left out; seconds: CPU, of all optimisations of the study",
        )
        for name, (row, value) in values.items()
        if value is not None
    ]
