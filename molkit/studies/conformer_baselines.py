"""What RDKit reaches on a set of reference ensembles: the rows that any learned generator has to stand beside."""

import json
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import process_time
from typing import Any, get_args

import numpy as np

from molkit.chem.conformer_rmsd import Symmetry
from molkit.chem.rdkit_conformers import Method, rdkit_conformers, relax_conformers
from molkit.chem.rdkit_tools import rdkit_version, rotatable_bonds
from molkit.claims.ledger import REPOSITORY
from molkit.claims.provenance import commit, machine
from molkit.data.ensembles import SPLITS, Ensemble, SetName, ensemble_mol, load_ensembles
from molkit.data.registry import data_root, sha256_of
from molkit.errors import CalculationFailed, DataNotFound, InvalidInput
from molkit.metrics.conformers import (
    PER_REFERENCE,
    THRESHOLDS,
    ConformerScore,
    Failures,
    ScoreTask,
    Summary,
    diversity,
    score_all,
    score_of_distances,
    summarise,
)
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.training.files import write_text

THRESHOLD_OF = {"conformers_dft": "drugs", "ensembles_qm9": "qm9", "ensembles_drugs": "drugs"}
TITLES = {
    ("plain", False): "distance geometry",
    ("etkdgv1", False): "ETKDG (RDKit default of 2020)",
    ("etkdgv3", False): "ETKDGv3",
    ("plain", True): "distance geometry + MMFF94",
    ("etkdgv1", True): "ETKDG (2020) + MMFF94",
    ("etkdgv3", True): "ETKDGv3 + MMFF94",
}


@dataclass(frozen=True, eq=False)
class Reference:
    """An ensemble with its RDKit molecule."""

    ensemble: Ensemble
    mol: Any


@dataclass(frozen=True, eq=False)
class BaselineRow:
    """One method over all molecules; scores in the order of the molecules."""

    title: str
    scores: list[ConformerScore]
    seconds_per_conformer: float  # CPU
    spread: Interval | None  # mean RMSD between generated conformers of a molecule, angstrom
    num_without_force_field: int  # molecules whose conformers stayed as they were

    def summary(self, measure: str, *, failures: Failures = "zero") -> Summary:
        """One measure over the molecules."""
        return summarise(self.scores, measure, failures=failures)


@dataclass(frozen=True, eq=False)
class Baselines:
    """The table of a set, and what it was measured on."""

    name: str
    molecules: tuple[str, ...]
    left_out: dict[str, str]  # molecules whose bonds RDKit refuses
    rows: list[BaselineRow]
    threshold: float
    symmetry: str
    seed: int
    stamp: dict[str, Any]  # commit and machine


@dataclass(frozen=True)
class SetFacts:
    """What a split of a set holds."""

    name: str
    split: str
    num_molecules: int
    num_conformers: int
    atoms: tuple[int, int]
    conformers: tuple[float, int]  # median and largest number of a molecule
    rotatable: float  # median
    charged: int


def references_of(ensembles: Sequence[Ensemble]) -> tuple[list[Reference], dict[str, str]]:
    """Ensembles with their molecules, and the reasons of those that have none."""
    found, left_out = [], {}
    for ensemble in ensembles:
        try:
            found.append(Reference(ensemble, ensemble_mol(ensemble)))
        except InvalidInput as error:
            left_out[ensemble.name] = str(error)
    return found, left_out


def facts(name: SetName, split: str) -> SetFacts | None:
    """Sizes of one split; None where it holds nothing."""
    ensembles = load_ensembles(name, split=split)
    if not ensembles:
        return None
    references, _ = references_of(ensembles)
    counts, sizes = [len(one) for one in ensembles], [one.num_atoms for one in ensembles]
    return SetFacts(
        name,
        split,
        len(ensembles),
        sum(counts),
        (min(sizes), max(sizes)),
        (float(np.median(counts)), max(counts)),
        float(np.median([rotatable_bonds(one.mol) for one in references])),
        sum(bool(one.formal_charges.sum()) for one in ensembles),
    )


def all_facts() -> list[SetFacts]:
    """Sizes of every split of every set that is there."""
    there = [name for name in get_args(SetName) if name == "conformers_dft" or (data_root() / f"{name}.npz").is_file()]
    found = [facts(name, split) for name in there for split in SPLITS]
    return [one for one in found if one is not None]


def baselines(
    name: SetName,
    *,
    num_molecules: int,
    methods: Sequence[Method] = ("plain", "etkdgv1", "etkdgv3"),
    symmetry: Symmetry = "graph",
    max_references: int = 50,
    seed: int = 0,
    executor: Executor | None = None,
) -> Baselines:
    """RDKit's methods on test molecules of a set, each without and with MMFF94 afterwards (200 iterations).

    Two conformers are generated for each reference; of molecules with more than max_references the ones of lowest
    energy count. num_molecules 0 takes the whole test split, another number that many spread evenly.
    """
    chosen = load_ensembles(name, split="test", limit=num_molecules or None)
    references, left_out = references_of(chosen)
    if not references:
        raise InvalidInput(f"{name}: no test molecule that RDKit accepts")
    threshold, rows = THRESHOLDS[THRESHOLD_OF[name]], []
    for method in methods:
        made, seconds = generate_all(references, method, max_references=max_references, seed=seed)
        rows.append(_row(references, made, (method, False), seconds, 0, threshold, symmetry, max_references, executor))
        relaxed, more, without = relax_all(references, made)
        total = seconds + more
        rows.append(
            _row(references, relaxed, (method, True), total, without, threshold, symmetry, max_references, executor)
        )
    rows.sort(key=lambda row: list(TITLES.values()).index(row.title))
    names = tuple(one.ensemble.name for one in references)
    return Baselines(name, names, left_out, rows, threshold, symmetry, seed, stamp_of(name))


def stamp_of(name: str) -> dict[str, Any]:
    """Commit, machine, RDKit and the checksum of the set."""
    head, dirty = commit()
    file = data_root() / f"{name}.npz"
    return {"commit": head, "dirty": dirty, "machine": machine(), "rdkit": rdkit_version(), "data": sha256_of(file)}


def stored_path(name: str) -> Path:
    """Where `molkit study conformer-baselines` keeps the table of a set."""
    return REPOSITORY / "data" / "studies" / f"conformer_baselines_{name}.json"


def write_study(found: Baselines, path: Path) -> None:
    """Keep the table as JSON: smallest distances of every molecule, from which all scores follow."""
    entries = asdict(replace(found, rows=[]))
    entries["rows"] = [
        asdict(replace(row, scores=[])) | {"scores": [_distances(score) for score in row.scores]} for row in found.rows
    ]
    write_text(path, json.dumps(entries) + "\n")


def _distances(score: ConformerScore) -> dict[str, Any]:
    rounded = {name: [round(float(x), 4) for x in getattr(score, name)] for name in ("nearest", "origin")}
    whole = {name: getattr(score, name) for name in ("num_references", "num_failed", "upper_bound")}
    return rounded | whole


def read_study(path: Path) -> Baselines:
    """A stored table. Raises DataNotFound where there is none, InvalidInput where the file is not one."""
    if not path.is_file():
        raise DataNotFound(f"{path}: no stored table; make it with `molkit study conformer-baselines`")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        rows = [_read_row(row, entries["threshold"]) for row in entries.pop("rows")]
        return Baselines(**{**entries, "molecules": tuple(entries["molecules"])}, rows=rows)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{path}: not a stored table of baselines ({error})") from error


def _read_row(row: dict[str, Any], threshold: float) -> BaselineRow:
    scores = [
        replace(
            score_of_distances(
                np.array(one["nearest"]), np.array(one["origin"]), one["num_references"], one["num_failed"], threshold
            ),
            upper_bound=one.get("upper_bound", False),  # none where a table was made before it was asked
        )
        for one in row["scores"]
    ]
    spread = None if row["spread"] is None else Interval(**row["spread"])
    return BaselineRow(**{**row, "scores": scores, "spread": spread})


def kept_references(ensemble: Ensemble, most: int) -> np.ndarray:
    """Positions [R, A, 3] of the conformers that count, lowest energy first where energies are known."""
    return ensemble.positions[np.argsort(ensemble.energies, kind="stable")[:most]]


def generate_all(
    references: Sequence[Reference], method: Method, *, max_references: int, seed: int
) -> tuple[list[np.ndarray], float]:
    """Conformers of every molecule (none where RDKit finds none) and the CPU seconds of all of them."""
    made, start = [], process_time()
    for one in references:
        count = PER_REFERENCE * min(len(one.ensemble), max_references)
        try:
            made.append(rdkit_conformers(one.mol, count, method=method, seed=seed))
        except CalculationFailed:
            made.append(np.zeros((0, one.ensemble.num_atoms, 3)))
    return made, process_time() - start


def relax_all(references: Sequence[Reference], made: Sequence[np.ndarray]) -> tuple[list[np.ndarray], float, int]:
    """MMFF94 on all conformers, its CPU seconds, and for how many molecules it has no parameters (left as they are)."""
    relaxed, without, start = [], 0, process_time()
    for one, conformers in zip(references, made, strict=True):
        try:
            relaxed.append(relax_conformers(one.mol, conformers)[0] if len(conformers) else conformers)
        except InvalidInput:
            relaxed.append(conformers)
            without += 1
    return relaxed, process_time() - start, without


def _row(
    references: Sequence[Reference],
    made: Sequence[np.ndarray],
    kind: tuple[Method, bool],
    seconds: float,
    without: int,
    threshold: float,
    symmetry: Symmetry,
    max_references: int,
    executor: Executor | None,
) -> BaselineRow:
    tasks = [
        ScoreTask(
            one.mol,
            kept_references(one.ensemble, max_references),
            conformers,
            threshold,
            symmetry,
            PER_REFERENCE * min(len(one.ensemble), max_references),
        )
        for one, conformers in zip(references, made, strict=True)
    ]
    several = [pair for pair in zip(references, made, strict=True) if len(pair[1]) > 1]
    spreads = [diversity(one.mol, conformers, symmetry=symmetry)[0] for one, conformers in several]
    count = max(1, sum(map(len, made)))
    return BaselineRow(
        TITLES[kind],
        score_all(tasks, executor=executor),
        seconds / count,
        bootstrap_interval(np.array(spreads)) if spreads else None,
        without,
    )
