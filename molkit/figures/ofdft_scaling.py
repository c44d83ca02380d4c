"""Figures and tables of the cost of densities without orbitals."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from molkit.errors import InvalidInput
from molkit.figures.ofdft import interval, number
from molkit.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILION, panels
from molkit.figures.tables import html_table, with_interval
from molkit.studies.ofdft_scaling import (
    COUNTED,
    METHODS,
    PUBLISHED,
    PUBLISHED_RATIOS,
    STAGES,
    TARGET,
    Cost,
    PowerLaw,
    ScalingStudy,
    extrapolated_ratio,
    last_decade,
    law_of,
)

if TYPE_CHECKING:
    from IPython.display import HTML

COLOURS = {"orbital-free": BLUE, "Kohn-Sham": VERMILION}
NAMES = {"alkane": "C{0}H{1}", "peptide": "Ace-Ala{0}-NMe"}


def molecule_name(cost: Cost) -> str:
    """As a chemist writes it."""
    return NAMES[cost.family].format(cost.size, 2 * cost.size + 2)


def costs_table(costs: Sequence[Cost], *, memory: bool = True) -> "HTML":
    """Seconds of every stage."""
    lines = []
    for cost in costs:
        sizes = [str(cost.num_electrons), str(cost.num_atoms), f"{cost.num_functions:,}"]
        stages = [number(seconds, 2) for seconds in cost.stages]
        step = number(1000.0 * cost.cpu[-1] / cost.steps, 1)
        cells = [
            cost.method,
            *sizes,
            *stages,
            f"{cost.steps:,}",
            step,
            number(cost.total, 1),
            number(sum(cost.wall), 1),
        ]
        lines.append([molecule_name(cost), *cells, *([number(cost.memory, 2)] if memory else [])])
    head = ["molecule", "method", "electrons", "atoms", "functions", *(f"{stage} (s)" for stage in STAGES)]
    head += ["steps", "one step (ms)", "total (s)", "wall (s)", *(["memory (GiB)"] if memory else [])]
    caption = "CPU seconds of one thread. Functions: of the density without orbitals, of the orbitals for Kohn-Sham. "
    caption += (
        f"Steps: cycles, or those of the descent that were measured; its seconds and the total are for {COUNTED:,}. "
    )
    caption += "Wall: what was measured. Memory: the peak of the whole process, libraries included."
    return html_table(head, lines, caption=caption)


def exponents_table(study: ScalingStudy) -> "HTML":
    """Fitted exponents of stages and totals, over all sizes and over the last decade of them."""
    lines = []
    for method in METHODS:
        for family in NAMES:
            costs = study.of(method, family)
            if len(costs) < 3:
                continue
            sizes = f"{costs[0].num_electrons} to {costs[-1].num_electrons:,}"
            for stage in (*STAGES, None):
                late = last_decade(costs)
                cells = [interval(law_of(part, stage).interval, 2) if len(part) > 2 else "–" for part in (costs, late)]
                published = number(PUBLISHED[method]) if stage is None else ""
                lines.append([f"{method}, {family}s, {stage or 'total'}", *cells, published, sizes])
    head = ["", "exponent", "over the last decade", "published total", "electrons"]
    caption = (
        "Power laws of CPU seconds against electrons; 95 % of molecules resampled. The last decade: molecules of at "
    )
    caption += "least a tenth of the largest one's electrons."
    return html_table(head, lines, caption=caption)


def ratios_table(study: ScalingStudy) -> "HTML":
    """How many times cheaper, measured and extended."""
    lines = []
    for family in NAMES:
        for theirs, ours in study.ratios(family):
            cells = [number(theirs.total, 1), number(ours.total, 1), number(theirs.total / ours.total, 1), "measured"]
            lines.append([molecule_name(theirs), str(theirs.num_electrons), *cells])
    try:
        found = interval(extrapolated_ratio(study), 0)
    except InvalidInput:
        found = "–"
    lines.append([f"alkane of {TARGET:,} electrons", f"{TARGET:,}", "", "", found, "lines extended"])
    for electrons, ratio in PUBLISHED_RATIOS.items():
        lines.append(["protein", f"{electrons:,}", "", "", number(ratio, 1), "published"])
    head = ["molecule", "electrons", "Kohn-Sham (s)", "orbital-free (s)", "times cheaper", ""]
    caption = f"CPU seconds in total; orbital-free with {COUNTED:,} steps, Kohn-Sham with grid level "
    caption += f"{study.grid_level}. The last measured line is the result; a line that is extended is none."
    return html_table(head, lines, caption=caption)


def totals_figure(study: ScalingStudy) -> Figure:
    """Totals against electrons, with lines extended to the proteins of the paper."""
    alkanes = [study.of(method) for method in METHODS]
    caption = f"CPU seconds in total, orbital-free with {COUNTED:,} steps on {len(alkanes[0])} alkanes and "
    caption += f"{len(study.of('orbital-free', 'peptide'))} peptides (open), Kohn-Sham on {len(alkanes[1])} and "
    caption += f"{len(study.of('Kohn-Sham', 'peptide'))}. Dashed: lines beyond their molecules, up to "
    caption += f"{TARGET:,} electrons; bands: 95 % of molecules resampled."
    with panels(1, width=7.6, height=4.6, caption=caption) as (figure, (place,)):
        for method in METHODS:
            _totals(place, study, method)
        _extended_ratio(place, study)
        place.set(ylabel="CPU seconds, total")
        _logarithmic(place)
    return figure


def stages_figure(study: ScalingStudy) -> Figure:
    """Where the time without orbitals goes, and the memory of both methods."""
    alkanes = study.of("orbital-free")
    caption = f"Left: CPU seconds of each stage without orbitals, {len(alkanes)} alkanes, {COUNTED:,} steps charged. "
    caption += f"Right: peak memory of the whole process, and of Kohn-Sham on {len(study.of('Kohn-Sham'))}."
    with panels(2, width=7.6, height=3.6, caption=caption) as (figure, (left, right)):
        for method in METHODS:
            right.plot(*_columns(study.of(method), lambda cost: cost.memory), "o-", color=COLOURS[method], label=method)
        for stage, colour in zip(STAGES, (ORANGE, GREEN, PURPLE), strict=True):
            left.plot(*_columns(alkanes, partial(_of_stage, STAGES.index(stage))), "o-", color=colour, label=stage)
        left.set(ylabel="CPU seconds")
        right.set(ylabel="peak memory (GiB)")
        for place in (left, right):
            _logarithmic(place)
    return figure


def _logarithmic(place: Axes) -> None:
    place.set(xscale="log", yscale="log", xlabel="electrons")
    place.xaxis.set_minor_formatter(NullFormatter())
    place.yaxis.set_minor_formatter(NullFormatter())
    if place.get_legend_handles_labels()[0]:
        place.legend(fontsize=8)


def _of_stage(stage: int, cost: Cost) -> float:
    return cost.stages[stage]


def _columns(costs: Sequence[Cost], value: Callable[[Cost], float]) -> tuple[list[int], list[float]]:
    return [cost.num_electrons for cost in costs], [value(cost) for cost in costs]


def _totals(place: Axes, study: ScalingStudy, method: str) -> None:
    """Points of both families, the fitted line and its band."""
    colour, costs = COLOURS[method], study.of(method)
    place.plot(*_columns(costs, lambda cost: cost.total), "o", color=colour, markersize=4)
    peptides = study.of(method, "peptide")
    place.plot(*_columns(peptides, lambda cost: cost.total), "s", color=colour, markersize=5, fillstyle="none")
    if len(costs) < 3:
        return
    judged = last_decade(costs) if method == "orbital-free" else costs
    law, judged = law_of(costs), judged if len(judged) >= 3 else costs
    measured = np.geomspace(costs[0].num_electrons, costs[-1].num_electrons, 50)
    place.plot(measured, law.seconds(measured), color=colour, label=_legend(method, judged))
    _banded(place, law, measured, colour)
    if costs[-1].num_electrons < TARGET:
        law = law_of(judged)
        beyond = np.geomspace(costs[-1].num_electrons, TARGET, 50)
        place.plot(beyond, law.seconds(beyond), "--", color=colour)
        _banded(place, law, beyond, colour)


def _legend(method: str, costs: Sequence[Cost]) -> str:
    """The exponent that is compared with the published one, and over which sizes."""
    sizes = f"{method}, {costs[0].num_electrons:,} to {costs[-1].num_electrons:,} electrons"
    exponent = with_interval(law_of(costs).interval, between=" ")
    return f"{sizes}: exponent {exponent}, published {PUBLISHED[method]}"


def _extended_ratio(place: Axes, study: ScalingStudy) -> None:
    """The ratio of the extended lines, beside the published ones."""
    if min(len(study.of("Kohn-Sham")), len(last_decade(study.of("orbital-free")))) < 3:
        return
    found, ours = extrapolated_ratio(study), law_of(last_decade(study.of("orbital-free"))).seconds(TARGET)
    published = " and ".join(f"{ratio}" for ratio in PUBLISHED_RATIOS.values())
    text = f"x {found.value:.0f} [{found.low:.0f}, {found.high:.0f}] if extended\npublished: x {published}"
    place.plot([TARGET] * 2, [ours, ours * found.value], ":", color=BLACK, linewidth=1.2)
    place.text(0.98, 0.03, text, transform=place.transAxes, ha="right", va="bottom", fontsize=9)


def _banded(place: Axes, law: PowerLaw, electrons: np.ndarray, colour: str) -> None:
    place.fill_between(electrons, *law.band(electrons), color=colour, alpha=0.15, linewidth=0)
