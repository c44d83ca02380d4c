"""Figures and tables of the chapter on ablations."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from molkit.claims.ledger import find, load_claims
from molkit.figures.style import DATA_COLOUR, GREEN, MODEL_COLOUR, ORANGE, PAPER_COLOUR, PURPLE, SKY, panels
from molkit.figures.tables import html_table, nats, percent, with_interval
from molkit.figures.view3d import show_grid
from molkit.metrics.statistics import Interval
from molkit.molecule import PackedMolecules
from molkit.studies.edm_ablations import EDM, GDM, GDM_AUG, SUITE, UNSCALED, Ablations, Arm, Check, Reference
from molkit.studies.edm_heavy import HeavyTable
from molkit.studies.edm_symmetry import Orientation, Readability, TurnSweep

if TYPE_CHECKING:
    from IPython.display import HTML

LINES = (MODEL_COLOUR, ORANGE, GREEN, PURPLE, SKY)
PUBLISHED = {EDM: "edm.qm9.edm", GDM_AUG: "edm.qm9.gdm_aug", GDM: "edm.qm9.gdm", UNSCALED: "edm.scaling.unscaled"}
SYMBOLS = {6: "C", 7: "N", 8: "O", 9: "F"}
BOND_LENGTHS = (0.95, 1.55)  # angstrom, X-H to C-C


def arms_table(found: Ablations, references: Sequence[Reference]) -> "HTML":
    """Every arm with its cost, the rows beside, and the paper's numbers."""
    head = ("", "trainings", "parameters", "passes", "CPU time", "atoms stable", "molecules stable", "valid", "NLL")
    rows = [
        (
            row.label,
            *("–",) * 4,
            percent(row.score.atom_stability),
            percent(row.score.molecule_stability),
            percent(row.score.validity),
            with_interval(row.nll, 1),
        )
        for row in references
    ]
    rows += [_arm_row(arm) for arm in found.arms]
    rows += [_published_row(arm.label, PUBLISHED[arm.name]) for arm in found.arms if arm.name in PUBLISHED]
    counts = ", ".join(f"{row.label}: n = {row.score.num_molecules:,}" for row in references)
    return html_table(
        head,
        rows,
        caption=f"Stored results of the suite `{SUITE}`: {found.num_samples:,} molecules drawn after each training "
        f"({found.num_calls} calls, {found.sampler}), bound on {found.nll_molecules:,} test molecules. Shares in per "
        "cent, NLL in nats per molecule; 95 % intervals over trainings and molecules, over molecules alone where there "
        f"was one training. CPU time of one training. {counts}.",
    )


def _arm_row(arm: Arm) -> tuple[str, ...]:
    trainings = f"{arm.num_trainings}" + (f" ({len(arm.failures)} failed)" if arm.failures else "")
    if not arm.figures:
        return (arm.label, trainings, *("–",) * 7)
    shares = [percent(arm.figures[name]) for name in ("atom_stability", "molecule_stability", "validity")]
    return (
        arm.label,
        trainings,
        f"{arm.mean('num_parameters'):,.0f}",
        f"{arm.mean('passes') / 1e3:,.0f} k",
        f"{arm.mean('cpu_seconds'):.0f} s",
        *shares,
        with_interval(arm.figures.get("nll"), 1),
    )


def _published_row(label: str, prefix: str) -> tuple[str, ...]:
    claims = load_claims(study="edm")
    values = [
        f"{find(claims, f'{prefix}.{name}').value:.1f}" if f"{prefix}.{name}" in claims else "–"
        for name in ("atom_stable", "molecule_stable", "valid")
    ]
    return (f"{label}, published", *("–",) * 4, *values, nats(find(claims, f"{prefix}.nll").value, 1))


def differences_table(found: Ablations) -> "HTML":
    """Every arm minus EDM at the same training."""
    atoms, bounds = found.differences("atom_stability"), found.differences("nll")
    rows = []
    for label in dict.fromkeys([*atoms, *bounds]):
        shares = atoms[label].scaled(100.0) if label in atoms else None
        rows.append(
            (
                label,
                with_interval(shares, 1, signed=True),
                _verdict(shares),
                with_interval(bounds.get(label), 1, signed=True),
                _verdict(bounds.get(label)),
            )
        )
    return html_table(
        ("arm minus EDM", "atoms stable, points", "", "NLL, nats", ""),
        rows,
        caption="Differences of the rows above, the two intervals added in quadrature as if independent, which is "
        "cautious: all arms were scored on the same molecules and started from the same noise.",
    )


def _verdict(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return "higher" if interval.low > 0.0 else "lower" if interval.high < 0.0 else "not shown"


def arms(found: Ablations) -> Figure:
    """Stable atoms and NLL of every arm: one dot a training, the mean with its interval."""
    shown = [arm for arm in found.arms if arm.figures]
    caption = (
        f"Small dots: single trainings; bars: mean and 95 % interval over trainings and molecules. "
        f"{found.num_samples:,} molecules and {found.nll_molecules:,} test molecules a training; stored results."
    )
    with panels(2, width=8.6, height=0.9 + 0.34 * len(shown), caption=caption, sharey=True) as (figure, axes):
        for axis, quantity, factor in zip(axes, ("atom_stability", "nll"), (100.0, 1.0), strict=True):
            _dots(axis, shown, quantity, factor)
        axes[0].set_yticks(range(len(shown)), [arm.label for arm in shown])
        axes[0].invert_yaxis()
        axes[0].set_xlabel("stable atoms (%), more is better")
        axes[1].set_xlabel("NLL (nats per molecule), less is better")
    return figure


def _dots(axis: Axes, shown: Sequence[Arm], quantity: str, factor: float) -> None:
    for line, arm in enumerate(shown):
        if quantity not in arm.figures:
            continue
        mean = arm.figures[quantity].scaled(factor)
        singles = [factor * getattr(result, quantity).value for result in arm.results]
        colour = MODEL_COLOUR if arm.name == EDM else PAPER_COLOUR if arm.name in PUBLISHED else PURPLE
        axis.errorbar(
            mean.value,
            line,
            xerr=[[mean.value - mean.low], [mean.high - mean.value]],
            fmt="|",
            ms=11,
            capsize=3,
            color=colour,
        )
        axis.plot(singles, np.full(len(singles), line + 0.2), "o", ms=3.5, color=colour, alpha=0.7)


def curves(found: Ablations) -> Figure:
    """Noise error in training, one line for each arm of the claim."""
    caption = "Mean squared error per noise component in training, first seed of every arm; stored results."
    with panels(width=7.2, height=3.2, caption=caption) as (figure, (axes,)):
        main = [arm for arm in found.arms if arm.name in PUBLISHED and arm.results]
        for arm, colour in zip(main, LINES, strict=False):
            points = np.array(arm.results[0].error)
            axes.plot(points[:, 0] / 1e3, points[:, 1], color=colour, label=arm.label)
        axes.set(xlabel="molecules shown (thousands)", ylabel="noise error", yscale="log")
        axes.legend()
    return figure


def turn_sweep(sweep: TurnSweep) -> Figure:
    """Noise error against the angle by which the molecule is turned."""
    caption = (
        f"{sweep.formula} of the test split, turned about one axis together with the noise in it, step {sweep.step} of "
        f"1,000; mean and standard error over {sweep.draws} draws of the noise."
    )
    with panels(width=7.2, height=3.2, caption=caption) as (figure, (axes,)):
        for (label, errors), colour in zip(sweep.errors.items(), LINES, strict=False):
            axes.errorbar(
                sweep.degrees, errors, yerr=sweep.spreads[label], color=colour, marker="o", ms=3, lw=1.2, label=label
            )
        axes.set(xlabel="angle (°)", ylabel="noise error per component", xlim=(-5, 365), ylim=(0, None))
        axes.set_xticks(range(0, 361, 60))
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def orientation_table(rows: Sequence[Orientation]) -> "HTML":
    """Noise error as stored and turned at random."""
    return html_table(
        ("", "as in the file", "turned at random", "ratio"),
        [
            (row.label, *(with_interval(interval, 3) for interval in (row.as_stored, row.turned, row.ratio)))
            for row in rows
        ],
        caption=f"Mean squared error per noise component of {rows[0].num_molecules:,} test molecules, one random step "
        "each, the same in both columns; 95 % intervals by bootstrap over molecules.",
    )


def readability(curves: Readability) -> Figure:
    """How surely elements can be read, against the blur of the positions at the same step."""
    caption = (
        "One atom alone, its own noisy channels, the paper's schedule; closed forms, nothing random. "
        "Grey: bond lengths of QM9. Generation runs from left to right."
    )
    with panels(2, width=8.6, height=3.0, caption=caption, sharey=True) as (figure, axes):
        titles = ("element from the one-hot channels", "hydrogen or carbon from the channel of Z")
        names = ("one-hot", "Z")
        for axis, values, title, name in zip(axes, (curves.types, curves.hydrogen), titles, names, strict=True):
            axis.axvspan(*BOND_LENGTHS, color="#dfe3e6", zorder=0)
            for (scale, chance), colour in zip(values.items(), (PAPER_COLOUR, MODEL_COLOUR), strict=True):
                axis.plot(curves.blur, 100.0 * chance, color=colour, label=f"{name} / {scale:g}")
            axis.set(xscale="log", xlim=(10.0, 0.01), xlabel="blur of positions σ/α (Å)")
            axis.set_title(title, fontsize=10)
            axis.legend()
        axes[0].set_ylabel("chance to be right (%)")
    return figure


def checks_table(checks: Sequence[Check]) -> "HTML":
    """Stored and recomputed bounds."""
    return html_table(
        ("", "stored", "this page", "test molecules here", "seconds"),
        [
            (
                check.label,
                with_interval(check.stored, 1),
                with_interval(check.now, 1),
                f"{check.num_molecules:,}",
                f"{check.seconds:.0f}",
            )
            for check in checks
        ],
        caption="NLL in nats of the shipped weights (first seed, half precision), 95 % intervals over molecules.",
    )


def heavy_table(table: HeavyTable) -> "HTML":
    """Validity without hydrogens."""
    rows = [
        (row.label, f"{row.num_molecules:,}", *map(percent, (row.valid, row.valid_unique, row.one_piece, row.novel)))
        for row in table.rows
    ]
    return html_table(
        ("", "n", "valid", "valid and unique", "in one piece", "novel of unique"),
        rows,
        caption="Heavy atoms only, bonds by the distance rule, hydrogens filled in by RDKit; per cent with 95 % Wilson "
        f"intervals. Ours: {table.passes / 1e6:.2f} million molecule passes, {table.num_calls} network calls a sample. "
        "Uniqueness falls with n.",
    )


def heavy_shapes(table: HeavyTable) -> Figure:
    """Validity by number of heavy atoms, and the elements."""
    shown = table.rows[-2:]
    caption = (
        f"{'; '.join(f'{row.label}: n = {row.num_molecules:,}' for row in shown)}. "
        "Left: Wilson 95 % intervals, sizes with at least 20 molecules. Right: shares of all atoms."
    )
    with panels(2, width=8.0, height=2.8, caption=caption) as (figure, axes):
        symbols = sorted({number for row in shown for number in row.elements})
        for k, row in enumerate(shown):
            colour, label = (DATA_COLOUR, MODEL_COLOUR)[k], ("QM9 itself", "EDM, trained here")[k]
            shares = 100.0 * np.array([[x.value, x.low, x.high] for x in row.valid_by_size.values()]).reshape(-1, 3)
            errors = np.abs(shares[:, 1:] - shares[:, :1]).T
            axes[0].errorbar(
                list(row.valid_by_size), shares[:, 0], yerr=errors, color=colour, marker="o", ms=4, lw=1.2, label=label
            )
            heights = [100.0 * row.elements.get(number, 0.0) for number in symbols]
            axes[1].bar(np.arange(len(symbols)) + 0.4 * k - 0.2, heights, 0.38, color=colour, label=label)
        axes[0].set(xlabel="heavy atoms", ylabel="valid (%)")
        axes[0].set_xticks(sorted({size for row in shown for size in row.valid_by_size}))
        axes[1].set_xticks(range(len(symbols)), [SYMBOLS.get(number, str(number)) for number in symbols])
        axes[1].set(xlabel="element", ylabel="share of atoms (%)")
        axes[1].legend()
    return figure


def heavy_gallery(molecules: PackedMolecules) -> "HTML":
    """Skeletons in the order they came."""
    shown = [molecules[row] for row in range(len(molecules))]
    return show_grid(
        shown, caption=f"{len(shown)} skeletons drawn for this page, in the order they came, none left out."
    )
