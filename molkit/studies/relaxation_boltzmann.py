"""Boltzmann sampling put to a test that can fail: chains at fixed noise, Metropolis chains, and the isotropic null."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from molkit.chem.rdkit_tools import perceived_smiles
from molkit.chem.xtb import XtbEnergy, relax
from molkit.claims.ledger import Measurement
from molkit.claims.store import record
from molkit.data.qm9 import load_qm9
from molkit.edm.model import load
from molkit.edm.published import training_facts
from molkit.edm.schedule import sigma
from molkit.errors import CalculationFailed, InvalidInput
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.molecule import Molecule
from molkit.relaxation import boltzmann
from molkit.relaxation.boltzmann import Modes, effective_samples, mode_amplitudes, mode_slope
from molkit.relaxation.chains import walk_on_the_spot
from molkit.relaxation.comparison import dihedral_angles, dihedrals
from molkit.relaxation.denoisers import Denoiser, ExactDenoiser, NetworkDenoiser
from molkit.rng import generator_from
from molkit.units import BOLTZMANN_EV, EV_TO_KCAL

HEAVY = (5, 6)
STEPS = (10, 20, 30, 40)
KELVIN = 300.0
SHAPED_STEP = 20
BURN_IN = 0.2  # of every chain
FEWEST_FRAMES = 10  # of a chain, from which a variance is taken
TIGHT = 0.005  # eV/angstrom, of the minimum behind a Hessian


@dataclass(frozen=True, eq=False)
class Harmonic:
    """A molecule at its GFN2-xTB minimum with the modes of its Cartesian Hessian."""

    molecule: Molecule
    smiles: str
    modes: Modes
    energy: float  # eV, of the minimum


@dataclass(frozen=True, eq=False)
class Series:
    """One kind of chain of one molecule."""

    label: str
    step: int | None  # of the schedule; None for Metropolis
    molecule: int
    energies: np.ndarray  # kcal/mol above the minimum, frames without an energy left out
    variances: np.ndarray  # angstrom^2 along the modes, about the chain's own mean
    angles: np.ndarray  # [F, Q] degrees
    effective: float  # independent samples in the energies
    num_failed: int
    acceptance: float | None = None

    def spread(self) -> float:
        """Standard deviation over mean of the energy."""
        return float(self.energies.std() / self.energies.mean())


def is_acyclic_single_bonded(smiles: str | None) -> bool:
    """No ring, no multiple bond, no charge, one piece. Source: Rothchild et al. 2024, choice of molecules."""
    return smiles is not None and not set(smiles) & set("=#+-.0123456789")


def choose_molecules(count: int) -> list[tuple[Molecule, str]]:
    """Held-back molecules of five or six heavy atoms of that kind, spread evenly."""
    pack = load_qm9(split="test")
    heavy = np.add.reduceat((pack.atomic_numbers > 1).astype(int), pack.ptr[:-1])
    found = []
    for row in np.flatnonzero((heavy >= HEAVY[0]) & (heavy <= HEAVY[1])):
        molecule = pack[int(row)]
        smiles = perceived_smiles(molecule)
        if is_acyclic_single_bonded(smiles):
            found.append((molecule, smiles))
    return [found[k * len(found) // count] for k in range(min(count, len(found)))]


def harmonic(molecule: Molecule, smiles: str) -> Harmonic:
    """Relax tightly and take the Hessian. Raises CalculationFailed or InvalidInput where no harmonic minimum is."""
    energy = XtbEnergy(molecule)
    ended = relax(molecule, energy=energy, optimiser="bfgs", fmax=TIGHT, max_steps=500)
    if not ended.converged:
        raise CalculationFailed(f"{smiles}: no tight minimum was reached")
    centred = ended.positions - ended.positions.mean(axis=0)
    found = boltzmann.modes(boltzmann.cartesian_hessian(energy, centred), centred)
    return Harmonic(molecule.with_positions(centred), smiles, found, energy(centred).energy)


def series(
    label: str, step: int | None, row: int, one: Harmonic, frames: np.ndarray, *, acceptance: float | None = None
) -> Series:
    """Energies, variances along the modes and dihedrals of the frames [F, A, 3] after the burn-in."""
    frames = frames[int(BURN_IN * len(frames)) :]
    energy, heights, failed = XtbEnergy(one.molecule), [], 0
    for frame in frames:
        try:
            heights.append((energy(frame).energy - one.energy) * EV_TO_KCAL)
        except CalculationFailed:
            failed += 1
    if len(heights) < 4:
        raise CalculationFailed(f"{label}: {failed} of {len(frames)} frames have no energy")
    amplitudes = mode_amplitudes(frames, one.molecule.positions, one.modes)
    quadruples = dihedrals(one.molecule.positions, one.molecule.atomic_numbers)
    return Series(
        label, step, row, np.array(heights), amplitudes.var(axis=0), dihedral_angles(frames, quadruples),
        effective_samples(np.array(heights)), failed, acceptance,
    )  # fmt: skip


def shaped_noise(found: Modes, variance: float, kelvin: float) -> Callable[[Tensor], Tensor]:
    """Noise whose variance along each mode is kT / w instead of `variance`, at most 4 times it; no rigid motion.

    With it a model that always points at the minimum becomes a Boltzmann sampler of harmonic modes. Derived here.
    """
    wanted = np.minimum(BOLTZMANN_EV * kelvin / found.constants, 4.0 * variance)
    basis = found.vectors.reshape(len(wanted), -1)
    matrix = torch.from_numpy((basis.T * np.sqrt(wanted / variance)) @ basis)
    return lambda noise: (matrix.to(noise.dtype) @ noise.reshape(-1)).reshape(-1, 3)


@dataclass(frozen=True)
class Study:
    """All series, the molecules, and what it cost."""

    weights: str
    molecules: tuple[Harmonic, ...]
    series: tuple[Series, ...]
    seconds: float
    failures: tuple[str, ...]

    def of(self, label: str, step: int | None) -> list[Series]:
        """Series of one kind, by molecule."""
        return [one for one in self.series if (one.label, one.step) == (label, step)]

    def kinds(self) -> list[tuple[str, int | None]]:
        """Kinds of chains in the order of the study."""
        return list(dict.fromkeys((one.label, one.step) for one in self.series))

    def slope(self, label: str, step: int | None) -> Interval:
        """Slope of log variance against log force constant over the modes of all molecules."""
        found = self.of(label, step)
        constants = np.concatenate([self.molecules[one.molecule].modes.constants for one in found])
        owners = np.concatenate([np.full(len(one.variances), one.molecule) for one in found])
        return mode_slope(constants, np.concatenate([one.variances for one in found]), owners)


EDM, EXACT, METROPOLIS, SHAPED = "diffusion", "perfect model", "Metropolis", "diffusion, Hessian-shaped noise"


def run_study(
    weights: str, *, num_molecules: int, num_steps: int, metropolis_steps: int, thin: int = 5, seed: int = 0
) -> Study:
    """Chains of the model and of a perfect model at four levels, shaped noise at one, and Metropolis at 300 K.

    Raises InvalidInput for chains too short to have a variance.
    """
    if min(num_steps, metropolis_steps) < FEWEST_FRAMES * thin:
        raise InvalidInput(
            f"num_steps and metropolis_steps must be at least {FEWEST_FRAMES * thin}, got {num_steps} and "
            f"{metropolis_steps}: one frame in {thin} is kept, and {FEWEST_FRAMES} are needed"
        )
    torch.set_num_threads(1)
    began = perf_counter()
    network = NetworkDenoiser(load(weights))
    molecules, made, failures = [], [], []
    for molecule, smiles in choose_molecules(num_molecules):
        molecules.append(harmonic(molecule, smiles))
    options = {"num_steps": num_steps, "thin": thin, "seed": seed}
    for row, one in enumerate(molecules):
        exact = ExactDenoiser.knowing(network.config, network.log_snr, [one.molecule])
        jobs = [(EDM, network, step, None) for step in STEPS] + [(EXACT, exact, step, None) for step in STEPS]
        shape = shaped_noise(one.modes, _variance(network, SHAPED_STEP), KELVIN)
        jobs += [(SHAPED, network, SHAPED_STEP, shape)]
        for label, denoiser, step, form in jobs:
            try:
                frames = _walk(denoiser, one, step, form, **options)
                made.append(series(label, step, row, one, frames))
            except CalculationFailed as error:
                failures.append(f"{one.smiles}, {error}")
        made.append(_metropolis(row, one, metropolis_steps, thin, seed))
    return Study(weights, tuple(molecules), tuple(made), perf_counter() - began, tuple(failures))


def _variance(denoiser: Denoiser, step: int) -> float:
    return boltzmann.stationary_variance(float(sigma(denoiser.log_snr[step])), float(sigma(denoiser.log_snr[step - 1])))


def _walk(denoiser: Denoiser, one: Harmonic, step: int, shape, *, num_steps: int, thin: int, seed: int) -> np.ndarray:
    generator = generator_from("boltzmann", seed, one.smiles, step)
    options = {"step": step, "num_steps": num_steps, "generator": generator, "thin": thin, "shape": shape}
    frames = walk_on_the_spot(denoiser, [one.molecule], **options)
    if not np.isfinite(frames).all():
        raise CalculationFailed("the chain did not stay finite")
    return frames


def _metropolis(row: int, one: Harmonic, num_steps: int, thin: int, seed: int) -> Series:
    chain = boltzmann.metropolis(
        XtbEnergy(one.molecule), one.molecule.positions, one.modes, kelvin=KELVIN, num_steps=num_steps, thin=thin,
        generator=np.random.default_rng([seed, row]),
    )  # fmt: skip
    found = series(METROPOLIS, None, row, one, chain.positions, acceptance=chain.acceptance)
    return found


def mean_energy_exponent(found: Study, label: str) -> Interval:
    """Exponent of the mean energy in the step: slope of their logarithms, mean and interval over molecules."""
    slopes = []
    for row in range(len(found.molecules)):
        points = [(one.step, one.energies.mean()) for one in found.series if (one.label, one.molecule) == (label, row)]
        steps, energies = np.log(np.array(points, dtype=float).T)
        slopes.append(float(np.polyfit(steps, energies, 1)[0]))
    return bootstrap_interval(np.array(slopes))


def temperature(one: Series, found: Study) -> float:
    """Temperature at which harmonic modes would have this mean energy, kelvin."""
    num_modes = len(found.molecules[one.molecule].modes.constants)
    return 2.0 * float(one.energies.mean()) / EV_TO_KCAL / (num_modes * BOLTZMANN_EV)


def room_temperature_step(found: Study, label: str = EDM) -> int:
    """The step of the study whose chains come nearest to 300 K in mean energy, by ratio."""
    ratios = {}
    for step in STEPS:
        heats = [temperature(one, found) for one in found.of(label, step)]
        if heats:
            ratios[step] = abs(math.log(float(np.mean(heats)) / KELVIN))
    return min(ratios, key=ratios.get)


def measurements(found: Study, *, seed: int) -> list[Measurement]:
    """The slope at the step nearest to room temperature, and the exponent of the mean energy."""
    facts = training_facts(found.weights)
    step = room_temperature_step(found)
    slope = found.slope(EDM, step)
    exponent = mean_energy_exponent(found, EDM)
    common = {
        "n": len(found.molecules), "counts": "molecules", "basis": "trained_here", "weights": found.weights,
        "training_passes": facts.passes, "seeds": [seed], "seconds": found.seconds,
    }  # fmt: skip
    words = f"slope {slope.value:.2f} [{slope.low:.2f}, {slope.high:.2f}] at step {step}, the nearest to 300 K"
    return [
        record(
            "relaxation.boltzmann.slope_missed_by", boltzmann.slope_missed_by(slope), interval=None,
            interval_kind="exact", notes=words, **common,
        ),
        record(
            "relaxation.boltzmann.energy_exponent", exponent.value, interval=(exponent.low, exponent.high),
            interval_kind="bootstrap over molecules, 95 %", **common,
        ),
    ]  # fmt: skip


def labels_of(kinds: Sequence[tuple[str, int | None]]) -> list[str]:
    """Names of kinds of chains for tables."""
    return [label if step is None else f"{label}, step {step}" for label, step in kinds]
