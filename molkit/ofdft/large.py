"""The energy of an attention functional for molecules of thousands of electrons: no step cubic in the atoms.

The same function of the same channels as `AttentionEnergy`, for weights whose natural coordinates are those of single
atoms (roots: atoms); the root of a whole overlap would be cubic and dense.
"""

from time import process_time

import numpy as np

from molkit.errors import InvalidInput
from molkit.molecule import Molecule
from molkit.ofdft.attention_functional import AttentionFunctional
from molkit.ofdft.basis import density_mole, require_supported
from molkit.ofdft.channel_coulomb import MEMORY_GIB, ChannelCoulomb
from molkit.ofdft.channels import ELEMENTS, neighbourhood
from molkit.ofdft.integrals import basis_integrals, symmetric_roots
from molkit.ofdft.local_attention import LocalAttention


class LargeEnergy:
    """Energy (hartree, nuclei included) of channels z [A K], and its derivative; `constraint` is that of electrons.

    seconds: CPU time of the parts of the set-up.
    """

    def __init__(self, functional: AttentionFunctional, molecule: Molecule, *, memory_gib: float = MEMORY_GIB) -> None:
        require_supported(molecule)
        if functional.config.roots != "atoms":
            raise InvalidInput(f"{functional.name}: large molecules need a functional trained with roots: atoms")
        if functional.config.from_reference:
            raise InvalidInput(
                f"{functional.name}: counted from its reference energy, which is not built for large ones"
            )
        self.functional, self.molecule, self.seconds = functional, molecule, {}
        started = process_time()
        self.place = neighbourhood(molecule)
        self.lifts, self.inverses = self._by_atom()
        started = self._note("neighbours", started)
        self.coulomb = ChannelCoulomb(molecule, self.lifts, memory_gib=memory_gib)
        started = self._note("coulomb", started)
        self.network = LocalAttention(functional.network, self.place)
        self.present = np.concatenate([(np.abs(lift).sum(0) > 0.0).astype(float) for lift in self.lifts])
        self._note("network", started)

    def predict(self) -> np.ndarray:
        """z of the predicted density, at exactly N electrons: where a minimisation begins, without a cubic step."""
        started = process_time()
        self.reference_energy = self.functional.reduction.reference_energy(self.place)
        integrals = basis_integrals(density_mole(self.molecule))
        self.reference = self._coefficients_of_reference(len(integrals))
        parts = np.split(integrals, np.cumsum([len(lift) for lift in self.lifts])[:-1])
        self.constraint = np.concatenate([lift.T @ part for lift, part in zip(self.lifts, parts, strict=True)])
        missing = float(self.molecule.atomic_numbers.sum()) - float(integrals @ self.reference)
        self._note("guess", started)
        return self.constraint * missing / float(self.constraint @ self.constraint)

    def __call__(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy and derivative at z [A K]; `predict` comes first."""
        pull = self.coulomb(z)
        learned, slope = self.network(z * self.present)
        return self.reference_energy + 0.5 * float(z @ pull) + learned, pull + self.present * slope

    def coefficients(self, z: np.ndarray) -> np.ndarray:
        """Density coefficients [M] of z."""
        width = self.functional.reduction.layout.size
        moved = [lift @ row for lift, row in zip(self.lifts, z.reshape(-1, width), strict=True)]
        return self.reference + np.concatenate(moved)

    def _by_atom(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Density coefficients by channels [n, K], and from natural coordinates [n, n], for every atom.

        The overlap of an atom with itself is that of its element, so that every element is met once.
        """
        overlap, found = density_mole(self.molecule), {}
        shells = overlap.aoslice_by_atom()
        for atom, element in enumerate(self.place.elements.tolist()):
            if element not in found:
                own = (*shells[atom, :2], *shells[atom, :2])
                inverse = symmetric_roots(overlap.intor("int1e_ovlp", shls_slice=own), str(ELEMENTS[element]))[1]
                lift, _ = self.functional.reduction.atom_matrices(element, self.place.rows[atom])
                found[element] = (inverse @ lift, inverse)
        lifts, inverses = zip(*(found[element] for element in self.place.elements.tolist()), strict=True)
        return list(lifts), list(inverses)

    def _coefficients_of_reference(self, size: int) -> np.ndarray:
        natural = self.functional.reduction.reference_density(self.place, size)
        parts = np.split(natural, np.cumsum([len(lift) for lift in self.lifts])[:-1])
        return np.concatenate([inverse @ part for inverse, part in zip(self.inverses, parts, strict=True)])

    def _note(self, name: str, started: float) -> float:
        now = process_time()
        self.seconds[name] = now - started
        return now
