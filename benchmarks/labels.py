"""Labelled densities per CPU hour: one pseudo-inverse and one table of basis values a molecule, against one a sample.

Run: python -m benchmarks.labels. Prints JSON. Both loops label identical samples of one molecule in one process; every
set-up that a loop needs for itself is counted to it. The Kohn-Sham calculation that makes the samples is counted to
neither and printed beside.
"""

import json
import sys
from collections.abc import Callable
from time import process_time

import numpy as np

from molkit.ofdft.basis import density_mole
from molkit.ofdft.fitting import density_fit
from molkit.ofdft.geometries import geometry
from molkit.ofdft.grid import build_grid, coefficient_exchange_correlation
from molkit.ofdft.integrals import three_centre
from molkit.ofdft.kohn_sham import System, build_system, solve
from molkit.ofdft.labels import kinetic_functional

SAMPLES = 40
GRID_LEVEL = 2


def samples_of(system: System) -> tuple[np.ndarray, float]:
    """Density matrices [SAMPLES, N, N] of a calculation, repeated, and CPU seconds of the calculation."""
    started = process_time()
    matrices = np.stack([step.matrix for step in solve(system).steps])
    return np.resize(matrices, (SAMPLES, *matrices.shape[1:])), process_time() - started


def shared(system: System, matrices: np.ndarray) -> np.ndarray:
    """All samples with everything made once."""
    integrals = system.integrals
    pairs = three_centre(system.orbitals, density_mole(system.molecule), "coulomb")
    fit = density_fit(integrals, pairs, system.core - system.kinetic)
    grid = build_grid(system.molecule, level=GRID_LEVEL)
    coefficients = fit(matrices)
    coefficient_exchange_correlation(grid, coefficients)
    kinetic_functional("APBE", grid, coefficients)
    return coefficients


def alone(system: System, matrices: np.ndarray, *, keep_grid: bool) -> np.ndarray:
    """Sample by sample: a least-squares solution each; the grid and its basis values anew unless kept."""
    integrals = system.integrals
    flat_pairs = three_centre(system.orbitals, density_mole(system.molecule), "coulomb").reshape(
        -1, len(integrals.external)
    )
    attraction = (system.core - system.kinetic).reshape(-1)
    stacked = np.concatenate([integrals.coulomb, integrals.external[None]])
    grid = build_grid(system.molecule, level=GRID_LEVEL) if keep_grid else None
    found = []
    for matrix in matrices:
        flat = matrix.reshape(-1)
        right = np.concatenate([flat @ flat_pairs, [flat @ attraction]])
        coefficients = np.linalg.lstsq(stacked, right, rcond=None)[0]
        used = grid or build_grid(system.molecule, level=GRID_LEVEL)
        coefficient_exchange_correlation(used, coefficients[None])
        kinetic_functional("APBE", used, coefficients[None])
        found.append(coefficients)
    return np.stack(found)


def measure() -> dict[str, float | str | int]:
    """Rates of the three loops on water, and how well their coefficients agree."""
    system = build_system(geometry("water", "test", 0), grid_level=GRID_LEVEL)
    matrices, solving = samples_of(system)
    shared(system, matrices[:2])  # imports and first calls
    ours, coefficients = timed(lambda: shared(system, matrices))
    kept, _ = timed(lambda: alone(system, matrices, keep_grid=True))
    generic, others = timed(lambda: alone(system, matrices, keep_grid=False))
    return {
        "molecule": "H2O",
        "samples": SAMPLES,
        "grid_level": GRID_LEVEL,
        "samples_per_cpu_hour": round(3600 * SAMPLES / ours),
        "generic_samples_per_cpu_hour": round(3600 * SAMPLES / generic),
        "generic_with_kept_grid_samples_per_cpu_hour": round(3600 * SAMPLES / kept),
        "ratio": round(generic / ours, 2),
        "ratio_with_kept_grid": round(kept / ours, 2),
        "kohn_sham_cpu_seconds": round(solving, 3),
        "difference_of_coefficients": float(f"{np.abs(coefficients - others).max():.2e}"),
    }


def timed(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """CPU seconds and result."""
    started = process_time()
    found = work()
    return process_time() - started, found


if __name__ == "__main__":
    json.dump(measure(), sys.stdout, indent=1)
    print()
