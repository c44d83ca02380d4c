"""Draw molecules, send those that pass on their journeys, and write down what became of each."""

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from molkit.chem.files import write_sdf
from molkit.chem.rdkit_tools import graph_by_distance, plain_smiles
from molkit.edm.farm import Request, check_request, draw_many, request_of
from molkit.edm.samplers import default_sampler
from molkit.errors import InvalidInput, RunError
from molkit.farm.folder import FarmFolder
from molkit.farm.run import run_farm
from molkit.metrics.stability import stability
from molkit.molecule import Molecule, PackedMolecules
from molkit.pipeline.journey import DRAWN, LOWEST, Journey, PipelineSettings, Stage, from_arrays, to_arrays
from molkit.pipeline.stages import Task, load_all, travel
from molkit.training.files import write_text
from molkit.training.weights import fingerprint

WEIGHTS = ("generator", "relaxer", "flow", "energy", "functional")
LONGEST = 1800.0  # seconds a molecule, all stages
ACCEPTED = "stable by EDM's rule, in one piece, accepted by RDKit"


@dataclass(frozen=True, eq=False)
class PipelineResult:
    """All journeys in the order of drawing, and the chains that gave no molecule at all."""

    settings: PipelineSettings
    journeys: tuple[Journey, ...]
    num_failed_chains: int


def run_pipeline(
    count: int,
    folder: Path,
    *,
    sizes: Sequence[int] = (),
    settings: PipelineSettings | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> PipelineResult:
    """`count` molecules from noise to electrons in a folder, which a second call continues.

    `sizes` are numbers of atoms to draw, in turn; default: as in the training data. Before anything is drawn: raises
    InvalidInput for a count below 1, sizes that the generator does not know or a folder of another pipeline, what the
    loaders raise for weights that are not there or of another kind. What goes wrong with a molecule is noted in its
    journey.
    """
    if count < 1 or any(size < 2 for size in sizes):
        raise InvalidInput("a pipeline draws at least one molecule, of two atoms or more")
    settings = PipelineSettings() if settings is None else settings
    check_request(settings.generator, _request(settings, None), sizes)
    load_all(settings)
    folder = Path(folder).resolve()
    FarmFolder(folder / "journeys").adopt({}, about(settings, count, sizes))
    began = perf_counter()
    drawn = draw(count, sizes, settings, folder / "drawn", executor=executor, progress=progress)
    seconds = _kept_seconds(folder / "drawn" / "seconds.json", (perf_counter() - began) / count)
    known = [examined(f"molecule_{row:04d}", molecule) for row, molecule in enumerate(drawn)]
    accepted = {journey.name: Task(journey, settings) for journey, reason in known if not reason}
    given = about(settings, count, sizes)
    finished = _journeys(accepted, folder / "journeys", given, executor, progress=progress)
    journeys = [
        replace(found, stages=(Stage(DRAWN, not reason, reason or ACCEPTED, seconds), *found.stages))
        for journey, reason in known
        for found in [finished.get(journey.name, journey)]
    ]
    return PipelineResult(settings, tuple(journeys), count - len(drawn))


def about(settings: PipelineSettings, count: int, sizes: Sequence[int]) -> dict[str, Any]:
    """What all journeys depend on, weights by what they hold."""
    named = {name: fingerprint(getattr(settings, name)) for name in WEIGHTS if getattr(settings, name)}
    return asdict(settings) | named | {"count": count, "sizes": list(sizes)}


def _request(settings: PipelineSettings, size: int | None) -> Request:
    sampler = default_sampler(settings.num_calls)
    return request_of(
        settings.generator, seed=settings.seed, num_calls=settings.num_calls, num_atoms=size, sampler=sampler
    )


def _kept_seconds(path: Path, seconds: float) -> float:
    """The seconds of the drawing when it was done; a continued pipeline only reads what was drawn."""
    if not path.is_file():
        write_text(path, json.dumps(round(seconds, 4)) + "\n")
    return float(json.loads(path.read_text(encoding="utf-8")))


def draw(
    count: int,
    sizes: Sequence[int],
    settings: PipelineSettings,
    folder: Path,
    *,
    executor: Executor | None = None,
    progress: bool = False,
) -> list[Molecule]:
    """The molecules as the generating model draws them, size by size."""
    shares = Counter(sizes[row % len(sizes)] if sizes else None for row in range(count))
    found: list[Molecule] = []
    for size, share in shares.items():
        place = folder / ("as_trained" if size is None else f"{size:02d}_atoms")
        drawn = draw_many(_request(settings, size), share, folder=place, executor=executor, progress=progress)
        for which, reason in drawn.failed.items():
            raise RunError(f"{place}: {which} could not be drawn: {reason}")
        found += drawn.molecules
    return found


def examined(name: str, molecule: Molecule) -> tuple[Journey, str]:
    """The beginning of a journey, and why it goes no further: "" for a whole molecule by EDM's own rules."""
    molecule = replace(molecule, name=name)
    reason = why_rejected(molecule)
    smiles = "" if reason else plain_smiles(graph_by_distance(molecule))
    return Journey(name, molecule, smiles, structures={DRAWN: molecule.positions}), reason


def why_rejected(molecule: Molecule) -> str:
    """Why a drawn molecule goes no further; empty where it does."""
    one = PackedMolecules.from_molecules([molecule])
    found = stability(one)
    if not found.molecule_stable[0]:
        wrong = int(found.num_atoms[0] - found.stable_atoms[0])
        return f"{wrong} of {molecule.num_atoms} atoms {'has' if wrong == 1 else 'have'} the wrong valence"
    try:
        graph_by_distance(molecule)
    except InvalidInput as error:
        return str(error)
    return ""


def _arrays_of(task: Task) -> dict[str, np.ndarray]:
    return to_arrays(travel(task))


def _journeys(
    tasks: dict[str, Task], folder: Path, given: dict[str, Any], executor: Executor | None, *, progress: bool
) -> dict[str, Journey]:
    """Journeys of the accepted molecules by name; one that killed its workers ends where it began."""
    limit = None if executor is None else LONGEST
    report = run_farm(
        _arrays_of,
        tasks,
        folder,
        executor=executor,
        timeout=limit,
        settings=given,
        progress=progress,
        unit="molecule",
    )
    found = {name: from_arrays(arrays) for name, arrays in report.results().items()}
    for name, reason in report.failed.items():
        found[name] = replace(tasks[name].journey, stages=(Stage("journey", False, reason, 0.0),))
    return found


def write_results(result: PipelineResult, folder: Path) -> list[Path]:
    """drawn.sdf, lowest.sdf, minima.sdf (where there are any) and journeys.json in the folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    done = [journey for journey in result.journeys if LOWEST in journey.structures]
    sets = {
        "drawn.sdf": [journey.molecule for journey in result.journeys],
        "lowest.sdf": [labelled(journey, journey.structures[LOWEST]) for journey in done],
        "minima.sdf": [
            replace(labelled(journey, positions), properties={"gfn2_xtb_kcal_above_lowest": float(energy)})
            for journey in done
            for positions, energy in zip(journey.minima, journey.minima_energies, strict=True)
        ],
    }
    written = []
    for name, molecules in sets.items():
        if molecules:
            write_sdf(folder / name, molecules)
            written.append(folder / name)
    write_text(folder / "journeys.json", json.dumps(_plain(result), indent=2) + "\n")
    return [*written, folder / "journeys.json"]


def labelled(journey: Journey, positions: np.ndarray) -> Molecule:
    """The molecule at positions, named by its SMILES."""
    return replace(journey.molecule.with_positions(positions), name=f"{journey.name} {journey.smiles}")


def _plain(result: PipelineResult) -> dict[str, object]:
    return {
        "settings": asdict(result.settings),
        "num_failed_chains": result.num_failed_chains,
        "journeys": [
            {
                "name": journey.name,
                "formula": journey.molecule.formula,
                "smiles": journey.smiles,
                "stages": [asdict(stage) for stage in journey.stages],
                "energies_kcal_above_lowest": dict(journey.energies),
                "values": dict(journey.values),
            }
            for journey in result.journeys
        ],
    }
