"""Many samples in chunks that follow from the seed: interrupted, resumed or spread over processes, always the same."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from molkit.data.packed import read_packed, write_packed
from molkit.edm.conditions import context_for, read_table
from molkit.edm.guidance import guided
from molkit.edm.model import Edm, load, resolve
from molkit.edm.samplers import ANCESTRAL, Sampler, sampler_named
from molkit.edm.sampling import sample
from molkit.errors import InvalidInput
from molkit.molecule import PackedMolecules
from molkit.rng import fork, generator_from

CHUNK = 250  # molecules per task; part of the definition of a seed
GPU_CHUNKS = 16  # chunks drawn in one batch of chains on a GPU


@dataclass(frozen=True)
class SampleTask:
    """One chunk: everything a worker needs, picklable."""

    weights: str
    chunk: int
    count: int
    seed: int
    num_calls: int | None
    num_atoms: int | None
    folder: str | None
    device: str = "cpu"
    sampler: Sampler = ANCESTRAL
    shared_path: bool = False
    conditions: tuple[tuple[str, float], ...] = ()  # properties asked for, in their units
    guidance: float = 1.0  # scale of what they change

    @property
    def path(self) -> Path | None:
        """The chunk's own file, if chunks are kept."""
        calls = "all" if self.num_calls is None else self.num_calls
        size = "any" if self.num_atoms is None else self.num_atoms
        rule = self.sampler.name + ("_shared" if self.shared_path else "")
        rule += "".join(f"_{name}{value:g}" for name, value in self.conditions)
        rule += "" if self.guidance == 1.0 else f"_guidance{self.guidance:g}"
        name = f"seed{self.seed}_calls{calls}_{rule}_size{size}_{self.chunk:05d}_{self.count}.npz"
        return None if self.folder is None else Path(self.folder) / name


def draw_chunks(edm: Edm, tasks: Sequence[SampleTask]) -> list[PackedMolecules]:
    """The molecules of each chunk, drawn together; sizes and noise follow from (seed, chunk) alone.

    Failed chains are left out.
    """
    sizes, generators = [], []
    for task in tasks:
        generator = generator_from("sample", task.seed, task.chunk)
        sizes.append(chunk_sizes(edm, task, generator=generator))
        generators += fork(generator, task.count)
    num_atoms = torch.cat(sizes)
    result = sample(
        edm,
        num_atoms,
        context=context_for(edm.config, dict(tasks[0].conditions), len(num_atoms)),
        generator=generators,
        num_calls=tasks[0].num_calls,
        sampler=tasks[0].sampler,
        shared_path=tasks[0].shared_path,
    )
    chunk_of_row = np.repeat(np.arange(len(tasks)), [task.count for task in tasks])
    chunk_of_molecule = np.delete(chunk_of_row, list(result.failed))
    return [result.molecules.select(chunk_of_molecule == k) for k in range(len(tasks))]


def chunk_sizes(edm: Edm, task: SampleTask, *, generator: torch.Generator) -> Tensor:
    """Sizes of a chunk's molecules: as asked, by the training histogram, or by what goes with the conditions."""
    drawn = edm.draw_sizes(task.count, generator=generator)
    if task.num_atoms is not None:
        return torch.full_like(drawn, task.num_atoms)
    if not task.conditions:
        return drawn
    table = read_table(resolve(task.weights))
    weights = table.size_weights(dict(task.conditions))
    random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    return torch.from_numpy(table.draw_sizes(task.count, generator=random, weights=weights))


def run_tasks(tasks: Sequence[SampleTask]) -> list[tuple[int, PackedMolecules]]:
    """Chunks of one group: read those that are there, draw the others together, each into a file of its own."""
    done = {task.chunk: read_packed(task.path) for task in tasks if task.path is not None and task.path.is_file()}
    missing = [task for task in tasks if task.chunk not in done]
    if missing:
        if missing[0].device == "cpu":
            torch.set_num_threads(1)
        edm = load(missing[0].weights, device=missing[0].device, precision="auto")
        drawn = draw_chunks(guided(edm, missing[0].guidance) if missing[0].conditions else edm, missing)
        for task, molecules in zip(missing, drawn, strict=True):
            done[task.chunk] = molecules
            if task.path is not None:
                task.path.parent.mkdir(parents=True, exist_ok=True)
                write_packed(task.path, molecules)
    return sorted(done.items())


def chunk_tasks(
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
) -> list[SampleTask]:
    """The chunks of `count` molecules. Raises InvalidInput for count < 1 or an unknown sampler."""
    if count < 1:
        raise InvalidInput(f"count must be at least 1, got {count}")
    rule = sampler_named(sampler)
    place = None if folder is None else str(folder)
    asked = tuple(sorted((conditions or {}).items()))
    common = (seed, num_calls, num_atoms, place, device, rule, shared_path, asked, guidance)
    return [
        SampleTask(str(weights), k, min(CHUNK, count - start), *common)
        for k, start in enumerate(range(0, count, CHUNK))
    ]


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
    """`count` molecules of published weights or a run folder, the same for any executor; fewer if chains failed.

    On a GPU many chunks are drawn together, to fill it. With `folder` every finished chunk is kept there and not drawn
    again. `sampler` is one of `molkit.edm.samplers`, or its name; shared_path as in `sample`; `guidance` is the scale
    of `molkit.edm.guidance`, for conditions. Raises InvalidInput for count < 1 or an unknown sampler.
    """
    tasks = chunk_tasks(
        weights,
        count,
        seed=seed,
        num_calls=num_calls,
        num_atoms=num_atoms,
        folder=folder,
        device=device,
        sampler=sampler,
        shared_path=shared_path,
        conditions=conditions,
        guidance=guidance,
    )
    parts: dict[int, PackedMolecules] = {}
    with tqdm(total=count, disable=not progress, unit="molecule") as bar:
        for chunk, molecules in _finished(tasks, executor, together=1 if device == "cpu" else GPU_CHUNKS):
            parts[chunk] = molecules
            bar.update(tasks[chunk].count)
    return join(parts[k] for k in range(len(tasks)))


def _finished(
    tasks: list[SampleTask], executor: Executor | None, *, together: int
) -> Iterator[tuple[int, PackedMolecules]]:
    groups = [tasks[first : first + together] for first in range(0, len(tasks), together)]
    if executor is None:
        for group in groups:
            yield from run_tasks(group)
        return
    for future in as_completed([executor.submit(run_tasks, group) for group in groups]):
        yield from future.result()


def join(parts: Iterable[PackedMolecules]) -> PackedMolecules:
    """Packs one after the other, without names."""
    parts = list(parts)
    return PackedMolecules(
        np.concatenate([part.num_atoms for part in parts]),
        np.concatenate([part.atomic_numbers for part in parts]),
        np.concatenate([part.positions for part in parts]),
    )
