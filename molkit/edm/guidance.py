"""Classifier-free guidance: a conditional model made to listen more than it was trained to."""

from dataclasses import replace

from torch import Tensor, nn

from molkit.edm.model import Edm
from molkit.errors import InvalidInput


class GuidedNetwork(nn.Module):
    """The prediction without conditions plus `scale` times what the conditions change in it; two calls for one."""

    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(
        self,
        features: Tensor,
        positions: Tensor,
        t: Tensor,
        edge_index: Tensor,
        batch: Tensor,
        num_molecules: int,
        context: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Noise in positions [A, 3] and features [A, n_h]; an all-zero context means that nothing is asked."""
        inputs = (features, positions, t, edge_index, batch, num_molecules)
        asked, plain = self.network(*inputs, context), self.network(*inputs, context.new_zeros(context.shape))
        places, types = (free + self.scale * (told - free) for told, free in zip(asked, plain, strict=True))
        return places, types


def guided(edm: Edm, scale: float) -> Edm:
    """The same model with its conditions weighted by `scale`: 1 as trained, 0 not at all, above 1 exaggerated.

    Each call of the network becomes two. Source: Ho and Salimans 2022, with weight w = scale - 1. The result samples
    p(x) p(c | x)^scale only in the limit of small noise, and no likelihood belongs to it. Raises InvalidInput for a
    model without conditions or a negative scale.
    """
    if scale < 0.0:
        raise InvalidInput(f"the guidance scale must not be negative, got {scale:g}")
    if not edm.config.context_names:
        raise InvalidInput(f"{edm.name} was not trained with properties, so there is nothing to emphasise")
    return edm if scale == 1.0 else replace(edm, network=GuidedNetwork(edm.network, scale))
