"""Reference ensembles, and what RDKit's ways of making conformers reach on them (page `ensembles`)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from molkit.chem.conformer_rmsd import Symmetry
from molkit.chem.rdkit_tools import rotatable_bonds
from molkit.data.ensembles import SPLITS, WHAT, Ensemble, SetName, ensemble_mol, load_ensembles
from molkit.data.registry import data_root
from molkit.errors import InvalidInput
from molkit.experiments.experiment import asked
from molkit.figures.style import BLUE, ORANGE, panels
from molkit.figures.view3d import show_grid
from molkit.geometry import superpose
from molkit.molecule import Molecule
from molkit.studies.conformers.arms import AUDIT, BASELINES, Task, measure_arms, tasks_on

if TYPE_CHECKING:
    from IPython.display import HTML

__all__ = ["AUDIT", "Task", "measure", "tasks"]

THRESHOLD = {"conformers_dft": 1.25, "ensembles_qm9": 0.5, "ensembles_drugs": 1.25}  # angstrom
STAGES = ("starts", "distinct_starts", "relaxed", "failed", "unconverged", "changed", "above_window", "duplicates")


@asked
def tasks(
    *,
    data: Literal["conformers_dft", "ensembles_qm9", "ensembles_drugs"] = "conformers_dft",
    molecules: int = 0,
    seeds: Sequence[int] = (0,),
    max_references: int = 50,
    symmetry: Symmetry = "graph",
) -> list[Task]:
    """RDKit's ways, each with MMFF94 and without, on test molecules of a set (0: all): one task a molecule and seed."""
    return tasks_on(
        data,
        split="test",
        molecules=molecules,
        seeds=seeds,
        arms=("rdkit", "rdkit_ff", *BASELINES),
        weights="",
        energy="",
        threshold=THRESHOLD[data],
        max_references=max_references,
        stereo="ignore",
        symmetry=symmetry,
    )


def measure(task: Task) -> list[dict[str, Any]]:
    """A row for each way, see `molkit.studies.conformers.arms.measure_arms`."""
    return measure_arms(task)


def sets() -> pd.DataFrame:
    """What every split of every set that is there holds; of rotatable bonds and of conformers the median."""
    there = [name for name in get_args(SetName) if name == "conformers_dft" or (data_root() / f"{name}.npz").is_file()]
    found = [_facts(name, split, load_ensembles(name, split=split)) for name in there for split in SPLITS]
    return pd.DataFrame([one for one in found if one["molecules"]])


def _facts(name: str, split: str, ensembles: Sequence[Ensemble]) -> dict[str, Any]:
    counts, sizes = [len(one) for one in ensembles], [one.num_atoms for one in ensembles]
    rotatable = [bonds for one in ensembles if (bonds := _rotatable(one)) is not None]
    return {
        "set": name,
        "split": split,
        "molecules": len(ensembles),
        "conformers": sum(counts),
        "atoms": f"{min(sizes, default=0)}–{max(sizes, default=0)}",
        "median": float(np.median(counts or [0])),
        "most": max(counts, default=0),
        "rotatable": float(np.median(rotatable or [0])),
        "charged": sum(bool(one.formal_charges.sum()) for one in ensembles),
    }


def _rotatable(one: Ensemble) -> int | None:
    try:
        return rotatable_bonds(ensemble_mol(one))
    except InvalidInput:  # RDKit refuses the stored bonds of a few molecules
        return None


def kept(ensemble: Ensemble) -> pd.DataFrame:
    """How many conformers each stage of making an ensemble kept or lost."""
    told = [(name.replace("_", " "), ensemble.counts[name]) for name in STAGES if name in ensemble.counts]
    return pd.DataFrame([*told, ("in the ensemble", len(ensemble))], columns=["stage", "conformers"])


def draw_energies(ensembles: Sequence[Ensemble], *, name: str) -> Figure:
    """Energies above the lowest conformer, and how much of the weight at room temperature the lowest carries."""
    known = [one for one in ensembles if len(one) > 1 and np.isfinite(one.energies).all()]
    above = np.concatenate([np.sort(one.energies)[1:] for one in known])
    caption = (
        f"{name} ({WHAT[name]}): n = {len(known)} molecules with several conformers whose energies are all known, "
        f"{len(above):,} conformers above the lowest. Weights from these energies alone, 298.15 K."
    )
    with panels(2, width=8.4, height=2.9, caption=caption) as (figure, (left, right)):
        left.hist(np.minimum(above, 20.0), bins=40, range=(0.0, 20.0), color=BLUE)
        left.set(xlabel="energy above the lowest (kcal/mol; 20 and more in the last bar)", ylabel="conformers")
        right.hist([100.0 * one.weights.max() for one in known], bins=25, range=(0.0, 100.0), color=ORANGE)
        right.set(xlabel="weight of the lowest conformer (%)", ylabel="molecules")
    return figure


def conformers_of(ensemble: Ensemble, *, most: int = 8) -> "HTML":
    """The conformers of lowest energy side by side, each laid on the first."""
    rows = np.argsort(ensemble.energies, kind="stable")[:most]
    first = ensemble.positions[rows[0]]
    molecules = [Molecule(ensemble.atomic_numbers, superpose(ensemble.positions[row], first)) for row in rows]
    told = ", ".join(f"{ensemble.energies[row]:.1f}" for row in rows)
    caption = f"{ensemble.name}: {len(rows)} of {len(ensemble)} conformers, {told} kcal/mol above the lowest."
    return show_grid(molecules, caption=caption)
