"""The status page: what each chapter cost, and whether it ran."""

from collections.abc import Sequence

from molkit.book.execute import Outcome
from molkit.book.provenance import commit_in_words, duration, memory


def status_markdown(outcomes: Sequence[Outcome], *, profile: str, not_run: Sequence[str] = ()) -> str:
    """The page `status.md` of a build."""
    lines = [
        "# Status of the chapters",
        "",
        f"Built with the `{profile}` profile. *Cached* means that no byte the chapter depends on has changed since",
        "the run shown: its code, the package files its imports reach, its parameters, the data and weights it",
        "opened, and the pinned versions.",
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
    return "\n".join([*lines, *_machines(outcomes)]) + "\n"


def _row(outcome: Outcome) -> str:
    record = outcome.record
    over = " (over)" if record.seconds > record.budget_seconds else ""
    cells = [
        _link(outcome.chapter),
        _badge(outcome.state),
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
