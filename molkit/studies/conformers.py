"""Conformers of the flow beside RDKit's: coverage, matching, geometry, energies and cost, kept row by row."""

import json
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np

from molkit.cgcf.config import Start
from molkit.cgcf.conformers import Stereo
from molkit.cgcf.domain import Tested
from molkit.cgcf.energy_training import load_energy
from molkit.cgcf.model import load_flow
from molkit.chem.conformer_rmsd import Symmetry
from molkit.chem.rdkit_tools import rotatable_bonds
from molkit.claims.ledger import REPOSITORY, Measurement
from molkit.claims.provenance import commit, hash_files
from molkit.data.ensembles import WHAT, Split, ensemble_mol, load_ensembles
from molkit.data.registry import data_root, sha256_of
from molkit.errors import DataNotFound, InvalidInput
from molkit.farm.folder import Result
from molkit.farm.run import run_farm
from molkit.metrics.conformers import Failures
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.studies.conformer_arms import ARMS, NUMBERS, ArmsTask, measure
from molkit.studies.method_orders import record_order
from molkit.training.files import read_packed, write_packed
from molkit.training.run_folder import provenance
from molkit.training.weights import resolve

STORED = REPOSITORY / "data" / "studies"
DIGITS = 4


@dataclass(frozen=True)
class Row:
    """One molecule by one arm: COV and MAT, geometry, seconds of CPU for each conformer."""

    name: str
    arm: str
    seed: int
    cov_recall: float
    mat_recall: float | None
    cov_precision: float | None
    mat_precision: float | None
    num_references: int
    num_generated: int
    num_failed: int
    bond_spread: float | None  # standard deviation of each bond's length over the conformers, mean over bonds, angstrom
    radius_of_gyration: float | None
    seconds: float
    energy_kcal: float | None = None  # GFN2-xTB, above the lowest reference, mean over the conformers asked
    energy_failed: int = 0  # of them without an energy
    nearest: tuple[float, ...] = ()  # smallest RMSD to each reference, angstrom


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a study compares, on what."""

    weights: str
    energy: str = ""  # published weights of an energy; empty: no arms with it
    data: str = "conformers_dft"
    threshold: float = 1.25
    limit: int = 20  # test molecules, spread evenly
    max_references: int = 25  # of a molecule; more are thinned evenly
    seeds: tuple[int, ...] = (0,)
    num_energies: int = 0  # conformers of each arm whose GFN2-xTB energy is taken
    stereo: str = "mirror"  # what the flow does about wrong handedness, as in `molkit conformers`
    only: tuple[str, ...] = ()  # arms; empty: all
    split: Split = "test"  # of the set; `valid` is for choices between weights
    symmetry: Symmetry = "graph"  # of the RMSD, as in molkit.chem.conformer_rmsd
    start: Start | None = None  # of the converged search for positions; None: as the weights say
    failures: Failures = "zero"  # a molecule for which an arm made nothing: covered by 0, or left out of that arm


@dataclass
class ConformerStudy:
    """Everything measured: rows of molecules and arms, molecules left out with their reasons, where it was made."""

    setting: Setting
    rows: list[Row] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    references: dict[str, float] = field(default_factory=dict)  # mean radius of gyration of each molecule's references
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def molecules(self) -> list[str]:
        """Names of the molecules that have rows."""
        return list(dict.fromkeys(row.name for row in self.rows))


def run_study(
    setting: Setting,
    folder: Path,
    *,
    executor: Executor | None = None,
    minutes: float | None = None,
    progress: bool = False,
) -> ConformerStudy:
    """Measure the test molecules that the folder does not hold yet, one task a molecule and seed, until time is up.

    The first seed comes first for all molecules. A molecule that cannot be treated is listed with its reason. Raises
    DataNotFound or InvalidInput for weights or a set that are not there, or for a folder of another setting.
    """
    load_flow(setting.weights)
    if setting.energy:
        load_energy(setting.energy, flow=setting.weights)
    tasks = study_tasks(setting)
    kept = asdict(setting)
    for name in ("limit", "seeds", "failures"):  # a folder may hold more of these, and any policy reads it
        del kept[name]
    report = run_farm(
        measure, tasks, folder, executor=executor, minutes=minutes, settings=kept, progress=progress, unit="molecule"
    )
    found = ConformerStudy(setting, made=provenance() | stamp(setting))
    for key, result in report.results().items():
        found.rows += rows_of(tasks[key], result)
        found.references[tasks[key].ensemble.name] = round(float(result["radius"]), DIGITS)
    found.failures = {tasks[key].ensemble.name: reason for key, reason in report.failed.items()}
    return found


def study_tasks(setting: Setting) -> dict[str, ArmsTask]:
    """One task for each seed and test molecule."""
    ensembles = load_ensembles(setting.data, split=setting.split, limit=setting.limit)
    if not ensembles:
        raise InvalidInput(f"{setting.data}: the split {setting.split} is empty")
    unknown = sorted(set(setting.only) - set(ARMS))
    if unknown:
        raise InvalidInput(f"unknown arm {unknown[0]!r}: expected {', '.join(ARMS)}")
    for name, kind in {"stereo": Stereo, "symmetry": Symmetry, "failures": Failures, "start": Start}.items():
        if (value := getattr(setting, name)) is not None and value not in get_args(kind):
            raise InvalidInput(f"unknown {name} {value!r}: expected {', '.join(get_args(kind))}")
    shared = (setting.weights, setting.energy, setting.threshold, setting.max_references, setting.num_energies)
    asked = (setting.stereo, setting.only, setting.symmetry, setting.start)
    return {f"{seed}_{one.name}": ArmsTask(one, *shared, seed, *asked) for seed in setting.seeds for one in ensembles}


def rows_of(task: ArmsTask, result: Result) -> list[Row]:
    """The rows of one task, rounded as they are kept."""
    rows = []
    for arm, values, nearest in zip(result["arms"].tolist(), result["numbers"], result["nearest"], strict=True):
        numbers = {name: _rounded(value) for name, value in zip(NUMBERS, values.tolist(), strict=True)}
        whole = {name: int(numbers.pop(name) or 0) for name in ("num_generated", "num_failed", "energy_failed")}
        close = tuple(round(float(x), 3) for x in nearest) if np.isfinite(nearest).all() else ()
        about = (task.ensemble.name, arm, task.seed)
        rows.append(Row(*about, **numbers, **whole, num_references=len(nearest), nearest=close))
    return rows


def _rounded(value: float) -> float | None:
    return round(value, DIGITS) if np.isfinite(value) else None


def stamp(setting: Setting) -> dict[str, Any]:
    """Commit, weights and data behind a study."""
    head, dirty = commit()
    names = [setting.weights, *([setting.energy] if setting.energy else [])]
    weights = {name: hash_files([resolve(name) / "weights.safetensors"]) for name in names}
    return {
        "commit": head,
        "dirty": dirty,
        "weights_sha256": weights,
        "data_sha256": sha256_of(data_root() / f"{setting.data}.npz"),
    }


def write_study(study: ConformerStudy, path: Path) -> None:
    """Keep a study as JSON, rows as columns; packed where the name ends in .gz. Raises RunError as the disk refuses."""
    values = asdict(study)
    columns = {part.name: [row[part.name] for row in values["rows"]] for part in fields(Row)}
    write_packed(path, json.dumps(values | {"rows": columns}, separators=(",", ":")) + "\n")


def read_study(path: Path) -> ConformerStudy:
    """A stored study. Raises DataNotFound or InvalidInput."""
    if not path.is_file():
        raise DataNotFound(f"{path}: no such study; `molkit study conformers` makes it")
    try:
        values = json.loads(read_packed(path))
        values["setting"] = _setting(values["setting"])
        columns = values["rows"]
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        values["rows"] = [Row(**row | {"nearest": tuple(row["nearest"])}) for row in rows]
        return ConformerStudy(**values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(f"{path}: not a study of conformers ({error})") from error


def _setting(values: dict[str, Any]) -> Setting:
    """A setting whose lists are tuples again; a study that names no start was begun from normal numbers."""
    values = {"start": "normal"} | values
    return Setting(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def stored_path(name: str) -> Path:
    """Where the study of that name is in data/studies: plain, or packed."""
    packed = STORED / f"{name}.json.gz"
    return packed if packed.is_file() else STORED / f"{name}.json"


def stored_study(name: str) -> ConformerStudy:
    """The study of that name in data/studies."""
    return read_study(stored_path(name))


def as_tested(study: ConformerStudy) -> Tested:
    """What the test molecules of a study are, and how the flow did: an entry of `tested.yaml` beside its weights."""
    names = {row.name for row in study.rows}
    mols = [ensemble_mol(one) for one in load_ensembles(study.setting.data, split="test") if one.name in names]
    arms = {"covered": "flow", "covered_relaxed": "flow_ff", "covered_rdkit": "rdkit_ff"}
    return Tested(
        data=study.setting.data,
        num_molecules=len(mols),
        elements=tuple(sorted({atom.GetAtomicNum() for mol in mols for atom in mol.GetAtoms()})),
        heavy_atoms=max(mol.GetNumHeavyAtoms() for mol in mols),
        rotatable_bonds=max(rotatable_bonds(mol) for mol in mols),
        charges=tuple(sorted({sum(atom.GetFormalCharge() for atom in mol.GetAtoms()) for mol in mols})),
        threshold=study.setting.threshold,
        **{name: round(mean_of(study, arm, "cov_recall").value, 3) for name, arm in arms.items()},
    )


def mean_of(study: ConformerStudy, arm: str, measure: str) -> Interval | None:
    """Mean over molecules (seeds averaged first) with its bootstrap interval; None where there is nothing."""
    values = by_molecule(study, arm, measure)
    kept = np.array([value for value in values.values() if value is not None])
    return bootstrap_interval(kept) if len(kept) > 1 else None


def difference(study: ConformerStudy, arm: str, other: str, measure: str) -> Interval | None:
    """Mean over molecules of the paired difference arm - other, with its bootstrap interval."""
    first, second = by_molecule(study, arm, measure), by_molecule(study, other, measure)
    pairs = [(first[name], second[name]) for name in first if first[name] is not None and second.get(name) is not None]
    return bootstrap_interval(np.array([a - b for a, b in pairs])) if len(pairs) > 1 else None


def by_molecule(study: ConformerStudy, arm: str, measure: str) -> dict[str, float | None]:
    """One value a molecule, the mean over seeds; None where there is none.

    Where an arm made nothing, both coverages are 0, or nothing where the setting excludes failures.
    """
    found: dict[str, list[float]] = {}
    for row in study.rows:
        if row.arm == arm:
            value = _value(row, measure, study.setting.failures)
            found.setdefault(row.name, []).extend([] if value is None else [value])
    return {name: float(np.mean(values)) if values else None for name, values in found.items()}


def _value(row: Row, measure: str, failures: Failures) -> float | None:
    if row.num_generated == 0 and measure in ("cov_recall", "cov_precision"):
        return 0.0 if failures == "zero" else None
    return getattr(row, measure)


def arms_of(study: ConformerStudy) -> Sequence[str]:
    """The arms that were measured, in the order of the table."""
    seen = {row.arm for row in study.rows}
    return [arm for arm in ARMS if arm in seen]


def what_data(study: ConformerStudy) -> str:
    """A sentence about the test data of a study."""
    return WHAT[study.setting.data]


def coverage_at(study: ConformerStudy, arm: str, thresholds: np.ndarray) -> np.ndarray:
    """Recall coverage at thresholds [T] in angstrom: over references, then seeds, then molecules; where nothing was
    made it is 0, or left out as the setting says.

    Raises InvalidInput for an arm that has no rows or made nothing that counts.
    """
    curves: dict[str, list[np.ndarray]] = {}
    for row in study.rows:
        if row.arm == arm and (row.nearest or study.setting.failures == "zero"):
            near = np.array(row.nearest) if row.nearest else np.full(1, np.inf)
            curves.setdefault(row.name, []).append((near[None] <= thresholds[:, None]).mean(axis=1))
    if not curves:
        raise InvalidInput(f"the arm {arm!r} made nothing in this study")
    return np.mean([np.mean(several, axis=0) for several in curves.values()], axis=0)


@dataclass(frozen=True)
class Bar:
    """An aim that was fixed before measuring."""

    what: str
    aim: str
    measured: str
    verdict: str


def bars(study: ConformerStudy) -> list[Bar]:
    """The aims of the comparison and what came out. Raises InvalidInput for a study without an energy."""
    if not {"etm", "etm_published"} & set(arms_of(study)):
        raise InvalidInput("the aims are about CGCF + ETM; this study has no arms with an energy")
    pairs = [("etm", "flow"), ("etm_published", "flow_published")]
    found = [_order_bar(study, *pair) for pair in pairs if set(pair) <= set(arms_of(study))]
    with_field = [arm for arm in ("flow_ff", "etm_ff") if {arm, "rdkit_ff"} <= set(arms_of(study))]
    found += [force_field_bar(study, arm) for arm in with_field]
    for arm in [arm for arm in ("flow", "etm") if arm in arms_of(study)]:
        spread = mean_of(study, arm, "bond_spread")
        told = f"{spread.value:.3f} [{spread.low:.3f}, {spread.high:.3f}] Å"
        verdict = ("met" if spread.value <= 0.02 else "not met") if arm == "etm" else ""
        aim = "at most 0.02 Å" if arm == "etm" else "none, for comparison"
        found.append(Bar(f"Spread of bond lengths, {ARMS[arm]}", aim, told, verdict))
    return found


def force_field_bar(study: ConformerStudy, arm: str) -> Bar:
    """Whether an arm with MMFF94 is not behind ETKDGv3 with MMFF94."""
    cov, mat = (difference(study, arm, "rdkit_ff", measure) for measure in ("cov_recall", "mat_recall"))
    told = f"{100 * cov.value:+.1f} [{100 * cov.low:+.1f}, {100 * cov.high:+.1f}] points, {mat.value:+.3f} Å"
    met = 100 * cov.low > -2.0 and mat.value <= 0.02
    aim = "COV-R: lower 95 % limit above −2 points; MAT-R at most 0.02 Å worse"
    return Bar(f"{ARMS[arm]} against {ARMS['rdkit_ff']}", aim, told, "met" if met else "not met")


ORDERS = {  # claims about the order of arms: arm, other, measure, factor
    "qm9.etm_cov": ("etm", "flow", "cov_recall", 100.0),
    "qm9.etm_mat": ("etm", "flow", "mat_recall", 1.0),
    "qm9.etm_published_cov": ("etm_published", "flow_published", "cov_recall", 100.0),
    "qm9.etm_published_mat": ("etm_published", "flow_published", "mat_recall", 1.0),
    "qm9.etm_ff_cov": ("etm_ff", "flow_ff", "cov_recall", 100.0),
    "qm9.ff_mat": ("flow_ff", "flow", "mat_recall", 1.0),
    "qm9.rdkit_cov": ("rdkit", "flow", "cov_recall", 100.0),
    "qm9.rdkit_etm_cov": ("rdkit", "etm", "cov_recall", 100.0),
    "drugs.rdkit_cov": ("rdkit", "flow", "cov_recall", 100.0),
    "drugs.flow_ff_cov": ("flow_ff", "rdkit", "cov_recall", 100.0),
    "drugs.etm_cov": ("etm", "flow", "cov_recall", 100.0),
    "drugs.etm_mat": ("etm", "flow", "mat_recall", 1.0),
    "drugs.etm_ff_cov": ("etm_ff", "flow_ff", "cov_recall", 100.0),
}


def record_orders(study: ConformerStudy, prefix: str, *, source: str) -> list[Measurement]:
    """Record the paired differences of a stored study `source` whose claims begin with the prefix."""
    found, path = [], stored_path(source)
    for name, (arm, other, what, factor) in ORDERS.items():
        value = difference(study, arm, other, what)
        if not name.startswith(prefix) or value is None:
            continue
        found.append(
            record_order(
                name,
                value,
                n=len(study.molecules),
                seconds=sum(row.seconds * row.num_generated for row in study.rows if row.arm in (arm, other)),
                weights=study.setting.weights,
                seeds=study.setting.seeds,
                stored=path,
                factor=factor,
                notes=what_data(study),
            )
        )
    return found


def _order_bar(study: ConformerStudy, arm: str, other: str) -> Bar:
    """Whether the ETM improves coverage or matching significantly at the same search."""
    cov, mat = (difference(study, arm, other, measure) for measure in ("cov_recall", "mat_recall"))
    told = (
        f"COV-R {100 * cov.value:+.1f} [{100 * cov.low:+.1f}, {100 * cov.high:+.1f}] points, "
        f"MAT-R {mat.value:+.4f} [{mat.low:+.4f}, {mat.high:+.4f}] Å"
    )
    better = (cov.low > 0.0) + (mat.high < 0.0)
    verdict = ("no order found", "better in one of two", "better in both")[better]
    if cov.high < 0.0 or mat.low > 0.0:
        verdict = "worse in at least one"
    return Bar(f"{ARMS[arm]} against {ARMS[other]}", "the order significant, or reported as not found", told, verdict)
