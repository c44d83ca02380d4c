"""Generated conformers laid on the references they come nearest to."""

from dataclasses import dataclass

import numpy as np
import torch

from molkit.cgcf.conformer_jobs import tilted
from molkit.cgcf.conformers import generate
from molkit.cgcf.energy_training import load_energy
from molkit.cgcf.model import load_flow
from molkit.chem.conformer_rmsd import rmsd_matrix
from molkit.data.ensembles import ensemble_mol, load_ensembles
from molkit.errors import InvalidInput
from molkit.geometry import superpose
from molkit.molecule import Molecule


@dataclass(frozen=True, eq=False)
class Overlay:
    """A reference and the nearest generated conformer in the same orientation; heavy-atom RMSD in angstrom."""

    name: str
    reference: Molecule
    nearest: Molecule
    rmsd: float


def overlays(weights: str, energy: str, *, data: str, num_molecules: int, count: int, seed: int) -> list[Overlay]:
    """The lowest reference of test molecules and the nearest of `count` conformers; molecules spread evenly.

    With an energy the conformers are refined by it. Molecules that the flow does not know are passed over.
    Raises InvalidInput where that leaves none.
    """
    model, network = load_flow(weights), load_energy(energy, flow=weights) if energy else None
    found = []
    for row, one in enumerate(load_ensembles(data, split="test", limit=num_molecules)):
        mol, generator = ensemble_mol(one), torch.Generator().manual_seed(seed + row)
        try:
            made = generate(model, one.smiles, count, generator=generator, mol=mol)
        except InvalidInput:  # an element that the weights never saw
            continue
        made = made if network is None else tilted(made, model, network, generator=generator)
        reference = one.positions[np.argsort(one.energies, kind="stable")[0]]
        distances = rmsd_matrix(mol, reference[None], made.positions)[0]
        best = int(distances.argmin())
        nearest = superpose(made.positions[best], reference)
        pair = (Molecule(one.atomic_numbers, positions) for positions in (reference, nearest))
        found.append(Overlay(one.smiles, *pair, float(distances[best])))
    if not found:
        raise InvalidInput(
            f"{weights} knows the elements of none of the {num_molecules} molecules of {data} that were chosen; "
            "choose more"
        )
    return found
