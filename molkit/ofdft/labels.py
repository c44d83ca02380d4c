"""Value and gradient labels: what a density functional must say of the densities a Kohn-Sham calculation has met.

Targets: Ts, the kinetic energy of non-interacting electrons; Ts_res, that minus APBE; TsExc, Ts + E_xc, which needs no
grid when it is used; total, the energy with nuclei. Value labels are corrected for the fit, so that the energy of the
fitted density is that of the density matrix. Gradient labels are not projected: they are right along the electron
number too (the fitted densities do not hold exactly N electrons).
Source: M-OFDFT's released code and the STRUCTURES25 data generation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch

from molkit.errors import InvalidInput
from molkit.ofdft.functionals import energy_and_derivatives
from molkit.ofdft.grid import Grid, coefficient_exchange_correlation
from molkit.ofdft.integrals import DensityIntegrals
from molkit.ofdft.kohn_sham import EnergyParts, KohnShamRun, System, evaluate, lowest_density

Target = Literal["Ts", "Ts_res", "TsExc", "total"]
TARGETS: tuple[Target, ...] = ("Ts", "Ts_res", "TsExc", "total")


@dataclass(frozen=True, eq=False)
class Labels:
    """Labelled densities of one molecule; S samples, M density functions, hartree.

    electronic: Kohn-Sham energy of the density matrix without nuclei; gradient: the label of Ts, not projected.
    exchange_correlation and apbe, with their gradients, are those of the fitted density. source: 0 SCF step, 1 SCF step
    in a perturbed potential, 2 one diagonalisation in a frozen perturbed potential.
    """

    coefficients: np.ndarray  # [S, M]
    electronic: np.ndarray  # [S]
    kinetic: np.ndarray  # [S]
    exchange_correlation: np.ndarray  # [S]
    apbe: np.ndarray  # [S]
    gradient: np.ndarray  # [S, M]
    exchange_correlation_gradient: np.ndarray  # [S, M]
    apbe_gradient: np.ndarray  # [S, M]
    source: np.ndarray  # [S]

    def __len__(self) -> int:
        return len(self.electronic)

    def value(self, target: Target, integrals: DensityIntegrals) -> np.ndarray:
        """Value labels of a target, [S]. Raises InvalidInput for an unknown one."""
        _require_target(target)
        if target == "total":
            return self.electronic + integrals.nuclear
        found = self.electronic - integrals.classical_energy(self.coefficients)
        if target == "TsExc":
            return found
        found = found - self.exchange_correlation
        return found - self.apbe if target == "Ts_res" else found

    def target_gradient(self, target: Target, integrals: DensityIntegrals) -> np.ndarray:
        """Gradient labels of a target, [S, M]. Raises InvalidInput for an unknown one."""
        _require_target(target)
        if target == "Ts":
            return self.gradient
        if target == "Ts_res":
            return self.gradient - self.apbe_gradient
        found = self.gradient + self.exchange_correlation_gradient
        return found if target == "TsExc" else found + integrals.classical_gradient(self.coefficients)

    def select(self, rows: np.ndarray) -> "Labels":
        """The samples at these rows, or where a mask is true."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def _require_target(target: str) -> None:
    if target not in TARGETS:
        raise InvalidInput(f"target must be one of {', '.join(TARGETS)}, got {target!r}")


def join(parts: Sequence[Labels]) -> Labels:
    """Samples of the same molecule, one part after the other."""
    return Labels(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Labels)})


def potential_gradients(system: System, coefficients: np.ndarray) -> np.ndarray:
    """v(p) = v_ext + J p + grad E_xc(p) of coefficients [S, M]."""
    _, gradient = coefficient_exchange_correlation(system.grid, coefficients)
    return system.integrals.classical_gradient(coefficients) + gradient


def step_labels(system: System, run: KohnShamRun) -> Labels:
    """Labels of every step after the guess: g_k = - sum_i c_i v(p_i) - W b, i over the steps before k."""
    matrices = np.stack([step.matrix for step in run.steps])
    coefficients = system.fit(matrices)
    potentials = potential_gradients(system, coefficients)
    steps = run.steps[1:]
    gradients = np.stack([-(step.mixing @ potentials[: len(step.mixing)]) for step in steps])
    for row, step in enumerate(steps):
        if step.perturbation is not None:
            gradients[row] -= system.integrals.overlap @ step.perturbation
    source = np.array([int(step.perturbation is not None) for step in steps], dtype=np.int8)
    return _complete(system, coefficients[1:], [step.parts for step in steps], gradients, source)


@dataclass(frozen=True)
class FrozenSampling:
    """Random frozen potentials: spread s of b log-uniform in `scale`, a share of them blended towards the guess.

    The unperturbed potential is (1 - x) v[guess] + x v[ground state], x = 1 but in a share `blended` of the samples,
    where it is uniform in 0..1.
    """

    count: int = 40
    scale: tuple[float, float] = (0.003, 0.4)
    blended: float = 0.3


def frozen_labels(system: System, run: KohnShamRun, sampling: FrozenSampling, random: np.random.Generator) -> Labels:
    """Densities of single diagonalisations in frozen, perturbed potentials, each exactly labelled."""
    ends = [run.steps[0], run.steps[-1]]
    potentials = potential_gradients(system, system.fit(np.stack([step.matrix for step in ends])))
    matrices, parts, gradients = [], [], []
    for _ in range(sampling.count):
        blend = random.uniform() if random.uniform() < sampling.blended else 1.0
        spread = np.exp(random.uniform(*np.log(sampling.scale)))
        potential = spread * random.standard_normal(len(system.integrals.external))
        fock = (1.0 - blend) * ends[0].fock + blend * ends[1].fock + system.perturbation(potential)
        matrices.append(lowest_density(system, fock))
        parts.append(evaluate(system, matrices[-1])[0])
        mixed = (1.0 - blend) * potentials[0] + blend * potentials[1]
        gradients.append(-mixed - system.integrals.overlap @ potential)
    source = np.full(sampling.count, 2, dtype=np.int8)
    return _complete(system, system.fit(np.stack(matrices)), parts, np.stack(gradients), source)


def _complete(
    system: System, coefficients: np.ndarray, parts: Sequence[EnergyParts], gradients: np.ndarray, source: np.ndarray
) -> Labels:
    energy, gradient = coefficient_exchange_correlation(system.grid, coefficients)
    apbe, apbe_gradient = kinetic_functional("APBE", system.grid, coefficients)
    return Labels(
        coefficients=coefficients,
        electronic=np.array([part.electronic for part in parts]),
        kinetic=np.array([part.kinetic for part in parts]),
        exchange_correlation=energy,
        apbe=apbe,
        gradient=gradients,
        exchange_correlation_gradient=gradient,
        apbe_gradient=apbe_gradient,
        source=source,
    )


def kinetic_functional(name: str, grid: Grid, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A classical functional's energies [S] of coefficients [S, M], and their derivatives [S, M]."""
    fields_ = grid.fields(coefficients)
    found = energy_and_derivatives(name, torch.from_numpy(fields_), torch.from_numpy(grid.weights))
    energy, by_rho, by_sigma = (tensor.numpy() for tensor in found)
    return energy, grid.pull_back(by_rho, by_sigma, fields_)
