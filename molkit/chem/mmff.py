"""MMFF94s energies of geometries as they are, with bonds perceived from the coordinates."""

from dataclasses import dataclass

from rdkit import Chem, rdBase
from rdkit.Chem import rdForceFieldHelpers

from molkit.chem.rdkit_tools import perceive_bonds
from molkit.molecule import Molecule


@dataclass(frozen=True)
class MmffEnergy:
    """Energy of one geometry in kcal/mol, or the reason why there is none."""

    energy_kcal: float | None
    reason: str = ""  # "not perceived", "in pieces" or "no parameters", with a colon and details


def mmff_energy(molecule: Molecule, *, charge: int | None = None, variant: str = "MMFF94s") -> MmffEnergy:
    """Single point of the force field on the given coordinates; nothing is relaxed.

    The bonds are perceived for the total charge (default: molecule.charge). There is no energy where no graph was
    found, where the graph falls into pieces, or where an atom has no type in the force field.
    Source: MMFF94s as in RDKit; Halgren, J. Comput. Chem. 20, 720 (1999).
    """
    found = perceive_bonds(molecule, charge=charge)
    if found.mol is None:
        return MmffEnergy(None, f"not perceived: {found.reason}")
    pieces = len(Chem.GetMolFrags(found.mol))
    if pieces > 1:
        return MmffEnergy(None, f"in pieces: {pieces} of them")
    with rdBase.BlockLogs():
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(found.mol, mmffVariant=variant)
        if properties is None:
            return MmffEnergy(None, "no parameters: an atom has no MMFF type")
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(found.mol, properties, nonBondedThresh=1e6)
    return MmffEnergy(float(field.CalcEnergy()))
