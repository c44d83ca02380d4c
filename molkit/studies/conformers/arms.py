"""One molecule by every way of making conformers: coverage, geometry, energies and cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import process_time
from typing import Any, get_args

import numpy as np
import torch

from molkit.cgcf.conformers import Conformers, Stereo, by_rdkit, generate, relaxed, require_known, tilted
from molkit.cgcf.embedding import radius_of_gyration
from molkit.cgcf.energy import EnergyNetwork
from molkit.cgcf.loaded import shared_energy, shared_flow
from molkit.cgcf.model import Cgcf
from molkit.cgcf.refinement import POLISH, Walk
from molkit.chem.bond_graph import mol_with_conformers
from molkit.chem.conformer_rmsd import Symmetry
from molkit.chem.rdkit_conformers import Method
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
    "etm_published": "CGCF + tilt, published search",
    "flow": "CGCF",
    "etm": "CGCF + tilt",
    "flow_ff": "CGCF + MMFF94",
    "etm_ff": "CGCF + tilt + MMFF94",
}
BASELINES = {  # further ways of RDKit
    "plain": "distance geometry",
    "etkdgv1": "ETKDG (RDKit's default of 2020)",
    "plain_ff": "distance geometry + MMFF94",
    "etkdgv1_ff": "ETKDG (2020) + MMFF94",
}
TILTS = {  # parts of the tilt, each after the converged search of the flow
    "springs": "springs alone",
    "network": "NCE network alone",
    "langevin": "both, the paper's sampler",
}
TITLES = {**BASELINES, **ARMS, **TILTS, **{f"{name}_ff": f"{title} + MMFF94" for name, title in TILTS.items()}}
RDKIT: dict[str, Method] = {"plain": "plain", "etkdgv1": "etkdgv1", "rdkit": "etkdgv3"}
DIGITS = 4  # of numbers that are kept
Drawn = dict[str, tuple[Conformers, float]]  # and CPU seconds of each arm
Tilt = tuple[EnergyNetwork, Walk]  # what an arm follows after the flow, and how
More = Callable[[Ensemble, Conformers], dict[str, Any]]  # further columns of an arm
AUDIT = Comparison(  # RDKit gives the same everywhere; of the flow's conformers rounding makes others
    within=dict.fromkeys(["mat_recall", "mat_precision", "bond_spread", "radius_of_gyration", "nearest"], 0.002),
    free=("seconds", "energy_kcal"),
    alike={"cov_recall": 0.35, "mat_recall": 0.2, "mat_precision": 0.2},
    by=("arm",),
    repeats="seed",
    exact=("plain", "plain_ff", "etkdgv1", "etkdgv1_ff", "rdkit", "rdkit_ff"),
)


@dataclass(frozen=True)
class Task:
    """One molecule of a set of ensembles, one seed: conformers by several arms, and how they are scored."""

    molecule: str
    seed: int
    arms: tuple[str, ...]
    weights: str  # of the flow; empty: no arm needs it
    energy: str  # of the tilt; empty: no arm needs it
    data: str
    threshold: float  # of coverage, angstrom
    max_references: int  # of a molecule; more are thinned evenly
    stereo: Stereo  # what the flow does about wrong handedness with the converged search, as in `generate`
    num_energies: int = 0  # conformers of each arm whose GFN2-xTB energy is taken
    symmetry: Symmetry = "graph"  # of the RMSD

    @property
    def files(self) -> list[Path]:
        """Weights and data behind the task."""
        named = filter(None, [self.weights, self.energy])
        sets = [data_root() / f"{self.data}.npz", *([data_root() / SPLITS] if self.data == "conformers_dft" else [])]
        return [file for name in named for file in weight_files(name)] + sets


def tasks_on(
    data: str,
    *,
    split: Split,
    molecules: int,
    seeds: Sequence[int],
    arms: Sequence[str],
    kind: type[Task] = Task,
    **asked: Any,
) -> list[Task]:
    """A task for each seed and each of `molecules` molecules of a split (0: all), spread evenly.

    Raises InvalidInput for unknown arms and values, or a split that is empty.
    """
    ensembles = load_ensembles(data, split=split, limit=molecules or None)
    if not ensembles:
        raise InvalidInput(f"{data}: the split {split} is empty")
    kinds = {"stereo": Stereo, "symmetry": Symmetry}
    known = {"arm": tuple(TITLES)} | {name: get_args(kind) for name, kind in kinds.items()}
    given = [("arm", arm) for arm in arms] + [(name, asked[name]) for name in kinds if asked.get(name) is not None]
    for name, value in given:
        if value not in known[name]:
            raise InvalidInput(f"unknown {name} {value!r}: expected {', '.join(known[name])}")
    ordered = tuple(arm for arm in TITLES if arm in arms)
    return [kind(one.name, seed, ordered, data=data, **asked) for seed in seeds for one in ensembles]


def measure_arms(
    task: Task, *, tilts: Mapping[str, Tilt] | None = None, more: More = lambda one, made: {}
) -> list[dict[str, Any]]:
    """A row for each arm: as many conformers as the papers draw, two for each reference.

    COV and MAT in recall and precision form (shares; angstrom), the smallest RMSD to each reference `nearest`, spread
    of bonds and radius of gyration (angstrom, and that of the references), CPU seconds of a conformer, GFN2-xTB energy
    above the lowest reference (kcal/mol), and the columns of `more`. Where an arm made nothing both coverages are 0.
    tilts: what further arms follow after the flow. Raises InvalidInput for a
    molecule that the weights cannot treat, CalculationFailed for one whose RMSDs would be upper bounds.
    """
    one, model = ensembles_of(task.data)[task.molecule], shared_flow(task.weights) if task.weights else None
    mol = ensemble_mol(one)
    if model is not None:
        require_known(model, mol, one.smiles)
    references = thinned(one.positions, task.max_references)
    count = PER_REFERENCE * len(references)
    if tilts is None:
        tilts = {"etm": (shared_energy(task.energy, task.weights), POLISH)} if task.energy else {}
    drawn = draw_arms(task, mol, model, tilts, count)
    energy = _AboveLowest(one, mol, task.num_energies)
    of_references = float(radius_of_gyration(torch.from_numpy(one.positions)).mean())
    rows = []
    for arm, (made, seconds) in drawn.items():
        positions = made.positions
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
                **more(one, made),
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


def draw_arms(task: Task, mol: Any, model: Cgcf | None, tilts: Mapping[str, Tilt], count: int) -> Drawn:
    """The arms of one molecule, in the task's order; an arm starts from the very conformers of the one below it.

    `..._ff` is relaxed by MMFF94; a tilt follows the flow, `..._published` after the published search, whose conformers
    are left as they fall. RDKit may find none.
    """
    one, seed = ensembles_of(task.data)[task.molecule], task.seed
    drawn: Drawn = {}

    def made(arm: str) -> tuple[Conformers, float]:
        if arm not in drawn:
            drawn[arm] = _one_arm(arm)
        return drawn[arm]

    def _one_arm(arm: str) -> tuple[Conformers, float]:
        name, _, published = arm.partition("_")
        if arm.endswith("_ff"):
            found, before = made(arm.removesuffix("_ff"))
            return timed(lambda: relaxed(found), before)
        if arm in RDKIT:
            return timed(lambda: by_rdkit(one.smiles, mol, count, method=RDKIT[arm], seed=seed))
        if name == "flow":
            stereo = "ignore" if published else task.stereo
            return timed(lambda: by_flow(model, one, mol, count, seed, stereo, bool(published)))
        found, before = made("flow_published" if published else "flow")
        energy, walk = tilts[name]
        generator = generator_from("refinement", seed)
        return timed(lambda: tilted(found, model, energy, generator=generator, settings=walk), before)

    return {arm: made(arm) for arm in task.arms}


def by_flow(model: Cgcf, one: Ensemble, mol: Any, count: int, seed: int, stereo: Stereo, published: bool) -> Conformers:
    """Conformers of the flow with the default search, or the published one."""
    generator = generator_from("published search" if published else "conformers", one.name, seed)
    search = "adam" if published else "lbfgs"
    return generate(model, one.smiles, count, generator=generator, mol=mol, stereo=stereo, search=search)


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


def timed(work: Callable[[], Conformers], before: float = 0.0) -> tuple[Conformers, float]:
    """What the work returns, and its CPU seconds on top of those before."""
    started = process_time()
    made = work()
    return made, before + process_time() - started
