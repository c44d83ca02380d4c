"""Strain: how far a structure is from the minimum next to it, in energy and in shape, by GFN2-xTB."""

from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from molkit.chem.bond_orders import packed_bonds
from molkit.chem.xtb import num_electrons, relax, relaxed_molecule
from molkit.errors import InvalidInput
from molkit.farm.engines import engine
from molkit.farm.run import run_farm
from molkit.metrics.statistics import Interval, bootstrap_interval, proportion_interval
from molkit.molecule import Molecule, PackedMolecules
from molkit.units import EV_TO_KCAL

FMAX = 0.05  # eV/angstrom
MAX_STEPS = 300
TIMEOUT = 120.0  # seconds a molecule


@dataclass(frozen=True)
class Strain:
    """One molecule's relaxation."""

    energy_drop: float  # kcal/mol
    rmsd: float  # angstrom, after alignment
    num_steps: int
    converged: bool
    bonds_changed: bool  # other pairs are bonded, by distance, at the minimum


@dataclass(frozen=True)
class StrainResult:
    """The strain of a set: figures over the molecules whose relaxation converged, and what became of the others."""

    num_molecules: int
    num_odd: int  # with an odd number of electrons: no closed shell, relaxed as doublets and left out of the figures
    num_failed: int
    num_not_converged: int
    num_bonds_changed: int
    energy_drop: Interval | None  # median, kcal/mol; None where nothing converged
    rmsd: Interval | None  # median, angstrom
    quartiles: tuple[float, float] | None  # of the energy drop
    rmsd_quartiles: tuple[float, float] | None
    reasons: tuple[str, ...]  # of the failures, by row

    @property
    def num_counted(self) -> int:
        """Molecules behind the medians."""
        return self.num_molecules - self.num_odd - self.num_failed - self.num_not_converged

    def share(self, count: int) -> Interval:
        """A count of molecules over all of them, with Wilson's interval."""
        return proportion_interval(count, self.num_molecules)


def strain_of(molecule: Molecule) -> Strain:
    """Relax one molecule. Raises CalculationFailed."""
    found = relax(molecule, fmax=FMAX, max_steps=MAX_STEPS)
    return Strain(
        energy_drop=found.energy_drop * EV_TO_KCAL,
        rmsd=found.rmsd,
        num_steps=found.num_steps,
        converged=found.converged,
        bonds_changed=bonded_pairs(molecule) != bonded_pairs(relaxed_molecule(molecule, found)),
    )


def bonded_pairs(molecule: Molecule) -> set[tuple[int, int]]:
    """Pairs of atoms bonded by the distance rule."""
    bonds = packed_bonds(PackedMolecules.from_molecules([molecule]), rule="qm9")
    return {tuple(sorted(pair)) for pair in zip(bonds.first.tolist(), bonds.second.tolist(), strict=True)}


@dataclass(frozen=True)
class Failure:
    """Why a molecule was not relaxed."""

    reason: str


def strain(
    molecules: Sequence[Molecule],
    *,
    executor: Executor | None = None,
    folder: Path | None = None,
    progress: bool = False,
) -> StrainResult:
    """Relax every molecule, with its charge, within a limit of time.

    Where and how is said at `relax_all`. Raises InvalidInput for an empty set.
    """
    if len(molecules) == 0:
        raise InvalidInput("strain needs at least one molecule, got none")
    tasks = list(molecules)
    return summary(tasks, relax_all(tasks, executor=executor, folder=folder, progress=progress))


def relax_all(
    molecules: Sequence[Molecule],
    *,
    executor: Executor | None = None,
    folder: Path | None = None,
    progress: bool = False,
) -> list[Strain | Failure]:
    """The outcome of each molecule, in order, from processes that may crash or hang.

    Without an executor, one process here. With a folder, a second call goes on where the first was interrupted.
    """
    tasks = {f"molecule_{row:06d}": molecule for row, molecule in enumerate(molecules)}
    where = nullcontext(executor) if executor is not None else engine(1, apart=True)
    place = nullcontext(folder) if folder is not None else TemporaryDirectory()
    with where as workers, place as root:
        found = run_farm(
            _strain_arrays,
            tasks,
            Path(root),
            executor=workers,
            timeout=TIMEOUT,
            settings={"fmax": FMAX, "max_steps": MAX_STEPS},
            progress=progress,
            unit="molecule",
        )
        arrays = found.results()
    return [_strain_from(arrays[key]) if key in arrays else Failure(found.failed[key]) for key in tasks]


def _strain_arrays(molecule: Molecule) -> dict[str, float | int | bool]:
    return asdict(strain_of(molecule))


def _strain_from(arrays: dict[str, np.ndarray]) -> Strain:
    return Strain(**{field.name: arrays[field.name].item() for field in fields(Strain)})


def summary(molecules: Sequence[Molecule], outcomes: Sequence[Strain | Failure]) -> StrainResult:
    """Figures of a set from the outcome of each molecule; medians with bootstrap intervals over molecules."""
    odd = np.array([num_electrons(molecule) % 2 == 1 for molecule in molecules])
    failed = np.array([isinstance(outcome, Failure) for outcome in outcomes])
    relaxed = [None if isinstance(outcome, Failure) else outcome for outcome in outcomes]
    done = np.array([entry is not None and entry.converged for entry in relaxed]) & ~odd
    counted = [entry for entry, good in zip(relaxed, done, strict=True) if good]
    drops, rmsds = (np.array([getattr(entry, name) for entry in counted]) for name in ("energy_drop", "rmsd"))
    return StrainResult(
        num_molecules=len(molecules),
        num_odd=int(odd.sum()),
        num_failed=int((failed & ~odd).sum()),
        num_not_converged=int((~failed & ~odd & ~done).sum()),
        num_bonds_changed=sum(entry.bonds_changed for entry in counted),
        energy_drop=bootstrap_interval(drops, statistic=np.median) if counted else None,
        rmsd=bootstrap_interval(rmsds, statistic=np.median) if counted else None,
        quartiles=tuple(np.percentile(drops, [25, 75]).tolist()) if counted else None,
        rmsd_quartiles=tuple(np.percentile(rmsds, [25, 75]).tolist()) if counted else None,
        reasons=tuple(outcome.reason for outcome in outcomes if isinstance(outcome, Failure)),
    )
