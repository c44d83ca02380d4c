"""What is learned when: alignment of a relaxation with forces and with the minimum, checkpoint by checkpoint."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from molkit.chem.optimise import optimise
from molkit.chem.xtb import XtbEnergy
from molkit.claims.ledger import REPOSITORY, Measurement
from molkit.claims.provenance import commit, machine
from molkit.claims.store import record
from molkit.config import stored_json
from molkit.data.qm9 import load_qm9
from molkit.edm.model import build, load
from molkit.errors import CalculationFailed
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.molecule import Molecule
from molkit.relaxation.alignment import alignment
from molkit.relaxation.chains import Trajectory, relax_from
from molkit.relaxation.denoisers import Denoiser, ExactDenoiser, NetworkDenoiser
from molkit.relaxation.starts import REFERENCE, Starts, classical_starts
from molkit.rng import generator_from
from molkit.training.files import write_text

LAGS = (1, 10, 30)
START_STEP = 50
STORED = REPOSITORY / "data" / "studies" / "relaxation_learning.json"
UNTRAINED, PERFECT = "untrained", "perfect model"
COSINES = ("with_force", "with_minimum", "force_with_minimum")


@dataclass(frozen=True)
class LagResult:
    """Cosines at one lag: mean over the frames of each molecule [B], and mean and spread over molecules by frame."""

    lag: int
    molecules: dict[str, list[float]]  # name of the cosine -> [B]
    curve: dict[str, list[float]]  # name of the cosine -> mean over molecules, [F - lag]
    spread: dict[str, list[float]]

    def mean(self, name: str) -> Interval:
        """Mean over molecules with a bootstrap interval."""
        return bootstrap_interval(np.array(self.molecules[name]))

    def excess_over_force(self) -> Interval:
        """Cosine with the minimum less that with the force, paired by molecule."""
        pairs = np.array(self.molecules["with_minimum"]) - np.array(self.molecules["with_force"])
        return bootstrap_interval(pairs)


@dataclass(frozen=True)
class CheckpointRow:
    """One model: how its chains move."""

    label: str
    passes: float | None  # molecules it was trained on; None for the two references
    lags: tuple[LagResult, ...]
    num_failed: int  # molecules without a chain, an energy on the way or a minimum
    seconds: float

    @property
    def num(self) -> int:
        """Molecules behind the figures."""
        return len(self.lags[0].molecules["with_force"])

    def at(self, lag: int) -> LagResult:
        """The result at one lag."""
        return next(one for one in self.lags if one.lag == lag)


def starting_structures(num_molecules: int) -> list[Starts]:
    """MMFF94 structures of held-back molecules; those that cannot be embedded are left out."""
    made = [classical_starts(molecule) for molecule in load_qm9(split="test", limit=num_molecules)]
    return [one for one in made if REFERENCE in one.places]


def minimum_near(molecule: Molecule) -> np.ndarray:
    """The GFN2-xTB minimum by internal coordinates. Raises CalculationFailed."""
    ended = optimise(molecule, XtbEnergy(molecule), optimiser="internal")
    if not ended.converged:
        raise CalculationFailed("no minimum was reached")
    return ended.positions


def follow(
    label: str, passes: float | None, denoiser: Denoiser, starts: Sequence[Starts], *, seed: int
) -> CheckpointRow:
    """Relax all structures from step 50 and compare every frame with its force and with the minimum it leads to."""
    began = perf_counter()
    given = [one.start(REFERENCE) for one in starts]
    runs = relax_from(denoiser, given, step=START_STEP, generator=generator_from("learning", seed)).trajectories
    found, failed = [], 0
    for molecule, run in zip(given, runs, strict=True):
        try:
            found.append(_followed(molecule, run))
        except CalculationFailed:
            failed += 1
    lags = tuple(_lag_result(lag, [one[k] for one in found]) for k, lag in enumerate(LAGS)) if found else ()
    return CheckpointRow(label, passes, lags, failed, perf_counter() - began)


def _followed(molecule: Molecule, run: Trajectory | None) -> list:
    if run is None:
        raise CalculationFailed("the chain did not stay finite")
    frames = run.positions.astype(np.float64)
    energy = XtbEnergy(molecule)
    forces = np.stack([energy(frame).forces for frame in frames])
    minimum = minimum_near(molecule.with_positions(frames[-1]))
    return [alignment(frames, forces, minimum, lag=lag) for lag in LAGS]


def _lag_result(lag: int, found: Sequence) -> LagResult:
    stacked = {name: np.stack([getattr(one, name) for one in found]) for name in COSINES}
    return LagResult(
        lag,
        {name: values.mean(axis=1).round(4).tolist() for name, values in stacked.items()},
        {name: values.mean(axis=0).round(4).tolist() for name, values in stacked.items()},
        {name: values.std(axis=0).round(4).tolist() for name, values in stacked.items()},
    )


def perfect_row(starts: Sequence[Starts], config_of: str, *, seed: int) -> CheckpointRow:
    """The row of a model that knows the minimum next to each MMFF94 structure."""
    edm = load(config_of, fast=False)
    known = [one.molecule.with_positions(minimum_near(one.start(REFERENCE))) for one in starts]
    denoiser = ExactDenoiser.knowing(edm.config, edm.log_snr, known)
    return follow(PERFECT, None, denoiser, starts, seed=seed)


def study(checkpoints: Sequence[tuple[str, float]], *, num_molecules: int, seed: int) -> list[CheckpointRow]:
    """An untrained network, the checkpoints (weights or run folder, passes) in order, and a perfect model."""
    torch.set_num_threads(1)
    starts = starting_structures(num_molecules)
    edm = load(checkpoints[-1][0])
    made = [follow(UNTRAINED, 0.0, NetworkDenoiser(build(edm.config, seed=seed)), starts, seed=seed)]
    for place, passes in checkpoints:
        made.append(follow(f"{passes:,.0f} passes", passes, NetworkDenoiser(load(place)), starts, seed=seed))
    return [*made, perfect_row(starts, checkpoints[-1][0], seed=seed)]


def write_study(made: Sequence[CheckpointRow], path: Path, *, seed: int) -> None:
    """Keep the rows as JSON. Raises RunError when the disk refuses."""
    head, dirty = commit()
    stamp = {"commit": head, "dirty": dirty, "machine": machine(), "seed": seed}
    write_text(path, json.dumps({"stamp": stamp, "rows": [asdict(row) for row in made]}) + "\n")


def stored_study(path: Path = STORED) -> list[CheckpointRow]:
    """The rows that `molkit study relaxation-learning` wrote. Raises DataNotFound or InvalidInput."""
    with stored_json(path, "the rows of the study", f"molkit study relaxation-learning --out {path}") as stored:
        entries = stored["rows"]
        return [CheckpointRow(**{**row, "lags": tuple(LagResult(**lag) for lag in row["lags"])}) for row in entries]


def trained(made: Sequence[CheckpointRow]) -> list[CheckpointRow]:
    """The rows of trained models, by passes, those without a single result left out."""
    return sorted((row for row in made if row.passes and row.lags), key=lambda row: row.passes)


def measurements(made: Sequence[CheckpointRow], *, weights: str, seed: int) -> list[Measurement]:
    """First and last checkpoint at lag 10, for the ledger."""
    ends = {"first": trained(made)[0], "last": trained(made)[-1]}
    found = []
    for word, row in ends.items():
        lag = row.at(10)
        values = {
            "minimum": lag.mean("with_minimum"),
            "force": lag.mean("with_force"),
            "excess_over_force": lag.excess_over_force(),
        }
        for name, value in values.items():
            found.append(
                record(
                    f"relaxation.learning.{name}.{word}",
                    value.value,
                    interval=(value.low, value.high),
                    interval_kind="bootstrap over molecules, 95 %",
                    n=row.num,
                    counts="molecules",
                    basis="trained_here",
                    weights=weights if word == "last" else None,
                    training_passes=row.passes,
                    seeds=[seed],
                    seconds=row.seconds,
                    data_files=[STORED] if STORED.is_file() else [],
                    notes=f"{row.label}; {row.num_failed} molecules failed",
                )
            )
    return found
