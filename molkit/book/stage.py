"""The folder that jupyter-book renders: sources, executed notebooks with their stamps, generated pages, verdicts."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from molkit.book.archive import add_button, repository_address
from molkit.book.cache import RunRecord, failure_notice, read_record, stamp, unexecuted_stamp
from molkit.book.execute import KEEPS_RESULTS, Outcome, failed_cell
from molkit.book.layout import CHAPTERS, Book
from molkit.book.notebooks import (
    INJECTED,
    PAPERMILL_TAGS,
    code_cells,
    parameters_cell,
    read_notebook,
    tags,
    write_notebook,
)
from molkit.book.reference import ROOMS, module_page
from molkit.book.status import status_markdown
from molkit.errors import InvalidInput

PACKAGE = Path(__file__).parents[1]
STUDIES = "studies"  # folder of the pages that open a study
COPIED = ("_config.yml", "_toc.yml", "references.bib", "assets", "_static", "README.md")


def stage(book: Book, profile: str, outcomes: Sequence[Outcome]) -> Path:
    """Fill `_build/src` afresh and return it."""
    folder = book.build_folder / "src"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in COPIED:
        _copy(book.root / name, folder / name)
    if address := repository_address():
        add_button(folder / "_config.yml", address)
    chapters = book.chapters()
    for page in book.pages():
        if not page.startswith(f"{CHAPTERS}/"):
            _copy_page(book, page, folder)
    for chapter in chapters:
        write_notebook(folder / CHAPTERS / f"{chapter}.ipynb", staged_notebook(book, chapter, profile))
    shown = [_shown(book, chapter, profile, outcomes) for chapter in chapters]
    known = [outcome for outcome in shown if outcome is not None]
    not_run = [chapter for chapter, outcome in zip(chapters, shown, strict=True) if outcome is None]
    (folder / "status.md").write_text(status_markdown(known, profile=profile, not_run=not_run), encoding="utf-8")
    for room in ROOMS:
        if f"api/{room}" in book.pages():
            (folder / "api" / f"{room}.md").write_text(module_page(room, PACKAGE), encoding="utf-8")
    if "ledger" in book.pages():
        _write_ledger(book, profile, folder, known)
    return folder


def staged_notebook(book: Book, chapter: str, profile: str) -> dict[str, Any]:
    """The executed notebook with its parameters folded away, a stamp at its end, and a notice if it failed."""
    import nbformat

    record = read_record(book, chapter, profile)
    executed = book.executed(chapter, profile)
    run = record is not None and executed.is_file()
    notebook = read_notebook(book.source(chapter))
    if run:
        notebook = with_words_of(notebook, read_notebook(executed))
    cells = [_folded(cell) for cell in notebook["cells"] if not set(PAPERMILL_TAGS) & set(tags(cell))]
    if run and record.status == "failed":
        notice = failure_notice(record, failed_cell(executed))
        cells.insert(1, nbformat.v4.new_markdown_cell(notice, id="molkit-failure"))
    cells.append(nbformat.v4.new_markdown_cell(_stamp(book, chapter, profile, record), id="molkit-stamp"))
    notebook["cells"] = cells
    notebook["metadata"].pop("papermill", None)
    return notebook


def with_words_of(source: dict[str, Any], executed: dict[str, Any]) -> dict[str, Any]:
    """The executed notebook with the text cells of its source: other words do not run a chapter again.

    An executed notebook of other code stays as it is.
    """
    if code_cells(source) != code_cells(executed):
        return executed
    ran: list[list[dict[str, Any]]] = []  # each code cell, with the parameters injected behind it
    for cell in executed["cells"]:
        if cell["cell_type"] == "code" and INJECTED in tags(cell) and ran:
            ran[-1].append(cell)
        elif cell["cell_type"] == "code":
            ran.append([cell])
    groups = iter(ran)
    cells = [one for cell in source["cells"] for one in (next(groups) if cell["cell_type"] == "code" else [cell])]
    return executed | {"cells": cells}


def _write_ledger(book: Book, profile: str, folder: Path, known: Sequence[Outcome]) -> None:
    """The generated ledger, its badge, its facts for the pages, and the pages with lines to fill.

    From published results and those of this profile's runs.
    """
    from molkit.book.links import FACTS
    from molkit.book.status import filled
    from molkit.claims.table import facts, ledger_markdown, ledger_rows, write_badge

    with results_in_view(book, profile):
        rows = ledger_rows()
        for page in [folder / "intro.md", *sorted((folder / STUDIES).glob("*.md"))]:
            page.write_text(filled(page.read_text(encoding="utf-8"), rows, known, folder), encoding="utf-8")
    (folder / "ledger.md").write_text(ledger_markdown(rows), encoding="utf-8")
    told = {row.claim.id: facts(row) for row in rows}
    (folder / FACTS).write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")
    write_badge(folder / "assets" / "badge.svg", rows)


def gathered_results(book: Book, profile: str, folder: Path) -> list[Path]:
    """Copy the results that the chapters' last good runs recorded into a folder; the copies."""
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted(path for chapter in book.chapters() for path in book.results(chapter, profile).glob("*.json"))
    return [Path(shutil.copy2(path, folder)) for path in found]


@contextmanager
def results_in_view(book: Book, profile: str | None) -> Iterator[None]:
    """MOLKIT_RESULTS_DIR names a folder with the published results and, over them, those of a profile."""
    folder = book.build_folder / "results"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in sorted((book.data_folder / "results").glob("*.json")):
        shutil.copy2(path, folder)
    if profile in KEEPS_RESULTS:
        gathered_results(book, profile, folder)
    before = os.environ.get("MOLKIT_RESULTS_DIR")
    os.environ["MOLKIT_RESULTS_DIR"] = str(folder)
    try:
        yield
    finally:
        del os.environ["MOLKIT_RESULTS_DIR"]
        if before is not None:
            os.environ["MOLKIT_RESULTS_DIR"] = before


def _stamp(book: Book, chapter: str, profile: str, record: RunRecord | None) -> str:
    if record is None:
        return unexecuted_stamp(profile)
    defaults = {name: default for name, (_, default) in parameters_cell(book.source(chapter)).items()}
    return stamp(record, defaults)


def _folded(cell: dict[str, Any]) -> dict[str, Any]:
    """Parameter cells are folded; papermill's time stamps go."""
    cell["metadata"] = {key: value for key, value in cell["metadata"].items() if key in ("tags", "mystnb")}
    own: Mapping[str, Any] = cell["metadata"]
    if {"parameters", INJECTED} & set(tags(cell)) and "hide-input" not in own["tags"]:
        cell["metadata"]["tags"] = [*own["tags"], "hide-input"]
        words = "Parameters that the profile changed" if INJECTED in own["tags"] else "Parameters and their defaults"
        cell["metadata"]["mystnb"] = {"code_prompt_show": words, "code_prompt_hide": words}
    return cell


def _shown(book: Book, chapter: str, profile: str, outcomes: Sequence[Outcome]) -> Outcome | None:
    """The outcome of this build, or the last run of a chapter that was left out of it."""
    for outcome in outcomes:
        if outcome.chapter == chapter:
            return outcome
    record = read_record(book, chapter, profile)
    if record is None:
        return None
    return Outcome(chapter, "cached" if record.status == "ok" else "failed", (), record)


def _copy_page(book: Book, page: str, folder: Path) -> None:
    for suffix in (".md", ".ipynb"):
        source = book.root / f"{page}{suffix}"
        if source.is_file():
            target = folder / f"{page}{suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
            return
    raise InvalidInput(f"_toc.yml names the page {page!r}, but {book.root / page}.md does not exist")


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.is_file():
        shutil.copy2(source, target)


def changed_verdicts(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """One line for each claim whose verdict is not the same in both."""
    return [
        f"{name}: {before.get(name, 'no verdict')} -> {after.get(name, 'no verdict')}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def verdicts(book: Book, profile: str | None = None) -> dict[str, str]:
    """Verdict by claim from the published results and, when a profile is named, those of its last good runs."""
    from molkit.claims.table import ledger_rows

    with results_in_view(book, profile):
        return {row.claim.id: row.verdict.word for row in ledger_rows()}
