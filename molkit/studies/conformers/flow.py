"""A flow on distances: its graphs, draws, likelihoods and searches, and a test on molecules of another size.

The comparison asks the flow of QM9-size molecules for drug-like ones it never saw the size of, beside RDKit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from molkit.cgcf.config import FlowConfig
from molkit.cgcf.conformer_set import Batcher, ConformerSet
from molkit.cgcf.conformers import by_rdkit, draw_distances, generate, relaxed, require_known
from molkit.cgcf.datasets import graph_of, qm9_minima
from molkit.cgcf.embedding import Search, embed
from molkit.cgcf.flow import GRADING, Flow, log_density
from molkit.cgcf.graph import PairGraph, collate
from molkit.cgcf.loaded import shared_flow
from molkit.cgcf.model import build_flow, load_flow
from molkit.cgcf.solver import Solver, solve
from molkit.chem.bond_graph import graph_mol, mol_with_conformers
from molkit.chem.rdkit_tools import molecule_from_rdkit
from molkit.chem.torsions import torsion_angles
from molkit.claims.ledger import Measurement
from molkit.claims.record import record
from molkit.data.drug_size import FILE as SPLITS
from molkit.data.ensembles import ensemble_mol, load_ensembles
from molkit.data.registry import data_root
from molkit.errors import CalculationFailed
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import mean_with_interval
from molkit.figures import style
from molkit.figures.view3d import show_grid
from molkit.rng import generator_from
from molkit.studies.conformers.arms import (
    AUDIT,
    TITLES,
    Task,
    by_flow,
    ensembles_of,
    measure_arms,
    tasks_on,
)
from molkit.training.weights import weight_files

if TYPE_CHECKING:
    from IPython.display import HTML

__all__ = ["AUDIT", "Task", "measure", "tasks"]

COUNTED = {
    "butanol": "CCCCO",
    "ibuprofen": "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "metoprolol": "COCCc1ccc(OCC(O)CNC(C)C)cc1",
}
MAX_EXACT_PAIRS = 300  # more make an exact trace dear
TORSIONS = {  # SMARTS with the four atoms, which angles are counted (degrees), and what they are called
    "amide": ("[#6:1]-[CX3:2](=O)-[NX3:3]-[#6:4]", lambda angle: abs(90.0 - angle) > 70.0, "amide C–C–N–C, flat"),
    "ring": ("[c:1]1[c:2][c:3][c:4]cc1", lambda angle: angle < 20.0, "benzene ring, flat"),
    "chain": ("[!#1:1]-[CX4H2;!R:2]-[CX4H2;!R:3]-[!#1:4]", lambda angle: angle > 120.0, "chain X–CH₂–CH₂–X, anti"),
}
BINS = np.arange(0.0, 181.0, 10.0)  # degrees
LOOKED_AT = {"references": ("#bbbbbb", "DFT references"), "rdkit": (style.BLACK, TITLES["rdkit"]),
             "flow": (style.VERMILION, TITLES["flow"]), "flow_ff": (style.BLUE, TITLES["flow_ff"])}  # fmt: skip
HOPS = {1: ("bonded", style.BLUE), 2: ("two bonds apart", style.GREEN), 3: ("three bonds apart", style.VERMILION)}
SEARCHES: dict[str, Search] = {"published": "adam", "default": "lbfgs"}
AUDIT_graphs = Comparison()
AUDIT_solver = Comparison(within={"error": 0.01})
AUDIT_likelihood = Comparison(within={"noised": 0.01, "clean": 0.01, "gap": 0.5})
AUDIT_torsions = Comparison(alike={"counted": 0.3}, by=("arm", "kind"))
AUDIT_search = Comparison(
    within={"mean_stress": 1.0, "median_stress": 1.0, "converged": 0.2, "radius_of_gyration": 0.2},
    free=("draw_ms", "search_ms"),
)


@asked
def tasks(*, molecules: int = 14, seeds: Sequence[int] = (0,), weights: str = "cgcf_qm9") -> list[Task]:
    """DFT conformers of drug-like molecules, COV at 1.25 angstrom: a task for each molecule and seed."""
    return tasks_on(
        "conformers_dft",
        split="test",
        molecules=molecules,
        seeds=seeds,
        arms=("rdkit", "rdkit_ff", "flow_published", "flow", "flow_ff"),
        weights=weights,
        energy="",
        threshold=1.25,
        max_references=5,
        stereo="mirror",
    )


def measure(task: Task) -> list[dict[str, Any]]:
    """A row for each arm, see `molkit.studies.conformers.arms.measure_arms`."""
    return measure_arms(task)


@dataclass(frozen=True)
class GraphTask:
    """A molecule whose extended graph is counted."""

    name: str
    smiles: str


@asked
def tasks_graphs() -> list[GraphTask]:
    """Three molecules whose sizes are known from the published code."""
    return [GraphTask(name, smiles) for name, smiles in COUNTED.items()]


def measure_graphs(task: GraphTask) -> list[dict[str, Any]]:
    """One row: atoms, pairs by the bonds between them, directed pairs, and numbers of the flow of published sizes."""
    graph = graph_of(graph_mol(task.smiles))
    by_hops = {f"hops_{hop}": int((graph.hops == hop).sum()) for hop in HOPS}
    size = sum(parameter.numel() for parameter in build_flow(FlowConfig()).parameters())
    return [{"num_atoms": graph.num_atoms, **by_hops, "directed": 2 * graph.num_pairs, "num_parameters": size}]


def record_counts(rows: pd.DataFrame) -> list[Measurement]:
    """Record the counted pairs and numbers."""
    counts = {f"graph.{name}": value for name, value in zip(rows["name"], rows["directed"], strict=True)}
    counts["model.num_parameters"] = rows["num_parameters"].iloc[0]
    return [record(f"cgcf.{claim}", int(value), rows, n=1, basis="exact") for claim, value in counts.items()]


@dataclass(frozen=True)
class DrawTask:
    """Draws of the distances of one molecule; `how` names a number of fixed steps, or a search for positions."""

    smiles: str
    how: str
    count: int
    seed: int
    weights: str

    @property
    def files(self) -> list[Path]:
        """The weights."""
        return weight_files(self.weights)


@asked
def tasks_solver(
    *,
    smiles: str = "CCCCO",
    steps: Sequence[int] = (4, 8, 16),
    count: int = 20,
    seed: int = 0,
    weights: str = "cgcf_qm9",
) -> list[DrawTask]:
    """Numbers of fixed steps, graded as in sampling, against the adaptive solver."""
    return [DrawTask(smiles, str(number), count, seed, weights) for number in steps]


def measure_solver(task: DrawTask) -> list[dict[str, Any]]:
    """One row: the largest difference (angstrom) of any distance from dopri5 at 1e-6, float64."""
    flow, graph = load_flow(task.weights).flow.double(), collate([graph_of(graph_mol(task.smiles))])
    found, exact = (
        draw_distances(flow, graph, task.count, generator=torch.Generator().manual_seed(task.seed), solver=solver)
        for solver in (Solver("rk4", int(task.how), grading=GRADING), Solver("dopri5", tolerance=1e-6))
    )
    return [{"evaluations": 4 * int(task.how), "error": float((found - exact).abs().max())}]


@dataclass(frozen=True)
class TorsionTask:
    """One molecule of drug size whose torsions are looked at, in `count` conformers of each way."""

    molecule: str
    seed: int
    count: int
    weights: str

    @property
    def files(self) -> list[Path]:
        """Weights and data."""
        return [*weight_files(self.weights), data_root() / "conformers_dft.npz", data_root() / SPLITS]


@asked
def tasks_torsions(
    *, molecules: int = 40, count: int = 10, seed: int = 0, weights: str = "cgcf_drug"
) -> list[TorsionTask]:
    """Validation molecules of the DFT set, spread evenly, a task each."""
    found = load_ensembles("conformers_dft", split="valid", limit=molecules)
    return [TorsionTask(one.name, seed, count, weights) for one in found]


def measure_torsions(task: TorsionTask) -> list[dict[str, Any]]:
    """A row for each way and each kind of torsion that the molecule has: angles in BINS, the share that is counted."""
    one, model = ensembles_of("conformers_dft")[task.molecule], shared_flow(task.weights)
    mol = ensemble_mol(one)
    require_known(model, mol, one.smiles)
    flow = by_flow(model, one, mol, task.count, task.seed, "ignore", False)
    rdkit = by_rdkit(one.smiles, mol, task.count, seed=task.seed)
    ways = {"references": one.positions, "rdkit": rdkit.positions, "flow": flow.positions}
    ways["flow_ff"] = relaxed(flow).positions
    rows = []
    for kind, (pattern, counted, _) in TORSIONS.items():
        for arm, positions in ways.items():
            angles = torsion_angles(mol, pattern, positions)
            if angles.size:
                about = {"arm": arm, "kind": kind, "counted": round(float(counted(angles).mean()), 4)}
                rows.append({**about, "angles": np.histogram(angles, BINS)[0].tolist()})
    return rows


@dataclass(frozen=True)
class LikelihoodTask:
    """One held-back minimum of QM9, of `total` spread evenly over the test split."""

    row: int
    total: int
    num_probes: int
    seed: int
    weights: str

    @property
    def files(self) -> list[Path]:
        """Weights and data."""
        return [*weight_files(self.weights), data_root() / "qm9.npz"]


@asked
def tasks_likelihood(
    *, molecules: int = 20, num_probes: int = 60, seed: int = 0, weights: str = "cgcf_qm9"
) -> list[LikelihoodTask]:
    """Exact likelihoods of held-back minima beside probed ones, a task a molecule."""
    return [LikelihoodTask(row, molecules, num_probes, seed, weights) for row in range(len(_minima(molecules).graphs))]


@lru_cache(maxsize=2)
def _minima(count: int) -> ConformerSet:
    return qm9_minima("test", limit=count)


def measure_likelihood(task: LikelihoodTask) -> list[dict[str, Any]]:
    """One row: -log p(d|G) per pair in nats with the noise of training and without, exact trace, RK4 with 8 steps, and
    by how many standard errors the mean of Hutchinson's estimates lies off.

    Raises CalculationFailed for too many pairs.
    """
    flow, batcher = load_flow(task.weights).flow.double(), Batcher(_minima(task.total))
    graph, generator = batcher.graph(torch.tensor([task.row])), generator_from("likelihood", task.seed, task.row)
    count = graph.pairs.shape[1]
    if count > MAX_EXACT_PAIRS:
        raise CalculationFailed(f"{count} pairs are too many for an exact trace")
    clean = graph.distances(batcher.positions(torch.tensor([task.row])).double())
    noised = clean + flow.config.noise * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    many, solver = graph.repeat(task.num_probes), Solver("rk4", 8)
    probe = torch.randn(many.pairs.shape[1], generator=generator, dtype=torch.float64)
    with torch.no_grad():
        exact = {
            name: float(log_density(flow, graph, at, solver=solver))
            for name, at in (("noised", noised), ("clean", clean))
        }
        estimates = log_density(flow, many, noised.repeat(task.num_probes), probe=probe, solver=solver)
    gap = float((estimates.mean() - exact["noised"]) / (estimates.std() / task.num_probes**0.5))
    return [{"num_pairs": count, **{name: -value / count for name, value in exact.items()}, "gap": gap}]


@asked
def tasks_search(
    *, smiles: Sequence[str] = tuple(COUNTED.values()), count: int = 20, seed: int = 0, weights: str = "cgcf_qm9"
) -> list[DrawTask]:
    """The published procedure and the default one, for each molecule."""
    return [DrawTask(text, how, count, seed, weights) for text in smiles for how in SEARCHES]


def measure_search(task: DrawTask) -> list[dict[str, Any]]:
    """One row: CPU milliseconds a conformer of drawing distances and of the search, and what the search found.

    Both searches are given the distances of the default solver.
    """
    flow, graph = load_flow(task.weights).flow, collate([graph_of(graph_mol(task.smiles))])
    make = published_distances if task.how == "published" else draw_distances
    began = process_time()
    make(flow, graph, task.count, generator=torch.Generator().manual_seed(task.seed))
    drawn = process_time()
    distances = draw_distances(flow, graph, task.count, generator=torch.Generator().manual_seed(task.seed))
    again, generator = process_time(), torch.Generator().manual_seed(task.seed + 1)
    found = embed(graph, distances, generator=generator, search=SEARCHES[task.how])
    return [
        {
            "num_pairs": graph.pairs.shape[1],
            "mean_stress": float(found.stress.mean()),
            "median_stress": float(found.stress.median()),
            "converged": float(found.converged.double().mean()),
            "radius_of_gyration": float(found.radius_of_gyration.mean()),
            "draw_ms": 1e3 * (drawn - began) / task.count,
            "search_ms": 1e3 * (process_time() - again) / task.count,
        }
    ]


def published_distances(flow: Flow, graph: PairGraph, count: int, *, generator: torch.Generator) -> Tensor:
    """Distances [count, P] by the published sampler, but for the second distance of each pair, which it draws too.

    dopri5 at 1e-5 with the trace by a vector-Jacobian product, constant features of atoms and types as states.
    """
    many = graph.repeat(count)
    field = flow.dynamics.on(many)
    noise, probe = torch.randn(2, many.pairs.shape[1], generator=generator)

    def rhs(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            at = state[0].detach().requires_grad_()
            velocity = field.velocity(t, at)
            (product,) = torch.autograd.grad(velocity, at, probe, create_graph=True)
        return velocity.detach(), (product * probe).detach(), *(torch.zeros_like(part) for part in state[2:])

    start = flow.latent_norm.inverse(noise)
    states = (start, torch.zeros_like(start), field.atoms.detach(), field.types.detach())
    with torch.no_grad():
        found = solve(rhs, states, flow.end_time, 0.0 * flow.end_time, Solver("dopri5"))[0]
        return flow.data_norm.inverse(found).reshape(count, -1)


def cost(rows: pd.DataFrame) -> pd.DataFrame:
    """Milliseconds of a conformer by both procedures, and how many times the published one costs the default."""
    wide = rows.assign(total=rows["draw_ms"] + rows["search_ms"]).pivot(
        index=["smiles", "num_pairs"], columns="how", values="total"
    )
    return wide.loc[rows["smiles"].unique()].assign(ratio=wide["published"] / wide["default"]).reset_index()


@dataclass(frozen=True, eq=False)
class Film:
    """Distances of many draws on their way from noise to data: frames [F, C, P] in angstrom, at times [F]."""

    smiles: str
    times: np.ndarray
    frames: np.ndarray
    hops: np.ndarray


def film(weights: str, smiles: str, *, num_draws: int, num_frames: int, seed: int) -> Film:
    """The same draws at `num_frames` times from T to 0, by fixed steps between them, through the first moving norm."""
    flow, graph = shared_flow(weights).flow, collate([graph_of(graph_mol(smiles))])
    latent = torch.randn(num_draws, graph.pairs.shape[1], generator=torch.Generator().manual_seed(seed))
    times = torch.linspace(float(flow.end_time), 0.0, num_frames)
    with torch.no_grad():
        field, now = flow.dynamics.on(graph), flow.latent_norm.inverse(latent)
        frames = [flow.data_norm.inverse(now)]
        for start, end in zip(times[:-1], times[1:], strict=True):
            (now,) = solve(lambda t, state: (field.velocity(t, state[0]),), (now,), start, end, Solver("rk4", 2))
            frames.append(flow.data_norm.inverse(now))
    return Film(smiles, times.numpy(), torch.stack(frames).numpy(), graph.hops.numpy())


def draw_film(found: Film, *, num_shown: int = 4) -> Figure:
    """Histograms of distances at a few times, from noise to data, coloured by the number of bonds between the atoms."""
    shown = np.linspace(0, len(found.times) - 1, num_shown).round().astype(int)
    bins = np.linspace(0.0, 5.5, 90)
    caption = (
        f"Distances of {found.frames.shape[1]} draws for {found.smiles}, {found.frames.shape[2]} pairs each, at "
        f"{num_shown} times of the flow; t = T is normal noise, moved and scaled like the data."
    )
    with style.panels(num_shown, width=9.0, height=2.6, caption=caption, sharey=True) as (figure, axes):
        for axis, row in zip(axes, shown, strict=True):
            for hop, (name, colour) in HOPS.items():
                axis.hist(found.frames[row][:, found.hops == hop].ravel(), bins, color=colour, alpha=0.6, label=name)
            axis.set(title=f"t = {found.times[row]:.2f}", xlabel="distance, Å")
        axes[0].set_ylabel("draws and pairs")
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(HOPS)
        )
    return figure


def gallery(weights: str, smiles: str, *, count: int, seed: int) -> "HTML":
    """Conformers in 3D, in the order in which they were drawn."""
    made = generate(shared_flow(weights), smiles, count, generator=torch.Generator().manual_seed(seed))
    placed = mol_with_conformers(made.mol, made.positions)
    molecules = [molecule_from_rdkit(placed, conformer=row, name=smiles) for row in range(len(made))]
    return show_grid(molecules, caption=f"{len(molecules)} conformers of {smiles}, none picked.")


def draw_torsions(rows: pd.DataFrame) -> Figure:
    """Angles of the kinds of torsions: shares of all angles of a way in bins of 10 degrees, means over molecules."""
    kinds = [kind for kind in TORSIONS if kind in set(rows["kind"])]
    counts = {kind: rows.loc[rows["kind"] == kind, "molecule"].nunique() for kind in kinds}
    caption = (
        "Torsion angles without sign, bins of 10°, means over validation molecules of drug size: "
        + ", ".join(f"{TORSIONS[kind][2].split(',')[0]}: n = {count}" for kind, count in counts.items())
        + "."
    )
    with style.panels(len(kinds), width=9.0, height=3.2, caption=caption) as (figure, axes):
        for axis, kind in zip(axes, kinds, strict=True):
            for arm, (colour, name) in LOOKED_AT.items():
                found = np.array(
                    rows.loc[(rows["kind"] == kind) & (rows["arm"] == arm), "angles"].tolist(), dtype=float
                )
                shares = 100.0 * (found / found.sum(1, keepdims=True)).mean(0)
                axis.stairs(shares, BINS, color=colour, fill=arm == "references", lw=1.6, label=name)
            axis.set(title=TORSIONS[kind][2].split(",")[0], xlabel="torsion angle, °", xticks=[0, 60, 120, 180])
        axes[0].set_ylabel("share of angles, %")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
    return figure


def torsion_shares(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a way: the share of each kind of torsion that is flat or anti, means over molecules with intervals."""
    means = rows.pivot(index=["arm", "molecule"], columns="kind", values="counted").reset_index()
    means["arm"] = pd.Categorical(means["arm"], list(LOOKED_AT))
    return mean_with_interval(means.sort_values("arm"), [kind for kind in TORSIONS if kind in means], by="arm")
