"""Labels of one water geometry, checked in front of the reader, and what making them costs (page `labels`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from time import process_time

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from molkit.data.registry import data_path
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column
from molkit.figures.style import BLUE, ORANGE, VERMILION, panels
from molkit.ofdft.geometries import geometry
from molkit.ofdft.grid import build_grid, coefficient_exchange_correlation
from molkit.ofdft.kohn_sham import KohnShamRun, System, solved
from molkit.ofdft.label_files import LabelledMolecule
from molkit.ofdft.label_packs import read_pack
from molkit.ofdft.labels import FrozenSampling, Labels, frozen_labels, potential_gradients, step_labels

MILLI = 1e3
PACKED = "density_labels_up_to_five.npz"
KINDS = {  # of the trapezoid rule between steps
    "used": ("labels as used", BLUE),
    "projected": ("gradient projected", ORANGE),
    "uncorrected": ("value not corrected", VERMILION),
}
FIT = {
    "hartree": "Hartree energy (mHa)",
    "external": "external energy (mHa)",
    "exchange_correlation": "exchange-correlation (mHa)",
    "electrons": "number of electrons",
}
AUDIT = Comparison(
    within={"excess": 1e-3, "distance": 1e-6, "slope": 1e-5, "used": 1e-5, "projected": 1e-3, "uncorrected": 1e-3}
    | dict.fromkeys(FIT, 1e-4)
)
AUDIT_cost = Comparison(within={"difference": 1e-6}, free=("ours", "generic"))
COST = {
    "num_samples": Column("samples"),
    "generic": Column("one after the other, CPU ms each", 0, MILLI),
    "ours": Column("together, one pseudo-inverse", 1, MILLI),
    "ratio": Column("ratio"),
}
PACK = {
    "heavy": Column("heavy atoms"),
    "molecules": Column("molecules"),
    "compositions": Column("compositions"),
    "samples": Column("samples"),
    "perturbed": Column("in perturbed potentials"),
    "functions": Column("functions of a density"),
    "highest": Column("highest (mHa)"),
}


@dataclass(frozen=True)
class Task:
    """A water geometry of the split test, and samples in random frozen potentials."""

    index: int
    num_frozen: int
    grid_level: int
    seed: int


@asked
def tasks(*, index: int = 1000, num_frozen: int = 40, grid_level: int = 2, seed: int = 0) -> list[Task]:
    """One geometry."""
    return [Task(index, num_frozen, grid_level, seed)]


def measure(task: Task) -> list[dict]:
    """Rows of three kinds; energies in millihartree.

    fit: what the fit of the converged density misses, and the largest component of the energy's slope there (hartree),
    which exact labels make vanish. step: energy above the last step, and relative errors of `step_errors`. frozen:
    energy above the ground state, and the root of the integral of the squared difference to it.
    """
    system, run = solved(geometry("water", "test", task.index), grid_level=task.grid_level)
    random = np.random.default_rng(task.seed)
    frozen = frozen_labels(system, run, FrozenSampling(count=task.num_frozen), random)
    steps = step_labels(system, run)
    moved = frozen.coefficients - steps.coefficients[-1]
    distances = np.sqrt(np.einsum("sm,mn,sn->s", moved, system.integrals.overlap, moved))
    above = [MILLI * (labels.electronic - steps.electronic[-1]) for labels in (steps, frozen)]
    errors = step_errors(system, steps)
    return [
        {"kind": "fit", **fit_errors(system, run, steps), "slope": largest_slope(system, steps)},
        {"kind": "step", "step": 1, "excess": above[0][0]},
        *(
            {"kind": "step", "step": number, "excess": excess, **{name: values[number - 2] for name, values in errors}}
            for number, excess in enumerate(above[0][1:], start=2)
        ),
        *({"kind": "frozen", "excess": high, "distance": far} for high, far in zip(above[1], distances, strict=True)),
    ]


def step_errors(system: System, labels: Labels) -> list[tuple[str, np.ndarray]]:
    """Relative error of the trapezoid rule between consecutive steps: gradient labels against value labels; [T - 1].

    projected: the gradients' part along the electron number removed; uncorrected: the kinetic energy of the orbitals
    instead of the value labels of the fitted density.
    """
    gradients, w = labels.target_gradient("Ts", system.integrals), system.integrals.basis_integrals
    projected = gradients - np.outer(gradients @ w, w) / (w @ w)
    values = labels.value("Ts", system.integrals)
    kinds = {
        "used": (gradients, values),
        "projected": (projected, values),
        "uncorrected": (gradients, labels.kinetic),
    }
    found = []
    for name, (slopes, wanted) in kinds.items():
        predicted = 0.5 * ((slopes[1:] + slopes[:-1]) * np.diff(labels.coefficients, axis=0)).sum(1)
        found.append((name, np.abs(predicted / np.diff(wanted) - 1.0)))
    return found


def largest_slope(system: System, labels: Labels) -> float:
    """Largest component of the energy's gradient at the ground state, hartree."""
    potential = potential_gradients(system, labels.coefficients[-1:])[0]
    return float(np.abs(potential + labels.gradient[-1]).max())


def fit_errors(system: System, run: KohnShamRun, labels: Labels) -> dict[str, float]:
    """What the fit of the converged density misses, fitted minus exact: energies in millihartree, and electrons."""
    parts, integrals, p = run.steps[-1].parts, system.integrals, labels.coefficients[-1]
    return {
        "hartree": MILLI * (0.5 * float(p @ integrals.coulomb @ p) - parts.hartree),
        "external": MILLI * (float(p @ integrals.external) - parts.external),
        "exchange_correlation": MILLI * float(labels.exchange_correlation[-1] - parts.exchange_correlation),
        "electrons": float(p @ integrals.basis_integrals) - integrals.num_electrons,
    }


@asked
def tasks_cost(*, index: int = 1000, grid_level: int = 2) -> list[Task]:
    """The same geometry, no samples."""
    return [Task(index, 0, grid_level, 0)]


def measure_cost(task: Task) -> list[dict]:
    """CPU seconds a sample of fit and exchange-correlation gradient, made two ways, for the densities of all steps.

    ours: one pseudo-inverse and one table of basis values. generic: a least-squares solution and a new table for each.
    difference: the largest of the coefficients, relative to the largest of them.
    """
    system, run = solved(geometry("water", "test", task.index), grid_level=task.grid_level)
    matrices = np.stack([step.matrix for step in run.steps])
    started = process_time()
    fitted = system.fit(matrices)
    coefficient_exchange_correlation(system.grid, fitted)
    between = process_time()
    alone = np.stack([_label_alone(system, matrix) for matrix in matrices])
    seconds = between - started, process_time() - between
    difference = float(np.abs(alone - fitted).max() / np.abs(fitted).max())
    count = len(matrices)
    return [{"num_samples": count, "ours": seconds[0] / count, "generic": seconds[1] / count, "difference": difference}]


def _label_alone(system: System, matrix: np.ndarray) -> np.ndarray:
    """One sample as a library's user would label it: nothing kept from the sample before."""
    integrals, flat = system.integrals, matrix.reshape(-1)
    stacked = np.concatenate([integrals.coulomb, integrals.external[None]])
    right = np.concatenate([flat @ system.fit.pairs, [flat @ system.fit.attraction]])
    coefficients = np.linalg.lstsq(stacked, right, rcond=None)[0]
    coefficient_exchange_correlation(build_grid(system.molecule, level=1), coefficients[None])
    return coefficients


@lru_cache(maxsize=1)
def packed_labels(name: str = PACKED) -> Sequence[LabelledMolecule]:
    """The labelled molecules of a packed set in data/sets. Raises what `read_pack` and the check of its sum raise."""
    return read_pack(data_path(name))[2]


def pack_summary(entries: Sequence[LabelledMolecule]) -> pd.DataFrame:
    """What a packed set of labels holds, a line for each number of heavy atoms; `highest` above a ground state, mHa."""
    frame = pd.DataFrame(
        {
            "heavy": int((entry.molecule.atomic_numbers > 1).sum()),
            "molecules": entry.molecule.name,
            "compositions": entry.molecule.formula,
            "samples": len(entry.labels),
            "perturbed": int((entry.labels.source > 0).sum()),
            "functions": entry.labels.coefficients.shape[1],
            "highest": MILLI * float(np.ptp(entry.labels.electronic)),
        }
        for entry in entries
    )
    ways = {"molecules": "count", "compositions": "nunique", "samples": "sum", "perturbed": "sum"}
    return frame.groupby("heavy", as_index=False).agg(ways | {"functions": "mean", "highest": "max"})


def draw_checks(rows: pd.DataFrame, *, caption: str) -> Figure:
    """Gradient labels against value labels, and where the samples lie."""
    steps, frozen = (rows[rows["kind"] == kind] for kind in ("step", "frozen"))
    with panels(2, width=8.4, height=3.2, caption=caption) as (figure, (left, right)):
        for name, (label, colour) in KINDS.items():
            left.plot(steps["step"][1:], steps[name][1:], "o-", color=colour, label=label)
        left.set(xlabel="step", ylabel="relative error of the difference", yscale="log")
        left.legend(fontsize=8)
        right.plot(frozen["distance"], frozen["excess"], "o", color=BLUE, markersize=4)
        right.set(xlabel="distance from the ground state (bohr$^{-3/2}$)", ylabel="energy above it (mHa)")
        right.set(xscale="log", yscale="log")
    return figure
