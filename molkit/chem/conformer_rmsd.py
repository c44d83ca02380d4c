"""RMSD of conformers over heavy atoms, best over rigid motions and over the ways a graph lies on itself.

No reflection: a conformer and its mirror image are two. Which atoms count as alike is a named option, because it moves
single values by up to about 1 angstrom for small acids:

graph: atoms and bonds as they are in the sanitized molecule (RDKit of the years in which the papers were written).
conjugated: terminal oxygens and nitrogens of carboxyl, nitro, phosphate and the like are alike too (recent RDKit).
none: every atom only lies on itself.
"""

from typing import Literal, get_args

import numpy as np
from rdkit import Chem

from molkit.errors import InvalidInput

Symmetry = Literal["graph", "conjugated", "none"]
MAX_MATCHES = 10_000  # self-matches that are tried; where a graph has more, an RMSD is an upper bound
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
    plain = Chem.RWMol(mol)
    for row in sorted(set(range(mol.GetNumAtoms())) - set(rows.tolist()), reverse=True):
        plain.RemoveAtom(row)
    plain = _with_like_ends(plain) if symmetry == "conjugated" else plain.GetMol()
    plain.UpdatePropertyCache(strict=False)
    found = plain.GetSubstructMatches(plain, uniquify=False, maxMatches=MAX_MATCHES)
    return rows[np.array(found, dtype=np.int64)]


def _with_like_ends(plain: Chem.RWMol) -> Chem.Mol:
    """The heavy graph with the conjugated terminal bonds as one type and their atoms without charge."""
    bare = Chem.Mol(plain)
    bare.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(bare)
    for end, middle in bare.GetSubstructMatches(Chem.MolFromSmarts(TERMINAL), maxMatches=MAX_MATCHES):
        plain.GetBondBetweenAtoms(end, middle).SetBondType(Chem.BondType.ONEANDAHALF)
        plain.GetAtomWithIdx(end).SetFormalCharge(0)
    return plain.GetMol()


def rmsd_matrix(mol: Chem.Mol, first: np.ndarray, second: np.ndarray, *, symmetry: Symmetry = "graph") -> np.ndarray:
    """Best heavy-atom RMSD [R, G] in angstrom between conformers [R, A, 3] and [G, A, 3] of one molecule.

    NaN where a conformer holds a number that is not finite. Raises InvalidInput for other shapes.
    """
    for positions in (first, second):
        if positions.ndim != 3 or positions.shape[1:] != (mol.GetNumAtoms(), 3):
            raise InvalidInput(f"expected conformers [C, {mol.GetNumAtoms()}, 3], got {list(positions.shape)}")
    matches = self_matches(mol, symmetry=symmetry)
    left, right = _centred(first[:, heavy_atoms(mol)]), _centred(second[:, heavy_atoms(mol)])
    column = {int(row): k for k, row in enumerate(heavy_atoms(mol))}
    orders = np.vectorize(column.__getitem__)(matches)
    result = np.full((len(left), len(right)), np.nan)
    sane = [np.flatnonzero(np.isfinite(part).all(axis=(1, 2))) for part in (left, right)]
    size = max(1, AT_ONCE // max(1, len(sane[0]) * len(orders)))
    for begin in range(0, len(sane[1]), size):
        columns = sane[1][begin : begin + size]
        result[np.ix_(sane[0], columns)] = _best(left[sane[0]], right[columns], orders)
    return result


def _centred(positions: np.ndarray) -> np.ndarray:
    positions = np.asarray(positions, dtype=np.float64)
    return positions - positions.mean(axis=1, keepdims=True)


def _best(left: np.ndarray, right: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Smallest RMSD [R, G] of centred atoms over the orders [P, H]. Source: Kabsch, Acta Cryst. A 32, 922 (1976)."""
    turned = right[:, orders]  # [G, P, H, 3]
    overlap = np.einsum("rhi,gphj->rgpij", left, turned, optimize=True)
    values = np.linalg.svd(overlap, compute_uv=False)
    trace = values[..., 0] + values[..., 1] + values[..., 2] * np.where(np.linalg.det(overlap) < 0.0, -1.0, 1.0)
    squares = (left**2).sum((1, 2))[:, None] + (right**2).sum((1, 2))[None]
    return np.sqrt(np.maximum(squares - 2.0 * trace.max(axis=-1), 0.0) / left.shape[1])


def heavy_pairs(mol: Chem.Mol, *, max_hops: int = 3) -> np.ndarray:
    """Pairs of heavy atoms [2, E], first below second, that shortest paths of up to max_hops bonds join."""
    hops = Chem.GetDistanceMatrix(mol)
    rows = heavy_atoms(mol)
    first, second = np.triu_indices(len(rows), 1)
    near = hops[rows[first], rows[second]] <= max_hops + 0.5
    return np.stack([rows[first[near]], rows[second[near]]])
