"""Figures and tables of the page on training methods."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from molkit.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILION, panels
from molkit.figures.tables import html_table, nats, percent, with_interval
from molkit.metrics.score import Score
from molkit.metrics.statistics import Interval
from molkit.studies.edm_training_methods import TITLES, Cost, Curve, Row, Trial

if TYPE_CHECKING:
    from IPython.display import HTML

COLOURS = dict(zip(TITLES, (BLACK, BLUE, GREEN, VERMILION, PURPLE), strict=True))
FALLBACK = ORANGE


def methods_table(rows: Sequence[Row], *, untrained: Score, data: Score, protocol: str) -> "HTML":
    """Every arm with its cost and what it reached, between the untrained network and the data."""
    lines = [
        ("no training", "0", "–", "–", *map(percent, (untrained.atom_stability, untrained.molecule_stability)), "–")
    ]
    for row in rows:
        failed = f", {row.failed} failed" if row.failed else ""
        seconds = f"{sum(row.cpu_seconds) / len(row.cpu_seconds):.0f}"
        seconds += f"\n[{min(row.cpu_seconds):.0f}, {max(row.cpu_seconds):.0f}]"
        shares = (percent(row.atom_stability), percent(row.molecule_stability))
        count = f"{row.trainings}{failed}"
        lines.append((TITLES[row.arm], count, seconds, f"{row.passes / 1000:.0f}", *shares, with_interval(row.nll, 1)))
    lines.append(("QM9 itself", "–", "–", "–", *map(percent, (data.atom_stability, data.molecule_stability)), "–"))
    return html_table(
        ("", "trainings", "CPU s of one", "passes / 1000", "atoms stable (%)", "molecules stable (%)", "NLL (nats)"),
        lines,
        caption=f"{protocol} Mean over trainings; in brackets the least and the most CPU seconds, and 95 % intervals "
        "that hold the scatter of the scored molecules and, of several trainings, that between them. A flow has no "
        "variational bound of this kind, hence the dash.",
    )


def methods_figure(rows: Sequence[Row]) -> Figure:
    """Stable atoms and the bound of every training, with the mean of each arm."""
    runs = max(row.trainings for row in rows)
    caption = (
        f"Large: mean of the trainings of an arm (up to {runs}) with its 95 % interval; small: single trainings with "
        "the interval of their scored molecules. Left: the more the better; right: the less the better."
    )
    with panels(2, height=1.0 + 0.55 * len(rows), caption=caption, sharey=True) as (figure, (left, right)):
        for place, row in enumerate(rows):
            points = [value.scaled(100.0) for value in row.atoms]
            mean = None if row.atom_stability is None else row.atom_stability.scaled(100.0)
            _draw(left, place, points, mean, COLOURS.get(row.arm, FALLBACK))
            _draw(right, place, list(row.bounds), row.nll, COLOURS.get(row.arm, FALLBACK))
        left.set_yticks(range(len(rows)), [TITLES[row.arm] for row in rows])
        left.set_ylim(len(rows) - 0.4, -0.5)
        left.set_xlabel("atoms stable (%)")
        right.set_xlabel("bound on −log p (nats)")
    return figure


def _draw(axis: Axes, place: int, points: Sequence[Interval], mean: Interval | None, colour: str) -> None:
    for k, point in enumerate(points):
        height = place + 0.14 + 0.1 * k
        ends = [[point.value - point.low], [point.high - point.value]]
        axis.errorbar([point.value], [height], xerr=ends, fmt="o", ms=3, lw=0.8, color=colour, alpha=0.6)
    if mean is not None:
        ends = [[mean.value - mean.low], [mean.high - mean.value]]
        axis.errorbar([mean.value], [place], xerr=ends, fmt="o", ms=7, lw=2, color=colour)


def costs_table(costs: Sequence[Cost]) -> "HTML":
    """What a training step of each arm costs here and now."""
    return html_table(
        ("", "CPU ms a step", "against the first"),
        [(TITLES[cost.arm], f"{cost.milliseconds:.1f}", f"{cost.ratio:.2f} ×") for cost in costs],
        caption=f"Measured while this page was made, the arms in turns in one process: medians of {costs[0].rounds} "
        "rounds after one that is not counted.",
    )


def trials_table(trials: Sequence[Trial]) -> "HTML":
    """The short trainings that chose the learning rates."""
    return html_table(
        ("", "learning rate", "error", "NLL (nats)"),
        [
            (TITLES[entry.arm], f"{entry.learning_rate:g}", f"{entry.error:.3f}", _nats(entry.nll))
            for entry in sorted(trials, key=lambda entry: (list(TITLES).index(entry.arm), entry.learning_rate))
        ],
        caption=f"Trainings of {trials[0].steps} steps with a seed that no table shows, on 2,000 molecules of the "
        "validation split: squared error of a component of the predicted noise (flow: of the velocity, another "
        "quantity), evenly over noise levels, and the bound.",
    )


def _nats(value: float | None) -> str:
    return "–" if value is None else nats(value, 1)


def race_figure(curves: Sequence[Curve]) -> Figure:
    """Validation error against the CPU seconds spent."""
    caption = (
        f"Networks at toy size, {curves[0].steps} steps each, one seed: a look at a race, not a result. "
        f"{curves[0].num_valid} molecules of the validation split, averaged weights."
    )
    with panels(caption=caption) as (figure, (axis,)):
        for curve in curves:
            axis.plot(curve.seconds, curve.error, "o-", ms=4, color=COLOURS[curve.arm], label=TITLES[curve.arm])
        axis.set_xlabel("CPU seconds of training")
        axis.set_ylabel("squared noise error")
        axis.set_yscale("log")
        axis.legend()
    return figure
