"""Kohn-Sham energies and forces by PySCF as an energy function, with the last density as the next guess."""

import warnings
from dataclasses import dataclass

import numpy as np

from molkit.chem.threads import one_thread
from molkit.chem.xtb import CLOSEST, EnergyForces, closest_distance, num_electrons
from molkit.errors import CalculationFailed, InvalidInput
from molkit.molecule import Molecule
from molkit.units import BOHR_TO_ANGSTROM, HARTREE_TO_EV


@dataclass(frozen=True, kw_only=True)
class DftLevel:
    """Functional, basis and thresholds; "hf" is Hartree-Fock. Absolute energies are not those of QM9.

    PySCF's b3lyp is the VWN-RPA variant; its d functions are spherical where QM9's program used Cartesian ones.
    """

    functional: str = "b3lyp"
    basis: str = "6-31g(2df,p)"
    density_fit: bool = True
    grid_level: int = 1
    tolerance: float = 1e-7  # hartree, of the self-consistent energy
    max_cycles: int = 60

    @property
    def label(self) -> str:
        """The level in words."""
        fitted = ", density fitted" if self.density_fit else ""
        return f"{self.functional.upper()}/{self.basis}{fitted}, grid {self.grid_level}"


@dataclass(frozen=True)
class SinglePoint:
    """Energy in hartree and size of the dipole moment in debye."""

    energy: float
    dipole: float


def single_point(molecule: Molecule, *, level: DftLevel | None = None) -> SinglePoint:
    """Energy and dipole moment of a molecule as it is. Raises what `DftEnergy` raises."""
    function = DftEnergy(molecule, level=level)
    field = function.converged_field(molecule.positions)
    with one_thread():
        moment = field.dip_moment(unit="Debye", verbose=0)
    return SinglePoint(float(field.e_tot), float(np.linalg.norm(moment)))


class DftEnergy:
    """Energy and forces of one molecule at any positions; every call starts from the density of the one before.

    PySCF uses one thread, whatever OMP_NUM_THREADS says.
    Raises InvalidInput for a spin that the electrons cannot have or an element without basis, CalculationFailed where
    the density does not converge or atoms overlap; a failed call leaves no density behind.
    """

    def __init__(self, molecule: Molecule, *, level: DftLevel | None = None) -> None:
        self.molecule, self.level = molecule, DftLevel() if level is None else level
        electrons = num_electrons(molecule)
        self.unpaired = max(molecule.spin, electrons % 2)
        if electrons < max(self.unpaired, 1) or (electrons - self.unpaired) % 2:
            raise InvalidInput(
                f"{electrons} electrons cannot have {self.unpaired} unpaired ones; correct charge or spin"
            )
        self._require_basis()
        self.density: np.ndarray | None = None

    def _require_basis(self) -> None:
        from pyscf.gto import basis
        from pyscf.lib.exceptions import BasisNotFoundError

        for symbol in sorted(set(self.molecule.symbols)):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # advice to install a package with further bases
                    known = basis.load(self.level.basis, symbol)
            except BasisNotFoundError:
                known = []
            if not known:
                raise InvalidInput(f"PySCF has no basis {self.level.basis} for {symbol}; name another basis")

    def __call__(self, positions: np.ndarray) -> EnergyForces:
        """Energy in eV and forces in eV/angstrom at positions [A, 3] in angstrom."""
        field = self.converged_field(positions)
        with one_thread():
            gradient = field.nuc_grad_method().kernel()
        if not np.isfinite(gradient).all():
            raise CalculationFailed(f"{self.level.label}: the gradient is not finite")
        self.density = field.make_rdm1()
        return EnergyForces(float(field.e_tot) * HARTREE_TO_EV, -gradient * HARTREE_TO_EV / BOHR_TO_ANGSTROM)

    def converged_field(self, positions: np.ndarray):
        """PySCF's mean-field object after its iterations at positions [A, 3] in angstrom."""
        if not np.isfinite(positions).all():
            raise CalculationFailed("a coordinate is not a finite number")
        if (near := closest_distance(positions)) < CLOSEST:
            raise CalculationFailed(f"two atoms are only {near:.2f} angstrom apart")
        field = self._field(positions)
        guess, self.density = self.density, None
        with one_thread():
            energy = field.kernel(dm0=guess)
        if not field.converged or not np.isfinite(energy):
            raise CalculationFailed(f"{self.level.label}: not converged after {self.level.max_cycles} cycles")
        return field

    def _field(self, positions: np.ndarray):
        from pyscf import dft, gto, scf

        mol = gto.M(
            atom=list(zip(self.molecule.symbols, positions.tolist(), strict=True)),
            basis=self.level.basis, charge=self.molecule.charge, spin=self.unpaired, unit="Angstrom", verbose=0,
        )  # fmt: skip
        if self.level.functional == "hf":
            field = scf.UHF(mol) if self.unpaired else scf.RHF(mol)
        else:
            field = dft.UKS(mol) if self.unpaired else dft.RKS(mol)
            field.xc, field.grids.level = self.level.functional, self.level.grid_level
        field = field.density_fit() if self.level.density_fit else field
        field.conv_tol, field.max_cycle = self.level.tolerance, self.level.max_cycles
        return field
