"""Pages that open a study: prose by hand, and lines that a build replaces by what was measured.

A line `% verdicts: edm` becomes the counts of the study's verdicts, `% claims: ID ID ...` the rows of these claims, and
`% costs: edm` the time of the chapters in that folder. In a plain rendering these lines are comments.
"""

import re
from collections.abc import Callable, Sequence

from molkit.book.execute import Outcome
from molkit.book.provenance import duration, memory
from molkit.claims.table import LedgerTable, Row, count_verdicts, table
from molkit.claims.verdicts import VERDICTS
from molkit.errors import InvalidInput

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
