"""Why our row of QM9 differs from the paper's: an estimate of what the missing fluorine molecules would change.

The packed QM9 has no molecule with fluorine (about 2,050 of 130,831). Their SMILES are known for a random extract of
QM9. Each is given the stability and validity of its hydrogen analogue, fluorine replaced by hydrogen, which is in the
packed set: most are aromatic rings with nitrogen, where the distance rule fails most often.
"""

from dataclasses import dataclass

import numpy as np

from molkit.chem.rdkit_tools import without_fluorine
from molkit.data.qm9 import load_qm9, qm9_index, qm9_properties, qm9_smiles
from molkit.errors import DataNotFound
from molkit.metrics.stability import stability
from molkit.metrics.statistics import Interval, proportion_interval
from molkit.metrics.validity import validity

PUBLISHED_MOLECULES = 130_831  # QM9 without the 3,054 uncharacterised ones


@dataclass(frozen=True)
class FluorineEstimate:
    """Shares in [0, 1] of the packed set, of the hydrogen analogues, and of both with the weights of the whole QM9."""

    num_fluorine: int  # molecules with fluorine in the extract
    num_analogues: int  # of those, with their hydrogen analogue in the packed set
    packed_atoms: float
    packed_molecules: float
    packed_validity: float
    analogue_molecules: Interval
    whole_atoms: float
    whole_molecules: Interval  # the interval of the analogues only
    whole_validity: float


def estimate_with_fluorine(*, num_validity: int | None = 20_000) -> FluorineEstimate:
    """Stability and validity that all five elements of QM9 would show.

    Validity of the packed set is that of `num_validity` molecules spread over it (None: all, 15 seconds more).
    All 2,087 missing molecules are treated as fluorine molecules (208 of 222 are, in the extract).
    """
    molecules = load_qm9(split="all")
    stable = stability(molecules)
    packed_validity = validity(load_qm9(split="all", limit=num_validity), reference_smiles=None).validity
    fluorine = _missing_fluorine_smiles()
    rows, missing_sizes = _analogues(fluorine, molecules.num_atoms)
    if len(rows) == 0:
        raise DataNotFound("no hydrogen analogue of a fluorine molecule is in the packed QM9; run `molkit data verify`")
    unstable_atoms = (stable.num_atoms - stable.stable_atoms)[rows]
    count = PUBLISHED_MOLECULES - len(molecules)
    atoms_added = count * missing_sizes.mean()
    valid_analogues = validity(molecules.select(rows), reference_smiles=None).validity
    hits = proportion_interval(int(stable.molecule_stable[rows].sum()), len(rows))
    return FluorineEstimate(
        num_fluorine=len(fluorine),
        num_analogues=len(rows),
        packed_atoms=stable.atom_fraction,
        packed_molecules=stable.molecule_fraction,
        packed_validity=packed_validity,
        analogue_molecules=hits,
        whole_atoms=float(
            (stable.stable_atoms.sum() + atoms_added - count * unstable_atoms.mean())
            / (stable.num_atoms.sum() + atoms_added)
        ),
        whole_molecules=Interval(
            *(
                (float(stable.molecule_stable.sum()) + count * share) / PUBLISHED_MOLECULES
                for share in (hits.value, hits.low, hits.high)
            )
        ),
        whole_validity=(len(molecules) * packed_validity + count * valid_analogues) / PUBLISHED_MOLECULES,
    )


def _missing_fluorine_smiles() -> list[str]:
    """SMILES of the characterised fluorine molecules of the property extract, none of which has coordinates here."""
    table = qm9_properties()
    rows = zip(table["smiles"].tolist(), table["has_geometry"].tolist(), table["split"].tolist(), strict=True)
    return [smiles for smiles, has, split in rows if "F" in smiles and not has and split != "uncharacterized"]


def _analogues(fluorine: list[str], num_atoms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the packed set that hold hydrogen analogues, and their sizes (fluorine for hydrogen keeps the size)."""
    row_of_number = {number: row for row, number in enumerate(qm9_index(split="all").tolist())}
    number_of_smiles: dict[str, int] = {}
    for number, smiles in qm9_smiles().items():
        number_of_smiles.setdefault(smiles, number)
    plain = [without_fluorine(smiles) for smiles in fluorine]
    rows = np.array(
        [row_of_number[number_of_smiles[smiles]] for smiles in plain if smiles in number_of_smiles], dtype=int
    )
    return rows, num_atoms[rows]
