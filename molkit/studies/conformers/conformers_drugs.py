"""Conformers of drug-size molecules by RDKit, the flow and the flow with ETM, each also with a force field."""

from collections.abc import Sequence
from typing import Any, Literal

from molkit.cgcf.conformers import Stereo
from molkit.data.ensembles import Split
from molkit.experiments.experiment import asked
from molkit.studies.conformers.arms import AUDIT, Task, measure_arms, tasks_on

__all__ = ["AUDIT", "Task", "measure", "tasks"]


@asked
def tasks(
    *,
    data: Literal["ensembles_drugs", "conformers_dft"] = "ensembles_drugs",
    molecules: int = 100,
    seeds: Sequence[int] = (0, 1, 2),
    arms: Sequence[str] = ("rdkit", "rdkit_ff", "flow", "etm", "flow_ff", "etm_ff"),
    stereo: Stereo = "redraw",
    max_references: int = 8,
    split: Split = "test",
    weights: str = "cgcf_drug",
    energy: str = "etm_drug",
) -> list[Task]:
    """Ensembles of drug-size molecules, COV at 1.25 angstrom: a task for each molecule and seed.

    Without options the first table of the page. On DFT conformers: --data conformers_dft --molecules 200 --seeds 0
    --max-references 12.
    """
    return tasks_on(
        data,
        split=split,
        molecules=molecules,
        seeds=seeds,
        arms=arms,
        weights=weights,
        energy=energy,
        threshold=1.25,
        max_references=max_references,
        stereo=stereo,
    )


def measure(task: Task) -> list[dict[str, Any]]:
    """A row for each arm, see `molkit.studies.conformers.arms.measure_arms`."""
    return measure_arms(task)
