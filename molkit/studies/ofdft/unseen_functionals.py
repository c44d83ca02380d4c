"""Functionals on molecules they have never met: five folds of QM9's small molecules, and larger ones (page
`unseen_molecules`)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from molkit.chem.chains import FAMILIES as CHAINS
from molkit.chem.chains import molecule_of
from molkit.claims.ledger import REPOSITORY, Measurement
from molkit.claims.record import record
from molkit.errors import InvalidInput
from molkit.experiments.experiment import Comparison, asked
from molkit.figures import style
from molkit.metrics.statistics import bootstrap_interval
from molkit.molecule import Molecule
from molkit.ofdft.attention_functional import load, save_functional
from molkit.ofdft.attention_training import AttentionRecipe
from molkit.ofdft.compositions import (
    NUM_FOLDS,
    careful_energies,
    of_fold,
    without_fold,
)
from molkit.ofdft.geometries import geometry
from molkit.ofdft.label_files import LabelledMolecule
from molkit.ofdft.label_packs import load_labels
from molkit.ofdft.optimise import optimise
from molkit.ofdft.recipes import training_labels
from molkit.ofdft.tuned_kohn_sham import tuned_energy
from molkit.studies.ofdft.arms import (
    MILLI,
    OPTIONS,
    Plan,
    arm_recipe,
    evaluated,
    not_minimised,
    run_folder,
    train_arm,
    without_density,
)
from molkit.training.weights import weight_files
from molkit.units import HARTREE_TO_KCAL

PACKED = REPOSITORY / "data" / "sets" / "density_labels_up_to_five.npz"
MOVED = Path("runs/ofdft/labels_up_to_five/displaced")  # of `molkit labels`
RUNS = Path("runs/ofdft/folds")
NO_DENSITY = {"samples": "geometry", "gradient_weight": 0.0}
DISPLACED = {  # the least spread of the reference energy by compositions left out, as its restraint is
    "folder": str(PACKED.relative_to(REPOSITORY)),
    "energy_spread": 0.0,
    "further": (str(MOVED),),
}
RESPONSE, DISPLACED_RESPONSE = "response alone", "displaced response alone"
TAKEN_FROM = {RESPONSE: "full", DISPLACED_RESPONSE: "displaced"}  # trainings whose weights get another reference energy
PLAN = Plan(
    REPOSITORY / "data" / "recipes" / "ofdft_up_to_five.yaml",
    {
        "full": {},
        "geometry": NO_DENSITY,
        RESPONSE: {},
        DISPLACED_RESPONSE: DISPLACED,
        "geometry displaced": DISPLACED | NO_DENSITY,
    },
    other_starts=("MINAO", "reference"),
)
FULL_STARTS = ("Kohn-Sham", "reference", "MINAO")
REFERENCE_ENERGY = "reference energy alone"
FAMILIES = ("QM9", *CHAINS)
LARGEST_TRAINED = 5  # heavy atoms
BAR = 3.0  # kcal/mol
ENOUGH = 10  # molecules, to resample
KCAL = HARTREE_TO_KCAL / MILLI  # kcal/mol in a millihartree
WAYS = (  # label, arm, start, column of the errors
    ("minimised from MINAO", "full", "MINAO", "after"),
    ("minimised from the predicted density", "full", "reference", "after"),
    ("at the predicted density", "full", "reference", "before"),
    ("at the Kohn-Sham density", "full", "Kohn-Sham", "before"),
    ("network without a density", "geometry", "geometry", "after"),
    ("reference energy alone, spread chosen", RESPONSE, REFERENCE_ENERGY, "after"),
    ("response alone on it, minimised", RESPONSE, "MINAO", "after"),
    ("displaced too: network without a density", "geometry displaced", "geometry", "after"),
    ("displaced too: reference energy alone", DISPLACED_RESPONSE, REFERENCE_ENERGY, "after"),
    ("displaced too: response alone, minimised", DISPLACED_RESPONSE, "MINAO", "after"),
)
DRAWN = dict(zip([0, 2, 4, 6], (style.BLUE, style.SKY, style.ORANGE, style.BLACK), strict=True))  # of WAYS
ARM_COLOURS = (style.BLUE, style.ORANGE, style.GREEN, style.BLACK, style.VERMILION, style.SKY)
AUDIT = Comparison(alike={"after": 2.0}, by=("arm", "where", "start"))
AUDIT_larger = Comparison(within={"predicted": 0.05, "minimised": 0.05, "moved": 1e-3}, free=("steps",))


@dataclass(frozen=True)
class Task:
    """One arm trained without one fold, and asked for it; at rest as in QM9, or with every coordinate displaced."""

    arm: str
    fold: int
    where: str

    @property
    def files(self) -> list[Path]:
        """The recipe and the labels at rest."""
        return [PLAN.recipe, PACKED]


@asked
def tasks(*, arms: Sequence[str] = tuple(PLAN.arms)) -> list[Task]:
    """Every arm and fold at rest; displaced too where the training was. Raises InvalidInput for an unknown arm.

    Labels that are not in the repository must lie where the recipe and `MOVED` say.
    """
    found = []
    for arm in arms:
        wheres = ("resting", "displaced") if fold_recipe(arm, 0).data.further else ("resting",)
        found += [Task(arm, fold, where) for where in wheres for fold in range(NUM_FOLDS)]
    return found


def fold_recipe(arm: str, fold: int, plan: Plan = PLAN) -> AttentionRecipe:
    """The recipe of an arm that does not see a fold; -1 holds none out. Raises InvalidInput for an unknown arm."""
    recipe = arm_recipe(arm, seed=0, plan=plan)
    return replace(recipe, data=replace(recipe.data, held_out=fold))


def trained_on(recipe: AttentionRecipe) -> list[LabelledMolecule]:
    """The labelled molecules that a recipe learns from. Raises what the loader raises."""
    return without_fold(training_labels(recipe, recipe.data.name, recipe.data.further), recipe.data.held_out)


def measure(task: Task) -> list[dict]:
    """The rows of `arms.evaluated` of the fold by the last weights of the training, with Kohn-Sham energies (hartree).

    No snapshot is chosen, so no molecule of the fold is ever asked before the end. Arms that are taken from another
    have rows of their reference energy alone.
    """
    place = PACKED if task.where == "resting" else MOVED
    return rows_of_fold(task.arm, task.fold, load_labels(place, "up_to_five", "train"), runs=RUNS)


def rows_of_fold(
    arm: str, fold: int, labelled: Sequence[LabelledMolecule], *, runs: Path, plan: Plan = PLAN
) -> list[dict]:
    """Train without a fold, or take the run that is there; ask for every molecule of the fold.

    Raises what `train_arm` raises, and InvalidInput where training and test do not agree on the fold, because some of
    the labels are missing.
    """
    recipe, molecules = fold_recipe(arm, fold, plan), of_fold(labelled, fold)
    out, known = run_folder(runs, TAKEN_FROM.get(arm, arm), fold), trained_on(recipe)
    met = {entry.molecule.formula for entry in known} & {entry.molecule.formula for entry in molecules}
    if met:
        raise InvalidInput(f"fold {fold}: {min(met)} is in training and in test; label all molecules of the class")
    train_arm(recipe, out)
    functional = load(out)
    if arm in TAKEN_FROM:
        functional = functional.on_reference_energy(careful_energies(known))
    rows = evaluated(functional, molecules, arm, FULL_STARTS if arm == next(iter(plan.arms)) else plan.other_starts)
    if arm in TAKEN_FROM:
        per_start = len(rows) // len(molecules)
        about = [{name: rows[k * per_start][name] for name in list(rows[0])[:5]} for k in range(len(molecules))]
        alone = [not_minimised(functional.energy_of(entry.molecule), entry, REFERENCE_ENERGY) for entry in molecules]
        rows += [one | other for one, other in zip(about, alone, strict=True)]
    return [row | {"num_train": len(known)} for row in rows]


def train_on_all(arm: str, *, runs: Path = RUNS, plan: Plan = PLAN) -> Path:
    """Train an arm with no fold held out, or take the run that is there; returns the folder of its weights."""
    recipe = fold_recipe(arm, -1, plan)
    out = run_folder(runs, TAKEN_FROM.get(arm, arm), "all")
    train_arm(recipe, out)
    if arm not in TAKEN_FROM:
        return out
    folder = out / "snapshots" / arm.replace(" ", "_")
    save_functional(folder, load(out).on_reference_energy(careful_energies(trained_on(recipe))))
    return folder


@dataclass(frozen=True)
class LargerTask:
    """One molecule by published weights, or by an arm of the study trained on all folds."""

    arm: str
    weights: str  # "" trains the arm
    family: str
    number: int
    grid_level: int

    @property
    def files(self) -> list[Path]:
        """The weights, or the recipe of the training."""
        return weight_files(self.weights) if self.weights else [PLAN.recipe]


@asked
def tasks_larger(
    *,
    arms: Sequence[str] = tuple(PLAN.arms),
    weights: str = "",
    first: int = 0,
    qm9: int = 12,
    alkanes: int = 10,
    peptides: int = 2,
    grid_level: int = 2,
) -> list[LargerTask]:
    """QM9's molecules with six to nine heavy atoms from number `first` on, alkanes and capped peptides by length."""
    counts = {"QM9": range(first, first + qm9), "alkane": range(1, alkanes + 1), "peptide": range(1, peptides + 1)}
    names = ("weights",) if weights else arms
    return [
        LargerTask(arm, weights, family, number, grid_level)
        for arm in names
        for family in FAMILIES
        for number in counts[family]
    ]


def measure_larger(task: LargerTask) -> list[dict]:
    """Errors against Kohn-Sham in millihartree: at the predicted density, and minimised from there.

    An arm without a density has only the first. moved: norm of z at the end.
    """
    molecule = member(task.family, task.number)
    kohn_sham = _kohn_sham(task.family, task.number, task.grid_level)
    functional = load(task.weights) if task.weights else load(train_on_all(task.arm))
    energy = functional.energy_of(molecule)
    row = {
        "formula": molecule.formula,
        "num_heavy": int((molecule.atomic_numbers > 1).sum()),
        "num_atoms": molecule.num_atoms,
        "kohn_sham": kohn_sham,
    }
    start = np.zeros(len(energy.constraint))
    if without_density(task.arm):
        error = MILLI * (energy(start)[0] - kohn_sham)
        return [row | {"predicted": error, "minimised": error, "moved": 0.0, "steps": 0, "converged": True}]
    start = energy.on_constraint(start)
    result = optimise(energy, start, constraint=energy.constraint, options=OPTIONS)
    return [
        row
        | {
            "predicted": MILLI * (energy(start)[0] - kohn_sham),
            "minimised": MILLI * (result.energy - kohn_sham),
            "moved": float(np.linalg.norm(result.variables)),
            "steps": result.num_steps,
            "converged": result.converged,
        }
    ]


@lru_cache(maxsize=64)
def _kohn_sham(family: str, number: int, grid_level: int) -> float:
    return tuned_energy(member(family, number), grid_level=grid_level).energy


def member(family: str, number: int) -> Molecule:
    """QM9's molecules with six to nine heavy atoms in turn, from 0 on; chains by their length."""
    return geometry("beyond_five", "test", number) if family == "QM9" else molecule_of(family, number)


def errors_of(rows: pd.DataFrame, arm: str, start: str, column: str = "after", where: str = "resting") -> pd.Series:
    """Signed errors in kcal/mol by molecule."""
    chosen = rows[(rows["arm"] == arm) & (rows["start"] == start) & (rows["where"] == where)]
    return KCAL * chosen.set_index("molecule")[column].astype(float)


def by_way(rows: pd.DataFrame, where: str = "resting") -> pd.DataFrame:
    """Errors (kcal/mol) of every way to an energy of a molecule that was not trained on."""
    atoms = rows.drop_duplicates("molecule").set_index("molecule")["num_atoms"]
    found = []
    for label, arm, start, column in WAYS:
        errors = errors_of(rows, arm, start, column, where)
        if len(errors):
            found.append(
                {
                    "way": label,
                    "error": bootstrap_interval(errors.abs().to_numpy()),
                    "median": errors.abs().median(),
                    "largest": errors.abs().max(),
                    "bias": errors.mean(),
                    "per_atom": (errors.abs() / atoms[errors.index]).mean(),
                    "within": (errors.abs() <= BAR).mean(),
                }
            )
    return pd.DataFrame(found)


def beyond(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean errors (kcal/mol) of what is larger than the training, by family and arm; intervals for ENOUGH of them."""
    found = []
    for (family, arm), group in rows[rows["num_heavy"] > LARGEST_TRAINED].groupby(["family", "arm"], sort=False):
        errors = {name: KCAL * group[name].abs().to_numpy(float) for name in ("minimised", "predicted")}
        atoms, heavy = group["num_atoms"].to_numpy(), group["num_heavy"]
        columns = {"total": errors["minimised"]} | {f"{name}_atom": value / atoms for name, value in errors.items()}
        means = {n: bootstrap_interval(v) if len(v) >= ENOUGH else float(v.mean()) for n, v in columns.items()}
        sizes = f"{heavy.min()} to {heavy.max()}"
        found.append({"family": family, "arm": arm, "molecules": len(group), "heavy": sizes, **means})
    order = {name: place for place, name in enumerate(FAMILIES)}
    return pd.DataFrame(found).sort_values("family", key=lambda names: names.map(order), kind="stable")


def draw_folds(rows: pd.DataFrame, *, caption: str) -> Figure:
    """How many molecules are within an error, and the error by heavy atoms."""
    shown = [(WAYS[place], colour) for place, colour in DRAWN.items() if WAYS[place][1] in set(rows["arm"])]
    heavy = rows.drop_duplicates("molecule").set_index("molecule")["num_heavy"]
    with style.panels(2, width=9.0, height=3.6, caption=caption) as (figure, (left, right)):
        for shift, ((label, *way), colour) in enumerate(shown):
            errors = errors_of(rows, *way).abs()
            count = len(errors)
            left.step(np.sort(errors), np.arange(1, count + 1) / count, where="post", color=colour, label=label)
            groups = [group for _, group in errors.groupby(heavy[errors.index]) if len(group) >= ENOUGH]
            means = [bootstrap_interval(group.to_numpy()) for group in groups]
            sizes = [heavy[group.index[0]] + 0.12 * (shift - 0.5 * (len(shown) - 1)) for group in groups]
            values = np.array([[one.value, one.low, one.high] for one in means])
            ends = np.abs(values[:, 1:] - values[:, :1]).T
            right.errorbar(sizes, values[:, 0], ends, fmt="o", color=colour, capsize=3)
        left.axvline(BAR, color="#888888", linestyle="--", linewidth=1.0)
        left.set(xscale="log", xlabel="|error| (kcal/mol)", ylabel="share of molecules", ylim=(0.0, 1.0))
        left.legend(fontsize=7, loc="upper left")
        right.axhline(BAR, color="#888888", linestyle="--", linewidth=1.0)
        right.set(xlabel="heavy atoms", ylabel="mean |error| (kcal/mol)", ylim=(0.0, None))
        right.xaxis.get_major_locator().set_params(integer=True)
    return figure


def draw_sizes(rows: pd.DataFrame, *, caption: str) -> Figure:
    """Errors for each atom against size, family by family; dashed at the predicted density."""
    with style.panels(len(FAMILIES), width=9.0, height=3.3, caption=caption) as (figure, axes):
        for family, place in zip(FAMILIES, axes, strict=True):
            own = rows[rows["family"] == family].sort_values("num_heavy", kind="stable")
            for (arm, group), colour in zip(own.groupby("arm", sort=False), cycle(ARM_COLOURS), strict=False):
                look, atoms = ("o" if family == "QM9" else "o-"), group["num_atoms"]
                values = KCAL * group["minimised"].abs() / atoms
                place.plot(group["num_heavy"], values, look, color=colour, label=arm, markersize=4, linewidth=1.0)
                if not without_density(arm) and family != "QM9":
                    values = KCAL * group["predicted"].abs() / atoms
                    place.plot(group["num_heavy"], values, "--", color=colour, linewidth=1.0)
            place.axvspan(0.5, LARGEST_TRAINED + 0.5, color="#eeeeee")
            place.set(yscale="log", xlabel="heavy atoms", ylabel="|error| per atom (kcal/mol)", title=family)
        axes[0].set_ylim(bottom=1e-2 * axes[0].get_ylim()[0])  # room for the names
        axes[0].legend(fontsize=7, loc="lower left")
    return figure


def record_unseen(rows: pd.DataFrame, larger: pd.DataFrame) -> list[Measurement]:
    """Record the error on molecules that were not trained on; per atom on larger ones, with and without a density.

    Up to five heavy atoms: by the arm of the published weights, at the geometries of QM9; the note holds the error of
    its reference energy alone.
    """
    errors = errors_of(rows, DISPLACED_RESPONSE, "MINAO").abs().to_numpy()
    alone = errors_of(rows, DISPLACED_RESPONSE, REFERENCE_ENERGY).abs().mean()
    note = f"arm '{DISPLACED_RESPONSE}': QM9's molecules with up to five heavy atoms, each by a training without its "
    note += f"composition; total energies; its {REFERENCE_ENERGY}: {alone:.2f}; trained on our labels alone"
    found = {"structures25.qm9.energy": (errors, rows, note)}
    for claim, arm in (("minimised", "full"), ("direct", "geometry")):
        group = larger[(larger["family"] == "QM9") & (larger["arm"] == arm)]
        per_atom = (KCAL * group["minimised"].abs() / group["num_atoms"]).to_numpy(float)
        about = "trained on up to five heavy atoms, asked for QM9's with six to nine; total energies, per atom; "
        found[f"mofdft.extrapolation.{claim}"] = per_atom, larger, f"{about}trained on our labels alone"
    return [
        record(
            claim,
            bootstrap_interval(values),
            table,
            n=len(values),
            basis="scaled_down",
            interval_kind="molecules resampled, 95 %",
            seeds=[0],
            notes=told,
        )
        for claim, (values, table, told) in found.items()
    ]
