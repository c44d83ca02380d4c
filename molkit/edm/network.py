"""The E(3)-equivariant noise predictor on real directed edges, its first edge layer split into per-atom parts.

Beside it the baseline without symmetry, GDM: plain message passing that takes positions as three more features
(EDM, ablations; GDM-aug is the same network trained on randomly turned molecules).

Preconditioned: the inner network sees inputs, and is asked for outputs, of unit size at every noise level.

After Karras et al. 2022 (EDM of images, section 5) and VEDA (arXiv 2511.09568), in the mixed space of positions and
types; a named extension: the paper's network predicts the noise itself.
"""

import math
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from molkit.edm.config import EdmConfig
from molkit.edm.features import State, channel_spreads, encode
from molkit.edm.schedule import alpha, log_snr_table
from molkit.errors import InvalidInput
from molkit.graphs import Graph, remove_mean
from molkit.molecule import PackedMolecules

SINE_FREQUENCIES = tuple(2.0 * math.pi * 4.0**k / 15.0 for k in range(6))


def sine_embedding(squared_distance: Tensor) -> Tensor:
    """[E, 1] squared distances -> [E, 12] sines and cosines of the distance; no gradient flows through.

    Source: EDM reference code, option `sin_embedding`.
    """
    frequencies = squared_distance.new_tensor(SINE_FREQUENCIES)
    phase = torch.sqrt(squared_distance.detach() + 1e-8) * frequencies
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


def small_linear(inputs: Tensor, layer: nn.Linear) -> Tensor:
    """The layer on inputs [A, K] with few columns, as products and a sum.

    Autocast leaves it in float32: the time column would lose half of its 1,001 values in bfloat16.
    """
    out = (inputs.unsqueeze(-2) * layer.weight).sum(-1)
    return out if layer.bias is None else out + layer.bias


class PairMlp(nn.Module):
    """Two layers on [receiver, sender, edge] features, SiLU after each: Linear(2F + K, F), SiLU, Linear(F, F), SiLU.

    The first Linear on the concatenation equals a receiver, a sender and an edge part; the atom parts cost A rows
    of arithmetic instead of E. Source: EDM, equation of phi_e and phi_x; the split is exact algebra.
    """

    def __init__(self, width: int, num_edge_features: int) -> None:
        super().__init__()
        self.width = width
        self.first = nn.Linear(2 * width + num_edge_features, width)
        self.second = nn.Linear(width, width)

    def atom_parts(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features [A, F] -> the receiver part (with the bias) and the sender part, both [A, F]."""
        weight = self.first.weight
        receiver = linear(features, weight[:, : self.width], self.first.bias)
        return receiver, linear(features, weight[:, self.width : 2 * self.width])

    def forward(self, features: Tensor, edge_index: Tensor, edge_features: Tensor) -> Tensor:
        """features [A, F], edge_index [2, E], edge_features [E, K] -> [E, F].

        The sum is made in place, in the precision of the distances: in-place products are left alone by autocast.
        """
        receiver, sender = (part.to(edge_features.dtype) for part in self.atom_parts(features))
        hidden = receiver.index_select(0, edge_index[0]).add_(sender.index_select(0, edge_index[1]))
        hidden.addmm_(edge_features, self.first.weight[:, 2 * self.width :].t())
        return silu(self.second(silu(hidden)))


class MessageLayer(nn.Module):
    """h_i <- h_i + MLP_h([h_i, sum_j gate_ij m_ij]), the gate a scalar per edge. Source: EDM, EGNN layer."""

    def __init__(self, config: EdmConfig, num_edge_features: int) -> None:
        super().__init__()
        self.pair = PairMlp(config.width, num_edge_features)
        self.gate = nn.Linear(config.width, 1) if config.attention else None
        self.update = nn.Sequential(
            nn.Linear(2 * config.width, config.width), nn.SiLU(), nn.Linear(config.width, config.width)
        )

    def pool(self, features: Tensor, edge_index: Tensor, edge_features: Tensor) -> Tensor:
        """Sum over senders of the gated messages, [A, F]."""
        message = self.pair(features, edge_index, edge_features)
        if self.gate is not None:
            message = message * torch.sigmoid(self.gate(message))
        return torch.zeros_like(features).index_add(0, edge_index[0], message.to(features.dtype))

    def forward(self, features: Tensor, edge_index: Tensor, edge_features: Tensor, scale: Tensor | float) -> Tensor:
        """features [A, F] -> [A, F]; `scale` divides the pooled messages (a number, or [A, 1])."""
        pooled = self.pool(features, edge_index, edge_features) / scale
        return features + self.update(torch.cat([features, pooled], dim=-1))


class CoordinateLayer(nn.Module):
    """Step length of every pair from the current features: range * tanh(w . m_ij). Source: EDM, EGNN layer."""

    def __init__(self, config: EdmConfig, num_edge_features: int) -> None:
        super().__init__()
        self.pair = PairMlp(config.width, num_edge_features)
        self.length = nn.Linear(config.width, 1, bias=False)
        nn.init.xavier_uniform_(self.length.weight, gain=0.001)
        self.step_range = config.step_range if config.bounded_steps else None

    def raw_length(self, features: Tensor, edge_index: Tensor, edge_features: Tensor) -> Tensor:
        """w . m_ij for every edge, [E, 1]."""
        return self.length(self.pair(features, edge_index, edge_features))

    def forward(self, features: Tensor, edge_index: Tensor, edge_features: Tensor) -> Tensor:
        """Step length along x_i - x_j of every edge, [E, 1]."""
        length = self.raw_length(features, edge_index, edge_features).to(edge_features.dtype)
        return length if self.step_range is None else torch.tanh(length) * self.step_range


class EquivariantBlock(nn.Module):
    """Message layers on fixed geometry, then one move of the coordinates. Source: EDM, EGNN."""

    def __init__(self, config: EdmConfig) -> None:
        super().__init__()
        self.sine = config.sine_embedding
        num_edge_features = 2 * (2 * len(SINE_FREQUENCIES)) if self.sine else 2
        self.norm_constant = config.norm_constant
        self.messages = nn.ModuleList(
            [MessageLayer(config, num_edge_features) for _ in range(config.message_sublayers)]
        )
        self.coordinates = CoordinateLayer(config, num_edge_features)

    def edge_features(self, squared: Tensor, first_squared: Tensor) -> Tensor:
        """Current and first squared distance, plain [E, 2] or in sines and cosines [E, 24]."""
        if not self.sine:
            return torch.cat([squared, first_squared], dim=-1)
        return torch.cat([sine_embedding(squared), sine_embedding(first_squared)], dim=-1)

    def forward(
        self, features: Tensor, positions: Tensor, edge_index: Tensor, first_squared: Tensor, scale: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """features [A, F], positions [A, 3], first_squared [E, 1] -> new features and positions."""
        displacement = positions[edge_index[0]] - positions[edge_index[1]]
        squared = displacement.square().sum(-1, keepdim=True)
        edge_features = self.edge_features(squared, first_squared)
        for layer in self.messages:
            features = layer(features, edge_index, edge_features, scale)
        direction = displacement / (torch.sqrt(squared + 1e-8) + self.norm_constant)
        step = direction * self.coordinates(features, edge_index, edge_features)
        move = torch.zeros_like(positions).index_add(0, edge_index[0], step)
        return features, positions + move / scale


def pool_scale(config: EdmConfig, positions: Tensor, edge_index: Tensor) -> Tensor | float:
    """What pooled messages are divided by: a constant, or the number of neighbours M - 1, [A, 1]."""
    if config.aggregation == "sum":
        return config.message_scale
    degree = torch.bincount(edge_index[0], minlength=len(positions)).clamp(min=1)
    return degree.to(positions.dtype).unsqueeze(-1)


class EdmNetwork(nn.Module):
    """Predicts the noise in positions (as a zero-mean velocity) and in features. Source: EDM, section on the EGNN.

    E(3)-equivariant, reflections included: it cannot tell mirror images apart. The inputs are the noisy features,
    the time t = step / T and optional context columns; distances and t stay in the dtype they come in.
    """

    outer_layers = ("embed", "read_out")  # between data and hidden features; an optimiser may treat them apart

    def __init__(self, config: EdmConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.num_columns, config.width)
        self.blocks = nn.ModuleList([EquivariantBlock(config) for _ in range(config.num_layers)])
        self.read_out = nn.Linear(config.width, config.num_columns)

    def run_block(
        self,
        block: EquivariantBlock,
        features: Tensor,
        positions: Tensor,
        edge_index: Tensor,
        first_squared: Tensor,
        scale: Tensor | float,
    ) -> tuple[Tensor, Tensor]:
        """One block on features [A, F] and positions [A, 3]; `molkit.edm.engine` replaces this step."""
        return block(features, positions, edge_index, first_squared, scale)

    def forward(
        self,
        features: Tensor,
        positions: Tensor,
        t: Tensor,
        edge_index: Tensor,
        batch: Tensor,
        num_molecules: int,
        context: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """features [A, n_h], positions [A, 3], t [A, 1], edge_index [2, E], batch [A], context [A, C] or None.

        Returns the noise in positions [A, 3], mean removed per molecule, and in features [A, n_h].
        """
        columns = torch.cat([features, t] if context is None else [features, t, context], dim=-1)
        hidden = small_linear(columns, self.embed)
        scale = pool_scale(self.config, positions, edge_index)
        moved = positions
        first_squared = (positions[edge_index[0]] - positions[edge_index[1]]).square().sum(-1, keepdim=True)
        for block in self.blocks:
            hidden, moved = self.run_block(block, hidden, moved, edge_index, first_squared, scale)
        noise_features = self.read_out(hidden)[:, : self.config.num_features]
        return remove_mean(moved - positions, batch, num_molecules), noise_features.to(features.dtype)


class GdmNetwork(nn.Module):
    """Predicts the noise from [x, h, t, context] of the atoms; messages see both atoms but no distance.

    Equivariant under permutations of atoms only. Inputs and outputs are those of `EdmNetwork`; the first three columns
    of the read-out are the noise in the positions, their mean removed per molecule.
    """

    def __init__(self, config: EdmConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(3 + config.num_columns, config.width)
        self.layers = nn.ModuleList(
            [MessageLayer(config, 0) for _ in range(config.num_layers * config.message_sublayers)]
        )
        self.read_out = nn.Linear(config.width, 3 + config.num_columns)

    def run_layer(
        self, layer: MessageLayer, hidden: Tensor, positions: Tensor, edge_index: Tensor, scale: Tensor | float
    ) -> Tensor:
        """One layer on hidden features [A, F]; `molkit.edm.engine` replaces this step."""
        nothing = positions.new_zeros(edge_index.shape[1], 0)
        return layer(hidden, edge_index, nothing, scale)

    def forward(
        self,
        features: Tensor,
        positions: Tensor,
        t: Tensor,
        edge_index: Tensor,
        batch: Tensor,
        num_molecules: int,
        context: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """features [A, n_h], positions [A, 3], t [A, 1], edge_index [2, E], batch [A], context [A, C] or None.

        Returns the noise in positions [A, 3], mean removed per molecule, and in features [A, n_h].
        """
        columns = [positions, features, t] if context is None else [positions, features, t, context]
        hidden = small_linear(torch.cat(columns, dim=-1), self.embed)
        scale = pool_scale(self.config, positions, edge_index)
        for layer in self.layers:
            hidden = self.run_layer(layer, hidden, positions, edge_index, scale)
        noise = self.read_out(hidden)[:, : 3 + self.config.num_features].to(features.dtype)
        return remove_mean(noise[:, :3], batch, num_molecules), noise[:, 3:]


LEVEL_SCALE = 4.0  # the inner network's time column is ln(sigma / alpha) / 4


def standardised(config: EdmConfig, molecules: PackedMolecules) -> EdmConfig:
    """The configuration with the training molecules' means and spreads, where it asks for them and has none yet.

    Spreads: of centred positions, of the type channels (one for all), of the atomic number; all in scaled units.
    Raises InvalidInput for molecules whose channels are all alike, which leaves nothing to divide by.
    """
    if config.parametrisation != "preconditioned" or config.spreads:
        return config
    clean = encode(config, torch.from_numpy(molecules.atomic_numbers), torch.from_numpy(molecules.positions).double())
    positions = Graph.without_edges(torch.from_numpy(molecules.num_atoms), "cpu").centre(clean.positions)
    means = clean.features.mean(0)
    variances = (clean.features - means).square().mean(0)
    spreads = [positions.square().mean(), variances[: config.num_types].mean(), *variances[config.num_types :]]
    if min(spreads) <= 0.0:
        raise InvalidInput("a preconditioned model needs training molecules of different elements and places")
    return replace(
        config,
        feature_means=tuple(round(float(mean), 6) for mean in means),
        spreads=tuple(round(float(spread) ** 0.5, 6) for spread in spreads),
    )


class PreconditionedNetwork(nn.Module):
    """Noise from an inner network's F, for clean states y and y~ = noisy / alpha_t = y + sigma eps.

    With sigma = sigma_t / alpha_t, means mu, spreads s of the training data and q^2 = sigma^2 + s^2, the clean state is
    D = mu + (s / q)^2 (y~ - mu) + (sigma s / q) F, so the noise (y~ - D) / sigma = (y~ - mu) sigma / q^2 - (s / q) F.
    The inner network sees features (y~ - mu) / q, positions y~ s / q (angstroms at low noise) and ln(sigma) / 4.
    Source: Karras et al. 2022, table 1, per channel.
    """

    outer_layers: ClassVar[tuple[str, ...]] = ("inner.embed", "inner.read_out")
    log_snr: Tensor
    means: Tensor
    scales: Tensor

    def __init__(self, inner: EdmNetwork | GdmNetwork) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config
        means = torch.tensor((0.0, 0.0, 0.0, *self.config.feature_means), dtype=torch.float64)
        for name, value in (("log_snr", log_snr_table(self.config)), ("means", means)):
            self.register_buffer(name, value, persistent=False)
        self.register_buffer("scales", channel_spreads(self.config), persistent=False)

    @property
    def precision(self) -> str | None:
        """Of the inner network's matrix products, where it sets its own."""
        return getattr(self.inner, "precision", None)

    @property
    def planner(self) -> object:
        """Of an inner network on size buckets; None otherwise."""
        return getattr(self.inner, "planner", None)

    def forward(
        self,
        features: Tensor,
        positions: Tensor,
        t: Tensor,
        edge_index: Tensor,
        batch: Tensor,
        num_molecules: int,
        context: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As EdmNetwork.forward: noisy features [A, n_h], positions [A, 3] and t [A, 1] in, both noises out."""
        log_snr = self.log_snr[(t.squeeze(-1) * self.config.num_steps).round().long()].unsqueeze(-1)
        level = torch.exp(-0.5 * log_snr)
        spread = torch.sqrt(level.square() + self.scales.square())  # q [A, 3 + n_h]
        scaled = torch.cat([positions, features], dim=-1) / alpha(log_snr) - self.means
        seen = State(scaled[:, :3] * (self.scales / spread)[:, :3], (scaled / spread)[:, 3:])
        seen = seen.map(lambda part: part.to(positions.dtype))
        time = (level.log() / LEVEL_SCALE).to(positions.dtype)
        extra = () if context is None else (context,)
        moved, marks = self.inner(seen.features, seen.positions, time, edge_index, batch, num_molecules, *extra)
        residual = torch.cat([moved, marks.to(moved.dtype)], dim=-1)
        noise = scaled * level / spread.square() - self.scales / spread * residual
        places = remove_mean(noise[:, :3], batch, num_molecules)  # wherever the molecule lies
        return places.to(positions.dtype), noise[:, 3:].to(features.dtype)
