"""Figures and tables of the chapters on the ETM and on QM9-size conformers."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from IPython.display import HTML
from matplotlib.figure import Figure

from molkit.data.ensembles import WHAT
from molkit.figures import style
from molkit.figures.tables import html_table, stacked, with_interval
from molkit.figures.view3d import show_grid
from molkit.metrics.statistics import Interval
from molkit.studies import distance_distributions as distances
from molkit.studies.conformers.overlays import Overlay
from molkit.studies.distance_distributions import KINDS, DistanceStudy, Drawn, values_of
from molkit.studies.energy_tilt import Curves, Level, NoiseRow, SpringRow, Tilted, TiltRow, lengths

OVERLAY_COLUMNS = 4


def level_table(levels: Sequence[Level], num_molecules: int) -> HTML:
    """Bond lengths along the bridge."""
    rows = [[f"{one.share:g}", with_interval(one.deviation, 4)] for one in levels]
    caption = f"Root mean square deviation of bond lengths from the data; {num_molecules} held-back QM9 minima, 95 %."
    return html_table(["share of noise", "deviation of bonds, Å"], rows, caption=caption)


def curve_figure(found: Curves) -> Figure:
    """How well neighbours on the bridge were told apart in training."""
    caption = (
        "Share of conformers on the right side, training batches, running mean over 10 logged steps. 50 % is chance: "
        "what the network cannot resolve. Near 100 % a logit stops being the logarithm of a density ratio."
    )
    width = min(10, len(found.steps))
    smooth = np.ones(width) / width
    with style.panels(1, width=6.4, height=3.2, caption=caption) as (figure, (axis,)):
        for k, (low, high) in enumerate(zip(found.shares[:-1], found.shares[1:], strict=True)):
            values = 100.0 * np.convolve(found.told_apart[:, k], smooth, mode="valid")
            axis.plot(found.steps[width - 1 :], values, color=f"C{k}", label=f"{low:g} from {high:g}")
        axis.set(xlabel="training step", ylabel="told apart, %", ylim=(45, 101))
        axis.legend(fontsize=8, title="share of noise")
    return figure


def length_figure(found: Sequence[Tilted]) -> Figure:
    """Deviations of bond lengths from the minimum, before and after."""
    bins = np.linspace(-0.3, 0.3, 81)
    count = sum(len(one.before) for one in found)
    caption = f"{count} conformers of {len(found)} held-back QM9 molecules, {found[0].search}; all bonds."
    with style.panels(1, width=6.0, height=3.0, caption=caption) as (figure, (axis,)):
        for stage, colour in (("before", style.VERMILION), ("after", style.BLUE)):
            gaps = np.concatenate([_deviations(one, getattr(one, stage)) for one in found])
            axis.hist(gaps, bins=bins, color=colour, alpha=0.6, label=stage)
        axis.set(xlabel="bond length less that of the minimum, Å", ylabel="bonds")
        axis.legend()
    return figure


def _deviations(one: Tilted, positions: np.ndarray) -> np.ndarray:
    """Bond lengths of conformers less those of the minimum, all in one row, angstrom."""
    target = lengths(one.graph, torch.from_numpy(one.minimum))
    return (lengths(one.graph, torch.from_numpy(positions)) - target).flatten().numpy()


def tilt_table(rows: Sequence[TiltRow]) -> HTML:
    """What the tilt does to conformers of both searches: geometry, and below it energies."""
    shapes = [
        [
            f"{row.search}, {row.stage} the ETM",
            with_interval(row.spread, 3),
            with_interval(row.error, 3),
            with_interval(row.clashes, 2),
        ]
        for row in rows
    ]
    energies = [
        [
            f"{row.search}, {row.stage} the ETM",
            with_interval(row.tilt, 1),
            with_interval(row.xtb_kcal, 0),
            str(row.xtb_failed),
        ]
        for row in rows
    ]
    caption = (
        f"{rows[0].num_conformers} conformers of {rows[0].num_molecules} held-back QM9 molecules (validation split), "
        "means over molecules with 95 % bootstrap intervals. Clashes: pairs more than three bonds apart nearer than "
        "1.8 Å (H–H), 2.1 Å (H–X) or 2.6 Å."
    )
    below = (
        "The same conformers: energy of the tilt, GFN2-xTB energy above the B3LYP minimum (median over a molecule's "
        "conformers), conformers without one."
    )
    return stacked(
        html_table(["", "spread of bonds, Å", "error of bonds, Å", "clashes"], shapes, caption=caption),
        html_table(["", "E", "GFN2-xTB, kcal/mol", "without"], energies, caption=below),
    )


def walk_table(rows: Sequence[NoiseRow], smiles: str) -> HTML:
    """Walks with and without noise."""
    head = ["walk", "target", "at the start", "at the end", "spread of bonds, Å", "components clipped"]
    lines = [
        [row.kind, row.target, f"{row.start:.1f}", f"{row.end:.1f}", f"{row.spread:.3f}", f"{100 * row.clipped:.0f} %"]
        for row in rows
    ]
    return html_table(head, lines, caption=f"The same conformers of {smiles}, four walks; targets in nats.")


def spring_table(rows: Sequence[SpringRow], smiles: str) -> HTML:
    """Springs of one molecule."""
    lines = [
        [row.ends, str(row.hops), f"{row.length:.3f}", "–" if row.width is None else f"{row.width:.3f}"] for row in rows
    ]
    caption = f"Springs of {smiles} from its graph alone: all between heavy atoms, and four to hydrogen."
    return html_table(["pair", "bonds apart", "length, Å", "width, Å"], lines, caption=caption)


def change_table(change: Interval, num_molecules: int) -> HTML:
    """Clashes after less before."""
    caption = f"Clashes of a conformer after less before the tilt, {num_molecules} molecules, 95 % bootstrap."
    return html_table(["", "pairs"], [["change", with_interval(change, 3)]], caption=caption)


def distance_table(study: DistanceStudy) -> HTML:
    """MMD of distances of every arm: mean and median of each kind, and diversity."""
    head = ["method", *KINDS.values(), "diversity, Å"]
    rows = []
    for arm, title in distances.ARMS.items():
        numbers = [values_of(study, arm, kind) for kind in KINDS]
        cells = [f"{np.mean(values):.3f}\n({np.median(values):.3f})" for values in numbers]
        spread = [row.diversity for row in study.rows if row.arm == arm and row.diversity is not None]
        rows.append([title, *cells, f"{np.mean(spread):.3f}" if spread else "–"])
    row = study.rows[0]
    caption = (
        "MMD of heavy-atom distances up to three bonds, mean and (median), "
        f"n = {len(study.molecules)} test isomers, {row.num_generated} generated conformers against up "
        f"to {max(one.num_references for one in study.rows)} frames each; single: over "
        f"{len(values_of(study, 'rdkit', 'single'))} distances of all of them. Data: {WHAT[study.setting.data]}. Flow: "
        f"{study.setting.weights}, energy: {study.setting.energy}. Finite samples give more than 0 even for equal "
        "distributions."
    )
    return html_table(head, rows, caption=caption)


def distances_figure(found: Drawn) -> Figure:
    """Histograms of heavy-atom distances one and three bonds apart: trajectory and arms."""
    colours = {"rdkit": "#555555", "flow": style.VERMILION, "etm": style.BLUE}
    count = len(found.distances["flow"])
    caption = f"{found.name}: {len(found.target)} frames (filled) and {count} conformers of each method (lines)."
    with style.panels(2, width=8.0, height=3.0, caption=caption) as (figure, axes):
        for axis, hop in zip(axes, (1, 3), strict=True):
            chosen = found.hops == hop
            bins = np.linspace(found.target[:, chosen].min() - 0.3, found.target[:, chosen].max() + 0.3, 60)
            axis.hist(found.target[:, chosen].ravel(), bins=bins, density=True, color="#cccccc", label="trajectory")
            for arm, colour in colours.items():
                values = found.distances[arm][:, chosen].ravel()
                title = distances.ARMS[arm]
                axis.hist(values, bins=bins, density=True, histtype="step", color=colour, label=title)
            axis.set(xlabel=f"distance over {hop} bond{'s' if hop > 1 else ''}, Å", ylabel="density, 1/Å")
        axes[-1].legend(fontsize=7)
    return figure


def order_table(orders: Mapping[str, Interval]) -> HTML:
    """Paired differences behind the claims about order."""
    rows = [[name, with_interval(value, 3)] for name, value in orders.items()]
    return html_table(["claim", "difference"], rows, caption="Paired differences over molecules, 95 % bootstrap.")


def overlay_grid(found: Sequence[Overlay]) -> HTML:
    """Rows of references, and under each row the nearest generated conformers laid on them; full rows only."""
    columns = min(OVERLAY_COLUMNS, len(found))
    drawn = found[: len(found) - len(found) % columns] if columns else found
    caption = "Upper rows: references; below each: the nearest generated conformer, laid on it. " + "; ".join(
        f"{one.name}: {one.rmsd:.2f} Å" for one in drawn
    )
    blocks = [drawn[start : start + columns] for start in range(0, len(drawn), max(columns, 1))]
    shown = [molecule for row in blocks for molecule in ([one.reference for one in row] + [one.nearest for one in row])]
    return show_grid(shown, caption=caption + " (heavy atoms).", columns=columns)
