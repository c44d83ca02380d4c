"""The cards of published EDM weights and property networks: what they are, what they reach, where they fail."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from molkit.data.packed import read_packed
from molkit.data.qm9 import load_qm9, load_reference_smiles
from molkit.data.qm9_labels import PROPERTIES, Part, load_generator_molecules, load_labelled
from molkit.edm import likelihood
from molkit.edm.conditions import make_table, write_table
from molkit.edm.likelihood import BoundTerms
from molkit.edm.model import load, resolve
from molkit.edm.property_network import load_property
from molkit.edm.published import (
    TrainingFacts,
    learning_curve,
    num_failed_chains,
    property_publication,
    publication,
    sessions,
    stored_samples,
    training_facts,
)
from molkit.edm.training import DataChoice, load_training_set
from molkit.errors import InvalidInput
from molkit.figures.plots import with_interval
from molkit.metrics.score import Score, score_molecules
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.molecule import PackedMolecules
from molkit.studies.edm import ablations, drug_size
from molkit.studies.edm.conditional import judge_error
from molkit.training.publishing import CardTable, publish, write_card

CURVE_ROWS = 12
DRUG_DATA, DRUG_UNTRAINED = 400, 20  # geometries of a split behind the data's columns; of the untrained network
DRUG_BOUND = 0  # molecules of a split behind the bound; 0 for all of test and as many of train
HEAVY_UNTRAINED = 200
RESAMPLES = 300

QM9_CHANNELS = (
    "Channels: Z = {} and the atomic number; sizes from the published histogram. The training molecules hold no "
    "fluorine, so that channel has never seen its element."
)
AVERAGED = "Weights: exponential average, stored in half precision."
NO_BONDS = "Bonds are not generated; they follow from distances. Mirror images cannot be told apart."
INTERVALS = "95 % intervals in brackets."


@dataclass(frozen=True)
class NllResult:
    """The bound on held-back molecules: terms per molecule, mean with its interval in nats."""

    terms: BoundTerms
    num_atoms: np.ndarray  # [B]
    mean: Interval  # bootstrap over molecules
    draws: int


def score(molecules: PackedMolecules, *, num_failed: int = 0) -> Score:
    """Stability, validity, uniqueness and novelty (against the SMILES of QM9's training molecules)."""
    return score_molecules(molecules, reference=load_reference_smiles().smiles, num_failed=num_failed)


def score_stored(weights: str | Path) -> Score:
    """The same figures of the samples kept with the weights, failed chains counted as failures."""
    return score(stored_samples(weights), num_failed=num_failed_chains(weights))


def score_data(*, limit: int | None = None) -> Score:
    """The same figures of QM9 itself, all splits; `limit` takes that many molecules evenly."""
    return score(load_qm9(split="all", limit=limit))


def nll_on_test(weights: str | Path, *, num_molecules: int | None, draws: int = 1, seed: int = 0) -> NllResult:
    """The bound on molecules of the test split, spread evenly over it (None: all of them)."""
    molecules = load_qm9(split="test", limit=num_molecules)
    terms = likelihood.bound(load(weights), molecules, generator=torch.Generator().manual_seed(seed), draws=draws)
    total = terms.total.numpy()
    return NllResult(terms, molecules.num_atoms, bootstrap_interval(total), draws)


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


def publish_card(weights: str | Path) -> Path:
    """Score the stored samples, and the test split of the set behind them, and write card.md; returns its path.

    Raises DataNotFound when the weights were published without samples.
    """
    kind = _drug if drug_size.is_for(weights) else _heavy if ablations.without_hydrogens(weights) else _qm9
    return kind(resolve(weights), str(weights))


def publish_network(run: Path, name: str, *, part: Part) -> Path:
    """Publish a property network with its errors on molecules it never saw; returns the folder."""
    num_molecules = len(load_labelled(part).index)
    folder = publish(property_publication(run, num_molecules=num_molecules), name)
    model, splits = load_property(folder), [load_labelled(split) for split in ("valid", "test")]
    errors = [judge_error(str(folder), split) for split in splits]
    count = sum(p.numel() for p in model.network.parameters())
    facts = [
        f"Network: {model.config.num_layers} invariant message layers of width {model.config.width}, {count:,} "
        "parameters, one output for each property (the paper: 7 layers of width 128, one network for each).",
        f"Data: {num_molecules:,} labelled molecules of the training split, the part named `{part}` in "
        "`molkit.data.qm9_labels`; the other parts share no molecule with it.",
        _training(training_facts(folder)),
    ]
    table = CardTable(
        "Mean absolute errors on molecules it never saw",
        ["", *(f"{word} ({len(split.index):,})" for word, split in zip(("validation", "test"), splits, strict=True))],
        [[f"{p.symbol}, {p.table_unit}", *(_three_digits(found[p.name]) for found in errors)] for p in PROPERTIES],
        "95 % intervals by bootstrap over molecules.",
    )
    write_card(folder, f"{name}: six properties of QM9 molecules from their geometry", facts, tables=[table])
    return folder


def publish_generator(run: Path, name: str, *, samples: Path | None = None, **told: Any) -> Path:
    """Publish a conditional generator with the table of its conditions; returns the folder.

    samples: molecules for which nothing was asked; told: how they were drawn and remarks, as `publication`.
    """
    folder = publish(publication(run, **told), name, samples=samples)
    molecules, labels = load_training_set(DataChoice(labels="predicted"))
    known = load_generator_molecules().labels  # p(c | M) from true labels where they are, predicted ones elsewhere
    write_table(folder, make_table(load(folder, fast=False).config.context_names, molecules.num_atoms, labels))
    facts = [
        f"Network: {_network(folder)}. A value and a flag for each property enter every atom; in training one property "
        "is shown to 60 % of the molecules, none to 10 %, each by the toss of a coin to the rest. (The paper trains "
        "one model a property.)",
        f"Data: {len(molecules):,} molecules of QM9's training split, {int((known[:, 0] == known[:, 0]).sum()):,} with "
        "true labels, the others with labels of `qm9_property_labeller`. Molecules of the judge's and the labeller's "
        "parts are left out.",
        f"It began with the weights of `{sessions(folder)[0]['started_from']}`, which had seen all training "
        "geometries, those of the judge's part among them, but no label; the passes below count those before.",
        _training(training_facts(folder)),
        "`conditions.json.gz`: p(M) and p(c | M) of its training set.",
        "How well it hits what it is asked for stands in the chapter on conditional generation and in the ledger.",
    ]
    _write(folder, "EDM that can be asked for six properties", facts, [], [])
    return folder


def _write(folder: Path, title: str, facts: Sequence[str], tables: Sequence[CardTable], limits: Sequence[str]) -> Path:
    """The card of an EDM: what all of them have is added."""
    told = [*facts, AVERAGED, *training_facts(folder).remarks]
    tables = [*tables, _curve(folder), _sessions(folder)]
    return write_card(folder, f"{folder.name}: {title}", told, tables=tables, limits=limits)


def _qm9(folder: Path, weights: str) -> Path:
    about, ours, data = training_facts(folder), score_stored(weights), score_data()
    nll = nll_on_test(weights, num_molecules=None, seed=0)
    shares = (
        ("atoms stable, %", "atom_stability", "98.7"),
        ("molecules stable, %", "molecule_stability", "82.0"),
        ("valid, %", "validity", "91.9"),
        ("valid and unique, %", "valid_and_unique", "90.7"),
        ("novel among unique, %", "novelty", "58.0"),
    )
    rows = [[label, _share(getattr(ours, name)), _share(getattr(data, name)), paper] for label, name, paper in shares]
    rows.append(["NLL bound, nats", _value(nll.mean), "–", "−110.7"])
    lost = "How many chains were asked for was not noted."
    if about.samples_requested is not None:
        lost = f"Of {about.samples_requested:,} chains {ours.num_failed} did not stay finite, counted as failures."
    note = (
        f"{INTERVALS} The bound: {len(nll.num_atoms):,} molecules of the test split, steps drawn for each: "
        f"{nll.draws}, more often where the bound is paid. {lost}"
    )
    facts = [
        f"Network: {_network(folder)} (the paper: 9 layers, 256, 5,339,920).",
        QM9_CHANNELS.format(_elements(folder)),
        "Data: training split of the packed QM9, 98,412 molecules (`data/sets/README.md`).",
        f"{_training(about)} (The paper: about 1,100 epochs.)",
    ]
    limits = [
        "Organic molecules of at most 9 heavy atoms (H, C, N, O) at equilibrium; nothing outside was seen.",
        NO_BONDS,
        "Where the figures above fall short of the paper's, the training was far shorter; the ledger says by how much.",
    ]
    title = f"Figures: {ours.num_molecules:,} stored samples, {_sampling(about)}"
    table = CardTable(title, ["", "these weights", "QM9 itself", "paper"], rows, note)
    return _write(folder, "EDM on QM9 with hydrogens", facts, [table], limits)


def _heavy(folder: Path, weights: str) -> Path:
    about = training_facts(folder)
    lost, known = num_failed_chains(weights), ablations.known_skeletons()
    sets = {
        "EDM without hydrogens, not trained": ablations.untrained_skeletons(weights, num_molecules=HEAVY_UNTRAINED),
        "QM9 itself, heavy atoms of the test split": ablations.skeletons(load_qm9(split="test").without_hydrogens()),
        "EDM without hydrogens, trained here": ablations.skeletons(stored_samples(weights), num_failed=lost),
    }
    lines = ablations.heavy_table(sets, known=known).to_dict("records")
    head = ["per cent", "n", "valid", "valid and unique", "in one piece", "novel among unique"]
    shares = ("valid", "valid_unique", "one_piece", "novel")
    rows = [[line["label"], f"{line['num']:,}", *(_share(line[name]) for name in shares)] for line in lines]
    note = f"{INTERVALS} Chains that did not stay finite: {lost}, counted as invalid."
    facts = [
        f"Network: {_network(folder)}.",
        QM9_CHANNELS.format(_elements(folder)),
        "Data: heavy atoms of the training split of the packed QM9, 98,412 molecules, centred again "
        "(`data/sets/README.md`).",
        _training(about),
    ]
    limits = [
        "Skeletons of at most 9 heavy atoms (C, N, O) of molecules at equilibrium; nothing outside was seen.",
        "Bonds follow from distances, hydrogens are filled in by RDKit, charges are never set.",
        "The paper's number for this model could not be confirmed, so none stands here.",
    ]
    tables = [CardTable(f"Figures: {_sampling(about)}", head, rows, note)]
    return _write(folder, "EDM on QM9 without hydrogens", facts, tables, limits)


def _drug(folder: Path, weights: str) -> Path:
    about = training_facts(folder)
    facts = [
        f"Network: {_network(folder)} (the paper on GEOM-Drugs: 4 layers of width 256).",
        f"Channels: Z = {_elements(folder)}, no channel for the atomic number; sums over neighbours divided by "
        f"{load(folder, fast=False).config.message_scale:g} (the paper: 1); sizes of the training geometries.",
        "Data: training part of the drug-size set, 6,280 geometries of 1,427 molecules (`data/sets/README.md`).",
        _training(about),
    ]
    limits = [
        "About a thousand molecules seen, most of them once or in ten conformers: no model of drug space.",
        "Geometries of three levels of theory; total charges are not an input, though 9 % of the data carry one.",
        NO_BONDS,
    ]
    return _write(folder, "EDM on the drug-size set at hand (not GEOM-Drugs)", facts, _drug_tables(weights), limits)


def _drug_tables(weights: str) -> list[CardTable]:
    rows = drug_size.computed(drug_size.tasks(weights=weights, num_data=DRUG_DATA, num_untrained=DRUG_UNTRAINED))
    head = "per cent|n|atoms stable|molecules stable|valid, single bonds|bonds perceived|in one piece".split("|")
    shares = [
        [one.data, f"{one.n}", *(_share(getattr(one, name)) for name in list(drug_size.SHARES)[:5])]
        for one in drug_size.scores(rows).itertuples()
    ]
    energies = [
        [row.data, f"{row.num_energies} of {row.n}", _value(row.distance), _value(row.null)]
        for row in drug_size.energy_table(rows, num_resamples=RESAMPLES, seed=0).itertuples()
    ]
    asked = drug_size.tasks_bound(weights=weights, num_molecules=DRUG_BOUND)
    bounds = [
        [row.split, f"{row.n}", _value(row.per_molecule), _value(row.per_atom, 2)]
        for row in drug_size.bounds(drug_size.computed(asked, drug_size.measure_bound)).itertuples()
    ]
    about = training_facts(weights)
    return [
        CardTable(f"Figures: {_sampling(about)}", head, shares, f"{INTERVALS} Rule for GEOM's elements."),
        CardTable(
            "Energies: MMFF94s single points, perceived bonds, kcal/mol",
            ["", "with an energy", "distance to held-back data", "the same from as many data"],
            energies,
        ),
        CardTable(
            "Bound, one geometry a molecule", ["split", "molecules", "nats per molecule", "nats per atom"], bounds
        ),
    ]


def _network(folder: Path) -> str:
    edm = load(folder, fast=False)
    count = sum(parameter.numel() for parameter in edm.network.parameters())
    return f"{edm.config.num_layers} layers of width {edm.config.width}, {count:,} parameters"


def _elements(folder: Path) -> str:
    return ", ".join(map(str, load(folder, fast=False).config.elements))


def _training(facts: TrainingFacts) -> str:
    return (
        f"Training: {facts.step:,} steps, {facts.passes:,} molecule passes ({facts.epochs} epochs), "
        f"{facts.seconds / 3600:.2f} h of wall time, at last on {facts.processes} process(es), {facts.device}. "
        "Settings: `training.yaml`; sessions: `provenance.jsonl`."
    )


def _sampling(facts: TrainingFacts) -> str:
    return f"{facts.sample_calls} network calls each ({facts.sampler or 'ancestral'} sampler), seed {facts.sample_seed}"


def _share(found: Interval | None) -> str:
    return with_interval(found, 1, factor=100.0, between=" ")


def _value(found: Interval | None, digits: int = 1) -> str:
    return with_interval(found, digits, between=" ")


def _three_digits(error: Interval) -> str:
    return f"{error.value:.3g} [{error.low:.3g}, {error.high:.3g}]"


def _curve(folder: Path) -> CardTable:
    """A dozen lines of the learning curve."""
    lines = learning_curve(folder)
    chosen = lines[::-1][:: max(1, len(lines) // CURVE_ROWS)][::-1]
    rows = [[f"{x['passes']:,}", f"{x['noise_error']:.4f}", f"{x['seconds'] / 3600:.2f}"] for x in chosen]
    head = ["molecule passes", "squared error per noise component", "hours"]
    return CardTable("Learning curve", head, rows, "All kept log lines: `metrics.jsonl`.")


def _sessions(folder: Path) -> CardTable:
    """How each session of the run was made; settings that changed on the way show here."""
    rows = []
    for session in sessions(folder):
        network, own = session.get("network", ""), session.get("network_precision")  # of an inner network: the kernel's
        kernel = network.startswith("Fused") or (network == "PreconditionedNetwork" and own is not None)
        kind = "the compiled kernel" if kernel else "PyTorch"
        run_by = kind if "network" in session else "not noted"
        began = [f"{session['step']:,}", session["date"][:10], f"{session['processes']}"]
        rows.append([*began, run_by, session.get("network_precision", "not noted")])
    return CardTable("Sessions", ["begun at step", "date", "processes", "layers run by", "products in"], rows)
