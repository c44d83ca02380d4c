"""Many relaxations of many starts, each written to a file of its own: interrupted and resumed, nothing is lost."""

import hashlib
import json
from collections.abc import Callable, Sequence
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
from molkit.errors import CalculationFailed, InvalidInput
from molkit.farm.run import run_farm
from molkit.geometry import aligned_rmsd
from molkit.molecule import Molecule
from molkit.relaxation.chains import relax_from
from molkit.relaxation.comparison import Outcome, largest_turn
from molkit.relaxation.denoisers import ExactDenoiser
from molkit.relaxation.starts import REFERENCE, Starts
from molkit.rng import generator_from
from molkit.training.files import write_text
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
    """All runs of one molecule on one surface: pairs (start, optimiser), the reference start of an optimiser first."""

    starts: Starts
    runs: tuple[tuple[str, Optimiser], ...]
    level: DftLevel | None = None  # None: GFN2-xTB
    folder: str | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """The molecule's name, for files."""
        return self.starts.molecule.name

    def path(self, start: str, optimiser: str) -> Path | None:
        """The file of one run."""
        word = f"{self.name}_{start}_{optimiser}.json".replace(" ", "-")
        return None if self.folder is None else Path(self.folder) / word


def run_job(job: Job, *, stop_at: float = float("inf")) -> list[Outcome | Failed]:
    """Every run of a job that is not there yet, in order; none begins after `stop_at` (monotonic seconds)."""
    torch.set_num_threads(1)
    ends: dict[str, np.ndarray] = {}  # optimiser -> end point of the reference start
    found: list[Outcome | Failed] = []
    for start, kind in job.runs:
        path = job.path(start, kind)
        done = _read(path) if path is not None and path.is_file() else None
        if done is None:
            if monotonic() > stop_at:
                break
            done = _run(job, start, kind, ends.get(kind))
            if path is not None:
                write_text(path, json.dumps({"result": asdict(done[0]), "positions": done[1]}) + "\n")
        outcome, positions = done
        if start == REFERENCE and positions is not None:
            ends[kind] = np.array(positions)
        found.append(outcome)
    return found


def surface(molecule: Molecule, level: DftLevel | None) -> EnergyFunction:
    """A fresh energy function of the molecule."""
    return XtbEnergy(molecule) if level is None else DftEnergy(molecule, level=level)


def _run(job: Job, start: str, kind: Optimiser, end: np.ndarray | None) -> tuple[Outcome | Failed, list | None]:
    """One optimisation, compared with the end point that the reference start reached with the same optimiser."""
    try:
        given = _given(job, start, end)
        began = process_time()
        ended = optimise(given, surface(given, job.level), optimiser=kind)
    except CalculationFailed as error:
        return Failed(job.name, start, kind, str(error)), None
    outcome = Outcome(
        molecule=job.name,
        start=start,
        optimiser=kind,
        excess=ended.energy_drop * EV_TO_KCAL,
        energy=ended.energy_after * EV_TO_KCAL,
        num_gradients=ended.num_gradients,
        converged=ended.converged,
        seconds=round(process_time() - began, 3),
    )
    if end is not None:
        rmsd, turn = aligned_rmsd(ended.positions, end), largest_turn(ended.positions, end, given.atomic_numbers)
        outcome = replace(outcome, rmsd_to_reference=rmsd, largest_turn=turn)
    return outcome, ended.positions.round(5).tolist()


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


def _read(path: Path) -> tuple[Outcome | Failed, list | None]:
    stored = json.loads(path.read_text(encoding="utf-8"))
    kind = Failed if "reason" in stored["result"] else Outcome
    return kind(**stored["result"]), stored["positions"]


def run_jobs(
    jobs: Sequence[Job],
    *,
    executor: Executor | None = None,
    minutes: float | None = None,
    report: Callable[[str], object] | None = None,
) -> list[Outcome | Failed]:
    """All jobs, until done or the time is up; what was finished before is read from its file.

    Without an executor one after the other. With one, every job is a task of a farm in the jobs' own folder, and a job
    that killed its worker twice is reported as failed. Raises InvalidInput for an executor without a folder.
    """
    stop_at = float("inf") if minutes is None else monotonic() + 60.0 * minutes
    lost = {} if executor is None else _farmed(jobs, executor, minutes)
    found: list[Outcome | Failed] = []
    for job in jobs:
        done = run_job(job, stop_at=stop_at if executor is None else 0.0)
        if job.name in lost:
            done += [Failed(job.name, start, kind, lost[job.name]) for start, kind in job.runs[len(done) :]]
        found += done
        if report is not None:
            report(f"{job.name}: {len(done)} of {len(job.runs)} runs")
    return found


def _farmed(jobs: Sequence[Job], executor: Executor, minutes: float | None) -> dict[str, str]:
    """Run the jobs on an executor; returns why a job was lost. Their results are the files that run_job reads."""
    if len({job.folder for job in jobs}) != 1 or jobs[0].folder is None:
        raise InvalidInput("relaxations on several workers need one folder for their runs")
    tasks = {job.name: replace(job, starts=replace(job.starts, seconds={})) for job in jobs}
    about = {"runs": [list(run) for run in jobs[0].runs], "seed": jobs[0].seed}
    place = Path(jobs[0].folder) / f"farm_{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:8]}"
    return run_farm(_job_in_a_farm, tasks, place, executor=executor, minutes=minutes, settings=about).failed


def _job_in_a_farm(job: Job) -> dict[str, int]:
    """A job as a farm's task: its runs go to their own files."""
    return {"runs": len(run_job(job))}
