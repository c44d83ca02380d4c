"""The card of weights that were trained on the drug-size set at hand."""

from pathlib import Path

from molkit.data.drug_size import elements_of, load_drug_size
from molkit.edm.model import load, resolve
from molkit.edm.published import training_facts
from molkit.metrics.statistics import Interval
from molkit.studies import edm_drug_size as study
from molkit.studies.edm_card import curve_section, sessions_section
from molkit.training.files import write_text

NUM_DATA = 400  # geometries of a split behind the data's columns
NUM_UNTRAINED = 20
NUM_BOUND = 0  # molecules of a split behind the bound; 0 for all of test and as many of train
RESAMPLES = 300


def is_for(weights: str | Path) -> bool:
    """Whether the weights place the elements of the drug-size set, so that this card describes them."""
    return set(load(weights, fast=False).config.elements) >= set(elements_of(load_drug_size(split="train").molecules))


def write_card(weights: str | Path, *, seed: int = 0) -> Path:
    """Score the stored samples and the bound, and write card.md beside the weights; returns its path."""
    name = str(weights)
    folder = resolve(weights)
    sets = study.score_sets(name, num_data=NUM_DATA, num_samples=0, num_untrained=NUM_UNTRAINED, seed=seed)
    sections = (_model(name), _figures(sets), _energies(sets, seed), _bound(name, seed))
    text = "\n\n".join([*sections, curve_section(weights), sessions_section(weights), _limits()])
    write_text(folder / "card.md", text + "\n")
    return folder / "card.md"


def _model(weights: str) -> str:
    edm, facts = load(weights, fast=False), training_facts(weights)
    config = edm.config
    return "\n".join(
        [
            f"# {edm.name}: EDM on the drug-size set at hand (not GEOM-Drugs)",
            "",
            f"- Network: {study.model_in_words(weights)} (the paper on GEOM-Drugs: 4 layers of width 256).",
            f"- Channels: Z = {', '.join(map(str, config.elements))}, no channel for the atomic number; sums over "
            f"neighbours divided by {config.message_scale:g} (the paper: 1); sizes of the training geometries.",
            "- Data: training part of the drug-size set, 6,280 geometries of 1,427 molecules (`data/sets/README.md`).",
            f"- Training: {facts.step:,} steps. Settings: `training.yaml`; sessions: `provenance.jsonl`.",
            f"- Samples: seed {facts.sample_seed}.",
            "- Weights: exponential average, stored in half precision.",
            *[f"- {remark}" for remark in facts.remarks],
        ]
    )


def _figures(sets: list[study.Scored]) -> str:
    lines = [
        "## Figures",
        "",
        "| per cent | n | atoms stable | molecules stable | valid, single bonds | bonds perceived | in one piece |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in sets:
        shares = (one.atoms_stable, one.molecules_stable, one.single_bond_valid, one.perceived, one.one_piece)
        lines.append(f"| {one.label} | {one.num_molecules} | " + " | ".join(_cell(x, 100.0) for x in shares) + " |")
    return "\n".join([*lines, "", "95 % intervals in brackets. Rule for GEOM's elements."])


def _energies(sets: list[study.Scored], seed: int) -> str:
    lines = [
        "## Energies: MMFF94s single points, perceived bonds, kcal/mol",
        "",
        "| | with an energy | distance to held-back data | the same from as many data |",
        "|---|---|---|---|",
    ]
    for row in study.energy_table(sets, num_resamples=RESAMPLES, seed=seed):
        cells = _cell(row.distance, 1.0), _cell(row.null, 1.0)
        lines.append(f"| {row.label} | {row.num_energies} of {row.num_molecules} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _bound(weights: str, seed: int) -> str:
    lines = ["## Bound, one geometry a molecule", "", "| split | molecules | nats per molecule | nats per atom |"]
    lines.append("|---|---|---|---|")
    for row in study.bounds(weights, num_molecules=NUM_BOUND, draws=4, seed=seed):
        cells = _cell(row.per_molecule, 1.0), _cell(row.per_atom, 1.0, 2)
        lines.append(f"| {row.split} | {row.num_molecules} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: Interval | None, factor: float, digits: int = 1) -> str:
    if value is None:
        return "–"
    return f"{factor * value.value:.{digits}f} [{factor * value.low:.{digits}f}, {factor * value.high:.{digits}f}]"


def _limits() -> str:
    return "\n".join(
        [
            "## Known limits",
            "",
            "- About a thousand molecules seen, most of them once or in ten conformers: no model of drug space.",
            "- Geometries of three levels of theory; total charges are not an input, though 9 % of the data carry one.",
            "- Bonds are not generated; they follow from distances. Mirror images cannot be told apart.",
        ]
    )
