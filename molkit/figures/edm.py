"""Figures and tables of the EDM chapters."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from molkit.figures.style import DATA_COLOUR, GREEN, MODEL_COLOUR, ORANGE, PAPER_COLOUR, PURPLE, panels
from molkit.figures.tables import html_table, percent, with_interval
from molkit.figures.view3d import show_grid, show_trajectory
from molkit.studies.edm_generation import Film, LiveSamples, Shapes, SizeCurve, StabilityTable
from molkit.studies.edm_likelihood import BoundResult, StepCurve, positions_constant
from molkit.studies.qm9_fluorine import FluorineEstimate

if TYPE_CHECKING:
    from IPython.display import HTML

COLOURS = {"QM9": DATA_COLOUR, "EDM, trained here": MODEL_COLOUR}
PUBLISHED_COLUMNS = ("atoms", "molecules", "valid", "unique")


def schedule(curves: Mapping[str, np.ndarray]) -> Figure:
    """Signal and noise amplitude along the chain."""
    with panels(width=6.0, height=2.8, caption="Amplitudes of the model's schedule; nothing random.") as (
        figure,
        (axes,),
    ):
        axes.plot(curves["t"], curves["alpha"], color=MODEL_COLOUR, label="signal α")
        axes.plot(curves["t"], curves["sigma"], color=ORANGE, label="noise σ")
        axes.set(xlabel="time t = step / T", ylabel="amplitude", xlim=(0, 1), ylim=(0, 1.02))
        axes.legend(loc="center right")
    return figure


def film(result: Film, *, reps: int = 1) -> "HTML":
    """The trajectory as a film; the elements are those of the last frame."""
    caption = (
        f"One chain from noise to {result.molecule.formula}, {len(result.frames)} frames. "
        "Elements are coloured as they are decided at the end."
    )
    return show_trajectory(result.frames, result.molecule.atomic_numbers, caption=caption, reps=reps)


def gallery(live: LiveSamples, *, count: int = 12) -> "HTML":
    """The first molecules of the live samples, stable or not."""
    shown = [live.molecules[row] for row in range(min(count, len(live.molecules)))]
    stable = int(live.stable[: len(shown)].sum())
    caption = (
        f"The first {len(shown)} of {live.requested} molecules drawn for this page, in the order they came; "
        f"{stable} of these {len(shown)} are stable by EDM's rule."
    )
    return show_grid(shown, caption=caption)


def stability_table(table: StabilityTable) -> "HTML":
    """Paper, data and ours: per cent with 95 % intervals."""
    head = ("", "n", "atoms stable", "molecules stable", "valid", "valid and unique", "novel of unique")
    rows = []
    for row in table.rows:
        if row.score is None:
            cells = [f"{row.published[key]:.1f}" for key in PUBLISHED_COLUMNS]
            rows.append((row.label, "–", *cells, "–"))
            continue
        score = row.score
        shares = (score.atom_stability, score.molecule_stability, score.validity, score.valid_and_unique, score.novelty)
        rows.append((row.label, f"{score.num_molecules:,}", *[percent(share) for share in shares]))
    return html_table(
        head,
        rows,
        caption="Stability and validity in per cent, 95 % intervals in brackets. Every row without 'published' was "
        "scored by the same code; uniqueness falls with the number of molecules, so compare rows of equal n. "
        f"Our model: {table.model}.",
    )


def stability_by_size(curves: Mapping[str, SizeCurve], *, published: float = 82.0) -> Figure:
    """Share of stable molecules against the number of atoms, with 95 % intervals."""
    counts = "; ".join(f"{label}: n = {sum(curve.counts):,}" for label, curve in curves.items())
    caption = f"Share of molecules stable by EDM's rule, Wilson 95 % intervals; sizes with at least 20. {counts}."
    with panels(width=7.0, height=3.4, caption=caption) as (figure, (axes,)):
        for label, curve in curves.items():
            shares = 100.0 * np.array([[s.value, s.low, s.high] for s in curve.shares]).reshape(-1, 3)
            errors = np.abs(shares[:, 1:] - shares[:, :1]).T
            axes.errorbar(
                curve.sizes, shares[:, 0], yerr=errors, color=COLOURS[label], marker="o", ms=4, lw=1.2, label=label
            )
        axes.axhline(published, color=PAPER_COLOUR, ls="--", lw=1.2, label="EDM, published (all sizes)")
        axes.set(xlabel="number of atoms M", ylabel="stable molecules (%)", ylim=(0, 102))
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def composition(shapes: Shapes) -> Figure:
    """Share of each element among all atoms."""
    symbols = list(shapes.elements["QM9"]) + sorted(
        set(shapes.elements["EDM, trained here"]) - set(shapes.elements["QM9"])
    )
    caption = f"Shares among all atoms: {_counts(shapes)}."
    with panels(width=6.0, height=2.8, caption=caption) as (figure, (axes,)):
        for k, (label, shares) in enumerate(shapes.elements.items()):
            heights = [100.0 * shares.get(symbol, 0.0) for symbol in symbols]
            axes.bar(np.arange(len(symbols)) + 0.4 * k - 0.2, heights, 0.38, color=COLOURS[label], label=label)
        axes.set_xticks(range(len(symbols)), symbols)
        axes.set(xlabel="element", ylabel="share of atoms (%)")
        axes.legend()
    return figure


def geometry(shapes: Shapes) -> Figure:
    """Distributions of the commonest bond lengths and angles, data against samples."""
    kinds = [*shapes.lengths.items(), *shapes.angles.items()]
    columns = len(shapes.lengths)
    caption = f"The commonest bonds and angles, found by the distance rule in {_counts(shapes)}."
    with panels(columns, 2, width=2.3 * columns, height=2.2, caption=caption) as (figure, axes):
        for axis, (kind, (ours, data)) in zip(axes, kinds, strict=True):
            _densities(axis, ours, data)
            axis.set_title(kind, fontsize=10)
            axis.set_yticks([])
        for axis in axes[:columns]:
            axis.set_xlabel("length (Å)")
        for axis in axes[columns:]:
            axis.set_xlabel("angle (°)")
        axes[0].legend(fontsize=8)
    return figure


def _counts(shapes: Shapes) -> str:
    return f"{shapes.num_data:,} molecules of QM9's test split and {shapes.num_samples:,} stored samples"


def _densities(axis: Axes, ours: np.ndarray, data: np.ndarray) -> None:
    low, high = np.percentile(data, [0.05, 99.95])
    pad = 0.25 * (high - low)
    bins = np.linspace(low - pad, high + pad, 90)
    axis.hist(data, bins, density=True, color="#c9ced3", label="QM9 test")
    if len(ours):
        axis.hist(ours, bins, density=True, histtype="step", color=MODEL_COLOUR, lw=1.4, label="samples")


def distances_table(shapes: Shapes, *, count: int = 12) -> "HTML":
    """Distance of each distribution from the data's."""
    rows = []
    for entry in shapes.comparisons[:2] + tuple(c for c in shapes.comparisons[2:] if c.distance is not None)[:count]:
        value = "–" if entry.distance is None else f"{entry.distance:.4f} {entry.unit}".strip()
        name = "Wasserstein" if entry.measure == "wasserstein" else "total variation"
        rows.append((entry.quantity.replace("_", " "), entry.kind, name, value, f"{entry.num_samples:,}"))
    return html_table(
        ("quantity", "kind", "distance", "to QM9 test", "values in samples"),
        rows,
        caption="How far the samples are from held-back molecules; zero would be the same distribution.",
    )


def learning_curve(curve: Mapping[str, np.ndarray]) -> Figure:
    """Training error against molecule passes."""
    caption = "Mean squared error of the training batches, per component of the noise; one run."
    with panels(width=6.4, height=2.9, caption=caption) as (figure, (axes,)):
        passes = curve["passes"] / 1e6
        axes.plot(passes, curve["noise_error"], color="#a9c6dd", lw=0.8, label="each log line")
        centres, means = octave_means(passes, curve["noise_error"])
        axes.plot(centres, means, color=MODEL_COLOUR, marker="o", ms=3.5, label="means over a quarter octave")
        axes.set(xlabel="molecule passes (million)", ylabel="squared noise error", xscale="log", yscale="log")
        axes.legend()
    return figure


def octave_means(passes: np.ndarray, values: np.ndarray, *, per_octave: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Means of passes and values [n] over bins of equal width in log passes, for a logarithmic axis."""
    bins = np.floor(per_octave * np.log2(passes / passes[0]) + 1e-9).astype(int)
    kept = np.unique(bins)
    return tuple(np.array([column[bins == b].mean() for b in kept]) for column in (passes, values))


def bound_table(result: BoundResult) -> "HTML":
    """The terms of the bound in nats per molecule."""
    terms = {**result.terms, "bound on −log p(x, h, M)": result.nll.mean}
    rows = [(label, *with_interval(term).split("\n")) for label, term in terms.items()]
    return html_table(
        ("term", "nats per molecule", "95 % interval"),
        rows,
        caption=f"Mean over {len(result.nll.num_atoms):,} molecules of the test split, steps drawn for each: "
        f"{result.nll.draws}; intervals by bootstrap over molecules.",
        bold_last=True,
    )


def step_curve(curve: StepCurve) -> Figure:
    """Where along the chain the bound is paid, and the plain error there."""
    caption = f"{curve.num_molecules:,} test molecules behind every point; bars: 1.96 standard errors over them."
    with panels(2, width=8.4, height=3.0, caption=caption) as (figure, (left, right)):
        left.errorbar(
            curve.steps, curve.weighted, yerr=1.96 * curve.weighted_error, color=MODEL_COLOUR, marker="o", ms=3.5
        )
        left.set(xscale="log", xlabel="step t", ylabel="L_t (nats per molecule)")
        right.plot(curve.steps, curve.plain, color=GREEN, marker="o", ms=3.5, label="squared error per component")
        right.plot(curve.steps, curve.weights, color=PURPLE, ls="--", label="weight w_t")
        right.set(xscale="log", yscale="log", xlabel="step t", ylabel="dimensionless")
        right.legend(fontsize=8)
    return figure


def nll_by_size(result: BoundResult) -> Figure:
    """The bound against the number of atoms, and the part of it that no network changes."""
    sizes, totals = result.nll.num_atoms, result.nll.terms.total.numpy()
    caption = f"{len(sizes):,} test molecules, steps drawn for each: {result.nll.draws}."
    with panels(width=6.6, height=3.2, caption=caption) as (figure, (axes,)):
        axes.scatter(sizes, totals, s=9, color=MODEL_COLOUR, alpha=0.45, label="test molecules", linewidths=0)
        grid = np.arange(sizes.min(), sizes.max() + 1)
        axes.plot(grid, positions_constant(grid), color=PAPER_COLOUR, ls="--", label="−4.84 · 3 (M − 1): constant part")
        low, high = np.percentile(totals, [0.5, 99.0])
        axes.set(
            xlabel="number of atoms M",
            ylabel="bound on −log p (nats)",
            ylim=(min(low, positions_constant(sizes.max())) - 20, high + 40),
        )
        axes.legend()
    return figure


def fluorine_table(estimate: FluorineEstimate) -> "HTML":
    """The data's row with the missing fluorine molecules estimated from their hydrogen analogues."""
    rows = [
        ("published, whole of QM9", "99.0", "95.2", "97.7"),
        _percent_row(
            "our copy, without fluorine", estimate.packed_atoms, estimate.packed_molecules, estimate.packed_validity
        ),
        ("the analogues alone", "–", percent(estimate.analogue_molecules), "–"),
        (
            "whole of QM9, estimated",
            f"{100 * estimate.whole_atoms:.2f}",
            percent(estimate.whole_molecules),
            f"{100 * estimate.whole_validity:.1f}",
        ),
    ]
    return html_table(
        ("", "atoms stable (%)", "molecules stable (%)", "valid (%)"),
        rows,
        caption=f"{estimate.num_analogues} of {estimate.num_fluorine} known fluorine molecules have an analogue with "
        "hydrogen in our copy; the interval is theirs alone. All 2,087 molecules that our copy lacks are counted as "
        "fluorine molecules, although a few of them are not.",
    )


def _percent_row(label: str, *shares: float) -> tuple[str, ...]:
    return (label, *[f"{100 * share:.2f}" for share in shares])
