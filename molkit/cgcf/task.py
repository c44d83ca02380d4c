"""What the training loop needs of the flow: conformers, the likelihood or the matching loss, where weights go."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from molkit.cgcf.conformer_set import Batcher, ConformerSet
from molkit.cgcf.flow import Flow, log_density
from molkit.cgcf.matching import matching_loss
from molkit.cgcf.model import save_flow

Objective = Literal["likelihood", "matching"]


class FlowTask:
    """Training conformers, and the loss of any rows of them.

    likelihood: -log p(d|G) of the noised distances, summed over the batch and divided by its number of pairs, as in the
    paper's code: a molecule with more pairs weighs more. matching: `molkit.cgcf.matching`.
    """

    def __init__(self, data: ConformerSet, *, objective: Objective, noise: float) -> None:
        self.batcher, self.objective, self.noise = Batcher(data), objective, noise
        self.num_atoms = data.num_atoms

    def loss(self, network: Flow, rows: Tensor, *, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of these conformers, and the flow's end time."""
        inner = getattr(network, "module", network)
        graph = self.batcher.graph(rows)
        distances = graph.distances(self.batcher.positions(rows))
        distances = distances + self.noise * torch.randn(distances.shape, generator=generator)
        terms = {"end_time": inner.end_time.detach()}
        if self.objective == "matching":
            return matching_loss(inner, graph, distances, generator=generator), terms
        probe = torch.randn(distances.shape, generator=generator)
        return -log_density(inner, graph, distances, probe=probe).sum() / distances.numel(), terms

    def save_weights(self, folder: Path, network: Flow) -> None:
        """Averaged weights and configuration, as `load_flow` reads them."""
        save_flow(network, folder)
