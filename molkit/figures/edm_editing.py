"""Figures and tables of the chapter on editing."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from molkit.figures.style import MODEL_COLOUR, ORANGE, panels
from molkit.figures.tables import html_table, percent
from molkit.figures.view3d import show_grid
from molkit.metrics.statistics import Interval
from molkit.molecule import Molecule
from molkit.studies.edm_editing import Completions, Compositions, VariationPoint

if TYPE_CHECKING:
    from IPython.display import HTML

COLOURS = (MODEL_COLOUR, ORANGE)


def completion_table(found: Completions, *, model: str) -> "HTML":
    """One row for each way of completing, per cent with 95 % intervals."""
    head = ("", "calls", "molecules stable", "atoms stable", "fixed atoms satisfied", "original recovered", "s")
    rows = [
        (
            row.label,
            str(row.num_calls) if row.num_calls else "–",
            percent(row.stable),
            f"{100 * row.atoms:.1f}",
            percent(row.fixed),
            percent(row.recovered),
            f"{row.seconds:.0f}" if row.num_calls else "–",
        )
        for row in found.rows
    ]
    caption = (
        f"n = {found.rows[0].num} QM9 test molecules, a quarter of the atoms of each cut off and made again. Per cent, "
        f"Wilson 95 % intervals in brackets; failed chains count. A guided call costs about four plain ones. {model}."
    )
    return html_table(head, rows, caption=caption)


def completion_gallery(found: Completions, *, count: int = 4) -> "HTML":
    """Whole molecules, and below them what became of their fragments, the fixed atoms in a halo; the first ones."""
    chosen = [k for k, row in enumerate(found.made_rows) if row < count]
    rows = [int(found.made_rows[k]) for k in chosen]
    sizes = [found.fragments[row].num_atoms for row in rows]
    shown = [found.whole[row] for row in rows] + [found.made[k] for k in chosen]
    caption = (
        f"Above: the first {len(rows)} of the test molecules before the cut. Below: what the last way of the table "
        "made of their fragments, in the same order; the fixed atoms stand in a halo."
    )
    return show_grid(shown, caption=caption, columns=max(len(rows), 1), marked=[0] * len(rows) + sizes)


def variation_curve(curves: Mapping[str, Sequence[VariationPoint]]) -> Figure:
    """Shares and displacement against the noise level, one line for each way."""
    first = next(iter(curves.values()))
    caption = (
        f"n = {first[0].num} QM9 test molecules at every point. Left and middle: shares of all chains, Wilson 95 % "
        "intervals. Right: mean RMSD of those with the same SMILES after alignment, bootstrap 95 % intervals."
    )
    with panels(3, width=9.6, height=3.0, caption=caption) as (figure, axes):
        for colour, (label, points) in zip(COLOURS, curves.items(), strict=False):
            _line(axes[0], points, [point.same.scaled(100.0) for point in points], colour, label)
            _line(axes[1], points, [point.stable.scaled(100.0) for point in points], colour, label)
            with_same = [point for point in points if point.rmsd is not None]
            _line(axes[2], with_same, [point.rmsd for point in with_same], colour, label)
        axes[0].set(ylabel="same molecule (%)", ylim=(0, 102))
        axes[1].set(ylabel="stable molecules (%)", ylim=(0, 102))
        axes[2].set(ylabel="RMSD (Å)")
        for one in axes:
            one.set(xlabel="noise σ (Å)", xscale="log", xlim=(0.8 * first[0].sigma, 1.25 * first[-1].sigma))
        axes[0].legend(loc="lower left", fontsize=8)
    return figure


def _line(axes: Axes, points: Sequence[VariationPoint], values: Sequence[Interval], colour: str, label: str) -> None:
    centre = np.array([value.value for value in values])
    errors = np.array([[value.value - value.low, value.high - value.value] for value in values]).reshape(-1, 2).T
    axes.errorbar([p.sigma for p in points], centre, yerr=errors, color=colour, marker="o", ms=4, lw=1.2, label=label)


def ladder_gallery(molecules: Sequence[Molecule], levels: Sequence[float]) -> "HTML":
    """A molecule and its variations at growing noise."""
    named = ", ".join(f"{level:g} Å" for level in levels)
    caption = f"A test molecule, and one variation of it from each of the noise levels {named}, in this order."
    return show_grid(list(molecules), caption=caption, columns=len(molecules), cell=150)


def composition_table(found: Compositions, *, model: str) -> "HTML":
    """One row for each way to a formula."""
    head = ("", "n", "right formula", "right and stable", "different isomers", "novel of these", "s")
    rows = [
        (
            row.label,
            f"{row.num:,}",
            percent(row.right),
            percent(row.stable),
            f"{row.num_isomers:,}",
            "–" if row.num_novel is None else f"{row.num_novel:,}",
            "–" if row.seconds is None else f"{row.seconds:.0f}",
        )
        for row in found.rows
    ]
    caption = (
        f"{found.formula}. Per cent of n, Wilson 95 % intervals in brackets; in the first two rows n counts the "
        f"molecules with as many atoms, whatever they are. Isomers are counted among the stable molecules. {model}."
    )
    return html_table(head, rows, caption=caption)


def composition_gallery(found: Compositions, *, count: int = 8) -> "HTML":
    """The first molecules of the last row."""
    shown = list(found.made)[:count]
    caption = f"The first {len(shown)} molecules of {found.formula} made by the last way of the table, stable or not."
    return show_grid(shown, caption=caption)
