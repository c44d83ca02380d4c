"""A quick start for the flow: regression of its velocity on straight paths, before likelihood takes over.

Maximum likelihood solves the differential equation at every step, some thirty evaluations with their gradients. Flow
matching needs one: on the line x_s = (1 - s) x + s e between (normalised) data x and normal noise e the velocity to
learn is e - x, and the field that minimises the squared error carries one distribution into the other. The likelihood
of the result is exact all the same, by the same change of variables. Not in the paper.
Source: Lipman et al., Flow Matching for Generative Modeling, ICLR 2023 (arXiv 2210.02747), with noise at time T.
"""

import torch
from torch import Tensor

from molkit.cgcf.flow import Flow
from molkit.cgcf.graph import PairGraph


def stratified_times(count: int, *, generator: torch.Generator) -> Tensor:
    """`count` fractions of the path in [0, 1), one in each of as many equal parts, in random order."""
    device = generator.device
    parts = torch.randperm(count, generator=generator, device=device)
    return (parts + torch.rand(count, generator=generator, device=device)) / count


def matching_loss(flow: Flow, graph: PairGraph, distances: Tensor, *, generator: torch.Generator) -> Tensor:
    """Mean squared error of the velocity over all pairs [P] of the batch, in units of the normalised distances.

    Each molecule has its own time. In training mode the first moving norm follows the batch; the second one is left as
    it starts, since the latent values are standard normal by construction.
    """
    data = flow.data_norm(distances)
    if flow.training:
        flow.data_norm.follow(distances.detach())
    s = stratified_times(graph.num_molecules, generator=generator).to(data)
    noise = torch.randn(data.shape, generator=generator, device=generator.device).to(data)
    share = s[graph.pair_batch]
    place = (1.0 - share) * data.detach() + share * noise
    velocity = flow.dynamics.on(graph).velocity(s * flow.end_time, place)
    return (velocity * flow.end_time - (noise - data.detach())).square().mean()
