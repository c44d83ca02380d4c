"""A second stability convention that knows formal charges and aromatic bonds.

Bonds, bond orders and formal charges are perceived from the coordinates for the stated total charge (RDKit, see
`molkit.chem.rdkit_tools.perceive_bonds`). An atom is stable if it has no unpaired electron and its combination of
element, formal charge and valence (Kekule bond orders added up) is one of ALLOWED. A molecule is stable if the graph
was found without resorting to radicals, is connected, and all its atoms are stable.

Where no graph with charges exists (a missing hydrogen, say), a graph with radicals is tried to see which atoms are at
fault; where that fails too, bonds count as not perceived and no atom of the molecule as stable.
Source: our own convention, to stand beside the distance rule of the EDM paper, which calls nitro groups, ammonium and
carboxylate unstable and has its C=C threshold on top of the aromatic bond length.
"""

import numpy as np

from molkit.chem.bond_orders import overlapping
from molkit.chem.rdkit_tools import AtomState, atom_states, perceive_bonds
from molkit.errors import InvalidInput
from molkit.metrics.stability import StabilityResult, finite_molecules
from molkit.molecule import SYMBOLS, Molecule, PackedMolecules

# (formal charge, valence) of a stable atom. Carbanions and carbocations only as they occur in stable neutral
# molecules: [C-] in ylids, isocyanides and carbon monoxide; no bare carbocation.
ALLOWED: dict[int, frozenset[tuple[int, int]]] = {
    1: frozenset({(0, 1)}),
    5: frozenset({(0, 3), (-1, 4)}),
    6: frozenset({(0, 4), (-1, 3)}),
    7: frozenset({(0, 3), (1, 4), (-1, 2)}),
    8: frozenset({(0, 2), (-1, 1), (1, 3)}),
    9: frozenset({(0, 1), (-1, 0)}),
    14: frozenset({(0, 4)}),
    15: frozenset({(0, 3), (0, 5), (1, 4), (-1, 6)}),
    16: frozenset({(0, 2), (0, 4), (0, 6), (-1, 1), (1, 3)}),
    17: frozenset({(0, 1), (-1, 0)}),
    33: frozenset({(0, 3), (0, 5)}),
    35: frozenset({(0, 1), (-1, 0)}),
    53: frozenset({(0, 1), (-1, 0)}),
}


def formal_charge_stability(molecules: PackedMolecules) -> StabilityResult:
    """Score every molecule by perceived bonds; about 0.3 ms a molecule of QM9's size.

    Raises InvalidInput for an element without an allowed combination.
    """
    unknown = np.setdiff1d(molecules.atomic_numbers, list(ALLOWED))
    if len(unknown):
        expected = " ".join(SYMBOLS[number] for number in ALLOWED)
        raise InvalidInput(f"rule 'formal_charge' knows the elements {expected}; got {SYMBOLS[unknown[0]]}")
    finite = finite_molecules(molecules)
    counts = np.zeros(len(molecules), dtype=np.int64)
    stable = np.zeros(len(molecules), dtype=bool)
    perceived = np.zeros(len(molecules), dtype=bool)
    for row, molecule in zip(np.flatnonzero(finite).tolist(), molecules.select(finite), strict=True):
        counts[row], stable[row], perceived[row] = score_molecule(molecule)
    apart = ~overlapping(molecules)
    return StabilityResult(
        "formal_charge",
        counts,
        np.asarray(molecules.num_atoms, dtype=np.int64),
        stable & apart,
        int((~finite).sum()),
        int((finite & ~perceived).sum()),
        int((~apart).sum()),
    )


def score_molecule(molecule: Molecule) -> tuple[int, bool, bool]:
    """Number of stable atoms, whether the molecule is stable, whether any bond graph was found."""
    charged = perceive_bonds(molecule)
    found = charged if charged.perceived else perceive_bonds(molecule, allow_radicals=True)
    if found.mol is None:
        return 0, False, False
    states, connected = atom_states(found.mol)
    stable_atoms = sum(is_stable(state) for state in states)
    return stable_atoms, charged.perceived and connected and stable_atoms == molecule.num_atoms, True


def is_stable(state: AtomState) -> bool:
    """Whether one atom's element, formal charge, valence and unpaired electrons are an allowed combination."""
    allowed = ALLOWED.get(state.atomic_number, frozenset())
    return state.unpaired_electrons == 0 and (state.formal_charge, state.valence) in allowed
