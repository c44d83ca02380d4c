"""Normal distributions on positions with zero mean, against full covariances on the subspace."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from molkit.edm.diffusion import degrees_of_freedom, kl_to_standard, log_density, zero_mean_noise
from molkit.graphs import Graph

SIZES = torch.tensor([1, 2, 5])


def subspace_basis(num_atoms: int):
    """Orthonormal rows [3 (M - 1), 3 M] that span the positions with zero mean."""
    projection = torch.eye(num_atoms, dtype=torch.float64) - 1.0 / num_atoms
    values, vectors = torch.linalg.eigh(projection)
    return torch.kron(vectors[:, values > 0.5].T.contiguous(), torch.eye(3, dtype=torch.float64))


def test_degrees_of_freedom_are_three_less_than_coordinates():
    assert degrees_of_freedom(Graph.from_sizes(SIZES)).tolist() == [0, 3, 12]


def test_log_density_is_that_of_coordinates_on_the_subspace():
    graph = Graph.from_sizes(SIZES)
    positions = zero_mean_noise(graph, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.7
    sigma = torch.tensor([0.3, 1.4, 0.6], dtype=torch.float64)
    found = log_density(positions, sigma, graph)
    assert found[0].item() == 0.0  # one atom has no freedom
    for row, atoms in ((1, slice(1, 3)), (2, slice(3, 8))):
        coordinates = subspace_basis(int(SIZES[row])) @ positions[atoms].reshape(-1)
        covariance = sigma[row] ** 2 * torch.eye(len(coordinates), dtype=torch.float64)
        expected = MultivariateNormal(torch.zeros_like(coordinates), covariance).log_prob(coordinates)
        assert found[row].item() == pytest.approx(expected.item(), rel=1e-12)


def test_kl_is_that_of_normals_on_the_subspace():
    dimension, sigma = 12, torch.tensor(0.4, dtype=torch.float64)
    mean = torch.randn(dimension, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = kl_divergence(Normal(mean, sigma), Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum()
    found = kl_to_standard(mean.square().sum(), sigma, torch.tensor(dimension, dtype=torch.float64))
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def test_kl_to_standard_vanishes_at_the_standard_normal():
    zero, one = torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    assert kl_to_standard(zero, one, torch.tensor(9.0)).item() == 0.0


def test_kl_is_the_mean_log_ratio_of_densities():
    """Monte Carlo with 40,000 draws: the standard error is about 0.01 nats here; the test allows four of them."""
    num = 40_000
    graph = Graph.from_sizes(torch.full((num,), 3))
    generator = torch.Generator().manual_seed(2)
    mean = torch.tensor([[0.5, 0.0, -0.2], [-0.1, 0.3, 0.0], [-0.4, -0.3, 0.2]], dtype=torch.float64).repeat(num, 1)
    sigma, one = torch.full((num,), 0.8, dtype=torch.float64), torch.ones(num, dtype=torch.float64)
    noise = zero_mean_noise(graph, generator=generator, dtype=torch.float64)
    ratio = log_density(0.8 * noise, sigma, graph) - log_density(mean + 0.8 * noise, one, graph)
    expected = kl_to_standard(mean[:3].square().sum(), torch.tensor(0.8, dtype=torch.float64), torch.tensor(6.0))
    error = ratio.std().item() / math.sqrt(num)
    assert error < 0.012
    assert ratio.mean().item() == pytest.approx(expected.item(), abs=4 * error)


def test_noise_has_zero_mean_per_molecule():
    graph = Graph.from_sizes(SIZES)
    noise = zero_mean_noise(graph, generator=torch.Generator().manual_seed(3))
    assert noise.dtype == torch.float32
    assert graph.sum(noise).abs().max() < 1e-6
    assert noise[0].abs().max() == 0.0


def test_noise_is_the_isotropic_normal_on_the_subspace():
    """Covariance of the atoms is 1 - 1/M on the diagonal and -1/M off it; 20,000 draws, standard error 0.007."""
    num, size = 20_000, 4
    graph = Graph.from_sizes(torch.full((num,), size))
    noise = zero_mean_noise(graph, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    flat = noise.reshape(num, 3 * size)
    covariance = flat.T @ flat / num
    expected = torch.kron(torch.eye(size) - 1.0 / size, torch.eye(3)).double()
    assert (covariance - expected).abs().max() < 5 * 0.007
    basis = subspace_basis(size)
    along = flat @ basis.T
    assert (along.square().sum(-1).mean() - 9.0).abs() < 5 * math.sqrt(18.0 / num)


def test_same_generator_gives_the_same_noise():
    graph = Graph.from_sizes(SIZES)
    first, second = (zero_mean_noise(graph, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
