"""Classical kinetic functionals: on Kohn-Sham densities, and exact where one orbital is filled (page
`kinetic_functionals`)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from molkit.errors import InvalidInput
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column
from molkit.figures.style import BLACK, BLUE, VERMILION, panels
from molkit.molecule import Molecule
from molkit.ofdft.classical import ClassicalEnergy
from molkit.ofdft.functionals import FUNCTIONALS
from molkit.ofdft.kohn_sham import solved
from molkit.ofdft.labels import kinetic_functional
from molkit.ofdft.optimise import OptimiseOptions, optimise
from molkit.ofdft.reference_energies import pbe_energy

ORBITAL_BASES = ("6-31g", "6-31g(2df,p)", "cc-pvtz", "cc-pvqz", "cc-pv5z")
ONE_ORBITAL = {"H2": BLUE, "He": VERMILION}  # where vW is exact
MILLI = 1e3
SMALL = {
    "H2": Molecule(np.array([1, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]]), name="H2"),
    "HF": Molecule(np.array([9, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.917]]), name="HF"),
    "H2O": Molecule(
        np.array([8, 1, 1]), np.array([[0.0, 0.0, 0.0], [0.757, 0.0, 0.587], [-0.757, 0.0, 0.587]]), name="H2O"
    ),
    "He": Molecule(np.array([2]), np.zeros((1, 3)), name="He"),
}
AUDIT = Comparison(within={"kinetic": 1e-5, "error": 1e-3})
AUDIT_exact = Comparison(within={"offset": 1e-3}, free=("num_steps",))
AUDIT_bases = Comparison(within={"offset": 1e-3})
COLUMNS = {
    "molecule": "molecule",
    "kinetic": Column("T_s (Ha)", 3),
    **{name: Column(f"{name} (%)", 3) for name in FUNCTIONALS},
}
EXACT = {
    "molecule": "molecule",
    "start": "start",
    "method": "method",
    "offset": Column("energy above Kohn-Sham (mHa)", 6),
    "num_steps": Column("steps"),
    "converged": Column("converged", names={True: "yes", False: "no"}),
}


@dataclass(frozen=True)
class Task:
    """A molecule of SMALL on a quadrature grid."""

    molecule: str
    grid_level: int


@asked
def tasks(*, molecules: Sequence[str] = ("H2", "HF", "H2O"), grid_level: int = 2) -> list[Task]:
    """A task a molecule. Raises InvalidInput for none or an unknown one."""
    if not molecules or (unknown := [name for name in molecules if name not in SMALL]):
        got = ", ".join(unknown) if molecules else "none"
        raise InvalidInput(f"molecules must be some of {', '.join(SMALL)}; got {got}")
    return [Task(name, grid_level) for name in molecules]


def measure(task: Task) -> list[dict]:
    """Kinetic energy of the converged orbitals (hartree), and each functional's error on their fitted density (%)."""
    system, run = solved(SMALL[task.molecule], grid_level=task.grid_level)
    kinetic = run.steps[-1].parts.kinetic
    coefficients = system.fit(run.steps[-1].matrix[None])
    found = {name: kinetic_functional(name, system.grid, coefficients)[0][0] for name in FUNCTIONALS}
    return [
        {"functional": name, "kinetic": kinetic, "error": 100.0 * (float(value) / kinetic - 1.0)}
        for name, value in found.items()
    ]


@dataclass(frozen=True)
class ExactTask:
    """A system of one orbital, minimised with vW."""

    molecule: str
    grid_level: int
    descent_steps: int  # at most


@asked
def tasks_exact(*, grid_level: int = 2, descent_steps: int = 3000) -> list[ExactTask]:
    """H2 and He."""
    return [ExactTask(name, grid_level, descent_steps) for name in ONE_ORBITAL]


def measure_exact(task: ExactTask) -> list[dict]:
    """Two starts, two methods; `offset` of the energy above Kohn-Sham in the orbital basis, millihartree."""
    methods = {
        "L-BFGS": OptimiseOptions(tolerance=1e-5),
        "descent": OptimiseOptions(
            method="descent", tolerance=1e-4, step=0.01, momentum=0.9, max_steps=task.descent_steps
        ),
    }
    system, run = solved(SMALL[task.molecule], grid_level=task.grid_level)
    energy, found = ClassicalEnergy("vW", system.integrals, system.grid), []
    for start, step in {"MINAO": run.steps[0], "Kohn-Sham": run.steps[-1]}.items():
        first = energy.start(system.fit(step.matrix[None])[0])
        for method, options in methods.items():
            result = optimise(energy, first, constraint=energy.constraint, options=options)
            line = {"start": start, "method": method, "offset": MILLI * (result.energy - run.energy)}
            found.append(line | {"num_steps": result.num_steps, "converged": result.converged})
    return found


@asked
def tasks_bases(*, grid_level: int = 2) -> list[Task]:
    """H2 and He."""
    return [Task(name, grid_level) for name in ONE_ORBITAL]


def measure_bases(task: Task) -> list[dict]:
    """The minimum of vW in the density basis less Kohn-Sham in larger and larger orbital basis sets, millihartree."""
    molecule = SMALL[task.molecule]
    system, run = solved(molecule, grid_level=task.grid_level)
    energy = ClassicalEnergy("vW", system.integrals, system.grid)
    first = energy.start(system.fit(run.steps[-1].matrix[None])[0])
    lowest = optimise(energy, first, constraint=energy.constraint, options=OptimiseOptions(tolerance=1e-5)).energy
    found = []
    for basis in ORBITAL_BASES:
        reference, size = pbe_energy(molecule, basis, grid_level=task.grid_level)
        found.append({"basis": basis, "num_functions": size, "offset": MILLI * (lowest - reference)})
    return found


def by_functional(rows: pd.DataFrame) -> pd.DataFrame:
    """A line a molecule, an error a functional."""
    wide = rows.pivot(index=["molecule", "kinetic"], columns="functional", values="error").reset_index()
    return wide.set_index("molecule").loc[rows["molecule"].unique()].reset_index()


def draw_bases(rows: pd.DataFrame, *, caption: str) -> Figure:
    """How far the exact functional's minimum lies below Kohn-Sham, by the size of the orbital basis."""
    with panels(1, width=5.2, height=3.2, caption=caption) as (figure, (axes,)):
        for name, group in rows.groupby("molecule", sort=False):
            axes.plot(group["num_functions"], group["offset"], "o-", color=ONE_ORBITAL[name], label=name)
        axes.axhline(0.0, color=BLACK, linewidth=0.8)
        axes.set(xscale="log", xlabel="orbital functions", ylabel="minimum \u2212 Kohn-Sham (mHa)")
        axes.set_yscale("symlog", linthresh=0.1)
        axes.legend(fontsize=8)
    return figure
