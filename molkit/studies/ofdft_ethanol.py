"""Ethanol along a trajectory and along its torsions: a functional minimised where energies differ by little."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from molkit.claims.ledger import PUBLISHED_ENERGIES, REPOSITORY, Measurement
from molkit.claims.store import record
from molkit.config import stored_json
from molkit.metrics.statistics import Interval, bootstrap_interval, interval_over_runs
from molkit.ofdft.attention_functional import load
from molkit.ofdft.channels import neighbourhood, ridge_energies
from molkit.ofdft.geometries import TORSIONS, torsion_points
from molkit.ofdft.label_files import LabelledMolecule, load_folder
from molkit.ofdft.published_energies import published_surface
from molkit.studies.ofdft.arms import Plan, arm_recipe
from molkit.studies.ofdft_small import SmallStudy, chosen_weights, read_study, run_study
from molkit.studies.ofdft_water import MILLI, rounded
from molkit.training.files import write_text
from molkit.units import HARTREE_TO_KCAL

STORED = REPOSITORY / "data" / "studies" / "ofdft_ethanol.json"
ALONE: dict[str, Any] = {"published": False, "energy_ridge": 0.1}  # chosen by the energies of validation frames
PLAN = Plan(
    REPOSITORY / "data" / "recipes" / "ofdft_ethanol.yaml",
    {
        "full": {},
        "60 frames": {"count": 60},
        "30 frames": {"count": 30},
        "no gradient labels": {"gradient_weight": 0.0},
        "no perturbed samples": {"samples": "steps"},
        "no published energies": ALONE,
        "geometry": {"samples": "geometry", "gradient_weight": 0.0},
        "geometry 60 frames": {"samples": "geometry", "gradient_weight": 0.0, "count": 60},
        "geometry 30 frames": {"samples": "geometry", "gradient_weight": 0.0, "count": 30},
        "geometry no published energies": {"samples": "geometry", "gradient_weight": 0.0, **ALONE},
    },
    other_starts=("MINAO", "reference"),
)
LEARNING = {
    "minimised": ("30 frames", "60 frames", "full"),
    "no density": ("geometry 30 frames", "geometry 60 frames", "geometry"),
    "minimised, labels alone": ("no published energies",),
    "no density, labels alone": ("geometry no published energies",),
}
KCAL = HARTREE_TO_KCAL / MILLI  # kcal/mol in a millihartree
COUNTS = (15, 30, 60, 120)
SURFACES = {"reference energy": "full", "reference energy, labels alone": "no published energies"}  # arms
FIRST_LIVE = 100  # test frame that no stored study has used
JUDGED = "no published energies"  # the arm whose energies are the functional's alone
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
    surface: dict[str, list[float]]  # errors of the reference energy of the full arm alone, millihartree
    surfaces: dict[str, dict[str, float]]  # SURFACES, frames -> mean absolute error of relative energies, kcal/mol

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

    def surface_errors(self, where: str = "test") -> tuple[np.ndarray, np.ndarray]:
        """Signed errors of the reference energy alone, kcal/mol: of relative energies, and of totals."""
        total = KCAL * np.array(self.surface[where])
        return total - KCAL * self.surface["torsions"][REFERENCE], total

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
    return interval_over_runs([bootstrap_interval(row) for row in values], positive=True)


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
    """Every pair of arm and seed; finished ones are kept in `runs`. The surface is that of the first pair.

    Raises what training and loader raise.
    """
    read = load_labels(labels)
    sets = {name: read[name] for name in ("test", "torsions")}
    found = run_study(wanted, runs=runs, valid=read["valid"], sets=sets, until=until, plan=PLAN, report=report)
    energies = {name: [entry.energy for entry in molecules] for name, molecules in sets.items()}
    train = load_folder(labels / "train", "ethanol", "train", limit=found.num_train)
    counts = {arm: PLAN.arms[arm].get("count", found.num_train) for arm in found.arms}
    arm, seed = wanted[0]
    reduction = load(chosen_weights(found, runs, arm, seed)).reduction
    surface = {name: surface_errors(reduction.energies, molecules) for name, molecules in sets.items()}
    return EthanolStudy(
        found, energies, [entry.energy for entry in train], counts, surface, surface_curves(train, **sets)
    )


def energy_features(molecules: Sequence[LabelledMolecule]) -> np.ndarray:
    """Of every molecule what reference energies are linear in, [N, ENERGY_FEATURES]."""
    return np.stack([neighbourhood(entry.molecule).energy_features() for entry in molecules])


def surface_errors(weights: np.ndarray, molecules: Sequence[LabelledMolecule]) -> list[float]:
    """Signed errors of reference energies with weights [ENERGY_FEATURES], millihartree."""
    return (MILLI * (energy_features(molecules) @ weights - [entry.energy for entry in molecules])).tolist()


def surface_curves(
    train: Sequence[LabelledMolecule], test: Sequence[LabelledMolecule], torsions: Sequence[LabelledMolecule]
) -> dict[str, dict[str, float]]:
    """Errors of reference energies fitted to the first frames of the training set, for both of SURFACES."""
    features, energies = energy_features(train), np.array([entry.energy for entry in train])
    found: dict[str, dict[str, float]] = {name: {} for name in SURFACES}
    for name, arm in SURFACES.items():
        data = arm_recipe(arm, seed=0, plan=PLAN).data
        prior = published_surface(data.name) if data.published else None
        for count in [count for count in COUNTS if count <= len(train)]:
            weights = ridge_energies(features[:count], energies[:count], data.energy_ridge, prior)
            at_rest = surface_errors(weights, torsions[: REFERENCE + 1])[REFERENCE]
            wrong = np.array(surface_errors(weights, test)) - at_rest
            found[name][str(count)] = KCAL * float(np.abs(wrong).mean())
    return found


def write_study(study: EthanolStudy, path: Path) -> None:
    """Keep a study as JSON. Raises RunError when the disk refuses."""
    values = asdict(study)
    values["found"] = rounded(values["found"])
    write_text(path, json.dumps(values, separators=(",", ":")) + "\n")


def stored_study(path: Path = STORED) -> EthanolStudy:
    """What `molkit study ofdft-ethanol` wrote. Raises DataNotFound or InvalidInput."""
    with stored_json(path, "a study of ethanol", f"molkit study ofdft-ethanol --out {path}") as values:
        return EthanolStudy(**{**values, "found": read_study(values["found"])})


def classical_errors(rows: Sequence[Any], functional: str) -> tuple[np.ndarray, np.ndarray]:
    """Errors of one functional's minimised energies, kcal/mol: of the total of every geometry, and relative to rest.

    The first geometry of the rows is the one at rest.
    """
    after = KCAL * np.array([row.after for row in rows if row.functional == functional])
    return after, after[1:] - after[0]


def measurements(study: EthanolStudy, arm: str = JUDGED) -> list[Measurement]:
    """Record the relative energies of the test frames by an arm; one that leans on published energies says so."""
    error, runs = study.error(arm), study.found.of_arm(arm)
    leans = arm_recipe(arm, seed=0, plan=PLAN).data.published
    return [
        record(
            "mofdft.ethanol.energy",
            error.value,
            interval=(error.low, error.high),
            interval_kind="trainings, 95 %" if len(runs) > 1 else "frames resampled, 95 %",
            n=len(study.energies["test"]),
            counts="structures",
            basis=PUBLISHED_ENERGIES if leans else "scaled_down",
            seeds=[run.seed for run in runs],
            seconds=sum(run.seconds for run in runs),
            notes=f"{study.num_frames[arm]} training frames, arm {arm!r}; relative to ethanol at rest",
        )
    ]
