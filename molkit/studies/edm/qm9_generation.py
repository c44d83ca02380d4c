"""From noise to molecules: scores of published sets, counts of the paper's model, and pictures of what is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from molkit.chem.rdkit_tools import without_fluorine
from molkit.claims.ledger import Measurement, find, load_claims
from molkit.claims.record import record
from molkit.data.qm9 import load_qm9, load_reference_smiles, qm9_index, qm9_properties, qm9_smiles
from molkit.data.registry import data_path, load_gschnet
from molkit.edm.config import EdmConfig
from molkit.edm.diffusion import add_noise, zero_mean_noise
from molkit.edm.editing import check_sizes
from molkit.edm.features import State, encode
from molkit.edm.model import build, load
from molkit.edm.published import learning_curve, training_facts
from molkit.edm.sampling import sample
from molkit.edm.schedule import alpha, sigma
from molkit.errors import DataNotFound
from molkit.experiments.experiment import asked
from molkit.experiments.show import Column
from molkit.figures import plots, style
from molkit.figures.view3d import show_grid, show_trajectory
from molkit.graphs import Graph
from molkit.metrics.distributions import bond_angles, bond_lengths, compare_distributions, element_fractions
from molkit.metrics.score import score_molecules
from molkit.metrics.stability import stability
from molkit.metrics.statistics import Interval, proportion_interval
from molkit.metrics.validity import validity
from molkit.molecule import Molecule, PackedMolecules
from molkit.studies.edm import chains

if TYPE_CHECKING:
    from IPython.display import HTML

DATA, OURS = "QM9", "EDM, trained here"
COLOURS = {DATA: style.DATA_COLOUR, OURS: style.MODEL_COLOUR}
CLAIMED = {  # column -> the last word of the claims about it
    "atoms": "atom_stable",
    "molecules": "molecule_stable",
    "valid": "valid",
    "valid_unique": "valid_unique",
    "novel": "novel",
    "novel_of_all": "valid_unique_novel",
}
TABLE = {"label": ""} | {name: head for name, head in chains.QUALITY.items() if name not in ("sampler", "num_calls")}
DISTANCES = {"quantity": "quantity", "kind": "kind", "distance": Column("distance to QM9 test", 4), "unit": "unit"}
FLUORINE = {
    "set": "",
    "atoms": Column("stable atoms, %", 2, 100),
    "molecules": Column("stable molecules, %", 1, 100),
    "valid": Column("valid, %", 1, 100),
}
BESIDE = {
    "EDM, as printed": style.PAPER_COLOUR,
    "QM9's test split": style.DATA_COLOUR,
    "the paper's model, trained here": style.SKY,
    "the extension, trained here": style.MODEL_COLOUR,
}
SHORT = {"atoms": "stable atoms", "molecules": "stable molecules", "valid": "valid", "valid_unique": "valid and unique"}
AIMS = {"what": "", "aim": "aim", "measured": "measured", "verdict": ""}
PUBLISHED_MOLECULES = 130_831  # QM9 without the 3,054 uncharacterised ones

# ---- published sets of molecules, scored ----

Published = Literal["QM9", "QM9 test", "G-SchNet"]


@dataclass(frozen=True)
class Task:
    """A set of molecules that others have published; `limit` of them, spread evenly, 0 for all."""

    data: Published
    limit: int

    @property
    def files(self) -> list[Path]:
        """The set, and the SMILES that novelty is counted against."""
        named = "gschnet_samples.npz" if self.data == "G-SchNet" else "qm9.npz"
        return [data_path(named), data_path("qm9_train_smiles_by_distance.txt.gz")]


@asked
def tasks(*, limit: int = 0) -> list[Task]:
    """QM9, its test split and G-SchNet's published samples."""
    return [Task(data, limit) for data in ("QM9", "QM9 test", "G-SchNet")]


def measure(task: Task) -> list[dict]:
    """One row: the number of molecules, and each share of the paper's tables with its 95 % interval."""
    found = score_molecules(published_set(task.data, task.limit or None), reference=load_reference_smiles().smiles)
    shares = {
        "atoms": found.atom_stability,
        "molecules": found.molecule_stability,
        "valid": found.validity,
        "valid_unique": found.valid_and_unique,
        "novel": found.novelty,
        "novel_of_all": found.valid_unique_novel,
    }
    return [{"n": found.num_molecules} | {name: [one.value, one.low, one.high] for name, one in shares.items()}]


def published_set(name: Published, limit: int | None) -> PackedMolecules:
    """The molecules, or `limit` of them, spread evenly: files may be sorted, so the first ones are no fair sample."""
    if name != "G-SchNet":
        return load_qm9(split="all" if name == "QM9" else "test", limit=limit)
    molecules = load_gschnet()
    rows = np.linspace(0, len(molecules) - 1, min(limit or len(molecules), len(molecules)))
    return molecules.select(rows.round().astype(int))


def scores(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with their shares as intervals."""
    return rows.assign(**{name: [Interval(*one) for one in rows[name]] for name in CLAIMED})


def side_by_side(scored: pd.DataFrame, *drawn: pd.DataFrame) -> pd.DataFrame:
    """What was printed, what the published sets score here, and the arms drawn here, under one label."""
    claims = load_claims(study="edm")
    kept = list(CLAIMED)[:4]
    printed = [
        {"label": f"{label}, printed"}
        | {name: find(claims, f"edm.qm9.{row}.{CLAIMED[name]}").value / 100 for name in kept}
        for label, row in (("EDM", "edm"), ("QM9", "data"), ("G-SchNet", "gschnet"))
    ]
    here = scored.assign(label=[f"{name}, scored here" for name in scored["data"]])
    ours = [one.assign(label=[f"{w}, {s}, {c} calls" for w, s, c in one[chains.ARM].to_numpy()]) for one in drawn]
    return pd.concat([pd.DataFrame(printed), here, *ours], ignore_index=True).reindex(columns=list(TABLE))


def record_shares(
    prefix: str, line: Mapping[str, Any], rows: pd.DataFrame, *, basis: str, weights: str | None = None, notes: str = ""
) -> list[Measurement]:
    """Record every share of one line of a table for which there is a claim, in per cent."""
    claims = load_claims(study="edm")
    passes = training_facts(weights).passes if weights else None
    told = {"n": int(line["n"]), "basis": basis, "weights": weights, "training_passes": passes, "notes": notes}
    named = {f"{prefix}.{claim}": line[name] for name, claim in CLAIMED.items() if f"{prefix}.{claim}" in claims}
    kinds = {True: "bootstrap over molecules, 95 %", False: "Wilson, 95 %"}
    return [
        record(claim, found.scaled(100.0), rows, interval_kind=kinds[claim.endswith("atom_stable")], **told)
        for claim, found in named.items()
    ]


def record_ratio(line: Mapping[str, Any], rows: pd.DataFrame, *, weights: str) -> Measurement:
    """Record our share of stable molecules over the published one of E-NF, for the claim in words."""
    published = find(load_claims(study="edm"), "edm.qm9.enf.molecule_stable").value
    kind = "Wilson, 95 %; the published share taken as exact"
    told = {"n": int(line["n"]), "basis": "trained_here", "weights": weights, "interval_kind": kind}
    passes = training_facts(weights).passes
    return record(
        "edm.words.ratio_to_enf", line["molecules"].scaled(100.0 / published), rows, training_passes=passes, **told
    )


def aims(best: Mapping[str, Any], chain: Mapping[str, Any]) -> pd.DataFrame:
    """The bars set beforehand for an arm of at most 100 calls, and for the paper's chain, beside what was measured."""
    bars = (
        ("stable molecules, lower limit", "molecules", best["molecules"].low, 0.85),
        ("stable atoms", "atoms", best["atoms"].value, 0.987),
        ("valid and unique", "valid_unique", best["valid_unique"].value, 0.91),
        ("the paper's chain, stable molecules", "molecules", chain["molecules"].value, 0.70),
    )
    lines = [
        (what, f"{100 * bar:.1f} %", f"{100 * found:.1f} %", "met" if found >= bar else "not met")
        for what, _, found, bar in bars
    ]
    seconds = 1000.0 * best["seconds"]
    lines.append(("CPU of 1,000 molecules", "100 s", f"{seconds:.0f} s", "met" if seconds <= 100.0 else "not met"))
    return pd.DataFrame(lines, columns=list(AIMS))


# ---- the paper's model, counted ----


@dataclass(frozen=True)
class ModelTask:
    """The paper's network and the chain of one batch."""

    batch: int = 2


@asked
def tasks_model() -> list[ModelTask]:
    """One task."""
    return [ModelTask()]


def measure_model(task: ModelTask) -> list[dict]:
    """Parameters of the paper's QM9 network, and network calls of one batch of full chains, counted as they happen."""
    tiny, calls = build(EdmConfig(width=16, num_layers=1)), []
    tiny.network.register_forward_hook(lambda *_: calls.append(1))
    sample(tiny, torch.full((task.batch,), 3), generator=torch.Generator().manual_seed(0))
    parameters = sum(parameter.numel() for parameter in build(EdmConfig()).network.parameters())
    return [{"parameters": parameters, "calls": len(calls)}]


def record_model(rows: pd.DataFrame) -> list[Measurement]:
    """Record both counts."""
    claims = {"edm.model.num_parameters": "parameters", "edm.cost.network_calls": "calls"}
    return [record(claim, int(rows[name].iloc[0]), rows, n=1, basis="exact") for claim, name in claims.items()]


# ---- why our row of QM9 differs from the paper's ----


@dataclass(frozen=True)
class FluorineTask:
    """Molecules with fluorine that the packed QM9 lacks, and how many molecules are asked for validity (0: all)."""

    limit: int

    @property
    def files(self) -> list[Path]:
        """The packed set."""
        return [data_path("qm9.npz")]


@asked
def tasks_fluorine(*, limit: int = 20_000) -> list[FluorineTask]:
    """One task."""
    return [FluorineTask(limit)]


def measure_fluorine(task: FluorineTask) -> list[dict]:
    """Shares of the packed set, of the hydrogen analogues of fluorine molecules, and estimates for the whole of QM9.

    The packed QM9 has no molecule with fluorine. Those of a random extract whose SMILES are known are given the
    stability and validity of their analogue with hydrogen for fluorine, which is in the packed set; all 2,087 missing
    molecules are treated so (208 of 222 are, in the extract). Raises DataNotFound where no analogue is there.
    """
    molecules = load_qm9(split="all")
    kept, missing = stability(molecules), PUBLISHED_MOLECULES - len(molecules)
    fluorine = missing_fluorine_smiles()
    rows = analogues(fluorine)
    if len(rows) == 0:
        raise DataNotFound("no hydrogen analogue of a fluorine molecule is in the packed QM9; run `molkit data verify`")
    packed = validity(load_qm9(split="all", limit=task.limit or None), reference_smiles=None).validity
    found = {
        "our copy, without fluorine": (kept.stable_atoms, kept.num_atoms, kept.molecule_stable, packed),
        "the analogues alone": (
            kept.stable_atoms[rows],
            kept.num_atoms[rows],
            kept.molecule_stable[rows],
            validity(molecules.select(rows), reference_smiles=None).validity,
        ),
    }
    lines = [
        {
            "set": name,
            "n": len(sizes),
            "atoms": atoms.sum() / sizes.sum(),
            "molecules": flags.mean(),
            "valid": valid,
            "atoms_each": sizes.mean(),
        }
        for name, (atoms, sizes, flags, valid) in found.items()
    ]
    weights = np.array([len(molecules), missing]) / PUBLISHED_MOLECULES
    each = weights * [line["atoms_each"] for line in lines]
    whole = {name: float(weights @ [line[name] for line in lines]) for name in ("molecules", "valid")}
    whole |= {"atoms": float(each @ [line["atoms"] for line in lines] / each.sum()), "n": len(fluorine)}
    return [*lines, {"set": "whole of QM9, estimated", "atoms_each": float(each.sum())} | whole]


def fluorine_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The paper's row and ours; the analogues' interval, which that of the estimate follows from."""
    packed, alone, whole = rows.to_dict("records")
    share = proportion_interval(round(alone["molecules"] * alone["n"]), alone["n"])
    weight = 1.0 - packed["n"] / PUBLISHED_MOLECULES
    ends = [packed["molecules"] * (1.0 - weight) + weight * end for end in (share.value, share.low, share.high)]
    printed = {"set": "published, whole of QM9", "atoms": 0.990, "molecules": 0.952, "valid": 0.977}
    return pd.DataFrame(
        [printed, packed, alone | {"molecules": share, "valid": None}, whole | {"molecules": Interval(*ends)}]
    )


def missing_fluorine_smiles() -> list[str]:
    """SMILES of the characterised fluorine molecules of the property extract, none of which has coordinates here."""
    table = qm9_properties()
    rows = zip(table["smiles"].tolist(), table["has_geometry"].tolist(), table["split"].tolist(), strict=True)
    return [smiles for smiles, has, split in rows if "F" in smiles and not has and split != "uncharacterized"]


def analogues(fluorine: Sequence[str]) -> np.ndarray:
    """Rows of the packed set that hold the molecules with hydrogen for fluorine, of those that are there."""
    row_of_number = {number: row for row, number in enumerate(qm9_index(split="all").tolist())}
    number_of_smiles: dict[str, int] = {}
    for number, smiles in qm9_smiles().items():
        number_of_smiles.setdefault(smiles, number)
    plain = [without_fluorine(smiles) for smiles in fluorine]
    return np.array([row_of_number[number_of_smiles[one]] for one in plain if one in number_of_smiles], dtype=int)


# ---- pictures ----


def draw_beside(scored: pd.DataFrame, claimed: pd.DataFrame, best: pd.DataFrame, *, caption: str) -> Figure:
    """The paper's shares, the data's own, and those of the claimed arm and of the best arm of the extension."""
    frame = side_by_side(scored, claimed, best).iloc[[0, 4, 6, 7]].assign(label=list(BESIDE))
    columns = {name: Column(head, factor=100.0) for name, head in SHORT.items()}
    return plots.bars(frame, "label", columns, colours=BESIDE, ylabel="share (%)", caption=caption)


def draw_schedule(weights: str) -> Figure:
    """Signal and noise amplitude along the chain."""
    table = load(weights).log_snr
    t = np.linspace(0.0, 1.0, len(table))
    with style.panels(width=6.0, height=2.8, caption="Amplitudes of the schedule; nothing random.") as (
        figure,
        (axis,),
    ):
        axis.plot(t, alpha(table).numpy(), color=style.MODEL_COLOUR, label="signal α")
        axis.plot(t, sigma(table).numpy(), color=style.ORANGE, label="noise σ")
        axis.set(xlabel="time t = step / T", ylabel="amplitude", xlim=(0, 1), ylim=(0, 1.02))
        style.legend_above(axis)
    return figure


def noised_copies(weights: str, *, row: int, steps: Sequence[int], seed: int) -> list[Molecule]:
    """A QM9 test molecule at several steps of the forward process (positions of z_t / alpha_t), for a picture."""
    edm = load(weights)
    molecule = load_qm9(split="test")[row].centred()
    graph = Graph.from_sizes(torch.tensor([molecule.num_atoms]))
    clean = encode(edm.config, torch.from_numpy(molecule.atomic_numbers), torch.from_numpy(molecule.positions))
    generator = torch.Generator().manual_seed(seed)
    noise = State(zero_mean_noise(graph, generator=generator, dtype=torch.float64), torch.zeros_like(clean.features))
    table = edm.log_snr[list(steps)].expand(molecule.num_atoms, -1).T.unsqueeze(-1)
    return [molecule.with_positions(add_noise(clean, noise, log_snr).positions.numpy()) for log_snr in table]


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


def film(weights: str, *, num_atoms: int, num_calls: int, num_frames: int, seed: int) -> "HTML":
    """A chain from noise to a molecule; the elements are those of the last frame.

    Raises InvalidInput for a size that the training data do not hold.
    """
    edm = load(weights, precision="auto")
    check_sizes(edm, torch.tensor([num_atoms]))
    generator = torch.Generator().manual_seed(seed)
    found = sample(edm, torch.tensor([num_atoms]), generator=generator, num_calls=num_calls, keep_frames=num_frames)
    molecule = found.molecules[0]
    frames = (*(frame.positions for frame in found.frames), molecule.positions)
    caption = (
        f"One chain from noise to {molecule.formula}, {len(frames)} frames. "
        "Elements are coloured as they are decided at the end."
    )
    return show_trajectory(frames, molecule.atomic_numbers, caption=caption)


def gallery(rows: pd.DataFrame, *, count: int = 12) -> "HTML":
    """The first molecules of the rows, stable or not."""
    first = rows.dropna(subset=["positions"]).head(count)
    shown = list(chains.molecules_of(first))
    caption = (
        f"The first {len(shown)} of {len(rows):,} molecules, in the order they came; "
        f"{int(first['stable'].sum())} of these {len(shown)} are stable by EDM's rule."
    )
    return show_grid(shown, caption=caption)


def by_size(num_atoms: Sequence[int], stable: Sequence[bool], *, min_count: int = 20) -> pd.DataFrame:
    """Share of stable molecules for every number of atoms that occurs at least `min_count` times."""
    flags = pd.Series(np.asarray(stable, dtype=bool)).groupby(np.asarray(num_atoms))
    return pd.DataFrame(
        [{"size": size, "share": chains.share(one)} for size, one in flags if len(one) >= min_count],
        columns=["size", "share"],
    )


def draw_by_size(rows: pd.DataFrame, data: PackedMolecules, *, min_count: int = 20, printed: float = 82.0) -> Figure:
    """Share of stable molecules against the number of atoms, with 95 % intervals."""
    found = {
        DATA: by_size(data.num_atoms, stability(data).molecule_stable, min_count=min_count),
        OURS: by_size(rows["num_atoms"], rows["stable"], min_count=min_count),
    }
    caption = (
        f"Stable by EDM's rule, Wilson 95 % intervals; sizes with at least {min_count} molecules, of {len(data):,} of "
        f"QM9's test split and {len(rows):,} drawn."
    )
    with style.panels(width=7.0, height=3.4, caption=caption) as (figure, (axis,)):
        for label, curve in found.items():
            if len(curve):
                chains.draw_shares(axis, curve["size"], curve["share"], color=COLOURS[label], lw=1.2, ms=4, label=label)
        axis.axhline(printed, color=style.PAPER_COLOUR, ls="--", lw=1.2, label="EDM, printed (all sizes)")
        axis.set(xlabel="number of atoms M", ylabel="stable molecules (%)", ylim=(0, 102))
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def draw_composition(samples: PackedMolecules, data: PackedMolecules) -> Figure:
    """Share of each element among all atoms."""
    shares = {DATA: element_fractions(data), OURS: element_fractions(samples)}
    symbols = list(dict.fromkeys([*shares[DATA], *shares[OURS]]))
    caption = f"Shares among all atoms: {len(data):,} molecules of QM9's test split, {len(samples):,} drawn."
    with style.panels(width=6.0, height=2.8, caption=caption) as (figure, (axis,)):
        for k, (label, share) in enumerate(shares.items()):
            heights = [100.0 * share.get(symbol, 0.0) for symbol in symbols]
            axis.bar(np.arange(len(symbols)) + 0.4 * k - 0.2, heights, 0.38, color=COLOURS[label], label=label)
        axis.set_xticks(range(len(symbols)), symbols)
        axis.set(xlabel="element", ylabel="share of atoms (%)")
        style.legend_above(axis)
    return figure


def draw_geometry(samples: PackedMolecules, data: PackedMolecules, *, kinds: int = 4) -> Figure:
    """Distributions of the commonest bond lengths and angles, data against samples."""
    caption = (
        f"The commonest bonds and angles, by the distance rule, of {len(data):,} molecules of QM9's test split and "
        f"{len(samples):,} drawn."
    )
    with style.panels(kinds, 2, width=2.3 * kinds, height=2.2, caption=caption) as (figure, axes):
        for k, (values, unit) in enumerate(((bond_lengths, "length (Å)"), (bond_angles, "angle (°)"))):
            truth, ours = values(data), values(samples)
            for axis, kind in zip(axes[kinds * k :], list(truth)[:kinds], strict=False):
                _densities(axis, ours.get(kind, np.zeros(0)), truth[kind])
                axis.set_title(kind, fontsize=10)
                axis.set(xlabel=unit, yticks=[])
        axes[kinds - 1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return figure


def _densities(axis: Axes, ours: np.ndarray, data: np.ndarray) -> None:
    low, high = np.percentile(data, [0.05, 99.95])
    bins = np.linspace(low - 0.25 * (high - low), high + 0.25 * (high - low), 90)
    axis.hist(data, bins, density=True, color="#c9ced3", label="QM9 test")
    if len(ours):
        axis.hist(ours, bins, density=True, histtype="step", color=style.MODEL_COLOUR, lw=1.4, label="drawn")


def distances(samples: PackedMolecules, data: PackedMolecules, *, count: int = 12) -> pd.DataFrame:
    """Composition, sizes and the commonest bonds and angles: how far the samples are from the data."""
    composed, *kinds = compare_distributions(samples, data)
    known = [composed, kinds[0], *[one for one in kinds[1:] if one.distance is not None][:count]]
    words = {"num_atoms": "number of atoms"}
    return pd.DataFrame(
        [
            {
                "quantity": words.get(one.quantity, one.quantity.replace("_", " ")),
                "kind": one.kind,
                "distance": one.distance,
                "unit": one.unit or "total variation",
            }
            for one in known
        ]
    )


def draw_learning(weights: str, *, per_octave: int = 4) -> Figure:
    """Training error against molecule passes, with means over a quarter octave."""
    lines = pd.DataFrame(learning_curve(weights))
    passes, errors = lines["passes"].to_numpy(float) / 1e6, lines["noise_error"]
    bins = np.floor(per_octave * np.log2(passes / passes[0]) + 1e-9)
    means = pd.DataFrame({"passes": passes, "error": errors}).groupby(bins).mean()
    caption = f"{weights}: squared error of the training batches, per component of the noise; one run."
    with style.panels(width=6.4, height=2.9, caption=caption) as (figure, (axis,)):
        axis.plot(passes, errors, color="#a9c6dd", lw=0.8, label="each log line")
        label = "means over a quarter octave"
        axis.plot(means["passes"], means["error"], color=style.MODEL_COLOUR, marker="o", ms=3.5, label=label)
        axis.set(xlabel="molecule passes (million)", ylabel="squared noise error", xscale="log", yscale="log")
        style.legend_above(axis)
    return figure


def in_words(weights: str) -> str:
    """Size and training of published weights in words."""
    edm, facts = load(weights), training_facts(weights)
    count = sum(parameter.numel() for parameter in edm.network.parameters())
    return (
        f"{weights}: {edm.config.num_layers} layers of width {edm.config.width}, {count:,} parameters, trained for "
        f"{facts.passes / 1e6:.2f} million molecule passes ({facts.epochs:.1f} epochs) in {facts.seconds / 3600:.1f} "
        f"hours on {facts.device}"
    )
