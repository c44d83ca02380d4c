"""Six properties of QM9 for conditional generation, and who may learn from which molecule.

The judge, which scores generated molecules, must not share a label with the generator. With all labels (`molkit data
fetch qm9`) the published halves are used. The packed copy has labels for 14,715 molecules only: those of the training
split are cut into three parts that share nothing; the third trains a labeller, which fills in what the generator lacks.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from molkit.data.qm9 import Source, load_qm9, qm9_full_properties, qm9_index, qm9_properties
from molkit.errors import InvalidInput
from molkit.molecule import PackedMolecules
from molkit.units import HARTREE_TO_EV

Part = Literal["judge", "labeller", "generator", "valid", "test"]

FREE_ATOM_CV = 2.981  # cal/(mol K) for each atom, subtracted from Cv as in the paper's code
SHARES = (0.4, 0.7)  # of the labelled training molecules: judge up to 0.4, labeller up to 0.7, generator the rest


@dataclass(frozen=True)
class Property:
    """A property: its column in QM9, its unit here, and unit and factor of the tables."""

    name: str
    column: str
    unit: str
    table_unit: str
    to_table: float
    symbol: str


PROPERTIES = (
    Property("alpha", "alpha", "bohr^3", "bohr³", 1.0, "α"),
    Property("gap", "gap", "eV", "meV", 1000.0, "gap"),
    Property("homo", "homo", "eV", "meV", 1000.0, "HOMO"),
    Property("lumo", "lumo", "eV", "meV", 1000.0, "LUMO"),
    Property("mu", "mu", "D", "D", 1.0, "μ"),
    Property("cv", "Cv", "cal/(mol K)", "cal/(mol K)", 1.0, "Cv"),
)
NAMES = tuple(entry.name for entry in PROPERTIES)


@dataclass(frozen=True)
class LabelledMolecules:
    """Molecules, their QM9 numbers [B], and the six properties [B, 6] in the units of PROPERTIES (NaN: not known)."""

    molecules: PackedMolecules
    index: np.ndarray
    labels: np.ndarray


def labels_of(columns: dict[str, np.ndarray], num_atoms: np.ndarray) -> np.ndarray:
    """The six properties [B, 6] from QM9's columns (hartree become eV; Cv without the free atoms)."""
    energies = {"gap", "homo", "lumo"}
    values = [columns[p.column] * (HARTREE_TO_EV if p.name in energies else 1.0) for p in PROPERTIES]
    values[NAMES.index("cv")] = values[NAMES.index("cv")] - FREE_ATOM_CV * num_atoms
    return np.stack(values, axis=1)


def load_labelled(part: Part, *, source: Source = "packed", root: Path | None = None) -> LabelledMolecules:
    """The labelled molecules of a part, by ascending QM9 number.

    "full": judge and generator are the two published halves, the labeller's part is empty. Raises DataNotFound, or
    InvalidInput for an unknown part.
    """
    split = part if part in ("valid", "test") else "train"
    known = _all_labelled(split, source, root)
    if split == "train":
        rows = training_parts(known.index, source=source)
        if part not in rows:
            raise InvalidInput(f"unknown part {part!r}: expected judge, labeller, generator, valid or test")
        chosen = np.sort(rows[part])
        return LabelledMolecules(known.molecules.select(chosen), known.index[chosen], known.labels[chosen])
    return known


def training_parts(index: np.ndarray, *, source: Source) -> dict[str, np.ndarray]:
    """Rows of the judge's, the labeller's and the generator's molecules among labelled training molecules [B].

    "full": NumPy's legacy permutation with seed 42 of the ascending training rows, first half for the judge, last for
    the generator (source: EDM reference code). "packed": the same permutation of the labelled ones, cut at SHARES.
    """
    order = np.random.RandomState(42).permutation(len(index))
    if source == "full":
        half = len(order) // 2
        return {"judge": order[:half], "labeller": order[:0], "generator": order[half:]}
    first, second = (round(share * len(order)) for share in SHARES)
    return {"judge": order[:first], "labeller": order[first:second], "generator": order[second:]}


def load_generator_molecules(*, source: Source = "packed", root: Path | None = None) -> LabelledMolecules:
    """What the generator trains on: its own part with labels; in the packed copy also all molecules without any.

    Molecules of the judge's and the labeller's parts are left out, geometry and all.
    """
    if source == "full":
        return load_labelled("generator", source=source, root=root)
    molecules = load_qm9(split="train", source=source, root=root)
    index = qm9_index(split="train", source=source, root=root)
    own = load_labelled("generator", root=root)
    others = np.concatenate([load_labelled(part, root=root).index for part in ("judge", "labeller")])
    labels = np.full((len(index), len(PROPERTIES)), np.nan)
    labels[np.searchsorted(index, own.index)] = own.labels
    kept = ~np.isin(index, others)
    return LabelledMolecules(molecules.select(kept), index[kept], labels[kept])


def normalisation(*, source: Source = "packed", root: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and mean absolute deviation of each property over the labelled molecules of the validation split, [6]."""
    labels = load_labelled("valid", source=source, root=root).labels
    mean = labels.mean(axis=0)
    return mean, np.abs(labels - mean).mean(axis=0)


def _all_labelled(split: Literal["train", "valid", "test"], source: Source, root: Path | None) -> LabelledMolecules:
    molecules = load_qm9(split=split, source=source, root=root)
    index = qm9_index(split=split, source=source, root=root)
    if source == "full":
        columns = qm9_full_properties(split=split, root=root)
        return LabelledMolecules(molecules, index, labels_of(columns, molecules.num_atoms))
    table = qm9_properties(root=root)
    places = {int(number): row for row, number in enumerate(table["index"])}
    rows = np.array([row for row, number in enumerate(index.tolist()) if number in places])
    where = np.array([places[int(number)] for number in index[rows]])
    columns = {name: table[name][where] for name in (entry.column for entry in PROPERTIES)}
    chosen = molecules.select(rows)
    return LabelledMolecules(chosen, index[rows], labels_of(columns, chosen.num_atoms))
