"""Figures and tables of the functional of several compositions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from molkit.figures.ofdft import interval, number, small
from molkit.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILION, panels
from molkit.figures.tables import html_table
from molkit.studies.ofdft_several import RADII, SeveralEntry
from molkit.studies.ofdft_small import ARMS, SmallStudy

if TYPE_CHECKING:
    from IPython.display import HTML

ABLATION = ("full", "no gradient labels", "no perturbed samples")
SEEN_AND_FOUND = ((-0.2, "Kohn-Sham", "before", ORANGE), (0.2, "MINAO", "after", BLUE))
ARM_COLOURS = dict(zip(ARMS, (BLACK, VERMILION, ORANGE, BLUE, GREEN, PURPLE), strict=True))
SET_NAMES = {"test": "unseen geometries", "larger": "three heavy atoms"}


def starts_table(study: SmallStudy, arm: str = "full") -> "HTML":
    """One arm from every start, on both sets."""
    lines = []
    for where, label in SET_NAMES.items():
        for start in study.starts(arm):
            after = study.errors(arm, where, start)
            found = [interval(study.error(arm, where, start, column)) for column in ("before", "after", "selected")]
            shares = np.mean(study.errors(arm, where, start, "converged"))
            steps = np.mean(study.errors(arm, where, start, "steps"))
            density = np.mean(study.errors(arm, where, start, "density"))
            cells = [number(float(np.abs(after).max())), number(float(after.mean())), small(float(density))]
            lines.append([label, start, *found, *cells, f"{steps:.0f}", f"{100 * shares:.0f} %"])
    head = ["molecules", "start", "before (mHa)", "minimised (mHa)", "selected step (mHa)", "largest", "bias"]
    head += ["density error", "steps", "converged"]
    caption = f"Arm {arm!r}: mean absolute errors against Kohn-Sham, {len(study.formulas['test'])} geometries of ten "
    caption += f"compositions and {len(study.formulas['larger'])} of nine larger ones, {len(study.of_arm(arm))} "
    caption += "trainings. Density error: root of the integral of the squared difference, bohr^-3/2."
    return html_table(head, lines, caption=caption)


def arms_table(study: SmallStudy, arms: Sequence[str] | None = None) -> "HTML":
    """Arms (default: all), minimised from MINAO; the network without density beside."""
    lines = []
    for arm in study.arms if arms is None else [arm for arm in study.arms if arm in arms]:
        start = "geometry" if arm == "geometry" else "MINAO"
        cells = [interval(study.error(arm, where, start)) for where in SET_NAMES]
        shares = np.mean(study.errors(arm, "test", start, "converged"))
        lines.append([arm, *cells, f"{100 * shares:.0f} %", str(len(study.of_arm(arm)))])
    predicted = [interval(study.error("full", where, "reference", "before")) for where in SET_NAMES]
    lines.append(["full, not minimised", *predicted, "", str(len(study.of_arm("full")))])
    head = ["arm", *(f"{label} (mHa)" for label in SET_NAMES.values()), "converged", "trainings"]
    caption = "Mean absolute errors against Kohn-Sham, intervals over trainings or, where there is one, bootstrapped "
    caption += (
        "over molecules. Geometry: the same network trained and asked without a density. 1.594 mHa is 1 kcal/mol."
    )
    return html_table(head, lines, caption=caption)


def ablation_figure(study: SmallStudy, arms: Sequence[str] = ABLATION) -> Figure:
    """Every geometry by every arm: on the Kohn-Sham density, and after minimisation."""
    shown = [arm for arm in arms if study.of_arm(arm)]
    count = len(study.formulas["test"])
    caption = (
        f"|Error| of the energy of {count} unseen geometries, one point each. On the Kohn-Sham density a functional "
    )
    caption += "is a regression; minimised from MINAO it finds its own density. Bars: medians. Trainings: "
    caption += ", ".join(f"{arm} {len(study.of_arm(arm))}" for arm in shown) + ". Dashed: 1 kcal/mol."
    with panels(1, width=8.6, height=0.9 + 0.75 * len(shown), caption=caption) as (figure, (place,)):
        random = np.random.default_rng(0)
        for row, arm in enumerate(shown):
            for shift, start, column, colour in SEEN_AND_FOUND:
                values = np.abs(study.errors(arm, "test", start, column)).ravel()
                heights = row + shift + 0.06 * random.standard_normal(len(values))
                place.plot(values, heights, "o", color=colour, markersize=3, alpha=0.5)
                ends = [row + shift - 0.17, row + shift + 0.17]
                place.plot([np.median(values)] * 2, ends, color=BLACK, linewidth=2.0)
        for _, _, column, colour in SEEN_AND_FOUND:
            label = {"before": "on the Kohn-Sham density", "after": "minimised"}[column]
            place.plot([], [], "o", color=colour, markersize=4, label=label)
        place.axvline(1.594, color="#888888", linestyle="--", linewidth=1.0)
        place.set(xscale="log", xlabel="|error| (mHa)")
        place.set_yticks(range(len(shown)), shown)
        place.set_ylim(len(shown) - 0.5, -0.5)
        place.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def errors_figure(study: SmallStudy, arm: str = "full") -> Figure:
    """Errors of every molecule by composition, and what validation said along the training."""
    caption = (
        f"Left: errors after minimisation from MINAO, each point a geometry ({len(study.of_arm(arm))} trainings); "
    )
    caption += "blue: compositions of the training set, orange: larger ones. Right: mean absolute error of validation "
    caption += "geometries after minimisation, which chooses the weights."
    with panels(2, width=9.0, height=4.4, caption=caption) as (figure, (left, right)):
        names = list(dict.fromkeys(study.formulas["test"])) + list(dict.fromkeys(study.formulas["larger"]))
        for where, colour in (("test", BLUE), ("larger", ORANGE)):
            values = np.abs(study.errors(arm, where, "MINAO"))
            rows = [names.index(formula) for formula in study.formulas[where]]
            left.plot(
                values.T, np.repeat(np.array(rows)[:, None], len(values), axis=1), "o", color=colour, markersize=3
            )
        left.axvline(1.594, color="#888888", linestyle="--", linewidth=1.0)
        left.set(xscale="log", xlabel="|error| (mHa)")
        left.set_yticks(range(len(names)), names, fontsize=7)
        left.set_ylim(len(names) - 0.5, -0.5)
        for name in study.arms:
            for position, run in enumerate(study.of_arm(name)):
                label = name if position == 0 else None
                steps = [entry.step for entry in run.snapshots]
                right.plot(
                    steps,
                    [entry.error for entry in run.snapshots],
                    "o-",
                    color=ARM_COLOURS[name],
                    label=label,
                    markersize=3,
                )
        right.set(xscale="log", yscale="log", xlabel="training step", ylabel="validation error (mHa)")
        right.legend(fontsize=7)
    return figure


def live_table(entries: Sequence[SeveralEntry]) -> "HTML":
    """Molecules whose densities were minimised for this page."""
    lines = [
        [
            entry.formula,
            number(entry.kohn_sham, 6),
            number(entry.start_error, 1),
            number(entry.error, 3),
            number(entry.selected_error, 3),
            number(entry.reference_error, 3),
            number(entry.predicted_error, 3),
            number(entry.moved, 3),
            f"{entry.steps}{'' if entry.converged else ', not converged'}",
        ]
        for entry in entries
    ]
    head = ["molecule", "Kohn-Sham (Ha)", "MINAO (mHa)", "minimised (mHa)", "selected step (mHa)"]
    head += ["from the reference (mHa)", "not minimised (mHa)", "moved (electrons)", "steps"]
    caption = "Errors against Kohn-Sham of geometries no table has used; the same weights for all rows. Not minimised: "
    caption += "the energy at the reference density. Moved: half the integral of |rho - rho_KS|, minimised density."
    return html_table(head, lines, caption=caption)


def shells_figure(entries: Sequence[SeveralEntry]) -> Figure:
    """Electrons at a distance from the first heavy atom."""
    caption = "Density averaged over directions about the first heavy atom, times 4 pi r^2: Kohn-Sham (black) and "
    caption += "minimised (dashed). The first maximum is the 1s shell, the second the valence shell with the bonds."
    with panels(min(3, len(entries)), width=8.6, height=2.8, caption=caption) as (figure, axes):
        for entry, place in zip(entries, axes, strict=False):
            place.plot(RADII, entry.kohn_sham_radial, color=BLACK, label="Kohn-Sham")
            place.plot(RADII, entry.radial, "--", color=BLUE, label="minimised")
            place.set(xlabel="r (bohr)", ylabel="electrons per bohr", title=entry.formula)
            place.legend(fontsize=7)
    return figure
