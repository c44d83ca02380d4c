"""The forward process, Gaussians on positions with zero mean, and the training loss.

The network is an argument; so is all randomness.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from molkit.edm.config import EdmConfig
from molkit.edm.features import State, channel_spreads, log_prob_atomic_number, log_prob_types
from molkit.edm.schedule import alpha, sigma
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


NoiseWeighting = Literal["simple", "residual"]
NoiseLevels = Literal["steps", "lognormal"]
LEVEL_MEAN, LEVEL_SPREAD = (
    -0.9,
    1.3,
)  # of ln(sigma / alpha) drawn "lognormal": hydrogens settle from 0.1 to 0.5 angstrom

# features [A, n_h], positions [A, 3], t [A, 1], edge_index [2, E], batch [A], B, context -> noise in both
Network = Callable[..., tuple[Tensor, Tensor]]


def draw_noise(
    graph: Graph, num_features: int, *, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> State:
    """Noise of a batch: zero-mean in positions [A, 3], ordinary in features [A, n_h]."""
    positions = zero_mean_noise(graph, generator=generator, dtype=dtype)
    features = torch.randn(len(graph.batch), num_features, generator=generator, dtype=dtype, device=generator.device)
    return State(positions, features.to(positions.device))


def add_noise(clean: State, noise: State, log_snr: Tensor) -> State:
    """alpha clean + sigma noise, with log_snr [A, 1] per atom."""
    signal, spread = alpha(log_snr), sigma(log_snr)
    mixed = [signal * c + spread * n for c, n in ((clean.positions, noise.positions), (clean.features, noise.features))]
    return State(*(part.to(clean.positions.dtype) for part in mixed))


def predict_noise(
    network: Network,
    noisy: State,
    step: Tensor,
    graph: Graph,
    *,
    num_steps: int,
    context: Tensor | None = None,
) -> State:
    """The network's noise at integer steps [B], as a State."""
    t = (step.to(noisy.positions.dtype) / num_steps)[graph.batch].unsqueeze(-1)
    extra = () if context is None else (context,)
    inputs = (noisy.features, noisy.positions, t, graph.edge_index, graph.batch, graph.num_molecules)
    return State(*network(*inputs, *extra))


def squared_error(noise: State, predicted: State, graph: Graph) -> Tensor:
    """||noise - predicted||^2 summed over the atoms and channels of each molecule, [B]."""
    per_atom = (noise.positions - predicted.positions).square().sum(-1)
    return graph.sum(per_atom + (noise.features - predicted.features).square().sum(-1))


def draw_shares(num_molecules: int, *, generator: torch.Generator, stratified: bool = False) -> Tensor:
    """A uniform number of 0..1 for each molecule, [B] float64; stratified ones cover the range evenly in a batch.

    Each is uniform in both modes; stratified ones are dependent, which lowers the loss's variance.
    """
    draws = torch.rand(num_molecules, generator=generator, dtype=torch.float64, device=generator.device)
    if stratified:
        offset = torch.randperm(num_molecules, generator=generator, device=generator.device)
        draws = (draws + offset) / num_molecules
    return draws


def draw_levels(table: Tensor, num_molecules: int, *, generator: torch.Generator, stratified: bool = False) -> Tensor:
    """One step for each molecule, [B] int64, whose ln(sigma / alpha) is nearest to a draw of N(-0.9, 1.3^2).

    Source: Karras et al. 2022, training noise; mean and spread are ours, for distances between atoms.
    """
    shares = draw_shares(num_molecules, generator=generator, stratified=stratified)
    wanted = LEVEL_MEAN + LEVEL_SPREAD * torch.special.ndtri(shares.clamp(1e-12, 1.0 - 1e-12))
    levels = -0.5 * table.to(wanted)
    return torch.searchsorted(0.5 * (levels[:-1] + levels[1:]), wanted)


def draw_steps(
    num_molecules: int, num_steps: int, *, generator: torch.Generator, stratified: bool = False, power: float = 1.0
) -> Tensor:
    """One step of 0..num_steps for each molecule, [B] int64, uniform; see `draw_shares` for stratified ones.

    A power above 1 draws t = u^power for uniform u, so small steps more often.
    """
    draws = draw_shares(num_molecules, generator=generator, stratified=stratified)
    if power != 1.0:
        draws = draws**power
    return (draws * (num_steps + 1)).long().clamp(max=num_steps)


def residual_weights(config: EdmConfig, log_snr: Tensor) -> Tensor:
    """(q / s)^2 of each column at noise levels log_snr [A, 1], [A, 3 + n_h] float64.

    It turns a squared error of the noise into one of the inner network's output, as noise - predicted =
    (s / q) (F - F*).
    """
    return 1.0 + torch.exp(-log_snr.double()) / channel_spreads(config).to(log_snr.device).square()


@dataclass(frozen=True)
class LossTerms:
    """Mean over the batch of the simple loss and its parts; only `loss` carries gradients."""

    loss: Tensor
    noise_error: Tensor  # mean squared error per noise component (1 for a network that predicts zero)
    discrete: Tensor  # -log p(h | z_0), of molecules at step 0 alone; independent of the network


def simple_loss(
    network: Network,
    config: EdmConfig,
    table: Tensor,
    clean: State,
    graph: Graph,
    *,
    generator: torch.Generator,
    weighting: Literal["per_molecule", "reference"] = "per_molecule",
    stratified: bool = False,
    context: Tensor | None = None,
    noise_weighting: NoiseWeighting = "simple",
    step_power: float = 1.0,
    levels: NoiseLevels = "steps",
) -> LossTerms:
    """L_simple: half the squared noise error over (3 + n_h) M, plus -log p(h | z_0) where step = 0.

    At step 0 only the error of the positions counts. `reference` divides by the batch's largest M, which makes a
    molecule's weight depend on its batch-mates. Source: EDM, loss section; the division by the own M is ours.
    The weighting "residual" is the loss of a preconditioned network's inner one: every column counts at every step.
    """
    draw = {"generator": generator, "stratified": stratified}
    if levels == "lognormal":
        step = draw_levels(table, graph.num_molecules, **draw)
    else:
        step = draw_steps(graph.num_molecules, config.num_steps, power=step_power, **draw)
    step = step.to(clean.positions.device)
    noise = draw_noise(graph, clean.features.shape[1], generator=generator, dtype=clean.positions.dtype)
    log_snr = table.to(step.device)[step][graph.batch].unsqueeze(-1)
    noisy = add_noise(clean, noise, log_snr)
    predicted = predict_noise(network, noisy, step, graph, num_steps=config.num_steps, context=context)
    if noise_weighting == "residual":
        return _residual_loss(config, noise, predicted, log_snr, graph)
    at_zero = step == 0
    counted = State(predicted.positions, torch.where(at_zero[graph.batch, None], noise.features, predicted.features))
    size = graph.num_atoms.max().expand_as(graph.num_atoms) if weighting == "reference" else graph.num_atoms
    error = squared_error(noise, counted, graph) / (size * (3 + clean.features.shape[1]))
    discrete = _discrete_loss(config, clean, noisy, log_snr, at_zero, graph)
    return LossTerms((0.5 * error + discrete).mean(), error.detach().mean(), discrete.mean())


def _residual_loss(config: EdmConfig, noise: State, predicted: State, log_snr: Tensor, graph: Graph) -> LossTerms:
    """Half the squared error of the inner network's output, per column and atom. Source: Karras et al. 2022, eq. 8."""
    squared = torch.cat([noise.positions - predicted.positions, noise.features - predicted.features], -1).square()
    weighted = squared * residual_weights(config, log_snr).to(squared.dtype)
    error, loss = (graph.sum(part.mean(-1)) / graph.num_atoms for part in (squared.detach(), weighted))
    return LossTerms(0.5 * loss.mean(), error.mean(), torch.zeros_like(error[0]))


def _discrete_loss(
    config: EdmConfig, clean: State, noisy: State, log_snr: Tensor, at_zero: Tensor, graph: Graph
) -> Tensor:
    """-log p(h | z_0) of each molecule at step 0, else 0, [B]."""
    if not at_zero.is_cuda and not bool(at_zero.any()):  # asking would make a GPU wait
        return torch.zeros_like(graph.num_atoms, dtype=clean.positions.dtype)
    spread = sigma(log_snr)
    log_probability = log_prob_types(config, clean, noisy.features, spread)
    log_probability = log_probability + log_prob_atomic_number(config, clean, noisy.features, spread)
    return -graph.sum(log_probability * at_zero[graph.batch]).to(clean.positions.dtype)
