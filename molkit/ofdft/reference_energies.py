"""Kohn-Sham energies of PySCF in any orbital basis, and its forces in ours."""

import numpy as np
from pyscf import dft, gto

from molkit.chem.threads import one_thread
from molkit.errors import CalculationFailed
from molkit.molecule import SYMBOLS, Molecule
from molkit.ofdft.basis import ORBITAL_BASIS, require_supported
from molkit.ofdft.grid import FUNCTIONAL
from molkit.units import ANGSTROM_TO_BOHR


@one_thread()
def pbe_energy(molecule: Molecule, basis: str, *, grid_level: int) -> tuple[float, int]:
    """Total energy (hartree) of PySCF's restricted Kohn-Sham PBE, and the number of orbital functions.

    Raises CalculationFailed where it does not converge, InvalidInput for a molecule that is not supported.
    """
    run = _restricted(molecule, basis, grid_level=grid_level)
    energy = run.kernel()
    if not run.converged:
        raise CalculationFailed(f"{molecule.formula}: Kohn-Sham in {basis} did not converge")
    return float(energy), int(run.mol.nao)


@one_thread()
def pbe_forces(molecule: Molecule, *, grid_level: int) -> np.ndarray:
    """Analytic forces of PySCF's Kohn-Sham in the orbital basis of the labels, [A, 3], hartree per bohr.

    The grid moves with the atoms. Raises as `pbe_energy` does.
    """
    run = _restricted(molecule, ORBITAL_BASIS, grid_level=grid_level)
    run.kernel()
    if not run.converged:
        raise CalculationFailed(f"{molecule.formula}: Kohn-Sham did not converge")
    gradients = run.nuc_grad_method()
    gradients.grid_response = True
    return -np.asarray(gradients.kernel())


def _restricted(molecule: Molecule, basis: str, *, grid_level: int) -> dft.rks.RKS:
    require_supported(molecule)
    positions = molecule.positions * ANGSTROM_TO_BOHR
    atoms = [(SYMBOLS[number], tuple(row)) for number, row in zip(molecule.atomic_numbers, positions, strict=True)]
    run = dft.RKS(gto.M(atom=atoms, unit="Bohr", basis=basis, verbose=0))
    run.xc, run.grids.level, run.grids.prune, run.conv_tol = FUNCTIONAL, grid_level, dft.gen_grid.nwchem_prune, 1e-9
    return run
