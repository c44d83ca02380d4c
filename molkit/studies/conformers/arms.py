"""One molecule by every way of making conformers: coverage, geometry, energies and cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import process_time
from typing import Any, get_args

import numpy as np
import torch

from molkit.cgcf.config import Start
from molkit.cgcf.conformers import Stereo, draw_distances, generate, require_known
from molkit.cgcf.datasets import graph_of
from molkit.cgcf.embedding import embed, radius_of_gyration
from molkit.cgcf.energy import EnergyNetwork
from molkit.cgcf.graph import collate
from molkit.cgcf.loaded import shared_energy, shared_flow
from molkit.cgcf.model import Cgcf
from molkit.cgcf.refinement import POLISH, Walk, refine
from molkit.chem.bond_graph import mol_with_conformers
from molkit.chem.conformer_rmsd import Symmetry
from molkit.chem.rdkit_conformers import rdkit_conformers, relax_conformers
from molkit.chem.rdkit_tools import molecule_from_rdkit
from molkit.chem.xtb import XtbEnergy
from molkit.data.drug_size import FILE as SPLITS
from molkit.data.ensembles import Ensemble, Split, ensemble_mol, load_ensembles
from molkit.data.registry import data_root
from molkit.errors import CalculationFailed, InvalidInput
from molkit.experiments.experiment import Comparison
from molkit.metrics.conformers import MEASURES, PER_REFERENCE, ScoreTask, score_conformers
from molkit.rng import generator_from
from molkit.training.weights import weight_files
from molkit.units import EV_TO_KCAL

ARMS = {
    "rdkit": "ETKDGv3",
    "rdkit_ff": "ETKDGv3 + MMFF94",
    "flow_published": "CGCF, published search",
    "etm_published": "CGCF + ETM, published search",
    "flow": "CGCF, converged search",
    "etm": "CGCF + ETM, converged search",
    "flow_ff": "CGCF, converged search + MMFF94",
    "etm_ff": "CGCF + ETM, converged search + MMFF94",
}
DIGITS = 4  # of numbers that are kept
Drawn = dict[str, tuple[np.ndarray, float]]  # positions [C, A, 3] and CPU seconds of each arm
AUDIT = Comparison(  # RDKit gives the same everywhere; of the flow's conformers rounding makes others
    within=dict.fromkeys(["mat_recall", "mat_precision", "bond_spread", "radius_of_gyration", "nearest"], 0.002),
    free=("seconds", "energy_kcal"),
    alike={"cov_recall": 0.35, "mat_recall": 0.2, "mat_precision": 0.2},
    by=("arm",),
    repeats="seed",
    exact=("rdkit", "rdkit_ff"),
)


@dataclass(frozen=True)
class Task:
    """One molecule of a set of ensembles, one seed: conformers by several arms, and how they are scored."""

    molecule: str
    seed: int
    arms: tuple[str, ...]
    weights: str
    energy: str  # weights of the tilt; empty: no arm needs it
    data: str
    threshold: float  # of coverage, angstrom
    max_references: int  # of a molecule; more are thinned evenly
    stereo: Stereo  # what the flow does about wrong handedness with the converged search, as in `generate`
    num_energies: int = 0  # conformers of each arm whose GFN2-xTB energy is taken
    symmetry: Symmetry = "graph"  # of the RMSD
    start: Start | None = None  # of the converged search; None: as the weights say

    @property
    def files(self) -> list[Path]:
        """Weights and data behind the task."""
        named = [self.weights, *([self.energy] if self.energy else [])]
        sets = [data_root() / f"{self.data}.npz", *([data_root() / SPLITS] if self.data == "conformers_dft" else [])]
        return [file for name in named for file in weight_files(name)] + sets


def tasks_on(
    data: str, *, split: Split, molecules: int, seeds: Sequence[int], arms: Sequence[str], **asked: Any
) -> list[Task]:
    """A task for each seed and each of `molecules` molecules of a split, spread evenly.

    Raises InvalidInput for unknown arms and values, or a split that is empty.
    """
    ensembles = load_ensembles(data, split=split, limit=molecules)
    if not ensembles:
        raise InvalidInput(f"{data}: the split {split} is empty")
    kinds = {"stereo": Stereo, "symmetry": Symmetry, "start": Start}
    known = {"arm": tuple(ARMS)} | {name: get_args(kind) for name, kind in kinds.items()}
    given = [("arm", arm) for arm in arms] + [(name, asked[name]) for name in kinds if asked.get(name) is not None]
    for name, value in given:
        if value not in known[name]:
            raise InvalidInput(f"unknown {name} {value!r}: expected {', '.join(known[name])}")
    ordered = tuple(arm for arm in ARMS if arm in arms)
    return [Task(one.name, seed, ordered, data=data, **asked) for seed in seeds for one in ensembles]


def measure_arms(task: Task) -> list[dict[str, Any]]:
    """A row for each arm: as many conformers as the papers draw, two for each reference.

    COV and MAT in recall and precision form (shares; angstrom), the smallest RMSD to each reference `nearest`, spread
    of bonds and radius of gyration (angstrom, and that of the references), CPU seconds of a conformer, GFN2-xTB energy
    above the lowest reference (kcal/mol). Where an arm made nothing both coverages are 0. Raises InvalidInput for a
    molecule that the weights cannot treat, CalculationFailed for one whose RMSDs would be upper bounds.
    """
    one, model = ensembles_of(task.data)[task.molecule], shared_flow(task.weights)
    mol = ensemble_mol(one)
    require_known(model, mol, one.smiles)
    references = thinned(one.positions, task.max_references)
    count = PER_REFERENCE * len(references)
    drawn = draw_arms(task, mol, model, shared_energy(task.energy, task.weights) if task.energy else None, count)
    energy = _AboveLowest(one, mol, task.num_energies)
    of_references = float(radius_of_gyration(torch.from_numpy(one.positions)).mean())
    rows = []
    for arm, (positions, seconds) in drawn.items():
        score = score_conformers(ScoreTask(mol, references, positions, task.threshold, task.symmetry, num_wanted=count))
        if score.upper_bound:
            raise CalculationFailed(f"{one.smiles} lies on itself in too many ways: its RMSDs are upper bounds only")
        mean_energy, energy_failed = energy(positions)
        numbers = {
            **{name: getattr(score, name) for name in MEASURES},
            "bond_spread": bond_spread(one, positions),
            "radius_of_gyration": float(radius_of_gyration(torch.from_numpy(positions)).mean()),
            "reference_radius": of_references,
            "seconds": seconds / count,
            "energy_kcal": mean_energy,
        }
        if not score.num_generated:
            numbers["cov_precision"] = 0.0
        rows.append(
            {
                "arm": arm,
                **{name: round(value, DIGITS) for name, value in numbers.items()},
                "energy_failed": energy_failed,
                "num_references": len(references),
                "num_generated": len(positions),
                "num_failed": score.num_failed,
                "nearest": np.round(score.nearest, 3).tolist(),
            }
        )
    return rows


@lru_cache(maxsize=4)
def ensembles_of(data: str) -> dict[str, Ensemble]:
    """The ensembles of a set by name, read once a process."""
    return {one.name: one for one in load_ensembles(data)}


class _AboveLowest:
    """Mean GFN2-xTB energy of the first conformers above the reference of lowest energy, kcal/mol, and failures."""

    def __init__(self, one: Ensemble, mol: Any, count: int) -> None:
        self.count, self.energy, self.lowest = count, None, 0.0
        if count:
            self.energy = XtbEnergy(molecule_from_rdkit(mol_with_conformers(mol, one.positions[:1])))
            self.lowest = self.energy(one.positions[np.argsort(one.energies, kind="stable")[0]]).energy

    def __call__(self, positions: np.ndarray) -> tuple[float, int]:
        found = []
        for conformer in positions[: self.count]:
            try:
                found.append((self.energy(conformer).energy - self.lowest) * EV_TO_KCAL)
            except CalculationFailed:
                continue
        failed = min(self.count, len(positions)) - len(found)
        return float(np.mean(found)) if found else float("nan"), failed


def draw_arms(task: Task, mol: Any, model: Cgcf, energy: EnergyNetwork | None, count: int) -> Drawn:
    """The arms of one molecule. The ETM starts from the very conformers of the flow; RDKit may find none."""
    one, seed, wanted = ensembles_of(task.data)[task.molecule], task.seed, task.arms
    needed = {arm.removesuffix("_ff") for arm in wanted}
    needed |= {arm.replace("etm", "flow") for arm in needed}
    makers = {
        "rdkit": lambda: _rdkit(mol, count, seed),
        "flow": lambda: from_flow(model, one, mol, count, seed, task.stereo, task.start),
        "flow_published": lambda: published(model, one, mol, count, seed),
    }
    drawn: Drawn = {arm: timed(make) for arm, make in makers.items() if arm in needed}
    for arm in ("etm", "etm_published"):
        if arm in needed:
            positions, before = drawn[arm.replace("etm", "flow")]
            drawn[arm] = timed(lambda at=positions: refined(model, energy, mol, at, seed) if len(at) else at, before)
    for arm in wanted:
        if arm.endswith("_ff"):
            positions, before = drawn[arm.removesuffix("_ff")]
            drawn[arm] = timed(lambda at=positions: relax_conformers(mol, at)[0] if len(at) else at, before)
    return {arm: drawn[arm] for arm in ARMS if arm in wanted}


def _rdkit(mol: Any, count: int, seed: int) -> np.ndarray:
    try:
        return rdkit_conformers(mol, count, seed=seed)
    except CalculationFailed:
        return np.zeros((0, mol.GetNumAtoms(), 3))


def from_flow(
    model: Cgcf, one: Ensemble, mol: Any, count: int, seed: int, stereo: Stereo, start: Start | None = None
) -> np.ndarray:
    """Conformers with the default search; what happens to wrong handedness is `stereo`, as in `generate`."""
    generator = generator_from("conformers", one.name, seed)
    return generate(model, one.smiles, count, generator=generator, mol=mol, stereo=stereo, start=start).positions


def published(model: Cgcf, one: Ensemble, mol: Any, count: int, seed: int) -> np.ndarray:
    """Conformers with the published search, left as they fall."""
    graph, generator = collate([graph_of(mol)]), generator_from("published search", one.name, seed)
    distances = draw_distances(model.flow, graph, count, generator=generator)
    return embed(graph, distances, generator=generator, search="adam").positions.numpy()


def refined(
    model: Cgcf, energy: EnergyNetwork, mol: Any, positions: np.ndarray, seed: int, settings: Walk = POLISH
) -> np.ndarray:
    """The conformers after a walk on the tilt, without noise unless the settings say so."""
    start, generator = torch.from_numpy(positions).float(), generator_from("refinement", seed)
    graph = collate([graph_of(mol)])
    return refine(model.flow, energy, graph, start, settings, generator=generator).positions.double().numpy()


def bond_spread(one: Ensemble, positions: np.ndarray) -> float:
    """Standard deviation of each bond's length over conformers [C, A, 3], mean over the bonds, angstrom."""
    if len(positions) < 2:
        return float("nan")
    ends = positions[:, one.bonds[:, 0]] - positions[:, one.bonds[:, 1]]
    return float(np.sqrt((ends**2).sum(-1)).std(axis=0).mean())


def thinned(positions: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the conformers, spread evenly."""
    if len(positions) <= most:
        return positions
    return positions[np.arange(most) * len(positions) // most]


def timed(work: Callable[[], np.ndarray], before: float = 0.0) -> tuple[np.ndarray, float]:
    """What the work returns, and its CPU seconds on top of those before."""
    started = process_time()
    positions = work()
    return positions, before + process_time() - started
