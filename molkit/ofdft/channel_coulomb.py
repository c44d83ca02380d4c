"""The Coulomb matrix of channels for large molecules: exact integrals between near atoms, multipoles between far ones.

A Gaussian of angular momentum l has one multipole moment, and beyond its reach it acts like any other with the same
moment. So far atoms meet through one narrow Gaussian for each l and m: 16 numbers of carbon instead of 109 functions,
with no error but the tail of the overlap. Nothing of size [M, M] is ever made.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from pyscf import gto
from scipy.sparse import bsr_matrix

from molkit.errors import InvalidInput
from molkit.molecule import SYMBOLS, Molecule
from molkit.ofdft.basis import density_mole, density_shells
from molkit.ofdft.edges import edges_within
from molkit.units import ANGSTROM_TO_BOHR

NEAR = 14.0  # bohr; the widest functions of two atoms there overlap by 1e-14
NARROW = 100.0  # exponent of the functions that stand for multipoles
BLOCK_ROWS = 96  # of the far matrix, made or read at a time
MEMORY_GIB = 8.0  # for the far matrix; what does not fit is made anew in every product


class ChannelCoulomb:
    """lift^T J lift of one molecule as a product with vectors [A K]; A atoms, K channel components of each.

    lifts [A]: for every atom density coefficients by channels, [functions, K]. Atoms of one element share theirs.
    """

    def __init__(self, molecule: Molecule, lifts: Sequence[np.ndarray], *, memory_gib: float = MEMORY_GIB) -> None:
        if memory_gib < 0.0:
            raise InvalidInput(f"the memory of the far matrix must not be negative, got {memory_gib} GiB")
        self.positions, self.lifts = molecule.positions * ANGSTROM_TO_BOHR, lifts
        self.neighbours = _neighbour_lists(self.positions)
        self.near = self._near(density_mole(molecule))
        moments = {z: _moments(SYMBOLS[z], lifts[list(molecule.atomic_numbers).index(z)]) for z in _elements(molecule)}
        self.moments = [moments[z] for z in molecule.atomic_numbers.tolist()]
        self.narrow = _narrow_mole(molecule, {SYMBOLS[z]: tables for z, tables in moments.items()})
        self.starts = np.concatenate([[0], np.cumsum([len(table) for table in self.moments])])
        self.blocks = list(self._row_blocks())
        limit, self.kept = memory_gib * 2**30, []
        for atoms in self.blocks:
            limit -= 8.0 * (self.starts[atoms.stop] - self.starts[atoms.start]) * self.starts[atoms.stop]
            if limit < 0.0:
                break
            self.kept.append(self._far(atoms))

    @property
    def num_bytes(self) -> int:
        """Memory of what is kept."""
        return int(sum(block.nbytes for block in self.kept) + self.near.data.nbytes + self.near.indices.nbytes)

    @property
    def share_kept(self) -> float:
        """Share of the far matrix that is kept rather than made in every product."""
        sizes = [float(self.starts[a.stop] - self.starts[a.start]) * float(self.starts[a.stop]) for a in self.blocks]
        return sum(sizes[: len(self.kept)]) / sum(sizes)

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """The product with z [A K]."""
        width = self.lifts[0].shape[1]
        by_atom = z.reshape(-1, width)
        moments = np.concatenate([table @ row for table, row in zip(self.moments, by_atom, strict=True)])
        pulled = self._far_product(moments)
        parts = [table.T @ pulled[a:b] for table, (a, b) in zip(self.moments, pairwise(self.starts), strict=True)]
        return self.near @ z + np.concatenate(parts)

    def _far_product(self, moments: np.ndarray) -> np.ndarray:
        """Potential of far moments; the matrix is symmetric, and only its rows up to the diagonal are held."""
        found = np.zeros_like(moments)
        for number, atoms in enumerate(self.blocks):
            block = self.kept[number] if number < len(self.kept) else self._far(atoms)
            start, stop = self.starts[atoms.start], self.starts[atoms.stop]
            found[start:stop] += block @ moments[:stop]
            found[:start] += moments[start:stop] @ block[:, :start]
        return found

    def _row_blocks(self) -> Iterator[range]:
        """Atoms in runs of about BLOCK_ROWS multipoles."""
        first = 0
        for atom in range(1, len(self.moments) + 1):
            if atom == len(self.moments) or self.starts[atom + 1] - self.starts[first] > BLOCK_ROWS:
                yield range(first, atom)
                first = atom

    def _far(self, atoms: range) -> np.ndarray:
        """Interaction of the multipoles of these atoms with all up to them, zero between near atoms."""
        shells = self.narrow.aoslice_by_atom()
        rows = (int(shells[atoms.start, 0]), int(shells[atoms.stop - 1, 1]))
        found = self.narrow.intor("int2c2e", shls_slice=(*rows, 0, rows[1]))
        origin = self.starts[atoms.start]
        for atom in atoms:
            start, stop = self.starts[atom] - origin, self.starts[atom + 1] - origin
            for other in self.neighbours[atom]:
                if other < atoms.stop:
                    found[start:stop, self.starts[other] : self.starts[other + 1]] = 0.0
        return found

    def _near(self, density: gto.Mole) -> bsr_matrix:
        """Exact blocks between near atoms, [A K, A K]."""
        slices, found = density.aoslice_by_atom(), {}
        for atom, others in enumerate(self.neighbours):
            for run in np.split(others[others >= atom], np.flatnonzero(np.diff(others[others >= atom]) > 1) + 1):
                columns = (int(slices[run[0], 0]), int(slices[run[-1], 1]))
                rows = (int(slices[atom, 0]), int(slices[atom, 1]))
                half = self.lifts[atom].T @ density.intor("int2c2e", shls_slice=(*rows, *columns))
                for other in run:
                    start = slices[other, 2] - slices[run[0], 2]
                    found[atom, other] = half[:, start : start + len(self.lifts[other])] @ self.lifts[other]
        blocks = [
            found[atom, other] if atom <= other else found[other, atom].T
            for atom, others in enumerate(self.neighbours)
            for other in others
        ]
        bounds = np.concatenate([[0], np.cumsum([len(others) for others in self.neighbours])])
        size = len(self.lifts) * self.lifts[0].shape[1]
        return bsr_matrix((np.stack(blocks), np.concatenate(self.neighbours), bounds), shape=(size, size))


def _elements(molecule: Molecule) -> list[int]:
    return sorted(set(molecule.atomic_numbers.tolist()))


def _neighbour_lists(positions: np.ndarray) -> list[np.ndarray]:
    """Near atoms of every atom, itself among them, ascending."""
    edges = edges_within(positions, NEAR)
    parts = np.split(edges.second, edges.bounds(len(positions))[1:-1])
    return [np.sort(np.append(part, atom)) for atom, part in enumerate(parts)]


def _moments(symbol: str, lift: np.ndarray) -> np.ndarray:
    """Multipoles of an element's channels in units of the narrow functions', [multipoles, K]."""
    found, start = [], 0
    by_momentum: dict[int, np.ndarray] = {}
    for momentum, (exponent, _) in density_shells()[symbol]:
        width = 2 * momentum + 1
        part = _moment(momentum, exponent) / _moment(momentum, NARROW) * lift[start : start + width]
        by_momentum[momentum] = by_momentum.get(momentum, 0.0) + part
        start += width
    for momentum in sorted(by_momentum):
        if np.abs(by_momentum[momentum]).any():
            found.append(by_momentum[momentum])
    return np.concatenate(found)


def _moment(momentum: int, exponent: float) -> float:
    """Integral of r^(2 l + 2) exp(-a r^2) times the norm, up to a factor of l alone."""
    return float(gto.gto_norm(momentum, exponent)) * exponent ** -(momentum + 1.5)


def _narrow_mole(molecule: Molecule, moments: dict[str, np.ndarray]) -> gto.Mole:
    """One narrow function for every multipole of every atom."""
    counts = {symbol: int(np.sqrt(len(table))) for symbol, table in moments.items()}
    basis = {symbol: [[momentum, [NARROW, 1.0]] for momentum in range(count)] for symbol, count in counts.items()}
    positions = molecule.positions * ANGSTROM_TO_BOHR
    atoms = [(SYMBOLS[number], tuple(row)) for number, row in zip(molecule.atomic_numbers, positions, strict=True)]
    return gto.M(atom=atoms, unit="Bohr", basis=basis, verbose=0)
