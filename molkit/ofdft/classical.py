"""The energy of a density with a classical kinetic functional: no learning, everything on a grid."""

import numpy as np

from molkit.ofdft.grid import Grid, coefficient_exchange_correlation
from molkit.ofdft.integrals import DensityIntegrals
from molkit.ofdft.labels import kinetic_functional


class ClassicalEnergy:
    """Energy (hartree, nuclei included) of natural coordinates x = W^(1/2) p [M], and its derivative by x.

    `name` is one of `functionals.FUNCTIONALS`; exchange and correlation are PBE, or absent with
    exchange_correlation=False. `constraint` is the derivative of the number of electrons by x.
    """

    def __init__(
        self, name: str, integrals: DensityIntegrals, grid: Grid, *, exchange_correlation: bool = True
    ) -> None:
        self.name, self.integrals, self.grid = name, integrals, grid
        self.exchange_correlation = exchange_correlation
        self.to_natural, self.from_natural = integrals.roots
        self.constraint = self.from_natural @ integrals.basis_integrals

    def __call__(self, natural: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy and derivative at x [M]."""
        coefficients = self.from_natural @ natural
        kinetic, slope = kinetic_functional(self.name, self.grid, coefficients[None])
        energy = float(kinetic[0]) + float(self.integrals.classical_energy(coefficients)) + self.integrals.nuclear
        slope = slope[0] + self.integrals.classical_gradient(coefficients)
        if self.exchange_correlation:
            potential, by_coefficients = coefficient_exchange_correlation(self.grid, coefficients[None])
            energy, slope = energy + float(potential[0]), slope + by_coefficients[0]
        return energy, self.from_natural @ slope

    def start(self, coefficients: np.ndarray) -> np.ndarray:
        """Natural coordinates of density coefficients [M], moved to exactly N electrons."""
        natural = self.to_natural @ coefficients
        missing = self.integrals.num_electrons - float(self.constraint @ natural)
        return natural + self.constraint * missing / float(self.constraint @ self.constraint)

    def coefficients(self, natural: np.ndarray) -> np.ndarray:
        """Density coefficients [M] of x."""
        return self.from_natural @ natural
