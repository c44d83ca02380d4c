"""Two phases of inference: curves over whole chains, the null of a perfect model, energies on the path."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from molkit.chem.bond_orders import ALLOWED_VALENCES, packed_valences
from molkit.chem.xtb import XtbEnergy, num_electrons
from molkit.claims.ledger import REPOSITORY, Measurement
from molkit.claims.store import record
from molkit.data.packed import write_arrays
from molkit.data.registry import load_arrays
from molkit.edm.config import EdmConfig
from molkit.edm.model import load
from molkit.edm.published import training_facts
from molkit.edm.schedule import log_snr_table
from molkit.errors import CalculationFailed, DataNotFound
from molkit.metrics.statistics import bootstrap_interval
from molkit.molecule import ATOMIC_NUMBER, Molecule, PackedMolecules
from molkit.relaxation import phases
from molkit.relaxation.chains import Trajectory, generate
from molkit.relaxation.denoisers import ExactDenoiser, NetworkDenoiser
from molkit.rng import generator_from
from molkit.units import EV_TO_KCAL

NUM_ATOMS = 19
STORED = REPOSITORY / "data" / "studies" / "relaxation_chains.npz"
FINE_BELOW, COARSE = 100, 100  # every frame is kept below the first step, and one in so many above
UNIT = 1e-3  # angstrom, of stored coordinates; as an error of every coordinate it costs about 0.001 kcal/mol
CLOSE = 0.05  # angstrom, bond-length error of a settled geometry
VALENCE = {ATOMIC_NUMBER[symbol]: ALLOWED_VALENCES[symbol][0] for symbol in ("H", "C", "N", "O", "F")}


@dataclass(frozen=True, eq=False)
class Chains:
    """Frames of B chains of A atoms each; `steps` [F] fall and end with -1, the molecule that came out."""

    steps: np.ndarray
    positions: np.ndarray  # [B, F, A, 3]
    elements: np.ndarray  # [B, F, A], largest noisy channel
    settled: dict[str, np.ndarray]  # what -> step from which on it is final at each atom, [B, A]; of all frames
    weights: str
    seed: int
    seconds: float  # CPU-bound wall seconds a chain
    num_failed: int = 0

    def __len__(self) -> int:
        return len(self.positions)

    def molecule(self, row: int) -> Molecule:
        """What came out of one chain."""
        return Molecule(self.elements[row, -1], self.positions[row, -1])


def run_chains(weights: str, count: int, *, seed: int, num_atoms: int = NUM_ATOMS) -> Chains:
    """Full chains with every frame; one that leaves the finite numbers is counted and left out."""
    torch.set_num_threads(1)
    denoiser, started = NetworkDenoiser(load(weights)), perf_counter()
    runs = generate(denoiser, [num_atoms] * count, generator=generator_from("phases", seed))
    return _chains(runs, weights, seed, (perf_counter() - started) / count)


def _chains(runs: Sequence[Trajectory | None], weights: str, seed: int, seconds: float) -> Chains:
    good = [run for run in runs if run is not None]
    steps = good[0].steps
    positions, elements = (np.stack([getattr(run, name) for run in good]) for name in ("positions", "elements"))
    settled = {
        "elements": _settled(elements, steps),
        "predicted elements": np.stack([phases.final_step(run.predicted_elements, steps) for run in good]),
        "bond orders": _settled(valences_along(positions, elements), steps),
    }
    return Chains(steps, positions, elements, settled, weights, seed, seconds, len(runs) - len(good))


def write_chains(chains: Chains, path: Path) -> None:
    """Keep the frames below step 100 and every 100th above: differences between frames, to 1e-3 angstrom.

    The two bytes of a difference stand apart, since the upper one is nearly always the same.
    """
    kept = (chains.steps < FINE_BELOW) | (chains.steps % COARSE == 0)
    units = np.rint(chains.positions[:, kept] / UNIT).astype("<i2")
    changes = np.diff(units, axis=1, prepend=np.zeros_like(units[:, :1]))
    write_arrays(
        path,
        {
            "steps": chains.steps[kept].astype(np.int16),
            "position_bytes": np.ascontiguousarray(
                np.moveaxis(changes.view(np.uint8).reshape(*changes.shape, 2), -1, 0)
            ),
            "elements": chains.elements[:, kept].astype(np.uint8),
            **{f"settled {name}": found.astype(np.int16) for name, found in chains.settled.items()},
            "weights": np.array(chains.weights),
            "seed": np.array(chains.seed),
            "seconds": np.array(chains.seconds),
            "num_failed": np.array(chains.num_failed),
        },
    )


def stored_chains(path: Path = STORED, *, limit: int | None = None) -> Chains:
    """The chains that `molkit study relaxation-chains` wrote, the first `limit` of them. Raises DataNotFound."""
    if not path.is_file():
        raise DataNotFound(f"{path}: no stored chains; make them with `molkit study relaxation-chains --out {path}`")
    arrays = load_arrays(path)
    planes = np.moveaxis(arrays["position_bytes"][:, :limit], 0, -1)
    changes = np.ascontiguousarray(planes).view("<i2")[..., 0]
    return Chains(
        arrays["steps"].astype(np.int64),
        changes.cumsum(axis=1, dtype=np.int16).astype(np.float64) * UNIT,
        arrays["elements"][:limit].astype(np.int64),
        {key[8:]: found[:limit].astype(np.int64) for key, found in arrays.items() if key.startswith("settled ")},
        str(arrays["weights"]),
        int(arrays["seed"]),
        float(arrays["seconds"]),
        int(arrays["num_failed"]),
    )


@dataclass(frozen=True)
class Band:
    """Mean and standard deviation over chains at every step."""

    mean: np.ndarray
    spread: np.ndarray


@dataclass(frozen=True)
class Phases:
    """All curves of a set of chains, [F] each, and per chain the step at which something became final, [B]."""

    steps: np.ndarray
    num_chains: int
    step_size: Band  # angstrom; NaN where the frame before was not kept
    bond_error: Band  # angstrom
    shares: dict[str, np.ndarray]  # per cent
    settled: dict[str, np.ndarray]  # steps left
    num_odd: int  # molecules with an odd number of electrons


def valences_along(positions: np.ndarray, elements: np.ndarray) -> np.ndarray:
    """Bond-order sum of every atom in every frame, [B, F, A], elements as in the frame."""
    chains, frames, atoms = elements.shape
    flat = PackedMolecules(np.full(chains * frames, atoms), elements.reshape(-1), positions.reshape(-1, 3))
    return packed_valences(flat).reshape(elements.shape)


def curves(chains: Chains) -> Phases:
    """Every curve of the study's figure, and that of the predicted elements."""
    steps, atoms = chains.steps, chains.settled
    expected = np.vectorize(VALENCE.__getitem__)(chains.elements)
    valid = valences_along(chains.positions, chains.elements) == expected
    errors = np.stack(
        [phases.bond_length_errors(p, e[-1]) for p, e in zip(chains.positions, chains.elements, strict=True)]
    )
    sizes = np.stack([phases.step_sizes(p) for p in chains.positions])
    sizes[:, np.diff(steps) != -1] = np.nan
    sizes = np.concatenate([np.full((len(sizes), 1), np.nan), sizes], axis=1)
    shares = {f"atoms, {name}": 100 * phases.share_final(found, steps) for name, found in atoms.items()}
    shares |= {
        f"molecules, {name}": 100 * phases.share_final(phases.molecule_final(found), steps)
        for name, found in atoms.items()
    }
    shares["valid valence"] = 100 * valid.mean(axis=(0, 2))
    settled = {name: phases.molecule_final(found) for name, found in atoms.items()}
    with_bonds = np.isfinite(errors[:, -1])
    settled["bond lengths"] = np.array([phases.final_step(one < CLOSE, steps) for one in errors[with_bonds]])
    odd = sum(num_electrons(chains.molecule(row)) % 2 for row in range(len(chains)))
    return Phases(steps, len(chains), _band(sizes), _band(errors), shares, settled, odd)


def _settled(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    return np.stack([phases.final_step(one, steps) for one in values])


def _band(values: np.ndarray) -> Band:
    known = np.isfinite(values).any(axis=0)
    mean, spread = np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    mean[known], spread[known] = np.nanmean(values[:, known], axis=0), np.nanstd(values[:, known], axis=0)
    return Band(mean, spread)


@dataclass(frozen=True)
class Null:
    """Share of atoms and molecules with final elements for a model that knows the answer from the start, per cent."""

    steps: np.ndarray
    atoms: np.ndarray
    molecules: np.ndarray
    median: float  # step at which half of the molecules are final


def element_null(chains: Chains, *, count: int, seed: int) -> Null:
    """Chains of a perfect model that ends at the molecules of the given chains, with independent noise."""
    config = EdmConfig()
    known = [chains.molecule(row % len(chains)) for row in range(count)]
    denoiser = ExactDenoiser.knowing(config, log_snr_table(config), known)
    runs = generate(denoiser, [one.num_atoms for one in known], generator=generator_from("null", seed))
    settled = [phases.final_step(run.elements, run.steps) for run in runs if run is not None]
    molecules = np.array([found.min() for found in settled])
    steps = runs[0].steps
    return Null(
        steps,
        100 * phases.share_final(np.concatenate(settled), steps),
        100 * phases.share_final(molecules, steps),
        float(np.median(molecules)),
    )


def path_energies(chains: Chains, *, count: int) -> list[phases.PathEnergies]:
    """GFN2-xTB energies from the first frame with final elements to the end, and on the straight line between both.

    The first `count` chains with an even number of electrons; half as many images on the line as frames.
    """
    even = [row for row in range(len(chains)) if num_electrons(chains.molecule(row)) % 2 == 0]
    return [_path(chains, row) for row in even[:count]]


def _path(chains: Chains, row: int) -> phases.PathEnergies:
    first = int(phases.final_step(chains.elements[row], chains.steps).min())
    frames = chains.positions[row][chains.steps <= min(first, FINE_BELOW - 1)]
    steps = chains.steps[chains.steps <= min(first, FINE_BELOW - 1)]
    energy, failed = XtbEnergy(chains.molecule(row)), 0

    def heights(places: np.ndarray) -> np.ndarray:
        nonlocal failed
        found = np.full(len(places), np.nan)
        for k, place in enumerate(places):
            try:
                found[k] = energy(place).energy * EV_TO_KCAL
            except CalculationFailed:
                failed += 1
        return found

    walked = heights(frames)
    line = heights(phases.straight_line(frames[0], frames[-1], max(2, len(frames) // 2)))
    return phases.PathEnergies(steps, walked - walked[-1], line - walked[-1], failed, odd_electrons=False)


def measurements(found: Phases, chains: Chains) -> list[Measurement]:
    """The four medians, for the ledger."""
    facts = training_facts(chains.weights)
    kinds = {"elements": "elements", "predicted elements": "predicted_elements"}
    kinds |= {"bond orders": "bond_orders", "bond lengths": "bond_lengths"}
    made = []
    for name, word in kinds.items():
        value = bootstrap_interval(found.settled[name].astype(float), statistic=np.median)
        made.append(
            record(
                f"relaxation.phases.{word}",
                value.value,
                interval=(value.low, value.high),
                interval_kind="bootstrap over chains, 95 %, of the median",
                n=len(found.settled[name]),
                counts="chains",
                basis="trained_here",
                weights=chains.weights,
                training_passes=facts.passes,
                seeds=[chains.seed],
                seconds=chains.seconds * len(chains),
                data_files=[STORED] if STORED.is_file() else [],
                notes="seconds: sampling of the chains",
            )
        )
    return made
