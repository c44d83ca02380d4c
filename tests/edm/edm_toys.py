"""Small models, molecules and stand-in networks shared by the tests of EDM."""

import numpy as np
import torch
from torch import Tensor, nn

from molkit.edm.config import EdmConfig
from molkit.edm.features import State, encode
from molkit.edm.model import Edm, build
from molkit.edm.schedule import alpha, log_snr_table, sigma
from molkit.graphs import Graph
from molkit.molecule import Molecule, PackedMolecules

TINY = EdmConfig(width=16, num_layers=2)


def tiny_config(**changes) -> EdmConfig:
    """Width 16, two layers, and the paper's conventions but for `changes`."""
    return EdmConfig(**{"width": 16, "num_layers": 2} | changes)


def tiny_edm(**changes) -> Edm:
    """An untrained tiny model."""
    return build(tiny_config(**changes))


def random_molecules(sizes, *, seed: int = 0, elements=(1, 6, 7, 8)) -> PackedMolecules:
    """Molecules of random elements at random places, a few angstrom across."""
    generator = torch.Generator().manual_seed(seed)
    return PackedMolecules.from_molecules(
        Molecule(
            [elements[k] for k in torch.randint(0, len(elements), (size,), generator=generator)],
            1.5 * torch.randn(size, 3, generator=generator, dtype=torch.float64).numpy(),
        )
        for size in sizes
    )


def clean_state(config: EdmConfig, molecules: PackedMolecules, dtype=torch.float32) -> tuple[State, Graph]:
    """Centred, scaled molecules and their graph."""
    graph = Graph.from_sizes(torch.from_numpy(molecules.num_atoms))
    positions = graph.centre(torch.from_numpy(molecules.positions).to(dtype))
    return encode(config, torch.from_numpy(molecules.atomic_numbers), positions), graph


class StandIn(nn.Module):
    """A network without layers: `predict(noisy, step [A, 1], log_snr [A, 1])` gives the noise as a State."""

    def __init__(self, config: EdmConfig, predict) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))
        self.config, self.predict, self.calls = config, predict, 0
        self.table = log_snr_table(config)

    def forward(self, features: Tensor, positions: Tensor, t: Tensor, edge_index, batch, num_molecules):
        self.calls += 1
        step = torch.round(t * self.config.num_steps).long()
        noise = self.predict(State(positions, features), step, self.table[step])
        return noise.positions.to(positions.dtype), noise.features.to(features.dtype)


def edm_with(config: EdmConfig, predict) -> Edm:
    """A model whose network is a stand-in."""
    return Edm(config, StandIn(config, predict), log_snr_table(config))


def knows(clean: State):
    """A predictor that knows the clean state and so the noise, whatever the noisy state (one atom order only)."""

    def predict(noisy: State, step: Tensor, log_snr: Tensor) -> State:
        signal, spread = alpha(log_snr), sigma(log_snr)
        parts = ((noisy.positions, clean.positions), (noisy.features, clean.features))
        return State(*((part.double() - signal * truth.double()) / spread for part, truth in parts))

    return predict


def predicts_zero(noisy: State, step: Tensor, log_snr: Tensor) -> State:
    """The noise of a network that has learnt nothing."""
    return noisy.map(torch.zeros_like)


def random_rotation(seed: int = 0, dtype=torch.float64) -> Tensor:
    """A proper rotation [3, 3]."""
    generator = torch.Generator().manual_seed(seed)
    matrix, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    return (matrix * torch.linalg.det(matrix).sign()).to(dtype)


def assert_same_positions(one: np.ndarray, other: np.ndarray) -> None:
    """Equal up to the rounding of float32, which grows with the coordinates: networks without training throw atoms
    hundreds of angstroms apart. Another draw of noise is off by more than an angstrom."""
    np.testing.assert_allclose(one, other, rtol=0.0, atol=max(1e-4, 5e-6 * float(np.abs(other).max())))
