"""Distances of generated conformers against those of trajectories: MMD of single distances, pairs and all of them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch

from molkit.cgcf.bridge import one_each
from molkit.cgcf.conformers import draw_distances, generate
from molkit.cgcf.datasets import graph_of
from molkit.cgcf.energy import EnergyNetwork
from molkit.cgcf.energy_training import load_energy
from molkit.cgcf.graph import collate
from molkit.cgcf.model import Cgcf, load_flow
from molkit.chem.conformer_rmsd import heavy_pairs
from molkit.chem.rdkit_conformers import rdkit_conformers
from molkit.claims.ledger import REPOSITORY
from molkit.claims.provenance import commit, hash_files
from molkit.data.ensembles import WHAT, Ensemble, ensemble_mol, load_ensembles
from molkit.data.registry import data_root, sha256_of
from molkit.errors import CalculationFailed, DataNotFound, InvalidInput
from molkit.metrics.conformers import diversity
from molkit.metrics.distributions import distances_mmd, heavy_distances
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.rng import generator_from
from molkit.studies.conformers.arms import refined
from molkit.studies.method_orders import record_order
from molkit.training.files import write_text
from molkit.training.run_folder import provenance
from molkit.training.weights import resolve

DATA = "trajectories_c7h10o2"
STORED = REPOSITORY / "data" / "studies" / "distance_distributions.json"
ARMS = {
    "rdkit": "ETKDGv3",
    "distances": "CGCF, distances as drawn",
    "flow": "CGCF, converged search",
    "etm": "CGCF + ETM",
}
KINDS = {"single": "single", "published": "pair, as published", "complete": "pair, complete", "all": "all"}


@dataclass(frozen=True)
class DistanceRow:
    """One molecule by one arm. MMDs: `single` for each pair of heavy atoms, means of the pairs of distances, `all`."""

    name: str
    arm: str
    num_references: int
    num_generated: int
    single: tuple[float, ...]
    published: float
    complete: float
    all: float
    diversity: float | None = None  # mean heavy-atom RMSD between conformers, angstrom; None for distances alone


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is compared, on what."""

    weights: str
    energy: str
    data: str = DATA
    count: int = 100  # conformers of each molecule
    limit: int = 0  # test molecules; 0: all
    seed: int = 0


@dataclass
class DistanceStudy:
    """Rows, molecules left out with their reasons, and where it was made."""

    setting: Setting
    rows: list[DistanceRow] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0  # CPU
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def molecules(self) -> list[str]:
        """Names of the molecules that have rows."""
        return list(dict.fromkeys(row.name for row in self.rows))


def run_study(setting: Setting, *, say: Callable[[str], object] | None = None) -> DistanceStudy:
    """All arms on the test molecules of the set. Raises DataNotFound where weights or the set are not there."""
    model, energy = load_flow(setting.weights), load_energy(setting.energy, flow=setting.weights)
    ensembles = load_ensembles(setting.data, split="test", limit=setting.limit or None)
    found, started = DistanceStudy(setting, made=provenance() | _stamp(setting)), process_time()
    for one in ensembles:
        try:
            found.rows += rows_of(one, model, energy, setting)
        except (InvalidInput, CalculationFailed) as error:
            found.failures[one.name] = str(error)
        if say is not None:
            say(one.name)
    found.seconds = round(process_time() - started, 1)
    return found


@dataclass(frozen=True, eq=False)
class Drawn:
    """Distances [n, E] of pairs of heavy atoms [2, E] that `hops` [E] bonds join: in the trajectory and by arm."""

    name: str
    edges: np.ndarray
    hops: np.ndarray
    target: np.ndarray
    distances: Mapping[str, np.ndarray]
    spreads: Mapping[str, float]  # diversity of the arms that have positions, angstrom


def drawn(one: Ensemble, model: Cgcf, energy: EnergyNetwork, count: int, seed: int) -> Drawn:
    """`count` conformers of every arm. The ETM starts from the flow's. Raises what making conformers raises."""
    mol = ensemble_mol(one)
    edges = heavy_pairs(mol)
    made = generate(model, one.smiles, count, generator=generator_from("distances", one.name, seed), mol=mol)
    positions = {
        "rdkit": rdkit_conformers(mol, count, seed=seed),
        "flow": made.positions,
        "etm": refined(model, energy, mol, made.positions, seed),
    }
    found = {arm: heavy_distances(at, edges) for arm, at in positions.items()}
    found["distances"] = raw_distances(model, mol, edges, count, generator_from("raw", one.name, seed))
    graph = graph_of(mol)
    hops = np.array([graph.hops[(pair == graph.pairs.T).all(1)][0] for pair in edges.T])
    spreads = {arm: float(diversity(mol, at)[0]) for arm, at in positions.items()}
    return Drawn(one.name, edges, hops, heavy_distances(one.positions, edges), found, spreads)


def one_isomer(weights: str, energy: str, *, count: int, seed: int, data: str = DATA) -> Drawn:
    """The first test molecule of a set, drawn now."""
    one = load_ensembles(data, split="test")[0]
    return drawn(one, load_flow(weights), load_energy(energy, flow=weights), count, seed)


def rows_of(one: Ensemble, model: Cgcf, energy: EnergyNetwork, setting: Setting) -> list[DistanceRow]:
    """The arms of one molecule. Raises what making conformers raises."""
    found = drawn(one, model, energy, setting.count, setting.seed)
    return [_row(one, arm, found.edges, found.target, found.distances[arm], found.spreads.get(arm)) for arm in ARMS]


def raw_distances(model: Cgcf, mol: Any, edges: np.ndarray, count: int, generator: torch.Generator) -> np.ndarray:
    """The flow's own distances [count, E] of pairs of heavy atoms [2, E], before any search for positions."""
    graph = collate([graph_of(mol)])
    drawn = one_each(draw_distances(model.flow, graph, count, generator=generator), graph).numpy()
    place = {(int(a), int(b)): column for column, (a, b) in enumerate(graph.pairs.T)}
    return drawn[:, [place[int(a), int(b)] for a, b in edges.T]].astype(np.float64)


def _row(
    one: Ensemble, arm: str, edges: np.ndarray, target: np.ndarray, drawn: np.ndarray, spread: float | None
) -> DistanceRow:
    both = {rule: distances_mmd(edges, target, drawn, pairs=rule) for rule in ("published", "complete")}
    first = both["published"]
    means = {rule: round(float(np.mean(values.pair)), 4) for rule, values in both.items()}
    single = tuple(round(float(x), 4) for x in first.single)
    kept = None if spread is None else round(spread, 4)
    return DistanceRow(one.name, arm, len(target), len(drawn), single, **means, all=round(first.all, 4), diversity=kept)


def _stamp(setting: Setting) -> dict[str, Any]:
    head, dirty = commit()
    names = (setting.weights, setting.energy)
    return {
        "commit": head,
        "dirty": dirty,
        "weights_sha256": {name: hash_files([resolve(name) / "weights.safetensors"]) for name in names},
        "data_sha256": sha256_of(data_root() / f"{setting.data}.npz"),
    }


def write_study(found: DistanceStudy, path: Path) -> None:
    """Keep a study as JSON."""
    write_text(path, json.dumps(asdict(found), separators=(",", ":")) + "\n")


def stored_study(path: Path = STORED) -> DistanceStudy:
    """A stored study. Raises DataNotFound or InvalidInput."""
    if not path.is_file():
        raise DataNotFound(f"{path}: no such study; `molkit study distances` makes it")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        rows = [DistanceRow(**row | {"single": tuple(row["single"])}) for row in values.pop("rows")]
        return DistanceStudy(**{**values, "setting": Setting(**values["setting"])}, rows=rows)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{path}: not a study of distances ({error})") from error


def values_of(study: DistanceStudy, arm: str, kind: str) -> np.ndarray:
    """MMDs of an arm: every single distance of all molecules, or one value a molecule."""
    rows = [row for row in study.rows if row.arm == arm]
    if kind == "single":
        return np.concatenate([np.array(row.single) for row in rows])
    return np.array([getattr(row, kind) for row in rows])


def difference(study: DistanceStudy, arm: str, other: str, measure: Callable[[DistanceRow], float]) -> Interval:
    """Mean over molecules of the paired difference arm - other, with its bootstrap interval."""
    first, second = ({row.name: measure(row) for row in study.rows if row.arm == one} for one in (arm, other))
    return bootstrap_interval(np.array([first[name] - second[name] for name in first]))


CLAIMS: Mapping[str, tuple[str, str, Callable[[DistanceRow], float]]] = {
    "distances.flow_rdkit": ("flow", "rdkit", lambda row: float(np.mean(row.single))),
    "distances.etm_flow": ("etm", "flow", lambda row: float(np.mean(row.single))),
    "diversity.flow_rdkit": ("flow", "rdkit", lambda row: row.diversity),
    "diversity.etm_flow": ("etm", "flow", lambda row: row.diversity),
}


def record_orders(study: DistanceStudy) -> dict[str, Interval]:
    """Record the paired differences behind the claims about distances and diversity; returns them by claim."""
    found = {claim: difference(study, *what) for claim, what in CLAIMS.items()}
    setting = study.setting
    for claim, value in found.items():
        record_order(
            claim,
            value,
            n=len(study.molecules),
            seconds=study.seconds,
            weights=setting.weights,
            seeds=[setting.seed],
            stored=STORED,
            notes=WHAT[setting.data],
        )
    return found
