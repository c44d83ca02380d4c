"""A functional for many compositions: candidate frames, an equivariant quadratic form, attention over all pairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from molkit.errors import InvalidInput
from molkit.ofdft.channels import CENTRES, ELEMENTS, Neighbourhood, radial_values
from molkit.ofdft.integrals import Roots
from molkit.ofdft.local_frames import Layout, candidate_frames, neighbour_weights, shell_rotations

NUM_RADIAL = len(ELEMENTS) ** 2 * len(CENTRES)  # Gaussians of the distance, for each pair of elements apart
EMPTY = 0.05  # weight of no frame and no neighbour at all
GATE_SCALE = 10.0  # of the shrink gate at the beginning


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Size of an attention functional; basis and domain are set by its training data."""

    counts: tuple[int, ...] = (4, 3, 2, 1)  # radial channels of l = 0, 1, 2, 3
    width: int = 48
    num_layers: int = 2
    num_heads: int = 4
    num_gaussians: int = 16
    roots: Roots = "molecule"  # of the overlap: of the whole molecule, or of every atom's block (no cubic step)
    basis: str = ""
    domain: tuple[str, ...] = ()  # kinds of molecules, see `molkit.ofdft.domain`
    most_heavy_atoms: int = 0  # other molecules of the same elements with up to so many are served too
    from_reference: bool = False  # what is learned counts from z = 0, where the reference energy is all

    def __post_init__(self) -> None:
        if not 2 <= len(self.counts) <= 5 or min(self.counts) < 1:
            raise InvalidInput(f"counts are channels of l = 0, 1 and up to 4, each at least 1; got {self.counts}")
        if self.width < 1 or self.num_heads < 1 or self.width % self.num_heads or self.num_layers < 0:
            raise InvalidInput(f"width {self.width} must be a multiple of num_heads {self.num_heads}")
        if self.num_gaussians < 1:
            raise InvalidInput("need at least one Gaussian of distances")
        if self.roots not in get_args(Roots):
            raise InvalidInput(f"roots are {' or '.join(get_args(Roots))}, got {self.roots!r}")

    @property
    def layout(self) -> Layout:
        """Channels of an atom."""
        return Layout(self.counts)


@dataclass(frozen=True, eq=False)
class Surroundings:
    """Geometry of S molecules for the network, padded to A atoms and F frames; K channel components."""

    elements: Tensor  # [S, A] long
    present: Tensor  # [S, A], 1 or 0
    distances: Tensor  # [S, A, A], bohr
    weights: Tensor  # [S, A, A], of neighbours, 0 on the diagonal
    radial: Tensor  # [S, A, A, NUM_RADIAL], 0 on the diagonal and for other elements
    axes: tuple[Tensor, ...]  # for l = 1, 2, ...: [S, A, A, 2 l + 1, 2 l + 1], into the axis frame of a and b
    frame_atom: Tensor  # [S, F] long
    frame_weight: Tensor  # [S, F], 0 for padding
    frames: tuple[Tensor, ...]  # for l = 1, 2, ...: [S, F, 2 l + 1, 2 l + 1]

    def rows(self, index: Tensor) -> "Surroundings":
        """The molecules of these rows."""
        return self._map(lambda part: part[index])

    def to(self, dtype: torch.dtype) -> "Surroundings":
        """Real numbers in another precision."""
        return self._map(lambda part: part.to(dtype) if part.is_floating_point() else part)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Surroundings":
        parts = [getattr(self, name) for name in self.__dataclass_fields__]
        return Surroundings(
            *(tuple(change(entry) for entry in part) if isinstance(part, tuple) else change(part) for part in parts)
        )


def turn(values: Tensor, rotations: Sequence[Tensor], layout: Layout, *, back: bool = False) -> Tensor:
    """Channels [..., K] into frames, or back; rotations are those of l = 1, 2, ..., [..., 2 l + 1, 2 l + 1]."""
    found, start = [values[..., : layout.counts[0]]], layout.counts[0]
    for momentum, count in enumerate(layout.counts[1:], start=1):
        width = 2 * momentum + 1
        part = values[..., start : start + count * width].unflatten(-1, (count, width))
        rotation = rotations[momentum - 1]
        found.append((part @ (rotation if back else rotation.transpose(-1, -2))).flatten(-2))
        start += count * width
    return torch.cat([part.expand(*found[-1].shape[:-1], -1) for part in found], dim=-1)


def surroundings(places: Sequence[Neighbourhood], layout: Layout) -> Surroundings:
    """Padded geometry of molecules, float64."""
    frames = [candidate_frames(place.positions) for place in places]
    s, a, f = len(places), max(len(p.elements) for p in places), max(1, *(len(found.atom) for found in frames), 1)
    widths = [2 * momentum + 1 for momentum in range(1, len(layout.counts))]
    elements, present = np.zeros((s, a), dtype=np.int64), np.zeros((s, a))
    distances, weights = np.ones((s, a, a)), np.zeros((s, a, a))
    radial, axes = np.zeros((s, a, a, NUM_RADIAL)), [np.zeros((s, a, a, w, w)) for w in widths]
    atom, weight, turns = np.zeros((s, f), dtype=np.int64), np.zeros((s, f)), [np.zeros((s, f, w, w)) for w in widths]
    for row, (place, found) in enumerate(zip(places, frames, strict=True)):
        n, off, count = len(place.elements), 1.0 - np.eye(len(place.elements)), len(found.atom)
        elements[row, :n], present[row, :n] = place.elements, 1.0
        distances[row, :n, :n] = place.distances + np.eye(n)
        weights[row, :n, :n] = neighbour_weights(place.distances) * off
        radial[row, :n, :n] = _radial_of_pairs(place)
        atom[row, :count], weight[row, :count] = found.atom, found.weight
        for momentum, (of_axes, of_frames) in enumerate(zip(axes, turns, strict=True), start=1):
            of_axes[row, :n, :n] = shell_rotations(momentum, place.axes.reshape(-1, 3, 3)).reshape(
                n, n, *of_axes.shape[3:]
            )
            of_frames[row, :count] = shell_rotations(momentum, found.axes)
    plain = (elements, present, distances, weights, radial)
    first = [torch.from_numpy(array) for array in plain]
    pairs, single = (tuple(torch.from_numpy(array) for array in arrays) for arrays in (axes, turns))
    return Surroundings(*first, pairs, torch.from_numpy(atom), torch.from_numpy(weight), single)


def _radial_of_pairs(place: Neighbourhood) -> np.ndarray:
    """[A, A, NUM_RADIAL]: radial functions in the columns of the pair's elements."""
    kind = np.eye(len(ELEMENTS))[place.elements]
    radial = radial_values(place.distances) * (1.0 - np.eye(len(kind)))[..., None]
    return np.einsum("ae,bf,abg->abefg", kind, kind, radial).reshape(len(kind), len(kind), -1)


class ShrinkGate(nn.Module):
    """a tanh(b x), elementwise with learned a and b. Source: M-OFDFT's released code, a = 10, b = 0.02 at first.

    Here a b = 1 at first, since channels are scaled already.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((size,), GATE_SCALE))
        self.slope = nn.Parameter(torch.full((size,), 1.0 / GATE_SCALE))

    def forward(self, values: Tensor) -> Tensor:
        """Values [..., size], bounded by the scale."""
        return self.scale * torch.tanh(self.slope * values)


class AxisMaps(nn.Module):
    """Linear maps between channels of two atoms along their axis; they depend on elements and distance.

    Equivariant and mirror symmetric: components of different m do not mix, +m and -m share their coefficients.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        orders = layout.orders
        self.sizes = [int((orders == m).sum()) for m in range(orders.max() + 1)]
        chosen = [np.flatnonzero(orders == 0)]
        for m in range(1, len(self.sizes)):
            chosen += [np.flatnonzero(orders == m), np.flatnonzero(orders == -m)]
        self.register_buffer("order", torch.from_numpy(np.concatenate(chosen)), persistent=False)
        self.register_buffer("back", torch.argsort(self.order), persistent=False)

    @property
    def count(self) -> int:
        """Coefficients of one map."""
        return sum(size**2 for size in self.sizes)

    def forward(self, coefficients: Tensor, values: Tensor) -> Tensor:
        """coefficients [..., count] applied to components along an axis [..., K]."""
        sorted_values, found = values[..., self.order], []
        start = used = 0
        for m, size in enumerate(self.sizes):
            signs = 1 if m == 0 else 2
            block = coefficients[..., used : used + size**2].unflatten(-1, (size, size))
            part = sorted_values[..., start : start + signs * size].unflatten(-1, (signs, size))
            found.append((part @ block.transpose(-1, -2)).flatten(-2))
            start, used = start + signs * size, used + size**2
        return torch.cat(found, dim=-1)[..., self.back]


class EquivariantQuadratic(nn.Module):
    """b . z + |y|^2 / 2 with y_a = L z_a + sum over b of what axis maps make of z_a and z_b; b lies along the axes.

    The square is never negative. All coefficients are linear in Gaussians of the distance, per pair of elements.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout, self.maps = layout, AxisMaps(layout)
        along = np.flatnonzero(layout.orders == 0)
        self.register_buffer("along", torch.from_numpy(along), persistent=False)
        channels, orders = torch.from_numpy(layout.channels), torch.from_numpy(layout.orders)
        momenta = torch.tensor([momentum for momentum, _ in layout.blocks])
        same = (momenta[channels][:, None] == momenta[channels][None]) & (orders[:, None] == orders[None])
        self.register_buffer("same", same.float(), persistent=False)
        self.register_buffer("channels", channels, persistent=False)
        self.root = nn.Parameter(0.7 * torch.eye(len(layout.blocks)).repeat(len(ELEMENTS), 1, 1))
        self.constant = nn.Parameter(torch.zeros(len(ELEMENTS), layout.counts[0]))
        self.coefficients = nn.Parameter(torch.zeros(NUM_RADIAL, 2 * self.maps.count + len(along)))

    def forward(self, z: Tensor, own: Tensor, other: Tensor, around: Surroundings) -> Tensor:
        """z [S, A, K], and along every axis [S, A, A, K] that of either end -> [S]."""
        root = self.root[:, self.channels[:, None], self.channels[None]] * self.same.to(z.dtype)  # [5, K, K]
        y = torch.einsum("sakc,sac->sak", root[around.elements], z)
        values = around.radial @ self.coefficients
        of_own, of_other, slopes = values.split([self.maps.count, self.maps.count, len(self.along)], dim=-1)
        moved = self.maps(of_own, own) + self.maps(of_other, other)
        y = y + turn(moved, around.axes, self.layout, back=True).sum(2)
        linear = (slopes * own[..., self.along]).sum((1, 2, 3))
        spherical = self.constant[around.elements] * z[..., : self.constant.shape[1]]
        return linear + ((0.5 * y.square().sum(-1) + spherical.sum(-1)) * around.present).sum(1)


class PairBias(nn.Module):
    """Gaussians of a d + b with learned centres and widths, a and b of the two elements. Source: Graphormer-3D."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.multiply = nn.Parameter(torch.ones(len(ELEMENTS), len(ELEMENTS)))
        self.add = nn.Parameter(torch.zeros(len(ELEMENTS), len(ELEMENTS)))
        self.centres = nn.Parameter(torch.linspace(0.0, 10.0, count))
        self.widths = nn.Parameter(torch.full((count,), 10.0 / count))

    def forward(self, around: Surroundings) -> Tensor:
        """[S, A, A, count]."""
        return self.gaussians(around.elements[:, :, None], around.elements[:, None, :], around.distances)

    def gaussians(self, first: Tensor, second: Tensor, distances: Tensor) -> Tensor:
        """Of pairs of elements at distances [...]; [..., count]."""
        moved = self.multiply[first, second] * distances + self.add[first, second]
        return torch.exp(-0.5 * ((moved[..., None] - self.centres) / self.widths) ** 2)


class AttentionLayer(nn.Module):
    """Pre-norm attention of all atoms to all, biased by distance, and a two-layer network."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.network = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, features: Tensor, bias: Tensor) -> Tensor:
        """features [S, A, width], bias [S, heads, A, A] with -inf where nobody is."""
        s, a, width = features.shape
        parts = self.project(self.before(features)).reshape(s, a, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = parts
        scores = query @ key.transpose(-1, -2) / key.shape[-1] ** 0.5 + bias
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(s, a, width)
        features = features + self.out(mixed)
        return features + self.network(self.between(features))


class AttentionNetwork(nn.Module):
    """R(z, geometry) of any molecule of H, C, N, O, F, hartree: slope, quadratic form, and attention.

    Invariant under rotation, mirror images included, and under renaming of atoms; smooth where frames come and go.
    """

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        layout, width = config.layout, config.width
        along = int((layout.orders == 0).sum())
        self.layout, self.quadratic = layout, EquivariantQuadratic(layout)
        self.register_buffer("orders", torch.from_numpy(layout.orders), persistent=False)
        channels = layout.channels + 100 * np.abs(layout.orders)
        groups = np.unique(channels[layout.orders != 0], return_inverse=True)[1]
        self.register_buffer("off_axis", torch.from_numpy(np.flatnonzero(layout.orders != 0)), persistent=False)
        self.register_buffer("groups", torch.from_numpy(np.eye(groups.max() + 1)[groups]).float(), persistent=False)
        self.axis_gate, self.frame_gate = ShrinkGate(along + self.groups.shape[1]), ShrinkGate(layout.size)
        self.element = nn.Embedding(len(ELEMENTS), width)
        inputs = 2 * (along + self.groups.shape[1]) + config.num_gaussians
        self.axis_in = nn.Linear(inputs, width)
        self.axis_out = nn.Linear(width, width)
        self.frame_in, self.frame_out = nn.Linear(layout.size, width), nn.Linear(width, width)
        self.pairs = PairBias(config.num_gaussians)
        self.bias = nn.Linear(config.num_gaussians, config.num_heads)
        self.layers = nn.ModuleList(AttentionLayer(width, config.num_heads) for _ in range(config.num_layers))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        nn.init.zeros_(self.head[-1].weight)
        nn.init.zeros_(self.head[-1].bias)

    def forward(self, z: Tensor, around: Surroundings) -> Tensor:
        """z [S, A, K] -> R [S]."""
        gaussians = self.pairs(around)
        own, other = (turn(end, around.axes, self.layout) for end in (z[:, :, None], z[:, None, :]))
        features = self._of_axes(own, other, gaussians, around) + self._of_frames(z, around)
        missing = torch.where(around.present > 0, 0.0, -torch.inf).to(z.dtype)[:, None, None, :]
        bias = self.bias(gaussians).permute(0, 3, 1, 2) + missing
        for layer in self.layers:
            features = layer(features, bias)
        learned = (self.head(features)[..., 0] * around.present).sum(1)
        return learned + self.quadratic(z, own, other, around)

    def _of_axes(self, own: Tensor, other: Tensor, gaussians: Tensor, around: Surroundings) -> Tensor:
        """Atoms from their element and their axes, [S, A, width]."""
        element = self.element(around.elements)
        inputs = torch.cat([self.along_axis(own), self.along_axis(other), gaussians], dim=-1)
        hidden = self.axis_in(inputs) + element[:, :, None]
        hidden = nn.functional.gelu(hidden + element[:, None, :])
        weights = around.weights / (EMPTY + around.weights.sum(2, keepdim=True))
        return element + self.axis_out(torch.einsum("sab,sabw->saw", weights, hidden))

    def _of_frames(self, z: Tensor, around: Surroundings) -> Tensor:
        """Atoms from their candidate frames, averaged with their weights, [S, A, width]."""
        element = self.element(around.elements)
        atom = around.frame_atom[..., None]
        of_frames = torch.gather(z, 1, atom.expand(-1, -1, z.shape[-1]))
        turned = self.frame_gate(turn(of_frames, around.frames, self.layout))
        elements = torch.gather(element, 1, atom.expand(-1, -1, element.shape[-1]))
        mirrored = torch.where(self.orders >= 0, turned, -turned)  # the frame's y points either way
        both = nn.functional.gelu(self.frame_in(turned) + elements)
        both = 0.5 * (both + nn.functional.gelu(self.frame_in(mirrored) + elements))
        total = torch.zeros_like(element[..., 0]).scatter_add(1, around.frame_atom, around.frame_weight)
        weight = around.frame_weight / (EMPTY + torch.gather(total, 1, around.frame_atom))
        rows = atom.expand(-1, -1, element.shape[-1])
        return self.frame_out(torch.zeros_like(element).scatter_add(1, rows, weight[..., None] * both))

    def along_axis(self, turned: Tensor) -> Tensor:
        """What rotations about the axis leave alone: components with m = 0, squared norms of the others."""
        squares = turned[..., self.off_axis].square() @ self.groups
        return self.axis_gate(torch.cat([turned[..., self.orders == 0], squares], dim=-1))
