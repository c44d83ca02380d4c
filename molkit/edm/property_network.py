"""An invariant network that predicts properties of a molecule: EGNN messages on fixed geometry, summed over atoms.

It judges conditional generation, and labels molecules whose properties are not at hand. Source: EDM, appendix on the
property classifier (there one network a property; here one network has an output for each).

Training: absolute error of normalised properties.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from molkit.config import from_dict, read_yaml, to_dict
from molkit.data.qm9_labels import LabelledMolecules, load_labelled, normalisation
from molkit.edm.engine import MESSAGE, FusedLayer, LayerOptions, available, fits, message_parameters
from molkit.edm.model import read_weights, resolve, write_weights
from molkit.edm.network import MessageLayer
from molkit.errors import InvalidInput
from molkit.graphs import Graph, split_by_pairs, sum_per_molecule
from molkit.molecule import PackedMolecules
from molkit.training.config import TrainConfig
from molkit.training.files import write_yaml
from molkit.training.loop import TrainResult, make_fabric, train

PAIR_BUDGET = 20_000


@dataclass(frozen=True, kw_only=True)
class PropertyConfig:
    """Size of the network, its elements, and what its outputs are."""

    elements: tuple[int, ...] = (1, 6, 7, 8, 9)
    properties: tuple[str, ...] = ("alpha", "gap", "homo", "lumo", "mu", "cv")
    means: tuple[float, ...] = ()  # of each property, in its unit
    spreads: tuple[float, ...] = ()  # mean absolute deviations
    width: int = 128
    num_layers: int = 7
    attention: bool = True

    def __post_init__(self) -> None:
        if self.width < 1 or self.num_layers < 1:
            raise InvalidInput(f"width and num_layers must be at least 1, got {self.width} and {self.num_layers}")
        if self.means and not len(self.means) == len(self.spreads) == len(self.properties):
            raise InvalidInput("means and spreads must hold one number for each property")


class PropertyNetwork(nn.Module):
    """Normalised properties [B, K] of molecules; invariant under rotations, reflections, shifts and permutations."""

    def __init__(self, config: PropertyConfig, *, fused: bool = True) -> None:
        super().__init__()
        self.config, self.fused = config, fused and config.width % 16 == 0
        width = config.width
        self.embed = nn.Linear(len(config.elements), width)
        self.layers = nn.ModuleList([MessageLayer(config, 1) for _ in range(config.num_layers)])
        self.atom = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.molecule = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, len(config.properties)))

    def run_layer(self, layer: MessageLayer, hidden: Tensor, positions: Tensor, edge_index: Tensor) -> Tensor:
        """One message layer on [A, F]: in the compiled kernel where it runs, whose second distance gets no weight."""
        if not (self.fused and available() and fits(hidden, positions, self.embed.weight)):
            apart = (positions[edge_index[0]] - positions[edge_index[1]]).square().sum(-1, keepdim=True)
            return layer(hidden, edge_index, apart, 1.0)
        first, *others = message_parameters(layer)
        first = torch.cat([first, first.new_zeros(len(first), 1)], dim=1)
        nothing, ones = positions.new_zeros(edge_index.shape[1], 1), positions.new_ones(len(positions))
        options = LayerOptions(kind=MESSAGE, precision="float32")
        return FusedLayer.apply(options, hidden, positions, edge_index, nothing, ones, first, *others)

    def forward(self, one_hot: Tensor, positions: Tensor, graph: Graph) -> Tensor:
        """one_hot [A, elements], positions [A, 3] in angstrom -> normalised properties [B, K]."""
        hidden = self.embed(one_hot)
        for layer in self.layers:
            hidden = self.run_layer(layer, hidden, positions, graph.edge_index)
        return self.molecule(sum_per_molecule(self.atom(hidden), graph.batch, graph.num_molecules))


@dataclass(frozen=True)
class PropertyModel:
    """A trained property network under its name."""

    config: PropertyConfig
    network: PropertyNetwork
    name: str = "untrained"

    @torch.no_grad()
    def predict(self, molecules: PackedMolecules) -> np.ndarray:
        """Properties [B, K] in their units. Raises InvalidInput for an element the network does not know."""
        num_atoms = torch.from_numpy(molecules.num_atoms)
        order = torch.argsort(num_atoms, stable=True)
        out = torch.zeros(len(molecules), len(self.config.properties), dtype=torch.float64)
        for rows in split_by_pairs(num_atoms[order], PAIR_BUDGET):
            chosen = molecules.select(order[rows].numpy())
            graph = Graph.from_sizes(num_atoms[order[rows]])
            found = self.network(one_hot_elements(self.config, chosen), _positions(chosen), graph)
            out[order[rows]] = found.double()
        return out.numpy() * np.array(self.config.spreads) + np.array(self.config.means)


def one_hot_elements(config: PropertyConfig, molecules: PackedMolecules) -> Tensor:
    """Elements as one-hot columns [A, elements]. Raises InvalidInput for one the network does not know."""
    columns = {number: k for k, number in enumerate(config.elements)}
    unknown = sorted(set(molecules.atomic_numbers.tolist()) - set(columns))
    if unknown:
        raise InvalidInput(f"this network knows the elements with Z in {config.elements}, got Z = {unknown[0]}")
    channels = torch.tensor([columns[int(number)] for number in molecules.atomic_numbers])
    return nn.functional.one_hot(channels, len(columns)).float()


def _positions(molecules: PackedMolecules) -> Tensor:
    return torch.from_numpy(molecules.positions).float()


def build_property(config: PropertyConfig, *, seed: int = 0) -> PropertyModel:
    """A network with fresh weights drawn from `seed`; PyTorch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        return PropertyModel(config, PropertyNetwork(config))


def save_property(folder: Path, config: PropertyConfig, network: nn.Module, *, half: bool = False) -> None:
    """Write config.yaml and weights.safetensors into a folder. Raises as `edm.model.write_weights` does."""
    write_weights(folder / "weights.safetensors", network.state_dict(), half=half)
    write_yaml(folder / "config.yaml", {"method": "property", **to_dict(config)})


def load_property(path_or_name: str | Path) -> PropertyModel:
    """The property network in a run folder, or published under that name. Raises DataNotFound or InvalidInput."""
    folder = resolve(path_or_name)
    values = dict(read_yaml(folder / "config.yaml"))
    if values.pop("method", None) != "property":
        raise InvalidInput(f"{folder}: these weights are not those of a property network")
    model = build_property(from_dict(PropertyConfig, values, source=str(folder / "config.yaml")))
    model.network.load_state_dict(read_weights(folder / "weights.safetensors", model.network.state_dict()))
    model.network.eval().requires_grad_(False)
    return replace(model, name=folder.name)


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
