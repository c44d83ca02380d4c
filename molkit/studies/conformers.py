"""Conformers of the flow beside RDKit's: coverage, matching, geometry and cost, stored molecule by molecule."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch

from molkit.cgcf.conformers import Conformers, draw_distances, generate, require_known
from molkit.cgcf.datasets import graph_of
from molkit.cgcf.embedding import embed, radius_of_gyration
from molkit.cgcf.energy import EnergyNetwork
from molkit.cgcf.energy_training import load_energy
from molkit.cgcf.graph import collate
from molkit.cgcf.model import Cgcf, load_flow
from molkit.cgcf.refinement import Walk, refine
from molkit.chem.rdkit_conformers import rdkit_conformers, relax_conformers
from molkit.data.ensembles import WHAT, Ensemble, ensemble_mol, load_ensembles
from molkit.errors import DataNotFound, InvalidInput, MolkitError
from molkit.metrics.conformers import MEASURES, PER_REFERENCE, ScoreTask, score_conformers
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.rng import generator_from
from molkit.training.files import write_text
from molkit.training.run_folder import provenance

STORED = Path(__file__).resolve().parents[2] / "data" / "studies"
ARMS = {
    "rdkit": "ETKDGv3",
    "rdkit_ff": "ETKDGv3 + MMFF94",
    "flow_published": "CGCF, published search",
    "flow": "CGCF, converged search",
    "flow_ff": "CGCF, converged search + MMFF94",
    "etm": "CGCF + ETM",
    "etm_ff": "CGCF + ETM + MMFF94",
}
REFINEMENT = Walk(num_steps=50, first_step=1e-3, last_step=1e-4, noise_scale=0.0)


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
    bond_spread: float  # standard deviation of each bond's length over the conformers, mean over bonds, angstrom
    radius_of_gyration: float
    seconds: float


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


def run_study(setting: Setting, path: Path, *, report: Callable[[str], None] = lambda text: None) -> ConformerStudy:
    """Measure all test molecules that `path` does not hold yet; written after each, so that it can be interrupted.

    A molecule that cannot be treated is listed with its reason. Raises InvalidInput for a file of another setting.
    """
    found = read_study(path) if path.is_file() else ConformerStudy(setting, made=provenance())
    if found.setting != setting:
        raise InvalidInput(f"{path} holds a study of another setting ({found.setting}); choose another --out")
    model = load_flow(setting.weights)
    energy = load_energy(setting.energy) if setting.energy else None
    done = {*found.molecules, *found.failures}
    for one in load_ensembles(setting.data, split="test", limit=setting.limit):
        if one.name in done:
            continue
        try:
            rows = [row for seed in setting.seeds for row in molecule_rows(one, model, energy, setting, seed)]
        except MolkitError as error:
            found.failures[one.name] = str(error)
        else:
            found.rows += rows
            found.references[one.name] = float(radius_of_gyration(torch.from_numpy(one.positions)).mean())
        write_text(path, json.dumps(asdict(found), indent=1) + "\n")
        report(f"{one.name}: {found.failures.get(one.name, 'done')}")
    return found


def molecule_rows(one: Ensemble, model: Cgcf, energy: EnergyNetwork | None, setting: Setting, seed: int) -> list[Row]:
    """All arms on one molecule: as many conformers as the papers draw, two for each reference."""
    mol = ensemble_mol(one)
    require_known(model, mol, one.smiles)
    references = thinned(one.positions, setting.max_references)
    count = PER_REFERENCE * len(references)
    rows = []
    for arm, (positions, seconds) in arms(one, mol, model, energy, count, seed).items():
        score = score_conformers(ScoreTask(mol, references, positions, setting.threshold, num_wanted=count))
        numbers = {name: _or_none(getattr(score, name)) for name in MEASURES}
        rows.append(
            Row(
                one.name,
                arm,
                seed,
                **numbers,
                num_references=len(references),
                num_generated=score.num_generated,
                num_failed=score.num_failed,
                bond_spread=bond_spread(one, positions),
                radius_of_gyration=float(radius_of_gyration(torch.from_numpy(positions)).mean()),
                seconds=seconds / count,
            )
        )
    return rows


def arms(
    one: Ensemble, mol: Any, model: Cgcf, energy: EnergyNetwork | None, count: int, seed: int
) -> dict[str, tuple[np.ndarray, float]]:
    """Positions [C, A, 3] and CPU seconds of every arm; both searches start from the same distances."""
    drawn: dict[str, tuple[np.ndarray, float]] = {}
    drawn["rdkit"] = _timed(lambda: rdkit_conformers(mol, count, seed=seed))
    drawn["flow"] = _timed(lambda: from_flow(model, one, mol, count, seed).positions)
    drawn["flow_published"] = _timed(lambda: published(model, mol, count, seed))
    if energy is not None:
        drawn["etm"] = _timed(lambda: refined(model, energy, mol, drawn["flow"][0], seed), drawn["flow"][1])
    for arm in ("rdkit", "flow", "etm"):
        if arm in drawn:
            positions, seconds = drawn[arm]
            drawn[f"{arm}_ff"] = _timed(lambda positions=positions: relax_conformers(mol, positions)[0], seconds)
    return {arm: drawn[arm] for arm in ARMS if arm in drawn}


def from_flow(model: Cgcf, one: Ensemble, mol: Any, count: int, seed: int) -> Conformers:
    """Conformers with the default search, all-inverted ones reflected."""
    generator = generator_from("conformers", one.name, seed)
    return generate(model, one.smiles, count, generator=generator, mol=mol, stereo="mirror")


def published(model: Cgcf, mol: Any, count: int, seed: int) -> np.ndarray:
    """Conformers with the published search, left as they fall."""
    graph, generator = collate([graph_of(mol)]), generator_from("published search", seed)
    distances = draw_distances(model.flow, graph, count, generator=generator)
    return embed(graph, distances, generator=generator, search="adam").positions.numpy()


def refined(model: Cgcf, energy: EnergyNetwork, mol: Any, positions: np.ndarray, seed: int) -> np.ndarray:
    """The conformers after refinement without noise on the tilted energy."""
    start = torch.from_numpy(positions).float()
    generator = generator_from("refinement", seed)
    graph = collate([graph_of(mol)])
    return refine(model.flow, energy, graph, start, REFINEMENT, generator=generator).positions.double().numpy()


def bond_spread(one: Ensemble, positions: np.ndarray) -> float:
    """Standard deviation of each bond's length over conformers [C, A, 3], mean over the bonds, angstrom."""
    ends = positions[:, one.bonds[:, 0]] - positions[:, one.bonds[:, 1]]
    return float(np.sqrt((ends**2).sum(-1)).std(axis=0).mean())


def thinned(positions: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the conformers, spread evenly."""
    if len(positions) <= most:
        return positions
    return positions[np.arange(most) * len(positions) // most]


def _timed(work: Callable[[], np.ndarray], before: float = 0.0) -> tuple[np.ndarray, float]:
    started = process_time()
    positions = work()
    return positions, before + process_time() - started


def _or_none(value: float) -> float | None:
    return None if value != value else value


def read_study(path: Path) -> ConformerStudy:
    """A stored study. Raises DataNotFound or InvalidInput."""
    if not path.is_file():
        raise DataNotFound(f"{path}: no such study; `molkit study conformers` makes it")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["setting"] = Setting(**values["setting"] | {"seeds": tuple(values["setting"]["seeds"])})
        values["rows"] = [Row(**row) for row in values["rows"]]
        return ConformerStudy(**values)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path}: not a study of conformers ({error})") from error


def stored_study(name: str) -> ConformerStudy:
    """The study of that name in data/studies."""
    return read_study(STORED / f"{name}.json")


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
    """One value a molecule, the mean over seeds; None where an arm made nothing."""
    found: dict[str, list[float]] = {}
    for row in study.rows:
        if row.arm == arm:
            value = getattr(row, measure)
            found.setdefault(row.name, []).extend([] if value is None else [value])
    return {name: float(np.mean(values)) if values else None for name, values in found.items()}


def arms_of(study: ConformerStudy) -> Sequence[str]:
    """The arms that were measured, in the order of the table."""
    seen = {row.arm for row in study.rows}
    return [arm for arm in ARMS if arm in seen]


def what_data(study: ConformerStudy) -> str:
    """A sentence about the test data of a study."""
    return WHAT[study.setting.data]
