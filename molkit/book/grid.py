"""Chapters x seeds as a farm: the same chapter many times, on as many machines as there are."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from molkit.book.execute import KEEPS_RESULTS, give_published_results, run_worker
from molkit.book.layout import Book
from molkit.book.parameters import Settings, with_overrides
from molkit.errors import CalculationFailed, InvalidInput
from molkit.farm.run import FarmReport, run_farm


@dataclass(frozen=True)
class Cell:
    """One chapter with one seed: all that a worker needs."""

    root: str
    packages: tuple[str, ...]
    chapter: str
    profile: str
    parameters: dict[str, Any]
    budget_seconds: float
    notebook: str  # where the executed notebook goes


@dataclass(frozen=True)
class Spread:
    """A claim over the seeds of a grid."""

    claim_id: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float | None:
        """Standard deviation between seeds; None for one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None


def cells(
    book: Book, profile: str, settings: Mapping[str, Settings], seeds: Sequence[int], folder: Path
) -> dict[str, Cell]:
    """Key -> cell, all chapters of one seed before the next seed. Raises InvalidInput where no chapter has a seed."""
    found = {}
    for seed in seeds:
        for chapter, own in with_overrides(book, settings, {"seed": seed}).items():
            if own.parameters.get("seed") != seed:
                raise InvalidInput(f"chapter {chapter} has no parameter 'seed'; leave it out with --chapters")
            key = f"{chapter.replace('/', '-')}_{profile}_seed{seed}"
            notebook = str(folder.resolve() / "notebooks" / f"{key}.ipynb")
            place = (str(book.root), tuple(book.packages), chapter, profile)
            found[key] = Cell(*place, dict(own.parameters), own.budget_seconds, notebook)
    return found


def run_cell(cell: Cell) -> dict[str, np.ndarray]:
    """Execute one cell of the grid and keep its notebook: claims and values it recorded, seconds, memory.

    Raises CalculationFailed with the chapter's error; the partial notebook is kept.
    """
    book = Book(Path(cell.root), cell.packages)
    target = Path(cell.notebook)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.stem}.") as name:
        scratch = Path(name)
        keeps = cell.profile in KEEPS_RESULTS
        before = (
            {copy: copy.read_bytes() for copy in give_published_results(book, scratch / "results")} if keeps else {}
        )
        settings = Settings(cell.parameters, cell.budget_seconds)
        outcome = run_worker(book, cell.chapter, cell.profile, settings, scratch)
        if (scratch / "notebook.ipynb").is_file():
            shutil.move(scratch / "notebook.ipynb", target)
        if outcome["error"]:
            raise CalculationFailed(" ".join(str(outcome["error"]).split())[:500])
        found = sorted((scratch / "results").glob("*.json"))
        recorded = [json.loads(path.read_text()) for path in found if before.get(path.resolve()) != path.read_bytes()]
    return {
        "claims": np.array([entry["claim_id"] for entry in recorded], dtype=str),
        "values": np.array([entry["value"] for entry in recorded], dtype=float),
        "seconds": np.array(outcome["seconds"]),
        "peak_memory_mib": np.array(outcome["peak_memory_mib"]),
    }


def run_grid(
    grid: Mapping[str, Cell], folder: Path, *, executor: Executor | None = None, progress: bool = False
) -> FarmReport:
    """Run the cells that have no result in the folder yet. Raises what `run_farm` raises."""
    return run_farm(run_cell, grid, folder, executor=executor, progress=progress, unit="chapter")


def spreads(report: FarmReport) -> list[Spread]:
    """Every claim that the grid recorded, with its values in the order of the cells."""
    values: dict[str, list[float]] = {}
    for result in report.results().values():
        for claim, value in zip(result["claims"].tolist(), result["values"].tolist(), strict=True):
            values.setdefault(claim, []).append(value)
    return [Spread(claim, tuple(found)) for claim, found in sorted(values.items())]
