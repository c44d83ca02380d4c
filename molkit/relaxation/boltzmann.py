"""Is a chain at fixed noise a Boltzmann sampler? Variances along the eigenvectors of the Hessian can tell."""

import math
from dataclasses import dataclass

import numpy as np

from molkit.chem.xtb import EnergyFunction
from molkit.errors import CalculationFailed, InvalidInput
from molkit.geometry import superpose
from molkit.metrics.statistics import Interval
from molkit.units import BOLTZMANN_EV

SMALLEST_CONSTANT = 1e-3  # eV/angstrom^2; a softer mode is no harmonic one


@dataclass(frozen=True)
class Modes:
    """Eigenvectors of the Cartesian Hessian (not mass-weighted) without rigid motions.

    constants [M] in eV/angstrom^2, ascending; vectors [M, A, 3], orthonormal.
    """

    constants: np.ndarray
    vectors: np.ndarray

    @property
    def trace(self) -> float:
        """Sum of the force constants, eV/angstrom^2."""
        return float(self.constants.sum())


def cartesian_hessian(energy: EnergyFunction, positions: np.ndarray, *, step: float = 5e-3) -> np.ndarray:
    """Second derivatives [3 A, 3 A] in eV/angstrom^2 by central differences of forces, 6 A evaluations."""
    flat = positions.reshape(-1)
    rows = []
    for k in range(len(flat)):
        moved = np.zeros_like(flat)
        moved[k] = step
        ahead = energy((flat + moved).reshape(positions.shape)).forces
        behind = energy((flat - moved).reshape(positions.shape)).forces
        rows.append(-(ahead - behind).reshape(-1) / (2.0 * step))
    hessian = np.array(rows)
    return 0.5 * (hessian + hessian.T)


def rigid_motions(positions: np.ndarray) -> np.ndarray:
    """Orthonormal basis [R, 3 A] of translations and infinitesimal rotations; R is 6, or 5 for a line."""
    centred = positions - positions.mean(axis=0)
    shifts = [np.tile(axis, (len(positions), 1)) for axis in np.eye(3)]
    turns = [np.cross(np.tile(axis, (len(positions), 1)), centred) for axis in np.eye(3)]
    left, values, _ = np.linalg.svd(
        np.stack([one.reshape(-1) for one in (*shifts, *turns)], axis=1), full_matrices=False
    )
    return left[:, values > 1e-8 * values.max()].T


def modes(hessian: np.ndarray, positions: np.ndarray) -> Modes:
    """Eigenvectors of a Hessian [3 A, 3 A] on the space without rigid motions.

    Raises InvalidInput where a constant is below 1e-3 eV/angstrom^2: the geometry is no minimum, or not harmonic.
    """
    rigid = rigid_motions(positions)
    inside = np.linalg.svd(rigid)[2][len(rigid) :]
    constants, vectors = np.linalg.eigh(inside @ hessian @ inside.T)
    if constants[0] < SMALLEST_CONSTANT:
        raise InvalidInput(
            f"a mode has the force constant {constants[0]:.2g} eV/angstrom^2; relax the geometry further"
        )
    return Modes(constants, (inside.T @ vectors).T.reshape(len(constants), -1, 3))


def mode_amplitudes(frames: np.ndarray, minimum: np.ndarray, found: Modes) -> np.ndarray:
    """Displacements along the modes, [F, M] in angstrom, of frames [F, A, 3] superposed on the minimum [A, 3]."""
    moved = np.stack([superpose(frame, minimum) - minimum for frame in frames])
    return np.einsum("fax,max->fm", moved, found.vectors)


def mode_slope(
    constants: np.ndarray,
    variances: np.ndarray,
    molecules: np.ndarray | None = None,
    *,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Slope of log variance against log force constant over modes [K], with an intercept for each molecule.

    -1 for a Boltzmann sample of harmonic modes, 0 for isotropic noise. The interval is a bootstrap over molecules and,
    inside each, over modes. Raises InvalidInput for fewer than three modes or a variance that is not positive.
    """
    owner = np.zeros(len(constants), dtype=int) if molecules is None else np.asarray(molecules)
    if len(constants) < 3 or len(constants) != len(variances) or not (np.asarray(variances) > 0).all():
        raise InvalidInput(f"need at least three modes with a positive variance each, got {len(constants)}")
    x, y = np.log(constants), np.log(variances)
    groups = [np.flatnonzero(owner == name) for name in np.unique(owner)]
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(num_resamples):
        chosen = [groups[k] for k in random.integers(len(groups), size=len(groups))]
        drawn.append(_pooled_slope(x, y, [rows[random.integers(len(rows), size=len(rows))] for rows in chosen]))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    value = _pooled_slope(x, y, groups)
    return Interval(value, min(float(low), value), max(float(high), value), level)


def _pooled_slope(x: np.ndarray, y: np.ndarray, groups: list[np.ndarray]) -> float:
    across = sum(((x[rows] - x[rows].mean()) * y[rows]).sum() for rows in groups)
    square = sum(((x[rows] - x[rows].mean()) ** 2).sum() for rows in groups)
    return float(across / square)


def slope_missed_by(slope: Interval) -> float:
    """How far the interval is from passing: 0 where it holds -1 and leaves out 0, 1 where it holds both."""
    if slope.low <= -1.0 <= slope.high:
        return 1.0 if slope.high >= 0.0 else 0.0
    return min(abs(slope.low + 1.0), abs(slope.high + 1.0))


def boltzmann_spread(num_modes: int) -> float:
    """Standard deviation over mean of the energy of harmonic modes at any temperature: sqrt(2 / M)."""
    return math.sqrt(2.0 / num_modes)


def isotropic_spread(constants: np.ndarray) -> float:
    """The same for displacements of equal variance along all modes: sqrt(2 sum w^2) / sum w. Source: derived here."""
    return float(math.sqrt(2.0 * (constants**2).sum()) / constants.sum())


def stationary_variance(sigma_now: float, sigma_next: float) -> float:
    """Variance of a coordinate in the fixed-noise chain of a model that always points at one geometry.

    v = r sigma_t^2 / (1 + r) with r = sigma_{t-1}^2 / sigma_t^2, per coordinate of a denoiser that knows the frame.
    Source: derived here; the chain is then an autoregression.
    """
    ratio = sigma_next**2 / sigma_now**2
    return ratio * sigma_now**2 / (1.0 + ratio)


@dataclass(frozen=True)
class MetropolisChain:
    """A Metropolis chain: energies [F] in eV above the minimum and positions [F, A, 3], every `thin` steps."""

    energies: np.ndarray
    positions: np.ndarray
    acceptance: float
    num_failed: int  # proposals without an energy; they are refused


def metropolis(
    energy: EnergyFunction,
    minimum: np.ndarray,
    found: Modes,
    *,
    kelvin: float,
    num_steps: int,
    thin: int = 5,
    scale: float = 0.5,
    generator: np.random.Generator,
) -> MetropolisChain:
    """Metropolis at a temperature with proposals scaled by mode, so that soft modes move as fast as stiff ones.

    A proposal adds scale sqrt(kT / max(w, 0.05 eV/angstrom^2)) normal numbers along the modes, a symmetric rule.
    Source: Metropolis et al. 1953; the scaling is ours. A proposal without an energy is refused and counted.
    """
    heat = BOLTZMANN_EV * kelvin
    widths = scale * np.sqrt(heat / np.maximum(found.constants, 0.05)) * math.sqrt(6.0 / len(found.constants))
    lowest = energy(minimum).energy
    place, height, accepted, failed = minimum.copy(), 0.0, 0, 0
    energies, frames = [], []
    for step in range(num_steps):
        move = np.einsum("m,max->ax", widths * generator.normal(size=len(widths)), found.vectors)
        threshold = generator.random()
        try:
            proposed = energy(place + move).energy - lowest
        except CalculationFailed:
            proposed, failed = math.inf, failed + 1
        if proposed <= height or threshold < math.exp(-(proposed - height) / heat):
            place, height, accepted = place + move, proposed, accepted + 1
        if (step + 1) % thin == 0:
            energies.append(height)
            frames.append(place)
    return MetropolisChain(np.array(energies), np.array(frames), accepted / num_steps, failed)


def effective_samples(values: np.ndarray) -> float:
    """Effective number of independent samples in a correlated series [F], by the initial positive sequence.

    F / (1 + 2 sum of autocorrelations), summed in pairs until a pair is negative. Source: Geyer, Stat. Sci. 7, 473
    (1992). Raises InvalidInput for fewer than four values.
    """
    count = len(values)
    if count < 4:
        raise InvalidInput(f"an autocorrelation needs at least four values, got {count}")
    centred = np.asarray(values, dtype=float) - np.mean(values)
    if not centred.any():
        return 1.0
    spectrum = np.fft.rfft(centred, 2 * count)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:count]
    correlation = correlation / correlation[0]
    pairs = correlation[: count - count % 2].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs <= 0)
    used = pairs[: negative[0]] if len(negative) else pairs
    return float(count / max(2.0 * used.sum() - 1.0, 1.0 / count))
