"""What a network without symmetry does when a molecule is turned, and when scaled features become readable."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from molkit.data.qm9 import load_qm9
from molkit.edm.config import EdmConfig
from molkit.edm.diffusion import add_noise, draw_noise, predict_noise, squared_error
from molkit.edm.features import State, encode
from molkit.edm.model import Edm, load
from molkit.edm.schedule import alpha, log_snr_table, sigma
from molkit.geometry import random_rotations
from molkit.graphs import Graph
from molkit.metrics.statistics import Interval, bootstrap_interval, ratio_interval
from molkit.molecule import PackedMolecules

QUADRATURE_POINTS = 64


@dataclass(frozen=True)
class TurnSweep:
    """Squared noise error per component of one test molecule, turned about an axis together with the noise."""

    formula: str
    degrees: np.ndarray  # [K]
    errors: Mapping[str, np.ndarray]  # label -> [K], mean over the draws
    spreads: Mapping[str, np.ndarray]  # label -> [K], standard error over the draws
    step: int
    draws: int


@dataclass(frozen=True)
class Orientation:
    """Noise error of test molecules as they lie in the file, and turned at random."""

    label: str
    as_stored: Interval
    turned: Interval
    ratio: Interval  # turned over stored, bootstrap over molecules
    num_molecules: int


@dataclass(frozen=True)
class Readability:
    """Along the noise: how surely an atom's element can be read from its own noisy channels."""

    blur: np.ndarray  # [T + 1], sigma / alpha in angstrom, ascending
    types: Mapping[float, np.ndarray]  # n_c -> chance that the largest one-hot channel is the right one
    hydrogen: Mapping[float, np.ndarray]  # n_i -> chance to tell hydrogen from carbon by the channel of Z


def turn_sweep(weights: Mapping[str, str], *, row: int, step: int, num_angles: int, draws: int, seed: int) -> TurnSweep:
    """Errors of every model (label -> weights) for one test molecule at `num_angles` angles about the z axis.

    The molecule and its noise are turned together, so a network with the symmetry makes the same error at any angle.
    """
    molecule = load_qm9(split="test")[row].centred()
    degrees = np.linspace(0.0, 360.0, num_angles)
    copies = PackedMolecules.from_molecules([molecule] * draws)
    errors, spreads = {}, {}
    for label, name in weights.items():
        edm = load(name)
        found = np.stack(
            [errors_at(edm, copies, step=step, turn=about_z(angle).expand(draws, 3, 3), seed=seed) for angle in degrees]
        )
        errors[label] = found.mean(1)
        spreads[label] = found.std(1, ddof=1) / math.sqrt(draws)
    return TurnSweep(molecule.formula, degrees, errors, spreads, step, draws)


def orientations(weights: Mapping[str, str], *, num_molecules: int, seed: int) -> list[Orientation]:
    """For every model: test molecules at random steps, once as stored and once turned uniformly at random."""
    molecules = load_qm9(split="test", limit=num_molecules)
    turns = random_rotations(num_molecules, generator=torch.Generator().manual_seed(seed))
    unturned = torch.eye(3).expand(num_molecules, 3, 3)
    rows = []
    for label, name in weights.items():
        edm = load(name)
        stored = errors_at(edm, molecules, step=None, turn=unturned, seed=seed)
        turned = errors_at(edm, molecules, step=None, turn=turns, seed=seed)
        rows.append(
            Orientation(
                label,
                bootstrap_interval(stored),
                bootstrap_interval(turned),
                ratio_interval(turned, stored),
                num_molecules,
            )
        )
    return rows


@torch.no_grad()
def errors_at(edm: Edm, molecules: PackedMolecules, *, step: int | None, turn: Tensor, seed: int) -> np.ndarray:
    """Squared error per noise component of every molecule, turned (turn [B, 3, 3]) together with its noise, [B].

    step None: one step of 1..T drawn for each molecule; steps and noise follow from `seed` alone.
    """
    generator = torch.Generator().manual_seed(seed)
    graph = Graph.from_sizes(torch.from_numpy(molecules.num_atoms))
    positions = graph.centre(torch.from_numpy(molecules.positions).float())
    clean = encode(edm.config, torch.from_numpy(molecules.atomic_numbers), positions)
    drawn = torch.randint(1, edm.config.num_steps + 1, (len(molecules),), generator=generator)
    steps = drawn if step is None else torch.full_like(drawn, step)
    noise = turned(draw_noise(graph, clean.features.shape[1], generator=generator), graph, turn)
    noisy = add_noise(turned(clean, graph, turn), noise, edm.log_snr[steps][graph.batch].unsqueeze(-1))
    predicted = predict_noise(edm.network, noisy, steps, graph, num_steps=edm.config.num_steps)
    components = graph.num_atoms * (3 + clean.features.shape[1])
    return (squared_error(noise, predicted, graph) / components).double().numpy()


def turned(state: State, graph: Graph, turn: Tensor) -> State:
    """Positions of every molecule multiplied by its own matrix, turn [B, 3, 3]."""
    matrices = turn.to(state.positions)[graph.batch]
    return State(torch.einsum("aij,aj->ai", matrices, state.positions), state.features)


def about_z(degrees: float) -> Tensor:
    """Rotation about the z axis, [3, 3]."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def readability(
    *, type_scales: tuple[float, ...] = (1.0, 4.0), number_scales: tuple[float, ...] = (1.0, 10.0)
) -> Readability:
    """Closed forms for the paper's schedule, one atom looked at alone; no network and nothing random."""
    table = log_snr_table(EdmConfig())
    blur = (sigma(table) / alpha(table)).numpy()
    return Readability(
        blur,
        {scale: largest_channel_is_right(1.0 / (scale * blur), num_types=5) for scale in type_scales},
        {scale: 0.5 * (1.0 + _erf((6 - 1) / (2.0 * scale * blur) / math.sqrt(2.0))) for scale in number_scales},
    )


def largest_channel_is_right(distance: np.ndarray, *, num_types: int) -> np.ndarray:
    """Chance that the right one of `num_types` unit normal channels, raised by `distance`, is the largest.

    The integral of phi(u) Phi(u + distance)^(K - 1) du, by Gauss-Hermite quadrature. Source: derived here.
    """
    points, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE_POINTS)
    below = 0.5 * (1.0 + _erf((points[:, None] + np.asarray(distance)[None, :]) / math.sqrt(2.0)))
    return (weights[:, None] * below ** (num_types - 1)).sum(0) / math.sqrt(2.0 * math.pi)


def _erf(values: np.ndarray) -> np.ndarray:
    return torch.erf(torch.as_tensor(values, dtype=torch.float64)).numpy()
