"""Many samples in chunks that follow from the seed: interrupted, resumed or spread over processes, always the same."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from molkit.data.packed import read_packed, write_packed
from molkit.edm.model import Edm, load
from molkit.edm.sampling import sample
from molkit.errors import InvalidInput
from molkit.molecule import PackedMolecules
from molkit.rng import generator_from

CHUNK = 250  # molecules per task; part of the definition of a seed


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

    @property
    def path(self) -> Path | None:
        """The chunk's own file, if chunks are kept."""
        calls = "all" if self.num_calls is None else self.num_calls
        size = "any" if self.num_atoms is None else self.num_atoms
        name = f"seed{self.seed}_calls{calls}_size{size}_{self.chunk:05d}_{self.count}.npz"
        return None if self.folder is None else Path(self.folder) / name


def draw_chunk(edm: Edm, task: SampleTask) -> PackedMolecules:
    """The molecules of one chunk; sizes and noise follow from (seed, chunk). Failed chains are left out."""
    generator = generator_from("sample", task.seed, task.chunk)
    sizes = edm.draw_sizes(task.count, generator=generator)
    if task.num_atoms is not None:
        sizes = torch.full_like(sizes, task.num_atoms)
    return sample(edm, sizes, generator=generator, num_calls=task.num_calls).molecules


def run_task(task: SampleTask) -> tuple[int, PackedMolecules]:
    """One chunk in a process of its own: read it if it is there, else draw it and write its file."""
    path = task.path
    if path is not None and path.is_file():
        return task.chunk, read_packed(path)
    torch.set_num_threads(1)
    molecules = draw_chunk(load(task.weights), task)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_packed(path, molecules)
    return task.chunk, molecules


def sample_many(
    weights: str | Path,
    count: int,
    *,
    seed: int,
    num_calls: int | None = None,
    num_atoms: int | None = None,
    folder: Path | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> PackedMolecules:
    """`count` molecules of published weights or a run folder, the same for any executor; fewer if chains failed.

    With `folder` every finished chunk is kept there and not drawn again. Raises InvalidInput for count < 1.
    """
    if count < 1:
        raise InvalidInput(f"count must be at least 1, got {count}")
    place = None if folder is None else str(folder)
    starts = range(0, count, CHUNK)
    tasks = [
        SampleTask(str(weights), k, min(CHUNK, count - start), seed, num_calls, num_atoms, place)
        for k, start in enumerate(starts)
    ]
    parts: dict[int, PackedMolecules] = {}
    with tqdm(total=count, disable=not progress, unit="molecule") as bar:
        for chunk, molecules in _finished(tasks, executor):
            parts[chunk] = molecules
            bar.update(tasks[chunk].count)
    return join(parts[k] for k in range(len(tasks)))


def _finished(tasks: list[SampleTask], executor: Executor | None) -> Iterator[tuple[int, PackedMolecules]]:
    if executor is None:
        yield from map(run_task, tasks)
        return
    for future in as_completed([executor.submit(run_task, task) for task in tasks]):
        yield future.result()


def join(parts: Iterable[PackedMolecules]) -> PackedMolecules:
    """Packs one after the other, without names."""
    parts = list(parts)
    return PackedMolecules(
        np.concatenate([part.num_atoms for part in parts]),
        np.concatenate([part.atomic_numbers for part in parts]),
        np.concatenate([part.positions for part in parts]),
    )
