"""Pages that a build fills: the status of the chapters, and those that open a study.

In pages by hand a line `% verdicts: edm` becomes the counts of the study's verdicts, `% claims: ID ID ...` the rows of
these claims, and `% costs: edm` the time of the chapters in that folder. In a plain rendering these are comments.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence

from molkit.book.cache import commit_in_words, duration, memory
from molkit.book.execute import Outcome
from molkit.claims.provenance import current_code
from molkit.claims.table import LedgerTable, Row, count_verdicts, table
from molkit.claims.verdicts import VERDICTS
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


LINE = re.compile(r"^% (verdicts|claims|costs): *(.+)$", re.MULTILINE)


def filled(text: str, rows: Sequence[Row], outcomes: Sequence[Outcome]) -> str:
    """The page with its generated lines. Raises InvalidInput for a claim or a folder that does not exist."""
    parts: dict[str, Callable[[str], str]] = {
        "verdicts": lambda study: verdicts_sentence(study, rows),
        "claims": lambda names: claims_table(names.split()),
        "costs": lambda folder: costs_table(folder, outcomes),
    }
    return LINE.sub(lambda found: parts[found.group(1)](found.group(2).strip()), text)


def verdicts_sentence(study: str, rows: Sequence[Row]) -> str:
    """How many claims of a study have which verdict."""
    own = [row for row in rows if row.claim.id.split(".")[0] == study]
    if not own:
        raise InvalidInput(f"a summary asks for the verdicts of {study!r}, of which the ledger has no claim")
    counts = count_verdicts(own)
    listed = ", ".join(f"{counts[word]} {word}" for word in VERDICTS if counts[word])
    return f"Of {len(own)} claims about the paper in the [ledger](../ledger.md): {listed}."


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
