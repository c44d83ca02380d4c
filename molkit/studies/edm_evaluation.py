"""The figures of the EDM paper's first tables for any set of molecules, and the bound for any weights."""

from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from molkit.data.packed import read_packed
from molkit.data.qm9 import load_qm9, load_reference_smiles
from molkit.data.registry import load_gschnet
from molkit.edm import likelihood
from molkit.edm.likelihood import BoundTerms
from molkit.edm.model import load
from molkit.edm.published import num_failed_chains, stored_samples
from molkit.errors import InvalidInput
from molkit.metrics.score import Score, score_molecules
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.molecule import PackedMolecules


@dataclass(frozen=True)
class NllResult:
    """The bound on held-back molecules: terms per molecule, mean with its interval in nats, seconds."""

    terms: BoundTerms
    num_atoms: np.ndarray  # [B]
    mean: Interval  # bootstrap over molecules
    draws: int
    seconds: float


def score(molecules: PackedMolecules, *, num_failed: int = 0) -> Score:
    """Stability, validity, uniqueness and novelty (against the SMILES of QM9's training molecules)."""
    return score_molecules(molecules, reference=load_reference_smiles().smiles, num_failed=num_failed)


def score_stored(weights: str | Path, *, limit: int | None = None) -> Score:
    """The same figures of the samples kept with the weights, failed chains counted as failures.

    `limit` takes that many, evenly spread, and then leaves failed chains out.
    """
    molecules = stored_samples(weights)
    if limit is not None and limit < len(molecules):
        return score(spread(molecules, limit))
    return score(molecules, num_failed=num_failed_chains(weights))


def score_data(*, limit: int | None = None) -> Score:
    """The same figures of QM9 itself, all splits; `limit` takes that many molecules evenly."""
    return score(load_qm9(split="all", limit=limit))


def score_gschnet(*, limit: int | None = None) -> Score:
    """The same figures of the 10,000 published G-SchNet samples, or of `limit` spread evenly over the file."""
    molecules = load_gschnet()
    return score(molecules if limit is None else spread(molecules, limit))


def spread(molecules: PackedMolecules, limit: int) -> PackedMolecules:
    """At most `limit` molecules, evenly spread: files may be sorted, so the first ones are no fair sample."""
    if limit >= len(molecules):
        return molecules
    return molecules.select(np.linspace(0, len(molecules) - 1, limit).round().astype(int))


def nll_on_test(weights: str | Path, *, num_molecules: int | None, draws: int = 1, seed: int = 0) -> NllResult:
    """The bound on molecules of the test split, spread evenly over it (None: all of them)."""
    started = perf_counter()
    molecules = load_qm9(split="test", limit=num_molecules)
    terms = likelihood.bound(load(weights), molecules, generator=torch.Generator().manual_seed(seed), draws=draws)
    total = terms.total.numpy()
    return NllResult(terms, molecules.num_atoms, bootstrap_interval(total), draws, seconds=perf_counter() - started)


def evaluate_weights(
    weights: str | Path, *, samples: Path | None = None, nll_molecules: int = 500, draws: int = 1, seed: int = 0
) -> dict[str, Any]:
    """Everything as plain numbers: the score of the samples kept with the weights (or given), and the bound.

    Raises DataNotFound when there are no samples, InvalidInput for samples that are not a packed file.
    """
    if samples is not None and samples.suffix != ".npz":
        raise InvalidInput(f"{samples}: expected a packed .npz of molecules (`molkit score` reads .xyz and .sdf)")
    scored = score_stored(weights) if samples is None else score(read_packed(samples))
    report: dict[str, Any] = {"weights": str(weights), "samples": asdict(scored)}
    if nll_molecules:
        nll = nll_on_test(weights, num_molecules=nll_molecules, draws=draws, seed=seed)
        report["nll_nats"] = asdict(nll.mean) | {"molecules": len(nll.num_atoms), "terms": nll.terms.means()}
    return report
