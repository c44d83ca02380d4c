"""Run chapters: from the cache where nothing changed, otherwise each in a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from molkit.book.cache import (
    RunRecord,
    code_hash,
    dependency_hashes,
    hash_paths,
    read_record,
    reasons_to_run,
    traced_paths,
    write_record,
)
from molkit.book.layout import Book
from molkit.book.notebooks import read_notebook
from molkit.book.parameters import Settings
from molkit.claims import provenance
from molkit.errors import RunError

KERNEL_FOLDER = Path(__file__).parent / "kernel"
LIMIT = 4.0  # a chapter is stopped at this many times its budget; a busy machine alone should not fail a book
GRACE_SECONDS = 60.0  # for the worker to stop its kernel and save
KEEPS_RESULTS = ("fast", "paper")


@dataclass(frozen=True)
class Outcome:
    """What became of one chapter: "cached", "run" or "failed", why it had to run, and its record."""

    chapter: str
    state: str
    reasons: tuple[str, ...]
    record: RunRecord


def run_chapters(
    book: Book,
    profile: str,
    settings: Mapping[str, Settings],
    *,
    jobs: int = 1,
    force: bool = False,
    report: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Bring every chapter in `settings` up to date, `jobs` at a time, and return the outcomes in the given order.

    A chapter that fails does not stop the others. `report` is called as each is finished. Raises RunError when the
    run folder cannot be written.
    """
    with _writable(book.run_folder(profile)), ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        waiting = {
            pool.submit(bring_up_to_date, book, chapter, profile, own, force=force): chapter
            for chapter, own in settings.items()
        }
        outcomes = {}
        try:
            for future in as_completed(waiting):
                outcome = future.result()
                outcomes[outcome.chapter] = outcome
                report(outcome)
        except BaseException:  # an interruption, above all: the pool would wait for chapters that run for minutes
            pool.shutdown(wait=False, cancel_futures=True)
            stop_workers()
            raise
    return [outcomes[chapter] for chapter in settings]


def bring_up_to_date(book: Book, chapter: str, profile: str, settings: Settings, *, force: bool = False) -> Outcome:
    """Reuse the last run of a chapter if nothing it depended on has changed; run it otherwise."""
    reasons = ["asked to"] if force else reasons_to_run(book, chapter, profile, settings.parameters)
    if not reasons:
        return Outcome(chapter, "cached", (), read_record(book, chapter, profile))
    record = run_chapter(book, chapter, profile, settings)
    return Outcome(chapter, "run" if record.status == "ok" else "failed", tuple(reasons), record)


def run_chapter(book: Book, chapter: str, profile: str, settings: Settings) -> RunRecord:
    """Execute one chapter, put notebook and results in their places, and store the record.

    The dependencies are hashed before the run: a file edited while it runs makes the next one run again. A failed run
    keeps its partial notebook, and the results of the last good run.
    """
    head, dirty = provenance.commit()
    known = {"code": code_hash(book, chapter), "files": dependency_hashes(book, chapter)}
    target = book.executed(chapter, profile)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.stem}.") as name:
        scratch = Path(name)
        copies = give_published_results(book, scratch / "results") if profile in KEEPS_RESULTS else {}
        before = {copy: copy.read_bytes() for copy in copies}
        outcome = run_worker(book, chapter, profile, settings, scratch)
        unchanged = {copy: original for copy, original in copies.items() if _same(copy, before[copy])}
        stand_ins = {**unchanged, (scratch / "results").resolve(): book.data_folder / "results"}
        inputs = hash_paths(book, traced_paths(book, scratch / "trace", stand_ins))
        output = scratch / "notebook.ipynb"
        if not output.is_file():
            shutil.copyfile(book.source(chapter), output)
        os.replace(output, target)
        if not outcome["error"]:
            for copy in unchanged:
                copy.unlink()
            _replace_folder(scratch / "results", book.results(chapter, profile))
    record = RunRecord(
        chapter=chapter,
        profile=profile,
        status="failed" if outcome["error"] else "ok",
        error=outcome["error"],
        parameters=dict(settings.parameters),
        inputs={path: checksum for path, checksum in inputs.items() if path not in known["files"]},
        output=next(iter(hash_paths(book, [target]).values())),
        seconds=outcome["seconds"],
        budget_seconds=settings.budget_seconds,
        peak_memory_mib=outcome["peak_memory_mib"],
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=head,
        dirty=dirty,
        versions=provenance.versions(),
        machine=provenance.machine(),
        **known,
    )
    write_record(book, record)
    return record


def kernel_environment(book: Book, chapter: str, profile: str, scratch: Path) -> dict[str, str]:
    """Variables a chapter's kernel gets: one thread, its profile, where results go, what is watched."""
    watched = [book.data_folder, scratch / "results", *map(Path, filter(None, [os.environ.get("MOLKIT_DATA")]))]
    python_path = [str(KERNEL_FOLDER), str(book.root), os.environ.get("PYTHONPATH", "")]
    environment = {
        "MOLKIT_PROFILE": profile,
        "MOLKIT_3DMOL_JS": f"{'../' * len(Path('chapters', chapter).parent.parts)}vendor/3Dmol-min.js",
        "MOLKIT_TRACE": str(scratch / "trace"),
        "MOLKIT_TRACE_DATA": os.pathsep.join(str(path.absolute()) for path in watched),
        "MOLKIT_TRACE_PACKAGES": os.pathsep.join(str(book.root / name) for name in book.packages),
        "PYTHONPYCACHEPREFIX": "",  # compiled files lie beside their sources, so the trace can tell which is which
        "PYTHONPATH": os.pathsep.join(filter(None, python_path)),
        "PYTHONHASHSEED": "0",
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    }
    return environment | ({"MOLKIT_RESULTS_DIR": str(scratch / "results")} if profile in KEEPS_RESULTS else {})


running: set[subprocess.Popen] = set()  # workers of this process


def stop_workers() -> None:
    """End the workers that run now, with their kernels; their chapters are neither done nor failed."""
    while running:
        process = running.pop()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def run_worker(book: Book, chapter: str, profile: str, settings: Settings, scratch: Path) -> dict[str, Any]:
    """Execute in a process of its own; the outcome it wrote, or one that says how it ended."""
    limit = LIMIT * settings.budget_seconds
    job = {
        "source": str(book.source(chapter)),
        "output": str(scratch / "notebook.ipynb"),
        "folder": str(book.source(chapter).parent),
        "parameters": dict(settings.parameters),
        "limit_seconds": limit,
        "parent": os.getpid(),  # named here: one that is gone before the worker looks would not be missed
        "budget_seconds": settings.budget_seconds,
        "environment": kernel_environment(book, chapter, profile, scratch),
    }
    (scratch / "job.json").write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-m", "molkit.book.worker", str(scratch / "job.json"), str(scratch / "outcome.json")]
    with (scratch / "log").open("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=book.root
        )
        running.add(process)
        try:
            code = process.wait(limit + GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process not in running:
            raise RunError(f"{chapter}: interrupted")
        running.discard(process)
        log.seek(0)
        said = (log.read().strip().splitlines() or [""])[-1]
    if (scratch / "outcome.json").is_file():
        return json.loads((scratch / "outcome.json").read_text(encoding="utf-8"))
    why = f"did not stop after {limit:.0f} s" if code is None else f"its process ended with code {code}: {said}"
    return {"error": why, "seconds": 0.0, "peak_memory_mib": 0.0}


def give_published_results(book: Book, folder: Path) -> dict[Path, Path]:
    """Copies of data/results for a chapter to read and add to; copy -> original."""
    folder.mkdir()
    published = sorted((book.data_folder / "results").glob("*.json"))
    return {Path(shutil.copy2(path, folder)).resolve(): path for path in published}


def _same(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _replace_folder(new: Path, old: Path) -> None:
    """Put a folder in the place of another; nothing is left in its place when the new one is absent or empty."""
    shutil.rmtree(old, ignore_errors=True)
    if new.is_dir() and any(new.iterdir()):
        old.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(new, old)


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise RunError(
            f"cannot write to {error.filename or folder}: {error.strerror}; choose a folder of yours"
        ) from None
    except OSError as error:
        if error.errno is None:
            raise
        raise RunError(f"cannot write to {folder}: {error.strerror}") from None


def failed_cell(notebook: Path) -> int | None:
    """Number (from 1, among code cells) of the cell of an executed notebook that ended in an error."""
    code = [cell for cell in read_notebook(notebook)["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(code, start=1):
        if any(output["output_type"] == "error" for output in cell["outputs"]):
            return number
    return None
