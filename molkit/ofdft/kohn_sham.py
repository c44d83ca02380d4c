"""Kohn-Sham PBE whose every step is a labelled sample: our own loop, with the DIIS coefficients in the open."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg
from pyscf import df, gto, scf

from molkit.chem.threads import one_thread
from molkit.errors import CalculationFailed
from molkit.molecule import Molecule
from molkit.ofdft.basis import density_mole, orbital_mole
from molkit.ofdft.fitting import DensityFit, density_fit
from molkit.ofdft.grid import Grid, build_grid, matrix_exchange_correlation
from molkit.ofdft.integrals import DensityIntegrals, density_integrals, three_centre

DIIS_VECTORS = 8
TOLERANCE = 1e-9  # hartree
MAX_CYCLES = 60
FITTED_FROM_ATOMS = 30
COULOMB_BASIS = "def2-universal-jfit"


@dataclass(frozen=True, eq=False)
class System:
    """One molecule with everything its Kohn-Sham samples share: integrals, grid, fit."""

    molecule: Molecule
    integrals: DensityIntegrals
    grid: Grid
    core: np.ndarray  # [N, N], kinetic and nuclear attraction
    kinetic: np.ndarray  # [N, N]
    overlap: np.ndarray  # [N, N]
    guess: np.ndarray  # [N, N], superposition of atomic densities (MINAO)
    fit: DensityFit
    mixed_overlap: np.ndarray  # [N, N, M], of orbital pairs and density functions

    @property
    def num_orbitals(self) -> int:
        """Doubly occupied orbitals."""
        return self.integrals.num_electrons // 2

    @cached_property
    def orbitals(self) -> gto.Mole:
        """PySCF's molecule in the orbital basis."""
        return orbital_mole(self.molecule)

    @cached_property
    def _repulsion(self) -> np.ndarray | df.DF:
        if self.molecule.num_atoms < FITTED_FROM_ATOMS:
            return self.orbitals.intor("int2e", aosym="s8")
        return df.DF(self.orbitals, auxbasis=COULOMB_BASIS).build()

    def coulomb_matrix(self, matrix: np.ndarray) -> np.ndarray:
        """J of a density matrix; by density fitting from FITTED_FROM_ATOMS atoms on, as in the papers' data."""
        if isinstance(self._repulsion, df.DF):
            return self._repulsion.get_jk(matrix, with_k=False)[0]
        return scf.hf.dot_eri_dm(self._repulsion, matrix, hermi=1, with_k=False)[0]

    def perturbation(self, coefficients: np.ndarray) -> np.ndarray:
        """Matrix of the potential sum_m b_m omega_m(r) for coefficients b [M]; [N, N]."""
        return self.mixed_overlap @ coefficients


@one_thread()
def build_system(molecule: Molecule, *, grid_level: int = 2) -> System:
    """Integrals, grid and fit of a molecule, each made once. Raises InvalidInput for one that is not supported."""
    orbitals, density = orbital_mole(molecule), density_mole(molecule)
    integrals = density_integrals(molecule)
    core = scf.hf.get_hcore(orbitals)
    kinetic = orbitals.intor("int1e_kin")
    pairs = three_centre(orbitals, density, "coulomb")
    return System(
        molecule=molecule,
        integrals=integrals,
        grid=build_grid(molecule, level=grid_level),
        core=core,
        kinetic=kinetic,
        overlap=orbitals.intor("int1e_ovlp"),
        guess=np.asarray(scf.hf.init_guess_by_minao(orbitals)),
        fit=density_fit(integrals, pairs, core - kinetic),
        mixed_overlap=three_centre(orbitals, density, "overlap"),
    )


@dataclass(frozen=True, eq=False)
class EnergyParts:
    """Kohn-Sham energies of one density matrix, hartree."""

    kinetic: float
    hartree: float
    external: float
    exchange_correlation: float

    @property
    def electronic(self) -> float:
        """Their sum."""
        return self.kinetic + self.hartree + self.external + self.exchange_correlation


@dataclass(frozen=True, eq=False)
class Step:
    """A density matrix, its energies and Fock matrix, and the potential whose ground state it is.

    mixing [k]: DIIS coefficients of the Fock matrices of steps 0..k-1, in order, summing to 1; None for the guess.
    perturbation [M]: coefficients b of a potential that was added, or None.
    """

    matrix: np.ndarray
    parts: EnergyParts
    fock: np.ndarray
    mixing: np.ndarray | None = None
    perturbation: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class KohnShamRun:
    """Steps of one calculation, the guess first; `energy` is that of the last one, nuclei included."""

    steps: tuple[Step, ...]
    energy: float
    converged: bool


def evaluate(system: System, matrix: np.ndarray) -> tuple[EnergyParts, np.ndarray]:
    """Energies of a density matrix, and its Fock matrix."""
    coulomb = system.coulomb_matrix(matrix)
    energy, potential = matrix_exchange_correlation(system.grid, matrix)
    kinetic = float(np.vdot(system.kinetic, matrix))
    parts = EnergyParts(
        kinetic, 0.5 * float(np.vdot(coulomb, matrix)), float(np.vdot(system.core, matrix)) - kinetic, energy
    )
    return parts, system.core + coulomb + potential


def lowest_density(system: System, fock: np.ndarray) -> np.ndarray:
    """Density matrix of the non-interacting electrons in this Fock matrix."""
    _, orbitals = scipy.linalg.eigh(fock, system.overlap)
    occupied = orbitals[:, : system.num_orbitals]
    return 2.0 * occupied @ occupied.T


def diis_coefficients(errors: list[np.ndarray]) -> np.ndarray:
    """Coefficients, summing to 1, whose mixed commutator has the least norm; the last DIIS_VECTORS steps take part.

    Source: Pulay, J. Comput. Chem. 3, 556 (1982).
    """
    used = errors[-DIIS_VECTORS:]
    size = len(used)
    equations = np.zeros((size + 1, size + 1))
    equations[0, 1:] = equations[1:, 0] = 1.0
    equations[1:, 1:] = [[np.vdot(a, b) for b in used] for a in used]
    scale = np.abs(equations[1:, 1:]).max()
    equations[1:, 1:] /= scale if scale > 0 else 1.0
    right = np.zeros(size + 1)
    right[0] = 1.0
    found = np.linalg.lstsq(equations, right, rcond=1e-14)[0][1:]
    return np.concatenate([np.zeros(len(errors) - size), found])


@dataclass(frozen=True)
class PerturbedCycles:
    """Random potentials in some cycles: b ~ N(0, s), s falling linearly to `floor` at the last of them.

    Source: STRUCTURES25's data generation, s = 0.1 (24 - k) / (24 - 4) + 0.002 in cycles 4 to 24.
    """

    first: int = 4
    last: int = 24
    scale: float = 0.1
    floor: float = 0.002

    def draw(self, cycle: int, size: int, random: np.random.Generator) -> np.ndarray | None:
        """Coefficients of the cycle's potential; None outside the perturbed cycles."""
        if not self.first <= cycle <= self.last:
            return None
        spread = self.scale * (self.last - cycle) / (self.last - self.first) + self.floor
        return spread * random.standard_normal(size)


@one_thread()
def solve(
    system: System,
    *,
    perturbed: PerturbedCycles | None = None,
    random: np.random.Generator | None = None,
    tolerance: float = TOLERANCE,
    max_cycles: int = MAX_CYCLES,
) -> KohnShamRun:
    """Restricted Kohn-Sham PBE from the MINAO guess, DIIS from the first cycle, no damping and no level shift.

    Converged when the energy moves less than `tolerance` and the commutator is below its square root, after the last
    perturbed cycle; otherwise the run comes back with converged=False. `random` draws the perturbations.
    """
    values, vectors = np.linalg.eigh(system.overlap)
    orthogonal = vectors / np.sqrt(values)
    parts, fock = evaluate(system, system.guess)
    steps, errors = [Step(system.guess, parts, fock)], []
    for cycle in range(1, max_cycles + 1):
        last = steps[-1]
        product = last.fock @ last.matrix @ system.overlap
        errors.append(orthogonal.T @ (product - product.T) @ orthogonal)
        mixing = diis_coefficients(errors)
        mixed = np.einsum("i,iab->ab", mixing, np.stack([step.fock for step in steps]))
        potential = None
        if perturbed is not None and random is not None:
            potential = perturbed.draw(cycle, len(system.integrals.external), random)
        if potential is not None:
            mixed = mixed + system.perturbation(potential)
        matrix = lowest_density(system, mixed)
        parts, fock = evaluate(system, matrix)
        steps.append(Step(matrix, parts, fock, mixing, potential))
        settled = abs(parts.electronic - last.parts.electronic) < tolerance
        settled = settled and np.linalg.norm(errors[-1]) < np.sqrt(tolerance)
        if settled and (perturbed is None or cycle > perturbed.last):
            return KohnShamRun(tuple(steps), parts.electronic + system.integrals.nuclear, True)
    return KohnShamRun(tuple(steps), steps[-1].parts.electronic + system.integrals.nuclear, False)


def require_converged(run: KohnShamRun, system: System) -> KohnShamRun:
    """The run, or CalculationFailed where it did not converge."""
    if not run.converged:
        label = system.molecule.name or system.molecule.formula
        raise CalculationFailed(f"{label}: Kohn-Sham not converged in {len(run.steps) - 1} cycles; left out")
    return run


def solved(molecule: Molecule, *, grid_level: int) -> tuple[System, KohnShamRun]:
    """A molecule's system and its run. Raises CalculationFailed where that does not converge."""
    system = build_system(molecule, grid_level=grid_level)
    return system, require_converged(solve(system), system)
