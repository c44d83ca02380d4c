"""The attention network on neighbour lists: the numbers of `AttentionNetwork`, for molecules of thousands of atoms.

Whatever depends on the geometry alone is made once: the bias of the attention, and the quadratic form, which becomes a
sparse matrix. Only the attention itself joins all pairs of atoms.
"""

import numpy as np
import torch
from scipy.sparse import bsr_matrix
from torch import Tensor, nn

from molkit.ofdft.attention import EMPTY, AttentionNetwork, EquivariantQuadratic, PairBias, turn
from molkit.ofdft.channels import CENTRES, ELEMENTS, Neighbourhood, radial_values
from molkit.ofdft.edges import Edges
from molkit.ofdft.local_frames import (
    FRAME_CUTOFF,
    Layout,
    axis_frames,
    candidate_frames,
    neighbour_weights,
    shell_rotations,
)

BLOCK_EDGES = 2048  # of the quadratic form, at a time
BLOCK_ATOMS = 128  # rows of the attention's bias, at a time


class LocalAttention:
    """R(z) of one molecule and its derivative, float64; z [A K]."""

    def __init__(self, network: AttentionNetwork, place: Neighbourhood) -> None:
        self.network, self.count = network, len(place.elements)
        self.elements = torch.from_numpy(place.elements)
        self.root, self.linear = quadratic_matrix(network.quadratic, place)
        self.back = self.root.T.tobsr(self.root.blocksize)
        with torch.no_grad():
            self.bias = attention_bias(network.pairs, network.bias, place)
            self._prepare_axes(place.edges.within(FRAME_CUTOFF))
            self._prepare_frames(place)

    def __call__(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """R in hartree, and its derivative [A K]."""
        y = self.root @ z
        value, slope = 0.5 * float(y @ y) + float(self.linear @ z), self.back @ y + self.linear
        with torch.enable_grad():
            variable = torch.from_numpy(np.array(z, dtype=np.float64)).requires_grad_(True)
            learned = self._learned(variable.reshape(self.count, -1))
            (found,) = torch.autograd.grad(learned, variable)
        return value + float(learned.detach()), slope + found.numpy()

    def _learned(self, z: Tensor) -> Tensor:
        network = self.network
        features = (self._of_axes(z) + self._of_frames(z))[None]
        for layer in network.layers:
            features = layer(features, self.bias)
        return network.head(features).sum()

    def _prepare_axes(self, edges: Edges) -> None:
        layout, network = self.network.layout, self.network
        self.first, self.second = torch.from_numpy(edges.first), torch.from_numpy(edges.second)
        self.axes = _rotations(layout, axis_frames(edges.directions))
        weights = torch.from_numpy(neighbour_weights(edges.distances))
        total = torch.zeros(self.count, dtype=weights.dtype).index_add(0, self.first, weights)
        self.axis_weights = (weights / (EMPTY + total[self.first]))[:, None]
        ends = self.elements[self.first], self.elements[self.second]
        element = network.element(self.elements)
        self.element = element
        distances = torch.from_numpy(edges.distances)
        gaussians = network.pairs.gaussians(*ends, distances)
        middle = network.axis_in.weight[:, -gaussians.shape[1] :] @ gaussians.T
        self.axis_constant = middle.T + network.axis_in.bias + element[self.first] + element[self.second]

    def _prepare_frames(self, place: Neighbourhood) -> None:
        found = candidate_frames(place.positions)
        self.frame_atom, weight = torch.from_numpy(found.atom), torch.from_numpy(found.weight)
        self.frames = _rotations(self.network.layout, found.axes)
        total = torch.zeros(self.count, dtype=weight.dtype).index_add(0, self.frame_atom, weight)
        self.frame_weights = (weight / (EMPTY + total[self.frame_atom]))[:, None]

    def _of_axes(self, z: Tensor) -> Tensor:
        network = self.network
        ends = [network.along_axis(turn(z[end], self.axes, network.layout)) for end in (self.first, self.second)]
        inputs = torch.cat(ends, dim=-1)
        hidden = nn.functional.gelu(inputs @ network.axis_in.weight[:, : inputs.shape[1]].T + self.axis_constant)
        mixed = torch.zeros_like(self.element).index_add(0, self.first, self.axis_weights * hidden)
        return self.element + network.axis_out(mixed)

    def _of_frames(self, z: Tensor) -> Tensor:
        network = self.network
        turned = network.frame_gate(turn(z[self.frame_atom], self.frames, network.layout))
        mirrored = torch.where(network.orders >= 0, turned, -turned)
        element = self.element[self.frame_atom]
        both = 0.5 * sum(nn.functional.gelu(network.frame_in(part) + element) for part in (turned, mirrored))
        mixed = torch.zeros_like(self.element).index_add(0, self.frame_atom, self.frame_weights * both)
        return network.frame_out(mixed)


def _rotations(layout: Layout, frames: np.ndarray) -> tuple[Tensor, ...]:
    """Of l = 1, 2, ... for frames [n, 3, 3]."""
    return tuple(torch.from_numpy(shell_rotations(momentum, frames)) for momentum in range(1, len(layout.counts)))


def attention_bias(pairs: PairBias, bias: nn.Linear, place: Neighbourhood) -> Tensor:
    """[1, heads, A, A], made in blocks of rows; the diagonal stands at 1 bohr, as in padded molecules."""
    elements, positions = (torch.from_numpy(array) for array in (place.elements, place.positions))
    found = positions.new_empty(1, bias.out_features, len(elements), len(elements))
    for start in range(0, len(elements), BLOCK_ATOMS):
        rows = slice(start, start + BLOCK_ATOMS)
        distances = torch.linalg.vector_norm(positions[rows, None] - positions[None], dim=-1)
        inside = torch.arange(len(distances))
        distances[inside, inside + start] = 1.0
        gaussians = pairs.gaussians(elements[rows, None], elements[None], distances)
        found[0, :, rows] = bias(gaussians).permute(2, 0, 1)
    return found


def quadratic_matrix(quadratic: EquivariantQuadratic, place: Neighbourhood) -> tuple[bsr_matrix, np.ndarray]:
    """B [A K, A K] and c [A K] of the form c.z + |B z|^2 / 2."""
    count, size, layout = len(place.elements), quadratic.layout.size, quadratic.layout
    root = quadratic.root[:, quadratic.channels[:, None], quadratic.channels[None]] * quadratic.same
    diagonal = root[torch.from_numpy(place.elements)].numpy().copy()
    linear = np.zeros((count, size))
    linear[:, : layout.counts[0]] = quadratic.constant[torch.from_numpy(place.elements)].numpy()
    blocks = np.empty((len(place.edges), size, size))
    for start in range(0, len(place.edges), BLOCK_EDGES):
        rows = np.arange(start, min(start + BLOCK_EDGES, len(place.edges)))
        own, blocks[rows], slopes = _edge_blocks(quadratic, place, rows)
        np.add.at(diagonal, place.edges.first[rows], own)
        np.add.at(linear, place.edges.first[rows], slopes)
    first = np.concatenate([np.arange(count), place.edges.first])
    second = np.concatenate([np.arange(count), place.edges.second])
    order = np.lexsort((second, first))
    bounds = np.searchsorted(first[order], np.arange(count + 1))
    data = np.concatenate([diagonal, blocks])[order]
    return bsr_matrix((data, second[order], bounds), shape=(count * size,) * 2), linear.reshape(-1)


@torch.no_grad()
def _edge_blocks(
    quadratic: EquivariantQuadratic, place: Neighbourhood, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What edges add to y of their first atom, by z of the first and by z of the second [n, K, K], and to c [n, K]."""
    layout, edges = quadratic.layout, place.edges
    first, second = place.elements[edges.first[rows]], place.elements[edges.second[rows]]
    radial = torch.from_numpy(radial_values(edges.distances[rows]))
    tables = quadratic.coefficients.reshape(len(ELEMENTS) ** 2, len(CENTRES), -1)
    values = torch.einsum("eg,egc->ec", radial, tables[first * len(ELEMENTS) + second])
    of_own, of_other, slopes = values.split([quadratic.maps.count, quadratic.maps.count, len(quadratic.along)], dim=-1)
    turns = tuple(part[:, None] for part in _rotations(layout, axis_frames(edges.directions[rows])))
    unit = torch.eye(layout.size, dtype=values.dtype)
    turned = turn(unit[None], turns, layout)  # [n, K, K]: of unit channel k, its components along the axis
    found = []
    for coefficients in (of_own, of_other):
        moved = quadratic.maps(coefficients[:, None], turned)
        found.append(turn(moved, turns, layout, back=True).transpose(1, 2).numpy())
    return found[0], found[1], torch.einsum("nka,na->nk", turned[..., quadratic.along], slopes).numpy()
