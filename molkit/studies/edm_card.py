"""The card of published EDM weights: what they are, what they reach, what they cost, where they fail."""

from pathlib import Path

from molkit.edm.model import load, resolve
from molkit.edm.published import TrainingFacts, learning_curve, sessions, training_facts
from molkit.metrics.score import Score
from molkit.metrics.statistics import Interval
from molkit.studies.edm_evaluation import NllResult, nll_on_test, score_data, score_stored
from molkit.training.files import write_text

CURVE_ROWS = 12


def write_card(weights: str | Path, *, nll_molecules: int | None = None, seed: int = 0) -> Path:
    """Score the stored samples and the test split, and write card.md beside the weights; returns its path.

    Raises DataNotFound when the weights were published without samples.
    """
    folder = resolve(weights)
    ours, data = score_stored(weights), score_data()
    nll = nll_on_test(weights, num_molecules=nll_molecules, seed=seed)
    about = _model(weights), _figures(weights, ours, data, nll)
    sections = (*about, curve_section(weights), sessions_section(weights), _limits())
    write_text(folder / "card.md", "\n\n".join(sections) + "\n")
    return folder / "card.md"


def _model(weights: str | Path) -> str:
    edm, facts = load(weights), training_facts(weights)
    config = edm.config
    count = sum(parameter.numel() for parameter in edm.network.parameters())
    return "\n".join(
        [
            f"# {edm.name}: EDM on QM9 with hydrogens",
            "",
            f"- Network: {config.num_layers} layers of width {config.width}, {count:,} parameters "
            "(the paper: 9 layers, 256, 5,339,920).",
            f"- Channels: Z = {', '.join(map(str, config.elements))} and the atomic number; sizes from the published "
            "histogram. The training molecules hold no fluorine, so that channel has never seen its element.",
            "- Data: training split of the packed QM9, 98,412 molecules (`data/sets/README.md`).",
            f"- Training: {facts.step:,} steps, {facts.passes:,} molecule passes ({facts.epochs} epochs; the paper "
            f"about 1,100), {facts.seconds / 3600:.2f} h of wall time, at last on {facts.processes} process(es), "
            f"{facts.device}. Settings: `training.yaml`; sessions: `provenance.jsonl`.",
            "- Weights: exponential average, stored in half precision.",
            *[f"- {remark}" for remark in facts.remarks],
        ]
    )


def _figures(weights: str | Path, ours: Score, data: Score, nll: NllResult) -> str:
    facts = training_facts(weights)
    rows = [
        ("atoms stable, %", ours.atom_stability, data.atom_stability, "98.7"),
        ("molecules stable, %", ours.molecule_stability, data.molecule_stability, "82.0"),
        ("valid, %", ours.validity, data.validity, "91.9"),
        ("valid and unique, %", ours.valid_and_unique, data.valid_and_unique, "90.7"),
        ("novel among unique, %", ours.novelty, data.novelty, "58.0"),
    ]
    lines = [
        f"## Figures: {ours.num_molecules:,} stored samples, {facts.sample_calls} network calls each "
        f"({facts.sampler or 'ancestral'} sampler), seed {facts.sample_seed}",
        "",
        "| | these weights | QM9 itself | paper |",
        "|---|---|---|---|",
    ]
    lines += [f"| {label} | {_cell(mine)} | {_cell(theirs)} | {paper} |" for label, mine, theirs, paper in rows]
    mean = nll.mean
    lines.append(f"| NLL bound, nats | {mean.value:.1f} [{mean.low:.1f}, {mean.high:.1f}] | – | −110.7 |")
    lines += [
        "",
        f"95 % intervals in brackets. The bound: {len(nll.num_atoms):,} molecules of the test split, "
        f"steps drawn for each: {nll.draws}, more often where the bound is paid. "
        f"{_failed(facts, ours.num_failed)}",
    ]
    return "\n".join(lines)


def _failed(facts: TrainingFacts, lost: int) -> str:
    """What became of chains that are not among the stored samples."""
    if facts.samples_requested is None:
        return "How many chains were asked for was not noted."
    return f"Of {facts.samples_requested:,} chains {lost} did not stay finite; they are counted as failures."


def _cell(share: Interval | None) -> str:
    if share is None:
        return "–"
    return f"{100 * share.value:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def curve_section(weights: str | Path) -> str:
    """A dozen lines of the learning curve as a table."""
    lines = learning_curve(weights)
    stride = max(1, len(lines) // CURVE_ROWS)
    chosen = lines[::-1][::stride][::-1]
    table = [
        "## Learning curve",
        "",
        "| molecule passes | squared error per noise component | hours |",
        "|---|---|---|",
    ]
    table += [f"| {x['passes']:,} | {x['noise_error']:.4f} | {x['seconds'] / 3600:.2f} |" for x in chosen]
    return "\n".join([*table, "", "All kept log lines: `metrics.jsonl`."])


def sessions_section(weights: str | Path) -> str:
    """How each session of the run was made; settings that changed on the way show here."""
    lines = [
        "## Sessions",
        "",
        "| begun at step | date | processes | layers run by | products in |",
        "|---|---|---|---|---|",
    ]
    for session in sessions(weights):
        kind = "the compiled kernel" if session.get("network", "").startswith("Fused") else "PyTorch"
        lines.append(
            f"| {session['step']:,} | {session['date'][:10]} | {session['processes']} | "
            f"{kind if 'network' in session else 'not noted'} | {session.get('network_precision', 'not noted')} |"
        )
    return "\n".join(lines)


def _limits() -> str:
    return "\n".join(
        [
            "## Known limits",
            "",
            "- Organic molecules of at most 9 heavy atoms (H, C, N, O) at equilibrium; nothing outside was seen.",
            "- Bonds are not generated; they follow from distances. Mirror images cannot be told apart.",
            "- The figures above are far from the paper's where the training was far shorter; the ledger says by how "
            "much.",
        ]
    )
