"""Boltzmann sampling put to a test that can fail: chains at fixed noise, Metropolis chains, and the isotropic null."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from molkit.chem.rdkit_tools import perceived_smiles
from molkit.chem.xtb import XtbEnergy, relax
from molkit.claims.ledger import Measurement
from molkit.claims.record import record
from molkit.data.qm9 import load_qm9
from molkit.data.registry import data_root
from molkit.edm.model import load
from molkit.edm.published import training_facts
from molkit.edm.schedule import sigma
from molkit.errors import CalculationFailed, InvalidInput
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column
from molkit.figures.style import BLACK, BLUE, GREEN, ORANGE, panels
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.molecule import Molecule
from molkit.relaxation import boltzmann
from molkit.relaxation.boltzmann import Modes, effective_samples, mode_amplitudes, mode_slope
from molkit.relaxation.chains import walk_on_the_spot
from molkit.relaxation.comparison import dihedral_angles, dihedrals
from molkit.relaxation.denoisers import Denoiser, ExactDenoiser, NetworkDenoiser
from molkit.rng import generator_from
from molkit.training.weights import weight_files
from molkit.units import BOLTZMANN_EV, EV_TO_KCAL

HEAVY = (5, 7)
STEPS = (10, 20, 30, 40)
KELVIN = 300.0
SHAPED_STEP = 20
BURN_IN = 0.2  # of every chain
FEWEST_FRAMES = 10  # of a chain, from which a variance is taken
TIGHT = 0.005  # eV/angstrom, of the minimum behind a Hessian
BINS = np.arange(-180, 181, 6)  # degrees
EDM, EXACT, METROPOLIS, SHAPED = "diffusion", "perfect model", "Metropolis", "diffusion, Hessian-shaped noise"
KINDS = [*((EDM, step) for step in STEPS), *((EXACT, step) for step in STEPS), (SHAPED, SHAPED_STEP), (METROPOLIS, 0)]
COLOURS = {EDM: BLUE, EXACT: BLACK, METROPOLIS: GREEN, SHAPED: ORANGE}
AUDIT = Comparison(alike={"kelvin": 400.0, "spread": 1.0}, by=("kind", "step"))


@dataclass(frozen=True)
class Task:
    """All chains of one molecule: the model's and a perfect model's at four levels, shaped noise, and Metropolis."""

    molecule: str
    weights: str
    num_steps: int
    metropolis_steps: int
    thin: int  # one frame in so many is kept
    seed: int

    @property
    def files(self) -> list[Path]:
        """Weights and data behind the task."""
        return [*weight_files(self.weights), data_root() / "qm9.npz"]


@asked
def tasks(
    *,
    molecules: int = 8,
    weights: str = "edm_qm9",
    num_steps: int = 800,
    metropolis_steps: int = 3000,
    thin: int = 5,
    seed: int = 0,
) -> list[Task]:
    """Held-back acyclic molecules of five to seven heavy atoms, spread evenly: a task for each.

    Raises InvalidInput for chains too short to have a variance, or more molecules than there are.
    """
    if thin < 1 or min(num_steps, metropolis_steps) < FEWEST_FRAMES * thin:
        raise InvalidInput(
            f"num_steps and metropolis_steps must be at least {FEWEST_FRAMES * thin}, got {num_steps} and "
            f"{metropolis_steps}: one frame in {thin} is kept, and {FEWEST_FRAMES} are needed"
        )
    names = list(_choices())
    if not 1 <= molecules <= len(names):
        raise InvalidInput(f"there are 1 to {len(names)} such molecules, asked for {molecules}")
    chosen = [names[k * len(names) // molecules] for k in range(molecules)]
    return [Task(name, weights, num_steps, metropolis_steps, thin, seed) for name in chosen]


def measure(task: Task) -> list[dict[str, Any]]:
    """A row for each kind of chain, `step` 0 for Metropolis; a chain that was lost says why in `failure`.

    energy: mean above the minimum, kcal/mol; kelvin: the temperature at which harmonic modes have it; spread: standard
    deviation over mean; effective: independent samples in the energies; num_failed: frames without an energy;
    constants (eV/angstrom^2) and variances (angstrom^2) of the modes; angles: for each dihedral of heavy atoms the
    share of frames in bins of 6 degrees. Raises CalculationFailed or InvalidInput where no harmonic minimum is.
    """
    torch.set_num_threads(1)
    molecule, smiles = _choices()[task.molecule]
    one, network = harmonic(molecule, smiles), NetworkDenoiser(load(task.weights))
    exact = ExactDenoiser.knowing(network.config, network.log_snr, [one.molecule])
    shape = shaped_noise(one.modes, _variance(network, SHAPED_STEP), KELVIN)
    walkers = {EDM: (network, None), EXACT: (exact, None), SHAPED: (network, shape)}
    rows = []
    for kind, step in KINDS:
        told: dict[str, Any] = dict.fromkeys(("energy", "kelvin", "spread", "effective", "variances", "angles"))
        told |= {"num_failed": None, "acceptance": None, "failure": ""}
        try:
            if kind == METROPOLIS:
                chain = _metropolis(one, task)
                frames, told["acceptance"] = chain.positions, round(chain.acceptance, 3)
            else:
                frames = _walk(*walkers[kind], one, step, task)
            told |= summary(one, frames)
        except CalculationFailed as error:
            told["failure"] = str(error)
        about = {"smiles": smiles, "constants": one.modes.constants.round(5).tolist()}
        rows.append({"kind": kind, "step": step, **about, **told})
    return rows


@dataclass(frozen=True, eq=False)
class Harmonic:
    """A molecule at its GFN2-xTB minimum with the modes of its Cartesian Hessian."""

    molecule: Molecule
    smiles: str
    modes: Modes
    energy: float  # eV, of the minimum


def is_acyclic_single_bonded(smiles: str | None) -> bool:
    """No ring, no multiple bond, no charge, one piece. Source: Rothchild et al. 2024, choice of molecules."""
    return smiles is not None and not set(smiles) & set("=#+-.0123456789")


@lru_cache(maxsize=1)
def _choices() -> dict[str, tuple[Molecule, str]]:
    """Held-back molecules of five to seven heavy atoms of that kind, with their SMILES, by name."""
    pack = load_qm9(split="test")
    heavy = np.add.reduceat((pack.atomic_numbers > 1).astype(int), pack.ptr[:-1])
    rows = np.flatnonzero((heavy >= HEAVY[0]) & (heavy <= HEAVY[1]))
    found = [(pack[int(row)], perceived_smiles(pack[int(row)])) for row in rows]
    return {molecule.name: (molecule, smiles) for molecule, smiles in found if is_acyclic_single_bonded(smiles)}


def harmonic(molecule: Molecule, smiles: str) -> Harmonic:
    """Relax tightly and take the Hessian. Raises CalculationFailed or InvalidInput where no harmonic minimum is."""
    energy = XtbEnergy(molecule)
    ended = relax(molecule, energy=energy, optimiser="bfgs", fmax=TIGHT, max_steps=500)
    if not ended.converged:
        raise CalculationFailed(f"{smiles}: no tight minimum was reached")
    centred = ended.positions - ended.positions.mean(axis=0)
    found = boltzmann.modes(boltzmann.cartesian_hessian(energy, centred), centred)
    return Harmonic(molecule.with_positions(centred), smiles, found, energy(centred).energy)


def summary(one: Harmonic, frames: np.ndarray) -> dict[str, Any]:
    """What the frames [F, A, 3] of a chain come to after the burn-in, see `measure`."""
    frames = frames[int(BURN_IN * len(frames)) :]
    energy, heights = XtbEnergy(one.molecule), []
    for frame in frames:
        try:
            heights.append((energy(frame).energy - one.energy) * EV_TO_KCAL)
        except CalculationFailed:
            continue
    if len(heights) < 4:
        raise CalculationFailed(f"{len(frames) - len(heights)} of {len(frames)} frames have no energy")
    quadruples = dihedrals(one.molecule.positions, one.molecule.atomic_numbers)
    angles = dihedral_angles(frames, quadruples).T
    mean = float(np.mean(heights))
    return {
        "energy": round(mean, 4),
        "kelvin": round(2.0 * mean / EV_TO_KCAL / (len(one.modes.constants) * BOLTZMANN_EV), 2),
        "spread": round(float(np.std(heights)) / mean, 4),
        "effective": round(effective_samples(np.array(heights)), 2),
        "num_failed": len(frames) - len(heights),
        "variances": [
            float(f"{v:.5g}") for v in mode_amplitudes(frames, one.molecule.positions, one.modes).var(axis=0)
        ],
        "angles": [(np.histogram(each, BINS)[0] / len(each)).round(4).tolist() for each in angles],
    }


def shaped_noise(found: Modes, variance: float, kelvin: float) -> Callable[[Tensor], Tensor]:
    """Noise whose variance along each mode is kT / w instead of `variance`, at most 4 times it; no rigid motion.

    With it a model that always points at the minimum becomes a Boltzmann sampler of harmonic modes. Derived here.
    """
    wanted = np.minimum(BOLTZMANN_EV * kelvin / found.constants, 4.0 * variance)
    basis = found.vectors.reshape(len(wanted), -1)
    matrix = torch.from_numpy((basis.T * np.sqrt(wanted / variance)) @ basis)
    return lambda noise: (matrix.to(noise.dtype) @ noise.reshape(-1)).reshape(-1, 3)


def _variance(denoiser: Denoiser, step: int) -> float:
    return boltzmann.stationary_variance(float(sigma(denoiser.log_snr[step])), float(sigma(denoiser.log_snr[step - 1])))


def _walk(denoiser: Denoiser, shape: Callable | None, one: Harmonic, step: int, task: Task) -> np.ndarray:
    generator = generator_from("boltzmann", task.seed, one.smiles, step)
    options = {"step": step, "num_steps": task.num_steps, "generator": generator, "thin": task.thin, "shape": shape}
    frames = walk_on_the_spot(denoiser, [one.molecule], **options)
    if not np.isfinite(frames).all():
        raise CalculationFailed("the chain did not stay finite")
    return frames


def _metropolis(one: Harmonic, task: Task) -> boltzmann.MetropolisChain:
    random = np.random.default_rng(generator_from("metropolis", task.seed, one.smiles).initial_seed() % 2**63)
    options = {"kelvin": KELVIN, "num_steps": task.metropolis_steps, "thin": task.thin, "generator": random}
    return boltzmann.metropolis(XtbEnergy(one.molecule), one.molecule.positions, one.modes, **options)


def of(rows: pd.DataFrame, kind: str, step: int) -> pd.DataFrame:
    """The chains of one kind that were not lost."""
    return rows[(rows["kind"] == kind) & (rows["step"] == step) & (rows["failure"] == "")]


def slope(rows: pd.DataFrame) -> Interval:
    """Slope of log variance against log force constant over the modes of all molecules of one kind of chain."""
    constants, variances = (np.concatenate(rows[name].tolist()) for name in ("constants", "variances"))
    return mode_slope(constants, variances, np.repeat(np.arange(len(rows)), rows["variances"].map(len)))


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Every kind of chain: slope, means over molecules of energy, temperature, spread and independent samples.

    Two lines say what harmonic modes have at any temperature and with isotropic noise.
    """
    lines = []
    for kind, step in KINDS:
        found = of(rows, kind, step)
        line = {"chain": words(kind, step), "num": len(found)}
        if len(found):
            line |= {"slope": slope(found), "num_failed": int(found["num_failed"].sum())}
            line |= {name: found[name].mean() for name in ("energy", "kelvin", "spread")}
            line["effective"] = found["effective"].min()
        lines.append(line)
    constants = [np.array(one) for one in rows.drop_duplicates("molecule")["constants"]]
    exact = {
        "harmonic Boltzmann, exact": (-1.0, [boltzmann.boltzmann_spread(len(one)) for one in constants]),
        "isotropic noise, exact": (0.0, [boltzmann.isotropic_spread(one) for one in constants]),
    }
    lines += [{"chain": name, "slope": each, "spread": np.mean(spreads)} for name, (each, spreads) in exact.items()]
    return pd.DataFrame(lines, dtype=object)


COLUMNS = {
    "chain": "",
    "slope": Column("slope", 2),
    "energy": Column("mean energy, kcal/mol", 1),
    "kelvin": Column("as temperature, K"),
    "spread": Column("spread of the energy", 2),
    "effective": Column("independent, fewest"),
    "num_failed": Column("frames without energy"),
    "num": Column("n"),
}


def words(kind: str, step: int) -> str:
    """A kind of chain as the page calls it."""
    return f"{kind}, step {step}" if step else kind


def room_temperature_step(rows: pd.DataFrame, kind: str = EDM) -> int:
    """The step whose chains come nearest to 300 K in mean energy, by ratio."""
    means = {step: of(rows, kind, step)["kelvin"].mean() for step in STEPS if len(of(rows, kind, step))}
    return min(means, key=lambda step: abs(math.log(means[step] / KELVIN)))


def energy_exponent(rows: pd.DataFrame, kind: str = EDM) -> Interval:
    """Exponent of the mean energy in the step: slope of their logarithms, mean and interval over molecules."""
    found = rows[(rows["kind"] == kind) & (rows["failure"] == "")]
    slopes = [
        np.polyfit(np.log(part["step"].to_numpy(dtype=float)), np.log(part["energy"].to_numpy(dtype=float)), 1)[0]
        for _, part in found.groupby("molecule", sort=False)
        if len(part) > 1
    ]
    return bootstrap_interval(np.array(slopes))


def who(rows: pd.DataFrame) -> str:
    """The molecules in words."""
    names = rows["smiles"].unique()
    return f"n = {len(names)} ({', '.join(names)}), GFN2-xTB"


def draw_energies(rows: pd.DataFrame) -> Figure:
    """Mean energy against the step, as published, and the temperature it stands for."""
    caption = (
        f"{who(rows)}. Mean energy above the minimum; lines: through zero, proportional to the square of the step."
    )
    with panels(2, width=8.8, height=3.0, caption=caption) as (figure, (left, right)):
        for kind in (EDM, EXACT):
            good = rows[(rows["kind"] == kind) & (rows["failure"] == "")]
            means = good.groupby("step")[["energy", "kelvin"]].mean()
            squares = means.index.to_numpy(dtype=float) ** 2
            factor = (squares @ means["energy"]) / (squares @ squares)
            left.plot(squares, means["energy"], "o", color=COLOURS[kind], label=kind)
            left.plot([0, squares.max()], [0, factor * squares.max()], color=COLOURS[kind], lw=1.0)
            right.plot(means.index, means["kelvin"], "o-", color=COLOURS[kind], label=kind)
        right.axhline(KELVIN, color=GREEN, ls="--", lw=1.0)
        left.set(xlabel="step², of 1,000²", ylabel="mean energy (kcal/mol)")
        right.set(xlabel="step, of 1,000", ylabel="temperature of that energy (K)")
        left.legend(fontsize=8)
    return figure


def draw_slopes(rows: pd.DataFrame) -> Figure:
    """Variance along the modes against their force constant: one panel for each kind of chain."""
    near = room_temperature_step(rows)
    kinds = [(EXACT, near), (EDM, near), (SHAPED, SHAPED_STEP), (METROPOLIS, 0)]
    kinds = [kind for kind in kinds if len(of(rows, *kind))]
    caption = (
        f"{who(rows)}. A point is a mode (eigenvector of the Cartesian Hessian) of one molecule; dashed: slopes −1 "
        "(Boltzmann) and 0 (isotropic noise). Intervals: bootstrap 95 % over molecules and modes."
    )
    with panels(len(kinds), width=10.4, height=3.1, caption=caption, sharex=True, sharey=True) as (figure, axes):
        for axis, kind in zip(axes, kinds, strict=True):
            found = of(rows, *kind)
            constants, variances = (np.concatenate(found[name].tolist()) for name in ("constants", "variances"))
            axis.plot(constants, variances, ".", color=COLOURS[kind[0]], ms=4)
            ends, middle, fitted = np.array([0.05, 100.0]), np.exp(np.log(variances).mean()), slope(found)
            for steepness in (-1.0, 0.0):
                axis.plot(ends, middle * (ends / 3.0) ** steepness, color="#777777", ls="--", lw=0.9)
            axis.set(xscale="log", yscale="log", xlabel="force constant (eV/Å²)")
            name = words(*kind).replace(", Hessian", ",\nHessian")
            axis.set_title(f"{name}\nslope {fitted.value:.2f} [{fitted.low:.2f}, {fitted.high:.2f}]", fontsize=8.5)
        axes[0].set(ylabel="variance (Å²)", ylim=(1e-6, 3.0))
    return figure


def draw_dihedrals(rows: pd.DataFrame) -> Figure:
    """Dihedrals of heavy atoms of the first molecule by the chain nearest to room temperature and by Metropolis."""
    near, first = room_temperature_step(rows), rows[rows["molecule"] == rows["molecule"].iloc[0]]
    kinds = [(EDM, near), (EXACT, near), (METROPOLIS, 0)]
    caption = (
        f"{first['smiles'].iloc[0]}. Dihedral angles, step {near} and Metropolis at {KELVIN:g} K, after the burn-in."
    )
    shown = min(3, max(len(angles) for angles in first["angles"] if angles is not None))
    with panels(max(shown, 1), width=8.8, height=2.6, caption=caption) as (figure, axes):
        for column in range(shown):
            for kind in kinds:
                for angles in of(first, *kind)["angles"]:
                    axes[column].stairs(angles[column], BINS, color=COLOURS[kind[0]], label=words(*kind))
            axes[column].set(xlabel="dihedral (degrees)", yticks=[])
        axes[0].set(ylabel="share of frames")
        axes[0].legend(fontsize=7)
    return figure


def measurements(rows: pd.DataFrame) -> list[Measurement]:
    """The slope at the step nearest to room temperature, and the exponent of the mean energy."""
    weights, step = str(rows["weights"].iloc[0]), room_temperature_step(rows)
    fitted, exponent = slope(of(rows, EDM, step)), energy_exponent(rows)
    text = f"slope {fitted.value:.2f} [{fitted.low:.2f}, {fitted.high:.2f}] at step {step}, the nearest to 300 K"
    common = {
        "basis": "trained_here",
        "weights": weights,
        "training_passes": float(training_facts(weights).passes),
        "seeds": [int(rows["seed"].iloc[0])],
        "n": rows["molecule"].nunique(),
    }
    missed = record(
        "relaxation.boltzmann.slope_missed_by", boltzmann.slope_missed_by(fitted), rows, notes=text, **common
    )
    kind = "bootstrap over molecules, 95 %"
    return [missed, record("relaxation.boltzmann.energy_exponent", exponent, rows, interval_kind=kind, **common)]
