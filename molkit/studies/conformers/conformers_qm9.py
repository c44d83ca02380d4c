"""Conformers of QM9-size molecules by RDKit, the flow and the flow with ETM, each also with a force field."""

from collections.abc import Sequence
from typing import Any

from molkit.cgcf.conformers import Stereo
from molkit.chem.conformer_rmsd import Symmetry
from molkit.data.ensembles import Split
from molkit.experiments.experiment import asked
from molkit.studies.conformers.arms import AUDIT, Task, measure_arms, tasks_on

__all__ = ["AUDIT", "Task", "measure", "tasks"]


@asked
def tasks(
    *,
    molecules: int = 199,
    seeds: Sequence[int] = (0, 1, 2),
    arms: Sequence[str] = ("rdkit", "rdkit_ff", "flow", "etm", "flow_ff", "etm_ff"),
    stereo: Stereo = "redraw",
    max_references: int = 50,
    num_energies: int = 0,
    split: Split = "test",
    weights: str = "cgcf_qm9",
    energy: str = "etm_qm9",
    symmetry: Symmetry = "graph",
) -> list[Task]:
    """Ensembles of QM9-size molecules, COV at 0.5 angstrom: a task for each molecule and seed.

    Without options the first table of the page. The second: --arms flow_published,etm_published --stereo mirror
    --max-references 8. The third: all arms, --molecules 33 --seeds 0 --stereo mirror --max-references 4
    --num-energies 2.
    """
    return tasks_on(
        "ensembles_qm9",
        split=split,
        molecules=molecules,
        seeds=seeds,
        arms=arms,
        weights=weights,
        energy=energy,
        threshold=0.5,
        max_references=max_references,
        stereo=stereo,
        num_energies=num_energies,
        symmetry=symmetry,
    )


def measure(task: Task) -> list[dict[str, Any]]:
    """A row for each arm, see `molkit.studies.conformers.arms.measure_arms`."""
    return measure_arms(task)
