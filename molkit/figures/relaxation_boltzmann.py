"""Figures of the chapter on Boltzmann sampling."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from molkit.figures.style import BLACK, BLUE, GREEN, ORANGE, panels
from molkit.figures.tables import html_table, with_interval
from molkit.relaxation.boltzmann import boltzmann_spread, isotropic_spread
from molkit.studies.relaxation_boltzmann import (
    EDM,
    EXACT,
    KELVIN,
    METROPOLIS,
    SHAPED,
    SHAPED_STEP,
    STEPS,
    Study,
    labels_of,
    room_temperature_step,
    temperature,
)

if TYPE_CHECKING:
    from IPython.display import HTML

COLOURS = {EDM: BLUE, EXACT: BLACK, METROPOLIS: GREEN, SHAPED: ORANGE}


def _who(found: Study) -> str:
    return f"n = {len(found.molecules)} ({', '.join(one.smiles for one in found.molecules)}), GFN2-xTB"


def energies(found: Study) -> Figure:
    """Mean energy against the step, as published, and the temperature it stands for."""
    caption = (
        f"{_who(found)}. Mean energy above the minimum; lines: through zero, proportional to the square of the step."
    )
    with panels(2, width=8.8, height=3.0, caption=caption) as (figure, (left, right)):
        for label in (EDM, EXACT):
            means, heats = [], []
            for step in STEPS:
                chains = found.of(label, step)
                means.append(np.mean([one.energies.mean() for one in chains]) if chains else np.nan)
                heats.append(np.mean([temperature(one, found) for one in chains]) if chains else np.nan)
            squares = np.array(STEPS, dtype=float) ** 2
            known = np.isfinite(means)
            factor = (squares[known] @ np.array(means)[known]) / (squares[known] @ squares[known])
            left.plot(squares, means, "o", color=COLOURS[label], label=label)
            left.plot([0, squares[-1]], [0, factor * squares[-1]], color=COLOURS[label], lw=1.0)
            right.plot(STEPS, heats, "o-", color=COLOURS[label], label=label)
        right.axhline(KELVIN, color=GREEN, ls="--", lw=1.0)
        left.set(xlabel="step², of 1,000²", ylabel="mean energy (kcal/mol)")
        right.set(xlabel="step, of 1,000", ylabel="temperature of that energy (K)")
        left.legend(fontsize=8)
    return figure


def slopes(found: Study) -> Figure:
    """Variance along the modes against their force constant: one panel for each kind of chain."""
    near = room_temperature_step(found)
    kinds = [(EXACT, near), (EDM, near), (SHAPED, SHAPED_STEP), (METROPOLIS, None)]
    kinds = [kind for kind in kinds if found.of(*kind)]
    caption = (
        f"{_who(found)}. A point is a mode (eigenvector of the Cartesian Hessian) of one molecule; dashed: slopes −1 "
        "(Boltzmann) and 0 (isotropic noise). Intervals: bootstrap 95 % over molecules and modes."
    )
    with panels(len(kinds), width=10.4, height=3.1, caption=caption, sharex=True, sharey=True) as (figure, axes):
        for one, kind in zip(axes, kinds, strict=True):
            chains, slope = found.of(*kind), found.slope(*kind)
            for chain in chains:
                constants = found.molecules[chain.molecule].modes.constants
                one.plot(constants, chain.variances, ".", color=COLOURS[kind[0]], ms=4)
            every = np.concatenate([chain.variances for chain in chains])
            ends = np.array([0.05, 100.0])
            middle = np.exp(np.log(every).mean())
            one.plot(ends, middle * (ends / 3.0) ** -1.0, color="#777777", ls="--", lw=0.9)
            one.plot(ends, [middle, middle], color="#777777", ls="--", lw=0.9)
            name = labels_of([kind])[0].replace(", Hessian", ",\nHessian")
            one.set(xscale="log", yscale="log", xlabel="force constant (eV/Å²)")
            one.set_title(f"{name}\nslope {slope.value:.2f} [{slope.low:.2f}, {slope.high:.2f}]", fontsize=8.5)
        axes[0].set(ylabel="variance (Å²)", ylim=(1e-6, 3.0))
    return figure


def table(found: Study) -> "HTML":
    """Every kind of chain: slope, energy, spread, independent samples."""
    lines = []
    for kind, name in zip(found.kinds(), labels_of(found.kinds()), strict=True):
        chains, slope = found.of(*kind), found.slope(*kind)
        cells = [
            with_interval(slope),
            f"{np.mean([one.energies.mean() for one in chains]):.1f}",
            f"{np.mean([temperature(one, found) for one in chains]):.0f}",
            " / ".join(f"{one.spread():.2f}" for one in chains),
            " / ".join(f"{one.effective:.0f}" for one in chains),
            str(sum(one.num_failed for one in chains)),
        ]
        lines.append((name, *cells))
    expected = [one.modes.constants for one in found.molecules]
    boltzmann = " / ".join(f"{boltzmann_spread(len(one)):.2f}" for one in expected)
    isotropic = " / ".join(f"{isotropic_spread(one):.2f}" for one in expected)
    lines.append(("harmonic Boltzmann, exact", "−1", "–", "–", boltzmann, "–", "–"))
    lines.append(("isotropic noise, exact", "0", "–", "–", isotropic, "–", "–"))
    head = (
        "",
        "slope",
        "mean energy (kcal/mol)",
        "as temperature (K)",
        "spread of the energy",
        "independent",
        "failed",
    )
    caption = (
        f"{_who(found)}. Slope of log variance against log force constant, bootstrap 95 % interval. Spread: standard "
        "deviation over mean, by molecule. Independent: effective samples in the energies. Failed: frames without an "
        "energy, left out."
    )
    return html_table(head, lines, caption=caption)


def dihedral_histograms(found: Study, *, row: int = 0) -> Figure:
    """Dihedrals of heavy atoms of one molecule by the chain nearest to room temperature and by Metropolis."""
    near = room_temperature_step(found)
    pairs = [(EDM, near), (EXACT, near), (METROPOLIS, None)]
    one = found.molecules[row]
    chains = {kind: [c for c in found.of(*kind) if c.molecule == row] for kind in pairs}
    count = next(iter(chain for each in chains.values() for chain in each)).angles.shape[1]
    shown = min(count, 3)
    caption = f"{one.smiles}. Dihedral angles, chains at step {near} and Metropolis at {KELVIN:g} K, after the burn-in."
    with panels(max(shown, 1), width=8.8, height=2.6, caption=caption) as (figure, axes):
        for column in range(shown):
            for kind, label in zip(pairs, labels_of(pairs), strict=True):
                for chain in chains[kind]:
                    options = {"bins": np.arange(-180, 181, 6), "density": True, "histtype": "step"}
                    axes[column].hist(chain.angles[:, column], color=COLOURS[kind[0]], label=label, **options)
            axes[column].set(xlabel="dihedral (degrees)", yticks=[])
        axes[0].set(ylabel="density")
        axes[0].legend(fontsize=7)
    return figure
