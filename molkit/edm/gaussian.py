"""Gaussians on the subspace of positions with zero mean, with their degrees of freedom d(M) = 3 (M - 1)."""

import math

import torch
from torch import Tensor

from molkit.graphs import Graph

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


def degrees_of_freedom(graph: Graph) -> Tensor:
    """d(M) = 3 (M - 1) of each molecule, [B]."""
    return 3 * (graph.num_atoms - 1)


def zero_mean_noise(graph: Graph, *, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal noise on the zero-mean subspace, [A, 3]: the projection of an isotropic Gaussian."""
    noise = torch.randn(len(graph.batch), 3, generator=generator, dtype=dtype, device=generator.device)
    return graph.centre(noise.to(graph.batch.device))


def log_density(positions: Tensor, sigma: Tensor, graph: Graph) -> Tensor:
    """log N_x(positions | 0, sigma^2) on the subspace, [B]; sigma [B]. Source: EDM, zero centre-of-gravity normals."""
    squared = graph.sum(positions.square().sum(-1))
    return -squared / (2.0 * sigma**2) - degrees_of_freedom(graph) * (torch.log(sigma) + HALF_LOG_TWO_PI)


def kl_to_standard(mean_squared: Tensor, sigma: Tensor, dimension: Tensor) -> Tensor:
    """KL(N(mean, sigma^2) || N(0, 1)) in `dimension` dimensions, [B], from ||mean||^2 [B] and sigma [B]."""
    return -dimension * torch.log(sigma) + 0.5 * (dimension * sigma**2 + mean_squared) - 0.5 * dimension
