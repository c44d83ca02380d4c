"""Strain: how far a structure is from the minimum next to it, in energy and in shape, by GFN2-xTB."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from molkit.chem.bond_orders import packed_bonds
from molkit.chem.xtb import num_electrons, relax, relaxed_molecule
from molkit.errors import InvalidInput
from molkit.metrics.statistics import Interval, bootstrap_interval, proportion_interval
from molkit.molecule import Molecule, PackedMolecules
from molkit.processes import Failure, guarded_map
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


def strain(molecules: Sequence[Molecule], *, workers: int = 1, progress: bool = False) -> StrainResult:
    """Relax every molecule, with its charge, within a limit of time. Raises InvalidInput for an empty set."""
    if len(molecules) == 0:
        raise InvalidInput("strain needs at least one molecule, got none")
    tasks = list(molecules)
    return summary(tasks, relax_all(tasks, workers=workers, progress=progress))


def relax_all(molecules: Sequence[Molecule], *, workers: int = 1, progress: bool = False) -> list[Strain | Failure]:
    """The outcome of each molecule, in order, from processes that may crash or hang."""
    return guarded_map(strain_of, list(molecules), workers=workers, timeout=TIMEOUT, progress=progress)


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
