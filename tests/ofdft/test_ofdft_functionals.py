"""Classical functionals against libxc, closed forms and finite differences."""

import math

import numpy as np
import pytest
import torch
from pyscf.dft import libxc

from molkit.errors import InvalidInput
from molkit.ofdft.functionals import FUNCTIONALS, energy_and_derivatives, functional_named, reduced_gradient_squared

LIBXC = {"TF": "LDA_K_TF", "vW": "GGA_K_VW", "APBE": "GGA_K_APBE", "LKT": "GGA_K_LKT"}


def random_fields(count=400):
    random = np.random.default_rng(3)
    fields = random.standard_normal((1, 4, count))
    fields[:, 0] = np.exp(random.uniform(-8.0, 4.0, count))
    fields[:, 1:] *= fields[:, :1] ** (4.0 / 3.0)
    return fields


@pytest.mark.parametrize("name", LIBXC)
def test_values_and_derivatives_are_those_of_libxc(name):
    fields = random_fields()
    found = energy_and_derivatives(name, torch.from_numpy(fields), torch.ones(fields.shape[-1], dtype=torch.float64))
    density = functional_named(name)(torch.from_numpy(fields[0, 0]), torch.from_numpy((fields[0, 1:] ** 2).sum(0)))
    wanted = fields[0, 0] if name == "TF" else fields[0]
    per_electron, derivatives, _, _ = libxc.eval_xc(LIBXC[name], wanted, spin=0, deriv=1)
    np.testing.assert_allclose(density.numpy(), per_electron * fields[0, 0], rtol=1e-10)
    np.testing.assert_allclose(found[1][0].numpy(), derivatives[0], rtol=1e-8, atol=1e-10)
    if name != "TF":
        np.testing.assert_allclose(found[2][0].numpy(), derivatives[1], rtol=1e-8, atol=1e-10)


def test_sums_are_the_sums_of_their_parts():
    rho, sigma = torch.tensor([0.3]).double(), torch.tensor([0.2]).double()
    parts = FUNCTIONALS["TF"](rho, sigma), FUNCTIONALS["vW"](rho, sigma)
    torch.testing.assert_close(FUNCTIONALS["TF+vW"](rho, sigma), parts[0] + parts[1])
    torch.testing.assert_close(FUNCTIONALS["TF+vW/9"](rho, sigma), parts[0] + parts[1] / 9.0)
    s2 = reduced_gradient_squared(rho, sigma)
    torch.testing.assert_close(parts[1], 5.0 / 3.0 * s2 * parts[0])


def test_one_slater_orbital_has_its_exact_kinetic_energy():
    radius = np.linspace(1e-6, 30.0, 60_001)
    zeta = 1.3
    rho = 2.0 * zeta**3 / math.pi * np.exp(-2.0 * zeta * radius)
    sigma = (2.0 * zeta * rho) ** 2
    density = FUNCTIONALS["vW"](torch.from_numpy(rho), torch.from_numpy(sigma)).numpy()
    kinetic = np.trapezoid(4.0 * math.pi * radius**2 * density, radius)
    assert abs(kinetic - 2.0 * 0.5 * zeta**2) < 2e-5  # where the density is below 1e-14 nothing is added


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_vacuum_and_negative_density_add_nothing_and_keep_derivatives_finite(name):
    fields = np.zeros((1, 4, 3))
    fields[0, 0] = [0.0, -1e-3, 1e-30]
    fields[0, 1] = [0.0, 0.1, 1e-20]
    energy, by_rho, by_sigma = energy_and_derivatives(name, torch.from_numpy(fields), torch.ones(3).double())
    assert float(energy) == 0.0
    assert bool(torch.isfinite(by_rho).all()) and bool(torch.isfinite(by_sigma).all())


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_derivatives_are_those_of_finite_differences(name):
    density = functional_named(name)
    rho, sigma = torch.tensor([0.02, 0.4, 3.0]).double(), torch.tensor([1e-3, 0.3, 20.0]).double()
    fields = torch.stack([rho, sigma.sqrt(), 0 * rho, 0 * rho])[None]
    _, by_rho, by_sigma = energy_and_derivatives(name, fields, torch.ones(3).double())
    for step, given, found in ((1e-6 * rho, (1, 0), by_rho), (1e-6 * sigma, (0, 1), by_sigma)):
        moved = [density(rho + sign * given[0] * step, sigma + sign * given[1] * step) for sign in (1, -1)]
        torch.testing.assert_close((moved[0] - moved[1]) / (2 * step), found[0], rtol=1e-6, atol=1e-8)


def test_an_unknown_functional_is_refused():
    with pytest.raises(InvalidInput, match="APBE"):
        functional_named("PBE")
