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
from molkit.molecule import Molecule
from molkit.ofdft.attention_functional import load
from molkit.ofdft.geometries import geometry
from molkit.ofdft.grid import grid_points
from molkit.ofdft.label_files import LabelSettings, load_folder, make_labels
from molkit.ofdft.labels import FrozenSampling
from molkit.ofdft.observables import density_at
from molkit.ofdft.optimise import optimise
from molkit.studies.ofdft.arms import MILLI, OPTIONS, STARTS, VALID, Plan, mean_error, rows_of_arm, start_of
from molkit.training.weights import weight_files
from molkit.units import ANGSTROM_TO_BOHR

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
CHEMICAL = 1.594  # millihartree in a kcal/mol
FIRST_LIVE = 1000  # test geometry that no training has used
NUM_SHELLS, RADII = 50, np.linspace(0.01, 4.0, 200)  # directions of a spherical average; bohr
AUDIT = Comparison(alike={"after": 0.5}, by=("arm", "set", "start"), repeats="seed")
AUDIT_live = Comparison(
    within={name: 0.01 for name in ("start_error", "error", "selected_error", "predicted_error", "reference_error")}
    | {"kohn_sham": 1e-6, "radial": 1e-3, "kohn_sham_radial": 1e-3, "moved": 1e-3},
    free=("steps",),
)


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


@dataclass(frozen=True)
class LiveTask:
    """A test geometry that no training has used."""

    weights: str
    kind: str  # class of geometries
    index: int
    grid_level: int

    @property
    def files(self) -> list[Path]:
        """The weights."""
        return weight_files(self.weights)


@asked
def tasks_live(
    *, weights: str = "ofdft_small", kind: str = "small", first: int = FIRST_LIVE, count: int = 10, grid_level: int = 2
) -> list[LiveTask]:
    """Test geometries of a class from number `first` on; of `small`, one composition after the other."""
    return [LiveTask(weights, kind, number, grid_level) for number in range(first, first + count)]


def measure_live(task: LiveTask) -> list[dict]:
    """One molecule; errors against Kohn-Sham in millihartree, radial densities about its first heavy atom.

    predicted_error: at the reference density, not minimised; reference_error: minimised from there. moved: half the
    integral of |rho - rho_KS| of the minimised density. radial: 4 pi r^2 rho at RADII, electrons per bohr.
    """
    molecule = geometry(task.kind, "test", task.index)
    entry = make_labels(molecule, LabelSettings(FrozenSampling(count=0), grid_level=task.grid_level))
    energy = load(task.weights).energy_of(molecule)
    result, other = (
        optimise(energy, start_of(energy, entry, start), constraint=energy.constraint, options=OPTIONS)
        for start in ("MINAO", "reference")
    )
    ours, theirs = energy.coefficients(result.variables), entry.labels.coefficients[entry.ground_state]
    return [
        {
            "formula": molecule.formula,
            "kohn_sham": entry.energy,
            "start_error": MILLI * (result.energies[0] - entry.energy),
            "error": MILLI * (result.energy - entry.energy),
            "selected_error": MILLI * (result.selected_energy - entry.energy),
            "predicted_error": MILLI * (other.energies[0] - entry.energy),
            "reference_error": MILLI * (other.energy - entry.energy),
            "steps": result.num_steps,
            "converged": result.converged,
            "moved": electrons_moved(molecule, ours - theirs, grid_level=task.grid_level),
            "radial": radial_density(molecule, ours).round(5),
            "kohn_sham_radial": radial_density(molecule, theirs).round(5),
        }
    ]


def electrons_moved(molecule: Molecule, difference: np.ndarray, *, grid_level: int) -> float:
    """Electrons in the wrong place, from a difference of densities with coefficients [M].

    Half the integral of its absolute value, which counts every electron where it is and where it should be.
    """
    points, weights = grid_points(molecule, level=grid_level)
    return 0.5 * float(weights @ np.abs(density_at(molecule, difference, points)))


def radial_density(molecule: Molecule, coefficients: np.ndarray, *, radii: Sequence[float] = RADII) -> np.ndarray:
    """4 pi r^2 times the spherical average of the density about the first heavy atom, electrons per bohr; [R].

    Directions are those of a Fibonacci lattice of NUM_SHELLS points.
    """
    centre = molecule.positions[int(np.argmax(molecule.atomic_numbers > 1))] * ANGSTROM_TO_BOHR
    steps = np.arange(NUM_SHELLS) + 0.5
    height, angle = 1.0 - 2.0 * steps / NUM_SHELLS, np.pi * (1.0 + np.sqrt(5.0)) * steps
    ring = np.sqrt(1.0 - height**2)
    directions = np.stack([ring * np.cos(angle), ring * np.sin(angle), height], axis=1)
    points = centre + np.asarray(radii)[:, None, None] * directions
    values = density_at(molecule, coefficients, points.reshape(-1, 3)).reshape(len(points), -1).mean(1)
    return 4.0 * np.pi * np.asarray(radii) ** 2 * values


LIVE = {
    "formula": "molecule",
    "kohn_sham": Column("Kohn-Sham, Ha", 6),
    "start_error": Column("MINAO, mHa", 1),
    "error": Column("minimised, mHa", 3),
    "selected_error": Column("selected step, mHa", 3),
    "reference_error": Column("from the reference, mHa", 3),
    "predicted_error": Column("not minimised, mHa", 3),
    "moved": Column("electrons misplaced", 3),
    "steps": Column("steps"),
}
BY_ARM = {
    "arm": "arm",
    "test": Column("unseen geometries, mHa", 2),
    "larger": Column("three heavy atoms, mHa", 1),
    "converged": Column("converged, %", 0, 100),
    "trainings": Column("trainings"),
}


def by_start(rows: pd.DataFrame, arm: str = "full") -> pd.DataFrame:
    """An arm from every start, on both sets."""
    found, own = [], rows[rows["arm"] == arm]
    for name in SETS:
        for start in STARTS:
            group = own[(own["set"] == name) & (own["start"] == start)]
            if len(group):
                errors = {column: mean_error(group, column) for column in ("before", "after", "selected")}
                after = group["after"]
                means = group[["density", "steps", "converged"]].astype(float).mean()
                found.append({"set": name, "start": start, **errors, "largest": after.abs().max(), **means})
                found[-1]["bias"] = after.mean()
    return pd.DataFrame(found)


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
        right.set(xscale="log", yscale="log", xlabel="training step", ylabel="validation error (mHa)")
        right.legend(fontsize=7)
    return figure


def draw_shells(rows: pd.DataFrame, *, caption: str) -> Figure:
    """Electrons at a distance from the first heavy atom, of up to three molecules."""
    shown = rows.head(3).to_dict("records")
    with style.panels(len(shown), width=8.6, height=2.8, caption=caption) as (figure, axes):
        for row, place in zip(shown, axes, strict=True):
            place.plot(RADII, row["kohn_sham_radial"], color=style.BLACK, label="Kohn-Sham")
            place.plot(RADII, row["radial"], "--", color=style.BLUE, label="minimised")
            place.set(xlabel="r (bohr)", ylabel="electrons per bohr", title=row["formula"])
            place.legend(fontsize=7)
    return figure
