"""Multipole channels of atoms: a density of any molecule in few coordinates that turn with it.

A density is x = x_ref + lift z in natural coordinates x = W^(1/2) p. The reference is a sum over neighbours: its
multipoles on an atom are radial functions of the distances, times the spherical harmonics of the directions. The
channels of an atom are radial combinations of its functions of one angular momentum, the same for every m, so that z
turns as the functions do. Of the directions in which training densities vary, the stiffest are kept, each scaled until
the energy's second derivative is about one. Everything is per element; nothing knows a composition.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg

from molkit.errors import InvalidInput
from molkit.molecule import Molecule
from molkit.ofdft.basis import density_mole
from molkit.ofdft.edges import Edges, edges_within
from molkit.ofdft.integrals import DensityIntegrals, Roots, density_integrals
from molkit.ofdft.label_files import LabelledMolecule
from molkit.ofdft.local_frames import Layout, axis_frames, axis_harmonics
from molkit.ofdft.reduction import excess_energies
from molkit.units import ANGSTROM_TO_BOHR

ELEMENTS = (1, 6, 7, 8, 9)
LARGEST_SHELLS = (11, 8, 7, 4, 2)  # radial functions of l = 0..4, at most
PAIR_CUTOFF = 8.0  # bohr
CENTRES = np.linspace(1.2, 6.0, 7)  # bohr, of the radial functions of distances
RADIAL_WIDTH = 0.8
TRIPLE_CUTOFF, TRIPLE_WIDTHS, TRIPLE_POWERS = 6.0, (1.5, 3.0), 4  # bohr, decays of distances, powers of the cosine
TRIPLE_DECAYS = ([0, 0, 1], [0, 1, 1])  # of both distances of a triple
RIDGE = 1e-5
ENERGY_RIDGE, FREE = 1e-6, 1e-12  # chosen by the energies of validation geometries
SMALLEST_SPREAD = 1e-12  # of a feature of energies that differs at all
SMALLEST_VARIANCE = 1e-8
NUM_PAIRS = len(ELEMENTS) * (len(ELEMENTS) + 1) // 2
ENERGY_FEATURES = len(ELEMENTS) + NUM_PAIRS * (len(CENTRES) + 3 * TRIPLE_POWERS * len(ELEMENTS))


def element_rows(molecule: Molecule) -> np.ndarray:
    """Number of every atom's element in ELEMENTS, [A]. Raises InvalidInput for another element."""
    for number in molecule.atomic_numbers.tolist():
        if number not in ELEMENTS:
            raise InvalidInput(f"{molecule.formula}: this functional knows H, C, N, O and F only")
    return np.searchsorted(ELEMENTS, molecule.atomic_numbers)


def radial_values(distances: np.ndarray) -> np.ndarray:
    """Gaussians of distances [...] in bohr that vanish smoothly at PAIR_CUTOFF, [..., G]."""
    inside = np.clip(1.0 - (distances / PAIR_CUTOFF) ** 2, 0.0, None) ** 3
    return np.exp(-0.5 * ((distances[..., None] - CENTRES) / RADIAL_WIDTH) ** 2) * inside[..., None]


def function_rows(molecule: Molecule) -> list[dict[int, np.ndarray]]:
    """For every atom and l, the rows of its functions among the coefficients: [radial functions, 2 l + 1]."""
    density = density_mole(molecule)
    found: list[dict[int, list]] = [{} for _ in range(molecule.num_atoms)]
    start = 0
    for shell in range(density.nbas):
        momentum = int(density.bas_angular(shell))
        stop = start + 2 * momentum + 1
        found[density.bas_atom(shell)].setdefault(momentum, []).append(np.arange(start, stop))
        start = stop
    return [{momentum: np.stack(rows) for momentum, rows in atom.items()} for atom in found]


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Geometry of one molecule as channels need it; A atoms, pairs in dense order, bohr."""

    elements: np.ndarray  # [A]
    positions: np.ndarray  # [A, 3], bohr
    edges: Edges  # within PAIR_CUTOFF
    rows: list[dict[int, np.ndarray]]

    @cached_property
    def distances(self) -> np.ndarray:
        """Of all pairs, [A, A]."""
        return np.linalg.norm(self.positions[None] - self.positions[:, None], axis=-1)

    @cached_property
    def axes(self) -> np.ndarray:
        """Frames of the axes from a to b of all pairs, [A, A, 3, 3]; the identity on the diagonal."""
        displacement = self.positions[None] - self.positions[:, None]
        count = len(self.elements)
        directions = np.where(np.eye(count, dtype=bool)[..., None], np.array([0.0, 0.0, 1.0]), displacement)
        return axis_frames(directions.reshape(-1, 3)).reshape(count, count, 3, 3)

    def reference_features(self, momentum: int) -> np.ndarray:
        """[A, 2 l + 1, features]: radial functions of neighbours of every element times harmonics; 1 for l = 0."""
        count, width = len(self.elements), 2 * momentum + 1
        harmonics = axis_harmonics(momentum, self.edges.directions)
        terms = radial_values(self.edges.distances)[:, None] * harmonics[..., None]  # [E, 2 l + 1, G]
        found = np.zeros((count, len(ELEMENTS), width, len(CENTRES)))
        np.add.at(found, (self.edges.first, self.elements[self.edges.second]), terms)
        found = found.transpose(0, 2, 1, 3).reshape(count, width, -1)
        constant = np.full((count, width, 1), float(momentum == 0))
        return np.concatenate([found, constant], axis=-1)

    def energy_features(self) -> np.ndarray:
        """What the reference energy is linear in, [ENERGY_FEATURES]: counts of elements, pairs, triples.

        Pairs: radial functions summed over pairs of every two elements. Triples: powers of the cosine at every atom
        between two neighbours, weighted by both distances, for every central element and two others.
        """
        first, second = (self.elements[end] for end in (self.edges.first, self.edges.second))
        pairs = np.zeros((len(ELEMENTS), len(ELEMENTS), len(CENTRES)))
        np.add.at(pairs, (first, second), radial_values(self.edges.distances))
        counts = np.bincount(self.elements, minlength=len(ELEMENTS)).astype(float)
        upper = np.triu_indices(len(ELEMENTS))
        return np.concatenate([counts, pairs[upper].reshape(-1), self._triples().reshape(-1)])

    def _triples(self) -> np.ndarray:
        """[pairs of decays, powers, 5, 15]."""
        edges = self.edges.within(TRIPLE_CUTOFF)
        inside = (1.0 - (edges.distances / TRIPLE_CUTOFF) ** 2) ** 3
        decays = np.stack([np.exp(-edges.distances / width) * inside for width in TRIPLE_WIDTHS])
        kind, bounds = np.eye(len(ELEMENTS))[self.elements], edges.bounds(len(self.elements))
        upper, (first, second) = np.triu_indices(len(ELEMENTS)), TRIPLE_DECAYS
        found = np.zeros((len(first), TRIPLE_POWERS, len(ELEMENTS), NUM_PAIRS))
        for atom, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False)):
            near, directions = kind[edges.second[start:stop]], edges.directions[start:stop]
            powers = (directions @ directions.T)[None] ** np.arange(TRIPLE_POWERS)[:, None, None]
            powers = powers * (1.0 - np.eye(stop - start))
            left, right = (decays[chosen, start:stop, None] * near for chosen in (first, second))
            sums = np.einsum("qbf,pbc,qcg->qpfg", left, powers, right, optimize=True)
            found[:, :, self.elements[atom]] += (sums + sums.swapaxes(2, 3))[..., upper[0], upper[1]]
        return found


def neighbourhood(molecule: Molecule) -> Neighbourhood:
    """Neighbours of the atoms of a molecule. Raises InvalidInput for other elements."""
    return _neighbourhood(molecule, function_rows(molecule))


def _neighbourhood(molecule: Molecule, rows: list[dict[int, np.ndarray]]) -> Neighbourhood:
    positions = molecule.positions * ANGSTROM_TO_BOHR
    return Neighbourhood(element_rows(molecule), positions, edges_within(positions, PAIR_CUTOFF), rows)


def energy_features(molecule: Molecule) -> np.ndarray:
    """`Neighbourhood.energy_features` of a molecule, [ENERGY_FEATURES]; no density basis is made for them."""
    return _neighbourhood(molecule, []).energy_features()


@dataclass(frozen=True, eq=False)
class ChannelReduction:
    """What a training set fixes. Per l: reference [5, features, n_l], lift [5, n_l, k_l] and its left inverse."""

    layout: Layout
    reference: list[np.ndarray]
    lift: list[np.ndarray]
    drop: list[np.ndarray]
    energies: np.ndarray  # [ENERGY_FEATURES], hartree
    roots: Roots = "molecule"

    def reference_density(self, place: Neighbourhood, size: int) -> np.ndarray:
        """x_ref in natural coordinates, [M]."""
        found = np.zeros(size)
        for momentum, table in enumerate(self.reference):
            features = place.reference_features(momentum)
            for atom, rows in enumerate(place.rows):
                if momentum in rows:
                    values = features[atom] @ table[place.elements[atom]]  # [2 l + 1, n_l]
                    found[rows[momentum]] = values.T[: len(rows[momentum])]
        return found

    def reference_energy(self, place: Neighbourhood) -> float:
        """Energy from elements, pairs and triples, nuclei included, hartree."""
        return float(place.energy_features() @ self.energies)

    def atom_matrices(self, element: int, rows: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """lift [n, K] and drop [K, n] of one atom; rows number its n functions from 0 or any other start."""
        first = min(int(part.min()) for part in rows.values())
        size, width = sum(part.size for part in rows.values()), self.layout.size
        lift, drop = np.zeros((size, width)), np.zeros((width, size))
        counters = dict.fromkeys(range(len(self.layout.counts)), 0)
        for momentum, start in self.layout.blocks:
            channel, counters[momentum] = counters[momentum], counters[momentum] + 1
            if momentum not in rows:
                continue
            count = len(rows[momentum])
            for order in range(2 * momentum + 1):
                functions = rows[momentum][:, order] - first
                lift[functions, start + order] = self.lift[momentum][element, :count, channel]
                drop[start + order, functions] = self.drop[momentum][element, channel, :count]
        return lift, drop

    def matrices(self, place: Neighbourhood) -> tuple[np.ndarray, np.ndarray]:
        """lift [M, A K] and drop [A K, M] of one molecule."""
        blocks = [self.atom_matrices(element, rows) for element, rows in zip(place.elements, place.rows, strict=True)]
        lift, drop = zip(*blocks, strict=True)
        return scipy.linalg.block_diag(*lift), scipy.linalg.block_diag(*drop)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A labelled molecule in natural coordinates of the molecule as it lies."""

    entry: LabelledMolecule
    integrals: DensityIntegrals
    place: Neighbourhood
    densities: np.ndarray  # [S, M], natural coordinates
    slopes: np.ndarray  # [S, M], of the whole energy by them
    coulomb: np.ndarray  # [M, M], natural coordinates
    excess: np.ndarray  # [S], hartree
    sources: np.ndarray  # [S], as in `Labels`
    roots: Roots

    @property
    def ground_state(self) -> np.ndarray:
        """Natural coordinates of the converged density, [M]."""
        entry = self.entry
        return self.integrals.natural(self.roots)[0] @ entry.labels.coefficients[entry.ground_state]


def prepare_molecule(entry: LabelledMolecule, *, ceiling: float, roots: Roots = "molecule") -> Prepared:
    """Samples up to `ceiling` above the ground state, with slopes of the total energy."""
    integrals = density_integrals(entry.molecule)
    root, inverse = integrals.natural(roots)
    excess = excess_energies(entry)
    kept = np.flatnonzero(excess <= ceiling)
    labels = entry.labels.select(kept)
    slopes = labels.target_gradient("total", integrals) @ inverse
    coulomb = inverse @ integrals.coulomb @ inverse
    place = neighbourhood(entry.molecule)
    densities = labels.coefficients @ root
    return Prepared(entry, integrals, place, densities, slopes, coulomb, excess[kept], labels.source, roots)


def fit_channels(
    molecules: Sequence[Prepared],
    layout: Layout,
    *,
    floor: float,
    energy_ridge: float = ENERGY_RIDGE,
    energy_prior: np.ndarray | None = None,
    energy_spread: float = 0.0,
) -> ChannelReduction:
    """Reference, channels and the linear model of energies of a training set; energy_ridge restrains pairs and triples.

    energy_prior and energy_spread: see `ridge_energies`.
    """
    reference = [_fit_reference(molecules, momentum) for momentum in range(len(LARGEST_SHELLS))]
    empty = [np.zeros((len(ELEMENTS), size, 0)) for size in LARGEST_SHELLS]
    nothing, roots = np.zeros(ENERGY_FEATURES), molecules[0].roots
    partial = ChannelReduction(layout, reference, empty, empty, nothing, roots)
    moved = [m.densities - partial.reference_density(m.place, m.densities.shape[1]) for m in molecules]
    lifts, drops = [], []
    for momentum, count in enumerate(layout.counts):
        lift, drop = _fit_channel(molecules, moved, momentum, count, floor)
        lifts.append(lift)
        drops.append(drop)
    features, known = zip(*((m.place.energy_features(), m.entry.energy) for m in molecules), strict=True)
    energies = ridge_energies(np.stack(features), np.array(known), energy_ridge, energy_prior, spread=energy_spread)
    return ChannelReduction(layout, reference, lifts, drops, energies, roots)


def ridge_energies(
    features: np.ndarray,
    energies: np.ndarray,
    ridge: float,
    prior: np.ndarray | None = None,
    *,
    spread: float = 0.0,
) -> np.ndarray:
    """Weights [ENERGY_FEATURES] of features [N, ENERGY_FEATURES] that give energies [N], hartree.

    Constants of elements are free, the others scaled and drawn towards those of `prior`, or towards zero. The scale is
    the spread of a feature over the N molecules, where that is above `spread`. A feature that hardly differs among them
    may differ by 1 in another molecule: scaled by its small spread its weight costs nothing, and energies of that
    molecule are off by hartrees. Where molecules of other compositions are asked, `spread` must be of the order of 0.1.
    """
    prior = np.zeros(features.shape[1]) if prior is None else prior
    scale = feature_scale(features, spread)
    scaled, penalty = features / scale, np.full(features.shape[1], float(ridge))
    penalty[: len(ELEMENTS)] = FREE
    wanted = scaled.T @ (energies - features @ prior)
    return prior + np.linalg.solve(scaled.T @ scaled + np.diag(penalty), wanted) / scale


def feature_scale(features: np.ndarray, spread: float) -> np.ndarray:
    """Spread of every feature over N molecules, at least `spread`; 1 for constants of elements."""
    scale = np.maximum(features.std(0), spread)
    scale[features.std(0) < SMALLEST_SPREAD] = 1.0
    scale[: len(ELEMENTS)] = 1.0
    return scale


def ridge_path(
    features: np.ndarray,
    energies: np.ndarray,
    ridges: Sequence[float],
    prior: np.ndarray | None = None,
    *,
    spread: float = 0.0,
) -> np.ndarray:
    """The weights of `ridge_energies` for many ridges by one eigenvalue problem of size N, [ridges, ENERGY_FEATURES].

    Constants of elements are free, so they are solved for first; the rest is ridge regression in its dual form.
    """
    prior = np.zeros(features.shape[1]) if prior is None else prior
    scale, wanted = feature_scale(features, spread), energies - features @ prior
    counts, others = features[:, : len(ELEMENTS)], (features / scale)[:, len(ELEMENTS) :]
    inverse = np.linalg.pinv(counts)
    left = others - counts @ (inverse @ others)
    values, vectors = np.linalg.eigh(left @ left.T)
    along = vectors.T @ (wanted - counts @ (inverse @ wanted))
    found = (along / (values + np.array(ridges)[:, None])) @ vectors.T @ left  # [ridges, pairs and triples]
    constants = (wanted - found @ others.T) @ inverse.T
    return prior + np.concatenate([constants, found], axis=1) / scale


def least_squares(features: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Weights [features, outputs] of features [N, features] that give outputs [N, outputs], a little restrained."""
    penalty = RIDGE * np.eye(features.shape[1])
    return np.linalg.solve(features.T @ features + penalty, features.T @ wanted)


def _fit_reference(molecules: Sequence[Prepared], momentum: int) -> np.ndarray:
    """Least squares of ground-state densities by neighbours, [5, features, n_l]."""
    width = 1 + len(ELEMENTS) * len(CENTRES)
    found = np.zeros((len(ELEMENTS), width, LARGEST_SHELLS[momentum]))
    inputs: dict[int, list] = {}
    outputs: dict[int, list] = {}
    for molecule in molecules:
        features = molecule.place.reference_features(momentum)
        ground = molecule.ground_state
        for atom, rows in enumerate(molecule.place.rows):
            if momentum in rows:
                element = int(molecule.place.elements[atom])
                inputs.setdefault(element, []).append(features[atom])
                outputs.setdefault(element, []).append(ground[rows[momentum]].T)
    for element, blocks in inputs.items():
        fitted = least_squares(np.concatenate(blocks), np.concatenate(outputs[element]))
        found[element, :, : fitted.shape[1]] = fitted
    return found


def _fit_channel(
    molecules: Sequence[Prepared], moved: Sequence[np.ndarray], momentum: int, count: int, floor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Lift [5, n_l, k] and drop [5, k, n_l] of one angular momentum: the stiffest directions of the training set."""
    size = LARGEST_SHELLS[momentum]
    lift, drop = np.zeros((len(ELEMENTS), size, count)), np.zeros((len(ELEMENTS), count, size))
    for element in range(len(ELEMENTS)):
        seconds, crossed, total = _moments(molecules, moved, momentum, element, floor)
        if seconds is None:
            continue
        values, vectors = np.linalg.eigh(seconds / total)
        kept = values > SMALLEST_VARIANCE
        wide = vectors[:, kept] * np.sqrt(values[kept])
        narrow = (vectors[:, kept] / np.sqrt(values[kept])).T
        curvature = wide.T @ np.linalg.lstsq(seconds, crossed, rcond=1e-10)[0] @ wide
        stiff, turn = np.linalg.eigh(0.5 * (curvature + curvature.T))
        stiff, turn = stiff[::-1][:count], turn[:, ::-1][:, :count]
        stiff, turn = stiff[stiff > 0.0], turn[:, : int((stiff > 0.0).sum())]
        lift[element, : len(seconds), : len(stiff)] = wide @ (turn / np.sqrt(stiff))
        drop[element, : len(stiff), : len(seconds)] = (turn * np.sqrt(stiff)).T @ narrow
    return lift, drop


def _moments(
    molecules: Sequence[Prepared], moved: Sequence[np.ndarray], momentum: int, element: int, floor: float
) -> tuple[np.ndarray | None, np.ndarray | None, float]:
    """Weighted sums of delta delta^T and delta slope^T over samples, atoms of an element and m."""
    seconds = crossed = None
    total = 0.0
    for molecule, delta in zip(molecules, moved, strict=True):
        weights = 1.0 / (floor + np.maximum(molecule.excess, 0.0))
        for atom, rows in enumerate(molecule.place.rows):
            if molecule.place.elements[atom] != element or momentum not in rows:
                continue
            for order in range(2 * momentum + 1):
                index = rows[momentum][:, order]
                d, s = delta[:, index], molecule.slopes[:, index]
                new, cross = (d * weights[:, None]).T @ d, (d * weights[:, None]).T @ s
                seconds = new if seconds is None else seconds + new
                crossed = cross if crossed is None else crossed + cross
                total += float(weights.sum())
    return seconds, crossed, total
