"""Which verdicts of the ledger the runs of a profile would change, if their results were published."""

from collections.abc import Mapping

from molkit.book.layout import Book
from molkit.book.stage import results_in_view


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
