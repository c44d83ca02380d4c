"""Figures and tables of the chapter on molecules of drug size."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from molkit.figures.style import DATA_COLOUR, MODEL_COLOUR, ORANGE, SKY, panels
from molkit.figures.tables import html_table, percent, with_interval
from molkit.figures.view3d import show_grid, show_trajectory
from molkit.metrics.statistics import Interval
from molkit.studies.edm_drug_size import (
    BLURRED,
    HELD_BACK,
    OURS,
    PUBLISHED,
    TRAINED_ON,
    BoundRow,
    EnergyRow,
    Film,
    LiveDraw,
    Scored,
    SizeBins,
    SplitFacts,
)

if TYPE_CHECKING:
    from IPython.display import HTML

COLOURS = {HELD_BACK: DATA_COLOUR, TRAINED_ON: SKY, OURS: MODEL_COLOUR, BLURRED: ORANGE}


def split_table(rows: Sequence[SplitFacts]) -> "HTML":
    """The three splits in numbers."""
    head = ("split", "molecules", "geometries", "atoms (mean)", "largest", "pairs (mean)", "charged", "elements")
    cells = [
        (
            row.split,
            f"{row.num_molecules:,}",
            f"{row.num_geometries:,}",
            f"{row.mean_atoms:.1f}",
            f"{row.largest}",
            f"{row.mean_pairs:,.0f}",
            f"{100 * row.charged:.1f} %",
            row.elements,
        )
        for row in rows
    ]
    return html_table(
        head,
        cells,
        caption="The drug-size set at hand: DFT conformers of 708 molecules, 837 DrugBank and 244 tripeptide "
        "geometries, split by molecule across all three. Means over geometries; ordered pairs of atoms.",
    )


def score_table(sets: Sequence[Scored], *, model: str) -> "HTML":
    """Paper, data, yardsticks and ours: per cent with 95 % intervals."""
    head = (
        "",
        "atoms stable",
        "molecules stable",
        "valid, bonds single",
        "bonds perceived",
        "in one piece",
        "largest piece",
    )
    rows = [
        (label, f"{atoms:.1f}", "–", "–" if valid is None else f"{valid:.1f}", "–", "–", "–")
        for label, (atoms, valid) in PUBLISHED.items()
    ]
    for one in sets:
        shares = (
            one.atoms_stable,
            one.molecules_stable,
            one.single_bond_valid,
            one.perceived,
            one.one_piece,
            one.largest_share,
        )
        rows.append((f"{one.label}; n = {one.num_molecules:,}", *[percent(share) for share in shares]))
    return html_table(
        head,
        rows,
        caption="Per cent, 95 % intervals in brackets (bootstrap over molecules for the data, whose conformers are not "
        "independent). The published rows belong to GEOM-Drugs, another set: they are context, not a comparison. "
        "'Bonds perceived': RDKit finds bond orders and charges for total charge 0, so charged data cannot pass. "
        "'Largest piece': share of a molecule's atoms in it. "
        f"Our model: {model}.",
        bold_last=True,
    )


def film(result: Film, *, reps: int = 1) -> "HTML":
    """The trajectory as a film; the elements are those of the last frame."""
    caption = (
        f"One chain from noise to {result.molecule.formula}, {len(result.frames)} frames. "
        "Elements are coloured as they are decided at the end."
    )
    return show_trajectory(result.frames, result.molecule.atomic_numbers, caption=caption, reps=reps)


def gallery(live: LiveDraw) -> "HTML":
    """All molecules of the live draw, in the order they came."""
    shown = list(live.molecules)
    caption = (
        f"All {len(shown)} molecules drawn for this page ({live.num_calls} network calls each, "
        f"{live.seconds / live.requested:.1f} s a molecule on one core), in the order they came."
    )
    return show_grid(shown, caption=caption)


def stability_by_size(bins: SizeBins) -> Figure:
    """Share of stable atoms by size, with 95 % intervals."""
    counts = "; ".join(f"{label}: n = {', '.join(map(str, found))}" for label, found in bins.counts.items())
    caption = f"Stable atoms by the GEOM rule, bootstrap over molecules, 95 %. Geometries in the bins: {counts}."
    with panels(width=7.0, height=3.2, caption=caption) as (figure, (axes,)):
        for k, (label, shares) in enumerate(bins.shares.items()):
            there = [place for place, share in enumerate(shares) if share is not None]
            values = 100.0 * np.array([_ends(shares[place]) for place in there]).reshape(-1, 3)
            errors = np.abs(values[:, 1:] - values[:, :1]).T
            axes.errorbar(
                np.array(there) + 0.08 * k,
                values[:, 0],
                yerr=errors,
                color=COLOURS[label],
                marker="o",
                ms=5,
                label=label,
            )
        axes.set_xticks(range(len(bins.labels)), bins.labels)
        axes.set(xlabel="number of atoms of the molecule", ylabel="stable atoms (%)", ylim=(0, 102))
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def energies(sets: Sequence[Scored]) -> Figure:
    """Histograms of MMFF94s energies; what lies outside the window is counted in the legend."""
    shown = [one for one in sets if len(one.energies.energies) >= 2 and one.label in COLOURS]
    reference = next(one for one in sets if one.label == HELD_BACK).energies.energies
    low, high = np.quantile(reference, [0.005, 0.995])
    margin = 0.5 * (high - low)
    edges = np.linspace(low - margin, high + 2 * margin, 41)
    caption = (
        "MMFF94s single points on the geometries as they are, bonds perceived as neutral molecules; each area is "
        "the share of the set inside the window."
    )
    with panels(width=7.0, height=3.2, caption=caption) as (figure, (axes,)):
        for one in shown:
            values = one.energies.energies
            outside = int(((values < edges[0]) | (values > edges[-1])).sum())
            weights = np.full(len(values), 1.0 / (len(values) * (edges[1] - edges[0])))
            label = f"{one.label} (n = {len(values):,}, {outside:,} outside)"
            axes.hist(values, edges, weights=weights, histtype="step", lw=1.8, color=COLOURS[one.label], label=label)
        axes.set(xlabel="MMFF94s energy (kcal/mol)", ylabel="density (per kcal/mol)")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.26), fontsize=8.5)
    return figure


def energy_table(rows: Sequence[EnergyRow]) -> "HTML":
    """Wasserstein distances with their zero row and the failures."""
    head = (
        "",
        "n",
        "with an energy",
        "median, kcal/mol",
        "distance to held-back data, kcal/mol",
        "the same from as many data",
        "not finite / not perceived / in pieces / no parameters",
    )
    cells = [
        (
            row.label,
            f"{row.num_molecules:,}",
            f"{row.num_energies:,}",
            with_interval(row.median, 1),
            with_interval(row.distance, 1),
            with_interval(row.null, 1),
            " / ".join(str(row.failures[word]) for word in row.failures),
        )
        for row in rows
    ]
    return html_table(
        head,
        cells,
        caption="1-D Wasserstein distances of MMFF94s energies, 95 % bootstrap intervals. Second last column: median "
        "and 95 % range of the distance between the held-back data and as many values drawn from the training data, "
        "which is what a perfect sampler would show. The protocol is ours; the paper's energy model is not published.",
    )


def bound_table(rows: Sequence[BoundRow]) -> "HTML":
    """The bound on trained and held-back molecules."""
    head = ("split", "molecules", "nats per molecule", "nats per atom", "left out: size not in the training part")
    cells = [
        (
            row.split,
            f"{row.num_molecules}",
            with_interval(row.per_molecule, 1),
            with_interval(row.per_atom, 2),
            f"{row.unseen_sizes}",
        )
        for row in rows
    ]
    return html_table(
        head,
        cells,
        caption="Bound on −log p(x, h, M), positions in ångström, one geometry of each molecule, 95 % bootstrap "
        "intervals over molecules. The published −137.1 nats belong to GEOM-Drugs.",
    )


def composition(shares: Mapping[str, Mapping[str, float]]) -> Figure:
    """Share of each element among all atoms, on a logarithmic axis."""
    symbols = list(shares[TRAINED_ON]) + sorted(set(shares[OURS]) - set(shares[TRAINED_ON]))
    caption = "Shares among all atoms of the training geometries and of the stored samples; no bar: none at all."
    with panels(width=6.4, height=2.8, caption=caption) as (figure, (axes,)):
        for k, (label, found) in enumerate(shares.items()):
            heights = [100.0 * found.get(symbol, 0.0) for symbol in symbols]
            axes.bar(np.arange(len(symbols)) + 0.4 * k - 0.2, heights, 0.38, color=COLOURS[label], label=label)
        axes.set_xticks(range(len(symbols)), symbols)
        axes.set_yscale("log")
        axes.set(xlabel="element", ylabel="share of atoms (%)")
        axes.legend()
    return figure


def _ends(share: Interval) -> tuple[float, float, float]:
    return share.value, share.low, share.high
