"""What the chapter on the flow computes in front of the reader: graphs, distances, likelihood, searches."""

import json
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch

from molkit.cgcf.config import FlowConfig
from molkit.cgcf.conformer_set import Batcher
from molkit.cgcf.conformers import draw_distances, generate
from molkit.cgcf.datasets import graph_of, qm9_minima
from molkit.cgcf.embedding import embed, radius_of_gyration
from molkit.cgcf.flow import GRADING, Flow, log_density
from molkit.cgcf.graph import PairGraph, collate
from molkit.cgcf.model import build_flow, load_flow
from molkit.cgcf.solver import Solver
from molkit.chem.bond_graph import graph_mol, mol_with_conformers
from molkit.chem.rdkit_tools import molecule_from_rdkit
from molkit.claims.ledger import REPOSITORY
from molkit.claims.store import record
from molkit.errors import DataNotFound, InvalidInput
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.molecule import Molecule

COUNTED = {
    "butanol": "CCCCO",
    "ibuprofen": "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "metoprolol": "COCCc1ccc(OCC(O)CNC(C)C)cc1",
}
MAX_EXACT_PAIRS = 300
COST = REPOSITORY / "benchmarks" / "results" / "conformers.json"


@dataclass(frozen=True)
class GraphFacts:
    """Atoms and pairs of one extended graph."""

    name: str
    num_atoms: int
    by_hops: tuple[int, int, int]
    directed: int


@dataclass(frozen=True, eq=False)
class Film:
    """Distances of many draws on their way from noise to data: frames [F, C, P] in angstrom, at times [F]."""

    smiles: str
    times: np.ndarray
    frames: np.ndarray
    hops: np.ndarray


@dataclass(frozen=True)
class Likelihood:
    """-log p(d|G) per pair on held-back molecules, with noise as in training and without; nats."""

    num_molecules: int
    noised: Interval
    clean: Interval
    largest_gap: float  # of the exact trace and the mean of the probes, in standard errors, over molecules
    num_probes: int


@dataclass(frozen=True)
class SearchRow:
    """One search on the same distances."""

    name: str
    count: int
    mean_stress: float
    median_stress: float
    converged: float
    radius_of_gyration: float
    milliseconds: float  # CPU of one conformer


def counted_graphs() -> list[GraphFacts]:
    """The extended graphs of three molecules whose sizes are known from the published code; recorded as claims."""
    started = perf_counter()
    facts = []
    for name, smiles in COUNTED.items():
        graph = graph_of(graph_mol(smiles))
        hops = tuple(int((graph.hops == hop).sum()) for hop in (1, 2, 3))
        facts.append(GraphFacts(name, graph.num_atoms, hops, 2 * graph.num_pairs))
    for fact in facts:
        _record_exact(f"cgcf.graph.{fact.name}", fact.directed, "molecules", perf_counter() - started)
    return facts


def count_parameters() -> int:
    """Trainable numbers of the flow with the published sizes; recorded as a claim."""
    started = perf_counter()
    count = sum(parameter.numel() for parameter in build_flow(FlowConfig()).parameters())
    _record_exact("cgcf.model.num_parameters", count, "models", perf_counter() - started)
    return count


def _record_exact(claim: str, value: int, counts: str, seconds: float) -> None:
    record(claim, value, interval=None, interval_kind="exact", n=1, counts=counts, basis="exact", seconds=seconds)


def film(weights: str, smiles: str, *, num_draws: int, num_frames: int, seed: int) -> Film:
    """The same draws at `num_frames` times from T to 0, by fixed steps between them, through the first moving norm."""
    flow = load_flow(weights).flow
    graph = flow.graph(collate([graph_of(graph_mol(smiles))]))
    latent = torch.randn(num_draws, graph.pairs.shape[1], generator=torch.Generator().manual_seed(seed))
    times = torch.linspace(float(flow.end_time), 0.0, num_frames)
    with torch.no_grad():
        field, now = flow.dynamics.on(graph), flow.latent_norm.inverse(latent)
        frames = [flow.data_norm.inverse(now)]
        for start, end in zip(times[:-1], times[1:], strict=True):
            now = _moved(field, now, start, end)
            frames.append(flow.data_norm.inverse(now))
    return Film(smiles, times.numpy(), torch.stack(frames).numpy(), graph.hops.numpy())


def _moved(field: object, now: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    from molkit.cgcf.solver import solve

    return solve(lambda t, state: (field.velocity(t, state[0]),), (now,), start, end, Solver("rk4", 2))[0]


def solver_error(weights: str, smiles: str, *, steps: tuple[int, ...], num_draws: int, seed: int) -> dict[int, float]:
    """Largest difference (angstrom) of distances by fixed steps, graded as in sampling, from dopri5 at 1e-6."""
    flow = load_flow(weights).flow.double()
    graph = collate([graph_of(graph_mol(smiles))])

    def draws(solver: Solver) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return draw_distances(flow, graph, num_draws, generator=generator, solver=solver)

    reference = draws(Solver("dopri5", tolerance=1e-6))
    return {count: float((draws(Solver("rk4", count, grading=GRADING)) - reference).abs().max()) for count in steps}


def likelihood(weights: str, *, num_molecules: int, num_probes: int, seed: int) -> Likelihood:
    """Exact likelihoods of held-back QM9 minima, float64, RK4 with 8 steps; and whether probes average to them."""
    flow = load_flow(weights).flow.double()
    data = qm9_minima("test", limit=num_molecules)
    batcher, generator = Batcher(data), torch.Generator().manual_seed(seed)
    noised, clean, gaps = [], [], []
    for row in range(len(data)):
        graph = flow.graph(batcher.graph(torch.tensor([row])))
        if graph.pairs.shape[1] > MAX_EXACT_PAIRS:
            continue
        exact = graph.distances(batcher.positions(torch.tensor([row])).double())
        noise = flow.config.noise * torch.randn(exact.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            clean.append(nats_per_pair(flow, graph, exact))
            noised.append(nats_per_pair(flow, graph, exact + noise))
            gaps.append(_gap(flow, graph, exact + noise, -noised[-1] * len(exact), num_probes, generator))
    return Likelihood(len(clean), _interval(noised), _interval(clean), float(np.max(np.abs(gaps))), num_probes)


def nats_per_pair(flow: Flow, graph: PairGraph, distances: torch.Tensor) -> float:
    """-log p(d|G) of one molecule's distances [P] divided by P, exact trace, RK4 with 8 steps."""
    return -float(log_density(flow, graph, distances, solver=Solver("rk4", 8)).sum()) / len(distances)


def _gap(flow: object, graph: PairGraph, distances: torch.Tensor, exact: float, count: int, generator: object) -> float:
    """Mean of `count` Hutchinson estimates less the exact value, in standard errors."""
    many = graph.repeat(count)
    probe = torch.randn(many.pairs.shape[1], generator=generator, dtype=torch.float64)
    found = log_density(flow, many, distances.repeat(count), probe=probe, solver=Solver("rk4", 8))
    return float((found.mean() - exact) / (found.std() / count**0.5))


def _interval(values: list[float]) -> Interval:
    return bootstrap_interval(np.array(values))


def searches(weights: str, smiles: str, *, count: int, seed: int) -> list[SearchRow]:
    """The published search and the default one on the same distances of one molecule."""
    model = load_flow(weights)
    graph = collate([graph_of(graph_mol(smiles))])
    distances = draw_distances(model.flow, graph, count, generator=torch.Generator().manual_seed(seed))
    rows = []
    for search, name in (("adam", "published: Adam, step 3 Å, 1,000 iterations"), ("lbfgs", "default: L-BFGS")):
        started = process_time()
        found = embed(graph, distances, generator=torch.Generator().manual_seed(seed + 1), search=search)
        seconds = process_time() - started
        rows.append(
            SearchRow(
                name,
                count,
                float(found.stress.mean()),
                float(found.stress.median()),
                float(found.converged.double().mean()),
                float(radius_of_gyration(found.positions).mean()),
                1e3 * seconds / count,
            )
        )
    return rows


@dataclass(frozen=True)
class CostRow:
    """CPU milliseconds of one conformer by the published procedure and by the default one, medians over rounds."""

    smiles: str
    num_pairs: int
    published: float
    default: float
    ratio: float
    lowest_ratio: float
    aim: float


def stored_cost(path: Path = COST) -> list[CostRow]:
    """What `python -m benchmarks.conformers` measured. Raises DataNotFound or InvalidInput."""
    if not path.is_file():
        raise DataNotFound(f"{path}: no such measurement; `python -m benchmarks.conformers cgcf_qm9` makes it")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return [
            CostRow(
                row["smiles"],
                row["pairs"],
                row["milliseconds"]["published"]["median"],
                row["milliseconds"]["default"]["median"],
                row["speedup"]["median"],
                row["speedup"]["min"],
                row["bar"],
            )
            for row in values["rows"]
        ]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path}: not a measurement of conformers ({error})") from error


def some_conformers(weights: str, smiles: str, *, count: int, seed: int) -> list[Molecule]:
    """Conformers to look at."""
    made = generate(load_flow(weights), smiles, count, generator=torch.Generator().manual_seed(seed))
    placed = mol_with_conformers(made.mol, made.positions)
    return [molecule_from_rdkit(placed, conformer=row, name=smiles) for row in range(len(made))]
