"""Kohn-Sham energies of PySCF in other orbital basis sets than ours."""

from pyscf import dft, gto

from molkit.errors import CalculationFailed
from molkit.molecule import SYMBOLS, Molecule
from molkit.ofdft.basis import require_supported
from molkit.ofdft.grid import FUNCTIONAL
from molkit.units import ANGSTROM_TO_BOHR


def pbe_energy(molecule: Molecule, basis: str, *, grid_level: int) -> tuple[float, int]:
    """Total energy (hartree) of PySCF's restricted Kohn-Sham PBE, and the number of orbital functions.

    Raises CalculationFailed where it does not converge, InvalidInput for a molecule that is not supported.
    """
    require_supported(molecule)
    positions = molecule.positions * ANGSTROM_TO_BOHR
    atoms = [(SYMBOLS[number], tuple(row)) for number, row in zip(molecule.atomic_numbers, positions, strict=True)]
    mole = gto.M(atom=atoms, unit="Bohr", basis=basis, verbose=0)
    run = dft.RKS(mole)
    run.xc, run.grids.level, run.grids.prune, run.conv_tol = FUNCTIONAL, grid_level, dft.gen_grid.nwchem_prune, 1e-9
    energy = run.kernel()
    if not run.converged:
        raise CalculationFailed(f"{molecule.formula}: Kohn-Sham in {basis} did not converge")
    return float(energy), int(mole.nao)
