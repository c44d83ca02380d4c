"""Training of a property network: absolute error of normalised properties."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from molkit.config import from_dict, read_yaml
from molkit.data.qm9_labels import LabelledMolecules, load_labelled, normalisation
from molkit.edm.property_network import PropertyConfig, build_property, one_hot_elements, save_property
from molkit.errors import InvalidInput
from molkit.graphs import Graph
from molkit.training.config import TrainConfig
from molkit.training.loop import TrainResult, make_fabric, train


@dataclass(frozen=True, kw_only=True)
class LabelChoice:
    """Which labelled molecules the network learns from."""

    part: Literal["judge", "labeller"] = "judge"
    source: Literal["packed", "full"] = "packed"


class PropertyTask:
    """Labelled molecules, and the mean absolute error of any rows of them, in units of the mean absolute deviation."""

    def __init__(self, config: PropertyConfig, data: LabelledMolecules) -> None:
        self.config = config
        self.num_atoms = torch.from_numpy(data.molecules.num_atoms)
        self.molecules = data.molecules
        self.one_hot = one_hot_elements(config, data.molecules)
        self.positions = torch.from_numpy(data.molecules.positions).float()
        scaled = (data.labels - np.array(config.means)) / np.array(config.spreads)
        self.labels = torch.from_numpy(scaled).float()

    def loss(self, network: nn.Module, rows: Tensor, *, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean absolute error over molecules and properties."""
        graph = Graph.from_sizes(self.num_atoms[rows])
        atoms = torch.from_numpy(self.molecules.atom_rows(rows.numpy()))
        found = network(self.one_hot[atoms], self.positions[atoms], graph)
        error = (found - self.labels[rows]).abs().mean()
        return error, {"absolute_error": error.detach()}

    def save_weights(self, folder: Path, network: nn.Module) -> None:
        """Averaged weights and configuration, as `load_property` reads them."""
        save_property(folder, self.config, network)


def train_property(
    path: Path,
    *,
    out: Path,
    time_budget: float | None = None,
    total_steps: int | None = None,
    resume: bool = False,
    progress_bar: bool = True,
) -> TrainResult:
    """Train, or continue, the property network of a recipe (sections data, model, training), on one CPU process.

    Means and spreads are those of the validation split. Raises what the loader and the training loop raise.
    """
    values = read_yaml(path)
    unknown = sorted(set(values) - {"method", "data", "model", "training"})
    if unknown:
        raise InvalidInput(f"{path}: unknown section {unknown[0]!r}; known are method, data, model, training")
    choice = from_dict(LabelChoice, values.get("data") or {}, source=f"{path}: data")
    config = from_dict(PropertyConfig, values.get("model") or {}, source=f"{path}: model")
    training = from_dict(TrainConfig, values.get("training") or {}, source=f"{path}: training")
    mean, spread = normalisation(source=choice.source)
    config = replace(config, means=tuple(mean.tolist()), spreads=tuple(spread.tolist()))
    task = PropertyTask(config, load_labelled(choice.part, source=choice.source))
    return train(
        task,
        build_property(config, seed=training.seed).network,
        training,
        out=out,
        fabric=make_fabric("cpu"),
        time_budget=time_budget,
        resume=resume,
        total_steps=total_steps,
        progress_bar=progress_bar,
    )
