"""What a density without orbitals costs against Kohn-Sham, from tens to thousands of electrons (page `scaling`).

Every molecule is measured in a process of its own, so that its peak of memory is its own too. The orbital-free side
takes steps of plain descent and is charged for a thousand: the cost of a step does not depend on the weights, and how
many a minimisation needs does. CPU seconds are compared; wall time depends on what else the machine is doing.
"""

import multiprocessing
import resource
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from molkit.chem.chains import molecule_of
from molkit.claims.ledger import Measurement
from molkit.claims.record import record
from molkit.errors import CalculationFailed, InvalidInput
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column
from molkit.figures.plots import with_interval
from molkit.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILION, panels
from molkit.metrics.statistics import Interval
from molkit.molecule import Molecule
from molkit.ofdft.attention_functional import AttentionFunctional, load
from molkit.ofdft.large import LargeEnergy
from molkit.ofdft.optimise import OptimiseOptions, optimise
from molkit.ofdft.tuned_kohn_sham import tuned_energy
from molkit.training.weights import weight_files

ORBITAL_FREE, KOHN_SHAM = METHODS = ("orbital-free", "Kohn-Sham")
STAGES = {"set_up": "set-up", "guess": "guess", "optimisation": "optimisation"}
SIZES = {  # carbons of alkanes, residues of chains of alanine
    ORBITAL_FREE: {"alkane": (3, 6, 12, 18, 24, 48, 97, 125, 195, 313), "peptide": (1, 4, 10, 20, 25, 40, 65)},
    KOHN_SHAM: {"alkane": (3, 6, 9, 12, 18, 24), "peptide": (1,)},
}
ELECTRONS = {"alkane": lambda size: 8 * size + 2, "peptide": lambda size: 38 * size + 40}
NAMES = {"alkane": "C{0}H{1}", "peptide": "Ace-Ala{0}-NMe"}
COUNTED = 1000  # steps of a descent, as many as M-OFDFT's released code takes
STEP = 1e-3  # of the descent, that of M-OFDFT's released code
PUBLISHED = {ORBITAL_FREE: 1.46, KOHN_SHAM: 2.49}  # exponents, the authors' institute's article on the paper
PUBLISHED_RATIOS = {2676: 25.6, 2750: 27.4}
TARGET = 2700  # electrons, up to which the lines are extended
NUM_RESAMPLES = 2000
COLOURS = {ORBITAL_FREE: BLUE, KOHN_SHAM: VERMILION}
CLAIMS = {"mofdft.cost.exponent": ORBITAL_FREE, "mofdft.cost.exponent_kohn_sham": KOHN_SHAM}
# Times are another machine's: their sum must be the same to a factor of three, the peak of memory to half a GiB.
AUDIT = Comparison(within={"log_seconds": 0.5, "memory": 0.5}, free=(*STAGES, "wall"))


@dataclass(frozen=True)
class Task:
    """One molecule by one method; `weights` are those of the functional, "" for Kohn-Sham."""

    method: str
    family: str
    size: int
    steps: int  # of the descent, measured
    grid_level: int  # of Kohn-Sham
    weights: str
    memory_gib: float  # of Coulomb terms

    @property
    def files(self) -> list[Path]:
        """The weights."""
        return weight_files(self.weights) if self.weights else []


@asked
def tasks(
    *,
    methods: Sequence[str] = METHODS,
    families: Sequence[str] = tuple(NAMES),
    largest: int = 3000,
    steps: int = 200,
    grid_level: int = 1,
    weights: str = "ofdft_small",
    memory_gib: float = 8.0,
) -> list[Task]:
    """Molecules of up to `largest` electrons, smaller first. Raises InvalidInput for an unknown name, or for none."""
    for kind, names, known in (("methods", methods, METHODS), ("families", families, NAMES)):
        if unknown := [name for name in names if name not in known]:
            raise InvalidInput(f"{kind} are {', '.join(known)}; got {unknown[0]!r}")
    found = [
        Task(method, family, size, steps, grid_level, weights if method == ORBITAL_FREE else "", memory_gib)
        for method in methods
        for family in families
        for size in SIZES[method][family]
        if ELECTRONS[family](size) <= largest
    ]
    if not found:
        raise InvalidInput("no molecule is that small; the smallest alkane has 26 electrons")
    return sorted(found, key=lambda task: ELECTRONS[task.family](task.size))


def measure(task: Task) -> list[dict]:
    """One row, measured in a fresh process. Raises CalculationFailed where that process dies."""
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as executor:
            return [executor.submit(measured_here, task).result()]
    except BrokenProcessPool as error:
        name = molecule_name(task.family, task.size)
        raise CalculationFailed(f"{task.method}, {name}: the process died, out of memory most likely") from error


@dataclass
class _Clock:
    """CPU and wall seconds between calls."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    last: tuple[float, float] = (0.0, 0.0)

    def begin(self) -> None:
        """Count from now."""
        self.last = process_time(), perf_counter()

    def __call__(self, stage: str) -> None:
        now = process_time(), perf_counter()
        self.cpu.append(now[0] - self.last[0])
        self.wall.append(now[1] - self.last[1])
        self.last = now


def measured_here(task: Task) -> dict[str, Any]:
    """CPU seconds of every stage as measured, wall seconds of all, GiB of this process at its peak.

    num_functions: of the density or of the orbitals. taken: descent steps, or cycles. log_seconds: decimal logarithm of
    the CPU seconds of all stages.
    """
    torch.set_num_threads(1)
    molecule, clock = molecule_of(task.family, task.size), _Clock()
    clock.begin()
    functions, taken, finite = (_orbital_free if task.method == ORBITAL_FREE else _kohn_sham)(task, molecule, clock)
    return {
        "num_electrons": int(molecule.atomic_numbers.sum()),
        "num_atoms": molecule.num_atoms,
        "num_functions": functions,
        **dict(zip(STAGES, clock.cpu, strict=True)),
        "wall": sum(clock.wall),
        "taken": taken,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "finite": finite,
        "log_seconds": float(np.log10(sum(clock.cpu))),
    }


def _orbital_free(task: Task, molecule: Molecule, clock: _Clock) -> tuple[int, int, bool]:
    functional = timing_functional(task.weights)
    clock.begin()
    energy = LargeEnergy(functional, molecule, memory_gib=task.memory_gib)
    clock("set-up")
    start = energy.predict()
    clock("guess")
    options = OptimiseOptions(method="descent", step=STEP, max_steps=task.steps, tolerance=1e-12)
    result = optimise(energy, start, constraint=energy.constraint, options=options)
    clock("optimisation")
    return len(energy.reference), result.num_steps, bool(np.isfinite(result.energy))


def _kohn_sham(task: Task, molecule: Molecule, clock: _Clock) -> tuple[int, int, bool]:
    found = tuned_energy(molecule, grid_level=task.grid_level, note=clock)
    return found.num_orbitals, found.cycles, True


def timing_functional(weights: str) -> AttentionFunctional:
    """A functional for timing: where its roots are those of whole molecules, they are taken as those of atoms.

    Its energies of large molecules mean nothing then; the work is the same.
    """
    found = load(weights)
    config, reduction = replace(found.config, roots="atoms"), replace(found.reduction, roots="atoms")
    return replace(found, config=config, reduction=reduction)


def molecule_name(family: str, size: int) -> str:
    """As a chemist writes it."""
    return NAMES[family].format(size, 2 * size + 2)


def charged(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the seconds of the counted steps: COUNTED of a descent, however few were measured, or all cycles.

    New columns: `name`, milliseconds of one `step`, seconds in `total`.
    """
    found = rows.copy()
    found["name"] = [molecule_name(*pair) for pair in zip(rows["family"], rows["size"], strict=True)]
    found["step"] = 1000.0 * rows["optimisation"] / rows["taken"]
    counted = rows["taken"].where(rows["method"] == KOHN_SHAM, COUNTED)
    found["optimisation"] = rows["optimisation"] * counted / rows["taken"]
    found["total"] = found[list(STAGES)].sum(axis=1)
    return found


def chosen(rows: pd.DataFrame, method: str, family: str = "alkane") -> pd.DataFrame:
    """Charged rows of one method on one family, by electrons."""
    found = charged(rows)
    return found[(found["method"] == method) & (found["family"] == family)].sort_values("num_electrons")


def last_decade(costs: pd.DataFrame) -> pd.DataFrame:
    """Molecules with at least a tenth of the electrons of the largest: the small ones pay for calls, not for size."""
    return costs[10 * costs["num_electrons"] >= costs["num_electrons"].max()]


def judged(rows: pd.DataFrame, method: str) -> pd.DataFrame:
    """The alkanes whose exponent is compared: of the last decade without orbitals, the steeper one; all of Kohn-Sham's.

    All where the last decade has fewer than three.
    """
    costs = chosen(rows, method)
    late = last_decade(costs) if method == ORBITAL_FREE else costs
    return late if len(late) >= 3 else costs


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """seconds = exp(offset) electrons^exponent, and resampled pairs of both, [R, 2]."""

    offset: float
    exponent: float
    resampled: np.ndarray

    @property
    def interval(self) -> Interval:
        """The exponent with its 95 % band."""
        low, high = np.percentile(self.resampled[:, 1], [2.5, 97.5])
        return Interval(self.exponent, float(low), float(high))

    def seconds(self, electrons: np.ndarray | float) -> np.ndarray:
        """Of the line."""
        return np.exp(self.offset + self.exponent * np.log(electrons))

    def band(self, electrons: np.ndarray | float) -> np.ndarray:
        """Of resampled lines, [2, ...], 95 %."""
        lines = np.exp(self.resampled[:, :1] + self.resampled[:, 1:] * np.log(np.atleast_1d(electrons)))
        return np.percentile(lines, [2.5, 97.5], axis=0)


def law_of(costs: pd.DataFrame, stage: str = "total", *, seed: int = 0) -> PowerLaw:
    """Least squares of logarithms of a column of seconds against electrons, with molecules resampled.

    Raises InvalidInput below three molecules.
    """
    if len(costs) < 3:
        raise InvalidInput(f"an exponent with a band needs three molecules, got {len(costs)}")
    x, y = (np.log(costs[name].to_numpy(dtype=float)) for name in ("num_electrons", stage))
    slope, offset = np.polyfit(x, y, 1)
    random, found = np.random.default_rng(seed), []
    while len(found) < NUM_RESAMPLES:
        picked = random.integers(len(x), size=len(x))
        if len(set(picked.tolist())) > 1:
            found.append(np.polyfit(x[picked], y[picked], 1)[::-1])
    return PowerLaw(float(offset), float(slope), np.array(found))


def extrapolated_ratio(rows: pd.DataFrame, electrons: float = TARGET) -> Interval | None:
    """Kohn-Sham over orbital-free for an alkane that Kohn-Sham never reached: its line extended, never a result.

    The orbital-free side is that of its last decade, which ends there. None below three molecules.
    """
    ours, theirs = (judged(rows, method) for method in METHODS)
    if min(len(last_decade(ours)), len(theirs)) < 3:
        return None
    laws = [law_of(ours), law_of(theirs)]
    logs = [law.resampled @ np.array([1.0, np.log(electrons)]) for law in laws]
    low, high = np.percentile(np.exp(logs[1] - logs[0]), [2.5, 97.5])
    return Interval(float(laws[1].seconds(electrons) / laws[0].seconds(electrons)), float(low), float(high))


COSTS = {
    "name": "molecule",
    "method": "method",
    "num_electrons": Column("electrons"),
    "num_atoms": Column("atoms"),
    "num_functions": Column("functions"),
    **{stage: Column(f"{word} (s)", 2) for stage, word in STAGES.items()},
    "taken": Column("steps"),
    "step": Column("one step (ms)", 1),
    "total": Column("total (s)", 1),
    "wall": Column("wall (s)", 1),
    "memory": Column("memory (GiB)", 2),
}
EXPONENTS = {
    "what": "",
    "exponent": Column("exponent", 2),
    "late": Column("over the last decade", 2),
    "published": Column("published total", 2),
    "electrons": "electrons",
}
RATIOS = {
    "name": "molecule",
    "num_electrons": Column("electrons"),
    KOHN_SHAM: Column("Kohn-Sham (s)", 1),
    ORBITAL_FREE: Column("orbital-free (s)", 1),
    "ratio": Column("times cheaper", 1),
    "kind": "",
}


def exponents(rows: pd.DataFrame) -> pd.DataFrame:
    """Fitted exponents of stages and totals, over all sizes and over the last decade of them."""
    lines = []
    for method in METHODS:
        for family in NAMES:
            costs = chosen(rows, method, family)
            if len(costs) < 3:
                continue
            late, ends = last_decade(costs), costs["num_electrons"]
            lines += [
                {
                    "what": f"{method}, {family}s, {STAGES.get(stage, stage)}",
                    "exponent": law_of(costs, stage).interval,
                    "late": law_of(late, stage).interval if len(late) > 2 else None,
                    "published": PUBLISHED[method] if stage == "total" else None,
                    "electrons": f"{ends.min()} to {ends.max():,}",
                }
                for stage in (*STAGES, "total")
            ]
    return pd.DataFrame(lines, columns=list(EXPONENTS))


def ratios(rows: pd.DataFrame) -> pd.DataFrame:
    """How many times cheaper: measured where both have met the molecule, extended, and published."""
    wide = charged(rows).pivot(index=["family", "num_electrons", "name"], columns="method", values="total")
    found = wide.reindex(columns=METHODS).dropna().reset_index()
    found = found.assign(ratio=found[KOHN_SHAM] / found[ORBITAL_FREE], kind="measured")
    line = {"name": "alkane", "num_electrons": TARGET, "ratio": extrapolated_ratio(rows), "kind": "lines extended"}
    papers = [
        {"name": "protein", "num_electrons": electrons, "ratio": ratio, "kind": "published"}
        for electrons, ratio in PUBLISHED_RATIOS.items()
    ]
    return pd.DataFrame([*found.to_dict("records"), line, *papers], columns=list(RATIOS), dtype=object)


def measurements(rows: pd.DataFrame) -> list[Measurement]:
    """Record the exponents of the totals on alkanes. Fewer than three molecules give none."""
    found = []
    for claim, method in CLAIMS.items():
        costs = judged(rows, method)
        if len(costs) < 3:
            continue
        ends = costs["num_electrons"]
        note = f"alkanes of {ends.min()} to {ends.max()} electrons, CPU seconds, one thread"
        common = {"n": len(costs), "basis": "scaled_down", "interval_kind": "molecules resampled, 95 %", "seeds": [0]}
        found.append(record(claim, law_of(costs).interval, rows, notes=note, **common))
    return found


def draw_totals(rows: pd.DataFrame, *, caption: str) -> Figure:
    """Totals against electrons, with lines extended to the proteins of the paper."""
    with panels(1, width=7.6, height=4.6, caption=caption) as (figure, (place,)):
        for method in METHODS:
            _totals(place, rows, method)
        _extended_ratio(place, rows)
        place.set(ylabel="CPU seconds, total")
        _logarithmic(place)
    return figure


def draw_stages(rows: pd.DataFrame, *, caption: str) -> Figure:
    """Where the time without orbitals goes, and the memory of both methods; alkanes."""
    with panels(2, width=7.6, height=3.6, caption=caption) as (figure, (left, right)):
        for method in METHODS:
            costs = chosen(rows, method)
            right.plot(costs["num_electrons"], costs["memory"], "o-", color=COLOURS[method], label=method)
        costs = chosen(rows, ORBITAL_FREE)
        for (stage, word), colour in zip(STAGES.items(), (ORANGE, GREEN, PURPLE), strict=True):
            left.plot(costs["num_electrons"], costs[stage], "o-", color=colour, label=word)
        left.set(ylabel="CPU seconds")
        right.set(ylabel="peak memory (GiB)")
        for place in (left, right):
            _logarithmic(place)
    return figure


def _logarithmic(place: Axes) -> None:
    place.set(xscale="log", yscale="log", xlabel="electrons")
    place.xaxis.set_minor_formatter(NullFormatter())
    place.yaxis.set_minor_formatter(NullFormatter())
    if place.get_legend_handles_labels()[0]:
        place.legend(fontsize=8)


def _totals(place: Axes, rows: pd.DataFrame, method: str) -> None:
    """Points of both families, the fitted line and its band, and the line that is judged, extended."""
    colour, costs, peptides = COLOURS[method], chosen(rows, method), chosen(rows, method, "peptide")
    place.plot(costs["num_electrons"], costs["total"], "o", color=colour, markersize=4)
    look = {"color": colour, "markersize": 5, "fillstyle": "none"}
    place.plot(peptides["num_electrons"], peptides["total"], "s", **look)
    if len(costs) < 3:
        return
    compared = judged(rows, method)
    first, last = costs["num_electrons"].min(), costs["num_electrons"].max()
    sizes = f"{method}, {compared['num_electrons'].min():,} to {last:,} electrons"
    exponent = with_interval(law_of(compared).interval, between=" ")
    label = f"{sizes}: exponent {exponent}, published {PUBLISHED[method]}"
    _line(place, law_of(costs), np.geomspace(first, last, 50), color=colour, label=label)
    if last < TARGET:
        _line(place, law_of(compared), np.geomspace(last, TARGET, 50), color=colour, linestyle="--")


def _line(place: Axes, law: PowerLaw, electrons: np.ndarray, **look: Any) -> None:
    place.plot(electrons, law.seconds(electrons), **look)
    place.fill_between(electrons, *law.band(electrons), color=look["color"], alpha=0.15, linewidth=0)


def _extended_ratio(place: Axes, rows: pd.DataFrame) -> None:
    """The ratio of the extended lines, beside the published ones."""
    found = extrapolated_ratio(rows)
    if found is None:
        return
    ours = law_of(judged(rows, ORBITAL_FREE)).seconds(TARGET)
    published = " and ".join(f"{ratio}" for ratio in PUBLISHED_RATIOS.values())
    text = f"x {found.value:.0f} [{found.low:.0f}, {found.high:.0f}] if extended\npublished: x {published}"
    place.plot([TARGET] * 2, [ours, ours * found.value], ":", color=BLACK, linewidth=1.2)
    place.text(0.98, 0.03, text, transform=place.transAxes, ha="right", va="bottom", fontsize=9)
