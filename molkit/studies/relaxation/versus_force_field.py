"""Starts of a relaxation compared on the GFN2-xTB surface: force fields, GFN1-xTB, diffusion, a perfect model."""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from molkit.claims.ledger import Measurement
from molkit.claims.record import record
from molkit.data.qm9 import load_qm9
from molkit.data.registry import data_root
from molkit.edm.model import Edm, load
from molkit.edm.published import training_facts
from molkit.errors import InvalidInput
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.run import table_of
from molkit.experiments.show import Column
from molkit.experiments.store import Store
from molkit.molecule import Molecule
from molkit.relaxation.comparison import Outcome
from molkit.relaxation.denoisers import NetworkDenoiser
from molkit.relaxation.farm import PERFECT, Failed, Job, run_jobs
from molkit.relaxation.starts import (
    ENDINGS,
    LEVELS,
    REFERENCE,
    Starts,
    classical_starts,
    edm_name,
    with_diffusion,
    with_xtb,
)
from molkit.rng import generator_from
from molkit.studies import relaxation_starts as starts
from molkit.studies.relaxation_starts import CARTESIAN, DFT_SIGMA, GFN1, INTERNAL, StartRow, start_row
from molkit.studies.relaxation_starts import rows as start_rows
from molkit.training.weights import weight_files

STORED = 57  # molecules of the page, spread evenly over the test split
NUMBERS = ("excess", "energy", "num_gradients", "seconds", "rmsd_to_reference", "largest_turn")
DIGITS = 4
EXACT = (REFERENCE, "dataset", "etkdg", "uff", "mmff94s", GFN1)
AUDIT = Comparison(
    within={"excess": 0.02, "energy": 0.02, "rmsd_to_reference": 0.02, "largest_turn": 2.0, "num_gradients": 3},
    free=("seconds", "preparation"),
    alike={"excess": 2.5},
    by=("start",),
    exact=EXACT,
)


@dataclass(frozen=True)
class Task:
    """A QM9 test molecule, all of its starts, both optimisers."""

    molecule: str
    weights: str
    seed: int

    @property
    def files(self) -> list[Path]:
        """Weights and data behind the task."""
        return [*weight_files(self.weights), data_root() / "qm9.npz"]


@asked
def tasks(*, molecules: int = STORED, weights: str = "edm_qm9", seed: int = 0) -> list[Task]:
    """Held-back QM9 molecules, spread evenly: a task for each. Raises InvalidInput for more than the page has."""
    names = list(_molecules())
    if not 1 <= molecules <= len(names):
        raise InvalidInput(f"the page compares 1 to {len(names)} molecules, got {molecules}")
    return [Task(names[row * len(names) // molecules], weights, seed) for row in range(molecules)]


def measure(task: Task) -> list[dict[str, Any]]:
    """A row for each start and optimiser.

    `excess` of the start above the end of its run and `energy` of that end (kcal/mol), gradients, whether it converged,
    distance of the end from that of MMFF94's run (angstrom) and the largest turn of a dihedral (degrees), CPU seconds
    of the run and of all that was done before it. A run that failed says why and has no numbers.
    """
    made = starts_of(_molecules()[task.molecule], _model(task.weights), seed=task.seed)
    found = run_jobs([Job(made, tuple(dict.fromkeys(runs())), seed=task.seed)])
    about = {"formula": made.molecule.formula, "num_atoms": made.molecule.num_atoms}
    return [{**_row(one), "preparation": round(made.seconds.get(one.start, 0.0), DIGITS), **about} for one in found]


def _row(one: Outcome | Failed) -> dict[str, Any]:
    failed = isinstance(one, Failed)
    numbers = {name: None if failed else round(getattr(one, name), DIGITS) for name in NUMBERS}
    told = {"converged": not failed and one.converged, "failure": one.reason if failed else ""}
    return {"start": one.start, "optimiser": one.optimiser, **numbers, **told}


def starts_of(molecule: Molecule, model: Edm, *, seed: int) -> Starts:
    """Classical starts, GFN1-xTB, and diffusion at three levels with both endings; noise of the molecule's own."""
    found = with_xtb(classical_starts(molecule), GFN1, "GFN1-xTB")
    own = generator_from("starts of", seed, molecule.name).initial_seed()
    return with_diffusion([found], NetworkDenoiser(model), seed=own)[0]


def runs() -> tuple[tuple[str, str], ...]:
    """Every start with both optimisers, and the data set's own geometry once."""
    names = [REFERENCE, "etkdg", "uff", "mmff94s", GFN1]
    names += [edm_name(level, ending) for level in LEVELS for ending in ENDINGS] + [PERFECT]
    return ((REFERENCE, INTERNAL), ("dataset", INTERNAL), *((n, k) for k in (CARTESIAN, INTERNAL) for n in names))


def headline(ending: str) -> str:
    """The diffusion start whose ratios go to the ledger, with one of the two endings."""
    return edm_name(DFT_SIGMA, ending)


@lru_cache(maxsize=1)
def _molecules() -> dict[str, Molecule]:
    return {one.name: one for one in load_qm9(split="test", limit=STORED)}


@lru_cache(maxsize=2)
def _model(weights: str) -> Edm:
    return load(weights)


def comparison(rows: pd.DataFrame) -> starts.Comparison:
    """The rows as a comparison of starts, which the figures of both pages draw."""
    first = rows.drop_duplicates("molecule")
    good = rows["failure"] == ""
    columns = [name for name in Outcome.__dataclass_fields__]
    outcomes = tuple(Outcome(**line) for line in rows.loc[good, columns].to_dict("records"))
    lost = rows.loc[~good, ["molecule", "start", "optimiser", "failure"]].itertuples(index=False, name=None)
    before = rows[good].drop_duplicates(["molecule", "start"]).groupby("start")["preparation"].mean()
    return starts.Comparison(
        "xtb",
        "GFN2-xTB",
        str(first["weights"].iloc[0]),
        int(first["seed"].iloc[0]),
        tuple(first["molecule"]),
        tuple(first["formula"]),
        tuple(first["num_atoms"]),
        outcomes,
        tuple(Failed(*line) for line in lost),
        before.to_dict(),
        {},
    )


@dataclass(frozen=True)
class KnownError:
    """How far relaxed structures of held-back molecules lay above the GFN2-xTB minimum next to MMFF94's, kcal/mol."""

    num_molecules: int
    elements: tuple[str, ...]
    num_atoms: tuple[int, int]
    median: float
    ninth: float  # nine in ten lay below

    def __str__(self) -> str:
        low, high = self.num_atoms
        return (
            f"tested on {self.num_molecules} molecules of QM9 ({' '.join(self.elements)}; {low} to {high} atoms; "
            f"neutral closed shells) from MMFF94's structures: half lay within {self.median:.1f}, nine in ten within "
            f"{self.ninth:.1f} kcal/mol of the GFN2-xTB minimum beside"
        )


def known_error(weights: str, sigma: float | str, ending: str) -> KnownError | None:
    """What the stored rows say about relaxations with these settings (one chain); None where they have none of them."""
    entries = Store("versus_force_field").read().entries.values()
    rows = table_of(one for one in entries if one.task["weights"] == str(weights))
    if sigma == "auto" or rows.empty:
        return None
    asked_for = (rows["start"] == edm_name(float(sigma), ending)) & (rows["optimiser"] == INTERNAL)
    own = rows[asked_for & (rows["failure"] == "")]
    if own.empty:
        return None
    return KnownError(
        num_molecules=len(own),
        elements=tuple(sorted({element for text in own["formula"] for element in re.findall("[A-Z][a-z]?", text)})),
        num_atoms=(int(own["num_atoms"].min()), int(own["num_atoms"].max())),
        median=float(own["excess"].median()),
        ninth=float(own["excess"].quantile(0.9)),
    )


def table(found: starts.Comparison, optimiser: str) -> pd.DataFrame:
    """One row for each start with one optimiser: the fields of `StartRow`."""
    names = list(StartRow.__dataclass_fields__)
    lines = [{name: getattr(row, name) for name in names} for row in start_rows(found, optimiser)]
    return pd.DataFrame(lines, dtype=object)


WORDS = {"etkdg": "ETKDG", "uff": "UFF", "mmff94": "MMFF94", "mmff94s": "MMFF94s", GFN1: "GFN1-xTB"} | {
    PERFECT: "perfect model, sample",
    **{edm_name(level, ending): f"diffusion, {level:.3f} Å, {ending}" for level in LEVELS for ending in ENDINGS},
}
COLUMNS = {
    "start": Column("start", names=WORDS),
    "excess": Column("excess, median, kcal/mol", 2),
    "mean_excess": Column("excess, mean", 2),
    "ratio": Column("ratio of means", 2),
    "gradients": Column("gradients", 1),
    "step_ratio": Column("ratio of gradients", 2),
    "num_other_minimum": Column("other minimum"),
    "num_failed": Column("failed"),
    "num_capped": Column("capped"),
    "num": Column("n"),
    "preparation": Column("CPU s before", 2),
    "seconds": Column("CPU s", 2),
}


def measurements(rows: pd.DataFrame) -> list[Measurement]:
    """Ratios of excesses and of gradients at the level chosen on validation molecules, for the ledger.

    A ratio over fewer than two pairs is not recorded.
    """
    found = comparison(rows)
    sampled, mean = (edm_name(DFT_SIGMA, ending) for ending in ENDINGS)
    cartesian, internal, other = (
        start_row(found, *run) for run in ((sampled, CARTESIAN), (sampled, INTERNAL), (mean, CARTESIAN))
    )
    values = {
        "energy.ratio_xtb": (cartesian, cartesian.ratio),
        "energy.ratio_xtb_mean": (other, other.ratio),
        "speedup.xtb_cartesian": (cartesian, cartesian.step_ratio),
        "speedup.xtb_internal": (internal, internal.step_ratio),
    }
    return [
        record(
            f"relaxation.{name}",
            value,
            rows,
            n=row.num - row.num_other_minimum,
            basis="trained_here",
            interval_kind="bootstrap over molecules, 95 %",
            weights=found.weights,
            training_passes=float(training_facts(found.weights).passes),
            seeds=[found.seed],
            notes=f"{found.level}, noise {DFT_SIGMA} angstrom; {row.num_other_minimum} pairs end in different minima "
            "and are left out",
        )
        for name, (row, value) in values.items()
        if value is not None
    ]
