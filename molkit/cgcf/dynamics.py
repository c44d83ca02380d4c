"""The velocity of distances: a message-passing network on the extended graph whose layers see the time.

Every function works on values alone, or on values and a direction at once: the directional derivative of the velocity
is carried forward through the layers by the chain rule, so that traces need no second pass of differentiation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize, softplus

from molkit.cgcf.config import FlowConfig
from molkit.cgcf.graph import PairGraph

Dual = tuple[Tensor, Tensor | None]  # a value and its derivative in a direction (None where nobody asks)


class ConcatSquash(nn.Module):
    """(W x + b) * sigmoid(w_g t + b_g) + w_b t: a linear map gated and shifted by the time.

    With spectral norm W is divided by its largest singular value, w_g and w_b by their lengths. The singular vectors
    are followed by one power iteration at each preparation in training mode.
    Source: CGCF reference code, squash layers; Grathwohl et al., FFJORD (arXiv 1810.01367).
    """

    def __init__(self, num_inputs: int, num_outputs: int, *, spectral_norm: bool) -> None:
        super().__init__()
        self.map = nn.Linear(num_inputs, num_outputs)
        self.gate = nn.Linear(1, num_outputs)
        self.shift = nn.Linear(1, num_outputs, bias=False)
        self.spectral_norm = spectral_norm
        self.register_buffer("left", normalize(torch.randn(num_outputs), dim=0))
        self.register_buffer("right", normalize(torch.randn(num_inputs), dim=0))
        self.follow_singular_vectors(15)

    @torch.no_grad()
    def follow_singular_vectors(self, iterations: int) -> None:
        """Power iterations on W."""
        for _ in range(iterations):
            self.right = normalize(self.map.weight.T @ self.left, dim=0)
            self.left = normalize(self.map.weight @ self.right, dim=0)

    def prepare(self) -> "Prepared":
        """The tensors of one solve: weights normalised once, not in every evaluation."""
        weight, gate, shift = self.map.weight, self.gate.weight[:, 0], self.shift.weight[:, 0]
        if self.spectral_norm:
            if self.training:
                self.follow_singular_vectors(1)
            # Clones: a later iteration must not change what this solve differentiates through.
            weight = weight / torch.dot(self.left.clone(), weight @ self.right.clone())
            gate, shift = gate / gate.norm(), shift / shift.norm()
        return Prepared(weight, self.map.bias, gate, self.gate.bias, shift)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A concat-squash layer ready for evaluation."""

    weight: Tensor
    bias: Tensor
    gate_weight: Tensor
    gate_bias: Tensor
    shift_weight: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        """All five, for solvers that must know what a field depends on."""
        return self.weight, self.bias, self.gate_weight, self.gate_bias, self.shift_weight

    def __call__(self, x: Dual, t: Tensor, rows: Tensor | None) -> Dual:
        """x [..., N, in] at time t: one number, or [B] with rows [N] saying which molecule a row belongs to."""
        t = t.unsqueeze(-1)
        gate, shift = torch.sigmoid(self.gate_weight * t + self.gate_bias), self.shift_weight * t
        if rows is not None:
            gate, shift = gate[rows], shift[rows]
        value, direction = x
        return (
            torch.addcmul(shift, linear(value, self.weight, self.bias), gate),
            None if direction is None else linear(direction, self.weight) * gate,
        )


def squashed(x: Dual) -> Dual:
    """softplus, and its derivative in the direction."""
    value, direction = x
    return softplus(value), None if direction is None else torch.sigmoid(value) * direction


class Dynamics(nn.Module):
    """d(distances)/dt on an extended graph; weights only, `on(graph)` gives the function.

    Three message-passing layers of GINE form over embeddings of elements, with pair features made of the distance and
    the type, and a symmetric read-out per pair. Source: CGCF reference code.
    """

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        width, norm = config.width, config.spectral_norm

        def stack(*sizes: int) -> nn.ModuleList:
            layers = zip(sizes[:-1], sizes[1:], strict=True)
            return nn.ModuleList(ConcatSquash(i, o, spectral_norm=norm) for i, o in layers)

        self.elements = nn.Embedding(config.table_rows, width)
        self.pair_types = nn.Embedding(config.table_rows, width)
        self.pair_layers = stack(1, width, width)
        self.message_layers = nn.ModuleList(stack(width, width, width) for _ in range(config.num_layers))
        self.read_out = stack(2 * width, width, width // 2, 1)

    def on(self, graph: PairGraph) -> "Field":
        """The velocity as a function of time and distances on these molecules."""
        return Field(
            graph,
            self.elements(graph.atomic_numbers),
            self.pair_types(graph.types),
            [layer.prepare() for layer in self.pair_layers],
            [[layer.prepare() for layer in block] for block in self.message_layers],
            [layer.prepare() for layer in self.read_out],
        )


@dataclass(frozen=True, eq=False)
class Field:
    """The velocity of the distances of given molecules, with everything that does not depend on time computed once."""

    graph: PairGraph
    atoms: Tensor  # [A, F]
    types: Tensor  # [P, F]
    pair_layers: Sequence[Prepared]
    message_layers: Sequence[Sequence[Prepared]]
    read_out: Sequence[Prepared]

    def tensors(self) -> tuple[Tensor, ...]:
        """Everything the velocity depends on but time and distances."""
        layers = [*self.pair_layers, *(layer for block in self.message_layers for layer in block), *self.read_out]
        return self.atoms, self.types, *(tensor for layer in layers for tensor in layer.tensors())

    def velocity(self, t: Tensor, distances: Tensor) -> Tensor:
        """Velocity [..., P] at distances [..., P]; t is one number, or [B] for a time of each molecule."""
        return self.dual(t, distances, None)[0]

    def dual(self, t: Tensor, distances: Tensor, direction: Tensor | None) -> Dual:
        """Velocity [P] and its derivative [..., P] in a direction [..., P] of the distances."""
        pair_rows, atom_rows = (None, None) if t.dim() == 0 else (self.graph.pair_batch, self.graph.batch)
        pairs = self.pair_features((distances, direction), t, pair_rows)
        atoms = self.messages(pairs, t, atom_rows)
        out = self.joined(atoms, pairs)
        for layer in self.read_out[:-1]:
            out = squashed(layer(out, t, pair_rows))
        value, slope = self.read_out[-1](out, t, pair_rows)
        return value.squeeze(-1), None if slope is None else slope.squeeze(-1)

    def pair_features(self, distances: Dual, t: Tensor, rows: Tensor | None) -> Dual:
        """Features [..., P, F] of the pairs from distances and types."""
        value, slope = (None if part is None else part.unsqueeze(-1) for part in distances)
        hidden = squashed(self.pair_layers[0]((value, slope), t, rows))
        value, slope = self.pair_layers[1](hidden, t, rows)
        return value * self.types, None if slope is None else slope * self.types

    def messages(self, pairs: Dual, t: Tensor, rows: Tensor | None) -> Dual:
        """Features [..., A, F] of the atoms after all message-passing layers."""
        senders, receivers = self.graph.routes
        edges = tuple(None if x is None else torch.cat([x, x], -2) for x in pairs)
        value, slope = self.atoms, None
        for number, (first, second) in enumerate(self.message_layers):
            sent = edges[0] + value.index_select(-2, senders)
            moved = edges[1] if slope is None else edges[1] + slope.index_select(-2, senders)
            message = squashed((sent, moved))
            pooled = _pooled(message[0], receivers, value)
            change = None if message[1] is None else _pooled(message[1], receivers, slope, like=value)
            value, slope = second(squashed(first((pooled, change), t, rows)), t, rows)
            if number + 1 < len(self.message_layers):
                value, slope = squashed((value, slope))
        return value, slope

    def joined(self, atoms: Dual, pairs: Dual) -> Dual:
        """[h_u * h_v ; e_uv] of every pair, [..., P, 2F]."""
        left, right = (atoms[0].index_select(-2, end) for end in self.graph.pairs)
        value = torch.cat([left * right, pairs[0]], -1)
        if pairs[1] is None:
            return value, None
        moved = [atoms[1].index_select(-2, end) for end in self.graph.pairs]
        return value, torch.cat([left * moved[1] + right * moved[0], pairs[1]], -1)


def _pooled(messages: Tensor, receivers: Tensor, own: Tensor | None, *, like: Tensor | None = None) -> Tensor:
    """The sum of messages [..., E, F] at their receivers plus the atoms' own features, [..., A, F]."""
    num_atoms = (own if own is not None else like).shape[-2]
    if own is None:
        base = messages.new_zeros(*messages.shape[:-2], num_atoms, messages.shape[-1])
    else:
        base = own.expand(*messages.shape[:-2], num_atoms, messages.shape[-1])
    return base.index_add(-2, receivers, messages)
