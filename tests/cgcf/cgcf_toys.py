"""Small molecules and untrained flows for the tests of CGCF."""

import numpy as np
import torch

from molkit.cgcf.config import FlowConfig
from molkit.cgcf.dynamics import ConcatSquash
from molkit.cgcf.graph import ExtendedGraph, PairGraph, collate, extended_graph
from molkit.cgcf.model import build_flow
from molkit.chem.bond_graph import bond_graph, graph_mol

BUTANOL, ETHANOL, CYCLOPROPANE, CUBANE = "CCCCO", "CCO", "C1CC1", "C12C3C4C1C5C4C3C25"


def extended(smiles: str) -> ExtendedGraph:
    found = bond_graph(graph_mol(smiles))
    return extended_graph(found.atomic_numbers, found.bonds)


def batch(*smiles: str) -> PairGraph:
    return collate([extended(text) for text in smiles])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loud_flow(seed: int = 0, **options):
    """A flow whose velocity and divergence are large enough to matter, float64, in evaluation mode."""
    flow = build_flow(FlowConfig(**{"end_time": 1.5, "width": 16} | options), seed=seed).double()
    with torch.no_grad():
        for parameter in flow.dynamics.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator(seed), dtype=torch.float64))
        flow.dynamics.pair_types.weight.mul_(2.0)
        flow.data_norm.mean.fill_(2.4)
        flow.data_norm.variance.fill_(0.6)
        flow.latent_norm.log_scale.fill_(0.1)
        flow.latent_norm.offset.fill_(-0.2)
    for module in flow.modules():
        if isinstance(module, ConcatSquash):
            module.follow_singular_vectors(200)
    return flow.eval()


def some_distances(graph: PairGraph, seed: int = 0) -> torch.Tensor:
    return 1.0 + 3.0 * torch.rand(graph.pairs.shape[1], generator=generator(seed), dtype=torch.float64)


def shuffled(graph: ExtendedGraph, order: np.ndarray) -> tuple[ExtendedGraph, np.ndarray]:
    """The graph with atom k renamed to order[k], and for each new pair the number of the old one."""
    pairs = np.sort(order[graph.pairs], axis=0)
    place = np.lexsort((pairs[1], pairs[0]))
    numbers = np.empty_like(graph.atomic_numbers)
    numbers[order] = graph.atomic_numbers
    return ExtendedGraph(numbers, pairs[:, place], graph.types[place], graph.hops[place]), place
