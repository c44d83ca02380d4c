"""The tilt, its parts and how they walk: springs alone, the NCE network alone, both (page `energy_tilt`)."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from molkit.cgcf.bridge import bridge
from molkit.cgcf.conformer_set import Batcher, ConformerSet
from molkit.cgcf.conformers import Conformers, generate
from molkit.cgcf.datasets import graph_of, qm9_minima
from molkit.cgcf.energy import AllPairs, EnergyNetwork
from molkit.cgcf.energy_training import read_energy_recipe
from molkit.cgcf.graph import PairGraph, collate
from molkit.cgcf.loaded import shared_energy, shared_flow
from molkit.cgcf.refinement import POLISH, Walk, refine
from molkit.cgcf.templates import UNIT
from molkit.chem.bond_graph import graph_mol
from molkit.claims.ledger import Measurement
from molkit.claims.record import record
from molkit.data.ensembles import Ensemble, Split, ensemble_mol
from molkit.data.registry import data_root
from molkit.errors import InvalidInput
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column
from molkit.figures import style
from molkit.figures.view3d import show_grid
from molkit.geometry import superpose
from molkit.metrics.conformers import MEASURES, PER_REFERENCE, ScoreTask, score_conformers
from molkit.molecule import Molecule
from molkit.rng import generator_from
from molkit.studies.conformers import arms
from molkit.studies.conformers.arms import Tilt, ensembles_of, measure_arms, tasks_on, thinned
from molkit.studies.conformers.comparison import difference
from molkit.training.weights import resolve, weight_files

if TYPE_CHECKING:
    from IPython.display import HTML

CLOSE = {(1, 1): 1.8, (1, 0): 2.1, (0, 0): 2.6}  # angstrom: nearer than this is a clash; 1 stands for hydrogen
EDGES = np.linspace(-0.3, 0.3, 61)  # angstrom, of the histogram of bond lengths
LANGEVIN = Walk(num_steps=50, first_step=2e-5, last_step=2e-5, clip=float("inf"))  # no step of the springs overshoots
WALKS = {  # what is walked on, and how
    "E alone, as used": POLISH,
    "E − log p, same steps": replace(POLISH, log_weight=1.0),
    "E − log p, same steps, noise": replace(POLISH, log_weight=1.0, noise_scale=1.0),
    "E − log p, noise, nothing cut": LANGEVIN,
}
CHOSEN = {  # by what half of a relaxed pool is chosen
    "random": "drawn at random",
    "springs": "resampled by the springs",
    "network": "resampled by the NCE network",
    "both": "resampled by both",
    "mmff94": "lowest by MMFF94",
}
SHAPES = {
    "bond_spread": Column("spread of bonds, Å", 3),
    "bond_error": Column("error of bonds, Å", 3),
    "clashes": Column("clashes", 2),
    "energy_kcal": Column("GFN2-xTB, kcal/mol", 0),
}
ORDERS = {  # claims about parts of the tilt: arm, other, measure, factor
    "clashes": ("etm", "flow", "clashes", 1.0),
    **{
        f"tilt.{name}_{short}": (arm, other, measure, factor)
        for name, arm, other in (
            ("springs", "springs", "flow"),
            ("network", "network", "flow"),
            ("both_springs", "etm", "springs"),
            ("sampler", "langevin", "etm"),
            ("network_ff", "network_ff", "flow_ff"),
        )
        for short, measure, factor in (("cov", "cov_recall", 100.0), ("mat", "mat_recall", 1.0))
    },
}
AUDIT = replace(
    arms.AUDIT,
    free=(*arms.AUDIT.free, "gaps"),
    alike={**arms.AUDIT.alike, "clashes": 0.5, "bond_spread": 0.02},
    repeats="",
    exact=(),
)
AUDIT_levels = Comparison(within={"deviation": 0.01})
AUDIT_walks = Comparison(within={"start": 200.0, "end": 200.0, "spread": 0.03, "clipped": 0.05})
AUDIT_pool = Comparison(alike={"cov_recall": 0.35, "mat_recall": 0.2}, by=("chosen",))


@dataclass(frozen=True)
class Task(arms.Task):
    """One molecule by the parts of the tilt."""

    network: str = ""  # weights of an energy without springs; empty: no arm needs it

    @property
    def files(self) -> list[Path]:
        """Weights and data behind the task."""
        return [*super().files, *(weight_files(self.network) if self.network else [])]


PARTS = tuple("flow_published etm_published flow etm flow_ff etm_ff springs network springs_ff network_ff".split())


@asked
def tasks(
    *,
    molecules: int = 24,
    seeds: Sequence[int] = (0,),
    arms: Sequence[str] = PARTS,
    max_references: int = 4,
    num_energies: int = 2,
    split: Split = "valid",
    weights: str = "cgcf_qm9",
    energy: str = "etm_qm9",
    network: str = "etm_qm9_network",
) -> list[Task]:
    """Validation ensembles of QM9-size molecules by parts of the tilt, wrong stereo redrawn by the flow alone.

    Without options the first table of the page; the paper's sampler: --arms etm,langevin --molecules 8
    --num-energies 0 --network "".
    """
    return tasks_on(
        "ensembles_qm9",
        kind=Task,
        split=split,
        molecules=molecules,
        seeds=seeds,
        arms=arms,
        weights=weights,
        energy=energy,
        network=network,
        threshold=0.5,
        max_references=max_references,
        stereo="redraw",
        num_energies=num_energies,
    )


def measure(task: Task) -> list[dict[str, Any]]:
    """A row for each arm as in `measure_arms`, and bond errors, clashes and the histogram of bond lengths."""
    return measure_arms(task, tilts=tilts_of(task), more=geometry_of)


def tilts_of(task: Task) -> dict[str, Tilt]:
    """What each arm follows, and how."""
    both, network = shared_energy(task.energy, task.weights), shared_energy(task.network or task.energy, task.weights)
    return {
        "etm": (both, POLISH),
        "springs": (springs_alone(both), POLISH),
        "network": (network, POLISH),
        "langevin": (both, LANGEVIN),
    }


def springs_alone(network: EnergyNetwork) -> EnergyNetwork:
    """The springs of an energy without what its network reads off distances. Raises InvalidInput without springs."""
    if network.templates is None:
        raise InvalidInput("this energy has no springs")
    alone = deepcopy(network)
    nn.init.zeros_(alone.last.weight)
    nn.init.zeros_(alone.last.bias)
    return alone


def geometry_of(one: Ensemble, made: Conformers) -> dict[str, Any]:
    """Bond lengths less those of the lowest reference: mean absolute value, histogram over EDGES; and clashes."""
    graph = collate([graph_of(made.mol)])
    lowest = one.positions[int(np.argsort(one.energies, kind="stable")[0])]
    gaps = (lengths(graph, torch.from_numpy(made.positions)) - lengths(graph, torch.from_numpy(lowest))).numpy()
    near = clashes(graph, made.positions) if len(made) else float("nan")
    error = round(float(np.abs(gaps).mean()), arms.DIGITS) if len(made) else float("nan")
    return {"bond_error": error, "clashes": round(near, arms.DIGITS), "gaps": np.histogram(gaps, EDGES)[0].tolist()}


def lengths(graph: PairGraph, positions: Tensor) -> Tensor:
    """Bond lengths [..., K] of positions [..., A, 3] of one molecule."""
    first, second = graph.pairs[:, graph.hops == 1]
    return (positions[..., first, :] - positions[..., second, :]).norm(dim=-1)


def clashes(graph: PairGraph, positions: np.ndarray) -> float:
    """Mean number, over conformers [C, A, 3], of pairs more than three bonds apart and nearer than in `CLOSE`."""
    pairs = AllPairs.of(graph)
    first, second = pairs.pairs[:, pairs.types == 0].numpy()
    light = (graph.atomic_numbers == 1).long().numpy()
    near = np.array([CLOSE[max(a, b), min(a, b)] for a, b in zip(light[first], light[second], strict=True)])
    gap = np.linalg.norm(positions[:, first] - positions[:, second], axis=-1)
    return float((gap < near).sum(axis=1).mean())


@asked
def tasks_pool(
    *,
    molecules: int = 24,
    seeds: Sequence[int] = (0,),
    max_references: int = 4,
    split: Split = "valid",
    weights: str = "cgcf_qm9",
    energy: str = "etm_qm9",
    network: str = "etm_qm9_network",
) -> list[Task]:
    """Validation ensembles of QM9-size molecules: half of a pool of the flow's conformers relaxed by MMFF94."""
    about = {"molecules": molecules, "seeds": seeds, "max_references": max_references, "split": split}
    return tasks(**about, arms=("flow_ff",), num_energies=0, weights=weights, energy=energy, network=network)


def measure_pool(task: Task) -> list[dict[str, Any]]:
    """A row for each way of choosing: COV and MAT of two conformers a reference, chosen from four."""
    one, model = ensembles_of(task.data)[task.molecule], shared_flow(task.weights)
    mol, references = ensemble_mol(one), thinned(one.positions, task.max_references)
    count = PER_REFERENCE * len(references)
    generator = generator_from("pool", one.name, task.seed)
    pool = generate(model, one.smiles, 2 * count, generator=generator, mol=mol, stereo=task.stereo, relax=True)
    energies = energies_of(pool, task)
    rows = []
    for chosen in CHOSEN:
        order = np.argsort(energies[chosen], kind="stable")[:count]
        score = score_conformers(ScoreTask(mol, references, pool.positions[order], task.threshold, num_wanted=count))
        rows.append({"chosen": chosen, **{name: round(getattr(score, name), arms.DIGITS) for name in MEASURES}})
    return rows


def energies_of(pool: Conformers, task: Task) -> dict[str, np.ndarray]:
    """What each way of choosing sorts the conformers [C] by. Resampling by exp(-E) without replacement: the largest
    -E + Gumbel noise (Efraimidis and Spirakis, Inf. Process. Lett. 97, 181 (2006)).
    """
    graph, places = collate([graph_of(pool.mol)]), torch.from_numpy(pool.positions).float()
    gumbel = np.random.default_rng(task.seed).gumbel(size=len(pool))
    found = {"random": -gumbel, "mmff94": pool.energies["mmff94_kcal"]}
    tilts = tilts_of(task)
    for chosen, name in (("springs", "springs"), ("network", "network"), ("both", "etm")):
        with torch.no_grad():
            found[chosen] = tilts[name][0](graph, places).squeeze(-1).double().numpy() - gumbel
    return found


@dataclass(frozen=True)
class LevelTask:
    """One held-back minimum of QM9, of `total` spread evenly over the validation split, along the bridge."""

    row: int
    total: int
    seed: int
    weights: str
    energy: str

    @property
    def files(self) -> list[Path]:
        """Weights, the recipe that names the bridge, and data."""
        recipe = resolve(self.energy) / "recipe.yaml"
        return [*weight_files(self.weights), recipe, data_root() / "qm9.npz"]


@asked
def tasks_levels(
    *, molecules: int = 24, seed: int = 0, weights: str = "cgcf_qm9", energy: str = "etm_qm9"
) -> list[LevelTask]:
    """Levels of the bridge between data and flow, a task a molecule."""
    return [LevelTask(row, molecules, seed, weights, energy) for row in range(len(_minima(molecules).graphs))]


@lru_cache(maxsize=2)
def _minima(count: int) -> ConformerSet:
    return qm9_minima("valid", limit=count)


def measure_levels(task: LevelTask) -> list[dict[str, Any]]:
    """A row for each share of noise: root mean square deviation of the bond lengths from the data's, angstrom."""
    data, shares = _minima(task.total), bridge_shares(task.energy)
    positions = Batcher(data).positions(torch.tensor([task.row]))[None].double()
    graph, generator = collate([data.graphs[task.row]]), generator_from("levels", task.seed, task.row)
    made = bridge(shared_flow(task.weights), graph, positions, shares[1:-1], generator=generator)
    gap = (lengths(graph, made) - lengths(graph, positions)[:, None]).square().mean((0, 2)).sqrt()
    return [{"share": s, "deviation": round(float(g), 5)} for s, g in zip(shares[1:], gap, strict=True)]


def bridge_shares(energy: str) -> tuple[float, ...]:
    """0 (data), the shares of the energy's recipe, 1 (flow)."""
    return (0.0, *read_energy_recipe(resolve(energy) / "recipe.yaml").bridge, 1.0)


@dataclass(frozen=True)
class WalkTask:
    """A walk of `count` conformers of a molecule, of one kind."""

    smiles: str
    kind: str
    count: int
    num_steps: int
    seed: int
    weights: str
    energy: str

    @property
    def files(self) -> list[Path]:
        """The weights."""
        return [*weight_files(self.weights), *weight_files(self.energy)]


@asked
def tasks_walks(
    *,
    smiles: str = "CCCO",
    count: int = 4,
    num_steps: int = 100,
    seed: int = 0,
    weights: str = "cgcf_qm9",
    energy: str = "etm_qm9",
) -> list[WalkTask]:
    """All kinds of walks from the same conformers of one molecule."""
    return [WalkTask(smiles, kind, count, num_steps, seed, weights, energy) for kind in WALKS]


def measure_walks(task: WalkTask) -> list[dict[str, Any]]:
    """One row: mean of the target before and after, bond spread (angstrom), and the share of gradients that was cut."""
    model, mol = shared_flow(task.weights), graph_mol(task.smiles)
    graph, generator = collate([graph_of(mol)]), generator_from("walks", task.seed)
    start = generate(model, task.smiles, task.count, generator=generator, mol=mol, stereo="ignore")
    settings, energy = replace(WALKS[task.kind], num_steps=task.num_steps), shared_energy(task.energy, task.weights)
    at, again = torch.from_numpy(start.positions).float(), generator_from("walk", task.seed)
    found = refine(model.flow, energy, graph, at, settings, generator=again)
    numbers = {
        "start": float(found.energies[0].mean()),
        "end": float(found.energies[-1].mean()),
        "spread": float(lengths(graph, found.positions).std(0, correction=0).mean()),
        "clipped": found.clipped,
    }
    return [{"name": found.kind, **{name: round(value, arms.DIGITS) for name, value in numbers.items()}}]


def told_apart(energy: str, *, over: int = 10) -> pd.DataFrame:
    """How well each part of the energy told its two levels apart while it was trained; stored with the weights.

    Columns `step`, `levels` (shares of noise) and `right`, a running mean over some logged steps.
    """
    lines = (resolve(energy) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = pd.DataFrame([row for row in map(json.loads, lines) if "told_apart_0" in row])
    if rows.empty:
        raise InvalidInput(f"{energy}: no learning curve of an energy beside these weights")
    shares = bridge_shares(energy)
    names = {
        f"told_apart_{k}": f"{low:g} from {high:g}"
        for k, (low, high) in enumerate(zip(shares[:-1], shares[1:], strict=True))
    }
    smooth = rows.set_index("step")[list(names)].rolling(min(over, len(rows))).mean().dropna()
    return smooth.rename(columns=names).melt(ignore_index=False, var_name="levels", value_name="right").reset_index()


def springs_of(energy: str, smiles: str) -> pd.DataFrame:
    """The springs that an energy gives a molecule: between heavy atoms, and the first four to hydrogen.

    Columns `ends`, `hops`, `length` and `width` (angstrom): exp(-E) of a spring is a Gaussian of variance
    1 / (2 stiffness); no width where the stiffness of all levels is not positive. Raises InvalidInput without springs.
    """
    mol = graph_mol(smiles)
    graph = collate([graph_of(mol)])
    found = shared_energy(energy).springs(graph)
    if found is None:
        raise InvalidInput(f"{energy}: this energy has no springs")
    names = [f"{atom.GetSymbol()}{atom.GetIdx() + 1}" for atom in mol.GetAtoms()]
    stiffness = UNIT * found.stiffness.sum(-1)
    table = pd.DataFrame(
        {
            "ends": [f"{names[first]}–{names[second]}" for first, second in found.pairs.T.tolist()],
            "hops": graph.hops[graph.hops <= 2].numpy(),
            "length": found.lengths.numpy(),
            "width": torch.where(stiffness > 0.0, (0.5 / stiffness.clamp_min(1e-9)).sqrt(), torch.nan).numpy(),
        }
    )
    light = table["ends"].str.contains("H")
    return pd.concat([table[~light], table[light][:4]], ignore_index=True)


def record_orders(rows: pd.DataFrame) -> list[Measurement]:
    """Record the paired differences over molecules behind the claims about the tilt, all of them."""
    columns = [*MEASURES, "clashes"]
    molecules = rows.groupby(["arm", "molecule"], sort=False, as_index=False)[columns].mean()
    made = set(molecules["arm"])
    return [
        record(
            f"cgcf.order.{claim}",
            difference(molecules, arm, other, measure).scaled(factor),
            rows,
            n=molecules["molecule"].nunique(),
            basis="trained_here",
            interval_kind="bootstrap over molecules, 95 %",
            weights=str(rows["network" if arm.startswith("network") else "energy"].iloc[0]),
            seeds=sorted(rows["seed"].unique()),
        )
        for claim, (arm, other, measure, factor) in ORDERS.items()
        if {arm, other} <= made
    ]


def draw_lengths(rows: pd.DataFrame, lines: Mapping[str, str], *, caption: str) -> Figure:
    """Bond lengths less those of the lowest reference, a histogram for each arm in its colour."""
    with style.panels(1, width=6.4, height=3.2, caption=caption) as (figure, (axis,)):
        for arm, colour in lines.items():
            counts = np.sum(rows.loc[rows["arm"] == arm, "gaps"].tolist(), axis=0)
            axis.stairs(counts, EDGES, color=colour, label=arms.TITLES[arm])
        axis.set(xlabel="bond length less that of the lowest reference, Å", ylabel="bonds")
        axis.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(lines))
    return figure


def before_and_after(task: Task) -> "HTML":
    """The first conformer of the task's first arm, and what the others make of it, laid on it, side by side."""
    one = ensembles_of(task.data)[task.molecule]
    drawn = arms.draw_arms(task, ensemble_mol(one), shared_flow(task.weights), tilts_of(task), 1)
    first, told = next(iter(drawn.values()))[0].positions[0], []
    for arm, (made, _) in drawn.items():
        found = geometry_of(one, made)
        told.append(f"{arms.TITLES[arm]} (bonds off by {found['bond_error']:.3f} Å, {found['clashes']:.0f} clashes)")
    shown = [Molecule(one.atomic_numbers, superpose(made.positions[0], first)) for made, _ in drawn.values()]
    return show_grid(shown, caption=f"One conformer of {one.smiles}: {'; '.join(told)}.", columns=len(shown))
