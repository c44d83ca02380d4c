"""Specified stereo in the search for positions, of which neither the flow nor the stress of its distances knows.

Centres: a penalty on signed volumes, as in distance geometry (Crippen and Havel, Acta Cryst. A 34, 282 (1978)). Double
bonds: the distances across them are those of the flat cis or trans form, and count more. Source of both: derived here.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from molkit.cgcf.embedding import Embedding, Stress, embed, times
from molkit.cgcf.graph import PairGraph
from molkit.chem.bond_graph import StereoRules

LEAST_VOLUME = 1.0  # angstrom^3, of three bonds from a centre; 2 to 4 where all is well
VOLUME_WEIGHT = 0.3  # angstrom^-4
ACROSS_WEIGHT = 1.0  # of a pair across a double bond, as of a bond; else 1/4


class HandedStress(Stress):
    """The stress of distances with the stereo of a molecule: penalties where a signed volume is below LEAST_VOLUME."""

    def __init__(self, graph: PairGraph, distances: Tensor, rules: StereoRules) -> None:
        """distances [C, P] as for a plain stress; `flat` are these with what the double bonds demand."""
        self.flat, across = with_flat_double_bonds(graph, distances, rules)
        super().__init__(graph, self.flat)
        self.weights[across] = ACROSS_WEIGHT
        self.signs, count = rules.signs[:, None], len(rules.triples)
        self.bonds = np.zeros((3, count, self.num_atoms))  # first, second and third bond of each triple
        rows = np.arange(count)
        for place in range(3):
            self.bonds[place, rows, rules.triples[:, place + 1]] = 1.0
            self.bonds[place, rows, rules.triples[:, 0]] = -1.0

    def __call__(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stress with penalties [C] and its gradient [A, 3, C] at positions [A, 3, C]."""
        value, gradient = super().__call__(positions)
        if not len(self.signs):
            return value, gradient
        first, second, third = (times(bonds, positions) for bonds in self.bonds)  # [T, 3, C]
        slopes = [np.cross(*two, axis=1) for two in ((second, third), (third, first), (first, second))]
        missing = np.maximum(LEAST_VOLUME - self.signs * (first * slopes[0]).sum(1), 0.0)
        factor = (-2.0 * VOLUME_WEIGHT * missing * self.signs)[:, None]
        for bonds, slope in zip(self.bonds, slopes, strict=True):
            gradient += times(bonds.T, factor * slope)
        return value + VOLUME_WEIGHT * (missing**2).sum(0), gradient


def embed_handed(graph: PairGraph, distances: Tensor, rules: StereoRules, **options: Any) -> Embedding:
    """Positions for distances [C, P] with the stereo of the rules, wherever the search finds such; options as `embed`.

    Without specified stereo this is `embed`. The stress that it returns has no penalties in it.
    """
    if not len(rules):
        return embed(graph, distances, **options)
    stress = HandedStress(graph, distances, rules)
    found = embed(graph, distances, stress=stress, **options)
    value, _ = Stress(graph, stress.flat)(np.ascontiguousarray(found.positions.numpy().transpose(1, 2, 0)))
    return replace(found, stress=torch.from_numpy(value))


def with_flat_double_bonds(graph: PairGraph, distances: Tensor, rules: StereoRules) -> tuple[Tensor, list[int]]:
    """Distances [C, P], those across every double bond of specified stereo as in its flat form, and which these are.

    They follow from the bonds and angles that were drawn: what the flow drew for them knows nothing of cis and trans.
    """
    count, pairs = int(graph.num_atoms), graph.pairs
    place = torch.full((count, count), -1)
    place[pairs[0], pairs[1]] = place[pairs[1], pairs[0]] = torch.arange(pairs.shape[1])
    bonded = (place >= 0) & (graph.hops[place] == 1)
    found, rows = distances.clone(), []
    for (left, start, end, right), cis in zip(rules.double_bonds.tolist(), rules.cis.tolist(), strict=True):
        for one in bonded[start].nonzero().flatten().tolist():
            for two in bonded[end].nonzero().flatten().tolist():
                row = int(place[one, two])
                if one in (end, two) or two == start or graph.hops[row] != 3:
                    continue
                known = ((one, start), (start, end), (end, two), (one, end), (start, two))
                near = [distances[:, place[pair]] for pair in known]
                found[:, row] = _across(*near, cis=cis ^ (one != left) ^ (two != right))
                rows.append(row)
    return found, rows


def _across(left: Tensor, middle: Tensor, right: Tensor, near: Tensor, far: Tensor, *, cis: bool) -> Tensor:
    """The distance 1-4 of four atoms in a plane from the distances 1-2, 2-3, 3-4, 1-3 and 2-4."""
    along, up = _corner(left, middle, near)
    back, other = _corner(right, middle, far)
    return torch.hypot(middle - along - back, up - other if cis else up + other)


def _corner(side: Tensor, axis: Tensor, opposite: Tensor) -> tuple[Tensor, Tensor]:
    """The end of a side beside an axis, along it and away from it, by the law of cosines."""
    along = (side**2 + axis**2 - opposite**2) / (2.0 * axis)
    along = torch.minimum(torch.maximum(along, -side), side)
    return along, (side**2 - along**2).clamp_min(0.0).sqrt()
