"""What a chain of few steps pays in the variational bound, step by step."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from molkit.data.qm9 import load_qm9
from molkit.edm.diffusion import add_noise, draw_noise, predict_noise, squared_error
from molkit.edm.features import State, encode
from molkit.edm.model import Edm, load
from molkit.edm.samplers import ANCESTRAL, SAMPLERS
from molkit.edm.sampling import Plan, make_plan
from molkit.graphs import Graph

QUADRATIC = SAMPLERS["ancestral-quadratic"]
CHAINS = {"even": ANCESTRAL, "quadratic": replace(QUADRATIC, first=1.0), "quadratic, blind start": QUADRATIC}


@dataclass(frozen=True)
class Price:
    """What a strided ancestral chain pays for a prediction that stays the same within a step."""

    steps: np.ndarray  # [K] steps at which the model's error was measured
    error: np.ndarray  # [K] squared error of the clean state a molecule, positions and features, scaled units
    chains: dict[str, tuple[np.ndarray, np.ndarray]]  # name -> steps where a step starts, nats a molecule of that step
    num_calls: int
    num_molecules: int


@torch.no_grad()
def price_of_few_steps(weights: str, *, num_calls: int, num_molecules: int, num_points: int, seed: int) -> Price:
    """Excess of the variational bound of chains of few steps over one of infinitely many, step by step.

    (SNR_s - SNR_t) / 2 e(t) - integral of e / 2 dSNR, with e the squared error of the predicted clean state on
    validation molecules, interpolated in log e between num_points steps; a blind step predicts zero.
    Source: derived here from the bound of Kingma et al. 2021.
    """
    edm = load(weights)
    molecules = load_qm9(split="valid", limit=num_molecules)
    graph = Graph.from_sizes(torch.from_numpy(molecules.num_atoms))
    positions = graph.centre(torch.from_numpy(molecules.positions).float())
    clean = encode(edm.config, torch.from_numpy(molecules.atomic_numbers), positions)
    last = edm.config.num_steps
    points = measured_steps(last, num_points)
    generator = torch.Generator().manual_seed(seed)
    errors = np.array([_clean_error(edm, clean, graph, int(step), generator) for step in points])
    error = np.exp(np.interp(np.arange(last + 1), points, np.log(errors)))
    unseen = float(squared_error(clean, clean.map(torch.zeros_like), graph).mean())
    plans = {name: make_plan(edm, sampler, num_calls) for name, sampler in CHAINS.items()}
    chains = {name: _prices(plan, torch.exp(edm.log_snr).numpy(), error, unseen) for name, plan in plans.items()}
    return Price(points, errors, chains, num_calls, len(molecules))


def measured_steps(last: int, num_points: int) -> np.ndarray:
    """Steps of 0..last, dense at both ends."""
    half = np.geomspace(1, last / 2, (num_points - 1) // 2)
    return np.unique(np.round(np.concatenate([[0], half, last - half, [last]])).astype(int))


def _prices(plan: Plan, snr: np.ndarray, error: np.ndarray, unseen: float) -> tuple[np.ndarray, np.ndarray]:
    """Steps where a step starts, and its price; error [T + 1] of the prediction, `unseen` that of a blind step."""
    pieces = 0.25 * (error[1:] + error[:-1]) * (snr[:-1] - snr[1:])
    integral = np.concatenate([[0.0], np.cumsum(pieces)])  # from step 0 up
    now, after = np.array(plan.steps[:-1]), np.array(plan.steps[1:])
    kept = error[now]
    if plan.blind_start:
        kept[0] = unseen
    return now, 0.5 * (snr[after] - snr[now]) * kept - (integral[now] - integral[after])


def _clean_error(edm: Edm, clean: State, graph: Graph, step: int, generator: torch.Generator) -> float:
    """Squared error of the clean state predicted at a step, mean over molecules."""
    noise = draw_noise(graph, edm.config.num_features, generator=generator)
    noisy = add_noise(clean, noise, edm.log_snr[step].expand(len(graph.batch), 1))
    steps = torch.full((graph.num_molecules,), step)
    predicted = predict_noise(edm.network, noisy, steps, graph, num_steps=edm.config.num_steps)
    return float(squared_error(noise, predicted, graph).mean() * torch.exp(-edm.log_snr[step]))
