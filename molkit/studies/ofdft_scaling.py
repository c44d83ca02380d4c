"""What a density without orbitals costs against Kohn-Sham, from tens to thousands of electrons.

Every molecule is measured in a process of its own, so that its peak of memory is its own too. The orbital-free side
takes steps of plain descent and is charged for a thousand: the cost of a step does not depend on the weights, and how
many a minimisation needs does. CPU seconds are compared; wall time depends on what else the machine is doing.
"""

import json
import multiprocessing
import resource
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch

from molkit.chem.chains import molecule_of
from molkit.claims.ledger import REPOSITORY, Measurement
from molkit.claims.provenance import commit, machine
from molkit.claims.store import record
from molkit.config import stored_json
from molkit.errors import CalculationFailed, InvalidInput
from molkit.farm.run import run_farm
from molkit.metrics.statistics import Interval
from molkit.ofdft.attention_functional import AttentionFunctional, load
from molkit.ofdft.large import LargeEnergy
from molkit.ofdft.optimise import OptimiseOptions, optimise
from molkit.ofdft.tuned_kohn_sham import tuned_energy
from molkit.training.files import write_text

STORED = REPOSITORY / "data" / "studies" / "ofdft_scaling.json"
STAGES = ("set-up", "guess", "optimisation")
METHODS = ("orbital-free", "Kohn-Sham")
SIZES = {  # carbons of alkanes, residues of chains of alanine
    "orbital-free": {"alkane": (3, 6, 12, 18, 24, 48, 97, 125, 195, 313), "peptide": (1, 4, 10, 20, 25, 40, 65)},
    "Kohn-Sham": {"alkane": (3, 6, 9, 12, 18, 24), "peptide": (1,)},
}
COUNTED = 1000  # steps of a descent, as many as M-OFDFT's released code takes
STEP = 1e-3  # of the descent, that of M-OFDFT's released code
PUBLISHED = {"orbital-free": 1.46, "Kohn-Sham": 2.49}  # exponents, the authors' institute's article on the paper
PUBLISHED_RATIOS = {2676: 25.6, 2750: 27.4}
TARGET = 2700  # electrons, up to which the lines are extended
NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class ScalingTask:
    """One molecule by one method."""

    method: str
    family: str
    size: int
    steps: int = 200
    grid_level: int = 1
    weights: str = "ofdft_small"
    memory_gib: float = 8.0

    @property
    def key(self) -> str:
        """A file name."""
        return f"{self.method.lower()}-{self.family}-{self.size:04d}"


@dataclass(frozen=True)
class Cost:
    """What one molecule took; seconds by stage, in the order of STAGES."""

    method: str
    family: str
    size: int
    num_electrons: int
    num_atoms: int
    num_functions: int  # of the density or of the orbitals
    cpu: list[float]
    wall: list[float]
    steps: int  # descent steps, or cycles
    memory: float  # GiB, peak of the process
    finite: bool

    @property
    def counted(self) -> int:
        """Steps that the total is taken for: COUNTED of a descent, however few were measured, or all cycles."""
        return COUNTED if self.method == "orbital-free" else self.steps

    @property
    def stages(self) -> list[float]:
        """CPU seconds in the order of STAGES, for the counted steps."""
        return [*self.cpu[:-1], self.cpu[-1] * self.counted / self.steps]

    @property
    def total(self) -> float:
        """CPU seconds of all stages, for the counted steps."""
        return float(sum(self.stages))


@dataclass(frozen=True)
class ScalingStudy:
    """All costs, smaller molecules first."""

    costs: tuple[Cost, ...]
    steps: int
    grid_level: int
    stamp: dict[str, Any]

    def of(self, method: str, family: str = "alkane") -> list[Cost]:
        """One method on one family, by electrons."""
        found = [cost for cost in self.costs if (cost.method, cost.family) == (method, family)]
        return sorted(found, key=lambda cost: cost.num_electrons)

    def ratios(self, family: str = "alkane") -> list[tuple[Cost, Cost]]:
        """Kohn-Sham and orbital-free costs of the molecules that both have met."""
        ours = {cost.size: cost for cost in self.of("orbital-free", family)}
        return [(cost, ours[cost.size]) for cost in self.of("Kohn-Sham", family) if cost.size in ours]


class _Clock:
    """CPU and wall seconds between calls."""

    def __init__(self) -> None:
        self.cpu: list[float] = []
        self.wall: list[float] = []
        self.begin()

    def begin(self) -> None:
        """Count from now."""
        self.last = process_time(), perf_counter()

    def __call__(self, stage: str) -> None:
        now = process_time(), perf_counter()
        self.cpu.append(now[0] - self.last[0])
        self.wall.append(now[1] - self.last[1])
        self.last = now


def timing_functional(weights: str) -> AttentionFunctional:
    """A functional for timing: where its roots are those of whole molecules, they are taken as those of atoms.

    Its energies of large molecules mean nothing then; the work is the same.
    """
    found = load(weights)
    return replace(
        found, config=replace(found.config, roots="atoms"), reduction=replace(found.reduction, roots="atoms")
    )


def measure(task: ScalingTask) -> Cost:
    """Run one task in this process. Raises what the calculation raises."""
    torch.set_num_threads(1)
    molecule = molecule_of(task.family, task.size)
    run = _orbital_free if task.method == "orbital-free" else _kohn_sham
    clock = _Clock()
    functions, steps, finite = run(task, molecule, clock)
    return Cost(
        method=task.method,
        family=task.family,
        size=task.size,
        num_electrons=int(molecule.atomic_numbers.sum()),
        num_atoms=molecule.num_atoms,
        num_functions=functions,
        cpu=clock.cpu,
        wall=clock.wall,
        steps=steps,
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        finite=finite,
    )


def _orbital_free(task: ScalingTask, molecule: Any, clock: _Clock) -> tuple[int, int, bool]:
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


def _kohn_sham(task: ScalingTask, molecule: Any, clock: _Clock) -> tuple[int, int, bool]:
    found = tuned_energy(molecule, grid_level=task.grid_level, note=clock)
    return found.num_orbitals, found.cycles, True


def measure_apart(task: ScalingTask) -> dict[str, Any]:
    """`measure` in a fresh process, as the arrays of a farm. Raises CalculationFailed where that process dies."""
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as executor:
            found = executor.submit(measure, task).result()
    except BrokenProcessPool as error:
        raise CalculationFailed(f"{task.key}: the process died, out of memory most likely") from error
    return {"cost": json.dumps(asdict(found))}


def tasks_of(methods: Sequence[str], families: Sequence[str], largest: int, **settings: Any) -> dict[str, ScalingTask]:
    """All tasks up to molecules of `largest` electrons, smaller first. Raises InvalidInput for an unknown name."""
    found = []
    for method in methods:
        if method not in METHODS:
            raise InvalidInput(f"methods are {', '.join(METHODS)}; got {method!r}")
        for family in families:
            sizes = SIZES[method].get(family)
            if sizes is None:
                raise InvalidInput(f"families are {', '.join(SIZES[method])}; got {family!r}")
            found += [ScalingTask(method, family, size, **settings) for size in sizes]
    electrons = {"alkane": lambda size: 8 * size + 2, "peptide": lambda size: 38 * size + 40}
    kept = [task for task in found if electrons[task.family](task.size) <= largest]
    return {task.key: task for task in sorted(kept, key=lambda task: electrons[task.family](task.size))}


def run_study(
    tasks: Mapping[str, ScalingTask],
    keep: Path,
    *,
    minutes: float | None = None,
    report: Callable[[str], None] = lambda text: None,
) -> ScalingStudy:
    """Measure what is missing in `keep`, one molecule after the other; what the folder holds of other tasks counts too.

    Raises InvalidInput without a task, CalculationFailed where nothing was measured, and what `run_farm` raises.
    """
    if not tasks:
        raise InvalidInput("no molecule is that small; the smallest alkane has 26 electrons")
    common = next(iter(tasks.values()))
    settings = {"steps": common.steps, "grid_level": common.grid_level, "weights": common.weights}
    everything = tasks_of(METHODS, ("alkane", "peptide"), 10**6, **settings, memory_gib=common.memory_gib)
    found = run_farm(
        measure_apart, tasks, keep, minutes=minutes, settings=settings | {"memory": common.memory_gib}, unit="molecule"
    )
    for key, reason in found.failed.items():
        report(f"{key}: left out, {reason}")
    place = found.folder
    kept = [place.read(key) for key in everything if place.result_path(key).is_file()]
    costs = [Cost(**json.loads(str(entry["cost"]))) for entry in kept if entry is not None]
    if not costs:
        raise CalculationFailed("no molecule was measured; give it more minutes")
    head, dirty = commit()
    stamp = {"commit": head, "dirty": dirty, "machine": machine()}
    return ScalingStudy(tuple(sorted(costs, key=lambda c: c.num_electrons)), common.steps, common.grid_level, stamp)


def live_costs(*, largest: int, steps: int) -> list[Cost]:
    """Alkanes by both methods in this process, up to `largest` electrons; their memory is that of all together."""
    return [measure(task) for task in tasks_of(METHODS, ("alkane",), largest, steps=steps).values()]


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


def power_law(electrons: Sequence[float], seconds: Sequence[float], *, seed: int = 0) -> PowerLaw:
    """Least squares of logarithms, with molecules resampled. Raises InvalidInput below three molecules."""
    if len(electrons) < 3:
        raise InvalidInput(f"an exponent with a band needs three molecules, got {len(electrons)}")
    x, y = np.log(np.asarray(electrons, dtype=float)), np.log(np.asarray(seconds, dtype=float))
    slope, offset = np.polyfit(x, y, 1)
    random, found = np.random.default_rng(seed), []
    while len(found) < NUM_RESAMPLES:
        rows = random.integers(len(x), size=len(x))
        if len(set(rows.tolist())) > 1:
            found.append(np.polyfit(x[rows], y[rows], 1)[::-1])
    return PowerLaw(float(offset), float(slope), np.array(found))


def law_of(costs: Sequence[Cost], stage: str | None = None) -> PowerLaw:
    """The power law of a stage, or of the total."""
    values = [cost.total if stage is None else cost.stages[STAGES.index(stage)] for cost in costs]
    return power_law([cost.num_electrons for cost in costs], values)


def last_decade(costs: Sequence[Cost]) -> list[Cost]:
    """Molecules with at least a tenth of the electrons of the largest: the small ones pay for calls, not for size."""
    return [cost for cost in costs if 10 * cost.num_electrons >= costs[-1].num_electrons]


def extrapolated_ratio(study: ScalingStudy, electrons: float = TARGET, family: str = "alkane") -> Interval:
    """Kohn-Sham over orbital-free at a size that Kohn-Sham never reached: its line extended, never a result.

    The orbital-free side is that of its last decade, which ends there. Raises InvalidInput below three molecules.
    """
    laws = [law_of(last_decade(study.of("orbital-free", family))), law_of(study.of("Kohn-Sham", family))]
    ours, theirs = (law.resampled @ np.array([1.0, np.log(electrons)]) for law in laws)
    low, high = np.percentile(np.exp(theirs - ours), [2.5, 97.5])
    return Interval(float(laws[1].seconds(electrons) / laws[0].seconds(electrons)), float(low), float(high))


def write_study(study: ScalingStudy, path: Path) -> None:
    """Keep a study as JSON. Raises RunError when the disk refuses."""
    write_text(path, json.dumps(asdict(study), indent=1) + "\n")


def stored_study(path: Path = STORED) -> ScalingStudy:
    """What `molkit study ofdft-scaling` wrote. Raises DataNotFound or InvalidInput."""
    with stored_json(path, "a study of cost", f"molkit study ofdft-scaling --out {path}") as values:
        return ScalingStudy(**{**values, "costs": tuple(Cost(**cost) for cost in values["costs"])})


def measurements(study: ScalingStudy) -> list[Measurement]:
    """Record the exponents of the totals on alkanes: of the last decade without orbitals, the steeper one."""
    found = []
    for claim, method in (("mofdft.cost.exponent", "orbital-free"), ("mofdft.cost.exponent_kohn_sham", "Kohn-Sham")):
        costs = study.of(method) if method == "Kohn-Sham" else last_decade(study.of(method))
        band = law_of(costs).interval
        note = f"alkanes of {costs[0].num_electrons} to {costs[-1].num_electrons} electrons, CPU seconds, one thread"
        seconds = sum(cost.total for cost in costs)
        common = {"n": len(costs), "counts": "molecules", "basis": "scaled_down", "seconds": seconds}
        common |= {"interval_kind": "molecules resampled, 95 %", "seeds": [0]}
        found.append(record(claim, band.value, interval=(band.low, band.high), notes=note, **common))
    return found
