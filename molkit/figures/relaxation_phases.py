"""Figures of the chapter on the two phases of inference."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from molkit.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, panels
from molkit.figures.tables import html_table, with_interval
from molkit.metrics.statistics import bootstrap_interval
from molkit.relaxation.phases import PathEnergies, highest_rise
from molkit.studies.relaxation_phases import Band, Null, Phases

if TYPE_CHECKING:
    from IPython.display import HTML

ZOOM = 100
SHARES = {"elements": BLUE, "predicted elements": SKY, "bond orders": VERMILION}


def final_shares(found: Phases, null: Null) -> Figure:
    """Share of atoms and of molecules that have what they will end with, and the null of a perfect model."""
    caption = (
        f"n = {found.num_chains} chains of 19 atoms. Per cent of atoms (left) and of molecules (right) whose elements "
        "or bond orders stay as they are from this step to the end. Elements: largest channel of the noisy state; "
        "predicted elements: of the clean molecule that the network predicts. Dotted: elements of a perfect model that "
        "knows them from the start, in the noisy state."
    )
    with panels(2, width=8.8, height=3.3, caption=caption) as (figure, axes):
        for one, kind in zip(axes, ("atoms", "molecules"), strict=True):
            for name, colour in SHARES.items():
                one.plot(found.steps + 1, found.shares[f"{kind}, {name}"], color=colour, label=name)
            one.plot(null.steps + 1, getattr(null, kind), color=BLACK, ls=":", label="elements, perfect model")
            _steps_left(one, full=True)
            one.set(ylabel=f"{kind} with their final value (%)", ylim=(-2, 102))
        axes[0].plot(found.steps + 1, found.shares["valid valence"], color=GREEN, lw=1.0, label="valid valence")
        axes[0].legend(fontsize=7.5)
    return figure


def movements(found: Phases) -> Figure:
    """How far atoms move in a step, and how far bonds are from their final length."""
    caption = (
        f"n = {found.num_chains} chains of 19 atoms; line: mean, band: one standard deviation over chains. Bonds are "
        "those of the last frame. The last steps of the chain."
    )
    with panels(2, width=8.8, height=3.0, caption=caption) as (figure, (left, right)):
        for one, band, label in (
            (left, found.step_size, "step (Å)"),
            (right, found.bond_error, "bond-length error (Å)"),
        ):
            _band(one, found.steps, band)
            _steps_left(one, full=False)
            one.set(ylabel=label, yscale="log")
        right.axhline(0.05, color=BLACK, lw=0.8, ls="--")
    return figure


def _band(axes: Axes, steps: np.ndarray, band: Band) -> None:
    near = (steps < ZOOM) & np.isfinite(band.mean) & (band.mean > 0)
    low = np.maximum(band.mean - band.spread, 0.1 * band.mean)
    axes.plot(steps[near] + 1, band.mean[near], color=BLUE)
    axes.fill_between(steps[near] + 1, low[near], (band.mean + band.spread)[near], color=BLUE, alpha=0.2, lw=0)


def _steps_left(axes: Axes, *, full: bool) -> None:
    axes.set(xlabel="steps left, of 1,000", xlim=(1000 if full else ZOOM, 1 if full else 0))
    if full:
        axes.set_xscale("log")


def order_table(found: Phases, null: Null) -> "HTML":
    """When half of the molecules are final, in each respect."""
    rows = []
    for name, steps in found.settled.items():
        value = bootstrap_interval(steps.astype(float), statistic=np.median)
        rows.append((name, with_interval(value, 0), str(len(steps))))
    rows.append(("elements, perfect model", f"{null.median:.0f}", "–"))
    caption = (
        "Steps left, of 1,000, when half of the molecules have what they will end with; bond lengths: mean error below "
        f"0.05 Å from there on. Bootstrap 95 % intervals over chains. {found.num_odd} of {found.num_chains} molecules "
        "have an odd number of electrons."
    )
    return html_table(("", "steps left", "n"), rows, caption=caption)


def paths(found: Sequence[PathEnergies]) -> Figure:
    """Energy along chains from their last change of an element, and along the straight line."""
    failed = sum(one.num_failed for one in found)
    caption = (
        f"n = {len(found)} chains with an even number of electrons, GFN2-xTB. Solid: every frame from the first with "
        f"final elements (at most 100 steps from the end); dashed: the straight line. {failed} frames have no energy."
    )
    colours = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)
    with panels(1, width=6.4, height=3.2, caption=caption) as (figure, (axes,)):
        for colour, one in zip(colours, found, strict=False):
            axes.plot(one.steps + 1, one.diffusion, color=colour, lw=1.2)
            line = np.linspace(one.steps[0] + 1, 0, len(one.straight))
            axes.plot(line, one.straight, color=colour, lw=1.0, ls="--")
        axes.set(xlabel="steps left, of 1,000", ylabel="energy above the end (kcal/mol)", yscale="symlog")
        axes.invert_xaxis()
    return figure


def rises_table(found: Sequence[PathEnergies]) -> "HTML":
    """How far each path rises above the higher of its ends."""
    rows = [
        (
            f"chain {k + 1}",
            str(len(one.diffusion)),
            f"{highest_rise(one.diffusion):.1f}",
            f"{highest_rise(one.straight):.1f}",
        )
        for k, one in enumerate(found)
    ]
    caption = "Highest energy above the higher end of the path, kcal/mol, GFN2-xTB; 0 for a path that only falls."
    return html_table(("", "frames", "diffusion path", "straight line"), rows, caption=caption)
