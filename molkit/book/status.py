"""The status page: what each chapter cost, and whether it ran."""

from collections import defaultdict
from collections.abc import Sequence

from molkit.book.execute import Outcome
from molkit.book.provenance import commit_in_words, duration, memory
from molkit.claims.provenance import current_code
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
