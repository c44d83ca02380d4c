"""Everything that gives an energy of unseen water geometries, side by side (page `density_optimisation`)."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from molkit.experiments.show import Column
from molkit.figures import style
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.studies.ofdft.arms import CHEMICAL, mean_error
from molkit.studies.ofdft.learned_functional import of_arm

WAYS = {"way": "way", "error": Column("error (mHa)", 3), "n": "n"}
STARTS = {
    "start": "start",
    "before": Column("before (mHa)", 3),
    "after": Column("minimised (mHa)", 3),
    "selected": Column("selected step (mHa)", 3),
    "largest": Column("largest", 3),
    "bias": Column("bias", 3),
    "steps": Column("steps"),
    "converged": Column("converged (%)", 0, 100.0),
}
LIVE = {
    "index": Column("geometry"),
    "kohn_sham": Column("Kohn-Sham (Ha)", 6),
    "start_error": Column("start (mHa)", 1),
    "error": Column("minimised (mHa)", 3),
    "predicted_error": Column("not minimised (mHa)", 3),
    "dipole": Column("dipole (D)", 3),
    "kohn_sham_dipole": Column("Kohn-Sham's", 3),
    "moved": Column("electrons misplaced", 4),
}


def by_way(rows: pd.DataFrame, direct: pd.DataFrame, classical: pd.DataFrame) -> pd.DataFrame:
    """Everything that gives an energy of these geometries, from the same labels; mean absolute errors."""
    own, predicted = of_arm(rows, "full"), of_arm(rows, "full", "reference")
    trainings, geometries = f"{own['seed'].nunique()} trainings", f"{len(direct)} geometries"
    lines = [
        ("learned, minimised from MINAO", mean_error(own), trainings),
        ("learned, not minimised: predicted density", mean_error(predicted, "before"), trainings),
        ("no density: a spline through the energies", bootstrap_interval(direct["error"].abs().to_numpy()), geometries),
    ]
    for name, group in classical.groupby("functional", sort=False):
        lines.append((f"{name}, minimised", group["after"].abs().mean(), f"{len(group)} geometry"))
    return pd.DataFrame(lines, columns=list(WAYS), dtype=object)


def draw_ways(ways: pd.DataFrame, *, caption: str) -> Figure:
    """The errors of `by_way` on one logarithmic axis, one kcal/mol dashed."""
    with style.panels(1, width=7.6, height=3.0, caption=caption) as (figure, (axis,)):
        for row, error in enumerate(ways["error"]):
            value = error.value if isinstance(error, Interval) else error
            axis.plot(value, row, "o", color=style.BLUE)
            if isinstance(error, Interval):
                axis.plot([error.low, error.high], [row, row], color=style.BLUE)
        axis.axvline(CHEMICAL, color="#888888", linestyle="--", linewidth=1.0)
        axis.set(xscale="log", xlabel="mean absolute error of the energy (mHa)", ylim=(len(ways) - 0.5, -0.5))
        axis.set_yticks(np.arange(len(ways)), ways["way"])
    return figure
