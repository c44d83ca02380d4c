"""Which molecules a functional was tested on: environments of atoms, and the error that held-out molecules let expect.

A functional answers where every atom has neighbours that its training knows, at distances like theirs, and where the
molecule as a whole lies no farther from the training than molecules that were held out of it. The distance is that of
the linear model under every functional, least squares on sums over pairs and triples of atoms: its standard error in
units of that of one label, sqrt(f (F F^T + restraint)^-1 f) for features f and those of the training, F. Errors of
held-out molecules grow in proportion to it.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import scipy.linalg

from molkit.chem.rdkit_tools import COVALENT_FACTORS, connectivity, num_pieces
from molkit.data.packed import unpack, write_packed
from molkit.data.registry import load_arrays
from molkit.errors import InvalidInput
from molkit.molecule import Molecule, PackedMolecules
from molkit.ofdft.channels import ELEMENTS, energy_features, feature_scale

FILE = "domain.npz"
HELD_OUT = ("distances", "gaps", "errors")
RESTRAINT, LEAST_SPREAD = 1e-3, 3.0  # of the features; within a factor of ten of all that compositions left out choose
CONSTANTS = 1e-12  # restraint of the elements' constants, which are free
COVERED = 0.99  # share of held-out molecules off by less than twice the expected error
LEAST_ERROR = 0.01  # kcal/mol; Kohn-Sham energies of a turned molecule already differ by a tenth of that
STIFFNESS = 2.0  # of a bond beside that of an angle: a change of its length counts so many times
FLAT = 0.15  # sine of a bond angle below which an atom counts as on the axis


def kind_of(molecule: Molecule) -> str:
    """Formula and numbers of bonds, such as `CH2O: 2 C-H, 1 C-O`.

    Atoms are joined where they are closer than 1.3 times the sum of their covalent radii, so a stretched bond still
    counts and a broken one does not.
    """
    bonds = Counter(
        "-".join(sorted((bond.GetBeginAtom().GetSymbol(), bond.GetEndAtom().GetSymbol())))
        for bond in connectivity(molecule, factor=COVALENT_FACTORS[1]).GetBonds()
    )
    return f"{molecule.formula}: {', '.join(f'{count} {ends}' for ends, count in sorted(bonds.items())) or 'no bond'}"


def require_kind(molecule: Molecule, domain: tuple[str, ...], *, most_heavy_atoms: int = 0) -> None:
    """Raise InvalidInput unless the molecule is of one of these kinds.

    most_heavy_atoms: of connected molecules of the domain's elements, those with up to so many are served as well.
    """
    found = kind_of(molecule)
    if found in domain or _small_enough(molecule, domain, most_heavy_atoms):
        return
    if most_heavy_atoms:
        known = f"connected molecules of {', '.join(_elements(domain))} with up to {most_heavy_atoms} heavy atoms"
        raise InvalidInput(f"{found}: this functional is for {known}; others it gets wrong")
    known = ", ".join(dict.fromkeys(kind.split(":")[0] for kind in domain)) or "nothing, by its configuration"
    raise InvalidInput(f"{found}: this functional is for {known}, with their usual bonds; others it gets wrong")


def _elements(domain: tuple[str, ...]) -> list[str]:
    return sorted({symbol for kind in domain for symbol in re.findall("[A-Z][a-z]?", kind.split(":")[0])})


def _small_enough(molecule: Molecule, domain: tuple[str, ...], most_heavy_atoms: int) -> bool:
    num_heavy = int((molecule.atomic_numbers > 1).sum())
    if not most_heavy_atoms or num_heavy > most_heavy_atoms or not set(molecule.symbols) <= set(_elements(domain)):
        return False
    return num_pieces(molecule, factor=COVALENT_FACTORS[1]) == 1


@dataclass(frozen=True, eq=False)
class Environment:
    """An atom with its neighbours, or a bond that does not turn freely: what kind it is, and its lengths in angstrom.

    words[k] says what lengths[k] is; the kind alone decides how many there are, in which order, and their weights.
    """

    owner: str
    kind: str
    lengths: np.ndarray
    weights: np.ndarray
    words: list[str]


def environments(molecule: Molecule) -> list[Environment]:
    """Of every atom, then of the bonds between atoms of two or three neighbours each."""
    graph = connectivity(molecule, factor=COVALENT_FACTORS[1])
    near = [[other.GetIdx() for other in atom.GetNeighbors()] for atom in graph.GetAtoms()]
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in graph.GetBonds()]
    atoms = [_around_atom(molecule, atom, near[atom]) for atom in range(molecule.num_atoms)]
    stiff = [(a, b) for a, b in ends if {len(near[a]), len(near[b])} <= {2, 3}]
    return atoms + [_along_bond(molecule, a, b, near) for a, b in stiff]


def _named(molecule: Molecule, *atoms: int) -> str:
    return " and ".join(f"{atom + 1} ({molecule.symbols[atom]})" for atom in atoms)


def _around_atom(molecule: Molecule, atom: int, near: Sequence[int]) -> Environment:
    """Lengths of the bonds, by element, then distances between neighbours, by their elements; rising in each group."""

    def group(pair: tuple[int, int]) -> tuple[bool, list[int], float]:
        return atom not in pair, sorted(molecule.atomic_numbers[list(pair)].tolist()), _length(molecule, *pair)

    pairs = sorted([(atom, other) for other in near] + list(combinations(near, 2)), key=group)
    words = [f"{'atoms' if atom not in pair else 'the bond of'} {_named(molecule, *pair)}" for pair in pairs]
    others = ", ".join(sorted(molecule.symbols[other] for other in near))
    lengths = np.array([_length(molecule, *pair) for pair in pairs])
    weights = np.where(np.arange(len(pairs)) < len(near), STIFFNESS, 1.0)
    kind = f"{molecule.symbols[atom]} bonded to {others or 'nothing'}"
    return Environment(f"atom {_named(molecule, atom)}", kind, lengths, weights, words)


def _length(molecule: Molecule, a: int, b: int) -> float:
    return float(np.linalg.norm(molecule.positions[a] - molecule.positions[b]))


def _along_bond(molecule: Molecule, a: int, b: int, near: Sequence[Sequence[int]]) -> Environment:
    """Length of a bond, and how far it is twisted out of a plane: the least angle, as the arc of one angstrom."""
    axis = molecule.positions[b] - molecule.positions[a]
    axis = axis / np.linalg.norm(axis)

    def across(end: int, other: int) -> Iterator[np.ndarray]:
        for atom in set(near[end]) - {other}:
            arm = molecule.positions[atom] - molecule.positions[end]
            side = arm / np.linalg.norm(arm)
            side = side - axis * (axis @ side)
            if np.linalg.norm(side) > FLAT:
                yield side / np.linalg.norm(side)

    cosines = [abs(float(one @ other)) for one in across(a, b) for other in across(b, a)]
    twist = float(np.arccos(min(1.0, max(cosines, default=1.0))))
    kind = " and ".join(sorted(f"{molecule.symbols[end]} of {len(near[end])} neighbours" for end in (a, b)))
    name = f"the bond of atoms {_named(molecule, a, b)}"
    lengths = np.array([_length(molecule, a, b), twist])
    return Environment(name, f"a bond between {kind}", lengths, np.array([STIFFNESS, 1.0]), [name, "its twist"])


@dataclass(frozen=True)
class Expected:
    """How far a molecule lies from the training, and how large errors are there."""

    distance: float
    error_kcal: float  # kcal/mol; held-out molecules at such distances were hardly ever off by more than twice that
    gap_angstrom: float  # largest weighted difference of an environment to the nearest one of the training


@dataclass(frozen=True, eq=False)
class Domain:
    """Training molecules of a functional, and molecules held out of like trainings.

    Of each of H held-out molecules: distance and gap to the training that had not met it, and the absolute error of its
    minimised energy in kcal/mol. Those with an environment that the training did not know are not among them.
    """

    molecules: tuple[Molecule, ...]
    distances: np.ndarray  # [H]
    gaps: np.ndarray  # [H], angstrom
    errors: np.ndarray  # [H], kcal/mol
    share: float = 1.0  # of the held-out molecules that lie within `farthest`, and within `widest`

    @cached_property
    def farthest(self) -> float:
        """The largest distance that is served."""
        return float(np.quantile(self.distances, self.share))

    @cached_property
    def widest(self) -> float:
        """The largest gap that is served, angstrom."""
        return float(np.quantile(self.gaps, self.share))

    @cached_property
    def error_per_distance(self) -> float:
        """kcal/mol; twice that, times its distance, exceeds the errors of COVERED of the held-out molecules served."""
        served = (self.distances <= self.farthest) & (self.gaps <= self.widest)
        return 0.5 * float(np.quantile((self.errors / self.distances)[served], COVERED, method="higher"))

    def error_at(self, distance: float) -> float:
        """The error to expect at a distance, kcal/mol; nearer than all held-out molecules as at the nearest one."""
        return max(LEAST_ERROR, self.error_per_distance * max(distance, float(self.distances.min())))

    @cached_property
    def known(self) -> dict[str, np.ndarray]:
        """Lengths of all training environments by kind, [n, lengths]."""
        found: dict[str, list[np.ndarray]] = {}
        for molecule in self.molecules:
            for entry in environments(molecule):
                found.setdefault(entry.kind, []).append(entry.lengths)
        return {kind: np.stack(rows) for kind, rows in found.items()}

    @cached_property
    def _metric(self) -> tuple[np.ndarray, tuple[np.ndarray, bool]]:
        """Scale of the features, and the factored matrix of the restrained least squares."""
        features = np.stack([energy_features(molecule) for molecule in self.molecules])
        scale = feature_scale(features, LEAST_SPREAD)
        restraint = np.full(features.shape[1], RESTRAINT)
        restraint[: len(ELEMENTS)] = CONSTANTS
        scaled = features / scale
        return scale, scipy.linalg.cho_factor(scaled.T @ scaled + np.diag(restraint))

    def distance(self, molecule: Molecule) -> float:
        """Standard error of the linear model at a molecule, in units of that of one label."""
        scale, factor = self._metric
        scaled = energy_features(molecule) / scale
        return float(np.sqrt(scaled @ scipy.linalg.cho_solve(factor, scaled)))

    def gap(self, molecule: Molecule) -> tuple[float, str]:
        """The largest weighted difference of an environment to the nearest known one (angstrom), and where it is.

        Infinite for an environment of a kind that the training does not have.
        """
        widest, reason = 0.0, ""
        for entry in environments(molecule):
            if entry.kind not in self.known:
                return np.inf, f"{entry.owner} is {entry.kind}, as nothing in its training is"
            known = self.known[entry.kind]
            size = float(np.abs((known - entry.lengths) * entry.weights).max(1, initial=0.0).min())
            if size > widest:
                widest, reason = size, f"{entry.owner}: {_most_unusual(entry, known)}"
        return widest, reason

    def expect(self, molecule: Molecule) -> Expected:
        """The error to expect of a molecule. Raises InvalidInput outside, with the atom and the reason."""
        gap, reason = self.gap(molecule)
        if gap > self.widest:
            raise InvalidInput(reason)
        distance = self.distance(molecule)
        error = self.error_at(distance)
        if distance > self.farthest:
            raise InvalidInput(
                f"as a whole it is unlike the molecules of the tests, an error of {error:.2g} kcal/mol would have to "
                f"be expected, at most {self.error_at(self.farthest):.2g} is served; most unusual is {reason}"
            )
        return Expected(distance, error, gap)


def _most_unusual(entry: Environment, known: np.ndarray) -> str:
    """The length of an environment that lies farthest from those of its kind, [n, lengths], and theirs, in words."""
    beyond = np.maximum(entry.lengths - known.max(0), known.min(0) - entry.lengths) * entry.weights
    if beyond.max() > 0.0:
        worst = int(beyond.argmax())
        low, high = known[:, worst].min(), known[:, worst].max()
    else:
        differences = np.abs(known - entry.lengths) * entry.weights
        nearest = int(differences.max(1).argmin())
        worst = int(differences[nearest].argmax())
        low = high = known[nearest, worst]
    what, length = entry.words[worst], entry.lengths[worst]
    if what == "its twist":
        theirs = _span(np.degrees(low), np.degrees(high), ".0f")
        return f"twisted by {np.degrees(length):.0f} degrees, {theirs} in its training"
    verb, ending = ("is", "long") if "bond" in what else ("are", "apart")
    return f"{what} {verb} {length:.2f} angstrom {ending}, {_span(low, high, '.2f')} in its training"


def _span(low: float, high: float, digits: str) -> str:
    return f"{low:{digits}}" if low == high else f"{low:{digits}} to {high:{digits}}"


def write_domain(folder: Path, domain: Domain) -> Path:
    """Write domain.npz beside weights; returns its path."""
    held_out = {name: getattr(domain, name).astype(np.float32) for name in HELD_OUT}
    molecules = PackedMolecules.from_molecules(domain.molecules)
    write_packed(folder / FILE, molecules, share=np.array(domain.share), **held_out)
    return folder / FILE


def read_domain(folder: Path) -> Domain | None:
    """The domain beside weights; None where there is none. Raises InvalidInput for a damaged file."""
    path = folder / FILE
    if not path.is_file():
        return None
    arrays = load_arrays(path)
    held_out = [arrays.get(name, np.zeros(0)).astype(float) for name in HELD_OUT]
    if not len(held_out[0]) or len({len(values) for values in held_out}) > 1:
        raise InvalidInput(f"{path}: no held-out molecules of a functional; restore it from the repository")
    return Domain(tuple(unpack(arrays, label=str(path))), *held_out, share=float(arrays.get("share", 1.0)))
