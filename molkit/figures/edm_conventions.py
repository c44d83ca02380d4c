"""Tables and figures of the chapter on conventions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from molkit.figures.style import BLACK, MODEL_COLOUR, ORANGE, SKY, panels
from molkit.figures.tables import html_table, percent, with_interval
from molkit.figures.view3d import show_grid
from molkit.metrics.statistics import Interval
from molkit.metrics.strain import StrainResult
from molkit.molecule import Molecule
from molkit.studies.edm_conventions import FLAGS, Conventions, KindDistance, PoseChecks

if TYPE_CHECKING:
    from IPython.display import HTML

COLOURS = {
    "QM9 test": BLACK,
    "G-SchNet, published samples": ORANGE,
    "EDM, trained here": MODEL_COLOUR,
    "EDM, untrained": SKY,
}


def conventions_table(rows: Sequence[Conventions]) -> "HTML":
    """Three conventions and two more shares, side by side."""
    measures = (
        ("molecules", lambda row: f"{row.num_molecules:,}"),
        ("atoms, EDM's rule", lambda row: percent(row.atoms_edm)),
        ("molecules, EDM's rule", lambda row: percent(row.share(row.flags[:, 0]))),
        ("atoms, charges and aromaticity", lambda row: percent(row.atoms_charged)),
        ("molecules, charges and aromaticity", lambda row: percent(row.share(row.flags[:, 1]))),
        ("accepted by RDKit", lambda row: percent(row.share(row.flags[:, 2]))),
        ("accepted, bonds perceived", lambda row: percent(row.share(row.perceived))),
        ("in one piece", lambda row: percent(row.share(row.connected))),
        ("the three disagree", lambda row: percent(row.disagreement)),
    )
    head = ["", *(row.label for row in rows)]
    cells = [(name, *(measure(row) for row in rows)) for name, measure in measures]
    return html_table(
        head,
        cells,
        caption="Per cent, 95 % intervals in brackets (Wilson; atoms: bootstrap over molecules). 'Accepted by RDKit': "
        "sanitised with bonds by distance and no charges, as in the paper. 'Accepted, bonds perceived': RDKit finds "
        "and sanitises bonds of the whole neutral molecule, in however many pieces, without an unpaired electron. "
        "Chains that gave no molecule count as failing.",
    )


def pattern_chart(rows: Sequence[Conventions]) -> Figure:
    """How often the three verdicts agree."""
    counts = "; ".join(f"{row.label}: n = {row.num_molecules:,}" for row in rows)
    caption = f"Share of molecules by the three verdicts ({', '.join(FLAGS)}); Wilson 95 % bars. {counts}."
    with panels(width=8.4, height=3.4, caption=caption) as (figure, (axes,)):
        width = 0.8 / len(rows)
        for shift, row in enumerate(rows):
            patterns = row.patterns()
            shares = 100.0 * np.array([[s.value, s.low, s.high] for s in patterns.values()])
            places = np.arange(len(patterns)) + width * (shift - (len(rows) - 1) / 2)
            axes.bar(places, shares[:, 0], 0.9 * width, color=COLOURS[row.label], label=row.label)
            ends = np.abs(shares[:, 1:] - shares[:, :1]).T
            axes.errorbar(places, shares[:, 0], yerr=ends, fmt="none", ecolor="#777777", lw=0.9)
        marks = ["\n".join("pass" if flag else "fail" for flag in pattern) for pattern in rows[0].patterns()]
        axes.set_xticks(range(len(marks)), marks, fontsize=9)
        axes.set(ylabel="molecules (%)", xlabel="EDM's rule / charges and aromaticity / RDKit (top to bottom)")
        axes.legend(fontsize=8)
    return figure


def examples(molecules: Sequence[Molecule], *, kind: str, label: str) -> "HTML":
    """The first molecules of one kind of disagreement, or a line that says there is none."""
    if not molecules:
        return html_table(("",), [(f"No molecule of {label} {kind}.",)], caption=kind)
    return show_grid(list(molecules), caption=f"{label}: the first molecules that {kind}.")


def strain_table(results: Mapping[str, StrainResult]) -> "HTML":
    """Energy drop and change of shape on relaxation."""
    rows = [
        (
            label,
            f"{r.num_molecules:,}",
            *(percent(r.share(n)) for n in (r.num_odd, r.num_failed, r.num_not_converged)),
            with_interval(r.energy_drop, 1),
            _range(r.quartiles, 1),
            with_interval(r.rmsd, 3),
            _range(r.rmsd_quartiles, 3),
            f"{r.num_bonds_changed} of {r.num_counted}",
        )
        for label, r in results.items()
    ]
    return html_table(
        (
            *("", "n", "odd electrons (%)", "failed (%)", "not converged (%)", "energy drop (kcal/mol)", "quartiles"),
            *("RMSD (Å)", "quartiles", "bonds changed"),
        ),
        rows,
        caption="Relaxed with GFN2-xTB to forces below 0.05 eV/Å; medians with 95 % bootstrap intervals over the "
        "molecules that converged and have an even number of electrons; shares with Wilson's. QM9's geometries are "
        "minima of another method (B3LYP), so their row is not zero.",
    )


def _range(ends: tuple[float, float] | None, digits: int) -> str:
    return "–" if ends is None else f"{ends[0]:.{digits}f} – {ends[1]:.{digits}f}"


def pose_table(rows: Sequence[PoseChecks]) -> "HTML":
    """Share that passes each of PoseBusters' checks."""
    names = list(dict.fromkeys(name for row in rows for name in row.shares))
    head = ("", *[f"{row.label} (n = {row.num_molecules})" for row in rows])
    cells = [("no bonds found, so not checked", *[str(row.num_not_perceived) for row in rows])]
    cells += [(name.replace("_", " "), *[percent(row.shares.get(name)) for row in rows]) for name in names]
    cells.append(("all checks passed, of all molecules", *[percent(row.all_passed) for row in rows]))
    return html_table(
        head,
        cells,
        caption="Per cent of the molecules whose bonds were found, Wilson 95 % intervals. Left out: the energy ratio, "
        "which embeds conformers and takes minutes for strained cages.",
        bold_last=True,
    )


def distance_table(rows: Sequence[KindDistance]) -> "HTML":
    """Wasserstein distances to the test split, with the zero of the data."""
    labels = list(rows[0].distances)
    cells = [
        (f"{row.kind} ({row.unit})", *[_distance(row.distances[label], row.unit) for label in labels]) for row in rows
    ]
    return html_table(
        ("", *labels),
        cells,
        caption="Wasserstein distance to QM9's test split by kind of bond or angle, 95 % bootstrap intervals over "
        "molecules (resampling adds scatter, so near zero they lie above the distance); the first column is what two "
        "samples of QM9 itself differ by.",
    )


def _distance(value: Interval | None, unit: str) -> str:
    digits = 4 if unit == "Å" else 2
    return with_interval(value, digits)
