"""Recipes: one YAML file that says which molecules, which model and which training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from molkit.config import from_dict, read_yaml
from molkit.data.drug_size import load_drug_size
from molkit.data.geom_drugs import load_geom_drugs
from molkit.data.qm9 import load_qm9
from molkit.data.qm9_labels import load_generator_molecules
from molkit.edm.config import EdmConfig
from molkit.edm.property_network import load_property
from molkit.errors import InvalidInput
from molkit.molecule import PackedMolecules
from molkit.training.config import TrainConfig

RECIPES = Path(__file__).resolve().parents[2] / "data" / "recipes"


@dataclass(frozen=True, kw_only=True)
class DataChoice:
    """Which molecules a recipe trains on."""

    name: Literal["qm9", "drug_size", "geom_drugs"] = "qm9"
    split: Literal["train", "valid", "test"] = "train"
    source: Literal["packed", "full"] = "packed"  # of QM9
    labels: Literal["none", "predicted", "full"] = "none"  # of QM9's properties; predicted: where none is at hand
    labeller: str = "qm9_property_labeller"  # published weights that predict them
    hydrogens: bool = True  # False: heavy atoms alone, centred again
    split_by: Literal["molecule", "conformer"] = "molecule"  # of GEOM-Drugs; by conformer as in the paper, which leaks


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One YAML file: method, data, model and training, each read strictly."""

    data: DataChoice
    model: EdmConfig
    training: TrainConfig


def recipe_path(path: Path) -> Path:
    """The file itself, or the recipe of that name in data/recipes."""
    named = RECIPES / f"{path}.yaml"
    return named if not path.is_file() and named.is_file() else path


def read_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file, or of that name in data/recipes.

    Raises DataNotFound, or InvalidInput for an unknown method, section or key.
    """
    path = recipe_path(path)
    values = read_yaml(path)
    unknown = sorted(set(values) - {"method", "data", "model", "training"}, key=str)
    if unknown:
        raise InvalidInput(f"{path}: unknown section {unknown[0]!r}; known are method, data, model, training")
    if values.get("method") != "edm":
        raise InvalidInput(f"{path}: method must be edm, got {values.get('method')!r}")
    sections = {"data": DataChoice, "model": EdmConfig, "training": TrainConfig}
    return Recipe(
        **{name: from_dict(kind, values.get(name) or {}, source=f"{path}: {name}") for name, kind in sections.items()}
    )


def load_training_set(choice: DataChoice, *, limit: int | None = None) -> tuple[PackedMolecules, np.ndarray | None]:
    """The molecules of a recipe and, where it asks for labels, the six properties [N, 6] of `data.qm9_labels`.

    "predicted" takes true labels of the generator's part, and the labeller's for molecules without any.
    """
    if choice.labels == "none":
        return load_molecules(choice, limit=limit), None
    known = load_generator_molecules(source="full" if choice.labels == "full" else "packed")
    rows = np.arange(len(known.index)) if limit is None else np.arange(len(known.index))[:limit]
    molecules, labels = known.molecules.select(rows), known.labels[rows].copy()
    missing = np.isnan(labels).any(axis=1)
    if missing.any():
        labels[missing] = load_property(choice.labeller).predict(molecules.select(missing))
    return molecules, labels


def load_molecules(choice: DataChoice, *, limit: int | None = None) -> PackedMolecules:
    """The molecules that a recipe trains on. Raises what the loader of the data set raises."""
    if choice.name == "drug_size":
        molecules = load_drug_size(split=choice.split, limit=limit).molecules
    elif choice.name == "geom_drugs":
        molecules = load_geom_drugs(split=choice.split, split_by=choice.split_by, limit=limit)
    else:
        molecules = load_qm9(split=choice.split, limit=limit, source=choice.source)
    return molecules if choice.hydrogens else molecules.without_hydrogens()
