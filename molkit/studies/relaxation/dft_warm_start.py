"""Starts of a relaxation on a DFT surface: MMFF94, GFN2-xTB, diffusion, a perfect model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from molkit.chem.dft import DftEnergy, DftLevel
from molkit.chem.optimise import optimise
from molkit.chem.rdkit_conformers import as_embedded, force_field_minimum
from molkit.chem.xtb import XtbEnergy
from molkit.claims.ledger import Measurement
from molkit.data.qm9 import load_qm9
from molkit.data.registry import data_root
from molkit.edm.model import load
from molkit.edm.samplers import SAMPLERS
from molkit.errors import CalculationFailed, InvalidInput
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column
from molkit.figures.style import BLUE, ORANGE, panels
from molkit.metrics.statistics import bootstrap_interval, ratio_interval
from molkit.molecule import Molecule, PackedMolecules
from molkit.relaxation.boltzmann import Modes, cartesian_hessian, modes
from molkit.relaxation.comparison import largest_turn
from molkit.relaxation.denoisers import NetworkDenoiser
from molkit.relaxation.recipe import pre_relax
from molkit.relaxation.starts import ENDINGS, LEVELS, REFERENCE, classical_starts, edm_name, with_diffusion, with_xtb
from molkit.rng import generator_from
from molkit.studies.relaxation import comparison
from molkit.studies.relaxation.comparison import CARTESIAN, GFN2, INTERNAL, PERFECT, run_rows
from molkit.training.weights import weight_files
from molkit.units import EV_TO_KCAL, HARTREE_TO_EV

SIGMA = LEVELS[0]  # the level with the lowest mean excess over GFN2-xTB minima on 12 validation molecules
SAMPLED = edm_name(SIGMA, ENDINGS[0])
RUNS = {CARTESIAN: (REFERENCE, SAMPLED, PERFECT), INTERNAL: (REFERENCE, SAMPLED, GFN2, PERFECT)}
AUDIT = replace(comparison.AUDIT, alike={"excess": 6.0})  # a task takes minutes


@dataclass(frozen=True)
class Task:
    """A QM9 test molecule, all of its starts, one optimiser, one basis."""

    molecule: str
    weights: str
    basis: str
    optimiser: str
    seed: int

    @property
    def files(self) -> list[Path]:
        """Weights and data behind the task."""
        return [*weight_files(self.weights), data_root() / "qm9.npz"]


@asked
def tasks(
    *,
    heavy: Sequence[int] = (5, 6, 7),
    counts: Sequence[int] = (6, 4, 2),
    weights: str = "edm_qm9",
    basis: str = "6-31g(d)",
    optimisers: Sequence[str] = (CARTESIAN, INTERNAL),
    seed: int = 0,
) -> list[Task]:
    """`counts` test molecules of each number of `heavy` atoms, spread evenly over those there are.

    Raises InvalidInput where there are fewer, or an optimiser is none.
    """
    if len(heavy) != len(counts) or set(optimisers) - set(RUNS):
        raise InvalidInput(f"need as many counts as numbers of heavy atoms, and optimisers of {', '.join(RUNS)}")
    pack, sizes = _test_split()
    names = []
    for number, count in zip(heavy, counts, strict=True):
        members = np.flatnonzero(sizes == number)
        if not 1 <= count <= len(members):
            raise InvalidInput(f"1 to {len(members)} test molecules have {number} heavy atoms, asked for {count}")
        names += [pack[int(row)].name for row in members[np.arange(count) * len(members) // count]]
    return [Task(name, weights, basis, optimiser, seed) for name in names for optimiser in optimisers]


def measure(task: Task) -> list[dict[str, Any]]:
    """A row for each start, see `comparison.run_rows`."""
    molecule = _molecule(task.molecule)
    found = with_xtb(classical_starts(molecule), GFN2, "GFN2-xTB")
    own = generator_from("starts of", task.seed, molecule.name).initial_seed()
    made = with_diffusion([found], NetworkDenoiser(load(task.weights)), levels=(SIGMA,), endings=ENDINGS[:1], seed=own)
    runs = [(start, task.optimiser) for start in RUNS[task.optimiser]]
    rows = run_rows(made[0], runs, level=DftLevel(basis=task.basis), seed=task.seed)
    return [{name: value for name, value in row.items() if name != "optimiser"} for row in rows]


# ---- how high structures lie on the surface that the model was trained on ----

AUDIT_heights = Comparison(
    within=dict.fromkeys(("excess", "excess_xtb"), 0.05), alike={"excess": 3.0}, by=("start",), exact=(REFERENCE, GFN2)
)


@dataclass(frozen=True)
class HeightsTask:
    """A QM9 test molecule, several weights without noise in the steps, each from its own level."""

    molecule: str
    weights: tuple[str, ...]
    levels: tuple[float, ...]  # angstrom
    basis: str

    @property
    def files(self) -> list[Path]:
        """Weights and data behind the task."""
        return [*(file for one in self.weights for file in weight_files(one)), data_root() / "qm9.npz"]


@asked
def tasks_heights(
    *,
    heavy: Sequence[int] = (3, 4, 5),
    counts: Sequence[int] = (2, 3, 3),
    weights: Sequence[str] = ("edm_qm9_low_noise", "edm_qm9_preconditioned"),
    levels: Sequence[float] = (0.3, 0.1061),
    basis: str = "6-31g(2df,p)",
) -> list[HeightsTask]:
    """Molecules as in `tasks`, a task each. Raises InvalidInput as there, or unless each of the weights has a level."""
    if len(weights) != len(levels):
        raise InvalidInput(f"need a level for each of the weights, got {len(levels)} for {len(weights)}")
    names = dict.fromkeys(task.molecule for task in tasks(heavy=heavy, counts=counts))
    return [HeightsTask(name, tuple(weights), tuple(levels), basis) for name in names]


def measure_heights(task: HeightsTask) -> list[dict[str, Any]]:
    """A row for each structure: energies above QM9's own geometry by B3LYP, and above the GFN2-xTB minimum beside.

    All begin at QM9's own geometry, which is a minimum of B3LYP: MMFF94's minimum next to it, and from there that of
    GFN2-xTB and the model's structures. kcal/mol; `largest_turn` of a dihedral against QM9's geometry, degrees. What is
    left of that geometry's own excess, another program's minimum in a kindred basis, is estimated from its forces in
    the harmonic field of GFN2-xTB, and added to all. Raises CalculationFailed where an energy or a minimum is not had.
    """
    molecule = _molecule(task.molecule)
    cheap, dear = XtbEnergy(molecule), DftEnergy(molecule, level=DftLevel(basis=task.basis))
    given = force_field_minimum(as_embedded(molecule), REFERENCE)
    ended = optimise(given, XtbEnergy(given), optimiser=INTERNAL)
    places = {"dataset": molecule.positions, REFERENCE: given.positions, GFN2: ended.positions}
    for weights, level in zip(task.weights, task.levels, strict=True):
        options = {"sigma": level, "sampler": SAMPLERS["ddim"], "generator": generator_from("heights")}
        (made,) = pre_relax(load(weights), [given], **options).molecules
        if made is None:
            raise CalculationFailed(f"{weights}: no structure came out")
        places[weights] = made.positions
    lowest = dear(molecule.positions)
    own = _harmonic_drop(lowest.forces, modes(cartesian_hessian(cheap, ended.positions), ended.positions))
    rows = []
    for start, positions in places.items():
        energy = float(dear.converged_field(positions).e_tot) * HARTREE_TO_EV
        above = (energy - lowest.energy + own, cheap(positions).energy - ended.energy_after)
        turn = largest_turn(positions, molecule.positions, molecule.atomic_numbers)
        heights = {name: round(value * EV_TO_KCAL, 3) for name, value in zip(HEIGHTS, above, strict=True)}
        rows.append({"start": start, **heights, "largest_turn": round(turn, 1), "formula": molecule.formula})
    return rows


LEAST_KCAL = 0.01  # a smaller mean is the minimum itself, and no ratio is taken
HEIGHTS = ("excess", "excess_xtb")  # on the surface of B3LYP, on that of GFN2-xTB


def _harmonic_drop(forces: np.ndarray, found: Modes) -> float:
    """Energy (eV) that a harmonic relaxation along modes gains from forces [A, 3]."""
    along = np.einsum("ax,max->m", forces, found.vectors)
    return float((along**2 / (2.0 * found.constants)).sum())


def heights(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean heights of each structure on both surfaces, and MMFF94's mean over them, paired over molecules.

    A molecule whose MMFF94 minimum is another conformer (a dihedral turned by more than 30 degrees) is left out.
    """
    turned = rows.loc[(rows["start"] == REFERENCE) & (rows["largest_turn"] > 30.0), "molecule"]
    kept = rows[~rows["molecule"].isin(turned)]
    reference = kept[kept["start"] == REFERENCE].set_index("molecule")
    found = []
    for start, group in kept.groupby("start", sort=False):
        line: dict[str, Any] = {"start": start, "num": len(group)}
        for name in HEIGHTS:
            own = group.set_index("molecule")[name].loc[reference.index].to_numpy()
            line |= {name: bootstrap_interval(own)}
            if own.mean() > LEAST_KCAL and start != REFERENCE:
                line[f"ratio_{name}"] = ratio_interval(reference[name].to_numpy(), own)
        found.append(line)
    return pd.DataFrame(found, dtype=object)


def measurements_heights(rows: pd.DataFrame, weights: str) -> list[Measurement]:
    """MMFF94's mean height on the surface of B3LYP over that of weights, for the ledger."""
    (line,) = heights(rows).query("start == @weights").to_dict("records")
    told = f"single energies, {surface(rows)}, above QM9's own geometries"
    line |= {"ratio": line["ratio_excess"]}
    return [comparison.ratio_measurement("relaxation.energy.ratio_dft_chosen", line, rows, weights, notes=told)]


def draw_heights(rows: pd.DataFrame) -> Figure:
    """Mean heights of each structure on both surfaces, with intervals."""
    found = heights(rows)
    basis = str(rows["basis"].iloc[0])
    surfaces = {"excess": (f"B3LYP/{basis}", BLUE, -0.12), "excess_xtb": ("GFN2-xTB", ORANGE, 0.12)}
    counted = f"n = {found['num'].max()} QM9 test molecules"
    caption = f"Mean energy above the minimum of each surface, {counted}; 95 % bootstrap."
    with panels(width=7.0, height=0.5 * len(found) + 1.0, caption=caption) as (figure, (axes,)):
        for name, (label, colour, shift) in surfaces.items():
            middle = np.array([one.value for one in found[name]])
            ends = [[one.value - one.low for one in found[name]], [one.high - one.value for one in found[name]]]
            axes.errorbar(middle, np.arange(len(found)) + shift, xerr=ends, fmt="o", color=colour, label=label)
        axes.set_yticks(range(len(found)), [comparison.WORDS.get(one, one) for one in found["start"]])
        axes.invert_yaxis()
        axes.set_xlabel("mean energy above the minimum (kcal/mol)")
        axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0.0, 1.0))
    return figure


HEIGHT_COLUMNS = {
    "start": Column("structure", names=comparison.WORDS),
    "excess": Column("B3LYP, kcal/mol", 2),
    "ratio_excess": Column("MMFF94's over it", 1),
    "excess_xtb": Column("GFN2-xTB, kcal/mol", 2),
    "ratio_excess_xtb": Column("MMFF94's over it there", 1),
    "num": Column("n"),
}


@lru_cache(maxsize=1)
def _test_split() -> tuple[PackedMolecules, np.ndarray]:
    """The test split, and the number of heavy atoms of each molecule."""
    pack = load_qm9(split="test")
    return pack, np.add.reduceat((pack.atomic_numbers > 1).astype(int), pack.ptr[:-1])


def _molecule(name: str) -> Molecule:
    return next(one for one in _test_split()[0] if one.name == name)


def surface(rows: pd.DataFrame) -> str:
    """The level of theory in words."""
    return DftLevel(basis=str(rows["basis"].iloc[0])).label


def measurements(rows: pd.DataFrame) -> list[Measurement]:
    """Ratios of excesses and of gradients at the level chosen on validation molecules, for the ledger."""
    asked_for = {
        "relaxation.energy.ratio_dft": (SAMPLED, CARTESIAN, "ratio"),
        "relaxation.speedup.dft_cartesian": (SAMPLED, CARTESIAN, "step_ratio"),
        "relaxation.speedup.dft_internal": (SAMPLED, INTERNAL, "step_ratio"),
    }
    return comparison.measurements(rows, asked_for, notes=f"{surface(rows)}, noise {SIGMA} angstrom")
