"""Pages that a build fills: the status of the chapters, and those that open a study.

In pages by hand a line `% summary: all` becomes what came out of all claims (or of those of the paper `edm`),
`% claims: ID ID ...` the rows of these claims, `% verdict: ID` its verdict, `% costs: edm` the time of the chapters in
that folder, and `% figure: edm/likelihood` the first figure of that chapter. In a plain rendering these are comments.
"""

import re
from base64 import b64decode
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from molkit.book.cache import commit_in_words, duration, memory
from molkit.book.execute import Outcome
from molkit.book.notebooks import read_notebook
from molkit.claims.provenance import current_code
from molkit.claims.table import LedgerTable, Row, badge_style, ledger_rows, listed, table
from molkit.errors import InvalidInput
from molkit.experiments.audit import read_audit
from molkit.experiments.experiment import rooms
from molkit.experiments.run import relevant, standing
from molkit.experiments.store import Store


def status_markdown(outcomes: Sequence[Outcome], *, profile: str, not_run: Sequence[str] = ()) -> str:
    """The page `status.md` of a build."""
    lines = [
        "# Status of the chapters",
        "",
        f"Built with the `{profile}` profile. A chapter runs again when a byte it depends on has changed since the run",
        "shown: its code, the package files its imports reach, its parameters, the data and weights it opened, and the",
        "pinned versions.",
        "",
        "| Chapter | State | Time | Budget | Peak memory | Last run (UTC) | Commit |",
        "|:--|:--|--:|--:|--:|:--|:--|",
        *(_row(outcome) for outcome in outcomes),
        *(f"| {_link(chapter)} | {_badge('not run')} | | | | | |" for chapter in not_run),
        "",
    ]
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if failed:
        lines += [":::{error}", *(f"- `{item.chapter}`: `{_plain(item.record.error)}`" for item in failed), ":::", ""]
    total = sum(outcome.record.seconds for outcome in outcomes)
    lines += [f"All chapters shown took {duration(total)} together, one thread each.", ""]
    return "\n".join([*lines, experiments_markdown(), *_machines(outcomes)]) + "\n"


def experiments_markdown() -> str:
    """Every stored experiment: its tasks by origin, when and by which commit they were computed, and their state."""
    lines = [
        "## Experiments",
        "",
        "Rows that pages take from the store. *Fresh*: the code, weights and data of today; *confirmed*: others, and",
        "tasks recomputed with today's code agree; *stale*: neither. `molkit study NAME` computes or audits them.",
        "",
        "| Experiment | Tasks | Rows | Computed | Commit | State |",
        "|:--|--:|--:|:--|:--|:--|",
    ]
    for name, (module, end) in rooms().items():
        lines += _lines_of(name, f"{module.replace('.', '/')}.py:measure{end}")
    return "\n".join([*lines, ""]) + "\n"


def _lines_of(name: str, function: str) -> list[str]:
    stored, code = Store(name).read(), current_code(function)
    audits = [read_audit(line) for line in stored.audits]
    lines, entries = [], defaultdict(list)
    for entry in stored.entries.values():
        entries[entry.batch].append(entry)
    for batch in stored.batches.values():
        own = entries[batch.id]
        speaking = relevant(audits, [batch], stored.entries, code)
        state, _ = standing([batch], speaking, code)
        told = "; ".join(f"{audit.date}: {audit}" for audit in speaking)
        commit = commit_in_words(batch.commit, batch.dirty) if batch.commit else "not known"
        cells = [name, f"{len(own):,}", f"{sum(len(one.rows) for one in own):,}", batch.date[:10], commit]
        lines.append(f"| {' | '.join([*cells, f'{_badge(state)} {_plain(told)}'])} |")
    return lines


def _row(outcome: Outcome) -> str:
    record = outcome.record
    over = " (over)" if record.seconds > record.budget_seconds else ""
    cells = [
        _link(outcome.chapter),
        _badge("failed" if outcome.state == "failed" else "run"),  # cached or not: the page stays the same
        duration(record.seconds),
        duration(record.budget_seconds) + over,
        memory(record.peak_memory_mib),
        record.finished.replace("T", " ").removesuffix("+00:00"),
        commit_in_words(record.commit, record.dirty),
    ]
    return f"| {' | '.join(cells)} |"


def _machines(outcomes: Sequence[Outcome]) -> list[str]:
    """Each machine and set of versions that the shown runs used, once."""
    lines = ["## Machines and versions", ""]
    seen = dict.fromkeys(
        (item.record.machine, ", ".join(f"{name} {version}" for name, version in item.record.versions.items()))
        for item in outcomes
    )
    return [*lines, *(f"- {machine}: {versions}" for machine, versions in seen)]


def _link(chapter: str) -> str:
    return f"[](chapters/{chapter}.ipynb)"


def _badge(word: str) -> str:
    return f'<span class="molkit-badge molkit-{word.replace(" ", "-")}">{word}</span>'


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("`", "'").replace("|", "/")[:300]


LINE = re.compile(r"^% (summary|claims|verdict|costs|figure): *(.+)$", re.MULTILINE)

LEDGER_MARKS = re.compile("(<!-- ledger -->).*?(<!-- end of ledger -->)", re.DOTALL)


def filled(text: str, rows: Sequence[Row], outcomes: Sequence[Outcome], folder: Path) -> str:
    """The page with its generated lines; figures are those of the staged chapters, written to the assets of `folder`.

    Raises InvalidInput for a claim or a chapter that does not exist.
    """
    parts: dict[str, Callable[[str], str]] = {
        "summary": lambda study: listed(_of(study, rows)),
        "verdict": lambda name: _verdict(name, rows),
        "claims": lambda names: claims_table(names.split()),
        "costs": lambda study: costs_table(study, outcomes),
        "figure": lambda chapter: first_figure(chapter, folder),
    }
    return LINE.sub(lambda found: parts[found.group(1)](found.group(2).strip()), text)


def _of(study: str, rows: Sequence[Row]) -> list[Row]:
    """The rows of a study, or all."""
    own = [row for row in rows if study in ("all", row.claim.id.split(".")[0])]
    if not own:
        raise InvalidInput(f"a page asks for the verdicts of {study!r}, of which the ledger has no claim")
    return own


def _verdict(name: str, rows: Sequence[Row]) -> str:
    """The verdict on a claim as a badge, and the claim."""
    found = [row for row in rows if row.claim.id == name]
    if not found:
        raise InvalidInput(f"a page asks for the claim {name!r}, which the ledger does not have")
    words = found[0].verdict.word
    return f'<span class="molkit-badge" style="{badge_style(words)}">{words}</span> {{claim}}`{name} label`'


def claims_table(names: Sequence[str]) -> str:
    """The rows of the given claims."""
    found: LedgerTable = table(names)
    missing = sorted(set(names) - {row.claim.id for row in found.rows})
    if missing:
        raise InvalidInput(f"a summary asks for the claim {missing[0]!r}, which the ledger does not have")
    return found._repr_html_()


def costs_table(folder: str, outcomes: Sequence[Outcome]) -> str:
    """Time and memory of the chapters of a folder as they last ran."""
    own = [outcome for outcome in outcomes if outcome.chapter.startswith(f"{folder}/")]
    lines = ["| Chapter | Time | Peak memory |", "|:--|--:|--:|"]
    for outcome in own:
        record = outcome.record
        link = f"[](../chapters/{outcome.chapter}.ipynb)"
        lines.append(f"| {link} | {duration(record.seconds)} | {memory(record.peak_memory_mib)} |")
    return "\n".join(lines) if own else "No chapter of this study has been run with this profile."


def fill_readme(path: Path) -> None:
    """Write what came out between the marks of a README that has them; nothing where it already says so."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not LEDGER_MARKS.search(text):
        return
    told = listed(ledger_rows())
    new = LEDGER_MARKS.sub(lambda found: f"{found[1]}\n{told}\n{found[2]}", text)
    if new != text:
        path.write_text(new, encoding="utf-8")


def first_figure(chapter: str, folder: Path) -> str:
    """The first picture among the outputs of a staged chapter, linked to it; a sentence where there is none."""
    path = folder / "chapters" / f"{chapter}.ipynb"
    if not path.is_file():
        raise InvalidInput(f"a page asks for the figure of {chapter!r}, which is no chapter of the book")
    cells = read_notebook(path)["cells"]
    found = (output.get("data", {}).get("image/png") for cell in cells for output in cell.get("outputs", []))
    picture = next(filter(None, found), None)
    title = next(cell["source"] for cell in cells if cell["cell_type"] == "markdown").splitlines()[0].lstrip("# ")
    if picture is None:
        return f"The chapter [{title}](../chapters/{chapter}.ipynb) has no figure."
    name = f"assets/{chapter.replace('/', '_')}.png"
    (folder / name).write_bytes(b64decode(picture))
    alt = f"The first figure of the chapter {title}"
    link = f"Figure of the chapter [{title}](../chapters/{chapter}.ipynb)."
    return f"```{{figure}} ../{name}\n:alt: {alt}\n:width: 560px\n{link}\n```"
