"""The card of weights that place heavy atoms alone."""

from pathlib import Path

from molkit.edm.model import load, resolve
from molkit.edm.published import training_facts
from molkit.metrics.statistics import Interval
from molkit.studies import edm_heavy as study
from molkit.studies.edm_card import curve_section, sessions_section
from molkit.training.files import write_text


def write_card(weights: str | Path, *, with_novelty: bool = True) -> Path:
    """Score the stored samples and write card.md beside the weights; returns its path.

    Raises DataNotFound when the weights were published without samples.
    """
    folder = resolve(weights)
    table = study.heavy_table(str(weights), num_data=None, num_untrained=200, with_novelty=with_novelty, keep=False)
    sections = (_model(weights), _figures(weights, table), curve_section(weights), sessions_section(weights), _limits())
    write_text(folder / "card.md", "\n\n".join(sections) + "\n")
    return folder / "card.md"


def _model(weights: str | Path) -> str:
    edm, facts = load(weights, fast=False), training_facts(weights)
    config = edm.config
    count = sum(parameter.numel() for parameter in edm.network.parameters())
    return "\n".join(
        [
            f"# {edm.name}: EDM on QM9 without hydrogens",
            "",
            f"- Network: {config.num_layers} layers of width {config.width}, {count:,} parameters.",
            f"- Channels: Z = {', '.join(map(str, config.elements))} and the atomic number; sizes from the published "
            "histogram. The training molecules hold no fluorine, so that channel has never seen its element.",
            "- Data: heavy atoms of the training split of the packed QM9, 98,412 molecules, centred again "
            "(`data/sets/README.md`).",
            f"- Training: {facts.step:,} steps, {facts.passes:,} molecule passes, {facts.seconds / 3600:.2f} h of wall "
            f"time, at last on {facts.processes} process(es), {facts.device}. Settings: `training.yaml`.",
            "- Weights: exponential average, stored in half precision.",
            *[f"- {remark}" for remark in facts.remarks],
        ]
    )


def _figures(weights: str | Path, table: study.HeavyTable) -> str:
    facts = training_facts(weights)
    lines = [
        f"## Figures: {facts.sample_calls} network calls a sample ({facts.sampler or 'ancestral'} sampler), seed "
        f"{facts.sample_seed}",
        "",
        "| per cent | n | valid | valid and unique | in one piece | novel among unique |",
        "|---|---|---|---|---|---|",
    ]
    for row in table.rows:
        shares = (row.valid, row.valid_unique, row.one_piece, row.novel)
        lines.append(f"| {row.label} | {row.num_molecules:,} | " + " | ".join(map(_cell, shares)) + " |")
    lost = table.rows[-1].num_failed
    return "\n".join(
        [*lines, "", f"95 % intervals in brackets. Chains that did not stay finite: {lost}, counted as invalid."]
    )


def _cell(share: Interval | None) -> str:
    return "–" if share is None else f"{100 * share.value:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def _limits() -> str:
    return "\n".join(
        [
            "## Known limits",
            "",
            "- Skeletons of at most 9 heavy atoms (C, N, O) of molecules at equilibrium; nothing outside was seen.",
            "- Bonds follow from distances, hydrogens are filled in by RDKit, charges are never set.",
            "- The paper's number for this model could not be confirmed, so none stands here.",
        ]
    )
