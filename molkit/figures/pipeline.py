"""Tables, pictures and the report of a pipeline from noise to electrons."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from molkit.figures.style import BLACK, BLUE, GREEN, ORANGE, SKY, panels
from molkit.figures.tables import Text, html_table, percent, sentence
from molkit.figures.view3d import show_grid
from molkit.metrics.statistics import bootstrap_interval, proportion_interval
from molkit.ofdft.observables import density_at
from molkit.pipeline.journey import CONFORMERS, DRAWN, KOHN_SHAM, LOWEST, ORBITAL_FREE, PRE_RELAXED, STAGES, Journey
from molkit.pipeline.run import PipelineResult
from molkit.pipeline.stages import RULES
from molkit.units import ANGSTROM_TO_BOHR

if TYPE_CHECKING:
    from IPython.display import HTML

LADDER = {
    DRAWN: ("drawn by EDM", ORANGE),
    PRE_RELAXED: ("pre-relaxed by EDM", SKY),
    CONFORMERS: ("best conformer as generated", GREEN),
}
LEAST_KCAL = 1e-2  # lower end of the energy axis
PLANE_POINTS, PLANE_MARGIN = 90, 1.9  # points a side; angstrom beyond the atoms
LEVELS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # electrons per cubic bohr


def stage_table(result: PipelineResult) -> "HTML":
    """How many molecules came to each stage, how many passed, and what it cost."""
    count = len(result.journeys) + result.num_failed_chains
    rows = []
    for name in STAGES:
        found = [stage for journey in result.journeys for stage in journey.stages if stage.name == name]
        passed = sum(stage.passed for stage in found)
        seconds = np.array([stage.seconds for stage in found])
        cost = f"{seconds.mean():.2f}" if len(found) else "–"
        share = percent(proportion_interval(passed, count))
        rows.append((name, str(count if name == DRAWN else len(found)), str(passed), share, cost))
    head = ("stage", "came to it", "passed", "passed, % of drawn", "CPU s a molecule")
    caption = (
        f"{count} molecules of {result.settings.generator}, {result.num_failed_chains} of them failed chains. "
        "Orbital-free: passed where the molecule is in the domain of "
        f"{result.settings.functional} and the density converged. Shares with Wilson 95 % intervals. "
        "Seconds of drawing by the wall clock."
    )
    return html_table(head, rows, caption=caption)


def reasons_table(journeys: Sequence[Journey]) -> "HTML":
    """What ended journeys, or made a stage say no, counted."""
    found = Counter(
        (stage.name, _short(stage.note)) for journey in journeys for stage in journey.stages if not stage.passed
    )
    rows = [(name, reason, str(number)) for (name, reason), number in found.most_common()]
    return html_table(("stage", "what it said", "molecules"), rows or [("–", "nothing", "0")], caption="Refusals.")


def _short(note: str) -> str:
    """A reason without the numbers and names of its molecule."""
    if "wrong valence" in note:
        return "atoms with the wrong valence"
    return "outside the functional's domain" if "this functional is for" in note else note.split(":")[0]


def energy_ladder(journeys: Sequence[Journey]) -> Figure:
    """GFN2-xTB energy above the lowest minimum, stage by stage: every molecule, and the median."""
    done = [journey for journey in journeys if LOWEST in journey.structures]
    caption = (
        f"n = {len(done)} molecules that came to their minima. Circles: median with bootstrap 95 % interval. Energies "
        f"by GFN2-xTB above the lowest minimum of each; below {LEAST_KCAL:g} drawn there."
    )
    with panels(width=6.4, height=3.6, caption=caption) as (figure, (axis,)):
        for journey in done:
            heights = [max(journey.energies.get(name, np.nan), LEAST_KCAL) for name in LADDER]
            axis.plot(range(len(LADDER)), heights, color="#b8bec4", linewidth=0.8, zorder=1)
        for place, (name, (_, colour)) in enumerate(LADDER.items()):
            _median(axis, place, [journey.energies[name] for journey in done if name in journey.energies], colour)
        axis.set_yscale("log")
        axis.set_xticks(range(len(LADDER)), [label for label, _ in LADDER.values()])
        axis.set_ylabel("energy above the minimum\n(kcal/mol)")
    return figure


def _median(axis: Axes, place: int, values: Sequence[float], colour: str) -> None:
    if not values:
        return
    shown = np.maximum(values, LEAST_KCAL)
    found = bootstrap_interval(shown, statistic=np.median)
    low, high = found.value - found.low, found.high - found.value
    axis.errorbar(place, found.value, yerr=[[low], [high]], fmt="o", color=colour, markersize=9, capsize=4, zorder=3)


def journey_view(journey: Journey) -> "HTML":
    """One molecule at its structures, side by side."""
    names = [name for name in (DRAWN, PRE_RELAXED, CONFORMERS, LOWEST) if name in journey.structures]
    energies = ", ".join(f"{name} {journey.energies[name]:.1f}" for name in names if name in journey.energies)
    caption = f"{journey.smiles or journey.molecule.formula}: {', '.join(names)}."
    caption += f" GFN2-xTB, kcal/mol above the minimum: {energies}." if energies else ""
    return show_grid([journey.at(name) for name in names], caption=caption, columns=4, cell=150)


def journey_views(journeys: Sequence[Journey], *, count: int) -> "HTML":
    """The first molecules that came to their minima, one below the other."""
    from IPython.display import HTML

    done = [journey for journey in journeys if LOWEST in journey.structures]
    return HTML("".join(journey_view(journey).data for journey in done[:count]) or "No molecule came to its minima.")


def minima_table(journeys: Sequence[Journey]) -> "HTML":
    """What the conformers added to the structure that the model drew."""
    rows = []
    for journey in journeys:
        if LOWEST in journey.structures:
            own = journey.values.get("own_minimum_kcal")
            rows.append((
                journey.smiles,
                str(len(journey.conformers)),
                f"{journey.values['num_minima']:.0f}",
                f"{100 * journey.values['population_of_lowest']:.0f}",
                "lost" if own is None else f"{own:.2f}",
            ))  # fmt: skip
    head = ("molecule", "conformers", "minima", "lowest at 298 K, %", "drawn one's own minimum, kcal/mol")
    caption = (
        "Different GFN2-xTB minima of the conformers and of the pre-relaxed structure; populations by Boltzmann's law "
        "from energies alone; last column: above the lowest."
    )
    return html_table(head, rows or [("–",) * 5], caption=caption)


def conformers_sentence(journeys: Sequence[Journey]) -> Text:
    """How often the model drew the lowest conformer, of molecules that have more than one."""
    several = [journey for journey in journeys if journey.values.get("num_minima", 0.0) > 1.0]
    own = [journey.values["own_minimum_kcal"] for journey in several if "own_minimum_kcal" in journey.values]
    if not own:
        return Text("No molecule with more than one conformer came this far.")
    near = sum(value < RULES.same_energy for value in own)
    return sentence(
        "Of {} molecules with several minima the model drew {} in the lowest one (within {} kcal/mol); the own minimum "
        "of the others lies {:.1f} kcal/mol above it in the median.",
        len(own), near, RULES.same_energy, float(np.median([v for v in own if v >= RULES.same_energy] or [0.0])),
    )  # fmt: skip


def electrons_table(journeys: Sequence[Journey]) -> "HTML":
    """Kohn-Sham beside the learned functional, at the lowest minimum."""
    rows = []
    for journey in journeys:
        if journey.passed(KOHN_SHAM):
            values = journey.values
            error = values.get("orbital_free_error_mha")
            rows.append((
                journey.smiles,
                f"{values['kohn_sham_hartree']:.4f}",
                _optional(values.get("kohn_sham_fitted_dipole_debye"), ".2f"),
                "outside its domain" if error is None else f"{error:+.2f}",
                _optional(values.get("orbital_free_expected_error_kcal"), ".2g"),
                _optional(values.get("orbital_free_fitted_dipole_debye"), ".2f"),
            ))  # fmt: skip
    head = ("molecule", "Kohn-Sham, Ha", "dipole, D", "functional's error, mHa")
    head += ("expected, kcal/mol", "its dipole, D")
    caption = (
        "PBE/6-31G(2df,p) at the lowest GFN2-xTB minimum; where the functional serves the molecule, without density "
        "fitting and on the grid of its labels. Its error: minimised energy minus Kohn-Sham; expected: what molecules "
        "held out of its trainings let expect. Both dipoles are those of densities fitted in the density basis."
    )
    return html_table(head, rows or [("–",) * len(head)], caption=caption)


def _optional(value: float | None, digits: str) -> str:
    return "–" if value is None else f"{value:{digits}}"


def first_density(journeys: Sequence[Journey]) -> Figure | Text:
    """The planes of the first molecule that has both densities, or the sentence that there is none."""
    both = [journey for journey in journeys if len(journey.densities) == 2]
    return density_planes(both[0]) if both else Text("No molecule of this run is in the functional's domain.")


def density_planes(journey: Journey) -> Figure:
    """Densities of a molecule with and without orbitals in its main plane, and their difference."""
    molecule, across, up = _plane(journey)
    points = across[..., None, :] + up[None]
    shape = points.shape[:2]
    flat = points.reshape(-1, 3) * ANGSTROM_TO_BOHR
    names = (KOHN_SHAM, ORBITAL_FREE)
    values = [density_at(molecule, journey.densities[name], flat).reshape(shape).T for name in names]
    x, y = (np.linalg.norm(line - line[0], axis=-1) for line in (across, up))
    difference = values[1] - values[0]
    largest = float(np.abs(difference).max())
    caption = (
        f"{journey.smiles}, the plane of its longest extents. Lines at {', '.join(map(str, LEVELS))} "
        f"electrons per cubic bohr. Right: orbital-free minus Kohn-Sham, at most {largest:.3f}. n = 1 molecule."
    )
    with panels(3, width=8.4, height=2.9, caption=caption) as (figure, axes):
        for axis, name, field in zip(axes, names, values, strict=False):
            axis.contour(x, y, np.maximum(field, 1e-8), levels=LEVELS, colors=BLUE, linewidths=1.0)
            axis.set_title(name, fontsize=10)
        shown = axes[2].pcolormesh(x, y, difference, cmap="PuOr", vmin=-largest, vmax=largest, shading="auto")
        figure.colorbar(shown, ax=axes[2], label="electrons / bohr³")
        axes[2].contour(x, y, np.maximum(values[0], 1e-8), levels=LEVELS[1::2], colors=BLACK, linewidths=0.4)
        axes[2].set_title("difference", fontsize=10)
        for axis in axes:
            axis.set_aspect("equal")
            axis.set_xlabel("Å")
            axis.grid(False)
        axes[0].set_ylabel("Å")
    return figure


def _plane(journey: Journey) -> tuple:
    """The molecule, and points along the two sides of a rectangle in its main plane: [P, 3] each, angstrom."""
    molecule = journey.at(LOWEST)
    middle = molecule.positions.mean(axis=0)
    axes = np.linalg.eigh((molecule.positions - middle).T @ (molecule.positions - middle))[1][:, ::-1].T
    places = (molecule.positions - middle) @ axes[:2].T
    low, high = places.min(0) - PLANE_MARGIN, places.max(0) + PLANE_MARGIN
    sides = [np.linspace(a, b, PLANE_POINTS) for a, b in zip(low, high, strict=True)]
    return molecule, middle + sides[0][:, None] * axes[0], sides[1][:, None] * axes[1]
