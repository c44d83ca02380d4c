"""Natural coordinates of a density in the molecule's frame: x = D W^(1/2) p, so that |x|^2 is the integral of rho^2."""

from dataclasses import dataclass

import numpy as np

from molkit.ofdft.basis import density_mole
from molkit.ofdft.classes import MolecularClass
from molkit.ofdft.frames import coefficient_rotation
from molkit.ofdft.integrals import DensityIntegrals


@dataclass(frozen=True, eq=False)
class NaturalFrame:
    """One molecule in natural coordinates: the map and its inverse [M, M], and integrals by x instead of p.

    descriptors [operations, D]: those of the molecule and its images.
    """

    integrals: DensityIntegrals
    to_natural: np.ndarray
    from_natural: np.ndarray
    coulomb: np.ndarray  # [M, M]
    external: np.ndarray  # [M]
    basis_integrals: np.ndarray  # [M]
    descriptors: np.ndarray


def natural_frame(integrals: DensityIntegrals, kind: MolecularClass) -> NaturalFrame:
    """The symmetric root of the overlap, turned into the frame. Raises InvalidInput for a molecule of another class."""
    molecule = integrals.molecule
    turn = coefficient_rotation(density_mole(molecule), kind.frame(molecule))
    root, inverse = integrals.roots
    from_natural = inverse @ turn.T
    return NaturalFrame(
        integrals=integrals,
        to_natural=turn @ root,
        from_natural=from_natural,
        coulomb=from_natural.T @ integrals.coulomb @ from_natural,
        external=integrals.external @ from_natural,
        basis_integrals=integrals.basis_integrals @ from_natural,
        descriptors=kind.descriptors(molecule.positions),
    )
