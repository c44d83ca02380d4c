"""PoseBusters' checks of a single molecule: is its geometry one that a chemist would believe?"""

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import posebusters
import rdkit
import yaml
from rdkit import rdBase

from molkit.chem.rdkit_tools import perceive_bonds
from molkit.molecule import Molecule

LEFT_OUT = ("Loading", "Energy ratio")  # reading of files; and an energy that needs an embedding of minutes for cages


@lru_cache(maxsize=1)
def _buster() -> "posebusters.PoseBusters":
    """The checks for molecules without a protein, but LEFT_OUT."""
    folder = Path(posebusters.__file__).parent / "config"
    config: dict[str, Any] = yaml.safe_load((folder / "mol.yml").read_text(encoding="utf-8"))
    config["modules"] = [entry for entry in config["modules"] if entry["name"] not in LEFT_OUT[1:]]
    return posebusters.PoseBusters(config=config)


def pose_checks(molecule: Molecule) -> dict[str, bool] | None:
    """Check -> passed, or None where no bonds were found for the molecule's charge (nothing can be checked then).

    Bonds, charges and aromaticity are perceived from the coordinates. Source: PoseBusters (Buttenschoen, Morris,
    Deane, Chem. Sci. 2024), configuration for molecules without a protein, the energy ratio left out: embedding
    reference conformers takes minutes for strained cages.
    """
    mol = perceive_bonds(molecule).mol
    if mol is None:
        return None
    rdkit.log_handler.stream = sys.stderr  # PoseBusters leaves it at that of its last call, which may be closed by now
    with rdBase.BlockLogs():
        table = _buster().bust([mol], None, None)
    row = table.iloc[0]
    return {str(name): bool(row[name]) for name in table.columns if not str(name).endswith("_loaded")}
