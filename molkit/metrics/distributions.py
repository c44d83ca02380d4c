"""What generated molecules are made of, and how far that is from the data: composition, bond lengths, bond angles.

Bonds are those of the distance rule (`molkit.chem.bond_orders`), so bond lengths are truncated at its thresholds, in
the data as in the samples.

Maximum mean discrepancy between distributions of distances: single distances, pairs of them, all of a molecule.

Source: the evaluation code of ConfVAE and ConfGF, which agree; the published values exceed what one Gaussian kernel
allows, which confirms the sum of five.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from molkit.chem.bond_orders import BondRule, PackedBonds, packed_bonds
from molkit.chem.conformer_rmsd import heavy_pairs
from molkit.errors import InvalidInput
from molkit.metrics.statistics import Interval
from molkit.molecule import SYMBOLS, PackedMolecules

Quantity = Literal["elements", "num_atoms", "bond_length", "bond_angle"]
BOND_SIGNS = ("", "-", "=", "#")


@dataclass(frozen=True, eq=False)
class Owned:
    """Values of one kind, and the molecule each belongs to."""

    values: np.ndarray  # [K]
    owners: np.ndarray  # [K] int64, row of the molecule


@dataclass(frozen=True)
class Comparison:
    """Distance between the distributions of one quantity in samples and in reference molecules."""

    quantity: Quantity
    kind: str  # "C-C", "H-C-H", or "all"
    num_samples: int
    num_reference: int
    distance: float | None  # None where either side has fewer values than asked for
    measure: Literal["wasserstein", "total_variation"]
    unit: str


def element_fractions(molecules: PackedMolecules) -> dict[str, float]:
    """Share of each element among all atoms, by symbol, most frequent first."""
    counts = np.bincount(molecules.atomic_numbers, minlength=len(SYMBOLS))
    order = np.argsort(-counts, kind="stable")
    return {SYMBOLS[number]: float(counts[number] / counts.sum()) for number in order.tolist() if counts[number]}


def size_counts(molecules: PackedMolecules) -> dict[int, int]:
    """Number of molecules of each number of atoms, ascending."""
    sizes, counts = np.unique(molecules.num_atoms, return_counts=True)
    return dict(zip(sizes.tolist(), counts.tolist(), strict=True))


def bond_lengths(molecules: PackedMolecules, *, rule: BondRule = "qm9") -> dict[str, np.ndarray]:
    """Bond lengths in angstrom by kind ("C-H", "C=O", "C#N"; elements by alphabet), the commonest kind first."""
    return {kind: owned.values for kind, owned in owned_bond_lengths(molecules, rule=rule).items()}


def bond_angles(molecules: PackedMolecules, *, rule: BondRule = "qm9") -> dict[str, np.ndarray]:
    """Angles in degrees between two bonds of an atom, by kind ("H-C-H", the centre in the middle), commonest first.

    An angle at an atom that lies exactly on a neighbour does not exist and is left out.
    """
    return {kind: owned.values for kind, owned in owned_bond_angles(molecules, rule=rule).items()}


def owned_bond_lengths(molecules: PackedMolecules, *, rule: BondRule = "qm9") -> dict[str, Owned]:
    """The same as `bond_lengths`, with the molecule each bond belongs to."""
    bonds = packed_bonds(molecules, rule=rule)
    ends = _alphabetical(molecules.atomic_numbers)
    first, second = ends[bonds.first], ends[bonds.second]
    low, high = np.minimum(first, second), np.maximum(first, second)
    names = sorted(SYMBOLS)
    owners = _owners(molecules)[bonds.first]
    return {
        f"{names[a]}{BOND_SIGNS[order]}{names[b]}": Owned(bonds.length[rows], owners[rows])
        for (a, b, order), rows in _by_kind(np.stack([low, high, bonds.order], axis=1), np.arange(len(low))).items()
    }


def owned_bond_angles(molecules: PackedMolecules, *, rule: BondRule = "qm9") -> dict[str, Owned]:
    """The same as `bond_angles`, with the molecule each angle belongs to."""
    bonds = packed_bonds(molecules, rule=rule)
    apart = PackedBonds(
        *(column[bonds.length > 0] for column in (bonds.first, bonds.second, bonds.order, bonds.length))
    )
    left, centre, right = _angle_rows(apart, len(molecules.atomic_numbers))
    cosine = _cosine(
        molecules.positions[left] - molecules.positions[centre],
        molecules.positions[right] - molecules.positions[centre],
    )
    elements = _alphabetical(molecules.atomic_numbers)
    low, high = np.minimum(elements[left], elements[right]), np.maximum(elements[left], elements[right])
    degrees = np.degrees(np.arccos(cosine)).astype(np.float32)
    names = sorted(SYMBOLS)
    owners = _owners(molecules)[centre]
    kinds = np.stack([low, elements[centre], high], axis=1)
    return {
        f"{names[a]}-{names[middle]}-{names[b]}": Owned(degrees[rows], owners[rows])
        for (a, middle, b), rows in _by_kind(kinds, np.arange(len(degrees))).items()
    }


def wasserstein_over_molecules(
    sample: Owned, reference: Owned, *, num_molecules: int, level: float = 0.95, num_resamples: int = 200, seed: int = 0
) -> Interval:
    """1-D Wasserstein distance with a bootstrap over the sample's molecules, whose bonds are not independent.

    The reference stays as it is. Resampling adds scatter, so near zero the interval lies above the distance: compare
    with the row of held-back data. Raises InvalidInput for an empty side.
    """
    value = wasserstein(sample.values, reference.values)
    order = np.argsort(sample.values, kind="stable")
    values, owners = sample.values[order].astype(float), sample.owners[order]
    theirs = np.sort(reference.values.astype(float))
    grid = np.sort(np.concatenate([values, theirs]))
    steps = np.diff(grid)
    other = np.searchsorted(theirs, grid[:-1], side="right") / len(theirs)
    upto = np.searchsorted(values, grid[:-1], side="right")
    random = np.random.default_rng(seed)
    distances = []
    for _ in range(num_resamples):
        drawn = np.bincount(random.integers(num_molecules, size=num_molecules), minlength=num_molecules)
        below = np.concatenate([[0], np.cumsum(drawn[owners])])
        if below[-1]:
            distances.append(float(np.sum(np.abs(below[upto] / below[-1] - other) * steps)))
    if not distances:
        return Interval(value, value, value, level)
    low, high = np.quantile(distances, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, min(value, float(low)), max(value, float(high)), level)


def wasserstein(sample: np.ndarray, reference: np.ndarray) -> float:
    """1-D Wasserstein (earth mover's) distance between two samples, in their unit: the area between their CDFs.

    Raises InvalidInput for an empty sample or a value that is NaN or infinite.
    """
    from scipy.stats import wasserstein_distance  # takes a second to load

    return float(wasserstein_distance(_finite(sample), _finite(reference)))


def total_variation(counts: Mapping[object, float], reference: Mapping[object, float]) -> float:
    """Half the summed absolute difference of two histograms after normalisation, in [0, 1]."""
    totals = sum(counts.values()), sum(reference.values())
    if min(totals) <= 0:
        raise InvalidInput("total variation needs two histograms with something in them, got an empty one")
    keys = set(counts) | set(reference)
    return 0.5 * sum(abs(counts.get(key, 0) / totals[0] - reference.get(key, 0) / totals[1]) for key in keys)


def compare_distributions(
    samples: PackedMolecules, reference: PackedMolecules, *, rule: BondRule = "qm9", min_count: int = 50
) -> list[Comparison]:
    """Elements and sizes (total variation), every kind of bond and angle (Wasserstein), commonest kinds first.

    Kinds that either side has less than `min_count` times are listed without a distance.
    """
    elements, sizes = (
        (element_fractions(samples), element_fractions(reference)),
        (size_counts(samples), size_counts(reference)),
    )
    atoms, molecules = (len(samples.atomic_numbers), len(reference.atomic_numbers)), (len(samples), len(reference))
    rows = [
        Comparison("elements", "all", *atoms, total_variation(*elements), "total_variation", ""),
        Comparison("num_atoms", "all", *molecules, total_variation(*sizes), "total_variation", ""),
    ]
    lengths = bond_lengths(samples, rule=rule), bond_lengths(reference, rule=rule)
    angles = bond_angles(samples, rule=rule), bond_angles(reference, rule=rule)
    rows += _compare_kinds("bond_length", *lengths, unit="angstrom", min_count=min_count)
    return rows + _compare_kinds("bond_angle", *angles, unit="degree", min_count=min_count)


def _compare_kinds(
    quantity: Quantity,
    samples: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
    *,
    unit: str,
    min_count: int,
) -> list[Comparison]:
    nothing = np.zeros(0)
    rows = []
    for kind in [*reference, *(kind for kind in samples if kind not in reference)]:
        ours, theirs = samples.get(kind, nothing), reference.get(kind, nothing)
        enough = min(len(ours), len(theirs)) >= max(1, min_count)
        distance = wasserstein(ours, theirs) if enough else None
        rows.append(Comparison(quantity, kind, len(ours), len(theirs), distance, "wasserstein", unit))
    return rows


def _owners(molecules: PackedMolecules) -> np.ndarray:
    """Row of the molecule of every atom, [A]."""
    return np.repeat(np.arange(len(molecules)), molecules.num_atoms)


def _alphabetical(atomic_numbers: np.ndarray) -> np.ndarray:
    """Rank of each atom's symbol in the alphabet, so that kinds are named C-H and H-N rather than by atomic number."""
    names = sorted(SYMBOLS)
    return np.array([names.index(symbol) for symbol in SYMBOLS])[atomic_numbers]


def _by_kind(kinds: np.ndarray, values: np.ndarray) -> dict[tuple[int, ...], np.ndarray]:
    """Split values [K] by rows of kinds [K, 3], the commonest first."""
    base = len(SYMBOLS)
    codes = (kinds[:, 0].astype(np.int64) * base + kinds[:, 1]) * base + kinds[:, 2]
    order = np.argsort(codes, kind="stable")
    distinct, starts, counts = np.unique(codes[order], return_index=True, return_counts=True)
    groups = np.split(values[order], starts[1:]) if len(distinct) else []
    return {
        (int(distinct[row]) // base**2, int(distinct[row]) // base % base, int(distinct[row]) % base): groups[row]
        for row in np.argsort(-counts, kind="stable").tolist()
    }


def _angle_rows(bonds: PackedBonds, total_atoms: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atom rows (end, centre, end) of every pair of bonds that share an atom."""
    centre = np.concatenate([bonds.first, bonds.second])
    neighbour = np.concatenate([bonds.second, bonds.first])
    neighbour = neighbour[np.argsort(centre, kind="stable")]
    degree = np.bincount(centre, minlength=total_atoms)
    starts = np.cumsum(degree) - degree
    parts = []
    for count in range(2, int(degree.max(initial=0)) + 1):
        atoms = np.flatnonzero(degree == count)
        i, j = np.triu_indices(count, k=1)
        around = neighbour[starts[atoms][:, None] + np.arange(count)]
        parts.append((around[:, i].ravel(), np.repeat(atoms, len(i)), around[:, j].ravel()))
    if not parts:
        return (np.zeros(0, np.int64),) * 3
    left, middle, right = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return left, middle, right


def _cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine of the angle between rows of two arrays [K, 3]."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.clip(np.einsum("ka,ka->k", first, second) / lengths, -1.0, 1.0)


def _finite(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=float).ravel()
    bad = int((~np.isfinite(values)).sum())
    if len(values) == 0 or bad:
        raise InvalidInput(f"a Wasserstein distance needs finite values, got {len(values)} with {bad} NaN or infinite")
    return values


PairRule = Literal["published", "complete"]
POWERS = (-2, -1, 0, 1, 2)


def mmd(first: np.ndarray, second: np.ndarray) -> float:
    """Squared MMD, 0 to 10, between samples [n, k] and [m, k] (or [n] and [m]).

    Kernel: sum over q = -2..2 of exp(-s / (b 2^q)), s the squared distance, b its mean over all ordered pairs of
    different points of both samples. All means include the diagonal. Raises InvalidInput for empty samples or numbers
    that are not finite.
    """
    x, y = (np.asarray(sample, dtype=np.float64) for sample in (first, second))
    x, y = (sample[:, None] if sample.ndim == 1 else sample for sample in (x, y))
    if not len(x) or not len(y) or x.ndim != 2 or x.shape[1:] != y.shape[1:]:
        raise InvalidInput(f"expected two samples of vectors of one length, got {list(x.shape)} and {list(y.shape)}")
    pooled = np.concatenate([x, y])
    if not np.isfinite(pooled).all():
        raise InvalidInput("MMD needs finite numbers; count the failures, then leave them out")
    squares = ((pooled[:, None] - pooled[None]) ** 2).sum(-1) if pooled.shape[1] == 1 else _squares(pooled)
    width = squares.sum() / (len(pooled) ** 2 - len(pooled))
    if width == 0.0:
        return 0.0
    kernel = sum(np.exp(-squares / (width * 2.0**power)) for power in POWERS)
    inside, across = kernel[: len(x), : len(x)].mean(), kernel[: len(x), len(x) :].mean()
    return float(inside + kernel[len(x) :, len(x) :].mean() - 2.0 * across)


def _squares(points: np.ndarray) -> np.ndarray:
    centred = points - points.mean(axis=0)
    norms = (centred**2).sum(-1)
    return np.maximum(norms[:, None] + norms[None] - 2.0 * centred @ centred.T, 0.0)


@dataclass(frozen=True)
class DistanceMmd:
    """MMDs of one molecule: one for each pair of heavy atoms, one for each two of those pairs, one for all together."""

    single: np.ndarray
    pair: np.ndarray
    all: float


def distance_mmd(
    mol: Any, references: np.ndarray, generated: np.ndarray, *, pairs: PairRule = "published"
) -> DistanceMmd:
    """MMDs of the distances of heavy atoms up to three bonds apart, conformers [R, A, 3] against [G, A, 3].

    pairs: "published" leaves out two distances that share their lower-numbered atom, as the papers' code does;
    "complete" takes any two. Raises InvalidInput for a molecule without such distances.
    """
    edges = heavy_pairs(mol)
    return distances_mmd(edges, heavy_distances(references, edges), heavy_distances(generated, edges), pairs=pairs)


def heavy_distances(positions: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Distances [C, E] of pairs [2, E] in conformers [C, A, 3]."""
    return np.linalg.norm(positions[:, edges[0]] - positions[:, edges[1]], axis=-1)


def distances_mmd(edges: np.ndarray, x: np.ndarray, y: np.ndarray, *, pairs: PairRule = "published") -> DistanceMmd:
    """The same from distances [R, E] and [G, E] of the pairs [2, E], which need belong to no positions."""
    if pairs not in get_args(PairRule):
        raise InvalidInput(f"unknown rule {pairs!r}: expected published or complete")
    if edges.shape[1] == 0:
        raise InvalidInput("a molecule with one heavy atom has no distances to compare")
    single = [mmd(x[:, k], y[:, k]) for k in range(edges.shape[1])]
    both = [mmd(x[:, two], y[:, two]) for two in two_of(edges, pairs)]
    return DistanceMmd(np.array(single), np.array(both), mmd(x, y))


def two_of(edges: np.ndarray, rule: PairRule) -> Iterable[list[int]]:
    """The twos of distances [2, E] that are compared jointly."""
    first, second = np.triu_indices(edges.shape[1], 1)
    kept = np.ones(len(first), bool) if rule == "complete" else edges[0, first] != edges[0, second]
    return [[int(i), int(j)] for i, j in zip(first[kept], second[kept], strict=True)]
