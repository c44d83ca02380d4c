"""The baseline without symmetry: plain message passing that takes positions as three more features.

Source: EDM, the ablation called GDM. GDM-aug is the same network trained on randomly turned molecules.
"""

import torch
from torch import Tensor, nn

from molkit.edm.config import EdmConfig
from molkit.edm.network import MessageLayer, pool_scale, small_linear
from molkit.graphs import remove_mean


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
