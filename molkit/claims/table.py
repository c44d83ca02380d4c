"""The ledger as people see it: rows for a chapter, the whole page, and the badge of the front page."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import zip_longest
from pathlib import Path

from molkit.claims.ledger import STORED_PROFILES, Claim, Measurement, load_claims, named_in_rules, select, study_of
from molkit.claims.store import best, load_results, what_changed
from molkit.claims.verdicts import (
    CONSISTENT,
    DIFFERS,
    DIRECTION,
    NOT_ATTEMPTED,
    NOT_COMPARABLE,
    REPRODUCED,
    UNDECIDED,
    VERDICTS,
    Verdict,
    cost_text,
    count_text,
    differences,
    judge,
    order_text,
    ours_text,
    published_text,
    rule_text,
    run_text,
)

COLUMNS = ("Claim", "Published", "Ours", "n", "Profile", "Verdict", "Cost")
THIS_RUN = "This run (no verdict)"
COLOURS = {  # Okabe and Ito
    REPRODUCED: "#009E73",
    CONSISTENT: "#56B4E9",
    DIRECTION: "#E69F00",
    UNDECIDED: "#F0E442",
    NOT_COMPARABLE: "#CC79A7",
    DIFFERS: "#D55E00",
    NOT_ATTEMPTED: "#767676",
}
DARK_INK = (CONSISTENT, DIRECTION, UNDECIDED, NOT_COMPARABLE)  # on these colours black is read more easily than white
BADGE_WORDS = {word: word for word in VERDICTS} | {CONSISTENT: "at reduced scale", DIRECTION: "direction"}
BADGE_WORDS |= {NOT_COMPARABLE: "not comparable", DIFFERS: "differ"}
MEANINGS = {
    REPRODUCED: "the acceptance rule is met with at least the paper's n, on its kind of data and weights, or by an "
    "exact count",
    CONSISTENT: "the rule is met and the interval reaches the published value (of an order: the intervals are apart), "
    "with fewer samples, other data, or a smaller or shorter-trained model",
    DIRECTION: "the rule is not met, but the whole interval lies on the paper's side of the baseline named in the rule",
    UNDECIDED: "the interval is too wide to tell, the intervals of an order overlap, or fewer than eight items stand "
    "behind it",
    NOT_COMPARABLE: "the rule is not met and something was smaller than the paper's (what, is said beside it), or the "
    "energy leans on other people's published ones",
    DIFFERS: "the rule is not met at the paper's scale",
    NOT_ATTEMPTED: "no result that could be judged; the reason is given",
}

HOW_JUDGED = (
    "Each claim has an acceptance rule (`data/claims/*.yaml`; the head of a file names the rules that were written "
    "with the result in sight); the verdict is computed from the rule and the recorded result (`data/results/*.json`), "
    "whatever profile this page was built with. A result is *stale* when the code, the data, the weights or the rule "
    "it was recorded with has changed since. Published numbers that could not be confirmed are called *unverified* and "
    "not shown."
)
FILL = "; to fill this group:"
PAGE_ORDER = (REPRODUCED, CONSISTENT, DIFFERS, DIRECTION, UNDECIDED, NOT_COMPARABLE, NOT_ATTEMPTED)
STUDIES = {  # short names by the first word of an id, in the order of the book
    "edm": "EDM",
    "cgcf": "CGCF and ETM",
    "mofdft": "M-OFDFT",
    "structures25": "M-OFDFT",
    "relaxation": "Diffusion against DFT",
}
TEXT_WIDTHS = (46, 15, 33)  # claim, published, ours: a terminal of 100 columns


@dataclass(frozen=True)
class Row:
    """One claim with the result that stands for it, that result in words, and the verdict on it."""

    claim: Claim
    measurement: Measurement | None
    verdict: Verdict
    than: tuple[Claim, ...] = ()  # those that an order compares with
    ours: str = "–"


@dataclass(frozen=True)
class LedgerTable:
    """Rows that a notebook shows as an HTML table and a terminal as text.

    this_run holds results of the present run that are not kept (smoke, or by hand): shown in a column of their own.
    """

    rows: tuple[Row, ...]
    this_run: Mapping[str, Measurement]

    def cells(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Column names, and the plain text of every row."""
        if not self.this_run:
            return COLUMNS, [_cells(row) for row in self.rows]
        columns = (*COLUMNS[:2], THIS_RUN, "Recorded", *COLUMNS[3:])
        lines = []
        for row in self.rows:
            cells = _cells(row)
            now = self.this_run.get(row.claim.measured_as or row.claim.id)
            text = _ours(row.claim, now, row.than, self.this_run)
            lines.append((*cells[:2], f"{text} ({count_text(now)})" if now else text, *cells[2:]))
        return columns, lines

    def _repr_html_(self) -> str:
        return _html_table(self.rows, self.this_run)

    def __repr__(self) -> str:
        columns, lines = self.cells()
        widths = [max(len(line[k]) for line in [columns, *lines]) for k in range(len(columns))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in [columns, *lines])


def ledger_rows(
    selection: str | Sequence[str] = "",
    *,
    claims: Mapping[str, Claim] | None = None,
    results: Mapping[str, Sequence[Measurement]] | None = None,
) -> list[Row]:
    """Every selected claim (a dotted prefix, or ids) with its result and verdict; claims nobody tried included."""
    claims = load_claims(study=study_of(selection)) if claims is None else claims
    asked = select(claims, selection)
    if results is None:
        results = load_results() if selection == "" else load_results(names=named_in_rules(claims, asked))
    chosen = {name: best(found, claims[name]) for name, found in results.items() if name in claims}
    standing = {name: measurement for name, measurement in chosen.items() if measurement is not None}
    rows = []
    for claim in asked:
        measured = claim.measured_as or claim.id
        measurement = standing.get(measured)
        stale = what_changed(measurement, claims[measured]) if measurement else ()
        verdict = judge(claim, measurement, claims=claims, measurements=standing, stale=stale)
        than = tuple(claims[name] for name in claim.accept.than)
        rows.append(Row(claim, measurement, verdict, than, _ours(claim, measurement, than, standing)))
    return rows


def table(selection: str | Sequence[str], measurements: Sequence[Measurement] = ()) -> LedgerTable:
    """The rows a chapter opens or closes with: published, ours with its interval, n, profile, verdict, cost.

    The verdict is that of the recorded result. `measurements` of the present run that are not kept stand in a column of
    their own, without a verdict.
    """
    unsaved = {m.claim_id: m for m in measurements if m.profile not in STORED_PROFILES}
    return LedgerTable(tuple(ledger_rows(selection)), unsaved)


def table_of(measurements: Sequence[Measurement]) -> LedgerTable:
    """The rows of the claims that were measured just now, in that order."""
    return table([measurement.claim_id for measurement in measurements], measurements)


def count_verdicts(rows: Sequence[Row]) -> dict[str, int]:
    """How many rows have each of the seven verdicts, and `stale`: those of them whose result is stale."""
    counts = {word: sum(row.verdict.word == word for row in rows) for word in VERDICTS}
    return counts | {"stale": sum(bool(row.verdict.stale) for row in rows)}


def ledger_markdown(rows: Sequence[Row] | None = None) -> str:
    """The page `ledger.md`: the counts, then every claim by verdict and study; what nobody tried is folded by reason.

    A claim's row carries its id as an anchor, and its study and verdict for the filter of the page.
    """
    rows = ledger_rows() if rows is None else list(rows)
    counts = count_verdicts(rows)
    meanings = "\n".join(f"- {_dot(word)} **{word}** ({counts[word]}): {MEANINGS[word]}." for word in VERDICTS)
    parts = [
        "# Ledger of claims",
        listed(rows),
        '<div class="molkit-filter"></div>',
        f":::{{dropdown}} What the words mean\n{meanings}\n\n{HOW_JUDGED} {counts['stale']} are stale now.\n:::",
    ]
    for word in PAGE_ORDER:
        parts.append(f"## {word[0].upper()}{word[1:]}")
        found = by_study([row for row in rows if row.verdict.word == word])
        parts += [_of_study(word, study, own) for study, own in found.items()] or ["None."]
    return "\n\n".join(parts) + "\n"


def _of_study(word: str, study: str, rows: Sequence[Row]) -> str:
    """The rows of a verdict and a study; of what nobody tried, a folded line for each reason."""
    if word != NOT_ATTEMPTED:
        return f"### {study}\n\n{_html_table(rows, whole=True)}"
    folds = [
        f'<details class="molkit-fold"><summary>{escape(line)} {f"<code>{escape(fill)}</code>" if fill else ""}'
        f"</summary>\n{_html_table(own, whole=True)}\n</details>"
        for line, fill, own in reasons(rows)
    ]
    return "\n\n".join([f"### {study}, not attempted", *folds])


def facts(row: Row) -> dict[str, str]:
    """What a page may quote of a claim, in words."""
    alone = replace(row.measurement, interval=None) if row.measurement else None
    return {
        "label": row.claim.label,
        "published": published_text(row.claim),
        "ours": row.ours,
        "value": re.sub(r" \[.*?\]", "", row.ours) if row.claim.accept.kind == "order" else ours_text(row.claim, alone),
        "n": count_text(row.measurement).removeprefix("n = "),
        "verdict": row.verdict.word,
    }


def by_study(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by the short name of their study, in the order of the book."""
    found: dict[str, list[Row]] = {name: [] for name in STUDIES.values()}
    for row in rows:
        found.setdefault(study_name(row.claim), []).append(row)
    return {name: own for name, own in found.items() if own}


def study_name(claim: Claim) -> str:
    """The short name of the study that a claim belongs to."""
    word = study_of(claim.id)
    return STUDIES.get(word, word)


def reasons(rows: Sequence[Row]) -> list[tuple[str, str, list[Row]]]:
    """Claims without a verdict by their reason, most first: a line that counts them, what would fill them, the rows."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.verdict.reason, row.claim.fill), []).append(row)
    found = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [(f"{_claims(len(own))}: {reason}{FILL if fill else '.'}", fill, own) for (reason, fill), own in found]


def summary(rows: Sequence[Row]) -> list[str]:
    """What came out, in Markdown: a line on all claims, and one for each study."""
    studies = by_study(rows)
    alone = [] if len(studies) == 1 else [_counted("All", rows)]
    return alone + [_counted(study, own) for study, own in studies.items()]


def listed(rows: Sequence[Row]) -> str:
    """The summary as a list of a page."""
    return "\n".join(f"- {line}" for line in summary(rows))


def _counted(name: str, rows: Sequence[Row]) -> str:
    n = count_verdicts(rows)
    return (
        f"**{name}**, {_claims(len(rows))}: {n[REPRODUCED]} reproduced and {n[CONSISTENT]} consistent at reduced "
        f"scale; {n[DIFFERS]} differ, {n[DIRECTION]} in direction only, {n[UNDECIDED]} undecided; "
        f"{n[NOT_COMPARABLE]} not comparable yet, {n[NOT_ATTEMPTED]} not attempted."
    )


def _claims(count: int) -> str:
    return "1 claim" if count == 1 else f"{count} claims"


def ledger_text(rows: Sequence[Row], *, every: bool = False) -> str:
    """The groups of the page for a terminal of 100 columns; `every`: also each claim that nobody tried."""
    lines = []
    for word in PAGE_ORDER:
        own = [row for row in rows if row.verdict.word == word]
        lines += [f"\n{word.upper()} ({len(own)})"] if own else []
        for study, found in by_study(own).items():
            lines.append(f" {study}")
            if word == NOT_ATTEMPTED and not every:
                for line, fill, _ in reasons(found):
                    lines += textwrap.wrap(f"{line} {fill}", 98, initial_indent="  ", subsequent_indent="    ")
            else:
                lines += [line for row in found for line in _text_lines(row)]
    said = [line.replace("**", "") for line in summary(rows)]
    told = [part for line in said for part in textwrap.wrap(line, 98, subsequent_indent="  ")]
    return "\n".join([*lines, "", *told]).lstrip("\n")


def _text_lines(row: Row) -> list[str]:
    """Claim, published and ours side by side, each wrapped to its column."""
    stale = " (stale)" if row.verdict.stale else ""
    cells = (row.claim.label, published_text(row.claim), row.ours + stale)
    wrapped = [textwrap.wrap(cell, width) for cell, width in zip(cells, TEXT_WIDTHS, strict=True)]
    lines = zip_longest(*wrapped, fillvalue="")
    return ["  " + "  ".join(f"{c:{w}}" for c, w in zip(line, TEXT_WIDTHS, strict=True)).rstrip() for line in lines]


def badge_svg(rows: Sequence[Row] | None = None) -> str:
    """A picture of the counts for the front page, with the same words as its text alternative."""
    rows = ledger_rows() if rows is None else list(rows)
    counts = count_verdicts(rows)
    parts = [("claims", "#3a3a3a")]
    parts += [(f"{counts[word]} {BADGE_WORDS[word]}", COLOURS[word]) for word in VERDICTS]
    if counts["stale"]:
        parts.append((f"{counts['stale']} stale", "#3a3a3a"))
    title = "Claims: " + ", ".join(text for text, _ in parts[1:])
    shapes, left = "", 0
    for text, colour in parts:
        width = 12 + round(6.6 * len(text))
        ink = "#000" if colour in [COLOURS[word] for word in DARK_INK] else "#fff"
        shapes += f'<rect x="{left}" width="{width}" height="20" fill="{colour}"/>'
        shapes += f'<text x="{left + width / 2:g}" y="14" fill="{ink}" text-anchor="middle">{escape(text)}</text>'
        left += width
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left}" height="20" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>"
        f'<g font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">{shapes}</g></svg>\n'
    )


def write_badge(path: Path, rows: Sequence[Row] | None = None) -> None:
    """Write the badge to a file."""
    path.write_text(badge_svg(rows), encoding="utf-8")


def badge_style(word: str) -> str:
    """Colours of a verdict as CSS, readable on each other."""
    return f"background:{COLOURS[word]};color:{'#000' if word in DARK_INK else '#fff'}"


def _ours(
    claim: Claim, result: Measurement | None, than: Sequence[Claim], measurements: Mapping[str, Measurement]
) -> str:
    """What we found: a value with its interval, or of an order the differences that it is judged by."""
    if result is None or claim.accept.kind != "order":
        return ours_text(claim, result)
    return order_text(claim, differences(claim, result, {other.id: other for other in than}, measurements))


def _cells(row: Row) -> tuple[str, ...]:
    claim, result = row.claim, row.measurement
    published = published_text(claim) + (f" ({claim.by})" if claim.by else "")
    if result is None:
        return claim.label, published, "–", "–", "–", str(row.verdict), "–"
    n = f"{result.n:,} {result.counts}"
    return claim.label, published, row.ours, n, result.profile, str(row.verdict), cost_text(result)


def _verdict_html(verdict: Verdict, *, folded: bool = False) -> str:
    text = f"{_dot(verdict.word)} {escape(verdict.word)}"
    if verdict.reason and not folded:
        text += f" <small>({escape(verdict.reason).replace('|', '&#124;')})</small>"
    if verdict.stale:
        shown = ", ".join(verdict.stale[:3]) + (f" and {len(verdict.stale) - 3} more" if len(verdict.stale) > 3 else "")
        text += f" <em>stale</em> <small>(changed: {escape(shown)})</small>"
    return text


def _dot(word: str) -> str:
    return f'<span style="color:{COLOURS[word]}" aria-hidden="true">●</span>'


def _html_table(rows: Sequence[Row], this_run: Mapping[str, Measurement] | None = None, *, whole: bool = False) -> str:
    """Five columns (six with results of this run): n and profile stand below ours, so that a page is wide enough.

    whole: as on the page of the whole ledger, with an anchor for each row and a fold of how its number was made.
    """
    columns = ["Claim", "Published", *([THIS_RUN] if this_run else []), "Ours", "Verdict", "Cost"]
    head = "".join(f'<th scope="col" style="text-align:left">{name}</th>' for name in columns)
    body = ""
    for row in rows:
        claim, result = row.claim, row.measurement
        now = (this_run or {}).get(claim.measured_as or claim.id)
        cells = [
            escape(claim.label) + (_made(row) if whole else ""),
            _stacked(_tight(published_text(claim)), claim.by),
            *([_stacked(_tight(_ours(claim, now, row.than, this_run)), count_text(now))] if this_run else []),
            _stacked(_tight(row.ours), count_text(result) + (f", {result.profile}" if result else "")),
            _verdict_html(row.verdict, folded=whole and row.verdict.word == NOT_ATTEMPTED),
            escape(cost_text(result)),
        ]
        tags = "".join(f'<td style="text-align:left;vertical-align:top">{cell}</td>' for cell in cells)
        kind = f'data-study="{escape(study_name(claim))}" data-verdict="{row.verdict.word}"'
        marks = f'id="{claim.id}" {kind}' if whole else f'data-claim="{claim.id}"'
        body += f"<tr {marks}>{tags}</tr>\n"
    return f'<table class="table molkit-ledger">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>'


def _made(row: Row) -> str:
    """Rule, note and origin of a claim's number, folded below its name."""
    claim, result = row.claim, row.measurement
    facts = {
        "Claim": f"{claim.id}; {claim.place} of {claim.paper}",
        "Rule": rule_text(claim) if claim.attempt == "now" else "",
        "Note": claim.note,
        "Measured by": claim.metric if result else "",
        "Command": str(result.origin.get("command", "")) if result else "",
        "Run": run_text(result),
        "Interval": result.interval_kind if result else "",
    }
    lines = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts.items() if text)
    told = "How this number was made" if result else "What was claimed"
    return f'<details class="molkit-fold molkit-origin"><summary>{told}</summary><dl>{lines}</dl></details>'


def _stacked(html: str, below: str) -> str:
    return f"{html}<br/><small>{escape(below)}</small>" if below else html


def _tight(text: str) -> str:
    """HTML in which a unit stays on the line of its number."""
    return escape(re.sub(r"(?<=[\d\]]) (?=[^\s\[(]+$)", "\u00a0", text.replace(" ± ", "\u00a0±\u00a0")))
