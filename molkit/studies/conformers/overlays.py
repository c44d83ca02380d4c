"""Generated conformers laid on the references they come nearest to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from molkit.cgcf.conformers import generate
from molkit.cgcf.energy_training import load_energy
from molkit.cgcf.model import load_flow
from molkit.chem.conformer_rmsd import rmsd_matrix
from molkit.data.ensembles import ensemble_mol, load_ensembles
from molkit.errors import InvalidInput
from molkit.figures.view3d import show_grid
from molkit.geometry import superpose
from molkit.molecule import Molecule

if TYPE_CHECKING:
    from IPython.display import HTML

COLUMNS = 4


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
            made = generate(model, one.smiles, count, generator=generator, mol=mol, energy=network)
        except InvalidInput:  # an element that the weights never saw
            continue
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


def overlay_grid(found: Sequence[Overlay]) -> "HTML":
    """Rows of references, and under each row the nearest generated conformers laid on them; full rows only."""
    columns = min(COLUMNS, len(found))
    drawn = found[: len(found) - len(found) % columns] if columns else found
    caption = "Upper rows: references; below each: the nearest generated conformer, laid on it. " + "; ".join(
        f"{one.name}: {one.rmsd:.2f} Å" for one in drawn
    )
    blocks = [drawn[start : start + columns] for start in range(0, len(drawn), max(columns, 1))]
    shown = [molecule for row in blocks for molecule in ([one.reference for one in row] + [one.nearest for one in row])]
    return show_grid(shown, caption=caption + " (heavy atoms).", columns=columns)
