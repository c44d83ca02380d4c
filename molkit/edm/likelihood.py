"""The variational bound on -log p(x, h, M), its terms kept apart, in nats per molecule with positions in angstrom."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from tqdm import tqdm

from molkit.edm.config import EdmConfig, check_context
from molkit.edm.diffusion import (
    HALF_LOG_TWO_PI,
    add_noise,
    degrees_of_freedom,
    draw_noise,
    kl_to_standard,
    predict_noise,
    squared_error,
)
from molkit.edm.features import State, encode, log_prob_atomic_number, log_prob_types
from molkit.edm.model import Edm
from molkit.edm.schedule import alpha, sigma, step_weight
from molkit.errors import InvalidInput
from molkit.graphs import Graph, split_by_pairs
from molkit.molecule import PackedMolecules

UNSEEN = 1e-30


@dataclass(frozen=True)
class BoundTerms:
    """Terms of the bound for every molecule, each [B] float64 in nats; their sum bounds -log p(x, h, M)."""

    size: Tensor  # -log p(M)
    prior: Tensor  # KL(q(z_T | x, h) || N(0, 1))
    diffusion: Tensor  # sum over t = 1..T of L_t, estimated
    positions: Tensor  # -log p(x | z_0)
    types: Tensor  # -log p(types | z_0)
    atomic_number: Tensor  # -log p(Z | z_0)
    volume: Tensor  # -log |det| of the scaling of the positions

    @property
    def total(self) -> Tensor:
        """The bound, [B]."""
        return sum(getattr(self, field.name) for field in fields(self))

    def means(self) -> dict[str, float]:
        """Mean of every term over the molecules."""
        return {field.name: float(getattr(self, field.name).mean()) for field in fields(self)}


def log_prob_size(config: EdmConfig, num_atoms: Tensor) -> Tensor:
    """log p(M) by the training histogram, [B] float64. Raises InvalidInput for a size the histogram lacks."""
    counts = dict(config.sizes)
    total = sum(counts.values())
    missing = sorted({int(size) for size in num_atoms} - set(counts))
    if missing:
        raise InvalidInput(f"{missing[0]} atoms: a size that the model's training histogram does not hold")
    probability = torch.tensor([counts[int(size)] / total + UNSEEN for size in num_atoms], dtype=torch.float64)
    return probability.log()


def prior_term(table: Tensor, clean: State, graph: Graph) -> Tensor:
    """KL of q(z_T | x, h) from the standard normal, [B] float64: positions on the subspace, features in full."""
    last = table[-1].to(clean.positions.device)
    signal, spread = alpha(last), sigma(last)
    num_features = clean.features.shape[1]
    squared = lambda values: graph.sum(values.double().square().sum(-1)) * signal**2  # noqa: E731
    free = degrees_of_freedom(graph).double()
    return kl_to_standard(squared(clean.positions), spread, free) + kl_to_standard(
        squared(clean.features), spread, (graph.num_atoms * num_features).double()
    )


def diffusion_term(
    edm: Edm,
    clean: State,
    graph: Graph,
    *,
    steps: Tensor,
    generator: torch.Generator,
    context: Tensor | None = None,
) -> Tensor:
    """w_t ||noise - predicted||^2 / 2 at the given step 1..T of each molecule, [B] float64."""
    noise = draw_noise(graph, clean.features.shape[1], generator=generator)
    log_snr = edm.log_snr.to(edm.device)[steps][graph.batch].unsqueeze(-1)
    noisy = add_noise(clean, noise, log_snr)
    predicted = predict_noise(edm.network, noisy, steps, graph, num_steps=edm.config.num_steps, context=context)
    weights = step_weight(edm.log_snr).to(edm.device)[steps - 1]
    return 0.5 * weights * squared_error(noise, predicted, graph).double()


def step_probabilities(table: Tensor, *, uniform_share: float) -> Tensor:
    """Probability of drawing step 1..T, [T] float64: a uniform share, the rest half as 1 / t, half as the weight w_t.

    A trained network's terms fall roughly as 1 / t, a useless one's follow w_t; drawing large terms more often, and
    dividing by the probability, estimates the same sum with a far smaller variance. uniform_share = 1 is the paper's
    estimator. Source: derived here.
    """
    weight = step_weight(table)
    inverse = 1.0 / torch.arange(1, len(weight) + 1, dtype=torch.float64)
    guided = 0.5 * inverse / inverse.sum() + 0.5 * weight / weight.sum()
    return uniform_share / len(weight) + (1.0 - uniform_share) * guided


def reconstruction_terms(
    edm: Edm, clean: State, graph: Graph, *, generator: torch.Generator, context: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """-log p(x | z_0), -log p(types | z_0) and -log p(Z | z_0), each [B] float64. Source: EDM, zeroth term."""
    noise = draw_noise(graph, clean.features.shape[1], generator=generator)
    log_snr = edm.log_snr[0].to(edm.device)
    spread_atoms = sigma(log_snr).expand(len(graph.batch), 1)
    noisy = add_noise(clean, noise, log_snr.expand(len(graph.batch), 1))
    at_zero = torch.zeros_like(graph.num_atoms)
    predicted = predict_noise(edm.network, noisy, at_zero, graph, num_steps=edm.config.num_steps, context=context)
    error = graph.sum((noise.positions - predicted.positions).double().square().sum(-1))
    constant = degrees_of_freedom(graph) * (torch.log(sigma(log_snr) / alpha(log_snr)) + HALF_LOG_TWO_PI)
    exact = State(clean.positions.double(), clean.features.double())
    types = -graph.sum(log_prob_types(edm.config, exact, noisy.features.double(), spread_atoms))
    number = -graph.sum(log_prob_atomic_number(edm.config, exact, noisy.features.double(), spread_atoms))
    return 0.5 * error + constant, types, number


@torch.no_grad()
def bound(
    edm: Edm,
    molecules: PackedMolecules,
    *,
    generator: torch.Generator,
    context: Tensor | None = None,
    draws: int = 1,
    uniform_share: float = 0.1,
    pair_budget: int = 20_000,
    progress: bool = False,
) -> BoundTerms:
    """The bound's terms for every molecule [B], in the order given.

    The sum over t is estimated from `draws` drawn steps per molecule, each term divided by the probability of its step
    (`step_probabilities`; uniform_share = 1 is the paper's way, which draws one and averages five passes over the test
    set). With a context [B, C] it is the bound of a conditional model on -log p(x, h, M | c), p(M) taken without c; a
    model that takes properties and is given none answers for "nothing asked". Source: EDM, likelihood section.
    Raises InvalidInput for no molecules, an unknown element, a size outside the histogram or another context.
    """
    if len(molecules) == 0:
        raise InvalidInput("need at least one molecule for a likelihood, got none")
    num_atoms = torch.from_numpy(molecules.num_atoms)
    size = -log_prob_size(edm.config, num_atoms)
    if context is None and edm.config.context_names:
        context = torch.zeros(len(molecules), edm.config.num_context)
    check_context(edm.config, context, len(molecules))
    parts = []
    for rows in tqdm(split_by_pairs(num_atoms, pair_budget), disable=not progress, unit="batch"):
        chosen = molecules.select(rows.numpy())
        graph = Graph.from_sizes(num_atoms[rows]).to(edm.device)
        positions = graph.centre(torch.from_numpy(chosen.positions).float().to(edm.device))
        clean = encode(edm.config, torch.from_numpy(chosen.atomic_numbers).to(edm.device), positions)
        own = None if context is None else context[rows].to(edm.device)[graph.batch]
        options = {"draws": draws, "uniform_share": uniform_share, "generator": generator}
        parts.append(_batch_terms(edm, clean, graph, own, **options))
    columns = [torch.cat([part[k] for part in parts]) for k in range(6)]
    return BoundTerms(size, *columns)


def _batch_terms(
    edm: Edm,
    clean: State,
    graph: Graph,
    context: Tensor | None,
    *,
    draws: int,
    uniform_share: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """prior, diffusion, positions, types, atomic number and volume of one batch, each [B] on the CPU."""
    probabilities = step_probabilities(edm.log_snr, uniform_share=uniform_share)
    total = torch.zeros(graph.num_molecules, dtype=torch.float64, device=edm.device)
    for _ in range(draws):
        drawn = torch.multinomial(probabilities, graph.num_molecules, replacement=True, generator=generator)
        steps = (drawn + 1).to(edm.device)
        term = diffusion_term(edm, clean, graph, steps=steps, generator=generator, context=context)
        total += term / probabilities[drawn].to(edm.device)
    positions, types, number = reconstruction_terms(edm, clean, graph, generator=generator, context=context)
    scale = torch.tensor(edm.config.scale_positions, dtype=torch.float64, device=edm.device)
    terms = (
        prior_term(edm.log_snr, clean, graph),
        total / draws,
        positions,
        types,
        number,
        degrees_of_freedom(graph) * torch.log(scale),
    )
    return tuple(term.double().cpu() for term in terms)
