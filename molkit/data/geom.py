"""The test molecules of the conformer-generation papers on GEOM: SMILES and reference counts, without coordinates.

Sources: GEOM, Axelrod and Gomez-Bombarelli, Sci. Data 9, 185 (2022); the list as distributed with GeoMol.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from molkit.data.registry import data_path
from molkit.errors import InvalidInput

SETS = {"drugs": "geom_drugs_test", "qm9": "geom_qm9_test"}


@dataclass(frozen=True)
class GeomTestMolecule:
    """One test molecule."""

    smiles: str
    num_reference_conformers: int


def load_geom_test(name: Literal["drugs", "qm9"], *, root: Path | None = None) -> list[GeomTestMolecule]:
    """The 1,000 test molecules of GEOM-Drugs or GEOM-QM9, in their published order."""
    if name not in SETS:
        raise InvalidInput(f"unknown GEOM test set {name!r}: expected 'drugs' or 'qm9'")
    with open(data_path("geom_test_smiles.csv", root=root), encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["set"] == SETS[name]]
    return [GeomTestMolecule(row["smiles"], int(row["n_reference_conformers"])) for row in rows]
