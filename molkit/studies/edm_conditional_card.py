"""Cards of the weights of conditional generation: generator, judge and labeller."""

from pathlib import Path

from molkit.data.qm9_labels import PROPERTIES, Part, load_generator_molecules, load_labelled
from molkit.edm.conditions import make_table, write_table
from molkit.edm.model import load
from molkit.edm.property_network import load_property
from molkit.edm.publish import publish, publish_property
from molkit.edm.published import training_facts
from molkit.edm.recipes import DataChoice, load_training_set
from molkit.metrics.statistics import Interval
from molkit.studies.edm_card import curve_section, sessions_section
from molkit.studies.edm_conditional import judge_error
from molkit.training.files import write_text


def publish_network(run: Path, name: str, *, part: Part) -> Path:
    """Publish a property network with its errors on molecules it never saw; returns its card."""
    num_molecules = len(load_labelled(part).index)
    folder = publish_property(run, name, num_molecules=num_molecules)
    model, facts = load_property(folder), training_facts(folder)
    errors = {split: judge_error(str(folder), load_labelled(split)) for split in ("valid", "test")}
    counts = {split: len(load_labelled(split).index) for split in errors}
    count = sum(p.numel() for p in model.network.parameters())
    lines = [
        f"# {name}: six properties of QM9 molecules from their geometry",
        "",
        f"- Network: {model.config.num_layers} invariant message layers of width {model.config.width}, {count:,} "
        "parameters, one output for each property (the paper: 7 layers of width 128, one network for each).",
        f"- Data: {num_molecules:,} labelled molecules of the training split, the part named `{part}` in "
        "`molkit.data.qm9_labels`; the other parts share no molecule with it.",
        f"- Training: {facts.step:,} steps, {facts.passes:,} molecule passes ({facts.epochs} epochs), "
        f"{facts.seconds / 3600:.2f} h of wall time on a shared machine, {facts.device}.",
        "",
        "## Mean absolute errors on molecules it never saw",
        "",
        f"| | validation ({counts['valid']:,}) | test ({counts['test']:,}) |",
        "|---|---|---|",
        *[
            f"| {p.symbol}, {p.table_unit} | {_cell(errors['valid'][p.name])} | {_cell(errors['test'][p.name])} |"
            for p in PROPERTIES
        ],
        "",
        "95 % intervals by bootstrap over molecules.",
    ]
    write_text(folder / "card.md", "\n".join(lines) + "\n")
    return folder / "card.md"


def publish_generator(run: Path, name: str) -> Path:
    """Publish a conditional generator with the table of its conditions; returns the folder. Samples come later."""
    folder = publish(run, name)
    molecules, labels = load_training_set(DataChoice(labels="predicted"))
    known = load_generator_molecules().labels  # p(c | M) from true labels where they are, predicted ones elsewhere
    names = load(folder, fast=False).config.context_names
    write_table(folder, make_table(names, molecules.num_atoms, labels))
    _generator_card(folder, len(molecules), int((known[:, 0] == known[:, 0]).sum()))
    return folder


def _generator_card(folder: Path, num_molecules: int, num_true: int) -> None:
    facts, edm = training_facts(folder), load(folder)
    count = sum(p.numel() for p in edm.network.parameters())
    lines = [
        f"# {folder.name}: EDM that can be asked for six properties",
        "",
        f"- Network: {edm.config.num_layers} layers of width {edm.config.width}, {count:,} parameters. A value and a "
        "flag for each property enter every atom; in training one property is shown to 60 % of the molecules, none to "
        "10 %, each by the toss of a coin to the rest. (The paper trains one model a property.)",
        f"- Data: {num_molecules:,} molecules of QM9's training split, {num_true:,} with true labels, the others with "
        "labels of `qm9_property_labeller`. Molecules of the judge's and the labeller's parts are left out.",
        "- It began with the weights of `edm_qm9`, which had seen all training geometries, those of the judge's part "
        "among them, but no label.",
        f"- Training: {facts.step:,} steps of its own; {facts.passes:,} molecule passes with those before, "
        f"{facts.seconds / 3600:.2f} h of wall time of its own on a shared machine, {facts.device}.",
        "- Weights: exponential average, half precision. `conditions.json.gz`: p(M) and p(c | M) of its training set.",
        "",
        "How well it hits what it is asked for stands in the chapter on conditional generation and in the ledger.",
        "",
        curve_section(folder),
        "",
        sessions_section(folder),
    ]
    write_text(folder / "card.md", "\n".join(lines) + "\n")


def _cell(error: Interval) -> str:
    return f"{error.value:.3g} [{error.low:.3g}, {error.high:.3g}]"
