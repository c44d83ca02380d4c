"""Starts of a relaxation compared: rows of runs, and what the pages on force fields and on DFT ask of them."""

from collections.abc import Mapping, Sequence
from time import process_time
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from molkit.chem.dft import DftEnergy, DftLevel
from molkit.chem.optimise import Optimiser, optimise
from molkit.chem.xtb import Relaxation, XtbEnergy
from molkit.claims.ledger import Measurement
from molkit.claims.record import record
from molkit.edm.config import EdmConfig
from molkit.edm.published import training_facts
from molkit.edm.schedule import log_snr_table
from molkit.errors import CalculationFailed, MolkitError
from molkit.experiments.experiment import Comparison
from molkit.experiments.show import Column
from molkit.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, panels
from molkit.geometry import aligned_rmsd
from molkit.metrics.statistics import bootstrap_interval
from molkit.molecule import Molecule
from molkit.relaxation.chains import relax_from
from molkit.relaxation.comparison import excess_ratio, largest_turn, same_minimum, step_ratio
from molkit.relaxation.denoisers import ExactDenoiser
from molkit.relaxation.starts import ENDINGS, LEVELS, REFERENCE, Starts, edm_name
from molkit.rng import generator_from
from molkit.units import EV_TO_KCAL

CARTESIAN: Optimiser = "cartesian"
INTERNAL: Optimiser = "internal"
OPTIMISERS = {CARTESIAN: "Cartesian BFGS", INTERNAL: "internal coordinates"}
PERFECT = "perfect sample"  # the end point of the reference start, seen by a model that knows it, sampled ending
PERFECT_STEP = 50
GFN1, GFN2 = "gfn1", "gfn2"
NUMBERS = ("excess", "energy", "num_gradients", "seconds", "rmsd_to_reference", "largest_turn")
DIGITS = 4
AUDIT = Comparison(
    within={"excess": 0.02, "energy": 0.02, "rmsd_to_reference": 0.02, "largest_turn": 2.0, "num_gradients": 3},
    free=("seconds", "preparation"),
    alike={"excess": 2.5},
    by=("start",),
    exact=(REFERENCE, "dataset", "etkdg", "uff", "mmff94s", GFN1, GFN2),
)
Run = tuple[str, Optimiser]


def run_rows(made: Starts, runs: Sequence[Run], *, level: DftLevel | None = None, seed: int) -> list[dict[str, Any]]:
    """A row for each start and optimiser, in that order; those of the reference start come first.

    `excess` of the start above the end of its run and `energy` of that end (kcal/mol), gradients, whether it converged,
    distance of the end from that of the reference start's run (angstrom) and the largest turn of a dihedral (degrees),
    CPU seconds of the run and of all that was done before it. A run that failed says why and has no numbers.
    `level` None is GFN2-xTB.
    """
    torch.set_num_threads(1)
    ends: dict[str, np.ndarray] = {}
    rows = []
    for start, optimiser in runs:
        numbers, failure, converged = dict.fromkeys(NUMBERS), "", False
        try:
            given, began = structure(made, start, ends.get(optimiser), seed), process_time()
            surface = XtbEnergy(given) if level is None else DftEnergy(given, level=level)
            ended = optimise(given, surface, optimiser=optimiser)
            numbers = _numbers(given, ended, ends.get(optimiser)) | {"seconds": round(process_time() - began, DIGITS)}
            converged = ended.converged
            if start == REFERENCE:
                ends[optimiser] = ended.positions.round(5)
        except MolkitError as error:
            failure = str(error)
        before = round(made.seconds.get(start, 0.0), DIGITS)
        about = {"preparation": before, "formula": made.molecule.formula, "num_atoms": made.molecule.num_atoms}
        rows.append(
            {"start": start, "optimiser": optimiser, **numbers, "converged": converged, "failure": failure, **about}
        )
    return rows


def _numbers(given: Molecule, ended: Relaxation, reference: np.ndarray | None) -> dict[str, Any]:
    """What a run says, compared with the end of the reference start where there is one."""
    apart, turn = 0.0, 0.0
    if reference is not None:
        apart = aligned_rmsd(ended.positions, reference)
        turn = largest_turn(ended.positions, reference, given.atomic_numbers)
    values = (ended.energy_drop * EV_TO_KCAL, ended.energy_after * EV_TO_KCAL, ended.num_gradients, 0.0, apart, turn)
    return {name: round(value, DIGITS) for name, value in zip(NUMBERS, values, strict=True)}


def structure(made: Starts, start: str, end: np.ndarray | None, seed: int) -> Molecule:
    """The structure of a start; `end` [A, 3] is where the reference start's run ended, which the perfect model knows.

    Raises CalculationFailed where it could not be made.
    """
    if start != PERFECT:
        if start not in made.places:
            raise CalculationFailed(made.failures.get(start, f"no start {start!r} was made"))
        return made.start(start)
    if end is None or REFERENCE not in made.places:
        raise CalculationFailed(f"a perfect model needs the end point of {REFERENCE}")
    config = EdmConfig()
    denoiser = ExactDenoiser.knowing(config, log_snr_table(config), [made.molecule.with_positions(end)])
    generator = generator_from("perfect", seed, made.molecule.name)
    found = relax_from(denoiser, [made.start(REFERENCE)], step=PERFECT_STEP, generator=generator).molecules[0]
    if found is None:
        raise CalculationFailed("the chain did not stay finite")
    return found


def pairs(rows: pd.DataFrame, start: str, optimiser: str) -> pd.DataFrame:
    """Runs of one start beside the reference start's, by molecule: columns of the latter end in `_reference`.

    `same`: whether both ended in the same minimum. Runs that failed are left out.
    """
    good = rows[(rows["failure"] == "") & (rows["optimiser"] == optimiser)].set_index("molecule")
    other = good.loc[good["start"] == REFERENCE, ["excess", "energy", "num_gradients"]].astype(float)
    found = good[good["start"] == start].join(other, how="inner", rsuffix="_reference")
    return found.assign(same=same_minimum(found["rmsd_to_reference"], found["energy"], found["energy_reference"]))


def start_row(rows: pd.DataFrame, start: str, optimiser: str) -> dict[str, Any]:
    """What one start comes to, over the molecules that it and the reference start have.

    excess (median) and mean_excess in kcal/mol; ratio and step_ratio are the reference's mean excess and gradients over
    this start's, over pairs that end in the same minimum; num_capped did not converge and count at their cap.
    """
    found = pairs(rows, start, optimiser)
    same = found[found["same"]]
    asked = rows[(rows["start"] == start) & (rows["optimiser"] == optimiser)]
    line: dict[str, Any] = {
        "start": start,
        "optimiser": optimiser,
        "num": len(found),
        "num_failed": int((asked["failure"] != "").sum()),
        "num_capped": int((~found["converged"].astype(bool)).sum()),
        "num_other_minimum": len(found) - len(same),
    }
    line |= dict.fromkeys(("excess", "mean_excess", "gradients", "seconds", "preparation", "ratio", "step_ratio"))
    if len(found):
        excesses, gradients = (found[name].to_numpy(dtype=float) for name in ("excess", "num_gradients"))
        line |= {
            "excess": bootstrap_interval(excesses, statistic=np.median),
            "mean_excess": bootstrap_interval(excesses),
            "gradients": bootstrap_interval(gradients),
            "seconds": found["seconds"].mean(),
            "preparation": found["preparation"].mean(),
        }
    if len(same) >= 2 and start != REFERENCE:
        before, after = (
            same[[f"{name}_reference", name]].to_numpy(dtype=float).T for name in ("excess", "num_gradients")
        )
        line |= {"ratio": excess_ratio(*before), "step_ratio": step_ratio(*after)}
    return line


def table(rows: pd.DataFrame, optimiser: str) -> pd.DataFrame:
    """`start_row` for each start that ran with this optimiser, in the order of the runs, the reference first."""
    names = dict.fromkeys(rows.loc[(rows["optimiser"] == optimiser) & (rows["failure"] == ""), "start"])
    return pd.DataFrame([start_row(rows, name, optimiser) for name in names if name != "dataset"], dtype=object)


WORDS = {
    "dataset": "QM9's own geometry",
    "etkdg": "ETKDG",
    "uff": "UFF",
    "mmff94": "MMFF94",
    "mmff94s": "MMFF94s",
    GFN1: "GFN1-xTB",
    GFN2: "GFN2-xTB",
    PERFECT: "perfect model, sample",
    **{edm_name(level, ending): f"diffusion, {level:.3f} Å, {ending}" for level in LEVELS for ending in ENDINGS},
}
COLUMNS = {
    "start": Column("start", names=WORDS),
    "excess": Column("excess, median, kcal/mol", 2),
    "mean_excess": Column("excess, mean", 2),
    "ratio": Column("ratio of means", 2),
    "gradients": Column("gradients", 1),
    "step_ratio": Column("ratio of gradients", 2),
    "num_other_minimum": Column("other minimum"),
    "num_failed": Column("failed"),
    "num_capped": Column("capped"),
    "num": Column("n"),
    "preparation": Column("CPU s before", 2),
    "seconds": Column("CPU s", 2),
}


def measurements(rows: pd.DataFrame, asked: Mapping[str, tuple[str, str, str]], *, notes: str) -> list[Measurement]:
    """For the ledger: claim -> start, optimiser and column (`ratio`, `step_ratio`).

    A ratio over fewer than two pairs is not recorded.
    """
    weights, found = str(rows["weights"].iloc[0]), []
    for claim, (start, optimiser, column) in asked.items():
        line = start_row(rows, start, optimiser)
        if line[column] is None:
            continue
        left_out = f"{line['num_other_minimum']} pairs end in different minima and are left out"
        found.append(
            record(
                claim,
                line[column],
                rows,
                n=line["num"] - line["num_other_minimum"],
                basis="trained_here",
                interval_kind="bootstrap over molecules, 95 %",
                weights=weights,
                training_passes=float(training_facts(weights).passes),
                seeds=[int(rows["seed"].iloc[0])],
                notes=f"{notes}; {left_out}",
            )
        )
    return found


def ratio_measurement(
    claim: str, line: Mapping[str, Any], rows: pd.DataFrame, weights: str, *, notes: str
) -> Measurement:
    """A claim's ratio, with `num` molecules behind it, for the ledger."""
    return record(
        claim,
        line["ratio"],
        rows,
        n=line["num"],
        basis="trained_here",
        interval_kind="bootstrap over molecules, 95 %",
        weights=weights,
        training_passes=float(training_facts(weights).passes),
        notes=notes,
    )


def how_many(rows: pd.DataFrame) -> str:
    """Molecules with a run from the reference start, of those that were asked for."""
    done = rows.loc[(rows["start"] == REFERENCE) & (rows["failure"] == ""), "molecule"].nunique()
    lost = rows["molecule"].nunique() - done
    return f"{done} QM9 test molecules" + (f", {lost} more without a conformer" if lost else "")


def excess_figure(rows: pd.DataFrame, surface: str, *, optimiser: str = INTERNAL) -> Figure:
    """Energy excess of every start, a point for each molecule."""
    chosen = table(rows, optimiser)
    caption = (
        f"{surface}, {OPTIMISERS[optimiser]}. A point is a molecule, n up to {chosen['num'].max()}; bar: median with "
        "its bootstrap 95 % interval."
    )
    random = np.random.default_rng(0)
    with panels(1, width=8.4, height=3.8, caption=caption) as (figure, (axes,)):
        for place, (start, middle) in enumerate(zip(chosen["start"], chosen["excess"], strict=True)):
            values = pairs(rows, start, optimiser)["excess"].to_numpy(dtype=float)
            jitter = place + 0.12 * random.normal(size=len(values))
            axes.plot(jitter, np.maximum(values, 1e-2), ".", ms=3, color=colour_of(start), alpha=0.6)
            sides = [[middle.value - middle.low], [middle.high - middle.value]]
            axes.errorbar([place], [middle.value], yerr=sides, color=BLACK, marker="_", ms=14, lw=1.5)
        names = [WORDS[start] for start in chosen["start"]]
        axes.set_xticks(range(len(chosen)), names, rotation=35, ha="right", fontsize=8)
        axes.set(yscale="log", ylabel="energy excess (kcal/mol)")
    return figure


def colour_of(start: str) -> str:
    """Colour of a start."""
    if start.startswith("edm "):
        return BLUE if start.endswith("sample") else SKY
    return {PERFECT: BLACK, GFN1: GREEN, GFN2: GREEN, REFERENCE: ORANGE}.get(start, PURPLE)


def gradients_figure(rows: pd.DataFrame, surface: str, start: str) -> Figure:
    """Gradient evaluations from one start against those from MMFF94, molecule by molecule."""
    caption = f"{surface}. A point is a molecule; open: the two runs end in different minima. Below the line: fewer."
    with panels(2, width=8.0, height=3.4, caption=caption) as (figure, axes):
        for one, (optimiser, title) in zip(axes, OPTIMISERS.items(), strict=True):
            _scatter(one, pairs(rows, start, optimiser))
            one.set(xlabel="gradients from MMFF94", ylabel=f"from {WORDS[start]}", title=title)
    return figure


def _scatter(axes: Axes, found: pd.DataFrame) -> None:
    for kind, face in ((True, BLUE), (False, "none")):
        part = found[found["same"] == kind]
        axes.plot(part["num_gradients_reference"], part["num_gradients"], "o", ms=4, mfc=face, mec=BLUE)
    largest = max([1.0, *found["num_gradients"], *found["num_gradients_reference"]])
    axes.plot([1, largest], [1, largest], color=BLACK, lw=0.8)
    axes.set(xscale="log", yscale="log")
