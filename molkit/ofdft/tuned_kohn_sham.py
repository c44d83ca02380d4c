"""PySCF's Kohn-Sham as fast as a user can make it: the other side of a comparison of cost.

Density-fitted Coulomb, screened quadrature on a coarse grid, and values of the orbital basis on the grid kept between
cycles where they fit in memory (PySCF makes them anew in every cycle).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyscf import dft, gto
from pyscf.dft import numint

from molkit.chem.threads import one_thread
from molkit.errors import CalculationFailed
from molkit.molecule import Molecule
from molkit.ofdft.basis import orbital_mole
from molkit.ofdft.grid import FUNCTIONAL
from molkit.ofdft.kohn_sham import COULOMB_BASIS

KEPT_GIB = 10.0
TOLERANCE = 1e-6  # hartree


@dataclass(frozen=True)
class KohnShamCost:
    """A converged energy (hartree) with the sizes that its cost depends on."""

    energy: float
    cycles: int
    num_orbitals: int
    num_points: int
    kept: bool  # whether the basis values were kept


class KeptNumInt(numint.NumInt):
    """PySCF's numerical integration with the blocks of basis values of the first pass."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[tuple] | None = None

    def block_loop(self, *arguments: Any, **options: Any) -> Iterator[tuple]:
        """The blocks of `NumInt.block_loop`, made once."""
        if self.blocks is None:
            self.blocks = [(np.array(values), *rest) for values, *rest in super().block_loop(*arguments, **options)]
        yield from self.blocks


@one_thread()
def tuned_energy(
    molecule: Molecule, *, grid_level: int = 1, note: Callable[[str], None] = lambda stage: None
) -> KohnShamCost:
    """Restricted PBE in the orbital basis of the labels; note(stage) is called where set-up and guess have ended.

    Raises CalculationFailed where it does not converge, InvalidInput for a molecule that is not supported.
    """
    mole = orbital_mole(molecule)
    run = dft.RKS(mole, xc=FUNCTIONAL).density_fit(auxbasis=COULOMB_BASIS)
    run.grids.level, run.grids.prune, run.conv_tol = grid_level, dft.gen_grid.nwchem_prune, TOLERANCE
    run.grids.build(with_non0tab=True)
    run.with_df.build()
    kept = _gib(mole, len(run.grids.weights)) < KEPT_GIB
    if kept:
        run._numint = KeptNumInt()
    note("set-up")
    guess = run.get_init_guess(mole, "minao")
    note("guess")
    energy = run.kernel(guess)
    note("optimisation")
    if not run.converged:
        raise CalculationFailed(f"{molecule.formula}: Kohn-Sham did not converge")
    return KohnShamCost(float(energy), int(run.cycles), int(mole.nao), len(run.grids.weights), kept)


def _gib(mole: gto.Mole, num_points: int) -> float:
    """Of basis values and their first derivatives."""
    return 32.0 * num_points * mole.nao / 2**30
