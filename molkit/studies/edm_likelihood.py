"""The bound taken apart: what the chapter on the likelihood computes."""

from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from molkit.claims.ledger import Measurement
from molkit.claims.store import record
from molkit.data.qm9 import load_qm9
from molkit.data.registry import data_path
from molkit.edm.config import EdmConfig
from molkit.edm.features import encode
from molkit.edm.gaussian import HALF_LOG_TWO_PI
from molkit.edm.likelihood import diffusion_term, log_prob_size
from molkit.edm.model import load
from molkit.edm.published import training_facts
from molkit.edm.schedule import log_snr_table, step_weight
from molkit.graphs import Graph
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.studies.edm_evaluation import NllResult, nll_on_test

TERM_LABELS = {
    "size": "number of atoms, −log p(M)",
    "prior": "prior, KL at t = T",
    "diffusion": "diffusion, sum of L_t over t = 1..T",
    "positions": "reconstruction of positions at t = 0",
    "types": "reconstruction of elements at t = 0",
    "atomic_number": "reconstruction of atomic numbers at t = 0",
    "volume": "volume of the scaling",
}


@dataclass(frozen=True)
class BoundResult:
    """The bound on test molecules, and what was recorded for the ledger."""

    nll: NllResult
    measurements: tuple[Measurement, ...]

    @property
    def terms(self) -> dict[str, Interval]:
        """Mean of every term in nats, with a bootstrap interval over molecules, by its name in words."""
        columns = {name: getattr(self.nll.terms, name).numpy() for name in TERM_LABELS}
        return {TERM_LABELS[name]: bootstrap_interval(values) for name, values in columns.items()}


@dataclass(frozen=True)
class StepCurve:
    """Mean weighted and plain error of test molecules at chosen steps."""

    steps: np.ndarray  # [K]
    weighted: np.ndarray  # [K], L_t in nats per molecule
    weighted_error: np.ndarray  # [K], standard error of the mean
    plain: np.ndarray  # [K], squared error per noise component
    weights: np.ndarray  # [K], w_t
    num_molecules: int


def bound_on_test(weights: str, *, num_molecules: int | None, draws: int, seed: int) -> BoundResult:
    """The bound of test molecules term by term; recorded with the number of molecules it rests on."""
    nll = nll_on_test(weights, num_molecules=num_molecules, draws=draws, seed=seed)
    facts = training_facts(weights)
    measurement = record(
        "edm.qm9.edm.nll",
        nll.mean.value,
        interval=(nll.mean.low, nll.mean.high),
        interval_kind="bootstrap over molecules, 95 %",
        n=len(nll.num_atoms),
        counts="test molecules",
        basis="trained_here",
        weights=weights,
        training_passes=facts.passes,
        seeds=(seed,),
        seconds=facts.seconds + nll.seconds,
        data_files=[data_path("qm9.npz")],
        notes=f"{draws} drawn step{'s' if draws > 1 else ''} t a molecule; seconds: training and evaluation",
    )
    return BoundResult(nll, (measurement,))


@torch.no_grad()
def step_curve(weights: str, *, num_molecules: int, num_steps: int, seed: int) -> StepCurve:
    """L_t at `num_steps` steps spread evenly in log t over 1..T, on the same test molecules at every step."""
    edm = load(weights)
    molecules = load_qm9(split="test", limit=num_molecules)
    graph = Graph.from_sizes(torch.from_numpy(molecules.num_atoms))
    clean = encode(
        edm.config,
        torch.from_numpy(molecules.atomic_numbers),
        graph.centre(torch.from_numpy(molecules.positions).float()),
    )
    last = edm.config.num_steps
    steps = np.unique(np.round(np.geomspace(1, last, num_steps)).astype(int))
    generator = torch.Generator().manual_seed(seed)
    terms = [
        diffusion_term(edm, clean, graph, steps=torch.full((len(molecules),), int(step)), generator=generator).numpy()
        for step in steps
    ]
    w = step_weight(edm.log_snr).numpy()[steps - 1]
    components = float(((3 + edm.config.num_features) * graph.num_atoms).double().mean())
    mean = np.array([term.mean() for term in terms])
    error = np.array([term.std(ddof=1) / np.sqrt(len(term)) for term in terms])
    return StepCurve(steps, mean, error, mean / (0.5 * w * components), w, len(molecules))


def positions_constant(num_atoms: np.ndarray | Tensor) -> np.ndarray:
    """The part of −log p(x | z_0) that no network changes: d(M) (log(sigma_0 / alpha_0) + log(2 pi) / 2), in nats."""
    first = float(log_snr_table(EdmConfig())[0])
    return 3.0 * (np.asarray(num_atoms) - 1) * (-0.5 * first + HALF_LOG_TWO_PI)


def training_loss_floor() -> tuple[float, Measurement]:
    """Entropy of the published size histogram in nats: the floor of a training loss that adds −log p(M)."""
    started = perf_counter()
    config = EdmConfig()
    sizes = torch.tensor([size for size, _ in config.sizes])
    counts = torch.tensor([float(count) for _, count in config.sizes], dtype=torch.float64)
    entropy = float(-(counts / counts.sum() * log_prob_size(config, sizes)).sum())
    measurement = record(
        "edm.qm9.size_entropy",
        entropy,
        interval=None,
        interval_kind="exact",
        n=int(counts.sum()),
        counts="training molecules",
        basis="exact",
        seconds=perf_counter() - started,
    )
    return entropy, measurement
