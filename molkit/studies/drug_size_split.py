"""How `data/sets/drug_size_splits.csv.gz` was made: keys from bonds (RDKit), splits from keys."""

import csv
import gzip
import io
from pathlib import Path

from molkit.chem.rdkit_tools import bonded_mol, connectivity, skeleton_smiles
from molkit.data.drug_size import (
    ConformerEnsemble,
    Entry,
    load_conformer_ensembles,
    load_druglike,
    load_tripeptides,
    split_of_key,
)


def key_of_ensemble(ensemble: ConformerEnsemble) -> str:
    """The skeleton by the bonds that the data set states."""
    bonds = [(int(a), int(b), 1) for a, b, _ in ensemble.bonds]
    return skeleton_smiles(bonded_mol(ensemble.atomic_numbers.tolist(), bonds))


def make_entries() -> list[Entry]:
    """All molecules of the three sources in their order; skeletons of DrugBank and tripeptides from distances."""
    keyed = [("conformers", ensemble.name, key_of_ensemble(ensemble)) for ensemble in load_conformer_ensembles()]
    for source, load in (("druglike", load_druglike), ("tripeptides", load_tripeptides)):
        keyed += [(source, molecule.name, skeleton_smiles(connectivity(molecule))) for molecule in load()]
    return [Entry(source, name, key, split_of_key(key)) for source, name, key in keyed]


def write_entries(path: Path, entries: list[Entry]) -> None:
    """The table as a gzipped CSV without time stamp: equal entries give equal bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("source", "name", "key", "split"))
    writer.writerows((entry.source, entry.name, entry.key, entry.split) for entry in entries)
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
