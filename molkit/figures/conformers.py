"""Figures and tables of the chapters on conformers."""

from collections.abc import Sequence

import numpy as np
from IPython.display import HTML
from matplotlib.figure import Figure

from molkit.figures import style
from molkit.figures.tables import html_table, with_interval
from molkit.figures.view3d import show_grid
from molkit.molecule import Molecule
from molkit.studies.conformers_live import CostRow, Film, GraphFacts, Likelihood, SearchRow
from molkit.studies.flow_objectives import ObjectiveStudy, change
from molkit.studies.flow_objectives import mean_of as mean_of_flow

ARM_LINES = {  # colour and kind of line of every way of making conformers
    "rdkit": ("#555555", "--"),
    "rdkit_ff": ("#555555", "-"),
    "flow_published": (style.VERMILION, ":"),
    "etm_published": (style.BLUE, ":"),
    "flow": (style.VERMILION, "--"),
    "etm": (style.BLUE, "--"),
    "flow_ff": (style.VERMILION, "-"),
    "etm_ff": (style.BLUE, "-"),
}
HOP_NAMES = {1: "bonded", 2: "two bonds apart", 3: "three bonds apart"}
HOP_COLOURS = {1: style.BLUE, 2: style.GREEN, 3: style.VERMILION}


def graph_table(facts: Sequence[GraphFacts], num_parameters: int) -> HTML:
    """Sizes of extended graphs."""
    rows = [[f.name, str(f.num_atoms), *map(str, f.by_hops), str(f.directed)] for f in facts]
    head = ["molecule", "atoms", "1 bond", "2 bonds", "3 bonds", "directed pairs"]
    return html_table(head, rows, caption=f"Extended graphs. The flow on them has {num_parameters:,} trained numbers.")


def film_figure(found: Film, *, num_shown: int = 4) -> Figure:
    """Histograms of distances at a few times, from noise to data, coloured by the number of bonds between the atoms."""
    shown = np.linspace(0, len(found.times) - 1, num_shown).round().astype(int)
    bins = np.linspace(0.0, 5.5, 90)
    caption = (
        f"Distances of {found.frames.shape[1]} draws for {found.smiles}, {found.frames.shape[2]} pairs each, at "
        f"{num_shown} times of the flow; t = T is normal noise, moved and scaled like the data."
    )
    with style.panels(num_shown, width=9.0, height=2.6, caption=caption, sharey=True) as (figure, axes):
        for axis, row in zip(axes, shown, strict=True):
            for hop, colour in HOP_COLOURS.items():
                values = found.frames[row][:, found.hops == hop].ravel()
                axis.hist(values, bins=bins, color=colour, alpha=0.6, label=HOP_NAMES[hop])
            axis.set_title(f"t = {found.times[row]:.2f}")
            axis.set_xlabel("distance, Å")
        axes[0].set_ylabel("draws and pairs")
        axes[-1].legend(fontsize=8)
    return figure


def likelihood_table(found: Likelihood) -> HTML:
    """Negative log-likelihood per pair."""
    rows = [
        ["with the noise of training", with_interval(found.noised, 3)],
        ["clean distances", with_interval(found.clean, 3)],
    ]
    caption = (
        f"−log p(d|G) per pair, exact traces, {found.num_molecules} held-back QM9 minima (95 % over molecules). "
        f"Means of {found.num_probes} Hutchinson probes lie at most {found.largest_gap:.1f} standard errors away."
    )
    return html_table(["", "nats per pair"], rows, caption=caption)


def solver_table(errors: dict[int, float], num_draws: int) -> HTML:
    """Error of fixed steps."""
    rows = [[f"RK4, {steps} steps ({4 * steps} evaluations)", f"{error:.1e}"] for steps, error in errors.items()]
    caption = f"Largest error of any distance of {num_draws} draws against dopri5 at 1e-6, float64."
    return html_table(["solver", "error, Å"], rows, caption=caption)


def search_table(rows: Sequence[SearchRow], smiles: str) -> HTML:
    """Both searches on the same distances."""
    head = ["search", "mean stress, Å²", "median", "converged", "R_g, Å", "ms a conformer"]
    lines = [
        [
            row.name,
            f"{row.mean_stress:.2f}",
            f"{row.median_stress:.2f}",
            f"{100 * row.converged:.0f} %",
            f"{row.radius_of_gyration:.2f}",
            f"{row.milliseconds:.1f}",
        ]
        for row in rows
    ]
    return html_table(head, lines, caption=f"{rows[0].count} conformers of {smiles} from the same distances; one core.")


def cost_table(rows: Sequence[CostRow]) -> HTML:
    """Cost of a conformer by the published procedure and by the default one."""
    head = ["molecule", "pairs", "published, ms", "default, ms", "cheaper by", "lowest of the rounds", "aim"]
    lines = [
        [
            row.smiles,
            str(row.num_pairs),
            f"{row.published:.1f}",
            f"{row.default:.1f}",
            f"{row.ratio:.1f}",
            f"{row.lowest_ratio:.1f}",
            f"{row.aim:g}, {'met' if row.ratio >= row.aim else 'not met'}",
        ]
        for row in rows
    ]
    caption = (
        "CPU time of one conformer on one core, batches of 20, the same weights, both procedures in turn. Published: "
        "dopri5 with the trace and a pair both ways, then 1,000 Adam steps. Default: fixed steps, then L-BFGS."
    )
    return html_table(head, lines, caption=caption)


def gallery(molecules: Sequence[Molecule]) -> HTML:
    """Conformers in 3D, in the order in which they were drawn."""
    return show_grid(molecules, caption=f"{len(molecules)} conformers of {molecules[0].name}, none picked.")


def objective_table(study: ObjectiveStudy) -> HTML:
    """Likelihood and coverage of the flow trained by matching, and of its two continuations."""
    start, *others = study.flows
    rows = [
        [
            "as published (matching)",
            *("", with_interval(mean_of_flow(start, "noised"), 3), with_interval(mean_of_flow(start, "clean"), 3)),
            with_interval(mean_of_flow(start, "flow cov_recall"), 1, 100.0),
            with_interval(mean_of_flow(start, "flow mat_recall"), 3),
        ]
    ]
    for row in others:
        rows.append(
            [
                f"change by {row.steps:,} steps of {row.objective}",
                f"{row.passes:,}",
                with_interval(change(row, start, "noised"), 3),
                with_interval(change(row, start, "clean"), 3),
                with_interval(change(row, start, "flow cov_recall"), 1, 100.0),
                with_interval(change(row, start, "flow mat_recall"), 3),
            ]
        )
    cost = study.milliseconds
    caption = (
        f"−log p in nats a pair, exact, {len(start.noised)} held-back QM9 minima with noise of 0.1 Å and without; "
        f"COV-R and MAT-R of {len(start.values('flow cov_recall'))} test ensembles, no force field, stereo redrawn. "
        "First row: means; below it paired changes; 95 % bootstrap over molecules. In training a conformer costs "
        f"{cost['matching']:.1f} ms of CPU by matching and {cost['likelihood']:.1f} ms by likelihood."
    )
    head = ["flow", "conformers seen", "−log p, noised", "−log p, clean", "COV-R, %", "MAT-R, Å"]
    return html_table(head, rows, caption=caption)
