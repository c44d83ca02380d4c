"""Training of a compact functional on values and gradients, both weighted towards the ground state."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from molkit.errors import InvalidInput
from molkit.ofdft.basis import basis_fingerprint
from molkit.ofdft.classes import class_named
from molkit.ofdft.compact import CompactConfig, CompactNetwork, build, save
from molkit.ofdft.label_files import LabelledMolecule
from molkit.ofdft.recipes import Recipe, read_recipe, train_recipe
from molkit.ofdft.reduction import Coordinates, ReducedSamples, fit_reduction, frames_of, quadratic_form, reduce_samples
from molkit.training.loop import TrainResult


@dataclass(frozen=True, kw_only=True)
class CompactData:
    """Which labelled densities a functional learns from, and what counts in its loss."""

    folder: str = "runs/ofdft/labels_water/train"  # a farm of `molkit labels`; relative to the repository
    count: int = 0  # molecules, 0: all
    samples: Literal["all", "steps"] = "all"  # steps: none in perturbed potentials
    coordinates: Coordinates = "response"  # or variance: plain principal components
    ceiling: float = 0.4  # hartree above the ground state, up to which samples are kept
    floor: float = 0.01  # hartree; errors count relative to floor + excess
    energy_weight: float = 1.0
    gradient_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.ceiling <= 0.0 or self.floor <= 0.0 or min(self.energy_weight, self.gradient_weight) < 0.0:
            raise InvalidInput("ceiling and floor must be positive, weights of the loss not negative")


class CompactTask:
    """Reduced samples, and the weighted errors of any rows of them.

    Every time a sample is met under a random renaming or mirror.
    """

    def __init__(
        self, config: CompactConfig, data: CompactData, samples: ReducedSamples, operations: np.ndarray
    ) -> None:
        self.config, self.data = config, data
        self.num_atoms = torch.ones(len(samples.energy), dtype=torch.long)
        self.z, self.gradient = (torch.from_numpy(array).float() for array in (samples.z, samples.gradient))
        self.energy = torch.from_numpy(samples.energy).float()
        self.descriptors = torch.from_numpy(samples.descriptors).float()
        self.weights = torch.from_numpy(1.0 / (data.floor + np.maximum(samples.excess, 0.0))).float()
        self.operations = torch.from_numpy(operations).float()

    def loss(self, network: nn.Module, rows: Tensor, *, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Relative errors: |R - label| / (floor + excess), and |gradient - label| / sqrt(floor + excess)."""
        image = torch.randint(len(self.operations), (len(rows),), generator=generator)
        operation = self.operations[image]
        z = torch.einsum("sab,sb->sa", operation, self.z[rows]).requires_grad_(True)
        wanted = torch.einsum("sab,sb->sa", operation, self.gradient[rows])
        energy = network(z, self.descriptors[rows, image])
        (gradient,) = torch.autograd.grad(energy.sum(), z, create_graph=True)
        weights = self.weights[rows]
        of_value = (weights * (energy - self.energy[rows]).abs()).mean()
        of_slope = (weights.sqrt() * (gradient - wanted).norm(dim=1)).mean()
        loss = self.data.energy_weight * of_value + self.data.gradient_weight * of_slope
        return loss, {"value_error": of_value.detach(), "gradient_error": of_slope.detach()}

    def save_weights(self, folder: Path, network: nn.Module) -> None:
        """Averaged weights and configuration, as `compact.load` reads them."""
        save(folder, self.config, network)


def prepare(
    config: CompactConfig, data: CompactData, molecules: list[LabelledMolecule], *, seed: int
) -> tuple[CompactTask, CompactNetwork]:
    """Reduction, samples, and a network that begins with their best quadratic form (zero without gradient labels).

    The reduction rests on all samples whatever `data` counts in the loss, so that ablations share their coordinates.
    """
    kind = class_named(config.name)
    frames = frames_of(molecules, kind)
    sources = (0,) if data.samples == "steps" else (0, 1, 2)
    reduction = fit_reduction(
        molecules,
        frames,
        kind,
        num_components=config.num_components,
        degrees=(config.reference_degree, config.energy_degree),
        ceiling=data.ceiling,
        floor=data.floor,
        coordinates=data.coordinates,
    )
    samples = reduce_samples(reduction, molecules, frames, ceiling=data.ceiling, sources=sources)
    config = replace(config, energy_offset=reduction.energy_offset, basis=basis_fingerprint())
    network = build(config, seed=seed)
    network.store(reduction)
    if data.gradient_weight > 0.0:
        network.begin_with(quadratic_form(samples, floor=data.floor))
    return CompactTask(config, data, samples, reduction.operations), network


CompactRecipe = Recipe[CompactData, CompactConfig]


def read_compact_recipe(path: Path) -> CompactRecipe:
    """The recipe in a YAML file. Raises DataNotFound, or InvalidInput for an unknown section or key."""
    return read_recipe(path, CompactData, CompactConfig)


def train_compact(recipe: CompactRecipe, **options: Any) -> TrainResult:
    """Train, or continue, a functional; options and errors are those of `recipes.train_recipe`."""
    return train_recipe(recipe, recipe.model.name, prepare, **options)
