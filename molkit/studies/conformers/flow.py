"""The flow of QM9-size molecules on drug-like ones it never saw the size of: both searches, beside RDKit."""

from collections.abc import Sequence
from typing import Any

from molkit.experiments.experiment import asked
from molkit.studies.conformers.arms import AUDIT, Task, measure_arms, tasks_on

__all__ = ["AUDIT", "Task", "measure", "tasks"]


@asked
def tasks(*, molecules: int = 14, seeds: Sequence[int] = (0,), weights: str = "cgcf_qm9") -> list[Task]:
    """DFT conformers of drug-like molecules, COV at 1.25 angstrom: a task for each molecule and seed."""
    return tasks_on(
        "conformers_dft",
        split="test",
        molecules=molecules,
        seeds=seeds,
        arms=("rdkit", "rdkit_ff", "flow_published", "flow", "flow_ff"),
        weights=weights,
        energy="",
        threshold=1.25,
        max_references=5,
        stereo="mirror",
    )


def measure(task: Task) -> list[dict[str, Any]]:
    """A row for each arm, see `molkit.studies.conformers.arms.measure_arms`."""
    return measure_arms(task)
