"""Ensembles of DFT-optimised conformers of 708 drug-like molecules, with their energies by ten methods.

Source: Folmsbee and Hutchison, Int. J. Quantum Chem. (2020), doi 10.1002/qua.26381.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from molkit.data.registry import read_npz
from molkit.errors import InvalidInput
from molkit.molecule import Molecule


@dataclass(frozen=True, eq=False)
class ConformerEnsemble:
    """Conformers of one molecule. Only differences inside one column of `energies` mean something."""

    name: str
    smiles: str
    atomic_numbers: np.ndarray  # [A] int64
    formal_charges: np.ndarray  # [A] int64
    bonds: np.ndarray  # [K, 3] int64: atom, atom, order (Kekule form), atoms from 0
    positions: np.ndarray  # [C, A, 3] float64, angstrom
    energies: np.ndarray  # [C, 10] float64, hartree, NaN where not computed
    energy_methods: tuple[str, ...]  # names of the ten columns
    conformer_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.positions)

    def molecule(self, conformer: int) -> Molecule:
        """One conformer as a molecule, charged by the sum of its formal charges."""
        charge = int(self.formal_charges.sum())
        name = f"{self.name}_{self.conformer_names[conformer]}"
        return Molecule(self.atomic_numbers, self.positions[conformer], charge=charge, name=name)

    def energies_by(self, method: str) -> np.ndarray:
        """Energies [C] by one method, hartree."""
        if method not in self.energy_methods:
            raise InvalidInput(f"no energies by {method!r}: expected one of {', '.join(self.energy_methods)}")
        return self.energies[:, self.energy_methods.index(method)]


def load_conformer_ensembles(*, limit: int | None = None, root: Path | None = None) -> list[ConformerEnsemble]:
    """The ensembles in the order of the file, or only its first `limit`."""
    arrays = read_npz("conformers_dft.npz", root=root)
    num_atoms = arrays["mol_n_atoms"].astype(np.int64)
    numbers = np.split(arrays["numbers"].astype(np.int64), np.cumsum(num_atoms)[:-1])
    charges = np.split(arrays["formal_charges"].astype(np.int64), np.cumsum(num_atoms)[:-1])
    bonds = np.split(arrays["bonds"].astype(np.int64), np.cumsum(arrays["mol_n_bonds"], dtype=np.int64)[:-1])
    owner = arrays["conf_mol"]
    ends = np.cumsum(num_atoms[owner])
    positions, names = arrays["positions"].astype(np.float64), arrays["conf_name"].tolist()
    ensembles = []
    for row in range(len(num_atoms))[:limit]:
        conformers = np.flatnonzero(owner == row)
        atoms = np.concatenate([np.arange(ends[c] - num_atoms[row], ends[c]) for c in conformers])
        ensembles.append(
            ConformerEnsemble(
                name=str(arrays["mol_name"][row]),
                smiles=str(arrays["mol_smiles"][row]),
                atomic_numbers=numbers[row],
                formal_charges=charges[row],
                bonds=bonds[row],
                positions=positions[atoms].reshape(len(conformers), num_atoms[row], 3),
                energies=arrays["energies_hartree"][conformers],
                energy_methods=tuple(arrays["energy_methods"].tolist()),
                conformer_names=tuple(names[c] for c in conformers),
            )
        )
    return ensembles
