"""What a chain of few steps pays in the variational bound, step by step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from molkit.data.qm9 import load_qm9
from molkit.edm.diffusion import add_noise, draw_noise, predict_noise, squared_error
from molkit.edm.features import encode
from molkit.edm.grids import grid_steps
from molkit.edm.model import Edm, load
from molkit.graphs import Graph
from molkit.molecule import PackedMolecules


@dataclass(frozen=True)
class Price:
    """What the strided ancestral chain pays for a prediction that stays the same within a step."""

    steps: np.ndarray  # [K] steps at which the model's error was measured
    error: np.ndarray  # [K] squared error of the clean state a molecule, positions and features, scaled units
    chains: dict[str, tuple[np.ndarray, np.ndarray]]  # grid -> steps where a step starts, nats a molecule of that step
    num_calls: int
    num_molecules: int


@torch.no_grad()
def price_of_few_steps(
    weights: str, *, grids: Sequence[str], num_calls: int, num_molecules: int, num_points: int, seed: int
) -> Price:
    """Excess of the variational bound of a chain of few steps over one of infinitely many, step by step.

    (SNR_s - SNR_t) / 2 e(t) - integral of e / 2 dSNR, with e the squared error of the predicted clean state on
    validation molecules, interpolated in log e between num_points steps. Source: derived here from the bound of
    Kingma et al. 2021.
    """
    edm = load(weights)
    molecules = load_qm9(split="valid", limit=num_molecules)
    last = edm.config.num_steps
    points = np.unique(np.round(np.r_[0, np.geomspace(1, last, num_points - 1)]).astype(int))
    generator = torch.Generator().manual_seed(seed)
    errors = np.array([_clean_error(edm, molecules, int(step), generator) for step in points])
    snr = torch.exp(edm.log_snr).numpy()
    error = np.exp(np.interp(np.arange(last + 1), points, np.log(errors)))
    pieces = 0.25 * (error[1:] + error[:-1]) * (snr[:-1] - snr[1:])
    integral = np.concatenate([[0.0], np.cumsum(pieces)])  # from step 0 up
    chains = {}
    for grid in grids:
        steps = np.array(grid_steps(edm.log_snr, num_calls, grid=grid))
        now, after = steps[:-1], steps[1:]
        price = 0.5 * (snr[after] - snr[now]) * error[now] - (integral[now] - integral[after])
        chains[grid] = (now, price)
    return Price(points, errors, chains, num_calls, len(molecules))


def _clean_error(edm: Edm, molecules: PackedMolecules, step: int, generator: torch.Generator) -> float:
    """Squared error of the clean state predicted at a step, mean over molecules."""
    graph = Graph.from_sizes(torch.from_numpy(molecules.num_atoms))
    positions = graph.centre(torch.from_numpy(molecules.positions).float())
    clean = encode(edm.config, torch.from_numpy(molecules.atomic_numbers), positions)
    noise = draw_noise(graph, edm.config.num_features, generator=generator)
    noisy = add_noise(clean, noise, edm.log_snr[step].expand(len(positions), 1))
    steps = torch.full((graph.num_molecules,), step)
    predicted = predict_noise(edm.network, noisy, steps, graph, num_steps=edm.config.num_steps)
    return float(squared_error(noise, predicted, graph).mean() * torch.exp(-edm.log_snr[step]))
