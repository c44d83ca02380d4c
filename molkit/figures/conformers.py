"""Figures and tables of the chapters on conformers."""

from collections.abc import Sequence

import numpy as np
from IPython.display import HTML
from matplotlib.figure import Figure

from molkit.figures import style
from molkit.figures.tables import html_table, stacked, with_interval
from molkit.figures.view3d import show_grid
from molkit.molecule import Molecule
from molkit.studies.conformer_choices import choices
from molkit.studies.conformers import ARMS, ConformerStudy, arms_of, by_molecule, difference, mean_of, what_data
from molkit.studies.conformers_live import CostRow, Film, GraphFacts, Likelihood, SearchRow
from molkit.studies.flow_objectives import ObjectiveStudy, change
from molkit.studies.flow_objectives import mean_of as mean_of_flow

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


def study_table(study: ConformerStudy) -> HTML:
    """COV and MAT of every arm, and below them geometry and cost."""
    return stacked(coverage_table(study), geometry_table(study))


def coverage_table(study: ConformerStudy) -> HTML:
    """COV and MAT of every arm, recall and precision."""
    measures = (
        ("cov_recall", 1, 100.0),
        ("mat_recall", 3, 1.0),
        ("cov_precision", 1, 100.0),
        ("mat_precision", 3, 1.0),
    )
    rows = [
        [ARMS[arm], *(with_interval(mean_of(study, arm, name), digits, factor) for name, digits, factor in measures)]
        for arm in arms_of(study)
    ]
    setting = study.setting
    caption = (
        f"{len(study.molecules)} test molecules, threshold {setting.threshold:g} Å, two conformers for each of at most "
        f"{setting.max_references} references ({references_text(study)}); "
        f"means over molecules with 95 % bootstrap intervals; {len(study.failures)} molecules left out. "
        f"{len(setting.seeds)} seed(s), averaged first. Flow: {setting.weights}"
        f"{', energy: ' + setting.energy if setting.energy else ''}. Data: {what_data(study)}."
    )
    return html_table(["method", "COV-R, %", "MAT-R, Å", "COV-P, %", "MAT-P, Å"], rows, caption=caption)


def references_text(study: ConformerStudy) -> str:
    """How many references the molecules of a study have, all together."""
    counts = {row.name: row.num_references for row in study.rows}
    return f"{sum(counts.values()):,} in all"


def geometry_table(study: ConformerStudy) -> HTML:
    """Spread of bonds, size, cost, failures and, where they were taken, energies of every arm."""
    head = ["method", "bond spread, Å", "R_g, Å", "CPU, ms", "failed"]
    with_energy = any(row.energy_kcal is not None for row in study.rows)
    rows = []
    for arm in arms_of(study):
        own = [row for row in study.rows if row.arm == arm]
        sizes = (
            plain_mean(study, arm, name, digits) for name, digits in (("bond_spread", 3), ("radius_of_gyration", 2))
        )
        cells = [ARMS[arm], *sizes, f"{1e3 * np.mean([row.seconds for row in own]):.0f}"]
        cells.append(str(sum(row.num_failed for row in own)))
        rows.append([*cells, median_energy(study, arm)] if with_energy else cells)
    caption = (
        "The same conformers: spread of a bond's length over the conformers of a molecule, radius of gyration (that of "
        f"the references is {np.mean(list(study.references.values())):.2f} Å), CPU of one conformer on a shared core, "
        "conformers that could not be made or scored."
    )
    if with_energy:
        head.append("GFN2-xTB")
        caption += " Energies: kcal/mol above the lowest reference, as generated; median over molecules."
    return html_table(head, rows, caption=caption)


def plain_mean(study: ConformerStudy, arm: str, measure: str, digits: int) -> str:
    """Mean over the rows that have a value."""
    values = [value for row in study.rows if row.arm == arm and (value := getattr(row, measure)) is not None]
    return f"{np.mean(values):.{digits}f}" if values else "–"


def median_energy(study: ConformerStudy, arm: str) -> str:
    """Median over molecules of the mean energy of an arm's conformers."""
    values = [value for value in by_molecule(study, arm, "energy_kcal").values() if value is not None]
    return f"{np.median(values):.1f}" if values else "–"


def difference_table(study: ConformerStudy, pairs: Sequence[tuple[str, str]]) -> HTML:
    """Paired differences of arms over the same molecules."""
    rows = []
    for arm, other in pairs:
        if {arm, other} <= set(arms_of(study)):
            cov, mat = (difference(study, arm, other, name) for name in ("cov_recall", "mat_recall"))
            rows.append([f"{ARMS[arm]} less {ARMS[other]}", with_interval(cov, 1, 100.0), with_interval(mat, 3)])
    caption = f"Paired differences, {len(study.molecules)} molecules, 95 % bootstrap over molecules."
    return html_table(["", "COV-R, points", "MAT-R, Å"], rows, caption=caption)


def choice_tables(
    studies: Sequence[ConformerStudy], names: Sequence[str], arms: Sequence[str], *, what: str = "energy trained on"
) -> HTML:
    """A table for each arm, one below the other."""
    return stacked(*(choice_table(studies, names, arm, what=what) for arm in arms))


def choice_table(
    studies: Sequence[ConformerStudy], names: Sequence[str], arm: str, *, what: str = "energy trained on"
) -> HTML:
    """Coverage, matching and geometry on the validation split, with paired changes to the first study.

    The third column is the bonds' spread; where the studies differ by the start of a search, the radius of gyration.
    """
    spread = len({one.setting.start for one in studies}) == 1
    third = ("bond_spread", 4, 1.0) if spread else ("radius_of_gyration", 2, 1.0)
    columns = (("cov_recall", 1, 100.0), ("mat_recall", 4 if spread else 3, 1.0), third)
    found = [choices(studies, names, arm, measure) for measure, _, _ in columns]
    rows = []
    for line in zip(*found, strict=True):
        cells = [line[0].name]
        for one, (_, digits, factor) in zip(line, columns, strict=True):
            cells.append(with_interval(one.change or one.mean, digits, factor))
        rows.append(cells)
    setting = studies[0].setting
    seeds = f"{len(setting.seeds)} seed{'s' if len(setting.seeds) > 1 else ''}"
    caption = f"{ARMS[arm]} on {len(studies[0].molecules)} molecules of the {setting.split} split, {seeds}. First row: "
    caption += "means; below it paired changes; 95 % bootstrap over molecules."
    head = [what, "COV-R, points", "MAT-R, Å", "bond spread, Å" if spread else "radius of gyration, Å"]
    return html_table(head, rows, caption=caption)


def molecule_figure(study: ConformerStudy, arm: str, other: str) -> Figure:
    """MAT-R of two arms, a point a molecule."""
    first, second = by_molecule(study, other, "mat_recall"), by_molecule(study, arm, "mat_recall")
    names = [name for name in first if first[name] is not None and second.get(name) is not None]
    x, y = [first[name] for name in names], [second[name] for name in names]
    caption = f"Mean distance of a reference from the nearest conformer, {len(names)} molecules."
    with style.panels(1, width=4.6, height=4.0, caption=caption) as (figure, (axis,)):
        axis.plot(x, y, "o", color=style.MODEL_COLOUR)
        end = 1.05 * max(x + y)
        axis.plot([0, end], [0, end], color="#999999", linewidth=1.0)
        axis.set_xlabel(f"{ARMS[other]}: MAT-R, Å")
        axis.set_ylabel(f"{ARMS[arm]}: MAT-R, Å")
    return figure


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
