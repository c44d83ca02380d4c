"""Tables and figures of the chapter on reference ensembles and RDKit baselines."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from molkit.data.ensembles import WHAT, Ensemble
from molkit.figures.style import BLACK, BLUE, GREEN, ORANGE, SKY, VERMILION, panels
from molkit.figures.tables import html_table, with_interval
from molkit.figures.view3d import show_grid
from molkit.geometry import superpose
from molkit.metrics.conformers import Summary
from molkit.molecule import Molecule
from molkit.studies.conformer_baselines import BaselineRow, Baselines, SetFacts

if TYPE_CHECKING:
    from IPython.display import HTML

COLOURS = (SKY, BLUE, GREEN, ORANGE, VERMILION, BLACK)
CURVE_END = 2.5  # times the threshold


def sets_table(rows: Sequence[SetFacts]) -> "HTML":
    """What the sets hold, split by split."""
    head = ("", "split", "molecules", "conformers", "atoms", "a molecule: median, most", "rotatable bonds", "charged")
    cells = [
        (
            *(row.name, row.split, f"{row.num_molecules:,}", f"{row.num_conformers:,}"),
            *(f"{row.atoms[0]}–{row.atoms[1]}", f"{row.conformers[0]:g}, {row.conformers[1]}"),
            *(f"{row.rotatable:g}", f"{row.charged:,}"),
        )
        for row in rows
    ]
    told = "; ".join(f"{name}: {WHAT[name]}" for name in dict.fromkeys(row.name for row in rows))
    return html_table(head, cells, caption=f"{told}. Rotatable bonds: median over the molecules.")


def energies(ensembles: Sequence[Ensemble], *, name: str) -> Figure:
    """Energies above the lowest conformer, and how much of the weight at room temperature the lowest carries."""
    known = [one for one in ensembles if len(one) > 1 and np.isfinite(one.energies).all()]
    above = np.concatenate([np.sort(one.energies)[1:] for one in known])
    share = 100.0 * np.array([one.weights.max() for one in known])
    caption = (
        f"{name} ({WHAT[name]}): n = {len(known)} molecules with several conformers whose energies are all known, "
        f"{len(above):,} conformers above the lowest. Weights from these energies alone, 298.15 K."
    )
    with panels(2, width=8.4, height=2.9, caption=caption) as (figure, (left, right)):
        left.hist(np.minimum(above, 20.0), bins=40, range=(0.0, 20.0), color=BLUE)
        left.set(xlabel="energy above the lowest (kcal/mol; 20 and more in the last bar)", ylabel="conformers")
        right.hist(share, bins=25, range=(0.0, 100.0), color=ORANGE)
        right.set(xlabel="weight of the lowest conformer (%)", ylabel="molecules")
    return figure


def counts_table(ensemble: Ensemble) -> "HTML":
    """How an ensemble was made: what each stage kept."""
    order = ("starts", "distinct_starts", "relaxed", "failed", "unconverged", "changed", "above_window", "duplicates")
    told = [(name.replace("_", " "), str(ensemble.counts[name])) for name in order if name in ensemble.counts]
    caption = f"{ensemble.name}: distinct starts after MMFF94; changed: another graph or handedness after relaxing."
    return html_table(
        ("", "conformers"), [*told, ("in the ensemble", str(len(ensemble)))], caption=caption, bold_last=True
    )


def baseline_table(found: Baselines) -> "HTML":
    """COV and MAT, recall and precision, of every method."""
    head = (
        *("", "COV-R (%)", "median", "MAT-R (Å)", "median", "COV-P (%)", "median", "MAT-P (Å)", "median"),
        *("diversity (Å)", "molecules without any", "CPU ms a conformer"),
    )
    bounds = max(row.summary("cov_recall").num_bounds for row in found.rows)
    caption = (
        f"{found.name}, test split: {WHAT[found.name]}. n = {len(found.molecules)} molecules; threshold "
        f"{found.threshold:g} Å, symmetry '{found.symmetry}', two conformers for each reference, molecules without any "
        f"count as 0 in COV; 95 % bootstrap intervals over molecules. {len(found.left_out)} molecules left out because "
        f"RDKit refuses their bonds; MMFF94 lacks parameters for {found.rows[-1].num_without_force_field}."
        + (f" RMSDs of {bounds} molecules are upper bounds: they lie on themselves in too many ways." if bounds else "")
    )
    return html_table(head, [_cells(row) for row in found.rows], caption=caption)


def _cells(row: BaselineRow) -> tuple[str, ...]:
    cov_r, mat_r = row.summary("cov_recall"), row.summary("mat_recall")
    cov_p, mat_p = row.summary("cov_precision"), row.summary("mat_precision")
    shown = [*_shown(cov_r, 100.0, 1), *_shown(mat_r, 1.0, 3), *_shown(cov_p, 100.0, 1), *_shown(mat_p, 1.0, 3)]
    milliseconds = f"{1000 * row.seconds_per_conformer:.1f}"
    return (row.title, *shown, with_interval(row.spread), str(cov_r.num_failed), milliseconds)


def _shown(one: Summary, factor: float, digits: int) -> tuple[str, str]:
    return with_interval(one.mean, digits, factor=factor), f"{factor * one.median:.{digits}f}"


def coverage_curves(found: Baselines) -> Figure:
    """Share of the references covered, against the threshold."""
    grid = np.linspace(0.0, CURVE_END * found.threshold, 101)
    caption = (
        f"{found.name}: mean over n = {len(found.molecules)} molecules; dotted: the threshold of the papers. "
        "A curve that rises early has conformers close to the references; where it ends high, all basins are found."
    )
    with panels(width=7.2, height=3.4, caption=caption) as (figure, (axes,)):
        for row, colour in zip(found.rows, COLOURS, strict=False):
            curve = np.mean([score.coverage_at(grid) for score in row.scores], axis=0)
            axes.plot(grid, 100.0 * curve, color=colour, ls="-" if "MMFF" in row.title else "--", label=row.title)
        axes.axvline(found.threshold, color="#777777", ls=":", lw=1.2)
        axes.set(xlabel="threshold (Å, heavy-atom RMSD)", ylabel="references covered (%)", ylim=(0, 102))
        axes.legend(fontsize=8)
    return figure


def conformers_of(ensemble: Ensemble, *, most: int = 8) -> "HTML":
    """The conformers of lowest energy side by side, each laid on the first."""
    rows = np.argsort(ensemble.energies, kind="stable")[:most]
    first = ensemble.positions[rows[0]]
    molecules = [Molecule(ensemble.atomic_numbers, superpose(ensemble.positions[row], first)) for row in rows]
    told = ", ".join(f"{ensemble.energies[row]:.1f}" for row in rows)
    caption = f"{ensemble.name}: {len(rows)} of {len(ensemble)} conformers, {told} kcal/mol above the lowest."
    return show_grid(molecules, caption=caption)
