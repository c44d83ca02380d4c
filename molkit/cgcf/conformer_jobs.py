"""Conformers of one molecule after the other or on a farm: flow, ETM, force field, ranking, SDF records."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from molkit.cgcf.conformers import (
    COMMAND_STEPS,
    FIELDS,
    Conformers,
    Stereo,
    by_rdkit,
    distinct,
    generate,
    joined,
    ranked,
    relaxed,
    sdf_lines,
)
from molkit.cgcf.datasets import graph_of
from molkit.cgcf.embedding import Search
from molkit.cgcf.energy import EnergyNetwork
from molkit.cgcf.graph import collate
from molkit.cgcf.loaded import shared_energy, shared_flow
from molkit.chem.bond_graph import graph_mol
from molkit.errors import CalculationFailed, InvalidInput
from molkit.farm.folder import Result, place_for
from molkit.farm.run import run_farm
from molkit.training.weights import fingerprint, portable

SHARED = ("count", "seed", "search", "stereo", "relax", "rank", "mix", "window")
COUNTS = ("num_mirrored", "num_drawn", "num_duplicates")
WINDOW = 50.0  # far above what is populated, far below a cage that is turned inside out
Rank = Literal["none", "mmff94", "xtb", "etm"]
Mix = Literal["none", "etkdg"]


@dataclass(frozen=True, kw_only=True)
class ConformerJob:
    """What to make for one SMILES. Picklable."""

    smiles: str
    count: int
    seed: int
    weights: str
    energy: str = ""  # weights of an ETM; empty: none
    search: Search = "lbfgs"
    stereo: Stereo = "redraw"
    relax: bool = True  # by MMFF94, or UFF where that lacks parameters; the same minimum is then kept once
    rank: Rank = "mmff94"  # mmff94: the force field that relaxed; relaxed conformers come in that order without, too
    mix: Mix = "none"  # etkdg: half of the conformers begin from ETKDGv3
    window: float = WINDOW  # kcal/mol of the force field above the lowest, for relaxed ones
    name: str = ""  # title of the records; empty: the SMILES


@dataclass(frozen=True, eq=False)
class JobResult:
    """Conformers of a job and their SDF records, or the reason why there are none."""

    smiles: str
    made: Conformers | None = None
    records: tuple[str, ...] = ()
    error: str = ""
    num_high: int = 0  # relaxed conformers left out, since they lie above the window of energies


def run_jobs(
    jobs: Sequence[ConformerJob],
    *,
    folder: Path | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> list[JobResult]:
    """Every job in its order, as tasks of a farm; one that fails carries its reason. `folder` keeps what is finished.

    Raises what loading the weights raises, InvalidInput for a ranking by an energy that is not named, and what
    `run_farm` raises.
    """
    if any(job.rank == "etm" and not job.energy for job in jobs):
        raise InvalidInput("a ranking by the ETM needs weights of its energy (--etm auto)")
    if any(job.rank == "mmff94" and not job.relax for job in jobs):
        raise InvalidInput("a ranking by the force field needs relaxed conformers (leave out --no-relax)")
    for weights, energy in {(job.weights, job.energy) for job in jobs}:
        shared_flow(weights)
        if energy:
            shared_energy(energy, weights)
    tasks = {
        f"{row:06d}": replace(job, weights=portable(job.weights), energy=job.energy and portable(job.energy))
        for row, job in enumerate(jobs)
    }
    with place_for(folder) as place:
        found = run_farm(
            run_job, tasks, place, executor=executor, settings=about(jobs), progress=progress, unit="molecule"
        )
        results = found.results()
    lost = {key: JobResult(tasks[key].smiles, error=reason) for key, reason in found.failed.items()}
    return [lost[key] if key in lost else result_of(job, results[key]) for key, job in tasks.items()]


def about(jobs: Sequence[ConformerJob]) -> dict[str, Any]:
    """What all jobs have in common and the content of their weights, for the manifest of a farm's folder."""
    shared = {name: getattr(jobs[0], name) for name in SHARED}
    flows, energies = {job.weights for job in jobs}, {job.energy for job in jobs if job.energy}
    return shared | {"weights": sorted(map(fingerprint, flows)), "etm": sorted(map(fingerprint, energies))}


def run_job(job: ConformerJob) -> Result:
    """The arrays of one job: what there is of each conformer, and the SDF records. Raises what its steps raise."""
    torch.set_num_threads(1)
    found = conformers_of(job)
    made = within(found, job.window) if job.relax else found
    energies = {f"energy {name}": values for name, values in made.energies.items()}
    counts = {name: np.array(getattr(made, name)) for name in COUNTS} | {"num_high": np.array(len(found) - len(made))}
    records = list(sdf_lines(made))
    if job.name:
        title = " ".join(job.name.split())
        records = [f"{title}\n{record.partition(chr(10))[2]}" for record in records]
    parts = {name: getattr(made, name) for name in FIELDS}
    return parts | energies | counts | {"records": np.array(records, dtype=str)}


def result_of(job: ConformerJob, arrays: Result) -> JobResult:
    """The result of a job from the arrays of `run_job`."""
    energies = {name.removeprefix("energy "): arrays[name] for name in arrays if name.startswith("energy ")}
    counts = {name: int(arrays[name]) for name in COUNTS}
    parts = {name: arrays[name] for name in FIELDS}
    made = Conformers(job.smiles, graph_mol(job.smiles), **parts, **counts, energies=energies)
    return JobResult(job.smiles, made, tuple(arrays["records"].tolist()), num_high=int(arrays["num_high"]))


def within(conformers: Conformers, window: float) -> Conformers:
    """Those whose force-field energy is at most `window` kcal/mol above the lowest; the others are no conformers that
    anybody meets, such as cages turned inside out."""
    (values,) = (found for name, found in conformers.energies.items() if name in ("mmff94_kcal", "uff_kcal"))
    return conformers.select(values <= values.min() + window)


def conformers_of(job: ConformerJob) -> Conformers:
    """The conformers of one job; only those of the stereo that the SMILES specifies, unless the job ignores it.

    Fewer than asked for may come out. Raises CalculationFailed for none, and what `generate` raises.
    """
    energy = shared_energy(job.energy, job.weights) if job.energy else None
    made = made_by_both(job, energy)
    if not len(made):
        raise CalculationFailed(f"none of {made.num_drawn} conformers drawn has the stereo that the SMILES specifies")
    if job.relax and not len(made := distinct(made)):
        raise CalculationFailed("the force field ends in no finite energy")
    if job.rank == "etm" and energy is not None:
        made = ranked_by_tilt(made, energy)
    return ranked(made) if job.rank == "xtb" else made


def made_by_both(job: ConformerJob, energy: EnergyNetwork | None) -> Conformers:
    """The conformers of the flow and, where they are mixed, those of ETKDGv3 before them; relaxed where asked for."""
    parts, wanted = [], job.count
    if job.mix == "etkdg":
        found = by_rdkit(job.smiles, graph_mol(job.smiles), (job.count + 1) // 2, seed=job.seed)
        found = relaxed(found, max_iterations=COMMAND_STEPS) if job.relax else found
        parts.append(found.select(found.stereo_agrees) if job.stereo != "ignore" else found)
        wanted -= len(parts[0])
    if wanted:
        made = generate(
            shared_flow(job.weights),
            job.smiles,
            wanted,
            generator=torch.Generator().manual_seed(job.seed),
            search=job.search,
            stereo=job.stereo,
            energy=energy,
            relax=job.relax,
            max_iterations=COMMAND_STEPS,
        )
        parts.append(made if job.stereo == "ignore" else made.select(made.stereo_agrees))
    return joined(parts)


def ranked_by_tilt(conformers: Conformers, energy: EnergyNetwork) -> Conformers:
    """Sorted by the ETM energy of each conformer as it is, `etm_energy` (no unit: a logarithm of densities)."""
    graph = collate([graph_of(conformers.mol)])
    with torch.no_grad():
        values = energy(graph, torch.from_numpy(conformers.positions).float()).squeeze(-1).double().numpy()
    return replace(conformers, energies={**conformers.energies, "etm_energy": values}).select(np.argsort(values))
