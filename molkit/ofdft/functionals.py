"""Classical kinetic energy functionals: energy densities in torch, differentiable, safe where there is no density.

rho is the density [...], sigma = |grad rho|^2 [...], both float64 and in atomic units; s the reduced gradient
|grad rho| / (2 (3 pi^2)^(1/3) rho^(4/3)). Everything here is spin-unpolarised.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from molkit.errors import InvalidInput

THOMAS_FERMI = 0.3 * (3.0 * math.pi**2) ** (2.0 / 3.0)
SMALLEST = 1e-14  # density or squared gradient below which a point adds nothing
APBE_MU, APBE_KAPPA = 0.23889, 0.804
LKT_A = 1.3
EnergyDensity = Callable[[Tensor, Tensor], Tensor]


def thomas_fermi(rho: Tensor, sigma: Tensor) -> Tensor:
    """c_TF rho^(5/3): exact for the uniform gas."""
    present, safe, _ = _masked(rho, sigma)
    return torch.where(present, THOMAS_FERMI * safe ** (5.0 / 3.0), 0.0)


def von_weizsaecker(rho: Tensor, sigma: Tensor) -> Tensor:
    """|grad rho|^2 / (8 rho): exact for one orbital."""
    present, safe, slope = _masked(rho, sigma)
    return torch.where(present & (sigma >= SMALLEST), slope / (8.0 * safe), 0.0)


def tf_vw_ninth(rho: Tensor, sigma: Tensor) -> Tensor:
    """TF + vW / 9: the second-order gradient expansion."""
    return thomas_fermi(rho, sigma) + von_weizsaecker(rho, sigma) / 9.0


def tf_vw(rho: Tensor, sigma: Tensor) -> Tensor:
    """TF + vW."""
    return thomas_fermi(rho, sigma) + von_weizsaecker(rho, sigma)


def apbe(rho: Tensor, sigma: Tensor) -> Tensor:
    """TF times 1 + kappa - kappa / (1 + mu s^2 / kappa).

    Source: Constantin, Fabiano, Laricchia, Della Sala, Phys. Rev. Lett. 106, 186406 (2011).
    """
    enhancement = 1.0 + APBE_KAPPA - APBE_KAPPA / (1.0 + APBE_MU * reduced_gradient_squared(rho, sigma) / APBE_KAPPA)
    return thomas_fermi(rho, sigma) * enhancement


def lkt(rho: Tensor, sigma: Tensor) -> Tensor:
    """TF / cosh(1.3 s) + vW. Source: Luo, Karasiev, Trickey, Phys. Rev. B 98, 041111 (2018)."""
    s = reduced_gradient_squared(rho, sigma).clamp_min(1e-24).sqrt().clamp_max(200.0)
    return thomas_fermi(rho, sigma) / torch.cosh(LKT_A * s) + von_weizsaecker(rho, sigma)


def reduced_gradient_squared(rho: Tensor, sigma: Tensor) -> Tensor:
    """s^2; zero where there is no density or no gradient."""
    present, safe, slope = _masked(rho, sigma)
    squared = slope / (4.0 * (3.0 * math.pi**2) ** (2.0 / 3.0) * safe ** (8.0 / 3.0))
    return torch.where(present & (sigma >= SMALLEST), squared, 0.0)


def _masked(rho: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where there is density, and both inputs with harmless values elsewhere, so that derivatives stay finite."""
    present = rho >= SMALLEST
    return present, torch.where(present, rho, 1.0), torch.where(present & (sigma >= SMALLEST), sigma, 1.0)


FUNCTIONALS: dict[str, EnergyDensity] = {
    "TF": thomas_fermi,
    "vW": von_weizsaecker,
    "TF+vW/9": tf_vw_ninth,
    "TF+vW": tf_vw,
    "APBE": apbe,
    "LKT": lkt,
}


def functional_named(name: str) -> EnergyDensity:
    """The energy density of that name. Raises InvalidInput with the known names."""
    if name not in FUNCTIONALS:
        raise InvalidInput(f"kinetic functionals are {', '.join(FUNCTIONALS)}; got {name!r}")
    return FUNCTIONALS[name]


def energy_and_derivatives(name: str, fields: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Kinetic energies [S] of fields [S, 4, G], and derivatives of the energy density by rho and sigma, [S, G] each."""
    density = functional_named(name)
    with torch.enable_grad():
        rho = fields[:, 0].detach().requires_grad_(True)
        sigma = fields[:, 1:].square().sum(1).detach().requires_grad_(True)
        local = density(rho, sigma)
        by_rho, by_sigma = torch.autograd.grad(local.sum(), [rho, sigma], allow_unused=True)
    by_sigma = torch.zeros_like(sigma) if by_sigma is None else by_sigma
    return local.detach() @ weights, by_rho, by_sigma
