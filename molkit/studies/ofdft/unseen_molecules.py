"""What a density tells of the energy of a molecule that was never met (page `unseen_molecules`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.linalg
from matplotlib.figure import Figure
from scipy.spatial.distance import cdist

from molkit.claims.ledger import REPOSITORY
from molkit.errors import InvalidInput
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import mean_with_interval, paired
from molkit.figures import style
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.ofdft.basis import density_mole
from molkit.ofdft.channels import ELEMENTS, LARGEST_SHELLS, Neighbourhood, least_squares, neighbourhood
from molkit.ofdft.compositions import NUM_FOLDS, folds_by_composition
from molkit.ofdft.integrals import symmetric_roots
from molkit.ofdft.label_files import LabelledMolecule
from molkit.ofdft.label_packs import read_pack
from molkit.rng import generator_from
from molkit.units import HARTREE_TO_KCAL

LABELS = REPOSITORY / "data" / "sets" / "density_labels_up_to_five.npz"
DENSITIES = {
    "kohn_sham": "Kohn-Sham",
    "fitted": "fitted to neighbours",
    "minao": "MINAO",
    "atoms": "superposition of atoms",
}
COLOURS = dict(zip(DENSITIES, (style.BLUE, style.GREEN, style.VERMILION, style.PURPLE), strict=True))
LENGTHS = (1.0, 3.0, 10.0, 30.0)  # of the kernel; features have a mean square of about 2 in distance
NOISES = (1e-10, 1e-8, 1e-6, 1e-4)  # beside a kernel of mean diagonal 1
FLOOR = 1e-3  # of the spread of a feature, relative to the largest one
# An error close to the choice of a setting moves with the library that factorises matrices.
AUDIT = Comparison(within={"error": 0.02, "moved": 0.02}, free=("length", "noise"))


@dataclass(frozen=True)
class Task:
    """One fold of compositions, asked by a process that learned from other molecules, by one kind of density."""

    density: str
    fold: int
    train: int  # molecules to learn from, drawn from those of the other folds; 0 is all
    molecules: int  # of the set, spread evenly
    seed: int

    @property
    def files(self) -> list[Path]:
        """The labels."""
        return [LABELS]


@asked
def tasks(
    *,
    densities: Sequence[str] = tuple(DENSITIES),
    train: Sequence[int] = (35, 70, 0),
    molecules: int = 174,
    seed: int = 0,
) -> list[Task]:
    """All densities with all sizes of the training, in five folds by composition. Raises InvalidInput for an unknown
    density."""
    unknown = [name for name in densities if name not in DENSITIES]
    if unknown:
        raise InvalidInput(f"densities are {', '.join(DENSITIES)}; got {unknown[0]!r}")
    return [
        Task(density, fold, count, molecules, seed)
        for density in densities
        for count in train
        for fold in range(NUM_FOLDS)
    ]


def measure(task: Task) -> list[dict]:
    """One row a molecule of the fold: error of its energy (kcal/mol), and what was chosen inside the training.

    `moved`: the error of the process that learned from Kohn-Sham's densities, asked at this density.
    """
    known, unseen = parts(task)
    features, unseen_features = described(known, unseen, task.density)
    process = chosen_process(features, known)
    energies = process.energies(unseen_features, unseen)
    moved = kohn_sham_process(task.fold, task.train, task.molecules, task.seed).energies(unseen_features, unseen)
    return [
        {
            "molecule": one.entry.molecule.name,
            "formula": one.entry.molecule.formula,
            "num_heavy": int((one.entry.molecule.atomic_numbers > 1).sum()),
            "known": len(known),
            "error": HARTREE_TO_KCAL * (found - one.entry.energy),
            "moved": HARTREE_TO_KCAL * (other - one.entry.energy),
            "length": process.length,
            "noise": process.noise,
        }
        for one, found, other in zip(unseen, energies, moved, strict=True)
    ]


@lru_cache(maxsize=32)
def kohn_sham_process(fold: int, train: int, molecules: int, seed: int) -> "Process":
    """What Kohn-Sham's densities teach."""
    known, _ = parts(Task("kohn_sham", fold, train, molecules, seed))
    return chosen_process([one.invariants(one.ground) for one in known], known)


@dataclass(frozen=True, eq=False)
class Described:
    """A labelled molecule, and what turns its density coefficients [M] into invariants of its atoms."""

    entry: LabelledMolecule

    @property
    def ground(self) -> np.ndarray:
        """Kohn-Sham's coefficients, [M]."""
        return self.entry.labels.coefficients[self.entry.ground_state]

    @cached_property
    def overlap(self) -> np.ndarray:
        """W, [M, M]."""
        return density_mole(self.entry.molecule).intor("int1e_ovlp")

    @cached_property
    def place(self) -> Neighbourhood:
        """Neighbours and rows of functions."""
        return neighbourhood(self.entry.molecule)

    @cached_property
    def shells(self) -> list["Shell"]:
        """Shells of all atoms, atom by atom."""
        found, features = [], [self.place.reference_features(momentum) for momentum in range(len(LARGEST_SHELLS))]
        for atom, shells in enumerate(self.place.rows):
            for momentum, rows in shells.items():
                block = self.overlap[np.ix_(rows[:, 0], rows[:, 0])]
                roots = symmetric_roots(block, self.entry.molecule.formula)
                element = int(self.place.elements[atom])
                found.append(Shell(atom, element, momentum, rows, *roots, features[momentum][atom]))
        return found

    def invariants(self, coefficients: np.ndarray) -> list[np.ndarray]:
        """Of every atom: what its functions see of the whole density, without directions.

        The projections x = W_a^(-1/2) (W p)_a on the orthonormalised functions of an atom: as they are for l = 0, their
        products summed over m for larger l.
        """
        seen = self.overlap @ coefficients
        found: list[list[np.ndarray]] = [[] for _ in self.place.rows]
        for shell in self.shells:
            x = shell.inverse @ seen[shell.rows]
            found[shell.atom].append(x[:, 0] if shell.momentum == 0 else (x @ x.T)[np.triu_indices(len(x))])
        return [np.concatenate(parts) for parts in found]


@dataclass(frozen=True, eq=False)
class Shell:
    """All functions of one angular momentum on one atom."""

    atom: int
    element: int
    momentum: int
    rows: np.ndarray  # [radial functions, 2 l + 1], among the coefficients
    root: np.ndarray  # W^(1/2) of the radial functions
    inverse: np.ndarray  # W^(-1/2)
    neighbours: np.ndarray  # [2 l + 1, features]


@lru_cache(maxsize=1)
def described_molecules(count: int) -> tuple[Described, ...]:
    """So many molecules of the set, spread evenly."""
    _, _, entries = read_pack(LABELS)
    rows = np.unique(np.linspace(0, len(entries) - 1, min(count, len(entries))).round().astype(int))
    return tuple(Described(entries[row]) for row in rows)


def parts(task: Task) -> tuple[list[Described], list[Described]]:
    """The molecules to learn from, and those of the fold; no composition is in both."""
    molecules = described_molecules(task.molecules)
    folds = folds_by_composition([one.entry.molecule.formula for one in molecules])
    known = np.flatnonzero(folds != task.fold)
    if task.train:
        random = np.random.default_rng(generator_from("learning curve", task.seed, task.fold).initial_seed())
        known = np.sort(random.permutation(known)[: task.train])
    return [molecules[k] for k in known], [molecules[k] for k in np.flatnonzero(folds == task.fold)]


def described(
    known: Sequence[Described], unseen: Sequence[Described], density: str
) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
    """Invariants of all atoms of the molecules to learn from and of the unseen ones, at one kind of density."""
    if density in ("kohn_sham", "minao"):
        return tuple([[one.invariants(_own(one, density)) for one in group] for group in (known, unseen)])
    if density == "atoms":
        mean = mean_atoms(known)
        return tuple([[one.invariants(superposed(one, mean)) for one in group] for group in (known, unseen)])
    found: list[list[np.ndarray]] = [[]] * len(known)
    for kept, left in inner_parts(known):  # what a molecule is predicted from does not hold its own density
        tables = fit_densities([known[k] for k in kept])
        for k in left:
            found[k] = known[k].invariants(predicted(known[k], tables))
    tables = fit_densities(known)
    return found, [one.invariants(predicted(one, tables)) for one in unseen]


def _own(one: Described, density: str) -> np.ndarray:
    return one.ground if density == "kohn_sham" else one.entry.guess


def mean_atoms(known: Sequence[Described]) -> dict[int, np.ndarray]:
    """Mean Kohn-Sham coefficients of the s functions of each element, the start of STRUCTURES25 without scaling."""
    found: dict[int, list[np.ndarray]] = {}
    for one in known:
        for shell in one.shells:
            if shell.momentum == 0:
                found.setdefault(shell.element, []).append(one.ground[shell.rows])
    return {element: np.mean(rows, axis=0) for element, rows in found.items()}


def superposed(one: Described, mean: dict[int, np.ndarray]) -> np.ndarray:
    """Coefficients [M] of round atoms that do not know of each other; an element that is not known has none."""
    found = np.zeros(len(one.overlap))
    for shell in one.shells:
        if shell.momentum == 0:
            found[shell.rows] = mean.get(shell.element, 0.0)
    return found


def fit_densities(known: Sequence[Described]) -> dict[tuple[int, int], np.ndarray]:
    """Least squares of Kohn-Sham's coefficients, orthonormalised by atom and shell, by the neighbours of the atom.

    For element and l, a table [features, radial functions].
    """
    pairs: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray]]] = {}
    for one in known:
        for shell in one.shells:
            wanted = (shell.root @ one.ground[shell.rows]).T
            pairs.setdefault((shell.element, shell.momentum), []).append((shell.neighbours, wanted))
    return {key: least_squares(*map(np.concatenate, zip(*found, strict=True))) for key, found in pairs.items()}


def predicted(one: Described, tables: dict[tuple[int, int], np.ndarray]) -> np.ndarray:
    """Coefficients [M] by `fit_densities`; zero for an element that it has not met."""
    found = np.zeros(len(one.overlap))
    for shell in one.shells:
        if (shell.element, shell.momentum) in tables:
            found[shell.rows] = shell.inverse @ (shell.neighbours @ tables[shell.element, shell.momentum]).T
    return found


def inner_parts(known: Sequence[Described]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit and rows left out, by composition, inside a training."""
    formulas = [one.entry.molecule.formula for one in known]
    folds = folds_by_composition(formulas, count=min(NUM_FOLDS, len(set(formulas))))
    return [(np.flatnonzero(folds != part), np.flatnonzero(folds == part)) for part in range(folds.max() + 1)]


@dataclass(frozen=True, eq=False)
class Process:
    """A Gaussian process whose energy is a sum over atoms, beside free constants of elements.

    k(A, B) is the sum of exp(-|f_a - f_b|^2 / 2 l^2) over all pairs of atoms of one element, f their scaled invariants.
    """

    scales: dict[int, tuple[np.ndarray, np.ndarray]]  # mean and divisor of features, by element
    known: dict[int, tuple[np.ndarray, np.ndarray]]  # scaled features and number of the molecule, by element
    unit: float  # mean diagonal of the kernel before it was divided by it
    length: float
    noise: float
    weights: np.ndarray  # [molecules]
    constants: np.ndarray  # [elements]

    def energies(self, features: Sequence[Sequence[np.ndarray]], molecules: Sequence[Described]) -> np.ndarray:
        """Hartree, of molecules by the invariants of their atoms."""
        atoms = gathered(features, molecules, self.scales)
        kernel = kernel_sums(atoms, self.known, self.length, (len(molecules), len(self.weights))) / self.unit
        return kernel @ self.weights + counts(molecules) @ self.constants


def chosen_process(features: Sequence[Sequence[np.ndarray]], known: Sequence[Described]) -> Process:
    """The process with the length and noise that compositions left out of the training ask for."""
    scales = feature_scales(features, known)
    atoms, count = gathered(features, known, scales), len(known)
    energies, numbers = np.array([one.entry.energy for one in known]), counts(known)
    best = (np.inf, 0.0, 0.0, np.zeros(0), 1.0)
    for length in LENGTHS:
        kernel = kernel_sums(atoms, atoms, length, (count, count))
        unit = float(np.trace(kernel)) / count
        for noise in NOISES:
            error = left_out_error(kernel / unit, numbers, energies, noise, inner_parts(known))
            if error < best[0]:
                best = (error, length, noise, kernel / unit, unit)
    _, length, noise, kernel, unit = best
    if not len(kernel):
        raise InvalidInput("no composition can be left out of the training: give it more molecules")
    weights, constants = solve(kernel, numbers, energies, noise)
    return Process(scales, atoms, unit, length, noise, weights, constants)


def left_out_error(
    kernel: np.ndarray,
    numbers: np.ndarray,
    energies: np.ndarray,
    noise: float,
    parts: Sequence[tuple[np.ndarray, np.ndarray]],
) -> float:
    """Mean absolute error (hartree) on the parts left out, where all elements are known."""
    errors = []
    for kept, left in parts:
        left = left[~((numbers[left] > 0) & ~(numbers[kept] > 0).any(0)).any(1)]
        weights, constants = solve(kernel[np.ix_(kept, kept)], numbers[kept], energies[kept], noise)
        errors.append(np.abs(kernel[np.ix_(left, kept)] @ weights + numbers[left] @ constants - energies[left]))
    return float(np.mean(np.concatenate(errors)))


def solve(kernel: np.ndarray, numbers: np.ndarray, energies: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the molecules and constants of the elements: generalised least squares for the latter."""
    factor = scipy.linalg.cho_factor(kernel + noise * np.eye(len(kernel)))
    whitened = scipy.linalg.cho_solve(factor, numbers)
    constants = np.linalg.lstsq(numbers.T @ whitened, whitened.T @ energies, rcond=None)[0]
    return scipy.linalg.cho_solve(factor, energies - numbers @ constants), constants


def counts(molecules: Sequence[Described]) -> np.ndarray:
    """Atoms of every element, [molecules, elements]."""
    return np.array([np.bincount(one.place.elements, minlength=len(ELEMENTS)) for one in molecules], dtype=float)


Atoms = dict[int, tuple[np.ndarray, np.ndarray]]


def feature_scales(features: Sequence[Sequence[np.ndarray]], molecules: Sequence[Described]) -> Atoms:
    """Mean of each element's features and what they are divided by: spread times the root of their number."""
    raw = gathered(features, molecules, None)
    spreads = {element: rows.std(0) for element, (rows, _) in raw.items()}
    return {
        element: (rows.mean(0), (spreads[element] + FLOOR * spreads[element].max() + 1e-30) * np.sqrt(rows.shape[1]))
        for element, (rows, _) in raw.items()
    }


def gathered(features: Sequence[Sequence[np.ndarray]], molecules: Sequence[Described], scales: Atoms | None) -> Atoms:
    """Features [atoms, F] and numbers of the molecules [atoms] by element; without scales as they are."""
    elements = np.concatenate([one.place.elements for one in molecules])
    owners = np.repeat(np.arange(len(molecules)), [len(one.place.elements) for one in molecules])
    flat, found = [row for rows in features for row in rows], {}
    for element in np.unique(elements).tolist():
        where = np.flatnonzero(elements == element)
        rows = np.stack([flat[k] for k in where])
        if scales is not None and element in scales:
            rows = (rows - scales[element][0]) / scales[element][1]
        found[element] = (rows, owners[where])
    return found


def kernel_sums(first: Atoms, second: Atoms, length: float, shape: tuple[int, int]) -> np.ndarray:
    """Kernel of molecules, [N, N'], summed over pairs of atoms of one element."""
    found = np.zeros(shape)
    for element in first.keys() & second.keys():
        (rows, owners), (others, other_owners) = first[element], second[element]
        values = np.exp(-cdist(rows, others, "sqeuclidean") / (2.0 * length**2))
        (left, starts), (right, other_starts) = (np.unique(one, return_index=True) for one in (owners, other_owners))
        found[np.ix_(left, right)] += np.add.reduceat(np.add.reduceat(values, starts, 0), other_starts, 1)
    return found


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Absolute errors by density and size of the training, with intervals; `gain`: what Kohn-Sham's density saves."""
    found = []
    for (density, train), group in absolute(rows).groupby(["density", "train"], sort=False):
        means = mean_with_interval(group, ["error", "moved"]).iloc[0]
        found.append(
            {
                "density": density,
                "train": train,
                "known": group["known"].mean(),
                "error": means["error"],
                "median": group["error"].median(),
                "worst": group["error"].max(),
                "moved": means["moved"],
                "gain": gain(rows, density, train),
            }
        )
    return pd.DataFrame(found)


def absolute(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with absolute errors."""
    return rows.assign(error=rows["error"].abs(), moved=rows["moved"].abs())


def gain(rows: pd.DataFrame, density: str, train: int) -> Interval | None:
    """Mean over molecules of how much further off a density is than Kohn-Sham's; none where it is Kohn-Sham's."""
    if density == "kohn_sham" or "kohn_sham" not in set(rows["density"]):
        return None
    group = absolute(rows[rows["train"] == train])
    return bootstrap_interval(
        paired(group, density, "kohn_sham", by="density", over="molecule", column="error").to_numpy()
    )


def draw_densities(rows: pd.DataFrame, *, caption: str) -> Figure:
    """Mean absolute error against molecules of the training; and the share of molecules within an error, all known."""
    table = summary(rows)
    with style.panels(2, width=9.6, height=3.6, caption=caption) as (figure, (curves, shares)):
        for density, lines in table.groupby("density", sort=False):
            lines, colour, name = lines.sort_values("known"), COLOURS[density], DENSITIES[density]
            values = np.array([[one.value, one.low, one.high] for one in lines["error"]])
            errors = np.abs(values[:, 1:] - values[:, :1]).T
            curves.errorbar(lines["known"], values[:, 0], errors, color=colour, marker="o", capsize=3, label=name)
            last = rows[(rows["density"] == density) & (rows["train"] == lines["train"].iloc[-1])]
            sizes = np.sort(last["error"].abs())
            shares.step(
                sizes, 100.0 * np.arange(1, len(sizes) + 1) / len(sizes), where="post", color=colour, label=name
            )
        ticks = sorted(table["known"].round().unique())
        curves.set(xscale="log", yscale="log", xlabel="molecules to learn from", ylabel="mean error, kcal/mol")
        curves.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        curves.minorticks_off()
        curves.set_yticks(marks := [0.5, 1, 2, 5, 10, 20, 50], [f"{mark:g}" for mark in marks])
        shares.set(xscale="log", xlabel="error, kcal/mol", ylabel="unseen molecules within it, %", ylim=(0, 100))
        shares.axvline(1.0, color="#999999", lw=1.0, ls=":")
        curves.legend()
    return figure
