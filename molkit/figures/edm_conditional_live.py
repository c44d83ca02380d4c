"""Figures and tables of requests, sizes, parts and likelihoods in the chapter on conditional generation."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from molkit.data.qm9_labels import NAMES, PROPERTIES
from molkit.figures.edm_conditional import DIGITS
from molkit.figures.style import BLACK, BLUE, GREEN, ORANGE, panels
from molkit.figures.tables import html_table, with_interval
from molkit.figures.view3d import show_grid
from molkit.metrics.statistics import bootstrap_interval
from molkit.studies.edm_conditional_live import ContextBounds, Request, Roles, SizeShift, in_words

if TYPE_CHECKING:
    from IPython.display import HTML

USES = {
    "judge": ("judge", "learns to read properties off a geometry; scores every row"),
    "labeller": ("labeller", "learns the same, to label what the generator lacks"),
    "generator": ("generator", "true labels of the generator; the rows Naive, number of atoms and QM9 itself"),
    "valid": ("validation", "mean and mean absolute deviation of each property"),
    "test": ("test", "errors of judge and labeller; likelihoods on this page"),
}
TOLD = {
    "nothing": "told nothing",
    "alpha": "told α",
    "all six": "told all six properties",
    "another's": "told all six of another molecule",
}


def parts_table(result: Roles) -> "HTML":
    """Which labelled molecules serve what."""
    rows = [(USES[part][0], f"{count:,}", USES[part][1]) for part, count in result.num_labelled.items()]
    return html_table(
        ("part", "labelled molecules", "what for"),
        rows,
        caption="No molecule is in two parts; the first three make up the labelled molecules of the training split. "
        f"The generator learned from {result.num_generator:,} molecules, its own part and those without labels, in "
        f"{result.own_passes:,} molecule passes.",
    )


def size_curves(result: SizeShift) -> Figure:
    """Sizes before and after a request."""
    caption = "Shares of sizes in training, and given a request by Bayes' rule from the training histograms."
    with panels(width=6.4, height=3.0, caption=caption) as (figure, (axes,)):
        axes.plot(result.sizes, 100 * result.plain, color=BLACK, lw=1.2, label="nothing asked")
        for colour, marker, (name, share) in zip((BLUE, ORANGE, GREEN), "os^", result.asked.items(), strict=False):
            axes.plot(result.sizes, 100 * share, color=colour, marker=marker, ms=3, lw=1.2, label=name)
        axes.set(xlabel="atoms in the molecule", ylabel="share (%)", ylim=(0, None))
        axes.legend()
    return figure


def request_table(results: list[Request]) -> "HTML":
    """What was asked for beside what the judge finds, for the properties of the requests."""
    names = [name for name in NAMES if any(name in result.conditions for result in results)]
    chosen = [PROPERTIES[NAMES.index(name)] for name in names]
    rows = []
    for result in results:
        found = [_mean(result.found[:, NAMES.index(entry.name)], entry.to_table, entry.name) for entry in chosen]
        rows.append((in_words(result.conditions), f"{len(result.molecules)}", f"{result.num_failed}", *found))
    return html_table(
        ("asked for", "molecules", "lost chains", *[f"mean {p.symbol} found ({p.table_unit})" for p in chosen]),
        rows,
        caption="Units of the requests: α in bohr³, gap in eV. Means over the molecules with 95 % bootstrap intervals; "
        "read off by the judge, nothing filtered.",
    )


def _mean(values: np.ndarray, factor: float, name: str) -> str:
    return with_interval(bootstrap_interval(values).scaled(factor), min(DIGITS[name], 1))


def request_gallery(result: Request, *, count: int = 8) -> "HTML":
    """The first molecules of a request as they were drawn."""
    shown = min(count, len(result.molecules))
    return show_grid(
        [result.molecules[row] for row in range(shown)],
        caption=f"The first {shown} molecules asked for {in_words(result.conditions)}; none was picked.",
    )


def bounds_table(result: ContextBounds) -> "HTML":
    """The bound under each context, and its change against nothing asked."""
    rows = []
    for name, value in result.bounds.items():
        change = result.changes.get(name)
        rows.append((TOLD[name], with_interval(value, 2), "" if change is None else with_interval(change, 2)))
    return html_table(
        ("the model is", "bound on -log p (nats)", "against nothing told"),
        rows,
        caption=f"{result.num_molecules:,} labelled test molecules, nats a molecule, 95 % bootstrap intervals; the "
        "same noise for every row, so that the last column is far more certain than the difference of the others.",
    )
