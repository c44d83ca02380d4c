"""Cost of a sampled conformer: the published procedure against the default one, equal weights, side by side.

`python -m benchmarks.conformers WEIGHTS [SMILES...]` prints JSON. Published procedure: a pair both ways, dopri5
at 1e-5 with the trace by a vector-Jacobian product, element and type features carried as states of the equation, then
1,000 Adam steps. Default: one distance a pair, 8 Runge-Kutta steps without trace, L-BFGS.
"""

import json
import sys
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.timing import load_average, side_by_side
from molkit.cgcf.conformers import draw_distances
from molkit.cgcf.datasets import graph_of
from molkit.cgcf.embedding import embed
from molkit.cgcf.flow import Flow
from molkit.cgcf.graph import PairGraph, collate
from molkit.cgcf.model import load_flow
from molkit.cgcf.solver import Solver, solve
from molkit.chem.bond_graph import graph_mol
from molkit.claims.provenance import commit
from molkit.claims.provenance import machine as processor

MOLECULES = ("CCCCO", "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "COCCc1ccc(OCC(O)CNC(C)C)cc1")  # QM9-size, and two drugs
BATCH = 20
BAR = 8.0


def published_distances(flow: Flow, graph: PairGraph, count: int, *, generator: torch.Generator) -> Tensor:
    """Distances [count, P] as the published sampler draws them; the mean of both directions."""
    many = graph.repeat(count).in_both_directions()
    field = flow.dynamics.on(many)
    noise = torch.randn(many.pairs.shape[1], generator=generator)
    probe = torch.randn(many.pairs.shape[1], generator=generator)

    def rhs(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            at = state[0].detach().requires_grad_()
            velocity = field.velocity(t, at)
            (product,) = torch.autograd.grad(velocity, at, probe, create_graph=True)
        return velocity.detach(), (product * probe).detach(), *(torch.zeros_like(part) for part in state[2:])

    start = flow.latent_norm.inverse(noise)
    constants = (field.atoms.detach(), field.types.detach())
    with torch.no_grad():
        found = solve(
            rhs, (start, torch.zeros_like(start), *constants), flow.end_time, 0.0 * flow.end_time, Solver("dopri5")
        )[0]
        distances = flow.data_norm.inverse(found).reshape(count, 2, -1)
    return distances.mean(1)


def published(flow: Flow, graph: PairGraph, *, seed: int = 0) -> None:
    """BATCH conformers by the published procedure."""
    generator = torch.Generator().manual_seed(seed)
    distances = published_distances(flow, graph, BATCH, generator=generator)
    embed(graph, distances, generator=generator, search="adam")


def default(flow: Flow, graph: PairGraph, *, seed: int = 0) -> None:
    """BATCH conformers by the default procedure."""
    generator = torch.Generator().manual_seed(seed)
    embed(graph, draw_distances(flow, graph, BATCH, generator=generator), generator=generator)


def parts(flow: Flow, graph: PairGraph) -> dict[str, partial]:
    """Every piece of work that is timed."""
    seeded = partial(torch.Generator().manual_seed, 0)
    return {
        "published": partial(published, flow, graph),
        "default": partial(default, flow, graph),
        "published_distances": lambda: published_distances(flow, graph, BATCH, generator=seeded()),
        "default_distances": lambda: draw_distances(flow, graph, BATCH, generator=seeded()),
    }


def measure(weights: str, smiles: Sequence[str] = MOLECULES, *, rounds: int = 3) -> dict[str, object]:
    """Milliseconds of CPU of one conformer by either procedure and their ratio, for each molecule."""
    torch.set_num_threads(1)
    flow, device = load_flow(weights).flow, torch.device("cpu")
    rows = []
    for text in smiles:
        graph = collate([graph_of(graph_mol(text))])
        times = side_by_side(parts(flow, graph), rounds=rounds, device=device)
        row = {name: found.summary(1e3 / BATCH) for name, found in times.items()}
        ratio = times["published"].over(times["default"]).summary()
        rows.append({"smiles": text, "pairs": graph.pairs.shape[1], "milliseconds": row, "speedup": ratio, "bar": BAR})
    about = {"machine": processor(), "commit": commit()[0], "load": load_average()}
    return {"weights": weights, "batch": BATCH, "rows": rows, **about, "capabilities": machine.capabilities(device)}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2:] or MOLECULES), indent=1))
