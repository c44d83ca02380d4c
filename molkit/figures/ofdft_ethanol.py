"""Figures and tables of ethanol: a trajectory, two torsions, and how many frames it takes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from molkit.figures.ofdft import interval, number
from molkit.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILION, panels
from molkit.figures.tables import html_table
from molkit.metrics.statistics import bootstrap_interval
from molkit.ofdft.geometries import TORSIONS
from molkit.studies.ofdft.arms import STARTS
from molkit.studies.ofdft_ethanol import COUNTS, LEARNING, EthanolStudy, classical_errors

if TYPE_CHECKING:
    from IPython.display import HTML

AIM = 1.0  # kcal/mol
LOOKS = ((BLUE, "o"), (ORANGE, "s"), (PURPLE, "o"), (VERMILION, "s"))
COLOURS = {
    "full": BLUE,
    "geometry": ORANGE,
    "no gradient labels": VERMILION,
    "no perturbed samples": GREEN,
    "no published energies": PURPLE,
}


def ways_table(study: EthanolStudy, classical: Sequence[Any]) -> "HTML":
    """Everything that gives relative energies of the test frames."""
    trainings = f"{len(study.found.of_arm('full'))}"
    lines = [
        ["learned, minimised from MINAO", *_cells(study, "full", "MINAO", "after"), trainings],
        ["learned, at the predicted density", *_cells(study, "full", "reference", "before"), trainings],
        ["learned, at the Kohn-Sham density", *_cells(study, "full", "Kohn-Sham", "before"), trainings],
    ]
    others = [arm for arm in study.found.arms if arm != "full" and "frames" not in arm]
    for arm in others:
        label = arm.replace("geometry", "no density").replace("density no", "density, no")
        label = label if arm.startswith("geometry") else f"{arm}, minimised"
        lines.append([label, *_cells(study, arm, "MINAO", "after"), str(len(study.found.of_arm(arm)))])
    lines.append(["the reference energy alone", *_of_surface(study), "", ""])
    lines.append(["always the mean of the training frames", interval(study.guess_error(), 2), "", "", ""])
    for functional in dict.fromkeys(row.functional for row in classical):
        total, relative = classical_errors(classical, functional)
        cells = [number(float(np.abs(relative).mean()), 0), number(float(np.abs(total).mean()), 0)]
        lines.append([f"{functional}, minimised ({len(relative)} frames)", *cells, "", ""])
    head = ["way", "relative energy (kcal/mol)", "total energy (kcal/mol)", "density error", "trainings"]
    caption = f"Mean absolute errors against Kohn-Sham, {len(study.energies['test'])} unseen frames of rMD17, "
    caption += f"{study.num_frames['full']} training frames; relative energies are those above ethanol at rest. "
    caption += "Intervals: 95 %, over trainings where there are several, else over frames. Density error: of the "
    caption += "minimised density, root of the integral of the squared difference, bohr^-3/2."
    return html_table(head, lines, caption=caption)


def _of_surface(study: EthanolStudy) -> list[str]:
    return [interval(bootstrap_interval(np.abs(values)), 2) for values in study.surface_errors()]


def _cells(study: EthanolStudy, arm: str, start: str, column: str) -> list[str]:
    energies = [study.error(arm, start=start, column=column), study.absolute_error(arm, start, column)]
    shown = column == "after" and not arm.startswith("geometry")
    density = number(float(np.mean(study.found.errors(arm, "test", start, "density"))), 3) if shown else ""
    return [*(interval(found, 2) for found in energies), density]


def starts_table(study: EthanolStudy, arm: str = "full") -> "HTML":
    """One arm from every start: energies before and after, densities, steps."""
    lines = []
    for start in STARTS:
        errors = {column: study.errors(arm, start=start, column=column) for column in ("before", "after", "selected")}
        density = float(np.mean(study.found.errors(arm, "test", start, "density")))
        shares = float(np.mean(study.found.errors(arm, "test", start, "converged")))
        steps = float(np.mean(study.found.errors(arm, "test", start, "steps")))
        apart = study.found.errors(arm, "test", start) - study.found.errors(arm, "test", "MINAO")
        cells = [number(float(np.abs(values).mean())) for values in errors.values()]
        cells += [number(float(np.abs(errors["after"]).max())), number(float(np.abs(apart).max()), 3)]
        lines.append([start, *cells, number(density, 4), f"{steps:.0f}", f"{100 * shares:.0f} %"])
    head = ["start", "before (kcal/mol)", "minimised (kcal/mol)", "selected step (kcal/mol)", "largest (kcal/mol)"]
    head += ["from MINAO's end (mHa)", "density error", "steps", "converged"]
    caption = f"Arm {arm!r}: mean absolute errors of relative energies, {len(study.energies['test'])} test frames, "
    caption += f"{len(study.found.of_arm(arm))} trainings. From MINAO's end: the largest difference of two minimised "
    caption += "energies of one frame. Density error: root of the integral of the squared difference, bohr^-3/2."
    return html_table(head, lines, caption=caption)


def frames_figure(study: EthanolStudy, arm: str = "full") -> Figure:
    """Minimised against Kohn-Sham relative energies, and errors by arm."""
    wanted, errors = study.relative(), study.errors(arm)
    caption = f"Left: relative energies of {len(wanted)} unseen frames, densities minimised from MINAO, against "
    caption += f"Kohn-Sham; one colour, {len(errors)} trainings; grey: 1 kcal/mol. Right: errors of the same frames, "
    caption += "sorted by size, "
    caption += "of the minimised density, the predicted one and the network without a density."
    with panels(2, width=8.6, height=3.6, caption=caption) as (figure, (left, right)):
        span = np.array([wanted.min() - 1.0, wanted.max() + 1.0])
        left.fill_between(span, span - AIM, span + AIM, color="#dddddd", linewidth=0)
        left.plot(np.tile(wanted, len(errors)), (wanted + errors).ravel(), "o", color=BLUE, markersize=3, alpha=0.6)
        left.set(xlabel="Kohn-Sham (kcal/mol)", ylabel="minimised (kcal/mol)", xlim=span, ylim=span)
        kinds = [("minimised", errors, BLUE, "-")]
        kinds.append(("predicted density", study.errors(arm, start="reference", column="before"), BLUE, ":"))
        if study.found.of_arm("geometry"):
            kinds.append(("no density", study.errors("geometry"), ORANGE, "-"))
        for label, values, colour, line in kinds:
            found = np.sort(np.abs(values).ravel())
            right.plot(found, 100.0 * (np.arange(len(found)) + 1) / len(found), line, color=colour, label=label)
        right.axvline(AIM, color="#888888", linestyle="--", linewidth=1.0)
        right.set(xscale="log", xlabel="|error| (kcal/mol)", ylabel="frames below (%)")
        right.legend(fontsize=8)
    return figure


def torsions_figure(study: EthanolStudy, arms: Sequence[str] = ("full", "geometry")) -> Figure:
    """Energies along the two torsions, Kohn-Sham beside."""
    shown = [arm for arm in arms if study.found.of_arm(arm)]
    caption = "Energy above ethanol at rest while one bond is turned rigidly, every point by minimisation from MINAO; "
    caption += "thin lines: single trainings ("
    caption += ", ".join(f"{arm} {len(study.found.of_arm(arm))}" for arm in shown)
    caption += "). No point of these curves was used in training."
    with panels(len(TORSIONS), width=8.6, height=3.4, caption=caption) as (figure, axes):
        for place, torsion in zip(axes, TORSIONS, strict=True):
            _curves(place, study, torsion, shown)
            place.set(xlabel=f"{torsion} torsion (degrees)", ylabel="energy (kcal/mol)")
        axes[0].legend(fontsize=8)
    return figure


def _curves(place: Axes, study: EthanolStudy, torsion: str, arms: Sequence[str]) -> None:
    place.plot(*(values.T for values in study.curve(torsion)), "o-", color=BLACK, markersize=4, label="Kohn-Sham")
    for arm in arms:
        degrees, energies = study.curve(torsion, arm)
        place.plot(degrees, energies.T, color=COLOURS[arm], linewidth=0.7, alpha=0.5)
        label = "no density" if arm == "geometry" else "minimised"
        place.plot(degrees, energies.mean(0), "--", color=COLOURS[arm], label=label)


def _learned(place: Axes, study: EthanolStudy, arms: Sequence[str], label: str, colour: str, marker: str) -> None:
    """Errors of arms with their intervals against their training frames."""
    if not arms:
        return
    errors = [study.error(arm) for arm in arms]
    spread = [[e.value - e.low for e in errors], [e.high - e.value for e in errors]]
    counts = [study.num_frames[arm] for arm in arms]
    place.errorbar(counts, [e.value for e in errors], spread, fmt=marker, color=colour, label=label, capsize=3)


def learning_figure(study: EthanolStudy) -> Figure:
    """Errors against the number of training frames, and the errors of validation along the trainings."""
    caption = "Left: mean absolute error of relative energies of "
    caption += f"{len(study.energies['test'])} test frames against the number of training frames; bars: 95 %, over "
    caption += "trainings or frames; grey: the reference energy alone. Right: error of the validation frames after "
    caption += "minimisation, which chooses the step."
    with panels(2, width=8.6, height=3.4, caption=caption) as (figure, (left, right)):
        for (label, curve), line in zip(study.surfaces.items(), ("-", "--"), strict=True):
            counts = [int(count) for count in curve]
            left.plot(counts, list(curve.values()), line, color="#888888", label=label)
        for (label, arms), (colour, marker) in zip(LEARNING.items(), LOOKS, strict=True):
            _learned(left, study, [arm for arm in arms if study.found.of_arm(arm)], label, colour, marker)
        left.axhline(AIM, color="#888888", linestyle="--", linewidth=1.0)
        left.set(xscale="log", yscale="log", xlabel="training frames", ylabel="error (kcal/mol)")
        left.set_xticks(COUNTS, [str(count) for count in COUNTS])
        left.minorticks_off()
        left.set_ylim(top=8.0 * left.get_ylim()[1])  # room for the names
        left.legend(fontsize=8, loc="upper right")
        for arm in [arm for arm in study.found.arms if arm in COLOURS]:
            for position, run in enumerate(study.found.of_arm(arm)):
                steps, errors = zip(*((entry.step, entry.error) for entry in run.snapshots), strict=True)
                right.plot(steps, errors, "o-", color=COLOURS[arm], markersize=3, label=None if position else arm)
        right.axhline(1.594, color="#888888", linestyle="--", linewidth=1.0)
        steps = [entry.step for entry in study.found.runs[0].snapshots]
        right.set(xscale="log", yscale="log", xlabel="training step", ylabel="validation error (mHa)")
        right.set_xticks(steps, [f"{step:,}" for step in steps])
        right.minorticks_off()
        right.legend(fontsize=8)
    return figure
