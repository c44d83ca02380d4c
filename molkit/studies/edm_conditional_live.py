"""Conditional generation seen from nearby: who learned from what, sizes that follow, requests, and the likelihood."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from molkit.data.qm9_labels import NAMES, LabelledMolecules, load_labelled
from molkit.edm.conditions import context_of, read_table
from molkit.edm.farm import sample_many
from molkit.edm.likelihood import bound
from molkit.edm.model import load, resolve
from molkit.edm.property_network import load_property
from molkit.edm.published import training_facts
from molkit.edm.samplers import DEFAULT
from molkit.errors import InvalidInput
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.molecule import PackedMolecules
from molkit.studies.edm_conditional import thinned

PARTS = ("judge", "labeller", "generator", "valid", "test")


@dataclass(frozen=True)
class Roles:
    """Labelled molecules of each part, and what the generator saw beside them."""

    num_labelled: dict[str, int]
    num_generator: int  # molecules behind p(M): with true and with predicted labels
    own_passes: int  # molecule passes with properties, of the generator's own training


@dataclass(frozen=True)
class SizeShift:
    """p(M), and p(M | c) for some requests, over the sizes [S]."""

    sizes: np.ndarray
    plain: np.ndarray
    asked: dict[str, np.ndarray]


@dataclass(frozen=True)
class Request:
    """Molecules drawn for one request, and the six properties the judge finds [B, 6]."""

    conditions: dict[str, float]
    molecules: PackedMolecules
    found: np.ndarray
    num_failed: int


@dataclass(frozen=True)
class ContextBounds:
    """The bound in nats a molecule under each context, and its change against nothing asked, same noise."""

    num_molecules: int
    bounds: dict[str, Interval]
    changes: dict[str, Interval]


def roles(weights: str, *, base: str = "edm_qm9") -> Roles:
    """Counts of the parts. The generator's passes are those after the base's, as far as both cards say."""
    passes = training_facts(weights).passes
    before = training_facts(base).passes
    return Roles(
        {part: len(load_labelled(part).index) for part in PARTS},
        int(read_table(resolve(weights)).counts.sum()),
        passes - before if passes > before else passes,
    )


def size_shift(weights: str, requests: list[dict[str, float]]) -> SizeShift:
    """How the sizes follow from what is asked for. Raises InvalidInput for a request that training never saw."""
    table = read_table(resolve(weights))
    asked = {}
    for conditions in requests:
        found = table.size_weights(conditions)
        asked[in_words(conditions)] = found / found.sum()
    return SizeShift(table.sizes, table.counts / table.counts.sum(), asked)


def requests_of(alpha: float, gap: float) -> list[dict[str, float]]:
    """The page's requests: one property, the other, and both together."""
    return [{"alpha": alpha}, {"gap": gap}, {"alpha": alpha, "gap": gap}]


def answer(
    weights: str, judge: str, requests: list[dict[str, float]], *, count: int, num_calls: int, seed: int
) -> list[Request]:
    """`count` molecules for each request, as `molkit sample --condition` draws them, and what the judge finds."""
    network = load_property(judge)
    answers = []
    for conditions in requests:
        options = {"sampler": DEFAULT.sampler, "conditions": conditions}
        molecules = sample_many(weights, count, seed=seed, num_calls=num_calls, **options)
        if not len(molecules):
            raise InvalidInput(f"none of {count} chains asked for {in_words(conditions)} gave a molecule")
        answers.append(Request(conditions, molecules, network.predict(molecules), count - len(molecules)))
    return answers


def in_words(conditions: Mapping[str, float]) -> str:
    """A request as it is written on the command line."""
    return ", ".join(f"{name} = {value:g}" for name, value in conditions.items())


def contexts(part: LabelledMolecules, *, seed: int) -> dict[str, np.ndarray]:
    """What the model is told of each molecule [B, 6], NaN where nothing: all, alpha alone, another's, nothing."""
    nothing = np.full_like(part.labels, np.nan)
    alone = nothing.copy()
    alone[:, NAMES.index("alpha")] = part.labels[:, NAMES.index("alpha")]
    order = np.random.default_rng(seed).permutation(len(part.index))
    return {"nothing": nothing, "alpha": alone, "all six": part.labels, "another's": part.labels[order]}


def context_bounds(weights: str, *, num_molecules: int, draws: int, seed: int) -> ContextBounds:
    """The bound on -log p(x, h, M | c) of labelled test molecules, told the truth, part of it, or another's labels.

    p(M) is taken without c, as the bound's docstring says; the noise and the steps are the same for every context.
    """
    part = thinned(load_labelled("test"), num_molecules or None)
    edm, totals = load(weights), {}
    for name, values in contexts(part, seed=seed).items():
        told = context_of(edm.config, torch.from_numpy(values))
        generator = torch.Generator().manual_seed(seed)
        terms = bound(edm, part.molecules, generator=generator, context=told, draws=draws)
        totals[name] = terms.total.numpy()
    plain = totals["nothing"]
    changes = {name: bootstrap_interval(total - plain) for name, total in totals.items() if name != "nothing"}
    return ContextBounds(len(part.index), {name: bootstrap_interval(total) for name, total in totals.items()}, changes)
