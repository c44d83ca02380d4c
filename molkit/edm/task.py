"""What the training loop needs of EDM: molecules as tensors, the simple loss, where weights go."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from molkit.edm.conditions import context_of, draw_flags
from molkit.edm.config import EdmConfig
from molkit.edm.dense import Planner
from molkit.edm.diffusion import simple_loss
from molkit.edm.features import State, encode
from molkit.edm.model import Edm, save
from molkit.edm.schedule import log_snr_table
from molkit.errors import InvalidInput
from molkit.geometry import random_rotations
from molkit.graphs import Graph, to_device
from molkit.molecule import PackedMolecules
from molkit.training.config import TrainConfig


class EdmTask:
    """Training molecules on one device, and the loss of any rows of them.

    Raises InvalidInput for an element the model cannot place.
    """

    planner: Planner | None = None  # of a network on size buckets, which needs sizes on the host and no edges

    def __init__(
        self,
        config: EdmConfig,
        molecules: PackedMolecules,
        training: TrainConfig,
        device: torch.device | str = "cpu",
        labels: np.ndarray | None = None,
    ) -> None:
        """labels [N, K]: the properties of config.context_names in their units. Raises InvalidInput without them."""
        if config.context_names and (labels is None or labels.shape != (len(molecules), len(config.context_names))):
            raise InvalidInput(f"this model needs a label of each molecule for {', '.join(config.context_names)}")
        self.labels = None if labels is None or not config.context_names else torch.from_numpy(labels)
        self.config, self.training = config, training
        self.table = log_snr_table(config).to(device)
        self.num_atoms = torch.from_numpy(molecules.num_atoms)
        self.ptr = torch.from_numpy(molecules.ptr)
        atomic_numbers = torch.from_numpy(molecules.atomic_numbers).to(device)
        self.clean = encode(config, atomic_numbers, torch.from_numpy(molecules.positions).float().to(device))
        self.device = torch.device(device)

    def graph(self, num_atoms: Tensor) -> Graph:
        """Molecules of the given sizes on the device."""
        if self.planner is None:
            return Graph.from_sizes(num_atoms).to(self.device)
        graph = Graph.without_edges(num_atoms, self.device)
        self.planner.announce(graph.batch, num_atoms)
        return graph

    def batch(self, rows: Tensor) -> tuple[State, Graph]:
        """Centred, scaled molecules of the given rows, and their graph."""
        graph = self.graph(self.num_atoms[rows])
        first = to_device(self.ptr[rows], self.device) - (graph.num_atoms.cumsum(0) - graph.num_atoms)
        atoms = torch.arange(len(graph.batch), device=self.device) + first[graph.batch]
        return State(graph.centre(self.clean.positions[atoms]), self.clean.features[atoms]), graph

    def context(self, rows: Tensor, graph: Graph, *, generator: torch.Generator) -> Tensor | None:
        """Normalised properties and flags of these rows, drawn anew at each step, one row an atom; None without."""
        if self.labels is None:
            return None
        values = self.labels[rows].to(self.device)
        flags = draw_flags(len(rows), values.shape[1], generator=generator).to(self.device)
        return context_of(self.config, torch.where(flags, values, float("nan")))[graph.batch]

    def loss(self, network: nn.Module, rows: Tensor, *, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of the molecules in these rows, and the mean squared error of noise."""
        clean, graph = self.batch(rows)
        if self.training.random_rotations:
            clean = turned(clean, graph, random_rotations(graph.num_molecules, generator=generator))
        terms = simple_loss(
            network,
            self.config,
            self.table,
            clean,
            graph,
            generator=generator,
            weighting=self.training.weighting,
            stratified=self.training.stratified_steps,
            noise_weighting=self.training.noise_weighting,
            step_power=self.training.step_power,
            levels=self.training.noise_levels,
            context=self.context(rows, graph, generator=generator),
        )
        return terms.loss, {"noise_error": terms.noise_error}

    def save_weights(self, folder: Path, network: nn.Module) -> None:
        """Averaged weights and configuration, as `edm.model.load` reads them."""
        save(Edm(self.config, network, self.table), folder)


def turned(state: State, graph: Graph, rotations: Tensor) -> State:
    """Each molecule's positions turned by its rotation, [B, 3, 3]; features stay."""
    own = rotations.to(state.positions)[graph.batch]
    return State(torch.einsum("aij,aj->ai", own, state.positions), state.features)
