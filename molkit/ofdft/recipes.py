"""Recipes of functionals: three sections of a YAML file, and a training on one CPU process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from torch import nn

from molkit.config import from_dict, read_yaml
from molkit.errors import InvalidInput
from molkit.ofdft.label_files import LabelledMolecule
from molkit.ofdft.label_packs import load_labels
from molkit.training.config import TrainConfig
from molkit.training.loop import Task, TrainResult, make_fabric, train
from molkit.training.weights import WEIGHTS_ROOT

Data = TypeVar("Data")
Model = TypeVar("Model")
SECTIONS = ("data", "model", "training")


@dataclass(frozen=True, kw_only=True)
class Recipe(Generic[Data, Model]):
    """Sections of a recipe, each read strictly."""

    data: Data
    model: Model
    training: TrainConfig


def read_recipe(path: Path, data: type[Data], model: type[Model]) -> Recipe[Data, Model]:
    """The recipe in a YAML file. Raises DataNotFound, or InvalidInput for an unknown section or key."""
    values = read_yaml(path)
    unknown = sorted(set(values) - {"method", *SECTIONS}, key=str)
    if unknown:
        raise InvalidInput(f"{path}: unknown section {unknown[0]!r}; known are method, {', '.join(SECTIONS)}")
    kinds = dict(zip(SECTIONS, (data, model, TrainConfig), strict=True))
    return Recipe(
        **{name: from_dict(kind, values.get(name) or {}, source=f"{path}: {name}") for name, kind in kinds.items()}
    )


def training_labels(recipe: Recipe, name: str, further: Sequence[str] = ()) -> list[LabelledMolecule]:
    """The labelled training geometries of a recipe: those of its folder, then those of further ones."""
    places = [WEIGHTS_ROOT.parents[1] / folder for folder in (recipe.data.folder, *further)]
    limit = recipe.data.count or None
    return [entry for place in places for entry in load_labels(place, name, "train", limit=limit)]


def train_recipe(
    recipe: Recipe,
    name: str,
    prepare: Callable[..., tuple[Task, nn.Module]],
    *,
    out: Path,
    further: Sequence[str] = (),
    time_budget: float | None = None,
    total_steps: int | None = None,
    resume: bool = False,
    progress_bar: bool = True,
    on_step: Callable[[int], None] | None = None,
) -> TrainResult:
    """Train, or continue, the functional of a recipe on the labelled training geometries of a class.

    prepare(model, data, molecules, seed=...) makes the task and the network; the folder of the labels, and `further`
    ones, are relative to the repository. Raises what the loader and the training loop raise.
    """
    molecules = training_labels(recipe, name, further)
    task, network = prepare(recipe.model, recipe.data, molecules, seed=recipe.training.seed)
    return train(
        task,
        network,
        recipe.training,
        out=out,
        fabric=make_fabric("cpu"),
        time_budget=time_budget,
        resume=resume,
        total_steps=total_steps,
        progress_bar=progress_bar,
        on_step=on_step,
    )
