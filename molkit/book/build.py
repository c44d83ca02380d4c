"""From chapters to pages: run, stage, render."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from molkit.book.execute import KEEPS_RESULTS, Outcome, run_chapters
from molkit.book.layout import REPOSITORY, Book
from molkit.book.notebooks import MAX_OUTPUT_BYTES, canonical, read_notebook, with_small_pictures, write_notebook
from molkit.book.parameters import Settings, load_profile
from molkit.book.stage import PACKAGE, gathered_results, stage
from molkit.book.status import fill_readme
from molkit.claims.provenance import combined_hash, hash_files
from molkit.errors import InvalidInput, RunError

REQUIREMENTS = REPOSITORY / "requirements.txt"
COLOUR_CODE = re.compile(r"\x1b\[[0-9;]*m")


class PagesFailed(RunError):
    """The staged book could not be rendered without a warning."""

    exit_code = 1


@dataclass(frozen=True)
class BuiltBook:
    """The first page, and what became of each chapter that was asked for."""

    index: Path
    outcomes: Sequence[Outcome]

    @property
    def failed(self) -> list[str]:
        """Chapters whose run failed; their pages say so."""
        return [outcome.chapter for outcome in self.outcomes if outcome.state == "failed"]


def build_book(
    book: Book,
    profile: str,
    settings: Mapping[str, Settings],
    *,
    jobs: int = 1,
    force: bool = False,
    report: Callable[[Outcome], None] = lambda outcome: None,
) -> BuiltBook:
    """Run the chapters in `settings` and render the whole book to `_build/html`.

    The README's lines on the ledger are filled from published results. A chapter that failed is rendered as far as it
    came. Raises PagesFailed when the pages cannot be rendered without a
    warning; the pages of the last good build then stay where they are.
    """
    outcomes = run_chapters(book, profile, settings, jobs=jobs, force=force, report=report)
    fill_readme(book.root / "README.md")
    return BuiltBook(render(book, stage(book, profile, outcomes), force=force), outcomes)


def render(book: Book, source: Path, *, force: bool = False) -> Path:
    """Render a staged folder, every warning an error; the index page. Raises PagesFailed with the first complaint.

    Where neither a staged file, nor the package that the pages document, nor a pin, nor a page has changed since the
    last time, the pages stand; unless forced.
    """
    target, kept = book.build_folder / "html", book.build_folder / "html.sha256"
    made_of = _content([*_files(source), *PACKAGE.rglob("*.py"), REQUIREMENTS], book.root)
    if not force and target.is_dir() and kept.is_file() and kept.read_text() == f"{made_of} {_names(target)}":
        return target / "index.html"
    shutil.move(_rendered(book, source, target), target)
    shutil.rmtree(book.build_folder / "next", ignore_errors=True)
    kept.write_text(f"{made_of} {_names(target)}")
    return target / "index.html"


def _rendered(book: Book, source: Path, old: Path) -> Path:
    """The folder of fresh pages; the old ones are gone only when they have been made."""
    scratch, log = book.build_folder / "next", book.build_folder / "jupyter-book.log"
    shutil.rmtree(scratch, ignore_errors=True)
    start = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", start, "build", str(source), "--path-output", str(scratch)]
    done = subprocess.run(
        [*command, "-W", "-n", "--keep-going"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    output = COLOUR_CODE.sub("", done.stdout)
    log.write_text(output, encoding="utf-8")
    html = scratch / "_build" / "html"
    if done.returncode != 0 or not (html / "index.html").is_file():
        raise PagesFailed(f"the pages could not be rendered: {first_complaint(output)} (all of it is in {log})")
    shutil.rmtree(old, ignore_errors=True)
    return html


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _content(paths: Iterable[Path], root: Path) -> str:
    return combined_hash(hash_files((path for path in paths if path.is_file()), root=root))


def _names(folder: Path) -> str:
    """A hash of the names and sizes of the files of a folder."""
    return combined_hash({str(path.relative_to(folder)): f"{path.stat().st_size}" for path in _files(folder)})


def first_complaint(output: str) -> str:
    """The first warning or error that Sphinx or jupyter-book printed, in one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for word in ("WARNING:", "ERROR:", "Error"):
        for line in lines:
            if word in line:
                return line[:300]
    return (lines or ["no output"])[-1][:300]


def publish_results(book: Book, profile: str) -> list[Path]:
    """Copy the results recorded by the last good runs of this profile to data/results; the files written."""
    if profile not in KEEPS_RESULTS:
        raise InvalidInput(
            f"results of the {profile} profile are not kept; publish those of {' or '.join(KEEPS_RESULTS)}"
        )
    written = gathered_results(book, profile, book.data_folder / "results")
    fill_readme(book.root / "README.md")
    return written


def refresh(
    book: Book, chapters: Sequence[str], *, jobs: int = 1, report: Callable[[Outcome], None] = lambda outcome: None
) -> list[Path]:
    """Run chapters with the smoke profile and write their outputs, in canonical form, into the committed notebooks.

    Raises RunError, and leaves the notebook as it was, when a chapter fails or an output is too large to commit.
    """
    profile = load_profile(book, "smoke")
    outcomes = run_chapters(
        book, "smoke", {chapter: profile[chapter] for chapter in chapters}, jobs=jobs, report=report
    )
    written = []
    for outcome in outcomes:
        if outcome.state == "failed":
            raise RunError(f"{outcome.chapter} failed ({outcome.record.error}); its notebook is left as it was")
        notebook = with_small_pictures(canonical(read_notebook(book.executed(outcome.chapter, "smoke"))))
        _check_sizes(outcome.chapter, notebook)
        write_notebook(book.source(outcome.chapter), _with_source_prose(book, outcome.chapter, notebook))
        written.append(book.source(outcome.chapter))
    return written


def _with_source_prose(book: Book, chapter: str, executed: dict) -> dict:
    """The committed cells with the outputs of the executed ones: a cached run may be older than the prose."""
    source = canonical(read_notebook(book.source(chapter)))
    code = [cell for cell in executed["cells"] if cell["cell_type"] == "code"]
    own = [cell for cell in source["cells"] if cell["cell_type"] == "code"]
    for cell, ran in zip(own, code, strict=True):
        cell["outputs"], cell["execution_count"] = ran["outputs"], ran["execution_count"]
    return source


def _check_sizes(chapter: str, notebook: dict) -> None:
    for number, cell in enumerate(notebook["cells"]):
        for output in cell.get("outputs", []):
            size = len(json.dumps(output))
            if size > MAX_OUTPUT_BYTES:
                raise RunError(f"{chapter}: an output of cell {number} has {size} bytes, more than {MAX_OUTPUT_BYTES}")
