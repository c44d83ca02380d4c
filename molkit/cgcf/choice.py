"""Which published weights make the conformers of a molecule, where the user names none."""

from molkit.chem.bond_graph import graph_mol
from molkit.errors import InvalidInput

AUTO = "auto"
SMALL, LARGE = "cgcf_qm9", "cgcf_drug"
SMALL_ELEMENTS = frozenset({1, 6, 7, 8})  # of the packed QM9
SMALL_HEAVY_ATOMS = 9  # the largest molecules of QM9
ENERGY_OF = {SMALL: "etm_qm9", LARGE: "etm_drug"}


def flow_for(smiles: str) -> str:
    """Published flow for a molecule: that of QM9 up to its size and elements, else the one for drug-size molecules.

    A SMILES that is no molecule gets the small one, which refuses it with the reason.
    """
    try:
        numbers = [atom.GetAtomicNum() for atom in graph_mol(smiles).GetAtoms()]
    except InvalidInput:
        return SMALL
    small = SMALL_ELEMENTS.issuperset(numbers) and sum(number > 1 for number in numbers) <= SMALL_HEAVY_ATOMS
    return SMALL if small else LARGE


def energy_for(flow: str) -> str:
    """Published energy that tilts this flow. Raises InvalidInput where there is none."""
    if flow not in ENERGY_OF:
        raise InvalidInput(f"no published energy belongs to {flow}; name weights, or choose {' or '.join(ENERGY_OF)}")
    return ENERGY_OF[flow]
