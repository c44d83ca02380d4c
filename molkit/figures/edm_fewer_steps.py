"""Figures and tables of the chapter on fewer network calls."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from molkit.edm.grids import grid_steps
from molkit.edm.model import load
from molkit.edm.samplers import ANCESTRAL, DEFAULT
from molkit.figures.style import BLACK, BLUE, ORANGE, PURPLE, SKY, VERMILION, panels
from molkit.figures.tables import Text, html_table, percent, with_interval
from molkit.studies.edm_fewer_steps import (
    ArmResult,
    FewerSteps,
    LiveArm,
    Loss,
    fewest_calls,
    most_calls_that_lose,
    of_other_weights,
)
from molkit.studies.edm_step_price import Price

if TYPE_CHECKING:
    from IPython.display import HTML

COLOURS = {
    "ancestral": BLACK,
    "ancestral-quadratic": ORANGE,
    "sde-2m": BLUE,
    "sde-2m-even": SKY,
    "dpm-2m": VERMILION,
    "ddim": PURPLE,
}
GRID_COLOURS = {"even": BLACK, "quadratic": BLUE}
PRICE_COLOURS = {"even": BLACK, "quadratic": SKY, "quadratic, blind start": BLUE}
MINUS = "\u2212"


def grids(weights: str, *, num_calls: int) -> Figure:
    """Where the calls of a chain lie, in t and in noise per signal."""
    table = load(weights).log_snr
    caption = f"Steps visited with {num_calls} network calls; sigma / alpha is the noise in ångström. Nothing random."
    with panels(2, width=8.4, height=3.0, caption=caption) as (figure, (left, right)):
        for name, colour in GRID_COLOURS.items():
            steps = np.array(grid_steps(len(table) - 1, num_calls, grid=name))
            noise = np.exp(-0.5 * table.numpy()[steps])
            call = np.arange(1, len(steps) + 1)
            left.plot(call, steps / (len(table) - 1), color=colour, label=name)
            right.plot(call, noise, color=colour)
        left.set(xlabel="network call", ylabel="time t")
        right.set(xlabel="network call", ylabel="noise σ/α (Å)", yscale="log")
        left.legend(fontsize=8)
    return figure


def price(result: Price) -> Figure:
    """Error of the prediction along the chain, and what a chain of few steps pays for keeping it within a step."""
    caption = (
        f"Left: squared error of the predicted clean state on {result.num_molecules} validation molecules. Right: "
        f"excess of the bound of ancestral chains of {result.num_calls} calls, summed from noise to molecule; a "
        "blind first step may even gain."
    )
    with panels(2, width=8.4, height=3.0, caption=caption) as (figure, (left, right)):
        left.plot(np.maximum(result.steps, 0.5), result.error, color=BLUE, marker="o", ms=3)
        left.set(xscale="log", yscale="log", xlabel="step t", ylabel="squared error of a molecule (Å²)")
        for name, (steps, nats) in result.chains.items():
            total = nats.sum()
            label = f"{name}: {total:.0f} nats in all"
            right.plot(steps, nats.cumsum(), color=PRICE_COLOURS[name], marker=".", ms=4, lw=1.2, label=label)
        right.set(
            xscale="log", yscale="log", xlabel="step t", ylabel="excess so far (nats a molecule)", ylim=(1e-2, None)
        )
        right.invert_xaxis()
        right.legend(fontsize=8)
    return figure


def quality(study: FewerSteps) -> Figure:
    """Stable molecules against network calls and against CPU time, with the full chain as a band."""
    reference = study.reference
    caption = (
        f"Weights {study.weights}, {study.precision}; n = {reference.requested:,} full chains, others as in the table. "
        f"Bars and band: 95 % intervals. {study.machine}, one thread on a shared machine."
    )
    with panels(2, width=9.0, height=3.6, caption=caption, sharey=True) as (figure, (left, right)):
        share = reference.molecule_stability.scaled(100.0)
        for axis in (left, right):
            axis.axhspan(share.low, share.high, color="#dddddd", label=f"full chain, {reference.calls} calls")
        for k, (name, colour) in enumerate(COLOURS.items()):
            shift = 1.02 ** (k - 2)  # side by side, so that no bar hides another
            arms = sorted((arm for arm in study.arms if arm.sampler == name), key=lambda arm: arm.calls)
            _points(left, [shift * arm.calls for arm in arms], arms, colour, name)
            timed = [arm for arm in arms if arm.seconds is not None]
            _points(right, [shift * arm.seconds for arm in timed], timed, colour, name)
        left.set(xscale="log", xlabel="network calls of a chain", ylabel="stable molecules (%)", ylim=(0, None))
        right.set(xscale="log", xlabel="CPU time of a molecule (s)")
        left.legend(fontsize=8, loc="lower right")
    return figure


def _points(axis: Axes, places: Sequence[float], arms: Sequence[ArmResult], colour: str, label: str) -> None:
    """A curve of shares in per cent with its intervals."""
    if not arms:
        return
    shares = [arm.molecule_stability.scaled(100.0) for arm in arms]
    values = np.array([[entry.value, entry.low, entry.high] for entry in shares])
    errors = np.abs(values[:, 1:] - values[:, :1]).T
    axis.errorbar(places, values[:, 0], yerr=errors, color=colour, marker="o", ms=4, lw=1.3, label=label)


def arms_table(study: FewerSteps) -> "HTML":
    """Every arm: stability, validity, distance of bond lengths, cost."""
    head = (
        "sampler",
        "calls",
        "n",
        "molecules stable",
        "atoms stable",
        "valid",
        "unique of valid",
        "bonds",
        "CPU",
        "lost",
    )
    rows = [
        (
            arm.sampler,
            str(arm.calls),
            f"{arm.requested:,}",
            percent(arm.molecule_stability),
            percent(arm.atom_stability),
            f"{100 * arm.valid / arm.requested:.1f}",
            f"{100 * arm.unique / max(arm.valid, 1):.1f}",
            _milli(arm.bond_distance),
            "–" if arm.seconds is None else f"{arm.seconds:.3f} s",
            str(arm.requested - arm.molecules),
        )
        for arm in sorted(study.arms, key=lambda arm: (arm.sampler, -arm.calls))
    ]
    return html_table(
        head,
        rows,
        caption=f"Weights {study.weights} ({study.weights_sha256[:8]}), seed {study.seed}, drawn at commit "
        f"{(study.commit or 'unknown')[:8]}. Shares in per cent with 95 % intervals; bonds: Wasserstein distance of "
        f"bond lengths to QM9's test split in mÅ (1,000 molecules of the validation split: "
        f"{_milli(study.data_bond_distance)}); CPU: a molecule, one thread; lost: chains that did not stay finite, "
        "counted as unstable and invalid. Uniqueness falls with n.",
    )


def _milli(value: float | None) -> str:
    return "–" if value is None else f"{1000 * value:.2f}"


def losses_table(entries: Sequence[tuple[ArmResult, Loss]], *, largest: int = 100) -> "HTML":
    """Loss of stable molecules against the full chain, and the bar, for arms of at most `largest` calls."""
    rows = [
        (
            arm.sampler,
            str(arm.calls),
            f"{arm.requested:,}",
            with_interval(lost.interval, signed=True),
            f"{lost.pairs:,}" if lost.pairs else "–",
            "–" if lost.agreement is None else f"{lost.agreement:.2f}",
            lost.verdict,
        )
        for arm, lost in sorted(entries, key=lambda entry: (entry[0].sampler, -entry[0].calls))
        if arm.calls <= largest
    ]
    return html_table(
        ("sampler", "calls", "n", "points lost", "pairs", "correlation", "bar"),
        rows,
        caption="Points of stable molecules lost against the full ancestral chain (negative: more stable), 95 % "
        "bootstrap interval over molecules; pairs share sizes and noise with it. Bar: at most 1 point lost, upper "
        "limit at most 2.5; missed: more than 1 point even at the lower limit; open: too few molecules to tell.",
    )


def refinement_table(study: FewerSteps) -> "HTML":
    """The strided ancestral chain with every step of one part of the way taken besides."""
    plain = study.arm(ANCESTRAL.name, 100)
    rows = [("none, 100 steps evenly in t", str(plain.calls), f"{plain.requested:,}", *_both(plain))]
    for arm in study.arms:
        if arm.sampler.startswith(f"{ANCESTRAL.name}, "):
            rows.append((arm.sampler.partition(", ")[2], str(arm.calls), f"{arm.requested:,}", *_both(arm)))
    reference = study.reference
    rows.append(("all", str(reference.calls), f"{reference.requested:,}", *_both(reference)))
    return html_table(
        ("steps taken besides", "calls", "n", "molecules stable", "atoms stable"),
        rows,
        caption=f"Ancestral chains of weights {study.weights}: which part of the way wants fine steps. Per cent with "
        "95 % intervals; all rows share sizes and noise.",
    )


def _both(arm: ArmResult) -> tuple[str, str]:
    return percent(arm.molecule_stability), percent(arm.atom_stability)


def verdict(study: FewerSteps, losses: Sequence[tuple[ArmResult, Loss]], *, weights: str) -> Text:
    """Whether the default meets the bar, down to how many calls each sampler does, and whose numbers these are."""
    entries = {(arm.sampler, arm.calls): lost for arm, lost in losses}
    lines = []
    default = entries.get((DEFAULT.sampler, DEFAULT.num_calls))
    if default is not None:
        lost = with_interval(default.interval, signed=True).replace("\n", " ")
        setting = f"{DEFAULT.sampler} with {DEFAULT.num_calls} calls"
        lines.append(f"Default of molkit sample, {setting}: bar {default.verdict}; points lost: {lost}")
    for name in COLOURS:
        fewest, losing = fewest_calls(losses, name), most_calls_that_lose(losses, name)
        shown = "bar not shown at any number of calls" if fewest is None else f"bar met down to {fewest} calls"
        broken = "" if losing is None else f"; more than 1 point lost for certain at {losing} calls"
        if any(sampler == name for sampler, _ in entries):
            lines.append(f"{name}: {shown}{broken}")
    if of_other_weights(study, weights):
        lines.append(f"The stored study was drawn with another state of the weights ({study.weights}).")
    return Text("\n".join(lines))


def live_table(rows: Sequence[LiveArm], *, num_molecules: int) -> "HTML":
    """What was drawn for the page beside the stored arms."""
    return html_table(
        ("calls", "stable, drawn now", "stable, stored", "CPU seconds of all"),
        [(str(row.calls), percent(row.share), percent(row.stored), f"{row.seconds:.1f}") for row in rows],
        caption=f"Sampler {DEFAULT.sampler}, {num_molecules} molecules a row from a seed of their own; per cent "
        "with 95 % intervals.",
    )
