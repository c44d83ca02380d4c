"""The EDM noise predictor in its plainest form: padded molecules, all N x N pairs, masks, concatenated pair inputs.

It is the yardstick of `molkit bench edm`, with the parameters (and their names) of `molkit.edm.network.EdmNetwork`,
and is written to be obvious, not quick.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from molkit.edm.config import EdmConfig
from molkit.errors import InvalidInput


class PaddedPairMlp(nn.Module):
    """Linear(2F + 2, F), SiLU, Linear(F, F), SiLU on [receiver, sender, squared distances] of every pair."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(2 * width + 2, width)
        self.second = nn.Linear(width, width)

    def forward(self, features: Tensor, pair_features: Tensor) -> Tensor:
        """features [B, N, F], pair_features [B, N, N, 2] -> [B, N, N, F]."""
        molecules, atoms, width = features.shape
        receiver = features[:, :, None].expand(molecules, atoms, atoms, width)
        sender = features[:, None].expand(molecules, atoms, atoms, width)
        return silu(self.second(silu(self.first(torch.cat([receiver, sender, pair_features], dim=-1)))))


class PaddedMessageLayer(nn.Module):
    """h_i <- h_i + MLP_h([h_i, sum_j gate_ij m_ij]). Source: EDM, EGNN layer."""

    def __init__(self, config: EdmConfig) -> None:
        super().__init__()
        self.pair = PaddedPairMlp(config.width)
        self.gate = nn.Linear(config.width, 1) if config.attention else None
        self.update = nn.Sequential(
            nn.Linear(2 * config.width, config.width), nn.SiLU(), nn.Linear(config.width, config.width)
        )

    def forward(
        self, features: Tensor, pair_features: Tensor, atom_mask: Tensor, pair_mask: Tensor, scale: Tensor | float
    ) -> Tensor:
        """features [B, N, F] -> [B, N, F]; atom_mask [B, N, 1], pair_mask [B, N, N, 1]."""
        message = self.pair(features, pair_features)
        if self.gate is not None:
            message = message * torch.sigmoid(self.gate(message))
        pooled = (message * pair_mask).sum(dim=2) / scale
        return (features + self.update(torch.cat([features, pooled], dim=-1))) * atom_mask


class PaddedCoordinateLayer(nn.Module):
    """Step length of every pair. Source: EDM, EGNN layer."""

    def __init__(self, config: EdmConfig) -> None:
        super().__init__()
        self.pair = PaddedPairMlp(config.width)
        self.length = nn.Linear(config.width, 1, bias=False)
        self.step_range = config.step_range if config.bounded_steps else None

    def forward(self, features: Tensor, pair_features: Tensor) -> Tensor:
        """Step length along x_i - x_j, [B, N, N, 1]."""
        length = self.length(self.pair(features, pair_features))
        return length if self.step_range is None else torch.tanh(length) * self.step_range


class PaddedBlock(nn.Module):
    """Message layers on fixed geometry, then one move of the coordinates. Source: EDM, EGNN."""

    def __init__(self, config: EdmConfig) -> None:
        super().__init__()
        self.norm_constant = config.norm_constant
        self.messages = nn.ModuleList([PaddedMessageLayer(config) for _ in range(config.message_sublayers)])
        self.coordinates = PaddedCoordinateLayer(config)

    def forward(
        self,
        features: Tensor,
        positions: Tensor,
        first_squared: Tensor,
        atom_mask: Tensor,
        pair_mask: Tensor,
        scale: Tensor | float,
    ) -> tuple[Tensor, Tensor]:
        """features [B, N, F], positions [B, N, 3], first_squared [B, N, N, 1] -> new features and positions."""
        displacement, squared = pair_geometry(positions)
        pair_features = torch.cat([squared, first_squared], dim=-1)
        for layer in self.messages:
            features = layer(features, pair_features, atom_mask, pair_mask, scale)
        direction = displacement / (torch.sqrt(squared + 1e-8) + self.norm_constant)
        step = direction * self.coordinates(features, pair_features) * pair_mask
        return features, (positions + step.sum(dim=2) / scale) * atom_mask


def pair_geometry(positions: Tensor) -> tuple[Tensor, Tensor]:
    """x_i - x_j [B, N, N, 3] and its squared length [B, N, N, 1] for positions [B, N, 3]."""
    displacement = positions[:, :, None] - positions[:, None]
    return displacement, displacement.square().sum(-1, keepdim=True)


class PaddedEdmNetwork(nn.Module):
    """The padded network behind the signature of EdmNetwork, so that the same loss and the same weights fit both.

    `padded_size` is the number of places N of every molecule; None pads to the largest molecule of the batch.
    Raises InvalidInput for the sine embedding and for context columns, which it lacks.
    """

    def __init__(self, config: EdmConfig, *, padded_size: int | None = None) -> None:
        super().__init__()
        if config.sine_embedding or config.num_context:
            raise InvalidInput("the padded benchmark network takes no sine embedding and no context columns")
        self.config, self.padded_size = config, padded_size
        num_columns = config.num_features + 1
        self.embed = nn.Linear(num_columns, config.width)
        self.blocks = nn.ModuleList([PaddedBlock(config) for _ in range(config.num_layers)])
        self.read_out = nn.Linear(config.width, num_columns)

    def forward(
        self,
        features: Tensor,
        positions: Tensor,
        t: Tensor,
        edge_index: Tensor,
        batch: Tensor,
        num_molecules: int,
    ) -> tuple[Tensor, Tensor]:
        """Arguments and result of EdmNetwork.forward (edge_index is not used); padded and unpadded on the way."""
        place = padded_places(batch, num_molecules)
        size = self.padded_size or int(place.max()) + 1
        columns = pad(torch.cat([features, t], dim=-1), batch, place, num_molecules, size)
        padded = pad(positions, batch, place, num_molecules, size)
        atom_mask = pad(torch.ones_like(t), batch, place, num_molecules, size)
        velocity, noise_features = self.forward_padded(columns, padded, atom_mask)
        return velocity[batch, place], noise_features[batch, place]

    def forward_padded(self, columns: Tensor, positions: Tensor, atom_mask: Tensor) -> tuple[Tensor, Tensor]:
        """columns [B, N, n_h + 1] (features and t), positions [B, N, 3], atom_mask [B, N, 1] -> both noises, padded."""
        places = positions.shape[1]
        others = 1.0 - torch.eye(places, dtype=positions.dtype, device=positions.device)[None, :, :, None]
        pair_mask = atom_mask[:, :, None] * atom_mask[:, None] * others
        scale = self.pool_scale(pair_mask)
        hidden, moved = self.embed(columns) * atom_mask, positions
        _, first_squared = pair_geometry(positions)
        for block in self.blocks:
            hidden, moved = block(hidden, moved, first_squared, atom_mask, pair_mask, scale)
        velocity = (moved - positions) * atom_mask
        centred = (velocity - velocity.sum(1, keepdim=True) / atom_mask.sum(1, keepdim=True)) * atom_mask
        return centred, (self.read_out(hidden) * atom_mask)[..., : self.config.num_features]

    def pool_scale(self, pair_mask: Tensor) -> Tensor | float:
        """What pooled messages are divided by: a constant, or the number of neighbours M - 1, [B, N, 1]."""
        return self.config.message_scale if self.config.aggregation == "sum" else pair_mask.sum(2).clamp(min=1.0)


def padded_places(batch: Tensor, num_molecules: int) -> Tensor:
    """Place of each atom within its molecule, [A], for a sorted batch [A]."""
    counts = torch.bincount(batch, minlength=num_molecules)
    return torch.arange(len(batch), device=batch.device) - (counts.cumsum(0) - counts)[batch]


def pad(values: Tensor, batch: Tensor, place: Tensor, num_molecules: int, size: int) -> Tensor:
    """values [A, K] -> [B, size, K], zero where there is no atom."""
    out = values.new_zeros((num_molecules, size, values.shape[1]))
    return out.index_put((batch, place), values)
