"""Minima by two optimisers that chemists use: Cartesian BFGS (ASE) and internal coordinates (geomeTRIC).

Both count energy and gradient evaluations; a run that stops at its limit says converged=False.
"""

import logging
from tempfile import TemporaryDirectory
from typing import Literal, get_args

import numpy as np

from molkit.chem.threads import one_thread
from molkit.chem.xtb import EnergyFunction, Relaxation, relax
from molkit.errors import CalculationFailed, InvalidInput
from molkit.geometry import aligned_rmsd
from molkit.molecule import Molecule
from molkit.units import ANGSTROM_TO_BOHR, BOHR_TO_ANGSTROM, HARTREE_TO_EV

Optimiser = Literal["cartesian", "internal"]
FMAX = 0.03  # eV/angstrom, largest force at which Cartesian BFGS stops
MAX_STEPS = 200


def optimise(
    molecule: Molecule, energy: EnergyFunction, *, optimiser: Optimiser, max_steps: int = MAX_STEPS
) -> Relaxation:
    """The minimum next to a molecule on any energy surface.

    cartesian: ASE's BFGS, initial Hessian 70 eV/angstrom^2, steps up to 0.2 angstrom, until the largest force is below
    0.03 eV/angstrom (Source: Rothchild et al. 2024). internal: geomeTRIC, translation-rotation internal coordinates
    with its model Hessian and its default thresholds. Raises CalculationFailed where an energy fails on the way,
    InvalidInput for an unknown optimiser or one atom in internal coordinates.
    """
    if optimiser not in get_args(Optimiser):
        raise InvalidInput(f"optimiser must be one of {', '.join(get_args(Optimiser))}, got {optimiser!r}")
    if optimiser == "internal" and molecule.num_atoms < 2:
        raise InvalidInput(f"internal coordinates need at least two atoms, got {molecule.num_atoms}; use cartesian")
    if optimiser == "cartesian":
        return relax(molecule, energy=energy, optimiser="bfgs", fmax=FMAX, max_steps=max_steps)
    return _internal(molecule, energy, max_steps)


def _internal(molecule: Molecule, energy: EnergyFunction, max_steps: int) -> Relaxation:
    from geometric.errors import Error as GeometricError
    from geometric.errors import GeomOptNotConvergedError
    from geometric.internal import DelocalizedInternalCoordinates
    from geometric.molecule import Molecule as Topology
    from geometric.optimize import Optimize
    from geometric.params import OptParams

    topology = Topology()
    topology.elem, topology.xyzs = molecule.symbols, [molecule.positions.copy()]
    topology.build_topology()
    engine = _engine(topology, energy)
    settings = OptParams(maxiter=max_steps, hessian="never", qccnv=False)
    logging.getLogger("geometric").setLevel(logging.CRITICAL)
    converged = True
    with TemporaryDirectory() as folder, one_thread():
        coordinates = DelocalizedInternalCoordinates(topology, build=True, connect=False, addcart=False)
        try:
            flat = molecule.positions.reshape(-1) * ANGSTROM_TO_BOHR
            Optimize(flat, topology, coordinates, engine, folder, settings)
        except GeomOptNotConvergedError:
            converged = False
        except GeometricError as error:
            raise CalculationFailed(f"geomeTRIC: {' '.join(str(error).split())[:120]}") from error
    first, (positions, last) = engine.seen[0][1], engine.seen[-1]
    return Relaxation(
        positions=positions,
        energy_before=first,
        energy_after=last,
        rmsd=aligned_rmsd(molecule.positions, positions),
        num_steps=len(engine.seen) - 1,
        num_gradients=len(engine.seen),
        converged=converged,
    )


def _engine(topology: object, energy: EnergyFunction) -> object:
    """Our energy function as geomeTRIC wants it; `seen` holds the positions and energy (eV) of every call."""
    from geometric.engine import Engine

    class Ours(Engine):
        seen: list[tuple[np.ndarray, float]]

        def calc_new(self, coords: np.ndarray, dirname: str) -> dict:
            positions = coords.reshape(-1, 3) * BOHR_TO_ANGSTROM
            found = energy(positions)
            self.seen.append((positions, found.energy))
            gradient = -found.forces.reshape(-1) / HARTREE_TO_EV * BOHR_TO_ANGSTROM
            return {"energy": found.energy / HARTREE_TO_EV, "gradient": gradient}

    engine = Ours(topology)
    engine.seen = []
    return engine
