"""A relaxation that a chemist can use: structures through a diffusion model, noise level chosen from the structures."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from molkit.edm.conditions import TABLE
from molkit.edm.editing import check_molecule, check_neutral, check_sizes, noise_angstrom
from molkit.edm.farm import shared_edm
from molkit.edm.features import State
from molkit.edm.model import Edm
from molkit.edm.samplers import SAMPLERS, Sampler, clean_state, sampler_named
from molkit.edm.schedule import alpha
from molkit.errors import InvalidInput
from molkit.farm.folder import place_for
from molkit.farm.run import run_farm
from molkit.geometry import superpose
from molkit.graphs import Graph
from molkit.molecule import Molecule
from molkit.relaxation.chains import Ending, relax_from, start_step
from molkit.relaxation.denoisers import Denoiser, NetworkDenoiser, enter
from molkit.rng import generator_from
from molkit.training.weights import fingerprint, portable

SMALLEST_LIMIT, LARGEST_LIMIT, LIMIT_OF_NOISE = 0.15, 0.5, 3.2  # angstrom; times the noise level
CANDIDATES = (0.0145, 0.0285, 0.0425, 0.0566, 0.0707, 0.1061)  # angstrom, levels that `auto` chooses from
PART = 20  # molecules of one task of a farm
WEIGHTS, SIGMA, SAMPLER = "edm_qm9_low_noise", 0.3, SAMPLERS["ddim"]  # lowest mean excess on validation molecules


@dataclass(frozen=True)
class PreRelaxed:
    """Molecules out of the recipe in the order given; None where `problems` says why."""

    molecules: tuple[Molecule | None, ...]
    levels: tuple[float | None, ...]  # angstrom, the noise level used
    problems: dict[int, str]


def pre_relax(
    edm: Edm,
    molecules: Sequence[Molecule],
    *,
    sigma: float | Literal["auto"] = SIGMA,
    ending: Ending = "mean",
    copies: int = 1,
    sampler: Sampler = SAMPLER,
    generator: torch.Generator,
) -> PreRelaxed:
    """Relax structures by the model, elements held; the mean of `copies` chains is taken after superposing them.

    `sigma` is the noise level in angstrom, or "auto" (see `fitting_level`). A molecule that is charged, an open shell,
    of an element or size the model does not know, or with overlapping atoms is a problem of its own; the others are
    finished. Raises InvalidInput for a wrong level or fewer than one copy.
    """
    if copies < 1:
        raise InvalidInput(f"copies must be at least 1, got {copies}")
    denoiser = NetworkDenoiser(edm)
    if sigma != "auto":
        start_step(denoiser, float(sigma), None)
    problems = {row: reason for row, one in enumerate(molecules) if (reason := problem_of(edm, one))}
    usable = [row for row in range(len(molecules)) if row not in problems]
    made: dict[int, tuple[Molecule | None, float]] = {}
    given = [molecules[row] for row in usable]
    levels = fitting_levels(denoiser, given) if sigma == "auto" and given else [sigma] * len(given)
    for level in sorted(set(levels)):
        rows = [row for row, own in zip(usable, levels, strict=True) if own == level]
        found = _averaged(denoiser, [molecules[row] for row in rows], level, ending, copies, sampler, generator)
        made |= {row: (one, level) for row, one in zip(rows, found, strict=True)}
    problems |= {row: "the chain did not stay finite" for row, (one, _) in made.items() if one is None}
    rows = range(len(molecules))
    return PreRelaxed(
        tuple(made[row][0] if row in made else None for row in rows),
        tuple(made[row][1] if row in made else None for row in rows),
        dict(sorted(problems.items())),
    )


def moved_too_far(given: Molecule, made: Molecule, level: float) -> str:
    """Why a relaxed structure lies outside what was tested, by the way its atoms went; empty where it does not.

    By the default way no atom of MMFF94's structures of QM9 molecules went further than 0.3 angstrom. From the same
    structures with 0.1 angstrom of noise on every coordinate, or an X-H bond stretched by a quarter, atoms go up to
    0.47 and the mean excess is the same to 0.2 kcal/mol; beyond the limit it grows. From smaller noise less is mended,
    and the limit is LIMIT_OF_NOISE times the level. Source: measured here, 16 validation molecules.
    """
    ways = np.linalg.norm(superpose(made.positions, given.positions) - given.positions, axis=1)
    limit, atom = min(max(SMALLEST_LIMIT, LIMIT_OF_NOISE * level), LARGEST_LIMIT), int(ways.argmax())
    if ways[atom] <= limit:
        return ""
    return (
        f"atom {atom + 1} would move by {ways[atom]:.2f} angstrom; of the structures that were tested none moved "
        f"by more than {limit:.2f}. Relax it with a force field first"
    )


@dataclass(frozen=True)
class RelaxRequest:
    """What every relaxation of a request depends on, beside its molecule. Picklable."""

    weights: str
    sigma: float | Literal["auto"]
    ending: Ending
    copies: int
    sampler: str
    seed: int
    fingerprint: str


def relax_many(
    weights: str,
    molecules: Sequence[Molecule],
    *,
    seed: int,
    sigma: float | Literal["auto"] = SIGMA,
    ending: Ending = "mean",
    copies: int = 1,
    sampler: str = SAMPLER.name,
    folder: Path | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> PreRelaxed:
    """`pre_relax` on a farm, PART molecules a task, with random numbers that follow from the seed and their place.

    With `folder` finished parts are kept there. Raises as `pre_relax`, loading the weights, and `run_farm` do.
    """
    request = RelaxRequest(portable(weights), sigma, ending, copies, sampler, seed, fingerprint(weights, TABLE))
    edm = shared_edm(request.weights, known=request.fingerprint)
    pre_relax(edm, [], sigma=sigma, ending=ending, copies=copies, generator=generator_from("nothing"))  # refuses now
    tasks = {f"{row:06d}": (row, tuple(molecules[row : row + PART])) for row in range(0, len(molecules), PART)}
    about = asdict(request)
    about["weights"] = about.pop("fingerprint")
    with place_for(folder) as place:
        work = partial(_relax_part, request)
        found = run_farm(work, tasks, place, executor=executor, settings=about, progress=progress, unit="part")
        results = found.results()
    parts = [_relaxed_part(*tasks[key], results.get(key), found.failed.get(key, "not done")) for key in tasks]
    return PreRelaxed(
        tuple(one for part in parts for one in part.molecules),
        tuple(one for part in parts for one in part.levels),
        {row: reason for part in parts for row, reason in part.problems.items()},
    )


def _relax_part(request: RelaxRequest, task: tuple[int, tuple[Molecule, ...]]) -> dict[str, np.ndarray]:
    """The arrays of one part, for a farm: atoms [A, 3] of all that were relaxed, their rows and levels, problems."""
    torch.set_num_threads(1)
    first, molecules = task
    edm = shared_edm(request.weights, known=request.fingerprint)
    options = {"sigma": request.sigma, "ending": request.ending, "copies": request.copies}
    options["sampler"] = sampler_named(request.sampler)
    found = pre_relax(edm, molecules, **options, generator=generator_from("relax", request.seed, first))
    made = [row for row, one in enumerate(found.molecules) if one is not None]
    return {
        "rows": np.array(made, dtype=np.int64),
        "levels": np.array([found.levels[row] for row in made], dtype=float),
        "positions": np.concatenate([np.zeros((0, 3)), *(found.molecules[row].positions for row in made)]),
        "problems": np.array(json.dumps(found.problems)),
    }


def _relaxed_part(
    first: int, given: Sequence[Molecule], arrays: Mapping[str, np.ndarray] | None, reason: str
) -> PreRelaxed:
    """What `_relax_part` found, problems by their row in the whole; every molecule a problem where it found nothing."""
    if arrays is None:
        return PreRelaxed(
            (None,) * len(given), (None,) * len(given), {first + row: reason for row in range(len(given))}
        )
    molecules: list[Molecule | None] = [None] * len(given)
    levels: list[float | None] = [None] * len(given)
    ends = np.cumsum([given[row].num_atoms for row in arrays["rows"]])
    for row, level, end in zip(arrays["rows"].tolist(), arrays["levels"].tolist(), ends.tolist(), strict=True):
        molecules[row] = given[row].with_positions(arrays["positions"][end - given[row].num_atoms : end])
        levels[row] = level
    problems = {first + int(row): text for row, text in json.loads(str(arrays["problems"])).items()}
    return PreRelaxed(tuple(molecules), tuple(levels), problems)


def problem_of(edm: Edm, molecule: Molecule) -> str:
    """Why the model cannot relax a molecule; empty where it can."""
    try:
        check_neutral(molecule, closed_shell=True)
        check_molecule(edm, molecule)
        check_sizes(edm, torch.tensor([molecule.num_atoms]))
    except InvalidInput as error:
        return str(error)
    return ""


def _averaged(
    denoiser: Denoiser,
    molecules: Sequence[Molecule],
    level: float,
    ending: Ending,
    copies: int,
    sampler: Sampler,
    generator: torch.Generator,
) -> list[Molecule | None]:
    """Every molecule's chains, superposed on the given structure and averaged over those that stayed finite."""
    many = [molecule for molecule in molecules for _ in range(copies)]
    options = {"ending": ending, "sampler": sampler, "keep_elements": True, "scaled": True, "generator": generator}
    found = relax_from(denoiser, many, sigma=level, **options).molecules
    return [_mean_structure(molecule, found[k * copies : (k + 1) * copies]) for k, molecule in enumerate(molecules)]


def _mean_structure(given: Molecule, found: Sequence[Molecule | None]) -> Molecule | None:
    places = [superpose(one.positions, given.positions) for one in found if one is not None]
    return given.with_positions(np.mean(places, axis=0)) if places else None


@torch.no_grad()
def fitting_levels(denoiser: Denoiser, molecules: Sequence[Molecule]) -> list[float]:
    """For each molecule the candidate level that fits how far the model would move it.

    At every level the clean molecule is predicted from the structure, times alpha; the level is chosen whose noise is
    nearest, by ratio, to the root mean square change of a coordinate. Source: derived here.
    """
    num_atoms, entered = enter(denoiser.config, molecules, dtype=denoiser.dtype)
    graph = Graph.from_sizes(num_atoms)
    levels = noise_angstrom(denoiser).numpy()
    misfits, known = [], []
    for level in CANDIDATES:
        if not levels[1] <= level <= levels[-1]:
            continue
        step = start_step(denoiser, level, None)
        signal = float(alpha(denoiser.log_snr[step]))
        noisy = State(signal * entered.positions, signal * entered.features)
        clean = clean_state(noisy, denoiser.noise(noisy, step, graph), denoiser.log_snr[step])
        moved = denoiser.config.scale_positions * (clean.positions - entered.positions)
        mean_square = graph.sum(moved.square().sum(-1)) / (3 * num_atoms)
        misfits.append((0.5 * mean_square.log() - np.log(level)).abs())
        known.append(level)
    return [known[k] for k in torch.stack(misfits).nan_to_num(nan=1e6).argmin(0).tolist()]
