"""Molecules from noise to electrons, and what each stage did to them (page `from_noise`, and the pipeline's report)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from molkit.chem.rdkit_tools import graph_by_distance
from molkit.data.registry import data_root
from molkit.edm.farm import shared_edm
from molkit.edm.samplers import sampler_named
from molkit.edm.sampling import sample
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column
from molkit.figures.plots import Text, sentence, stacked
from molkit.figures.style import BLACK, BLUE, GREEN, ORANGE, SKY, panels
from molkit.figures.view3d import ELEMENT_COLOURS, OTHER_COLOUR, show_grid
from molkit.geometry import superpose
from molkit.metrics.statistics import bootstrap_interval, proportion_interval
from molkit.molecule import Molecule
from molkit.ofdft.observables import density_at
from molkit.pipeline.journey import (
    CONFORMERS,
    DRAWN,
    KOHN_SHAM,
    LOWEST,
    ORBITAL_FREE,
    PRE_RELAXED,
    STAGES,
    Journey,
    PipelineSettings,
    Stage,
)
from molkit.pipeline.run import PipelineResult, run_pipeline
from molkit.pipeline.stages import RULES, travel
from molkit.pipeline.stages import Task as Handed
from molkit.training.weights import weight_files
from molkit.units import ANGSTROM_TO_BOHR

if TYPE_CHECKING:
    from IPython.display import HTML

LADDER = {
    DRAWN: ("drawn", ORANGE),
    PRE_RELAXED: ("pre-relaxed", SKY),
    CONFORMERS: ("best conformer as generated", GREEN),
}
PLACES = (DRAWN, PRE_RELAXED, CONFORMERS, LOWEST)  # structures that are kept
EACH = ["stage", "passed", "note", "seconds"]  # what a molecule has of every stage it came to
SEEDS = 100_000  # molecules of one seed
LEAST_KCAL = 1e-2  # lower end of the energy axis
PLANE_POINTS, PLANE_MARGIN = 90, 1.9  # points a side; angstrom beyond the atoms
LEVELS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # electrons per cubic bohr
WAY = {
    "stage": "stage",
    "came": "came to it",
    "passed": "passed",
    "share": Column("passed, % of drawn", 1, 100.0),
    "seconds": Column("s a molecule", 2),
}
REFUSALS = {"stage": "stage", "note": "what it said", "molecules": "molecules"}
STOPS = {"molecule": "molecule", "stopped": "stopped at", "why": "why", "functional": "the functional"}
MINIMA = {
    "smiles": "molecule",
    "num_kept": Column("conformers"),
    "num_minima": Column("minima"),
    "population_of_lowest": Column("lowest at 298 K, %", 0, 100.0),
    "own_minimum_kcal": Column("drawn one's own minimum, kcal/mol", 2),
}
ELECTRONS = {
    "smiles": "molecule",
    "kohn_sham_hartree": Column("Kohn-Sham, Ha", 4),
    "kohn_sham_fitted_dipole_debye": Column("dipole, D", 2),
    "orbital_free_error_mha": Column("functional's error, mHa", 2),
    "orbital_free_expected_error_kcal": Column("expected, kcal/mol", 2),
    "orbital_free_fitted_dipole_debye": Column("its dipole, D", 2),
}
VALUES = [*list(MINIMA)[2:], *list(ELECTRONS)[1:]]
AUDIT = Comparison(alike={"num_passed": 3.0})  # at the end of long chains
AUDIT_opening = Comparison(alike={"num_passed": 3.0})
NUM_FRAMES = 20  # of the chain that the picture of the opening page takes three from


@dataclass(frozen=True)
class Task:
    """One molecule from noise."""

    row: int
    size: int  # atoms; 0: as in the training data
    seed: int
    num_calls: int
    num_conformers: int
    generator: str
    relaxer: str
    flow: str
    energy: str
    functional: str

    @property
    def files(self) -> list[Path]:
        """All weights, and the data that novelty and sizes are read from."""
        names = filter(None, [self.generator, self.relaxer, self.flow, self.energy, self.functional])
        return [*(file for name in names for file in weight_files(name)), data_root() / "qm9.npz"]


@asked
def tasks(
    *,
    count: int = 8,
    sizes: Sequence[int] = (),
    seed: int = 0,
    calls: int = 100,
    conformers: int = 8,
    generator: str = "edm_qm9_preconditioned",
    relaxer: str = "edm_qm9_low_noise",
    flow: str = "cgcf_qm9",
    energy: str = "etm_qm9",
    functional: str = "ofdft_small",
) -> list[Task]:
    """`count` molecules, a task each; sizes: their numbers of atoms, in turn; none: as in the training data."""
    turn = list(sizes) or [0]
    weights = (generator, relaxer, flow, energy, functional)
    return [Task(row, turn[row % len(turn)], seed, calls, conformers, *weights) for row in range(count)]


def measure(task: Task) -> list[dict[str, Any]]:
    """One row: what became of the molecule. Raises what `run_pipeline` raises."""
    settings = PipelineSettings(
        generator=task.generator,
        relaxer=task.relaxer,
        num_calls=task.num_calls,
        flow=task.flow,
        energy=task.energy,
        num_conformers=task.num_conformers,
        functional=task.functional,
        seed=SEEDS * task.seed + task.row,
    )
    with TemporaryDirectory() as folder:
        found = run_pipeline(1, Path(folder), sizes=[task.size] if task.size else [], settings=settings)
    return rows_of(found)


@dataclass(frozen=True)
class OpeningTask:
    """The molecule of the opening page: from noise, with `size` atoms."""

    size: int
    seed: int
    num_calls: int
    num_conformers: int
    generator: str
    functional: str

    @property
    def files(self) -> list[Path]:
        """The weights of the pipeline."""
        names = (self.generator, "cgcf_qm9", "etm_qm9", self.functional)
        return [file for name in names for file in weight_files(name)]


@asked
def tasks_opening(
    *,
    size: int = 11,
    seed: int = 27,
    calls: int = 100,
    conformers: int = 12,
    generator: str = "edm_qm9_preconditioned",
    functional: str = "ofdft_up_to_five",
) -> list[OpeningTask]:
    """One molecule of that many atoms."""
    return [OpeningTask(size, seed, calls, conformers, generator, functional)]


def measure_opening(task: OpeningTask) -> list[dict[str, Any]]:
    """One row: frames of the molecule's chain, its conformers, and what the pipeline says of it."""
    edm, generator = shared_edm(task.generator), torch.Generator().manual_seed(task.seed)
    size, sampler = torch.tensor([task.size]), sampler_named("sde-2m-extra")
    calls = {"num_calls": task.num_calls, "sampler": sampler, "keep_frames": NUM_FRAMES}
    drawn = sample(edm, size, generator=generator, **calls)
    molecule = drawn.molecules[0]
    settings = PipelineSettings(
        generator=task.generator, num_conformers=task.num_conformers, functional=task.functional, seed=task.seed
    )
    start = Journey("opening", molecule, "", structures={DRAWN: molecule.positions})
    journey = travel(Handed(start, settings))
    frames = [_rounded(one.positions, 3) for one in drawn.frames]
    return [{**row_of(journey), "frames": frames, "conformers": _rounded(journey.conformers, 3)}]


def rows_of(result: PipelineResult) -> list[dict[str, Any]]:
    """A row for each molecule, and for each chain that gave none."""
    nothing = Journey("", Molecule(np.ones(1, dtype=int), np.zeros((1, 3))), "")
    lost = row_of(replace(nothing, stages=(Stage(DRAWN, False, "its chain did not stay finite", 0.0),)))
    return [*map(row_of, result.journeys), *([lost] * result.num_failed_chains)]


def row_of(journey: Journey) -> dict[str, Any]:
    """What is known of a molecule: EACH as lists over its stages, kcal/mol above the lowest minimum and angstrom by
    structure, what the stages measured, and both densities where there are two.
    """
    stages = journey.stages
    densities = journey.densities if len(journey.densities) == 2 else {}
    return {
        "smiles": journey.smiles,
        "formula": journey.molecule.formula,
        "stage": [one.name for one in stages],
        "passed": [one.passed for one in stages],
        "note": [one.note for one in stages],
        "seconds": [one.seconds for one in stages],
        "num_passed": sum(one.passed for one in stages),
        "num_kept": 0 if journey.conformers is None else len(journey.conformers),
        **{name: journey.values.get(name) for name in VALUES},
        **{f"kcal {name}": journey.energies.get(name) for name in PLACES},
        "atomic_numbers": journey.molecule.atomic_numbers.tolist(),
        **{f"at {name}": _rounded(journey.structures.get(name), 4) for name in PLACES},
        **{f"density {name}": _rounded(densities.get(name), 7) for name in (KOHN_SHAM, ORBITAL_FREE)},
    }


def _rounded(values: np.ndarray | None, digits: int) -> list[Any] | None:
    return None if values is None else np.round(values, digits).tolist()


def way(rows: pd.DataFrame) -> pd.DataFrame:
    """How many molecules came to each stage, how many passed, and CPU seconds (of drawing: by the wall clock)."""
    each, found = rows[EACH].explode(EACH), []
    for name in STAGES:
        own = each[each["stage"] == name]
        passed = int(own["passed"].sum())
        counts = {"stage": name, "came": len(own), "passed": passed}
        mean = float(own["seconds"].astype(float).mean()) if len(own) else float("nan")
        found.append({**counts, "share": proportion_interval(passed, len(rows)), "seconds": mean})
    return pd.DataFrame(found)


def refusals(rows: pd.DataFrame) -> pd.DataFrame:
    """What ended journeys, or made a stage say no, counted."""
    each = rows[EACH].explode(EACH)
    said = each[~each["passed"].astype(bool)]
    said = said.assign(note=said["note"].map(_short))
    return said.groupby(["stage", "note"]).size().sort_values(ascending=False).rename("molecules").reset_index()


def _short(note: str) -> str:
    """A reason without the numbers and names of its molecule."""
    if "wrong valence" in note:
        return "atoms with the wrong valence"
    return "outside the functional's domain" if "this functional is for" in note else note.split(":")[0]


def stops(rows: pd.DataFrame) -> pd.DataFrame:
    """A line a molecule: the stage where it stopped and why, or that it came to the end; what the functional said."""
    found = []
    for _, row in rows.iterrows():
        ended = not row["passed"][-1]
        said = dict(zip(row["stage"], zip(row["passed"], row["note"], strict=True), strict=True))
        served, note = said.get(ORBITAL_FREE, (False, ""))
        line = {"molecule": row["smiles"] or row["formula"] or "–", "functional": "" if served else _short(note)}
        line |= {"stopped": row["stage"][-1] if ended else "–", "why": row["note"][-1] if ended else "came to the end"}
        found.append(line | ({"functional": "served it"} if served else {}))
    return pd.DataFrame(found, columns=list(STOPS))


def draw_funnel(rows: pd.DataFrame) -> Figure:
    """How many molecules came through each stage, as bars from the first to the last."""
    found = way(rows)
    caption = (
        f"n = {len(rows)} molecules. The orbital-free stage ends no journey: where the functional does not serve a "
        "molecule, Kohn-Sham does."
    )
    with panels(width=6.8, height=2.8, caption=caption) as (figure, (axis,)):
        colours = [SKY if name == ORBITAL_FREE else BLUE for name in found["stage"]]
        bars = axis.barh(found["stage"], found["passed"], color=colours)
        axis.bar_label(
            bars,
            [f"{passed} of {came}" for passed, came in zip(found["passed"], found["came"], strict=True)],
            padding=4,
        )
        axis.invert_yaxis()
        axis.set_xlim(0, 1.15 * len(rows))
        axis.set_xlabel("molecules that passed")
    return figure


def done(rows: pd.DataFrame) -> pd.DataFrame:
    """The molecules that came to their minima."""
    return rows[rows["num_minima"].notna()]


def electrons(rows: pd.DataFrame) -> pd.DataFrame:
    """The molecules with a Kohn-Sham energy."""
    return rows[rows["kohn_sham_hartree"].notna()]


def draw_ladder(rows: pd.DataFrame) -> Figure:
    """GFN2-xTB energy above the lowest minimum, stage by stage: every molecule, and the median."""
    found = done(rows)
    heights = found[[f"kcal {name}" for name in LADDER]].astype(float).clip(lower=LEAST_KCAL).to_numpy()
    caption = (
        f"n = {len(found)} molecules that came to their minima. Circles: median with bootstrap 95 % interval. Energies "
        f"by GFN2-xTB above the lowest minimum of each; below {LEAST_KCAL:g} drawn there."
    )
    with panels(width=6.4, height=3.6, caption=caption) as (figure, (axis,)):
        axis.plot(range(len(LADDER)), heights.T, color="#b8bec4", linewidth=0.8, zorder=1)
        for place, (column, (_, colour)) in enumerate(zip(heights.T, LADDER.values(), strict=True)):
            if len(known := column[np.isfinite(column)]):
                median = bootstrap_interval(known, statistic=np.median)
                ends = [[median.value - median.low], [median.high - median.value]]
                axis.errorbar(place, median.value, ends, fmt="o", color=colour, markersize=9, capsize=4, zorder=3)
        axis.set_yscale("log")
        axis.set_xticks(range(len(LADDER)), [label for label, _ in LADDER.values()])
        axis.set_ylabel("energy above the minimum\n(kcal/mol)")
    return figure


def views(rows: pd.DataFrame, *, count: int) -> "HTML | Text":
    """The first molecules that came to their minima, one below the other, each at its structures."""
    found = [_view(row) for _, row in done(rows)[:count].iterrows()]
    return stacked(*found) if found else Text("No molecule came to its minima.")


def _view(row: pd.Series) -> "HTML":
    names = [name for name in PLACES if isinstance(row[f"at {name}"], list)]
    energies = ", ".join(f"{name} {row[f'kcal {name}']:.1f}" for name in names if pd.notna(row[f"kcal {name}"]))
    caption = f"{row['smiles'] or row['formula']}: {', '.join(names)}."
    caption += f" GFN2-xTB, kcal/mol above the minimum: {energies}." if energies else ""
    return show_grid([_molecule(row, name) for name in names], caption=caption, columns=4, cell=150)


def _molecule(row: pd.Series, structure: str) -> Molecule:
    return Molecule(np.array(row["atomic_numbers"]), np.array(row[f"at {structure}"]))


def told_of_minima(rows: pd.DataFrame) -> Text:
    """How often the model drew the lowest conformer, of molecules that have more than one."""
    own = rows.loc[rows["num_minima"] > 1.0, "own_minimum_kcal"].dropna()
    if own.empty:
        return Text("No molecule with more than one conformer came this far.")
    far = own[own >= RULES.same_energy]
    return sentence(
        "Of {} molecules with several minima the model drew {} in the lowest one (within {} kcal/mol); the own minimum "
        "of the others lies {:.1f} kcal/mol above it in the median.",
        *(len(own), len(own) - len(far), RULES.same_energy, far.median() if len(far) else 0.0),
    )


def first_density(rows: pd.DataFrame) -> Figure | Text:
    """The planes of the first molecule that has both densities, or the sentence that there is none."""
    both = rows[rows[f"density {ORBITAL_FREE}"].map(lambda one: isinstance(one, list))]
    return density_planes(both.iloc[0]) if len(both) else Text("No molecule of this run is in the functional's domain.")


def density_planes(row: pd.Series) -> Figure:
    """Densities of a molecule with and without orbitals in its main plane, and their difference."""
    molecule = _molecule(row, LOWEST)
    across, up = _plane(molecule)
    points = across[..., None, :] + up[None]
    shape, flat = points.shape[:2], points.reshape(-1, 3) * ANGSTROM_TO_BOHR
    names = (KOHN_SHAM, ORBITAL_FREE)
    values = [density_at(molecule, np.array(row[f"density {name}"]), flat).reshape(shape).T for name in names]
    x, y = (np.linalg.norm(line - line[0], axis=-1) for line in (across, up))
    difference = values[1] - values[0]
    largest = float(np.abs(difference).max())
    caption = (
        f"{row['smiles']}, the plane of its longest extents. Lines at {', '.join(map(str, LEVELS))} "
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


def _axes(positions: np.ndarray) -> np.ndarray:
    """Main axes of points [A, 3] as rows [3, 3], the longest first."""
    centred = positions - positions.mean(axis=0)
    return np.linalg.eigh(centred.T @ centred)[1][:, ::-1].T


def _plane(molecule: Molecule) -> tuple[np.ndarray, np.ndarray]:
    """Points along the two sides of a rectangle in the molecule's main plane: [P, 3] each, angstrom."""
    middle, axes = molecule.positions.mean(axis=0), _axes(molecule.positions)
    places = (molecule.positions - middle) @ axes[:2].T
    low, high = places.min(0) - PLANE_MARGIN, places.max(0) + PLANE_MARGIN
    sides = [np.linspace(a, b, PLANE_POINTS) for a, b in zip(low, high, strict=True)]
    return middle + sides[0][:, None] * axes[0], sides[1][:, None] * axes[1]


def draw_opening(row: pd.Series) -> Figure:
    """Six pictures of one molecule: out of the noise, its conformers, its density, and that less Kohn-Sham's."""
    molecule, chain = _molecule(row, LOWEST), [np.array(frame) for frame in row["frames"]]
    shown = {"noise": chain[0], "half-way": chain[len(chain) // 2], "a molecule": np.array(row[f"at {DRAWN}"])}
    first, *others = (np.array(one) for one in row["conformers"])
    conformers = [first, *(superpose(one, first) for one in others)]
    across, up = _plane(molecule)
    points = (across[..., None, :] + up[None]).reshape(-1, 3) * ANGSTROM_TO_BOHR
    names = (ORBITAL_FREE, KOHN_SHAM)
    ours, theirs = (density_at(molecule, np.array(row[f"density {name}"]), points) for name in names)
    shape = (len(across), len(up))
    with panels(3, 2, width=8.4, height=2.5) as (figure, axes):
        for axis, (title, positions) in zip(axes, shown.items(), strict=False):
            _draw_atoms(axis, molecule, positions, shown["a molecule"], bonds=title == "a molecule")
            axis.set_title(title, fontsize=11)
        for one in conformers:
            _draw_atoms(axes[3], molecule, one, first, bonds=True, alpha=0.45)
        axes[3].set_title(f"{len(conformers)} of its conformers", fontsize=11)
        x, y = (np.linalg.norm(line - line[0], axis=-1) for line in (across, up))
        axes[4].contour(x, y, np.maximum(ours, 1e-8).reshape(shape).T, levels=LEVELS, colors=BLUE, linewidths=1.0)
        axes[4].set_title("its density, without orbitals", fontsize=11)
        difference = (ours - theirs).reshape(shape).T
        largest = float(np.abs(difference).max())
        axes[5].pcolormesh(x, y, difference, cmap="PuOr", vmin=-largest, vmax=largest, shading="auto", rasterized=True)
        axes[5].set_title(f"less Kohn-Sham's, ±{largest:.3f} e/bohr³", fontsize=11)
        for axis in axes:
            axis.set_aspect("equal")
            axis.axis("off")
    return figure


def _draw_atoms(
    axis: Axes, molecule: Molecule, positions: np.ndarray, like: np.ndarray, *, bonds: bool, alpha: float = 1.0
) -> None:
    """Balls, and sticks where wanted, at positions [A, 3] seen on the main plane of `like`; far ones first."""
    places = (positions - positions.mean(axis=0)) @ _axes(like).T
    if bonds:
        for bond in graph_by_distance(molecule.with_positions(positions)).GetBonds():
            ends = places[[bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()]]
            axis.plot(ends[:, 0], ends[:, 1], color="#8a9096", linewidth=2.0, alpha=alpha, zorder=1)
    order = np.argsort(places[:, 2])
    numbers = molecule.atomic_numbers[order]
    colours = [ELEMENT_COLOURS.get(int(number), OTHER_COLOUR) for number in numbers]
    sizes = np.where(numbers == 1, 45.0, 110.0) * alpha
    axis.scatter(*places[order, :2].T, s=sizes, c=colours, edgecolors="#33383d", linewidths=0.6, alpha=alpha, zorder=2)
