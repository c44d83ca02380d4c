"""Between data and flow samples: steps of a bridge, so that no two neighbours are easily told apart.

Bond lengths of data are sharper than the flow draws them. A classifier then has an easy task: it is right always long
before its logit is the logarithm of a density ratio. On a bridge of levels the ratio of flow and data is the product of
the ratios of neighbours, each of which can be learned. A level mixes the latent values of a data conformer with normal
noise, z = sqrt(1 - share^2) z_data + share w: share 0 is the data, share 1 a sample of the flow.
Source: the telescoping idea from Rhodes, Xu and Gutmann (arXiv 2006.12204); the bridge through the flow is ours.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from molkit.cgcf.embedding import embed
from molkit.cgcf.flow import decode, latent_of
from molkit.cgcf.graph import PairGraph
from molkit.cgcf.model import Cgcf


def bridge(
    model: Cgcf, graph: PairGraph, positions: Tensor, shares: Sequence[float], *, generator: torch.Generator
) -> Tensor:
    """One conformer for each of the data's [C, A, 3] at every share and of the flow itself, [C, S + 1, A, 3] angstrom.

    Levels between start their search for positions at the data, whose mirror image and fold they keep; samples of the
    flow start anywhere, as they do in use.
    """
    count = len(positions)
    latent = latent_of(model.flow, graph, graph.distances(positions).to(model.flow.root_time.dtype))
    noise, fresh = torch.randn(2, *latent.shape, generator=generator).to(latent)
    mixed = [(1.0 - share**2) ** 0.5 * latent + share * noise for share in shares]
    distances = decode(model.flow, graph, torch.cat([*mixed, fresh]))
    starts = positions.double().repeat(len(shares) + 1, 1, 1)
    starts[-count:] = torch.randn(positions.shape, generator=generator, dtype=torch.float64)
    found = embed(graph, distances, generator=generator, start=starts).positions
    return found.unflatten(0, (len(shares) + 1, count)).transpose(0, 1)
