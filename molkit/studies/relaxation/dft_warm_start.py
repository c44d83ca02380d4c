"""Starts of a relaxation on a DFT surface: MMFF94, GFN2-xTB, diffusion, a perfect model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from molkit.chem.dft import DftLevel
from molkit.claims.ledger import Measurement
from molkit.data.qm9 import load_qm9
from molkit.data.registry import data_root
from molkit.edm.model import load
from molkit.errors import InvalidInput
from molkit.experiments.experiment import asked
from molkit.molecule import PackedMolecules
from molkit.relaxation.denoisers import NetworkDenoiser
from molkit.relaxation.starts import ENDINGS, LEVELS, REFERENCE, classical_starts, edm_name, with_diffusion, with_xtb
from molkit.rng import generator_from
from molkit.studies.relaxation import comparison
from molkit.studies.relaxation.comparison import CARTESIAN, GFN2, INTERNAL, PERFECT, run_rows
from molkit.training.weights import weight_files

SIGMA = LEVELS[0]  # the level with the lowest mean excess over GFN2-xTB minima on 12 validation molecules
SAMPLED = edm_name(SIGMA, ENDINGS[0])
RUNS = {CARTESIAN: (REFERENCE, SAMPLED, PERFECT), INTERNAL: (REFERENCE, SAMPLED, GFN2, PERFECT)}
AUDIT = replace(comparison.AUDIT, alike={"excess": 6.0})  # a task takes minutes


@dataclass(frozen=True)
class Task:
    """A QM9 test molecule, all of its starts, one optimiser, one basis."""

    molecule: str
    weights: str
    basis: str
    optimiser: str
    seed: int

    @property
    def files(self) -> list[Path]:
        """Weights and data behind the task."""
        return [*weight_files(self.weights), data_root() / "qm9.npz"]


@asked
def tasks(
    *,
    heavy: Sequence[int] = (5, 6, 7),
    counts: Sequence[int] = (6, 4, 2),
    weights: str = "edm_qm9",
    basis: str = "6-31g(d)",
    optimisers: Sequence[str] = (CARTESIAN, INTERNAL),
    seed: int = 0,
) -> list[Task]:
    """`counts` test molecules of each number of `heavy` atoms, spread evenly over those there are.

    Raises InvalidInput where there are fewer, or an optimiser is none.
    """
    if len(heavy) != len(counts) or set(optimisers) - set(RUNS):
        raise InvalidInput(f"need as many counts as numbers of heavy atoms, and optimisers of {', '.join(RUNS)}")
    pack, sizes = _test_split()
    names = []
    for number, count in zip(heavy, counts, strict=True):
        members = np.flatnonzero(sizes == number)
        if not 1 <= count <= len(members):
            raise InvalidInput(f"1 to {len(members)} test molecules have {number} heavy atoms, asked for {count}")
        names += [pack[int(row)].name for row in members[np.arange(count) * len(members) // count]]
    return [Task(name, weights, basis, optimiser, seed) for name in names for optimiser in optimisers]


def measure(task: Task) -> list[dict[str, Any]]:
    """A row for each start, see `comparison.run_rows`."""
    pack, _ = _test_split()
    molecule = next(one for one in pack if one.name == task.molecule)
    found = with_xtb(classical_starts(molecule), GFN2, "GFN2-xTB")
    own = generator_from("starts of", task.seed, molecule.name).initial_seed()
    made = with_diffusion([found], NetworkDenoiser(load(task.weights)), levels=(SIGMA,), endings=ENDINGS[:1], seed=own)
    runs = [(start, task.optimiser) for start in RUNS[task.optimiser]]
    rows = run_rows(made[0], runs, level=DftLevel(basis=task.basis), seed=task.seed)
    return [{name: value for name, value in row.items() if name != "optimiser"} for row in rows]


@lru_cache(maxsize=1)
def _test_split() -> tuple[PackedMolecules, np.ndarray]:
    """The test split, and the number of heavy atoms of each molecule."""
    pack = load_qm9(split="test")
    return pack, np.add.reduceat((pack.atomic_numbers > 1).astype(int), pack.ptr[:-1])


def surface(rows: pd.DataFrame) -> str:
    """The level of theory in words."""
    return DftLevel(basis=str(rows["basis"].iloc[0])).label


def measurements(rows: pd.DataFrame) -> list[Measurement]:
    """Ratios of excesses and of gradients at the level chosen on validation molecules, for the ledger."""
    asked_for = {
        "relaxation.energy.ratio_dft": (SAMPLED, CARTESIAN, "ratio"),
        "relaxation.speedup.dft_cartesian": (SAMPLED, CARTESIAN, "step_ratio"),
        "relaxation.speedup.dft_internal": (SAMPLED, INTERNAL, "step_ratio"),
    }
    return comparison.measurements(rows, asked_for, notes=f"{surface(rows)}, noise {SIGMA} angstrom")
