"""Distances of generated conformers against those of trajectories: MMD of single distances, pairs and all of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from molkit.cgcf.conformers import by_rdkit, draw_distances, require_known, tilted
from molkit.cgcf.datasets import ConformerChoice, graph_of
from molkit.cgcf.energy_training import read_energy_recipe
from molkit.cgcf.graph import collate
from molkit.cgcf.loaded import shared_energy, shared_flow
from molkit.cgcf.training import read_flow_recipe
from molkit.chem.conformer_rmsd import heavy_pairs
from molkit.chem.rdkit_tools import plain_smiles
from molkit.claims.ledger import Measurement
from molkit.claims.record import record
from molkit.data.ensembles import WHAT, Ensemble, ensemble_mol, load_ensembles
from molkit.data.qm9 import load_qm9
from molkit.data.registry import data_root
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column
from molkit.figures import style
from molkit.metrics.conformers import diversity
from molkit.metrics.distributions import distances_mmd, heavy_distances
from molkit.rng import generator_from
from molkit.studies.conformers.arms import by_flow, ensembles_of
from molkit.studies.conformers.comparison import difference
from molkit.training.weights import resolve, weight_files

DATA = "trajectories_c7h10o2"
ARMS = {
    "rdkit": "ETKDGv3",
    "distances": "CGCF, distances as drawn",
    "flow": "CGCF",
    "etm": "CGCF + tilt",
}
KINDS = {
    "single": Column("single", 3),
    "published": Column("pair, as published", 3),
    "complete": Column("pair, complete", 3),
    "all": Column("all", 3),
    "diversity": Column("diversity, Å", 3),
}
COLOURS = {"rdkit": "#555555", "flow": style.VERMILION, "etm": style.BLUE}
ORDERS = {  # claims about the order of arms: arm, other, measure
    "distances.flow_rdkit": ("flow", "rdkit", "single"),
    "distances.etm_flow": ("etm", "flow", "single"),
    "diversity.flow_rdkit": ("flow", "rdkit", "diversity"),
    "diversity.etm_flow": ("etm", "flow", "diversity"),
}
AUDIT = Comparison(
    within=dict.fromkeys(KINDS, 0.002),
    alike={"single": 0.2, "all": 0.2, "diversity": 0.2},
    by=("arm",),
    exact=("rdkit",),
)


@dataclass(frozen=True)
class Task:
    """One isomer: `count` conformers of every arm against its trajectory."""

    molecule: str
    seed: int
    count: int
    weights: str
    energy: str

    @property
    def files(self) -> list[Path]:
        """Weights and trajectories."""
        return [*weight_files(self.weights), *weight_files(self.energy), data_root() / f"{DATA}.npz"]


@asked
def tasks(
    *, isomers: int = 17, count: int = 50, seed: int = 0, weights: str = "cgcf_qm9", energy: str = "etm_qm9"
) -> list[Task]:
    """The first isomers that neither training saw, a task each."""
    return [Task(one.name, seed, count, weights, energy) for one in unseen(weights, energy)[:isomers]]


def unseen(weights: str, energy: str) -> list[Ensemble]:
    """Isomers with a trajectory whose molecule is in the training set of neither the flow nor the energy."""
    seen = names_of(read_flow_recipe(resolve(weights) / "recipe.yaml").data)
    seen |= names_of(read_energy_recipe(resolve(energy) / "recipe.yaml").data)
    found = load_ensembles(DATA)
    return [one for one in found if not {one.name, plain_smiles(ensemble_mol(one))} & seen]


def names_of(choice: ConformerChoice) -> set[str]:
    """The molecules that a recipe trains on: QM9's by name, others by SMILES without stereo."""
    if choice.name == "qm9_minima":
        return set(load_qm9(split=choice.split, limit=choice.limit or None).names)
    sets = [load_ensembles(name, split=choice.split) for name in (choice.name, *choice.further)]
    return {plain_smiles(ensemble_mol(one)) for ensembles in sets for one in ensembles}


@dataclass(frozen=True, eq=False)
class Drawn:
    """Distances [n, E] of pairs of heavy atoms [2, E] that `hops` [E] bonds join: in the trajectory and by arm."""

    name: str
    edges: np.ndarray
    hops: np.ndarray
    target: np.ndarray
    distances: Mapping[str, np.ndarray]
    spreads: Mapping[str, float]  # diversity of the arms that have positions, angstrom


def drawn(task: Task) -> Drawn:
    """Every arm of an isomer. The ETM starts from the flow's conformers. Raises what making conformers raises."""
    one, model, seed = ensembles_of(DATA)[task.molecule], shared_flow(task.weights), task.seed
    mol = ensemble_mol(one)
    require_known(model, mol, one.smiles)
    graph, edges = collate([graph_of(mol)]), heavy_pairs(mol)
    flow = by_flow(model, one, mol, task.count, seed, "mirror", False)
    energy, generator = shared_energy(task.energy, task.weights), generator_from("refinement", seed)
    made = {
        "rdkit": by_rdkit(one.smiles, mol, task.count, seed=seed),
        "flow": flow,
        "etm": tilted(flow, model, energy, generator=generator),
    }
    place = {(int(a), int(b)): column for column, (a, b) in enumerate(graph.pairs.T)}
    columns = [place[int(a), int(b)] for a, b in edges.T]
    found = {arm: heavy_distances(each.positions, edges) for arm, each in made.items()}
    raw = draw_distances(model.flow, graph, task.count, generator=generator_from("raw", one.name, seed)).numpy()
    found["distances"] = raw[:, columns].astype(np.float64)
    spreads = {arm: diversity(mol, each.positions)[0] for arm, each in made.items()}
    return Drawn(one.name, edges, graph.hops.numpy()[columns], heavy_distances(one.positions, edges), found, spreads)


def measure(task: Task) -> list[dict[str, Any]]:
    """A row for each arm: means over the MMDs of single distances and of two at a time, MMD of all, and diversity."""
    found = drawn(task)
    rows = []
    for arm in ARMS:
        both = {
            rule: distances_mmd(found.edges, found.target, found.distances[arm], pairs=rule)
            for rule in ("published", "complete")
        }
        numbers = {rule: np.mean(values.pair) for rule, values in both.items()}
        numbers |= {"single": np.mean(both["complete"].single), "all": both["complete"].all}
        numbers["diversity"] = found.spreads.get(arm, float("nan"))
        counts = {"num_distances": found.edges.shape[1], "num_frames": len(found.target)}
        rows.append({"arm": arm, **{name: round(float(value), 4) for name, value in numbers.items()}, **counts})
    return rows


def record_orders(rows: pd.DataFrame) -> list[Measurement]:
    """Record the paired differences over isomers behind the claims about distances and diversity."""
    return [
        record(
            f"cgcf.order.{claim}",
            difference(rows, *order),
            rows,
            n=rows["molecule"].nunique(),
            basis="trained_here",
            interval_kind="bootstrap over molecules, 95 %",
            weights=str(rows["weights"].iloc[0]),
            seeds=sorted(rows["seed"].unique()),
            notes=WHAT[DATA],
        )
        for claim, order in ORDERS.items()
    ]


def draw_histograms(found: Drawn) -> Figure:
    """Histograms of heavy-atom distances one and three bonds apart: trajectory and arms."""
    count = len(found.distances["flow"])
    caption = f"{found.name}: {len(found.target)} frames (filled) and {count} conformers of each method (lines)."
    with style.panels(2, width=8.0, height=3.0, caption=caption) as (figure, axes):
        for axis, hop in zip(axes, (1, 3), strict=True):
            chosen = found.hops == hop
            bins = np.linspace(found.target[:, chosen].min() - 0.3, found.target[:, chosen].max() + 0.3, 60)
            axis.hist(found.target[:, chosen].ravel(), bins=bins, density=True, color="#cccccc", label="trajectory")
            for arm, colour in COLOURS.items():
                values = found.distances[arm][:, chosen].ravel()
                axis.hist(values, bins=bins, density=True, histtype="step", color=colour, label=ARMS[arm])
            axis.set(xlabel=f"distance over {hop} bond{'s' if hop > 1 else ''}, Å", ylabel="density, 1/Å")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
    return figure
