"""Ethanol along a trajectory and along its torsions, where energies differ by little (page `ethanol`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from molkit.claims.ledger import PUBLISHED_ENERGIES, REPOSITORY, Measurement
from molkit.claims.record import record
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column
from molkit.figures import style
from molkit.metrics.statistics import bootstrap_interval
from molkit.ofdft.attention_functional import load
from molkit.ofdft.channels import neighbourhood
from molkit.ofdft.geometries import TORSIONS, torsion_points
from molkit.ofdft.label_files import LabelledMolecule, load_folder
from molkit.studies.ofdft.arms import (
    CHEMICAL,
    MILLI,
    VALID,
    Plan,
    arm_recipe,
    mean_error,
    rows_of_arm,
    run_folder,
    snapshots_of,
    without_density,
)
from molkit.units import HARTREE_TO_KCAL

ALONE: dict[str, Any] = {"published": False, "energy_ridge": 0.1}  # chosen by the energies of validation frames
GEOMETRY = {"samples": "geometry", "gradient_weight": 0.0}
PLAN = Plan(
    REPOSITORY / "data" / "recipes" / "ofdft_ethanol.yaml",
    {
        "full": {},
        "30 frames": {"count": 30},
        "no gradient labels": {"gradient_weight": 0.0},
        "no published energies": ALONE,
        "geometry": GEOMETRY,
        "geometry 30 frames": GEOMETRY | {"count": 30},
        "geometry no published energies": GEOMETRY | ALONE,
    },
    other_starts=("MINAO", "reference"),
)
TRAININGS = {"full": 3, "geometry": 2}  # of other arms one
JUDGED = "no published energies"  # the arm whose energies are the functional's alone
LABELS, RUNS = Path("runs/ofdft/labels_ethanol"), Path("runs/ofdft/ethanol")  # folders of `molkit labels`; of the runs
SETS = {VALID: ("ethanol", "valid"), "test": ("ethanol", "test"), "torsions": ("ethanol_torsions", "test")}
TRAIN = "train"  # the set of a row with the mean energy of the training frames
REFERENCE_ENERGY = "reference energy alone"  # in the place of a start
NUM_TRAIN = 120  # frames, as the recipe says
KCAL = HARTREE_TO_KCAL / MILLI  # kcal/mol in a millihartree
FIRST_LIVE = 100  # test frame that no training and no table has used
COLOURS = {
    "full": style.BLUE,
    "geometry": style.ORANGE,
    "no gradient labels": style.VERMILION,
    JUDGED: style.PURPLE,
}
LEARNING = {  # arms by the number of their frames
    "minimised": (("30 frames", "full"), style.BLUE, "o"),
    "no density": (("geometry 30 frames", "geometry"), style.ORANGE, "s"),
    "minimised, labels alone": ((JUDGED,), style.PURPLE, "o"),
    "no density, labels alone": (("geometry no published energies",), style.VERMILION, "s"),
}
WAYS = (  # label, arm, start, column
    ("learned, minimised from MINAO", "full", "MINAO", "after"),
    ("learned, at the predicted density", "full", "reference", "before"),
    ("learned, at the Kohn-Sham density", "full", "Kohn-Sham", "before"),
    ("30 frames, minimised", "30 frames", "MINAO", "after"),
    ("no gradient labels, minimised", "no gradient labels", "MINAO", "after"),
    ("no published energies, minimised", JUDGED, "MINAO", "after"),
    ("no density", "geometry", "geometry", "after"),
    ("no density, 30 frames", "geometry 30 frames", "geometry", "after"),
    ("no density, no published energies", "geometry no published energies", "geometry", "after"),
    ("the reference energy alone", "full", REFERENCE_ENERGY, "after"),
)
TABLE = {
    "way": "way",
    "relative": Column("relative energy (kcal/mol)", 2),
    "total": Column("total energy (kcal/mol)", 2),
    "density": Column("density error", 3),
    "trainings": Column("trainings"),
}
STARTS = {
    "start": "start",
    "before": Column("before (kcal/mol)", 2),
    "after": Column("minimised (kcal/mol)", 2),
    "selected": Column("selected step (kcal/mol)", 2),
    "largest": Column("largest (kcal/mol)", 2),
    "density": Column("density error", 4),
    "steps": Column("steps"),
    "converged": Column("converged (%)", 0, 100.0),
}
AUDIT = Comparison(alike={"after": 1.0}, by=("arm", "set", "start"), repeats="seed")


@dataclass(frozen=True)
class Task:
    """One training of an arm, until the snapshot of a step (0: to its end), or the run that is there."""

    arm: str
    seed: int
    until: int

    @property
    def files(self) -> list[Path]:
        """The recipe."""
        return [PLAN.recipe]


@asked
def tasks(*, arms: Sequence[str] = tuple(PLAN.arms), until: int = 0) -> list[Task]:
    """Every arm with its trainings. Labels must lie in runs/ofdft/labels_ethanol: train, valid, test, torsions.

    Raises InvalidInput for an unknown arm.
    """
    for arm in arms:
        arm_recipe(arm, seed=0, plan=PLAN)
    return [Task(arm, seed, until) for arm in arms for seed in range(TRAININGS.get(arm, 1))]


def measure(task: Task) -> list[dict]:
    """The rows of `arms.rows_of_arm` on test frames and torsion points; the mean energy (hartree) of training frames.

    The full arm has rows of its reference energy alone. The first torsion point is ethanol at rest.
    """
    read = {name: load_folder(LABELS / name, *which) for name, which in SETS.items()}
    valid, recipe = read.pop(VALID), arm_recipe(task.arm, seed=task.seed, plan=PLAN)
    train = load_folder(LABELS / TRAIN, "ethanol", "train", limit=recipe.data.count)
    rows = rows_of_arm(PLAN, task.arm, task.seed, runs=RUNS, valid=valid, sets=read, until=task.until)
    rows.append({"set": TRAIN, "energy": float(np.mean([one.energy for one in train])), "num_frames": len(train)})
    if task.arm == "full":
        out = run_folder(RUNS, task.arm, task.seed)
        energies = load(next(iter(snapshots_of(out, task.until).values()))).reduction.energies
        rows += [surface_row(energies, one, name) for name, molecules in read.items() for one in molecules]
    return rows


def surface_row(weights: np.ndarray, entry: LabelledMolecule, name: str) -> Mapping[str, Any]:
    """What a reference energy with weights [ENERGY_FEATURES] says of a geometry, errors in millihartree."""
    error = MILLI * (float(neighbourhood(entry.molecule).energy_features() @ weights) - entry.energy)
    about = {"set": name, "molecule": entry.molecule.name, "energy": entry.energy, "start": REFERENCE_ENERGY}
    return about | dict.fromkeys(("before", "after", "selected"), error)


def relative(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of frames and torsion points in kcal/mol above ethanol at rest: `energy` of Kohn-Sham, and the errors."""
    found = rows[rows["set"].isin(("test", "torsions"))].copy()
    rest = found[found["molecule"] == "ethanol-torsions-0"].set_index(["arm", "seed", "start"])
    where = pd.MultiIndex.from_frame(found[["arm", "seed", "start"]])
    for column, unit in (("before", KCAL), ("after", KCAL), ("selected", KCAL), ("energy", HARTREE_TO_KCAL)):
        found[column] = unit * (found[column].astype(float) - rest.loc[where, column].to_numpy(float))
    return found


def of_way(rows: pd.DataFrame, arm: str, start: str = "MINAO", where: str = "test") -> pd.DataFrame:
    """Rows of an arm from a start; an arm without a density has but one."""
    start = "geometry" if without_density(arm) else start
    return rows[(rows["arm"] == arm) & (rows["start"] == start) & (rows["set"] == where)]


def by_way(rows: pd.DataFrame, classical: pd.DataFrame) -> pd.DataFrame:
    """Everything that gives relative energies of the test frames; mean absolute errors in kcal/mol."""
    above, lines = relative(rows), []
    for label, arm, start, column in WAYS:
        own = of_way(above, arm, start)
        if len(own):
            total = mean_error(of_way(rows, arm, start), column).scaled(KCAL)
            density = own["density"].mean() if column == "after" and start == "MINAO" else None
            line = {"way": label, "relative": mean_error(own, column), "total": total, "density": density}
            lines.append(line | {"trainings": own["seed"].nunique() if start != REFERENCE_ENERGY else None})
    once, known = of_way(rows, "full")["energy"].unique(), rows.loc[rows["set"] == TRAIN, "energy"].iloc[0]
    guess = bootstrap_interval(HARTREE_TO_KCAL * np.abs(once - known))
    lines.append({"way": "always the mean of the training frames", "relative": guess})
    for name, group in classical.groupby("functional", sort=False):
        errors = KCAL * group["after"].to_numpy(float)  # the first geometry is the one at rest
        label = f"{name}, minimised ({len(errors) - 1} frames)"
        lines.append({"way": label, "relative": np.abs(errors[1:] - errors[0]).mean(), "total": np.abs(errors).mean()})
    return pd.DataFrame(lines, columns=list(TABLE), dtype=object)


def measurements(rows: pd.DataFrame) -> list[Measurement]:
    """Record the relative energies of the test frames by JUDGED; an arm that leans on published energies says so."""
    own = of_way(relative(rows), JUDGED)
    trainings = sorted(own["seed"].unique())
    leans = arm_recipe(JUDGED, seed=0, plan=PLAN).data.published
    frames = rows.loc[(rows["arm"] == JUDGED) & (rows["set"] == TRAIN), "num_frames"].iloc[0]
    return [
        record(
            "mofdft.ethanol.energy",
            mean_error(own),
            rows,
            n=own["molecule"].nunique(),
            basis=PUBLISHED_ENERGIES if leans else "scaled_down",
            interval_kind="trainings, 95 %" if len(trainings) > 1 else "frames resampled, 95 %",
            seeds=trainings,
            notes=f"{frames:.0f} training frames, arm {JUDGED!r}; relative to ethanol at rest",
        )
    ]


def draw_frames(rows: pd.DataFrame, *, caption: str) -> Figure:
    """Minimised against Kohn-Sham relative energies, and the share of frames below an error."""
    above = relative(rows)
    own = of_way(above, "full")
    with style.panels(2, width=8.6, height=3.8, caption=caption) as (figure, (left, right)):
        span = np.array([own["energy"].min() - 1.0, own["energy"].max() + 1.0])
        left.fill_between(span, span - 1.0, span + 1.0, color="#dddddd", linewidth=0)
        left.plot(own["energy"], own["energy"] + own["after"], "o", color=style.BLUE, markersize=3, alpha=0.6)
        left.set(xlabel="Kohn-Sham (kcal/mol)", ylabel="minimised (kcal/mol)", xlim=span, ylim=span)
        looks = (
            ("minimised", own["after"], style.BLUE, "-"),
            ("predicted density", of_way(above, "full", "reference")["before"], style.BLUE, ":"),
            ("no density", of_way(above, "geometry")["after"], style.ORANGE, "-"),
        )
        for label, values, colour, line in looks:
            found = np.sort(values.abs())
            share = 100.0 * (np.arange(len(found)) + 1) / max(len(found), 1)
            right.plot(found, share, line, color=colour, label=label)
        right.axvline(1.0, color="#888888", linestyle="--", linewidth=1.0)
        right.set(xscale="log", xlabel="|error| (kcal/mol)", ylabel="frames below (%)")
        right.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return figure


def draw_torsions(rows: pd.DataFrame, *, caption: str) -> Figure:
    """Energies along the two torsions, Kohn-Sham beside; thin lines are single trainings."""
    above = relative(rows)
    with style.panels(len(TORSIONS), width=8.6, height=3.6, caption=caption) as (figure, axes):
        for place, torsion in zip(axes, TORSIONS, strict=True):
            _curves(place, above, torsion)
            place.set(xlabel=f"{torsion} torsion (degrees)", ylabel="energy (kcal/mol)")
        axes[0].legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return figure


def _curves(place: Axes, above: pd.DataFrame, torsion: str) -> None:
    names = [f"ethanol-torsions-{row}" for row, (name, _) in enumerate(torsion_points(), start=1) if name == torsion]
    degrees = np.array(TORSIONS[torsion][2], dtype=float)
    for arm, label in (("full", "minimised"), ("geometry", "no density")):
        own = of_way(above, arm, where="torsions")
        curves = [group.set_index("molecule").loc[names] for _, group in own.groupby("seed")]
        if arm == "full":
            place.plot(degrees, curves[0]["energy"], "o-", color=style.BLACK, markersize=4, label="Kohn-Sham")
        found = np.array([(curve["energy"] + curve["after"]).to_numpy(float) for curve in curves])
        place.plot(degrees, found.T, color=COLOURS[arm], linewidth=0.7, alpha=0.5)
        place.plot(degrees, found.mean(0), "--", color=COLOURS[arm], label=label)


def draw_learning(rows: pd.DataFrame, *, caption: str) -> Figure:
    """Errors against the number of training frames, and the errors of validation along the trainings."""
    above = relative(rows)
    with style.panels(2, width=8.6, height=3.8, caption=caption) as (figure, (left, right)):
        for label, (arms, colour, marker) in LEARNING.items():
            errors = [mean_error(of_way(above, arm)) for arm in arms]
            counts = [rows.loc[(rows["arm"] == arm) & (rows["set"] == TRAIN), "num_frames"].iloc[0] for arm in arms]
            spread = np.abs([[one.value - one.low, one.high - one.value] for one in errors]).T
            values = [one.value for one in errors]
            left.errorbar(counts, values, spread, fmt=marker, color=colour, label=label, capsize=3)
        left.axhline(1.0, color="#888888", linestyle="--", linewidth=1.0)
        left.set(xscale="log", yscale="log", xlabel="training frames", ylabel="error (kcal/mol)")
        left.set_xticks([30, 60, 120], ["30", "60", "120"])
        left.set_yticks([0.5, 1.0, 2.0], ["0.5", "1", "2"])
        judged = rows[(rows["set"] == VALID) & rows["arm"].isin(list(COLOURS))]
        for (arm, seed), group in judged.groupby(["arm", "seed"], sort=False):
            label = None if seed else arm
            right.plot(group["step"], group["error"], "o-", color=COLOURS[arm], markersize=3, label=label)
        right.axhline(CHEMICAL, color="#888888", linestyle="--", linewidth=1.0)
        steps = sorted(judged["step"].unique())
        right.set(xscale="log", yscale="log", xlabel="training step", ylabel="validation error (mHa)")
        right.set_xticks(steps, [f"{step:,.0f}" for step in steps])
        for place in (left, right):
            place.minorticks_off()
            place.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return figure
