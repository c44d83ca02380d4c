"""Figures and tables of a functional on molecules it has never met."""

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from molkit.data.qm9 import qm9_index, qm9_smiles
from molkit.figures.ofdft import interval, number
from molkit.figures.style import BLACK, BLUE, GREEN, ORANGE, SKY, VERMILION, panels
from molkit.figures.tables import html_table
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.ofdft.compositions import NUM_FOLDS
from molkit.studies.ofdft_extrapolation import FAMILIES, LARGEST_TRAINED, ExtrapolationStudy, SizeError, without_density
from molkit.studies.ofdft_folds import (
    DISPLACED_RESPONSE,
    REFERENCE_ENERGY,
    RESPONSE,
    DisplacedFit,
    EnergyFit,
    FoldStudy,
    Where,
)
from molkit.units import HARTREE_TO_KCAL

if TYPE_CHECKING:
    from IPython.display import HTML

KCAL = HARTREE_TO_KCAL / 1000.0  # kcal/mol in a millihartree
BAR = 3.0  # kcal/mol
ENOUGH = 10  # molecules, to resample
# Label, arm, start, column of the errors, colour.
SEEN = (
    ("minimised", "full", "MINAO", "after", BLUE),
    ("predicted density, not minimised", "full", "reference", "before", SKY),
    ("network without a density", "geometry", "geometry", "after", ORANGE),
    ("response alone, minimised", RESPONSE, "MINAO", "after", BLACK),
    ("minimised, published energies", "published energies", "MINAO", "after", GREEN),
)
ROWS = (
    ("minimised from MINAO", "full", "MINAO", "after"),
    ("minimised from the predicted density", "full", "reference", "after"),
    ("at the predicted density", "full", "reference", "before"),
    ("at the Kohn-Sham density", "full", "Kohn-Sham", "before"),
    ("network without a density", "geometry", "geometry", "after"),
    ("reference energy alone, spread chosen", RESPONSE, REFERENCE_ENERGY, "after"),
    ("network without a density on it", "geometry on chosen spread", "geometry", "after"),
    ("response alone on it, minimised", RESPONSE, "MINAO", "after"),
    ("minimised, published energies", "published energies", "MINAO", "after"),
    ("at the predicted density, published energies", "published energies", "reference", "before"),
    ("displaced geometries too: minimised", "displaced", "MINAO", "after"),
    ("displaced too: network without a density", "geometry displaced", "geometry", "after"),
    ("displaced too: reference energy alone", DISPLACED_RESPONSE, REFERENCE_ENERGY, "after"),
    ("displaced too: response alone, minimised", DISPLACED_RESPONSE, "MINAO", "after"),
)
CHAIN_COLOURS = (BLUE, ORANGE, GREEN, BLACK, VERMILION, SKY)


def folds_table(study: FoldStudy, classical: Sequence[Any] = (), *, where: Where = "resting") -> "HTML":
    """Every way to an energy of a molecule that was not trained on; classical functionals on some of the molecules."""
    lines, arms = [], study.arms_at(where)
    for label, arm, start, column in ROWS:
        if arm not in arms:
            continue
        errors = study.errors(arm, start, column, where)
        per_atom = np.abs(errors) / study.column(arm, "num_atoms", where)
        within = bootstrap_interval((KCAL * np.abs(errors) <= BAR).astype(float))
        cells = [
            interval(study.error(arm, start, column, where).scaled(KCAL), 2),
            number(float(np.median(KCAL * abs(errors)))),
        ]
        cells += [number(float(KCAL * np.abs(errors).max()), 1), number(float(KCAL * errors.mean()))]
        cells += [number(float(KCAL * per_atom.mean()), 3), f"{100 * within.value:.0f} %"]
        lines.append([label, *cells])
    lines += [_classical_line(classical, name) for name in dict.fromkeys(row.functional for row in classical)]
    formulas = study.column(arms[0], "formulas", where)
    head = ["energy (kcal/mol)", "mean |error|", "median", "largest", "bias", "per atom", f"within {BAR:.0f}"]
    what = "molecules" if where == "resting" else "displaced molecules"
    caption = f"{len(formulas)} {what} of {len(set(formulas))} compositions against Kohn-Sham totals, "
    caption += f"each by the training of {NUM_FOLDS} that has not met its composition; intervals over molecules, 95 %."
    return html_table(head, lines, caption=caption)


def _classical_line(rows: Sequence[Any], functional: str) -> list[str]:
    errors = KCAL * np.array([row.after for row in rows if row.functional == functional])
    cells = [number(float(value), 0) for value in (np.abs(errors).mean(), np.median(np.abs(errors)))]
    cells += [number(float(value), 0) for value in (np.abs(errors).max(), errors.mean())]
    return [
        f"{functional}, minimised ({len(errors)} of them)",
        *cells,
        "",
        f"{100 * np.mean(np.abs(errors) <= BAR):.0f} %",
    ]


def starts_table(study: FoldStudy, arm: str = DISPLACED_RESPONSE, *, where: Where = "displaced") -> "HTML":
    """What a minimisation begins with, how far that is, and where it ends."""
    lines = []
    lowest = study.errors(arm, "MINAO", "after", where)
    for start in study.starts(arm):
        if start == REFERENCE_ENERGY:
            continue
        before, after = (study.errors(arm, start, column, where) for column in ("before", "after"))
        steps, converged = (_of_start(study, arm, start, name, where) for name in ("steps", "converged"))
        cells = [number(float((KCAL * (before - lowest)).mean()), 2), number(float(steps.mean()), 0)]
        lines.append([start, *cells, number(float(np.abs(after - lowest).max()), 3), f"{100 * converged.mean():.0f} %"])
    head = ["start", "above the minimum (kcal/mol)", "steps", "largest difference of minima (mHa)", "converged"]
    what = "displaced " if where == "displaced" else ""
    caption = f"{len(lowest)} {what}molecules by trainings that have not met their compositions: how far above the "
    caption += "functional's own minimum each density lies, and the steps of L-BFGS from there."
    return html_table(head, lines, caption=caption)


def _of_start(study: FoldStudy, arm: str, start: str, column: str, where: Where) -> np.ndarray:
    return np.concatenate([getattr(run.results[start], column) for run in study.of_arm(arm, where)]).astype(float)


def live_table(entries: Sequence[tuple[str, SizeError]]) -> "HTML":
    """Molecules larger than those of the training, their densities minimised for this page."""
    lines = []
    for formula, entry in entries:
        cells = [number(KCAL * value, 1) for value in (entry.predicted, entry.minimised)]
        steps = f"{entry.steps}{'' if entry.converged else ', not converged'}"
        lines.append([formula, str(entry.num_heavy), *cells, number(KCAL * entry.minimised / entry.num_atoms), steps])
    head = ["molecule", "heavy atoms", "predicted density", "minimised", "minimised, per atom", "steps"]
    return html_table(head, lines, caption="Errors of the energy against Kohn-Sham in kcal/mol; both made now.")


def fits_table(fits: Sequence[EnergyFit]) -> "HTML":
    """What restraint and scale do to the reference energy alone."""
    lines = [
        [
            "as it is" if fit.spread == 0.0 else f"at least {fit.spread}",
            f"{fit.ridge:.0e}",
            number(KCAL * fit.fitted),
            interval(fit.unseen.scaled(KCAL), 1),
            number(KCAL * fit.largest, 0),
        ]
        for fit in fits
    ]
    head = ["features divided by their spread", "restraint", "molecules of the fit", "unseen compositions", "largest"]
    caption = (
        "The reference energy alone, a linear model of pairs and triples: mean absolute errors in kcal/mol in the "
    )
    caption += f"{NUM_FOLDS} folds, fitted now."
    return html_table(head, lines, caption=caption)


def displaced_fits_table(fits: Sequence[DisplacedFit]) -> "HTML":
    """What the reference energy alone makes of displaced geometries, with and without having met some."""
    lines = [[fit.fitted_to, *(interval(e.scaled(KCAL), 1) for e in (fit.resting, fit.displaced))] for fit in fits]
    caption = "The reference energy alone, its restraint and least spread chosen inside each training: mean absolute "
    caption += f"errors in kcal/mol on compositions it has not met, {NUM_FOLDS} folds, fitted now."
    return html_table(["fitted to", "resting molecules", "displaced molecules"], lines, caption=caption)


def worst_table(study: FoldStudy, count: int = 6, arm: str = "full") -> "HTML":
    """The molecules that are furthest off."""
    errors, names, formulas = (study.errors(arm), study.column(arm, "names"), study.column(arm, "formulas"))
    predicted, direct = study.errors(arm, "reference", "before"), study.errors("geometry")
    lines, numbers, smiles = [], qm9_index(split="all"), qm9_smiles()
    for row in np.argsort(-np.abs(errors))[:count]:
        number_in_qm9 = int(numbers[int(names[row].rpartition("-")[2])])
        cells = [number(KCAL * float(values[row]), 1) for values in (errors, predicted, direct)]
        lines.append([f"{smiles.get(number_in_qm9, formulas[row])} ({formulas[row]})", *cells])
    head = ["molecule", "minimised", "predicted density", "without a density"]
    return html_table(
        head, lines, caption="Errors in kcal/mol of the molecules that minimising the density leaves furthest off."
    )


def folds_figure(study: FoldStudy) -> Figure:
    """How many molecules are within an error, and the error by size."""
    shown = [entry for entry in SEEN if entry[1] in study.arms]
    count = len(study.errors("full"))
    caption = f"{count} molecules, each by a training that has not met its composition. Left: share within an error; "
    caption += f"dashed {BAR:.0f} kcal/mol. Right: mean absolute error by heavy atoms, 95 % over molecules."
    with panels(2, width=9.0, height=3.6, caption=caption) as (figure, (left, right)):
        for shift, (label, arm, start, column, colour) in enumerate(shown):
            errors = np.sort(KCAL * np.abs(study.errors(arm, start, column)))
            left.step(errors, np.arange(1, count + 1) / count, where="post", color=colour, label=label)
            found = study.by_heavy_atoms(arm, start, column)
            sizes = np.array(list(found)) + 0.12 * (shift - 0.5 * (len(shown) - 1))
            _with_bars(right, sizes, [entry.scaled(KCAL) for entry in found.values()], colour)
        left.axvline(BAR, color="#888888", linestyle="--", linewidth=1.0)
        left.set(xscale="log", xlabel="|error| (kcal/mol)", ylabel="share of molecules", ylim=(0.0, 1.0))
        left.legend(fontsize=7, loc="upper left")
        right.axhline(BAR, color="#888888", linestyle="--", linewidth=1.0)
        right.set(xlabel="heavy atoms", ylabel="mean |error| (kcal/mol)", ylim=(0.0, None))
        right.set_xticks(list(study.by_heavy_atoms("full")))
    return figure


def _with_bars(place, sizes: np.ndarray, found: list[Interval], colour: str) -> None:
    values = np.array([entry.value for entry in found])
    ends = np.array([[entry.value - entry.low, entry.high - entry.value] for entry in found]).T
    place.errorbar(sizes, values, yerr=ends, fmt="o", color=colour, capsize=3)


def sizes_figure(study: ExtrapolationStudy) -> Figure:
    """Errors for each atom against size, family by family."""
    caption = "Errors for each atom against Kohn-Sham, beyond the training (grey: up to five heavy atoms). Full "
    caption += "lines and points: minimised from the predicted density; dashed: at the predicted density; "
    caption += "geometry: the network without a density. One training of each."
    with panels(len(FAMILIES), width=9.0, height=3.3, caption=caption) as (figure, axes):
        for family, place in zip(FAMILIES, axes, strict=True):
            for arm, colour in zip(study.arms, cycle(CHAIN_COLOURS), strict=False):
                _sizes_of(place, study, arm, family, colour)
            place.axvspan(0.5, LARGEST_TRAINED + 0.5, color="#eeeeee")
            place.set(yscale="log", xlabel="heavy atoms", ylabel="|error| per atom (kcal/mol)", title=family)
        axes[0].legend(fontsize=7)
    return figure


def _sizes_of(place, study: ExtrapolationStudy, arm: str, family: str, colour: str) -> None:
    entries, style = study.of(arm, family), "o" if family == "QM9" else "o-"
    sizes, atoms = (np.array([getattr(e, name) for e in entries]) for name in ("num_heavy", "num_atoms"))
    for column, look, label in (("minimised", style, arm), ("predicted", "--", None)):
        if column == "predicted" and (without_density(arm) or family == "QM9"):
            continue
        values = KCAL * np.abs([getattr(entry, column) for entry in entries]) / atoms
        place.plot(sizes, values, look, color=colour, label=label, markersize=4, linewidth=1.0)


def _mean(values: np.ndarray, digits: int) -> str:
    """With an interval where there are molecules enough to draw it from."""
    if len(values) < ENOUGH:
        return number(float(values.mean()), digits)
    return interval(bootstrap_interval(values), digits)


def sizes_table(study: ExtrapolationStudy) -> "HTML":
    """Mean errors of what is larger than the training, family by family."""
    lines = []
    for family in FAMILIES:
        for arm in study.arms:
            entries = [entry for entry in study.of(arm, family) if entry.num_heavy > LARGEST_TRAINED]
            if not entries:
                continue
            atoms = np.array([entry.num_atoms for entry in entries])
            found = [KCAL * np.abs([getattr(e, name) for e in entries]) for name in ("minimised", "predicted")]
            cells = [_mean(values / atoms, 3) for values in found]
            total = _mean(found[0], 1)
            largest = f"{min(e.num_heavy for e in entries)} to {max(e.num_heavy for e in entries)}"
            lines.append([f"{family}: {arm}", str(len(entries)), largest, total, cells[0], cells[1]])
    head = [
        "family: training",
        "molecules",
        "heavy atoms",
        "total",
        "per atom, minimised",
        "per atom, predicted density",
    ]
    caption = "Mean absolute errors in kcal/mol of molecules larger than any of the training; "
    caption += f"intervals over molecules where there are {ENOUGH} or more."
    return html_table(head, lines, caption=caption)
