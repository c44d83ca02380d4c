"""Figures and tables of the chapter on conditional generation."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from molkit.claims.ledger import Claim, load_claims
from molkit.data.qm9_labels import PROPERTIES
from molkit.figures.style import BLACK, GREEN, MODEL_COLOUR, ORANGE, PAPER_COLOUR, panels
from molkit.figures.tables import html_table, with_interval
from molkit.figures.view3d import show_grid
from molkit.metrics.statistics import Interval
from molkit.studies.edm_conditional import GUIDED, LABELS, ROWS, ErrorTable, Sweep, property_of

if TYPE_CHECKING:
    from IPython.display import HTML

DIGITS = {"alpha": 2, "gap": 0, "homo": 0, "lumo": 0, "mu": 3, "cv": 3}


def error_table(result: ErrorTable) -> "HTML":
    """Mean absolute errors of the four rows beside the paper's."""
    claims, rows = load_claims(study="edm"), []
    for row in LABELS:
        if row in ROWS:
            published = [_published(claims, row, p.name) for p in PROPERTIES]
            rows.append((f"{LABELS[row]} (published)", "10,000", *published))
        cells = [with_interval(result.errors[row][p.name], DIGITS[p.name]) for p in PROPERTIES]
        rows.append((f"{LABELS[row]} (here)", f"{result.counts[row]:,}", *cells))
    return html_table(
        ("", "n", *[f"{p.symbol} ({p.table_unit})" for p in PROPERTIES]),
        rows,
        caption="Mean absolute error, 95 % intervals in brackets; the judge reads the property off the generated "
        f"molecule, nothing is filtered. {result.num_calls} network calls a molecule; chains that gave no molecule: "
        f"{sum(result.num_failed)}. Stable: {_stable(result, 'edm')} as trained, {_stable(result, 'guided')} guided, "
        "where each call asks the network twice.",
    )


def _published(claims: Mapping[str, Claim], row: str, name: str) -> str:
    value = claims[f"edm.conditional.{row}.{name}"].value
    return f"{value:.{DIGITS[name]}f}"


def _stable(result: ErrorTable, row: str) -> str:
    atoms, molecules = result.stability[row]
    return f"{_percent(molecules)} of the molecules, {_percent(atoms)} of the atoms"


def _percent(share: Interval) -> str:
    return with_interval(share, 1, factor=100.0, between=" % ")


def relative_errors(result: ErrorTable) -> Figure:
    """Every row's error over the naive one: 1 is knowing nothing, 0 is knowing the value."""
    colours = {"num_atoms": ORANGE, "edm": MODEL_COLOUR, GUIDED: GREEN, "data": BLACK}
    claims = load_claims(study="edm")
    caption = (
        f"Errors over the naive row's; n = {result.counts['edm']:,} molecules a property for EDM, "
        f"{result.counts['data']:,} for the other rows; bars: 95 % bootstrap. Crosses: published."
    )
    with panels(width=7.6, height=3.4, caption=caption) as (figure, (axes,)):
        for shift, row in enumerate(colours):
            places = np.arange(len(PROPERTIES)) + 0.2 * (shift - 1.5)
            naive = np.array([result.errors["naive"][p.name].value for p in PROPERTIES])
            errors = [result.errors[row][p.name] for p in PROPERTIES]
            values = np.array([e.value for e in errors]) / naive
            ends = np.array([[e.value - e.low for e in errors], [e.high - e.value for e in errors]]) / naive
            axes.bar(places, values, 0.18, color=colours[row], label=LABELS[row])
            axes.errorbar(places, values, yerr=ends, fmt="none", ecolor="#555555", lw=1.0)
            if row not in ROWS:
                continue
            published = [
                claims[f"edm.conditional.{row}.{p.name}"].value / claims[f"edm.conditional.naive.{p.name}"].value
                for p in PROPERTIES
            ]
            label = "published" if shift == 0 else None
            axes.plot(places, published, ls="", marker="x", color=PAPER_COLOUR, label=label)
        axes.set_xticks(range(len(PROPERTIES)), [p.symbol for p in PROPERTIES])
        axes.set(ylabel="error / naive error", ylim=(0, None))
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def sweep_curve(result: Sweep, *, name: str) -> Figure:
    """What the judge finds against what was asked for."""
    entry = property_of(name)
    caption = (
        f"{len(result.asked)} molecules of {result.molecules.num_atoms[0]} atoms from one and the same noise, one for "
        f"each wanted value; {result.num_failed} chains gave none. No error bars: single molecules."
    )
    with panels(width=5.4, height=3.4, caption=caption) as (figure, (axes,)):
        ends = [result.asked.min(), result.asked.max()]
        axes.plot(ends, ends, color=BLACK, lw=1.0, label="as asked")
        axes.plot(result.asked, result.found, ls="", marker="o", ms=4, color=MODEL_COLOUR, label="by the judge")
        axes.set(xlabel=f"{entry.symbol} asked for ({entry.table_unit})", ylabel=f"{entry.symbol} found")
        axes.legend()
    return figure


def sweep_gallery(result: Sweep, *, name: str, count: int = 8) -> "HTML":
    """Some of the sweep's molecules in the order of the wanted value."""
    rows = np.linspace(0, len(result.asked) - 1, min(count, len(result.asked))).round().astype(int)
    entry = property_of(name)
    values = ", ".join(f"{result.asked[row]:.0f} → {result.found[row]:.0f}" for row in rows)
    return show_grid(
        [result.molecules[int(row)] for row in rows],
        caption=f"The same noise, larger and larger {entry.symbol}; asked for → found by the judge, "
        f"{entry.table_unit}: {values}.",
    )
