"""The SMILES that novelty is counted against: those of QM9's training molecules, by the distance rule.

Perceiving them takes about 15 seconds, so they come as a file of 0.3 MiB; `molkit.metrics.validity.reference_smiles`
made it from `load_qm9(split="train")`. The file's first line holds the version of RDKit that wrote the SMILES, since
canonical SMILES may change between versions.
"""

import gzip
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from molkit.data.registry import data_path
from molkit.errors import InvalidInput

FILE = "qm9_train_smiles_by_distance.txt.gz"
HEADER = "# RDKit "


@dataclass(frozen=True)
class ReferenceSmiles:
    """Distinct SMILES of a training set, what they are, and the RDKit that wrote them."""

    smiles: frozenset[str]
    description: str
    rdkit_version: str


def load_reference_smiles(*, root: Path | None = None) -> ReferenceSmiles:
    """SMILES (hydrogens written out) of the packed QM9 training molecules that RDKit accepts.

    Raises DataNotFound, ChecksumMismatch, or InvalidInput for a file of another layout.
    """
    path = data_path(FILE, root=root)
    header, *lines = gzip.decompress(path.read_bytes()).decode("ascii").splitlines()
    version, _, description = header.removeprefix(HEADER).partition("; ")
    if not header.startswith(HEADER) or not description:
        raise InvalidInput(f"{path}: expected a first line '{HEADER}VERSION; DESCRIPTION', got {header[:60]!r}")
    return ReferenceSmiles(frozenset(lines), description, version)


def write_reference_smiles(path: Path, smiles: Collection[str], *, description: str, rdkit_version: str) -> None:
    """Write distinct SMILES, sorted, one a line; the same SMILES always give the same bytes."""
    text = "\n".join([f"{HEADER}{rdkit_version}; {description}", *sorted(set(smiles))]) + "\n"
    path.write_bytes(gzip.compress(text.encode("ascii"), compresslevel=9, mtime=0))
