"""Figures and tables of the chapters on orbital-free density functional theory."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from molkit.figures.style import BLACK, BLUE, GREEN, ORANGE, SKY, VERMILION, panels
from molkit.figures.tables import html_table, with_interval
from molkit.metrics.statistics import Interval
from molkit.studies.ofdft_forces import ForceEntry
from molkit.studies.ofdft_minimise import LiveGeometry, LiveStudy
from molkit.studies.ofdft_samples import LiveSamples
from molkit.studies.ofdft_water import ARMS, STARTS, WaterStudy

if TYPE_CHECKING:
    from IPython.display import HTML

MINUS = "\u2212"
FAMILIES = {"plain": (ORANGE, "plain coordinates, no reference"), "variance": (VERMILION, "variance coordinates")}
ARM_COLOURS = {arm: FAMILIES.get(arm.split()[0].strip(","), (BLUE, ""))[0] for arm in ARMS}
START_COLOURS = dict(zip(STARTS, (BLACK, GREEN, SKY, BLUE), strict=True))


def number(value: float, digits: int = 2) -> str:
    """A number with a true minus sign, thousands apart, and no sign on a zero."""
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", MINUS)


def small(value: float) -> str:
    """A small number in powers of ten."""
    return f"{value:.1e}".replace("-", MINUS)


def interval(found: Interval, digits: int = 3) -> str:
    """A mean with its interval on a second line."""
    return with_interval(found, digits)


def arms_figure(study: WaterStudy) -> Figure:
    """Regression error and minimised error of every arm."""
    caption = (
        f"{study.num_test} unseen geometries of water, {len(study.of_arm('full'))} trainings an arm (points), "
        f"{study.num_train} training geometries. Regression: labelled samples within 20 mHa of the ground state. "
        "Minimised: L-BFGS from the MINAO density."
    )
    with panels(1, width=7.6, height=4.2, caption=caption) as (figure, (axes,)):
        for row, arm in enumerate(study.arms):
            runs = study.of_arm(arm)
            after = [np.abs(run.starts["MINAO"].after).mean() for run in runs]
            axes.plot(
                [run.regression_near for run in runs], [row + 0.12] * len(runs), "o", color=BLACK, fillstyle="none"
            )
            axes.plot(after, [row - 0.12] * len(runs), "o", color=ARM_COLOURS[arm])
        axes.plot([], [], "o", color=BLACK, fillstyle="none", label="regression")
        axes.plot([], [], "o", color=BLUE, label="minimised, response coordinates")
        for colour, label in FAMILIES.values():
            axes.plot([], [], "o", color=colour, label=f"minimised, {label}")
        axes.axvline(1.594, color="#888888", linestyle="--", linewidth=1.0)
        axes.text(1.8, 0.1, "1 kcal/mol", fontsize=8, color="#555555")
        axes.set(xscale="log", xlabel="mean absolute error of the energy (mHa)")
        axes.set_yticks(range(len(study.arms)), study.arms)
        axes.set_ylim(len(study.arms) - 0.4, -0.6)
        axes.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.4, 1.0))
    return figure


def samples_figure(found: LiveSamples) -> Figure:
    """What the functional says of labelled densities it has not seen."""
    caption = f"{found.name}: {len(found.excess)} labelled densities (Kohn-Sham steps, and samples in random frozen "
    caption += "potentials) up to 0.4 Ha above the ground state. Left: error of the energy. Right: slopes along the "
    caption += f"functional's coordinates, label and functional, {found.slopes.shape[-1]} a density."
    with panels(2, width=8.4, height=3.2, caption=caption) as (figure, (left, right)):
        left.plot(1e3 * found.excess, np.abs(found.errors), "o", color=BLUE, markersize=4)
        left.set(xscale="log", yscale="log", xlabel="energy above the ground state (mHa)", ylabel="|error| (mHa)")
        right.plot(found.slopes[0].ravel(), found.slopes[1].ravel(), ".", color=BLUE, markersize=3)
        ends = [found.slopes[0].min(), found.slopes[0].max()]
        right.plot(ends, ends, color=BLACK, linewidth=0.8)
        right.set(xlabel="slope, label (Ha$^{1/2}$)", ylabel="slope, functional (Ha$^{1/2}$)")
    return figure


def starts_table(study: WaterStudy, arm: str = "full") -> "HTML":
    """One arm from every start."""
    lines = []
    for start in STARTS:
        columns = [run.starts[start] for run in study.of_arm(arm)]
        worst = max(np.abs(column.after).max() for column in columns)
        bias = np.mean([np.mean(column.after) for column in columns])
        shares = np.mean([np.mean(column.converged) for column in columns])
        steps = np.mean([np.mean(column.steps) for column in columns])
        found = [interval(study.error(arm, start, column)) for column in ("before", "after", "selected")]
        lines.append([start, *found, number(worst, 3), number(bias, 3), f"{steps:.0f}", f"{100 * shares:.0f} %"])
    head = ["start", "before (mHa)", "minimised (mHa)", "selected step (mHa)", "largest", "bias", "steps", "converged"]
    caption = f"Arm {arm!r}: mean absolute errors against Kohn-Sham over {study.num_test} unseen geometries, "
    caption += f"{len(study.of_arm(arm))} trainings; their energies spread by {number(study.spread, 1)} mHa."
    return html_table(head, lines, caption=caption)


def arms_table(study: WaterStudy, start: str = "MINAO") -> "HTML":
    """Every arm from one start."""
    lines = []
    for arm in study.arms:
        runs = study.of_arm(arm)
        near = np.mean([run.regression_near for run in runs])
        shares = np.mean([np.mean(run.starts[start].converged) for run in runs])
        density = np.mean([np.mean(run.starts[start].density) for run in runs])
        cells = [number(near, 3), interval(study.error(arm, start)), small(density), f"{100 * shares:.0f} %"]
        lines.append([arm, *cells])
    head = ["arm", "regression near (mHa)", f"minimised from {start} (mHa)", "density error", "converged"]
    caption = "Density error: root of the integral of the squared difference to Kohn-Sham, bohr^-3/2."
    return html_table(head, lines, caption=caption)


def ways_table(study: WaterStudy, classical: Sequence[Any]) -> "HTML":
    """Everything that gives an energy of these geometries, from the same labels."""
    full = [run for run in study.of_arm("full")]
    lines = [
        ["learned, minimised from MINAO", interval(study.error("full", "MINAO")), f"{len(full)} trainings"],
        [
            "learned, not minimised: predicted density",
            interval(study.error("full", "reference", "before")),
            "the same",
        ],
        [
            "no density: direct network",
            interval(study.direct_error()),
            f"{study.direct[0].num_parameters:,} parameters",
        ],
    ]
    for entry in classical:
        lines.append([f"{entry.functional}, minimised", number(abs(entry.after), 0), "one geometry"])
    caption = f"Mean absolute errors against Kohn-Sham (mHa), {study.num_test} unseen geometries, intervals over "
    caption += "trainings; 1 kcal/mol is 1.594 mHa."
    return html_table(["way", "error (mHa)", "n"], lines, caption=caption)


def live_table(study: LiveStudy) -> "HTML":
    """Geometries whose densities were minimised for this page."""
    lines = [
        [
            entry.name,
            number(entry.kohn_sham, 6),
            number(entry.start_error, 1),
            number(entry.error, 3),
            number(entry.predicted_error, 3),
            f"{entry.dipole:.3f} / {entry.kohn_sham_dipole:.3f}",
            f"{entry.seconds:.2f} / {entry.kohn_sham_seconds:.2f}",
        ]
        for entry in study.geometries
    ]
    head = ["geometry", "Kohn-Sham (Ha)", "start (mHa)", "minimised (mHa)", "not minimised (mHa)"]
    head += ["dipole, ours / KS (D)", "CPU s, ours / KS"]
    caption = "Start: MINAO. Not minimised: the energy at the density predicted from the geometry. "
    caption += "Dipoles are those of the fitted densities."
    return html_table(head, lines, caption=caption)


def trace_figure(entry: LiveGeometry) -> Figure:
    """Energy along the minimisation, and the density that comes out."""
    caption = f"{entry.name}. Left: distance of the energy from Kohn-Sham along L-BFGS. Right: density on the line "
    caption += "through oxygen along the bisector of the bonds (oxygen at 0), and its difference to Kohn-Sham."
    with panels(2, width=8.4, height=3.2, caption=caption) as (figure, (left, right)):
        for start, energies in entry.traces.items():
            left.plot(np.abs(energies), "o-", color=START_COLOURS[start], label=start, markersize=3.5)
        left.set(xlabel="step", ylabel="|energy error| (mHa)", yscale="log")
        left.legend(fontsize=8)
        right.plot(entry.line, entry.kohn_sham_density, color=BLACK, label="Kohn-Sham")
        right.plot(entry.line, entry.density, "--", color=BLUE, label="minimised")
        right.plot(entry.line, np.abs(entry.density - entry.kohn_sham_density), color=VERMILION, label="|difference|")
        right.set(xlabel="position (bohr)", ylabel="density (bohr$^{-3}$)", yscale="log", ylim=(1e-8, 1e3))
        right.legend(fontsize=8)
    return figure


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def forces_table(entries: Sequence[ForceEntry]) -> "HTML":
    """Forces of minimised densities against Kohn-Sham."""
    lines = [
        [
            f"{entry.formula} {row}",
            number(entry.kohn_sham, 1),
            number(entry.against_kohn_sham, 3),
            small(entry.against_differences),
            number(entry.electrostatic, 2),
            number(entry.electrostatic_kohn_sham, 1),
        ]
        for row, entry in enumerate(entries, start=1)
    ]
    head = ["geometry", "mean force", "error, all moving", "against differences", "error, electrostatic"]
    head.append("electrostatic alone misses")
    caption = "kcal/mol per angstrom, mean absolute values of components. All moving: against Kohn-Sham's analytic "
    caption += "forces. Against differences: of minimised energies, the largest component. Electrostatic: the force of "
    caption += "Hellmann and Feynman against the same of the Kohn-Sham density; the last column is what the latter "
    caption += "misses of Kohn-Sham's force."
    return html_table(head, lines, caption=caption)
