"""Noise schedules as log signal-to-noise ratios, in float64, and the quantities that follow from them."""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from molkit.edm.config import EdmConfig
from molkit.errors import InvalidInput

SMALLEST_RATIO = 1e-3  # alpha^2 may fall by no more than this factor in one step


def limit_fall(alpha_squared: Tensor, smallest_ratio: float = SMALLEST_RATIO) -> Tensor:
    """Rebuild alpha^2 [T + 1] from its step-to-step ratios, each limited to smallest_ratio..1."""
    previous = torch.cat([torch.ones_like(alpha_squared[:1]), alpha_squared[:-1]])
    return (alpha_squared / previous).clamp(smallest_ratio, 1.0).cumprod(0)


def polynomial_log_snr(num_steps: int, *, power: float = 2.0, offset: float = 1e-5) -> Tensor:
    """log(alpha^2 / sigma^2) of the polynomial schedule at steps 0..num_steps, [num_steps + 1], float64.

    alpha^2 = (1 - 2 offset) f + offset with f = (1 - (step / num_steps)^power)^2, f limited in its fall.
    The affine map acts on alpha^2, as in the authors' code. Source: EDM reference code, noise schedule
    `polynomial_2` (its gamma is -log_snr). Raises InvalidInput for num_steps < 1 or offset outside (0, 1/2).

    >>> table = polynomial_log_snr(1000)
    >>> tuple(table.shape), bool((table.diff() < 0).all())
    ((1001,), True)
    """
    if num_steps < 1 or not 0.0 < offset < 0.5:
        raise InvalidInput(f"need num_steps >= 1 and 0 < offset < 0.5, got {num_steps} and {offset}")
    t = torch.linspace(0.0, 1.0, num_steps + 1, dtype=torch.float64)
    signal = limit_fall((1.0 - t**power) ** 2)
    return torch.logit((1.0 - 2.0 * offset) * signal + offset)


def cosine_log_snr(num_steps: int, *, shift: float = 0.008) -> Tensor:
    """log(alpha^2 / sigma^2) of the cosine schedule at steps 0..num_steps, [num_steps + 1], float64.

    A grid of num_steps + 2 points, betas clipped at 0.999. Source: Nichol and Dhariwal 2021, as used by the EDM
    reference code. Raises InvalidInput for num_steps < 1.
    """
    if num_steps < 1:
        raise InvalidInput(f"need num_steps >= 1, got {num_steps}")
    t = torch.linspace(0.0, 1.0, num_steps + 2, dtype=torch.float64)
    signal = torch.cos((t + shift) / (1.0 + shift) * math.pi / 2.0) ** 2
    ratios = (signal[1:] / signal[:-1]).clamp(1e-3, 1.0)
    return torch.logit(ratios.cumprod(0).clamp(max=1.0 - 1e-12))


def log_snr_table(config: EdmConfig) -> Tensor:
    """The schedule of a configuration, [T + 1], float64; checks that features survive the noise at step 0.

    Raises InvalidInput where 8 sigma_0 > 1 / (largest feature scale): rounding to classes would then be unreliable.
    """
    if config.schedule == "polynomial":
        table = polynomial_log_snr(config.num_steps, power=config.schedule_power, offset=config.schedule_offset)
    else:
        table = cosine_log_snr(config.num_steps)
    scale = max(config.scale_types, config.scale_atomic_number)
    first_sigma = float(sigma(table[0]))
    if 8.0 * first_sigma > 1.0 / scale:
        raise InvalidInput(
            f"feature scale {scale:g} is too large for this schedule: 8 sigma_0 = {8.0 * first_sigma:.4f} must not "
            f"exceed 1 / {scale:g}; lower scale_types or scale_atomic_number, or the schedule offset"
        )
    return table


def alpha(log_snr: Tensor) -> Tensor:
    """Signal amplitude sqrt(sigmoid(log_snr))."""
    return torch.exp(0.5 * logsigmoid(log_snr))


def sigma(log_snr: Tensor) -> Tensor:
    """Noise amplitude sqrt(sigmoid(-log_snr))."""
    return torch.exp(0.5 * logsigmoid(-log_snr))


def transition(log_snr_from: Tensor, log_snr_to: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma^2 of q(noisy_to | noisy_from), from a cleaner to a noisier step.

    sigma^2 = -expm1(softplus(-log_snr_from) - softplus(-log_snr_to)), the form that keeps its digits.
    Source: Kingma et al. 2021 (variational diffusion models), as in the EDM reference code.
    """
    ratio = torch.exp(0.5 * (logsigmoid(log_snr_to) - logsigmoid(log_snr_from)))
    variance = -torch.expm1(softplus(-log_snr_from) - softplus(-log_snr_to))
    return ratio, variance


def step_weight(table: Tensor) -> Tensor:
    """Weight of ||noise - predicted||^2 / 2 in the variational bound at steps 1..T: SNR_{t-1} / SNR_t - 1, [T]."""
    return torch.expm1(table[:-1] - table[1:])
