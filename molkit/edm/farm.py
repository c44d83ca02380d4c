"""Many samples in parts that follow from the seed: interrupted, resumed or spread over processes, always the same."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from time import process_time
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from molkit.edm.conditions import TABLE, check_known, context_for, guided, read_table
from molkit.edm.editing import check_sizes
from molkit.edm.engine import gains_from_bfloat16
from molkit.edm.model import Edm, load, resolve
from molkit.edm.samplers import ANCESTRAL, Sampler, sampler_named, step_grid
from molkit.edm.sampling import sample
from molkit.errors import InvalidInput, RunError
from molkit.farm.folder import FarmFolder, Result, place_for
from molkit.farm.run import run_farm
from molkit.molecule import PackedMolecules
from molkit.rng import fork, generator_from
from molkit.training.precision import precision_override
from molkit.training.weights import fingerprint, portable

CHUNK = 250  # molecules whose sizes and seeds are drawn together; part of the definition of a seed
PART = 50  # molecules of one task on a CPU: what a kill may cost
GPU_PARTS = 16  # chunks drawn in one batch of chains on a GPU


@dataclass(frozen=True)
class Request:
    """What every molecule of a request depends on, beside its place in it. Picklable."""

    weights: str
    seed: int
    num_calls: int | None = None
    num_atoms: int | None = None
    device: str = "cpu"
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    sampler: Sampler = ANCESTRAL
    shared_path: bool = False
    conditions: tuple[tuple[str, float], ...] = ()  # properties asked for, in their units
    guidance: float = 1.0  # scale of what they change
    fingerprint: str = ""  # of the weights, looked up where it is empty

    def about(self) -> dict[str, Any]:
        """The same as names and plain values, for the manifest of a farm's folder; weights by what they hold."""
        found = {part.name: plain(getattr(self, part.name)) for part in fields(self)}
        found["weights"] = found.pop("fingerprint")
        return found


@dataclass(frozen=True)
class Part:
    """Rows first..last of a chunk of `count` molecules."""

    chunk: int
    count: int
    first: int
    last: int


@dataclass(frozen=True)
class Drawn:
    """Molecules in order, how many were asked for, CPU seconds, and why parts are missing, by their molecules."""

    molecules: PackedMolecules
    asked: int
    seconds: float
    failed: dict[str, str]


def plain(value: Any) -> Any:
    """A setting as JSON can hold it; functions by name and arguments."""
    if is_dataclass(value):
        return {part.name: plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, partial):
        return [value.func.__name__, {name: plain(one) for name, one in sorted(value.keywords.items())}]
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return value.__name__ if callable(value) else value


def check_request(weights: str | Path, request: Request, sizes: Iterable[int] = ()) -> None:
    """Refuse at once what could not be drawn: these sizes and that of the request, calls, conditions.

    Raises InvalidInput, DataNotFound for weights that are not there, and what loading them raises.
    """
    edm = load(weights, fast=False)
    asked = dict(request.conditions)
    check_sizes(edm, torch.tensor([*sizes, *([] if request.num_atoms is None else [request.num_atoms])]))
    step_grid(edm.config.num_steps, request.num_calls)
    check_known(edm.config, asked)
    if asked:
        table = read_table(resolve(weights))
        table.size_weights(asked)  # refuses values that training never saw
        if request.num_atoms is not None:
            table.check_size(request.num_atoms, asked)


def draw(request: Request, parts: Sequence[Part]) -> Result:
    """The molecules of some parts, drawn together; sizes and noise follow from (seed, chunk) alone.

    Failed chains are left out. Arrays `num_atoms`, `atomic_numbers`, `positions` and `seconds`, for a farm.
    """
    if request.device == "cpu":
        torch.set_num_threads(1)
    edm = shared_edm(request.weights, request.device, request.precision, request.fingerprint)
    edm = guided(edm, request.guidance) if request.conditions else edm
    began = process_time()
    sizes, generators = [], []
    for part in parts:
        generator = generator_from("sample", request.seed, part.chunk)
        sizes.append(chunk_sizes(edm, request, part.count, generator=generator)[part.first : part.last])
        generators += fork(generator, part.count)[part.first : part.last]
    num_atoms = torch.cat(sizes)
    found = sample(
        edm,
        num_atoms,
        context=context_for(edm.config, dict(request.conditions), len(num_atoms)),
        generator=generators,
        num_calls=request.num_calls,
        sampler=request.sampler,
        shared_path=request.shared_path,
    ).molecules
    arrays = {name: getattr(found, name) for name in ("num_atoms", "atomic_numbers", "positions")}
    return arrays | {"seconds": np.float64(process_time() - began)}


@lru_cache(maxsize=2)
def shared_edm(
    weights: str,
    device: str = "cpu",
    precision: Literal["float32", "bfloat16", "auto"] = "float32",
    known: str = "",
) -> Edm:
    """The model, read once a process; `known` is the fingerprint that it must have.

    Raises RunError where the weights are no longer those of the request, and what `load` raises.
    """
    if known and fingerprint(weights, TABLE) != known:
        raise RunError(f"{weights}: the weights changed while they were used; use a copy of them")
    return load(weights, device=device, precision=precision)


def chunk_sizes(edm: Edm, request: Request, count: int, *, generator: torch.Generator) -> Tensor:
    """Sizes of a chunk's molecules: as asked, by the training histogram, or by what goes with the conditions."""
    drawn = edm.draw_sizes(count, generator=generator)
    if request.num_atoms is not None:
        return torch.full_like(drawn, request.num_atoms)
    if not request.conditions:
        return drawn
    table = read_table(resolve(request.weights))
    weights = table.size_weights(dict(request.conditions))
    random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    return torch.from_numpy(table.draw_sizes(count, generator=random, weights=weights))


def parts_of(count: int, *, device: str = "cpu", chunks: slice = slice(None)) -> dict[str, tuple[Part, ...]]:
    """The tasks of `count` molecules by their names in a farm's folder: a part each, or many chunks each on a GPU."""
    size = PART if device == "cpu" else CHUNK
    parts = [
        Part(k, whole, first, min(first + size, whole))
        for k, whole in list(enumerate(min(CHUNK, count - start) for start in range(0, count, CHUNK)))[chunks]
        for first in range(0, whole, size)
    ]
    together = 1 if device == "cpu" else GPU_PARTS
    groups = [tuple(parts[row : row + together]) for row in range(0, len(parts), together)]
    return {f"{g[0].chunk:05d}_{g[0].first:03d}_{len(g)}_of_{g[-1].count}": g for g in groups}


def draw_many(
    request: Request,
    count: int,
    *,
    folder: Path | None = None,
    executor: Executor | None = None,
    progress: bool = False,
    chunks: slice = slice(None),
) -> Drawn:
    """`count` molecules on a farm, the same for any executor; `chunks` takes some of their chunks of CHUNK only.

    With `folder` every finished part is kept there and not drawn again, with the precision it was begun with; what is
    handed out is always what was written. Raises InvalidInput for what `check_request` refuses, count < 1, or a folder
    of another request, and what `run_farm` raises.
    """
    if count < 1:
        raise InvalidInput(f"count must be at least 1, got {count}")
    check_request(request.weights, request)
    request = settled(request, folder)
    tasks = parts_of(count, device=request.device, chunks=chunks)
    with place_for(folder) as place:
        found = run_farm(
            partial(draw, request),
            tasks,
            place,
            executor=executor,
            settings=request.about(),
            progress=progress,
            unit="part",
        )
        results = found.results()
    names = {key: f"molecules {_span(parts)}" for key, parts in tasks.items()}
    return Drawn(
        join(PackedMolecules(*(one[name] for name in MEMBERS)) for one in results.values()),
        sum(part.last - part.first for parts in tasks.values() for part in parts),
        float(sum(one["seconds"] for one in results.values())),
        {names[key]: reason for key, reason in found.failed.items()},
    )


MEMBERS = ("num_atoms", "atomic_numbers", "positions")


def _span(parts: Sequence[Part]) -> str:
    return f"{parts[0].chunk * CHUNK + parts[0].first + 1} to {parts[-1].chunk * CHUNK + parts[-1].last}"


def settled(request: Request, folder: Path | None) -> Request:
    """The request with the weights' fingerprint, and a precision instead of "auto": that of the folder, or the quicker.

    On a GPU the precision is that of its compiled network.
    """
    kept = {} if folder is None else FarmFolder(Path(folder)).manifest().get("settings", {})
    precision = request.precision
    if precision == "auto" and request.device == "cpu":
        precision = (
            precision_override() or kept.get("precision") or ("bfloat16" if gains_from_bfloat16() else "float32")
        )
    return replace(request, precision=precision, fingerprint=fingerprint(request.weights, TABLE))


def sample_many(
    weights: str | Path,
    count: int,
    *,
    seed: int,
    num_calls: int | None = None,
    num_atoms: int | None = None,
    folder: Path | None = None,
    device: str = "cpu",
    sampler: str | Sampler = ANCESTRAL,
    shared_path: bool = False,
    conditions: Mapping[str, float] | None = None,
    guidance: float = 1.0,
    executor: Executor | None = None,
    progress: bool = False,
) -> PackedMolecules:
    """`count` molecules of published weights or a run folder, see `draw_many`; fewer if chains failed.

    `sampler` is one of `molkit.edm.samplers`, or its name; shared_path as in `sample`; `guidance` is the scale of
    `molkit.edm.conditions`, for conditions. Raises RunError where a part could not be drawn at all.
    """
    request = request_of(
        weights,
        seed=seed,
        num_calls=num_calls,
        num_atoms=num_atoms,
        device=device,
        sampler=sampler,
        shared_path=shared_path,
        conditions=conditions,
        guidance=guidance,
    )
    found = draw_many(request, count, folder=folder, executor=executor, progress=progress)
    for which, reason in found.failed.items():
        raise RunError(f"{which} could not be drawn: {reason}")
    return found.molecules


def request_of(
    weights: str | Path,
    *,
    sampler: str | Sampler = ANCESTRAL,
    conditions: Mapping[str, float] | None = None,
    **options: Any,
) -> Request:
    """A request in the quicker precision. Raises InvalidInput for an unknown sampler."""
    asked = tuple(sorted((conditions or {}).items()))
    return Request(portable(weights), sampler=sampler_named(sampler), conditions=asked, precision="auto", **options)


def join(parts: Iterable[PackedMolecules]) -> PackedMolecules:
    """Packs one after the other, without names."""
    parts = list(parts)
    if not parts:
        return PackedMolecules.from_molecules([])
    return PackedMolecules(*(np.concatenate([getattr(part, name) for part in parts]) for name in MEMBERS))
