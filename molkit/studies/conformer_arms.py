"""One molecule by every way of making conformers: coverage, geometry, energies and cost. The task of a farm."""

from collections.abc import Callable
from dataclasses import dataclass
from time import process_time
from typing import Any

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
from molkit.data.ensembles import Ensemble, ensemble_mol
from molkit.errors import CalculationFailed
from molkit.metrics.conformers import MEASURES, PER_REFERENCE, ScoreTask, score_conformers
from molkit.rng import generator_from
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
NUMBERS = (
    *MEASURES,
    "num_generated",
    "num_failed",
    "bond_spread",
    "radius_of_gyration",
    "seconds",
    "energy_kcal",
    "energy_failed",
)
Drawn = dict[str, tuple[np.ndarray, float]]  # positions [C, A, 3] and CPU seconds of each arm


@dataclass(frozen=True, eq=False)
class ArmsTask:
    """One molecule, one seed. Picklable."""

    ensemble: Ensemble
    weights: str
    energy: str
    threshold: float
    max_references: int
    num_energies: int
    seed: int
    stereo: Stereo = "mirror"  # of the flow's conformers with the converged search
    only: tuple[str, ...] = ()  # arms; empty: all
    symmetry: Symmetry = "graph"  # of the RMSD
    start: Start | None = None  # of the converged search; None: as the weights say


def measure(task: ArmsTask) -> dict[str, np.ndarray]:
    """All arms on one molecule: as many conformers as the papers draw, two for each reference.

    Returns names of the arms, `numbers` [arms, NUMBERS] (NaN where an arm made nothing), the smallest RMSD to each
    reference `nearest` [arms, R], and the mean radius of gyration of the references. Raises InvalidInput for a molecule
    that the weights cannot treat, CalculationFailed for one whose RMSDs would be upper bounds.
    """
    one, model = task.ensemble, shared_flow(task.weights)
    mol = ensemble_mol(one)
    require_known(model, mol, one.smiles)
    references = thinned(one.positions, task.max_references)
    count = PER_REFERENCE * len(references)
    drawn = arms(task, mol, model, shared_energy(task.energy, task.weights) if task.energy else None, count)
    energy = _AboveLowest(one, mol, task.num_energies)
    numbers, nearest = [], []
    for positions, seconds in drawn.values():
        asked = ScoreTask(mol, references, positions, task.threshold, task.symmetry, num_wanted=count)
        score = score_conformers(asked)
        if score.upper_bound:
            raise CalculationFailed(f"{one.smiles} lies on itself in too many ways: its RMSDs are upper bounds only")
        radius = float(radius_of_gyration(torch.from_numpy(positions)).mean())
        spread = bond_spread(one, positions)
        kinds = [getattr(score, name) for name in MEASURES]
        numbers.append([*kinds, len(positions), score.num_failed, spread, radius, seconds / count, *energy(positions)])
        nearest.append(score.nearest if score.num_generated else np.full(len(references), np.nan))
    return {
        "arms": np.array(list(drawn)),
        "numbers": np.array(numbers, dtype=np.float64),
        "nearest": np.array(nearest, dtype=np.float64),
        "radius": radius_of_gyration(torch.from_numpy(one.positions)).mean().numpy(),
    }


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


def arms(task: ArmsTask, mol: Any, model: Cgcf, energy: EnergyNetwork | None, count: int) -> Drawn:
    """The arms of one molecule. The ETM starts from the very conformers of the flow; RDKit may find none."""
    one, seed = task.ensemble, task.seed
    wanted = [arm for arm in task.only or ARMS if energy is not None or not arm.startswith("etm")]
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
