"""RMSD of conformers over heavy atoms, best over rigid motions and over the ways a graph lies on itself.

No reflection: a conformer and its mirror image are two. Which atoms count as alike is a named option, because it moves
single values by up to about 1 angstrom for small acids:

graph: atoms and bonds as they are in the sanitized molecule (RDKit of the years in which the papers were written).
conjugated: terminal oxygens and nitrogens of carboxyl, nitro, phosphate and the like are alike too (recent RDKit).
none: every atom only lies on itself.

Up to 10,000 ways are tried one by one. Where there are more, ends of the graph that hang on one atom (methyls of
tert-butyl, fluorines) are taken apart from the rest: a bound on what they can add leaves few ways to try, and the
smallest RMSD is still found for certain.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Literal, get_args

import numpy as np
from rdkit import Chem

from molkit.errors import InvalidInput

Symmetry = Literal["graph", "conjugated", "none"]
MAX_MATCHES = 10_000  # self-matches that are tried one by one
MAX_CORE_MATCHES = 100_000  # of what is left without ends; where a graph has more, an RMSD is an upper bound
MAX_BRANCHES = 200_000  # of the search over ends, kept at once; where more are needed, an RMSD is an upper bound
AT_ONCE = 200_000  # 3x3 products in memory together
TERMINAL = "[O,N;D1;$([O,N;D1]-[*]=[O,N;D1]),$([O,N;D1]=[*]-[O,N;D1])]~[*]"


def heavy_atoms(mol: Chem.Mol) -> np.ndarray:
    """Rows of the atoms that are not hydrogen, [H]. Raises InvalidInput where there are none."""
    rows = np.array([atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1], dtype=np.int64)
    if len(rows) == 0:
        raise InvalidInput("a molecule of hydrogens only has no heavy atoms to superpose")
    return rows


def self_matches(mol: Chem.Mol, *, symmetry: Symmetry = "graph") -> np.ndarray:
    """The ways the heavy-atom graph lies on itself: rows of atoms of `mol` [P, H], that of heavy_atoms among them.

    Source: RDKit's GetBestRMS (elements and bond types decide; hydrogen counts and handedness do not).
    """
    if symmetry not in get_args(Symmetry):
        raise InvalidInput(f"unknown symmetry {symmetry!r}: expected {', '.join(get_args(Symmetry))}")
    rows = heavy_atoms(mol)
    if symmetry == "none":
        return rows[None]
    return rows[_onto_itself(_heavy_graph(mol, symmetry), MAX_MATCHES)]


def _heavy_graph(mol: Chem.Mol, symmetry: Symmetry) -> Chem.Mol:
    plain = Chem.RWMol(mol)
    for row in sorted(set(range(mol.GetNumAtoms())) - set(heavy_atoms(mol).tolist()), reverse=True):
        plain.RemoveAtom(row)
    plain = _with_like_ends(plain) if symmetry == "conjugated" else plain.GetMol()
    plain.UpdatePropertyCache(strict=False)
    return plain


def _onto_itself(plain: Chem.Mol, most: int) -> np.ndarray:
    return np.array(plain.GetSubstructMatches(plain, uniquify=False, maxMatches=most), dtype=np.int64)


def _with_like_ends(plain: Chem.RWMol) -> Chem.Mol:
    """The heavy graph with the conjugated terminal bonds as one type and their atoms without charge."""
    bare = Chem.Mol(plain)
    bare.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(bare)
    for end, middle in bare.GetSubstructMatches(Chem.MolFromSmarts(TERMINAL), maxMatches=MAX_MATCHES):
        plain.GetBondBetweenAtoms(end, middle).SetBondType(Chem.BondType.ONEANDAHALF)
        plain.GetAtomWithIdx(end).SetFormalCharge(0)
    return plain.GetMol()


@dataclass(frozen=True, eq=False)
class BestRmsd:
    """RMSD [R, G] in angstrom; `exact` is False where some may be upper bounds, for want of time to try every way."""

    values: np.ndarray
    exact: bool


def rmsd_matrix(mol: Chem.Mol, first: np.ndarray, second: np.ndarray, *, symmetry: Symmetry = "graph") -> np.ndarray:
    """The values of `best_rmsd`."""
    return best_rmsd(mol, first, second, symmetry=symmetry).values


def best_rmsd(mol: Chem.Mol, first: np.ndarray, second: np.ndarray, *, symmetry: Symmetry = "graph") -> BestRmsd:
    """Best heavy-atom RMSD between conformers [R, A, 3] and [G, A, 3] of one molecule.

    NaN where a conformer holds a number that is not finite. Raises InvalidInput for other shapes.
    """
    for positions in (first, second):
        if positions.ndim != 3 or positions.shape[1:] != (mol.GetNumAtoms(), 3):
            raise InvalidInput(f"expected conformers [C, {mol.GetNumAtoms()}, 3], got {list(positions.shape)}")
    matches = self_matches(mol, symmetry=symmetry)
    left, right = _centred(first[:, heavy_atoms(mol)]), _centred(second[:, heavy_atoms(mol)])
    sane = [np.flatnonzero(np.isfinite(part).all(axis=(1, 2))) for part in (left, right)]
    if len(matches) == MAX_MATCHES:
        return _beyond_matches(_heavy_graph(mol, symmetry), left, right, sane)
    column = {int(row): k for k, row in enumerate(heavy_atoms(mol))}
    orders = np.vectorize(column.__getitem__)(matches)
    result = np.full((len(left), len(right)), np.nan)
    size = max(1, AT_ONCE // max(1, len(sane[0]) * len(orders)))
    for begin in range(0, len(sane[1]), size):
        columns = sane[1][begin : begin + size]
        result[np.ix_(sane[0], columns)] = _best(left[sane[0]], right[columns], orders)
    return BestRmsd(result, exact=True)


def _beyond_matches(plain: Chem.Mol, left: np.ndarray, right: np.ndarray, sane: list[np.ndarray]) -> BestRmsd:
    """The same for a graph with very many self-matches, pair by pair."""
    ends = Ends.of(plain)
    result, exact = np.full((len(left), len(right)), np.nan), len(ends.orders) < MAX_CORE_MATCHES
    for row in sane[0]:
        for column in sane[1]:
            trace, certain = ends.largest_trace(left[row], right[column])
            square = (left[row] ** 2).sum() + (right[column] ** 2).sum() - 2.0 * trace
            result[row, column] = np.sqrt(max(square, 0.0) / left.shape[1])
            exact &= certain
    return BestRmsd(result, exact)


@dataclass(frozen=True, eq=False)
class Ends:
    """A graph taken apart into groups of like ends, each on one atom, and the core that is left without them.

    core [K]: atoms; orders [P, K]: the ways the core lies on itself; groups: atoms of each; partners [P, number of
    groups]: the group on which each lies then. Any order inside a group is allowed besides.
    """

    core: np.ndarray
    orders: np.ndarray
    groups: list[np.ndarray]
    partners: np.ndarray

    @classmethod
    def of(cls, plain: Chem.Mol) -> "Ends":
        """Of a graph of heavy atoms."""
        hung: dict[tuple, list[int]] = {}
        for atom in plain.GetAtoms():
            if atom.GetDegree() == 1 and atom.GetNeighbors()[0].GetDegree() > 1:
                (bond,) = atom.GetBonds()
                kind = (atom.GetAtomicNum(), atom.GetFormalCharge(), atom.GetIsotope(), str(bond.GetBondType()))
                hung.setdefault((bond.GetOtherAtomIdx(atom.GetIdx()), kind), []).append(atom.GetIdx())
        groups = {place: atoms for place, atoms in hung.items() if len(atoms) > 1}
        gone = {atom for atoms in groups.values() for atom in atoms}
        core = np.array([atom for atom in range(plain.GetNumAtoms()) if atom not in gone])
        labelled = Chem.RWMol(plain)
        signs = [sorted((kind, len(atoms)) for (on, kind), atoms in groups.items() if on == atom) for atom in core]
        known = sorted(filter(None, signs))
        for atom, sign in zip(core.tolist(), signs, strict=True):
            if sign:  # an isotope that no element has tells apart what hangs on an atom
                labelled.GetAtomWithIdx(atom).SetIsotope(500 + known.index(sign))
        for atom in sorted(gone, reverse=True):
            labelled.RemoveAtom(atom)
        labelled.UpdatePropertyCache(strict=False)
        orders = core[_onto_itself(labelled.GetMol(), MAX_CORE_MATCHES)]
        place, names = {atom: k for k, atom in enumerate(core.tolist())}, {key: k for k, key in enumerate(groups)}
        partners = [[names[int(order[place[on]]), kind] for on, kind in groups] for order in orders]
        return cls(core, orders, [np.array(atoms) for atoms in groups.values()], np.array(partners, dtype=np.int64))

    def largest_trace(self, left: np.ndarray, right: np.ndarray) -> tuple[float, bool]:
        """Largest trace of rotation times overlap of centred atoms [H, 3] over all ways, and whether that is certain.

        The trace of a sum is at most the sum of the traces: orders of the core are tried from the most promising on,
        and groups are added one by one, while what is still to come can lift the trace above the best one found.
        """
        means = [np.stack([part[atoms].mean(0) for atoms in self.groups]) for part in (left, right)]
        sizes = np.array([len(atoms) for atoms in self.groups])
        base = np.einsum("ki,pkj->pij", left[self.core], right[self.orders])
        base += np.einsum("g,gi,pgj->pij", sizes, means[0], means[1][self.partners])
        arms = [[part[atoms] - mean for atoms, mean in zip(self.groups, mean_of, strict=True)]
                for part, mean_of in zip((left, right), means, strict=True)]  # fmt: skip
        inside = {pair: _overlaps(arms[0][pair[0]], arms[1][pair[1]]) for pair in self._pairs()}
        tops = {pair: float(_trace(overlap).max()) for pair, overlap in inside.items()}
        promise = _trace(base) + np.array(
            [sum(tops[pair] for pair in enumerate(row)) for row in self.partners.tolist()]
        )
        best, certain = -np.inf, True
        for row in np.argsort(-promise):
            if promise[row] <= best:
                break
            pairs = sorted(enumerate(self.partners[row].tolist()), key=tops.__getitem__, reverse=True)
            best = max(best, _climb(base[row], [inside[pair] for pair in pairs]))
            found, all_seen = _branch(base[row], [(inside[pair], tops[pair]) for pair in pairs], best)
            best, certain = max(best, found), certain and all_seen
        return float(best), certain

    def _pairs(self) -> Iterator[tuple[int, int]]:
        return ((group, other) for group in range(len(self.groups)) for other in set(self.partners[:, group].tolist()))


def _overlaps(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Overlaps [orders, 3, 3] of atoms [k, 3] with others in every order."""
    return np.einsum("ki,pkj->pij", left, right[list(permutations(range(len(right))))])


def _climb(base: np.ndarray, groups: list[np.ndarray]) -> float:
    """A good trace: groups and rotation in turn take what is best for the other, five times."""
    overlap = base
    for _ in range(5):
        u, _, vt = np.linalg.svd(overlap)
        turn = vt.T @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ u.T
        chosen = [group[np.argmax(np.einsum("ij,pji->p", turn, group))] for group in groups]
        overlap = base + sum(chosen)
    return float(_trace(overlap[None])[0])


def _branch(base: np.ndarray, groups: list[tuple[np.ndarray, float]], best: float) -> tuple[float, bool]:
    """The largest trace of base plus one overlap of each group, where above `best`; whether nothing was passed over."""
    partial, values, to_come, certain = base[None], np.full(1, -np.inf), sum(top for _, top in groups), True
    for overlaps, top in groups:
        to_come -= top
        partial = (partial[:, None] + overlaps[None]).reshape(-1, 3, 3)
        values = _trace(partial)
        keep = np.flatnonzero(values + to_come > best)
        if len(keep) > MAX_BRANCHES:
            keep, certain = keep[np.argsort(-values[keep])[:MAX_BRANCHES]], False
        partial, values = partial[keep], values[keep]
    return float(values.max(initial=-np.inf)), certain


def _centred(positions: np.ndarray) -> np.ndarray:
    positions = np.asarray(positions, dtype=np.float64)
    return positions - positions.mean(axis=1, keepdims=True)


def _best(left: np.ndarray, right: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Smallest RMSD [R, G] of centred atoms over the orders [P, H]. Source: Kabsch, Acta Cryst. A 32, 922 (1976)."""
    turned = right[:, orders]  # [G, P, H, 3]
    overlap = np.einsum("rhi,gphj->rgpij", left, turned, optimize=True)
    squares = (left**2).sum((1, 2))[:, None] + (right**2).sum((1, 2))[None]
    return np.sqrt(np.maximum(squares - 2.0 * _trace(overlap).max(axis=-1), 0.0) / left.shape[1])


def _trace(overlap: np.ndarray) -> np.ndarray:
    """Largest trace of a proper rotation times each overlap [..., 3, 3]."""
    values = np.linalg.svd(overlap, compute_uv=False)
    return values[..., 0] + values[..., 1] + values[..., 2] * np.where(np.linalg.det(overlap) < 0.0, -1.0, 1.0)


def heavy_pairs(mol: Chem.Mol, *, max_hops: int = 3) -> np.ndarray:
    """Pairs of heavy atoms [2, E], first below second, that shortest paths of up to max_hops bonds join."""
    hops = Chem.GetDistanceMatrix(mol)
    rows = heavy_atoms(mol)
    first, second = np.triu_indices(len(rows), 1)
    near = hops[rows[first], rows[second]] <= max_hops + 0.5
    return np.stack([rows[first[near]], rows[second[near]]])
