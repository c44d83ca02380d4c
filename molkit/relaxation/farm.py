"""Many relaxations of many starts, each a task of a farm: interrupted and resumed, nothing is lost."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic, process_time

import numpy as np
import torch

from molkit.chem.dft import DftEnergy, DftLevel
from molkit.chem.optimise import Optimiser, optimise
from molkit.chem.xtb import EnergyFunction, XtbEnergy
from molkit.edm.config import EdmConfig
from molkit.edm.schedule import log_snr_table
from molkit.errors import CalculationFailed
from molkit.farm.folder import Result, place_for
from molkit.farm.run import run_farm
from molkit.geometry import aligned_rmsd
from molkit.molecule import Molecule
from molkit.relaxation.chains import relax_from
from molkit.relaxation.comparison import Outcome, largest_turn
from molkit.relaxation.denoisers import ExactDenoiser
from molkit.relaxation.starts import REFERENCE, Starts
from molkit.rng import generator_from
from molkit.units import EV_TO_KCAL

PERFECT = "perfect sample"  # the end point of the reference start, seen by a model that knows it, sampled ending
PERFECT_STEP = 50


@dataclass(frozen=True)
class Failed:
    """A run without a result."""

    molecule: str
    start: str
    optimiser: str
    reason: str


@dataclass(frozen=True)
class Job:
    """All runs of one molecule on one surface: pairs (start, optimiser)."""

    starts: Starts
    runs: tuple[tuple[str, Optimiser], ...]
    level: DftLevel | None = None  # None: GFN2-xTB
    seed: int = 0

    @property
    def name(self) -> str:
        """The molecule's name, for files."""
        return self.starts.molecule.name

    def task(self, start: str, optimiser: Optimiser, end: np.ndarray | None) -> "Run":
        """One run as a task of a farm, without what a clock said."""
        return Run(replace(self, starts=replace(self.starts, seconds={}), runs=()), start, optimiser, end)


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a job; `end` [A, 3] is what the reference start reached with the same optimiser. Picklable."""

    job: Job
    start: str
    optimiser: Optimiser
    end: np.ndarray | None = None


def key_of(job: Job, start: str, optimiser: str) -> str:
    """The name of a run's file."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", f"{job.name}_{start}_{optimiser}")


def surface(molecule: Molecule, level: DftLevel | None) -> EnergyFunction:
    """A fresh energy function of the molecule."""
    return XtbEnergy(molecule) if level is None else DftEnergy(molecule, level=level)


def measure(run: Run) -> Result:
    """The arrays of one optimisation, compared with the end point of the reference start where there is one."""
    torch.set_num_threads(1)
    job, end = run.job, run.end
    given = _given(job, run.start, end)
    began = process_time()
    ended = optimise(given, surface(given, job.level), optimiser=run.optimiser)
    outcome = Outcome(
        molecule=job.name,
        start=run.start,
        optimiser=run.optimiser,
        excess=ended.energy_drop * EV_TO_KCAL,
        energy=ended.energy_after * EV_TO_KCAL,
        num_gradients=ended.num_gradients,
        converged=ended.converged,
        seconds=round(process_time() - began, 3),
    )
    if end is not None:
        rmsd, turn = aligned_rmsd(ended.positions, end), largest_turn(ended.positions, end, given.atomic_numbers)
        outcome = replace(outcome, rmsd_to_reference=rmsd, largest_turn=turn)
    return {"outcome": np.array(json.dumps(asdict(outcome))), "positions": ended.positions.round(5)}


def _given(job: Job, start: str, end: np.ndarray | None) -> Molecule:
    """The structure of a start. Raises CalculationFailed where it could not be made."""
    if start != PERFECT:
        if start not in job.starts.places:
            raise CalculationFailed(job.starts.failures.get(start, f"no start {start!r} was made"))
        return job.starts.start(start)
    if end is None or REFERENCE not in job.starts.places:
        raise CalculationFailed(f"a perfect model needs the end point of {REFERENCE}")
    config = EdmConfig()
    known = job.starts.molecule.with_positions(end)
    denoiser = ExactDenoiser.knowing(config, log_snr_table(config), [known])
    generator = generator_from("perfect", job.seed, job.name)
    made = relax_from(denoiser, [job.starts.start(REFERENCE)], step=PERFECT_STEP, generator=generator)
    if made.molecules[0] is None:
        raise CalculationFailed("the chain did not stay finite")
    return made.molecules[0]


def run_jobs(
    jobs: Sequence[Job],
    *,
    folder: Path | None = None,
    executor: Executor | None = None,
    minutes: float | None = None,
    report: Callable[[str], object] | None = None,
) -> list[Outcome | Failed]:
    """All jobs, until done or the time is up, each run a task of a farm: first those of the reference start.

    Whose reference runs are not done when the time is up has no others yet. Raises what `run_farm` raises.
    """
    stop_at = None if minutes is None else monotonic() + 60.0 * minutes
    found: dict[str, Outcome | Failed] = {}
    ends: dict[tuple[str, str], np.ndarray] = {}  # molecule, optimiser -> end point of the reference start
    with place_for(folder) as place:
        for first in (True, False):
            tasks = {
                key_of(job, start, kind): job.task(start, kind, ends.get((job.name, kind)))
                for job in jobs
                for start, kind in job.runs
                if (start == REFERENCE) == first and (first or _reference_done(job, kind, found))
            }
            left = None if stop_at is None else max(0.0, stop_at - monotonic()) / 60.0
            done = run_farm(measure, tasks, place, executor=executor, minutes=left, unit="run")
            for key, result in done.results().items():
                found[key] = Outcome(**json.loads(str(result["outcome"])))
                if first:
                    ends[tasks[key].job.name, tasks[key].optimiser] = result["positions"]
            for key, reason in done.failed.items():
                found[key] = Failed(tasks[key].job.name, tasks[key].start, tasks[key].optimiser, reason)
    for job in jobs if report is not None else ():
        number = sum(key_of(job, *run) in found for run in job.runs)
        report(f"{job.name}: {number} of {len(job.runs)} runs")
    return [found[key] for job in jobs for run in job.runs if (key := key_of(job, *run)) in found]


def _reference_done(job: Job, optimiser: str, found: Mapping[str, object]) -> bool:
    """Whether the reference run with this optimiser has ended, or is not asked for."""
    return (REFERENCE, optimiser) not in job.runs or key_of(job, REFERENCE, optimiser) in found
