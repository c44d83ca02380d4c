"""Figures and tables of the chapters that compare starts of a relaxation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from molkit.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, panels
from molkit.figures.tables import Text, html_table, sentence, with_interval
from molkit.relaxation.farm import PERFECT
from molkit.relaxation.starts import REFERENCE
from molkit.studies.relaxation_starts import Comparison, StartRow, conformer_energies, rows

if TYPE_CHECKING:
    from IPython.display import HTML

OPTIMISERS = {"cartesian": "Cartesian BFGS", "internal": "internal coordinates"}
WORDS = {
    "etkdg": "ETKDG",
    "uff": "UFF",
    "mmff94": "MMFF94",
    "mmff94s": "MMFF94s",
    "gfn1": "GFN1-xTB",
    "gfn2": "GFN2-xTB",
}


def start_words(name: str) -> str:
    """A start as the page calls it."""
    if name.startswith("edm "):
        _, level, ending = name.split()
        return f"diffusion, {level} Å, {ending}"
    return WORDS.get(name, "perfect model, sample" if name == PERFECT else name)


def start_table(found: Comparison, optimiser: str) -> "HTML":
    """One row for each start with one optimiser."""
    head = (
        "start", "excess, median", "excess, mean", "ratio of means", "gradients", "ratio of gradients",
        "other minimum", "failed / capped", "n", "CPU s before", "CPU s",
    )  # fmt: skip
    lines = [_line(row) for row in rows(found, optimiser)]
    caption = (
        f"{found.level}, {OPTIMISERS[optimiser]}; {how_many(found)}, {found.weights}. Excess in "
        "kcal/mol above the run's own end. Ratios: MMFF94 over this start, pairs that end in the same minimum only; "
        "gradients: mean over molecules. Bootstrap 95 % intervals. CPU seconds: mean, making the start and optimising."
    )
    return html_table(head, lines, caption=caption)


def stored_tables(found: Comparison) -> "HTML":
    """Tables of both optimisers of a stored comparison."""
    from IPython.display import HTML

    tables = [start_table(found, optimiser) for optimiser in OPTIMISERS if rows(found, optimiser)]
    return HTML("".join(table.data for table in tables))


def how_many(found: Comparison) -> str:
    """Molecules with a result, of those that were asked for."""
    done = {one.molecule for one in found.outcomes if one.start == REFERENCE}
    lost = {one.molecule for one in found.failures} - done
    waiting = len(found.molecules) - len(done) - len(lost)
    words = f"{len(done)} QM9 test molecules"
    words += f", {len(lost)} more without a conformer" if lost else ""
    return words + (f"; {waiting} more of the sample were not run" if waiting else "")


def _line(row: StartRow) -> tuple[str, ...]:
    return (
        start_words(row.start),
        with_interval(row.excess),
        with_interval(row.mean_excess),
        "1" if row.start == REFERENCE else with_interval(row.ratio),
        with_interval(row.gradients, 1),
        "1" if row.start == REFERENCE else with_interval(row.step_ratio),
        "–" if row.start == REFERENCE else str(row.num_other_minimum),
        f"{row.num_failed} / {row.num_capped}",
        str(row.num),
        f"{row.preparation:.2f}",
        f"{row.seconds:.2f}",
    )


def conformers_sentence(found: Comparison) -> Text:
    """How the conformer of the study compares with that of the data set."""
    above = conformer_energies(found)
    text = (
        "The minimum next to MMFF94's structure lies {:.1f} kcal/mol above that next to the data set's geometry in the "
        "median of {} molecules, and more than 0.5 kcal/mol in {}: the fresh conformer is another one there. Energies "
        "above the data set's minimum would mix this with the quality of the structure."
    )
    return sentence(text, round(float(np.median(above)), 1) + 0.0, len(above), int((above > 0.5).sum()))


def excess_figure(found: Comparison, *, optimiser: str = "internal") -> Figure:
    """Energy excess of every start, a point for each molecule."""
    chosen = rows(found, optimiser)
    caption = (
        f"{found.level}, {OPTIMISERS[optimiser]}. A point is a molecule, n up to {max(row.num for row in chosen)}; "
        "bar: median with its bootstrap 95 % interval."
    )
    random = np.random.default_rng(0)
    with panels(1, width=8.4, height=3.8, caption=caption) as (figure, (axes,)):
        for place, row in enumerate(chosen):
            values = np.array([one.excess for one in found.of(row.start, optimiser).values()])
            colour = colour_of(row.start)
            jitter = place + 0.12 * random.normal(size=len(values))
            axes.plot(jitter, np.maximum(values, 1e-2), ".", ms=3, color=colour, alpha=0.6)
            middle = row.excess
            sides = [[middle.value - middle.low], [middle.high - middle.value]]
            axes.errorbar([place], [middle.value], yerr=sides, color=BLACK, marker="_", ms=14, lw=1.5)
        axes.set_xticks(
            range(len(chosen)), [start_words(row.start) for row in chosen], rotation=35, ha="right", fontsize=8
        )
        axes.set(yscale="log", ylabel="energy excess (kcal/mol)")
    return figure


def colour_of(start: str) -> str:
    """Colour of a start."""
    if start.startswith("edm "):
        return BLUE if start.endswith("sample") else SKY
    return {PERFECT: BLACK, "gfn1": GREEN, "gfn2": GREEN, REFERENCE: ORANGE}.get(start, PURPLE)


def gradients_figure(found: Comparison, start: str) -> Figure:
    """Gradient evaluations from one start against those from MMFF94, molecule by molecule."""
    caption = (
        f"{found.level}. A point is a molecule; open: the two runs end in different minima. Below the line: fewer."
    )
    with panels(2, width=8.0, height=3.4, caption=caption) as (figure, axes):
        for one, (optimiser, title) in zip(axes, OPTIMISERS.items(), strict=True):
            mine, reference = found.of(start, optimiser), found.of(REFERENCE, optimiser)
            names = [name for name in mine if name in reference]
            _scatter(one, [(reference[name], mine[name]) for name in names])
            one.set(xlabel="gradients from MMFF94", ylabel=f"from {start_words(start)}", title=title)
    return figure


def _scatter(axes, pairs: Sequence) -> None:
    from molkit.relaxation.comparison import same_minimum

    for reference, mine in pairs:
        face = BLUE if same_minimum(mine, reference) else "none"
        axes.plot(reference.num_gradients, mine.num_gradients, "o", ms=4, mfc=face, mec=BLUE)
    largest = max([one.num_gradients for pair in pairs for one in pair], default=1)
    axes.plot([1, largest], [1, largest], color=BLACK, lw=0.8)
    axes.set(xscale="log", yscale="log")
