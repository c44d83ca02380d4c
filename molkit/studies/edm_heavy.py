"""The model without hydrogens: heavy atoms are placed, RDKit fills in the rest."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from molkit.claims.ledger import Measurement
from molkit.claims.store import record
from molkit.data.packed import read_packed
from molkit.data.qm9 import load_qm9
from molkit.data.registry import data_path
from molkit.edm.likelihood import bound
from molkit.edm.model import build, load
from molkit.edm.published import num_failed_chains, stored_samples, training_facts
from molkit.edm.sampling import sample
from molkit.metrics.statistics import Interval, bootstrap_interval, proportion_interval
from molkit.metrics.validity import connectedness, reference_smiles, validity
from molkit.molecule import PackedMolecules

LEAST_OF_A_SIZE = 20  # molecules, for a point of the curve by size


@dataclass(frozen=True)
class HeavyRow:
    """Validity of molecules given by their heavy atoms. Shares in 0..1; failed chains count as invalid."""

    label: str
    num_molecules: int
    num_failed: int
    valid: Interval
    valid_unique: Interval
    one_piece: Interval  # all atoms connected by bonds of the distance rule
    novel: Interval | None  # of the distinct ones; None without the reference
    valid_by_size: dict[int, Interval]  # number of heavy atoms -> valid; sizes with at least LEAST_OF_A_SIZE molecules
    elements: dict[int, float]  # atomic number -> share of the atoms


@dataclass(frozen=True)
class HeavyTable:
    """Data and ours, the model in words, and what was recorded."""

    rows: tuple[HeavyRow, ...]
    passes: int
    num_calls: int | None
    measurements: tuple[Measurement, ...]


def is_for(weights: str | Path) -> bool:
    """Whether the weights place no hydrogens."""
    return 1 not in load(weights, fast=False).config.elements


def heavy_table(
    weights: str,
    *,
    num_data: int | None,
    num_untrained: int = 0,
    with_novelty: bool = False,
    keep: bool = True,
) -> HeavyTable:
    """The stored samples beside held-back heavy atoms of QM9; novelty against the training split (half a minute).

    num_untrained: samples of a network with the weights it starts from, for a row beside. keep: record what the ledger
    asks for.
    """
    facts, ours = training_facts(weights), stored_samples(weights)
    data = load_qm9(split="test", limit=num_data).without_hydrogens()
    known = reference_smiles(load_qm9(split="train").without_hydrogens()) if with_novelty else None
    rows = (
        heavy_row("QM9 itself, heavy atoms of the test split", data, known=known),
        heavy_row("EDM without hydrogens, trained here", ours, known=known, num_failed=num_failed_chains(weights)),
    )
    if num_untrained:
        rows = (untrained_row(weights, num_molecules=num_untrained), *rows)
    return HeavyTable(
        rows,
        facts.passes,
        facts.sample_calls,
        _record(weights, rows[-1]) if keep else (),
    )


def _record(weights: str, row: HeavyRow) -> tuple[Measurement, ...]:
    facts = training_facts(weights)
    return tuple(
        record(
            f"edm.qm9_without_h.edm.{name}",
            100.0 * share.value,
            interval=(100.0 * share.low, 100.0 * share.high),
            interval_kind="Wilson, 95 %",
            n=row.num_molecules,
            counts="molecules",
            basis="trained_here",
            weights=weights,
            training_passes=facts.passes,
            seeds=() if facts.sample_seed is None else (facts.sample_seed,),
            seconds=facts.seconds,
            data_files=[data_path("qm9.npz")],
            notes=f"{facts.sample_calls} network calls a sample; seconds: training",
        )
        for name, share in {"valid": row.valid, "valid_unique": row.valid_unique}.items()
    )


def heavy_row(
    label: str, molecules: PackedMolecules, *, known: frozenset[str] | None = None, num_failed: int = 0
) -> HeavyRow:
    """Score molecules without hydrogens by the distance rule; RDKit adds what is missing to every valence."""
    found = validity(molecules, reference_smiles=known)
    count = len(molecules) + num_failed
    whole = int(connectedness(molecules, rule="qm9").in_one_piece.sum())
    novel = None if found.num_novel is None else proportion_interval(found.num_novel, max(1, found.num_unique))
    return HeavyRow(
        label,
        count,
        num_failed,
        proportion_interval(found.num_valid, count),
        proportion_interval(found.num_unique, count),
        proportion_interval(whole, count),
        novel,
        _by_size(molecules.num_atoms, np.array([smiles is not None for smiles in found.smiles])),
        _shares(molecules.atomic_numbers),
    )


def _by_size(sizes: np.ndarray, flags: np.ndarray) -> dict[int, Interval]:
    counts = {int(size): int((sizes == size).sum()) for size in np.unique(sizes)}
    kept = {size: count for size, count in counts.items() if count >= LEAST_OF_A_SIZE}
    return {size: proportion_interval(int(flags[sizes == size].sum()), count) for size, count in kept.items()}


def untrained_row(weights: str, *, num_molecules: int, num_calls: int = 10, seed: int = 0) -> HeavyRow:
    """What the score makes of a network of the same shape that has learned nothing."""
    edm = build(load(weights, fast=False).config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    sizes = edm.draw_sizes(num_molecules, generator=generator)
    drawn = sample(edm, sizes, generator=generator, num_calls=num_calls)
    return heavy_row("EDM without hydrogens, not trained", drawn.molecules, num_failed=len(drawn.failed))


def heavy_gallery(weights: str, *, num_molecules: int, num_calls: int, seed: int) -> PackedMolecules:
    """Heavy-atom skeletons drawn now."""
    edm = load(weights, precision="auto")
    generator = torch.Generator().manual_seed(seed)
    sizes = edm.draw_sizes(num_molecules, generator=generator)
    return sample(edm, sizes, generator=generator, num_calls=num_calls).molecules


def evaluate_weights(
    weights: str | Path, *, samples: Path | None = None, nll_molecules: int = 500, draws: int = 1, seed: int = 0
) -> dict[str, Any]:
    """Validity of the samples kept with the weights (or given), and the bound on heavy atoms of the test split."""
    molecules = stored_samples(weights) if samples is None else read_packed(samples)
    failed = num_failed_chains(weights) if samples is None else 0
    report = {"weights": str(weights), "samples": asdict(heavy_row("samples", molecules, num_failed=failed))}
    if nll_molecules:
        held_back = load_qm9(split="test", limit=nll_molecules).without_hydrogens()
        terms = bound(load(weights), held_back, generator=torch.Generator().manual_seed(seed), draws=draws)
        mean = bootstrap_interval(terms.total.numpy())
        report["nll_nats"] = asdict(mean) | {"molecules": len(held_back), "terms": terms.means()}
    return report


def _shares(values: np.ndarray) -> dict[int, float]:
    found, counts = np.unique(values, return_counts=True)
    return {int(value): float(count / len(values)) for value, count in zip(found, counts, strict=True)}
