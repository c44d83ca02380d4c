"""Ethanol along a trajectory and along its torsions: a functional minimised where energies differ by little."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from molkit.claims.ledger import REPOSITORY, Measurement
from molkit.claims.store import record
from molkit.errors import DataNotFound, InvalidInput
from molkit.metrics.statistics import Interval, bootstrap_interval, interval_over_runs
from molkit.ofdft.geometries import TORSIONS, torsion_points
from molkit.ofdft.label_files import LabelledMolecule, load_folder
from molkit.studies.ofdft_classical import Minimised
from molkit.studies.ofdft_small import Plan, SmallStudy, read_study, run_study
from molkit.studies.ofdft_water import MILLI, rounded
from molkit.training.files import write_text
from molkit.units import HARTREE_TO_KCAL

STORED = REPOSITORY / "data" / "studies" / "ofdft_ethanol.json"
CLASSICAL = REPOSITORY / "data" / "studies" / "ofdft_ethanol_classical.json"
PLAN = Plan(
    REPOSITORY / "data" / "recipes" / "ofdft_ethanol.yaml",
    {
        "full": {},
        "80 frames": {"count": 80},
        "40 frames": {"count": 40},
        "no gradient labels": {"gradient_weight": 0.0},
        "no perturbed samples": {"samples": "steps"},
        "geometry": {"samples": "geometry", "gradient_weight": 0.0},
        "geometry 80 frames": {"samples": "geometry", "gradient_weight": 0.0, "count": 80},
        "geometry 40 frames": {"samples": "geometry", "gradient_weight": 0.0, "count": 40},
    },
)
LEARNING = {
    "minimised": ("40 frames", "80 frames", "full"),
    "without a density": ("geometry 40 frames", "geometry 80 frames", "geometry"),
}
KCAL = HARTREE_TO_KCAL / MILLI  # kcal/mol in a millihartree
REFERENCE = 0  # of the torsion points: ethanol at rest


@dataclass(frozen=True)
class EthanolStudy:
    """Minimisations of test frames and torsion points, and the Kohn-Sham energies of both (hartree).

    `torsions` begins with ethanol at rest, to which all relative energies refer.
    """

    found: SmallStudy
    energies: dict[str, list[float]]
    train_energies: list[float]
    num_frames: dict[str, int]  # training frames of every arm

    def start(self, arm: str, start: str = "MINAO") -> str:
        """The start of an arm; the arms without a density have but one."""
        return "geometry" if arm.startswith("geometry") else start

    def errors(self, arm: str, where: str = "test", start: str = "MINAO", column: str = "after") -> np.ndarray:
        """Signed errors of relative energies [runs, geometries], kcal/mol."""
        start = self.start(arm, start)
        resting = self.found.errors(arm, "torsions", start, column)[:, REFERENCE]
        return KCAL * (self.found.errors(arm, where, start, column) - resting[:, None])

    def error(self, arm: str, where: str = "test", start: str = "MINAO", column: str = "after") -> Interval:
        """Mean absolute error of relative energies, kcal/mol; over seeds where there are several, else bootstrapped."""
        return _mean(np.abs(self.errors(arm, where, start, column)))

    def absolute_error(self, arm: str, start: str = "MINAO", column: str = "after") -> Interval:
        """Mean absolute error of total energies of test frames, kcal/mol."""
        return _mean(KCAL * np.abs(self.found.errors(arm, "test", self.start(arm, start), column)))

    def relative(self, where: str = "test") -> np.ndarray:
        """Kohn-Sham energies above ethanol at rest, kcal/mol."""
        return HARTREE_TO_KCAL * (np.array(self.energies[where]) - self.energies["torsions"][REFERENCE])

    def guess_error(self) -> Interval:
        """Mean absolute error of always saying the mean of the training frames, kcal/mol."""
        mean = np.mean(self.train_energies)
        return bootstrap_interval(HARTREE_TO_KCAL * np.abs(np.array(self.energies["test"]) - mean))

    def curve(self, torsion: str, arm: str | None = None, *, column: str = "after") -> tuple[np.ndarray, np.ndarray]:
        """Degrees of a torsion, and energies above ethanol at rest [runs, points], of an arm or of Kohn-Sham."""
        rows = [row for row, (name, _) in enumerate(torsion_points(), start=1) if name == torsion]
        kohn_sham = self.relative("torsions")[rows]
        errors = self.errors(arm, "torsions", column=column)[:, rows] if arm else np.zeros((1, len(rows)))
        return np.array(TORSIONS[torsion][2], dtype=float), kohn_sham + errors


def _mean(values: np.ndarray) -> Interval:
    found = [bootstrap_interval(row) for row in values]
    return interval_over_runs(found) if len(found) > 1 else found[0]


def load_labels(folder: Path) -> dict[str, list[LabelledMolecule]]:
    """Labels of validation, test and torsions below a folder. Raises what the loader raises."""
    kinds = {"valid": ("ethanol", "valid"), "test": ("ethanol", "test"), "torsions": ("ethanol_torsions", "test")}
    return {name: load_folder(folder / name, kind, split) for name, (kind, split) in kinds.items()}


def run(
    wanted: Sequence[tuple[str, int]],
    *,
    labels: Path,
    runs: Path,
    until: int | None = None,
    report: Callable[[str], None] = lambda text: None,
) -> EthanolStudy:
    """Every pair of arm and seed; finished ones are kept in `runs`. Raises what training and loader raise."""
    read = load_labels(labels)
    sets = {name: read[name] for name in ("test", "torsions")}
    found = run_study(wanted, runs=runs, valid=read["valid"], sets=sets, until=until, plan=PLAN, report=report)
    energies = {name: [entry.energy for entry in molecules] for name, molecules in sets.items()}
    train = load_folder(labels / "train", "ethanol", "train", limit=found.num_train)
    counts = {arm: PLAN.arms[arm].get("count", found.num_train) for arm in found.arms}
    return EthanolStudy(found, energies, [entry.energy for entry in train], counts)


def write_study(study: EthanolStudy, path: Path) -> None:
    """Keep a study as JSON. Raises RunError when the disk refuses."""
    values = asdict(study)
    values["found"] = rounded(values["found"])
    write_text(path, json.dumps(values, separators=(",", ":")) + "\n")


def stored_study(path: Path = STORED) -> EthanolStudy:
    """What `molkit study ofdft-ethanol` wrote. Raises DataNotFound or InvalidInput."""
    if not path.is_file():
        raise DataNotFound(f"{path}: no stored study; make it with `molkit study ofdft-ethanol --out {path}`")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return EthanolStudy(**{**values, "found": read_study(values["found"])})
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path}: not a study of ethanol ({error})") from error


def classical_errors(rows: Sequence[Minimised], functional: str) -> tuple[np.ndarray, np.ndarray]:
    """Errors of one functional's minimised energies, kcal/mol: of the total of every geometry, and relative to rest.

    The first geometry of the rows is the one at rest.
    """
    after = KCAL * np.array([row.after for row in rows if row.functional == functional])
    return after, after[1:] - after[0]


def measurements(study: EthanolStudy, *, weights: str) -> list[Measurement]:
    """Record the relative energies of the test frames."""
    error, runs = study.error("full"), study.found.of_arm("full")
    return [
        record(
            "mofdft.ethanol.energy",
            error.value,
            interval=(error.low, error.high),
            interval_kind="trainings, 95 %" if len(runs) > 1 else "frames resampled, 95 %",
            n=len(study.energies["test"]),
            counts="structures",
            basis="scaled_down",
            weights=weights,
            seeds=[run.seed for run in runs],
            seconds=sum(run.seconds for run in runs),
            notes=f"{study.num_frames['full']} training frames; relative to ethanol at rest",
        )
    ]
