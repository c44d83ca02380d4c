"""Labels of one water geometry, checked in front of the reader, and what making them costs."""

from collections.abc import Callable
from dataclasses import dataclass
from time import process_time

import numpy as np

from molkit.data.registry import data_path
from molkit.ofdft.geometries import geometry
from molkit.ofdft.grid import build_grid, coefficient_exchange_correlation
from molkit.ofdft.kohn_sham import KohnShamRun, System
from molkit.ofdft.label_files import LabelledMolecule
from molkit.ofdft.label_packs import read_pack
from molkit.ofdft.labels import FrozenSampling, Labels, frozen_labels, potential_gradients, step_labels
from molkit.studies.ofdft_classical import solved

MILLI = 1e3
PACKED = "density_labels_up_to_five.npz"


@dataclass(frozen=True, eq=False)
class LabelStudy:
    """One geometry with the labels of its steps and of frozen potentials."""

    system: System
    run: KohnShamRun
    steps: Labels
    frozen: Labels

    @property
    def excess(self) -> np.ndarray:
        """Energies of the steps above the converged one, millihartree; [T]."""
        return MILLI * (self.steps.electronic - self.steps.electronic[-1])

    @property
    def frozen_excess(self) -> np.ndarray:
        """The same of the samples in frozen potentials, [S]."""
        return MILLI * (self.frozen.electronic - self.steps.electronic[-1])

    @property
    def frozen_distance(self) -> np.ndarray:
        """Norm of their density difference to the ground state, integral of (rho - rho_0)^2 under the root; [S]."""
        moved = self.frozen.coefficients - self.steps.coefficients[-1]
        return np.sqrt(np.einsum("sm,mn,sn->s", moved, self.system.integrals.overlap, moved))

    def step_errors(self, *, projected: bool = False, corrected: bool = True) -> np.ndarray:
        """Relative error of the trapezoid rule between consecutive steps: gradient labels against value labels.

        projected: the gradients' part along the electron number removed; corrected: value labels of the fitted density,
        instead of the kinetic energy of the orbitals. [T - 1]
        """
        integrals, labels = self.system.integrals, self.steps
        gradients, w = labels.target_gradient("Ts", integrals), integrals.basis_integrals
        if projected:
            gradients = gradients - np.outer(gradients @ w, w) / (w @ w)
        predicted = 0.5 * ((gradients[1:] + gradients[:-1]) * np.diff(labels.coefficients, axis=0)).sum(1)
        values = np.diff(labels.value("Ts", integrals) if corrected else labels.kinetic)
        return np.abs(predicted / values - 1.0)

    def largest_slope(self) -> float:
        """Largest component of the energy's gradient at the ground state, hartree; exact labels make it vanish."""
        potential = potential_gradients(self.system, self.steps.coefficients[-1:])[0]
        return float(np.abs(potential + self.steps.gradient[-1]).max())

    def fit_errors(self) -> dict[str, float]:
        """What the fit of the converged density misses: energies in millihartree, and electrons."""
        parts, integrals = self.run.steps[-1].parts, self.system.integrals
        p = self.steps.coefficients[-1]
        return {
            "Hartree energy (mHa)": MILLI * (0.5 * float(p @ integrals.coulomb @ p) - parts.hartree),
            "external energy (mHa)": MILLI * (float(p @ integrals.external) - parts.external),
            "exchange-correlation (mHa)": MILLI * (self.steps.exchange_correlation[-1] - parts.exchange_correlation),
            "number of electrons": float(p @ integrals.basis_integrals) - integrals.num_electrons,
        }


def label_study(*, index: int, num_frozen: int, grid_level: int, seed: int) -> LabelStudy:
    """Kohn-Sham on one test geometry of water, every step labelled, and samples in frozen potentials."""
    system, run = solved(geometry("water", "test", index), grid_level=grid_level)
    random = np.random.default_rng(seed)
    frozen = frozen_labels(system, run, FrozenSampling(count=num_frozen), random)
    return LabelStudy(system, run, step_labels(system, run), frozen)


@dataclass(frozen=True)
class Throughput:
    """CPU seconds a sample: fit and gradient of the same density matrices, made two ways; largest difference."""

    num_samples: int
    ours: float
    generic: float
    difference: float  # of coefficients, relative

    @property
    def ratio(self) -> float:
        """How much cheaper ours is."""
        return self.generic / self.ours


def throughput(study: LabelStudy) -> Throughput:
    """Fit and exchange-correlation gradient of every step: one pseudo-inverse and one table of basis values, against a
    least-squares solution and a new table for each sample."""
    matrices = np.stack([step.matrix for step in study.run.steps])
    ours, fitted = _timed(lambda: _label_together(study.system, matrices))
    generic, alone = _timed(lambda: np.stack([_label_alone(study, matrix) for matrix in matrices]))
    difference = float(np.abs(alone - fitted).max() / np.abs(fitted).max())
    return Throughput(len(matrices), ours / len(matrices), generic / len(matrices), difference)


def _timed(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    started = process_time()
    found = work()
    return process_time() - started, found


def _label_together(system: System, matrices: np.ndarray) -> np.ndarray:
    coefficients = system.fit(matrices)
    coefficient_exchange_correlation(system.grid, coefficients)
    return coefficients


def _label_alone(study: LabelStudy, matrix: np.ndarray) -> np.ndarray:
    """One sample as a library's user would label it: nothing kept from the sample before."""
    system, integrals = study.system, study.system.integrals
    stacked = np.concatenate([integrals.coulomb, integrals.external[None]])
    flat = matrix.reshape(-1)
    right = np.concatenate([flat @ system.fit.pairs, [flat @ system.fit.attraction]])
    coefficients = np.linalg.lstsq(stacked, right, rcond=None)[0]
    grid = build_grid(system.molecule, level=1)
    coefficient_exchange_correlation(grid, coefficients[None])
    return coefficients


def packed_labels(name: str = PACKED) -> list[LabelledMolecule]:
    """The labelled molecules of a packed set in data/sets. Raises what `read_pack` and the check of its sum raise."""
    return read_pack(data_path(name))[2]
