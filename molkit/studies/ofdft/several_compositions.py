"""One functional for several compositions, minimised on unseen geometries and larger molecules (page
`several_compositions`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from molkit.claims.ledger import REPOSITORY
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column
from molkit.figures import style
from molkit.ofdft.label_files import load_folder
from molkit.studies.ofdft.arms import CHEMICAL, VALID, Plan, mean_error, rows_of_arm

ATOMS_ALONE = 1e6  # no pairs, no triples: least in `compositions.held_out_errors` of the training set
PLAN = Plan(
    REPOSITORY / "data" / "recipes" / "ofdft_small.yaml",
    {
        "full": {},
        "no gradient labels": {"gradient_weight": 0.0},
        "no perturbed samples": {"samples": "steps"},
        "geometry": {"samples": "geometry", "gradient_weight": 0.0},
        "atom roots": {"roots": "atoms"},
        "atomic energies": {"roots": "atoms", "energy_ridge": ATOMS_ALONE},
    },
)
RUNS = Path("runs/ofdft/small")
LABELS = Path("runs/ofdft/labels_small")  # folders valid, test and larger of `molkit labels`
NUM_TRAIN = 250  # geometries, as the recipe says
SINGLE = ("atom roots", "atomic energies")  # arms that are trained once
SETS = {"test": "unseen geometries", "larger": "three heavy atoms"}
COLOURS = dict(
    zip(
        PLAN.arms,
        (style.BLACK, style.VERMILION, style.ORANGE, style.BLUE, style.GREEN, style.PURPLE),
        strict=True,
    )
)
AUDIT = Comparison(alike={"after": 0.5}, by=("arm", "set", "start"), repeats="seed")


@dataclass(frozen=True)
class Task:
    """One training of an arm, until the snapshot of a step, or the run that is there."""

    arm: str
    seed: int
    until: int

    @property
    def files(self) -> list[Path]:
        """The recipe."""
        return [PLAN.recipe]


@asked
def tasks(*, arms: Sequence[str] = tuple(PLAN.arms), seeds: int = 3, until: int = 1000) -> list[Task]:
    """Every arm with every seed; two arms are trained once. Labels must lie in runs/ofdft/labels_small."""
    return [Task(arm, seed, until) for arm in arms for seed in range(1 if arm in SINGLE else seeds)]


def measure(task: Task) -> list[dict]:
    """The rows of `arms.rows_of_arm` on unseen geometries and on molecules with three heavy atoms."""
    sets = {"test": load_folder(LABELS / "test", "small", "test")}
    sets["larger"] = load_folder(LABELS / "larger", "larger", "test")
    valid = load_folder(LABELS / "valid", "small", "valid")
    return rows_of_arm(PLAN, task.arm, task.seed, runs=RUNS, valid=valid, sets=sets, until=task.until)


BY_ARM = {
    "arm": "arm",
    "test": Column("unseen geometries, mHa", 2),
    "larger": Column("three heavy atoms, mHa", 1),
    "converged": Column("converged, %", 0, 100),
    "trainings": Column("trainings"),
}


def by_arm(rows: pd.DataFrame) -> pd.DataFrame:
    """All arms minimised from MINAO, the network without density beside; last the full one, not minimised."""
    found = []
    for arm in dict.fromkeys(rows["arm"]):
        group = rows[(rows["arm"] == arm) & rows["start"].isin(("MINAO", "geometry"))]
        means = {name: mean_error(group[group["set"] == name]) for name in SETS}
        converged = group.loc[group["set"] == "test", "converged"].astype(float).mean()
        found.append({"arm": arm, **means, "converged": converged, "trainings": group["seed"].nunique()})
    group = rows[(rows["arm"] == "full") & (rows["start"] == "reference")]
    means = {name: mean_error(group[group["set"] == name], "before") for name in SETS}
    found.append({"arm": "full, not minimised", **means, "trainings": group["seed"].nunique()})
    return pd.DataFrame(found)


def draw_arms(
    rows: pd.DataFrame, *, caption: str, arms: Sequence[str] = ("full", "no gradient labels", "no perturbed samples")
) -> Figure:
    """Errors of every unseen geometry by every arm: on the Kohn-Sham density, and after minimisation from MINAO."""
    looks = (
        (-0.2, "Kohn-Sham", "before", style.ORANGE, "on the Kohn-Sham density"),
        (0.2, "MINAO", "after", style.BLUE, "minimised"),
    )
    with style.panels(1, width=8.6, height=0.9 + 0.75 * len(arms), caption=caption) as (figure, (place,)):
        random = np.random.default_rng(0)
        for row, arm in enumerate(arms):
            for shift, start, column, colour, label in looks:
                chosen = (rows["arm"] == arm) & (rows["set"] == "test") & (rows["start"] == start)
                values = rows.loc[chosen, column].abs().to_numpy(float)
                heights = row + shift + 0.06 * random.standard_normal(len(values))
                label = label if row == 0 else None
                place.plot(values, heights, "o", color=colour, markersize=3, alpha=0.5, label=label)
                ends = [row + shift - 0.17, row + shift + 0.17]
                place.plot([np.median(values)] * 2, ends, color=style.BLACK, linewidth=2.0)
        place.axvline(CHEMICAL, color="#888888", linestyle="--", linewidth=1.0)
        place.set(xscale="log", xlabel="|error| (mHa)", ylim=(len(arms) - 0.5, -0.5))
        place.set_yticks(range(len(arms)), arms)
        place.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def draw_errors(rows: pd.DataFrame, *, caption: str, arm: str = "full") -> Figure:
    """Minimised errors by composition, and what validation said along the trainings."""
    with style.panels(2, width=9.0, height=4.4, caption=caption) as (figure, (left, right)):
        own = rows[(rows["arm"] == arm) & (rows["start"] == "MINAO")]
        names = list(dict.fromkeys(own["formula"]))
        for name, colour in (("test", style.BLUE), ("larger", style.ORANGE)):
            group = own[own["set"] == name]
            heights = [names.index(formula) for formula in group["formula"]]
            left.plot(group["after"].abs(), heights, "o", color=colour, markersize=3, label=SETS[name])
        left.axvline(CHEMICAL, color="#888888", linestyle="--", linewidth=1.0)
        left.set(xscale="log", xlabel="|error| (mHa)", ylim=(len(names) - 0.5, -0.5))
        left.set_yticks(range(len(names)), names, fontsize=7)
        for (name, seed), group in rows[rows["set"] == VALID].groupby(["arm", "seed"], sort=False):
            look = {"color": COLOURS[name], "label": name if seed == 0 else None, "markersize": 3}
            right.plot(group["step"], group["error"], "o-", **look)
        right.set(yscale="log", xlabel="training step", ylabel="validation error (mHa)")
        right.legend(fontsize=7, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return figure
