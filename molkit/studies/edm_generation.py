"""From noise to molecules: what the chapter of that name computes."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

from molkit.claims.ledger import Measurement, find, load_claims
from molkit.claims.store import record
from molkit.data.qm9 import load_qm9
from molkit.data.registry import data_path
from molkit.edm.config import EdmConfig
from molkit.edm.diffusion import add_noise
from molkit.edm.edit_checks import check_sizes
from molkit.edm.features import State, encode
from molkit.edm.gaussian import zero_mean_noise
from molkit.edm.model import build, load
from molkit.edm.published import TrainingFacts, learning_curve, stored_samples, training_facts
from molkit.edm.sampling import sample
from molkit.edm.schedule import alpha, sigma
from molkit.graphs import Graph
from molkit.metrics.distributions import Comparison, bond_angles, bond_lengths, compare_distributions, element_fractions
from molkit.metrics.score import Score
from molkit.metrics.stability import stability
from molkit.metrics.statistics import Interval, proportion_interval
from molkit.molecule import Molecule, PackedMolecules
from molkit.studies import edm_evaluation

DATA_FILES = ("qm9.npz", "qm9_train_smiles_by_distance.txt.gz")


@dataclass(frozen=True)
class Film:
    """One molecule on its way out of the noise."""

    steps: tuple[int, ...]
    frames: tuple[np.ndarray, ...]  # each [A, 3], angstrom
    molecule: Molecule  # the last frame, with the elements decided there
    sigma: tuple[float, ...]  # noise amplitude at each step


@dataclass(frozen=True)
class LiveSamples:
    """Molecules drawn while the page is made."""

    molecules: PackedMolecules
    requested: int
    num_calls: int
    seconds: float
    stable: np.ndarray  # [B] bool, EDM's rule


@dataclass(frozen=True)
class TableRow:
    """A row of the stability table: published numbers, or a score of ours with the number of molecules."""

    label: str
    score: Score | None
    published: dict[str, float]  # per cent, by column


@dataclass(frozen=True)
class StabilityTable:
    """Paper, data and ours side by side, our model in words, and what was recorded for the ledger."""

    rows: tuple[TableRow, ...]
    model: str
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True)
class SizeCurve:
    """Share of stable molecules by number of atoms, with intervals."""

    sizes: tuple[int, ...]
    shares: tuple[Interval, ...]
    counts: tuple[int, ...]


def noised_copies(weights: str, *, row: int, steps: Sequence[int], seed: int) -> list[Molecule]:
    """A QM9 test molecule at several steps of the forward process (positions of z_t / alpha_t), for a picture."""
    edm = load(weights)
    molecule = load_qm9(split="test")[row].centred()
    graph = Graph.from_sizes(torch.tensor([molecule.num_atoms]))
    clean = encode(edm.config, torch.from_numpy(molecule.atomic_numbers), torch.from_numpy(molecule.positions))
    generator = torch.Generator().manual_seed(seed)
    noise = State(zero_mean_noise(graph, generator=generator, dtype=torch.float64), torch.zeros_like(clean.features))
    copies = []
    for step in steps:
        log_snr = edm.log_snr[step].expand(molecule.num_atoms, 1)
        copies.append(molecule.with_positions(add_noise(clean, noise, log_snr).positions.numpy()))
    return copies


def schedule_curves(weights: str) -> dict[str, np.ndarray]:
    """t, alpha and sigma of the model's noise schedule, [T + 1] each."""
    table = load(weights).log_snr
    return {"t": np.linspace(0.0, 1.0, len(table)), "alpha": alpha(table).numpy(), "sigma": sigma(table).numpy()}


def equivariance_error(weights: str, *, num_atoms: int = 19, seed: int = 0) -> float:
    """Largest change of the predicted noise when the input is turned and mirrored, over its largest entry (float64)."""
    edm = load(weights, fast=False)
    network = edm.network.double()
    generator = torch.Generator().manual_seed(seed)
    graph = Graph.from_sizes(torch.tensor([num_atoms]))
    positions = zero_mean_noise(graph, generator=generator, dtype=torch.float64)
    features = torch.randn(num_atoms, edm.config.num_features, generator=generator, dtype=torch.float64)
    t = torch.full((num_atoms, 1), 0.5, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    with torch.no_grad():
        plain, _ = network(features, positions, t, graph.edge_index, graph.batch, 1)
        turned, _ = network(features, positions @ turn.T, t, graph.edge_index, graph.batch, 1)
    return float((turned - plain @ turn.T).abs().max() / plain.abs().max())


def film(weights: str, *, num_atoms: int, num_calls: int, num_frames: int, seed: int) -> Film:
    """One trajectory from noise to a molecule of `num_atoms` atoms, in `num_frames` steps of the film.

    Raises InvalidInput for a size that the training data do not hold.
    """
    edm = load(weights, precision="auto")
    check_sizes(edm, torch.tensor([num_atoms]))
    generator = torch.Generator().manual_seed(seed)
    result = sample(edm, torch.tensor([num_atoms]), generator=generator, num_calls=num_calls, keep_frames=num_frames)
    molecule = result.molecules[0]
    steps = tuple(frame.step for frame in result.frames)
    frames = tuple(frame.positions for frame in result.frames) + (molecule.positions,)
    return Film(steps, frames, molecule, tuple(float(sigma(edm.log_snr[step])) for step in steps))


def live_samples(weights: str, *, num_molecules: int, num_calls: int, seed: int) -> LiveSamples:
    """Sizes from the training histogram, molecules from noise, now."""
    started = perf_counter()
    edm = load(weights, precision="auto")
    generator = torch.Generator().manual_seed(seed)
    sizes = edm.draw_sizes(num_molecules, generator=generator)
    result = sample(edm, sizes, generator=generator, num_calls=num_calls)
    stable = stability(result.molecules).molecule_stable
    return LiveSamples(result.molecules, num_molecules, result.num_calls, perf_counter() - started, stable)


def stability_table(weights: str, live: LiveSamples, *, num_data: int | None, seed: int) -> StabilityTable:
    """The paper's rows, the data, G-SchNet's published samples and our model's, scored by one and the same code.

    `num_data` takes that many QM9 molecules and G-SchNet samples (None: all). Only whole sets are recorded.
    """
    facts = training_facts(weights)
    timed = []
    for scorer in (
        lambda: edm_evaluation.score_data(limit=num_data),
        lambda: edm_evaluation.score_gschnet(limit=num_data),
        lambda: edm_evaluation.score_stored(weights, limit=num_data),
    ):
        started = perf_counter()
        timed.append((scorer(), perf_counter() - started))
    (data, data_seconds), (gschnet, gschnet_seconds), (ours, ours_seconds) = timed
    kept = f"stored samples, {facts.sample_calls} network calls each"
    rows = (
        TableRow("EDM, published", None, {"atoms": 98.7, "molecules": 82.0, "valid": 91.9, "unique": 90.7}),
        TableRow("QM9, published", None, {"atoms": 99.0, "molecules": 95.2, "valid": 97.7, "unique": 97.7}),
        TableRow("QM9, our copy (H, C, N, O)", data, {}),
        TableRow("G-SchNet, published", None, {"atoms": 95.7, "molecules": 68.1, "valid": 85.5, "unique": 80.3}),
        TableRow("G-SchNet, its published samples scored here", gschnet, {}),
        TableRow(f"EDM, trained here ({kept})", ours, {}),
        TableRow(f"EDM, trained here (drawn for this page, {live.num_calls} calls)", _live_score(live), {}),
    )
    measurements = [
        *_record("data", data, basis="published_data", seconds=data_seconds),
        *_record("gschnet", gschnet, basis="published_samples", seconds=gschnet_seconds),
        *_record(
            "edm",
            ours,
            basis="trained_here",
            seconds=facts.seconds + ours_seconds,
            weights=weights,
            facts=facts,
            novelty=True,
        ),
        ratio_to_enf(ours, weights, facts),
    ]
    return StabilityTable(rows, model_in_words(weights), tuple(measurements))


def _live_score(live: LiveSamples) -> Score:
    return edm_evaluation.score(live.molecules)


def model_in_words(weights: str) -> str:
    """Size and training of published weights in words."""
    edm, facts = load(weights), training_facts(weights)
    count = sum(parameter.numel() for parameter in edm.network.parameters())
    processes = f"{facts.processes} process" + ("es" if facts.processes > 1 else "")
    return (
        f"{edm.config.num_layers} layers of width {edm.config.width}, {count:,} parameters, trained for "
        f"{facts.passes / 1e6:.2f} million molecule passes ({facts.epochs:.1f} epochs) in "
        f"{facts.seconds / 3600:.1f} hours on {processes}, {facts.device}"
    )


def ratio_to_enf(ours: Score, weights: str, facts: TrainingFacts) -> Measurement:
    """Our share of stable molecules over the published one of E-NF, recorded for the claim in words."""
    published = find(load_claims(study="edm"), "edm.qm9.enf.molecule_stable").value
    ratio = ours.molecule_stability.scaled(100.0 / published)
    return record(
        "edm.words.ratio_to_enf",
        ratio.value,
        interval=(ratio.low, ratio.high),
        interval_kind="Wilson, 95 %; the published share taken as exact",
        n=ours.num_molecules,
        counts="molecules",
        basis="trained_here",
        weights=weights,
        training_passes=facts.passes,
        seconds=facts.seconds,
        notes="seconds: training, the sampling not included",
    )


@dataclass(frozen=True)
class ModelFacts:
    """Counts of the paper's model that follow from its configuration."""

    num_parameters: int
    num_calls: int
    measurements: tuple[Measurement, ...]


def model_facts() -> ModelFacts:
    """Parameters of the paper's QM9 network, and network calls of one batch of full chains, counted as they happen."""
    started = perf_counter()
    num_parameters = sum(parameter.numel() for parameter in build(EdmConfig()).network.parameters())
    tiny = build(EdmConfig(width=16, num_layers=1))
    calls: list[int] = []
    tiny.network.register_forward_hook(lambda *_: calls.append(1))
    sample(tiny, torch.tensor([3, 3]), generator=torch.Generator().manual_seed(0))
    counts = {
        "edm.model.num_parameters": (num_parameters, "networks"),
        "edm.cost.network_calls": (len(calls), "batches"),
    }
    measurements = tuple(
        record(
            claim,
            value,
            interval=None,
            interval_kind="exact",
            n=1,
            counts=counted,
            basis="exact",
            seconds=perf_counter() - started,
        )
        for claim, (value, counted) in counts.items()
    )
    return ModelFacts(num_parameters, len(calls), measurements)


def _record(
    row: str,
    score: Score,
    *,
    basis: str,
    seconds: float,
    weights: str | None = None,
    facts: TrainingFacts | None = None,
    novelty: bool = False,
) -> list[Measurement]:
    """One measurement for each column of a row, in per cent."""
    columns = {
        "atom_stable": (score.atom_stability, "bootstrap over molecules, 95 %"),
        "molecule_stable": (score.molecule_stability, "Wilson, 95 %"),
        "valid": (score.validity, "Wilson, 95 %"),
        "valid_unique": (score.valid_and_unique, "Wilson, 95 %"),
    }
    if novelty and score.novelty is not None:
        columns["novel"] = (score.novelty, "Wilson, 95 %")
        columns["valid_unique_novel"] = (score.valid_unique_novel, "Wilson, 95 %")
    measurements = []
    for column, (interval, kind) in columns.items():
        percent = interval.scaled(100.0)
        measurements.append(
            record(
                f"edm.qm9.{row}.{column}",
                percent.value,
                interval=(percent.low, percent.high),
                interval_kind=kind,
                n=score.num_molecules,
                counts="molecules",
                basis=basis,
                weights=weights,
                training_passes=facts.passes if facts else None,
                seeds=(facts.sample_seed,) if facts and facts.sample_seed is not None else (),
                seconds=seconds,
                notes=f"{facts.sample_calls} network calls a sample (the paper: 1,001); seconds: training and scoring, "
                "the sampling not included"
                if facts
                else "",
                data_files=[data_path(name) for name in DATA_FILES],
            )
        )
    return measurements


def stability_by_size(molecules: PackedMolecules, *, min_count: int = 20) -> SizeCurve:
    """Share of stable molecules for every number of atoms that occurs at least `min_count` times."""
    flags = stability(molecules).molecule_stable
    sizes, counts = np.unique(molecules.num_atoms, return_counts=True)
    kept = [(int(size), int(count)) for size, count in zip(sizes, counts, strict=True) if count >= min_count]
    shares = tuple(proportion_interval(int(flags[molecules.num_atoms == size].sum()), count) for size, count in kept)
    return SizeCurve(tuple(size for size, _ in kept), shares, tuple(count for _, count in kept))


def size_curves(weights: str, *, num_data: int | None) -> dict[str, SizeCurve]:
    """Stability by size of the data and of the stored samples."""
    return {
        "QM9": stability_by_size(load_qm9(split="all", limit=num_data)),
        "EDM, trained here": stability_by_size(stored_samples(weights)),
    }


@dataclass(frozen=True)
class Shapes:
    """Composition, bond lengths and angles of samples beside the data's."""

    elements: dict[str, dict[str, float]]  # source -> symbol -> share
    lengths: dict[str, tuple[np.ndarray, np.ndarray]]  # kind -> samples, data (angstrom)
    angles: dict[str, tuple[np.ndarray, np.ndarray]]  # kind -> samples, data (degree)
    comparisons: tuple[Comparison, ...]
    num_samples: int
    num_data: int


def shapes(weights: str, *, num_data: int | None, kinds: int = 4) -> Shapes:
    """Geometry of the stored samples against QM9's test split, the commonest kinds of the data first."""
    ours, data = stored_samples(weights), load_qm9(split="test", limit=num_data)
    ours_lengths, data_lengths = bond_lengths(ours), bond_lengths(data)
    ours_angles, data_angles = bond_angles(ours), bond_angles(data)
    nothing = np.zeros(0)
    return Shapes(
        {"QM9": element_fractions(data), "EDM, trained here": element_fractions(ours)},
        {kind: (ours_lengths.get(kind, nothing), data_lengths[kind]) for kind in list(data_lengths)[:kinds]},
        {kind: (ours_angles.get(kind, nothing), data_angles[kind]) for kind in list(data_angles)[:kinds]},
        tuple(compare_distributions(ours, data)),
        len(ours),
        len(data),
    )


def curve(weights: str) -> dict[str, np.ndarray]:
    """Learning curve: molecule passes and mean squared error per noise component."""
    lines = learning_curve(weights)
    return {
        "passes": np.array([line["passes"] for line in lines], dtype=float),
        "noise_error": np.array([line["noise_error"] for line in lines], dtype=float),
    }
