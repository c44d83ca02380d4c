"""Coverage and matching of conformer ensembles (COV, MAT), in recall and precision form, and diversity.

Source: Xu et al., ICLR 2021 (arXiv 2102.10240), with the definitions of its follow-up code (ConfGF): recall asks of
every reference how near the nearest generated conformer lies, precision of every generated one how near a reference
lies.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from molkit.chem.conformer_rmsd import Symmetry, best_rmsd, rmsd_matrix
from molkit.errors import InvalidInput

PER_REFERENCE = 2  # generated conformers for each reference, in the papers' tables
MEASURES = ("cov_recall", "mat_recall", "cov_precision", "mat_precision")


@dataclass(frozen=True, eq=False)
class ConformerScore:
    """One molecule: shares within the threshold (0 to 1) and mean smallest RMSD (angstrom); NaN where nothing was made.

    nearest [R]: RMSD of each reference to the nearest generated conformer; origin [G]: of each generated one to the
    nearest reference; both empty where nothing was made. num_failed counts generated conformers with coordinates that
    are not finite, and those asked for that never came.
    """

    cov_recall: float
    mat_recall: float
    cov_precision: float
    mat_precision: float
    num_references: int
    num_generated: int
    num_failed: int
    threshold: float
    nearest: np.ndarray
    origin: np.ndarray
    upper_bound: bool = False  # whether some RMSD may be smaller: the graph lies on itself in too many ways


@dataclass(frozen=True, eq=False)
class ScoreTask:
    """One molecule to score; picklable."""

    mol: Any
    references: np.ndarray  # [R, A, 3] angstrom
    generated: np.ndarray  # [G, A, 3] angstrom
    threshold: float
    symmetry: Symmetry = "graph"
    num_wanted: int | None = None  # generated conformers that were asked for


def score_conformers(task: ScoreTask) -> ConformerScore:
    """COV and MAT of one molecule; a conformer at exactly the threshold is covered.

    Raises InvalidInput without references, or for references that are not finite.
    """
    if len(task.references) == 0 or not np.isfinite(task.references).all():
        raise InvalidInput("expected at least one reference conformer, and finite coordinates in all of them")
    if not task.threshold > 0.0:
        raise InvalidInput(f"a threshold is a positive length in angstrom, got {task.threshold}")
    wanted = len(task.generated) if task.num_wanted is None else task.num_wanted
    rmsd = best_rmsd(task.mol, task.references, task.generated, symmetry=task.symmetry)
    matrix = rmsd.values
    good = matrix[:, np.isfinite(matrix).all(axis=0)]
    failed = max(wanted, len(task.generated)) - good.shape[1]
    if good.shape[1] == 0:
        return score_of_distances(np.zeros(0), np.zeros(0), len(matrix), failed, task.threshold)
    score = score_of_distances(good.min(axis=1), good.min(axis=0), len(matrix), failed, task.threshold)
    return replace(score, upper_bound=not rmsd.exact)


def score_of_distances(
    nearest: np.ndarray, origin: np.ndarray, num_references: int, num_failed: int, threshold: float
) -> ConformerScore:
    """The score that follows from the smallest distances of each reference and of each generated conformer."""
    made = len(origin) > 0
    nothing = float("nan")
    return ConformerScore(
        cov_recall=float((nearest <= threshold).mean()) if made else 0.0,
        mat_recall=float(nearest.mean()) if made else nothing,
        cov_precision=float((origin <= threshold).mean()) if made else nothing,
        mat_precision=float(origin.mean()) if made else nothing,
        num_references=num_references,
        num_generated=len(origin),
        num_failed=num_failed,
        threshold=threshold,
        nearest=nearest,
        origin=origin,
    )


def diversity(mol: Any, conformers: np.ndarray, *, symmetry: Symmetry = "graph") -> tuple[float, float]:
    """Mean and standard deviation of the RMSD between any two of the conformers [C, A, 3], angstrom.

    Raises InvalidInput for fewer than two finite ones.
    """
    conformers = conformers[np.isfinite(conformers).all(axis=(1, 2))]
    if len(conformers) < 2:
        raise InvalidInput(f"diversity needs two conformers, got {len(conformers)}")
    values = rmsd_matrix(mol, conformers, conformers, symmetry=symmetry)[np.triu_indices(len(conformers), 1)]
    return float(values.mean()), float(values.std())
