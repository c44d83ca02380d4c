"""Training of an attention functional on values and gradients of several compositions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from molkit.data.md17 import load_rmd17
from molkit.errors import InvalidInput
from molkit.ofdft.attention import AttentionConfig, AttentionNetwork, surroundings
from molkit.ofdft.attention_functional import AttentionModel, build, save
from molkit.ofdft.basis import basis_fingerprint
from molkit.ofdft.channels import (
    ENERGY_RIDGE,
    ChannelReduction,
    Prepared,
    energy_features,
    fit_channels,
    prepare_molecule,
    ridge_energies,
)
from molkit.ofdft.compositions import SPREADS, chosen_restraint, without_fold
from molkit.ofdft.domain import kind_of
from molkit.ofdft.geometries import VALIDATION_FRAMES
from molkit.ofdft.label_files import LabelledMolecule
from molkit.ofdft.recipes import Recipe, read_recipe, train_recipe
from molkit.training.loop import TrainResult
from molkit.units import HARTREE_TO_KCAL


@dataclass(frozen=True, kw_only=True)
class AttentionData:
    """Which labelled densities a functional learns from, and what counts in its loss."""

    folder: str = "runs/ofdft/labels_small/train"  # a farm of `molkit labels`; relative to the repository
    name: str = "small"
    further: tuple[str, ...] = ()  # more folders or packed sets of the same class
    count: int = 0  # molecules of each, 0: all
    samples: Literal["all", "steps", "geometry"] = "all"  # steps: none in perturbed potentials; geometry: no density
    ceiling: float = 0.4  # hartree above the ground state, up to which samples are kept
    floor: float = 0.01  # hartree; errors count relative to floor + excess
    energy_weight: float = 1.0
    gradient_weight: float = 1.0
    energy_ridge: float = ENERGY_RIDGE  # restraint of pairs and triples in the reference energy; 0: see `energy_fit`
    energy_spread: float = 0.0  # least scale of a pair or triple in the reference energy; chosen where both are 0
    published: bool = False  # restrained towards a fit of published energies (of ethanol), not towards zero
    any_composition: bool = False  # serve other compositions of the same elements too, up to the largest molecule
    held_out: int = -1  # of the folds by composition, the one to leave out; -1: none

    def __post_init__(self) -> None:
        if min(self.ceiling, self.floor) <= 0.0:
            raise InvalidInput("ceiling and floor must be positive")
        if min(self.energy_weight, self.gradient_weight, self.energy_ridge, self.energy_spread) < 0.0:
            raise InvalidInput("weights of the loss, energy_ridge and energy_spread must not be negative")


@dataclass(frozen=True, eq=False)
class ChannelSamples:
    """Samples of many molecules padded to A atoms; hartree."""

    z: np.ndarray  # [S, A, K]
    energy: np.ndarray  # [S], labels of R
    gradient: np.ndarray  # [S, A, K]
    mask: np.ndarray  # [S, A, K], channels that exist
    excess: np.ndarray  # [S]
    molecule: np.ndarray  # [S]
    reference: np.ndarray  # [S], E_ref


def channel_samples(reduction: ChannelReduction, molecules: Sequence[Prepared]) -> ChannelSamples:
    """Labels of R = E - E_ref - delta.J.delta / 2, and their derivative by z = lift^T (slope of E - J delta)."""
    most, width = max(len(m.place.elements) for m in molecules), reduction.layout.size
    parts = [_samples_of(reduction, m, most, width, number) for number, m in enumerate(molecules)]
    return ChannelSamples(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _samples_of(
    reduction: ChannelReduction, molecule: Prepared, most: int, width: int, number: int
) -> tuple[np.ndarray, ...]:
    size = molecule.densities.shape[1]
    lift, drop = reduction.matrices(molecule.place)
    z = (molecule.densities - reduction.reference_density(molecule.place, size)) @ drop.T
    delta = z @ lift.T
    hartree = delta @ molecule.coulomb
    reference = reduction.reference_energy(molecule.place)
    energy = molecule.excess + molecule.entry.energy - reference
    energy = energy - 0.5 * (delta * hartree).sum(1)
    gradient = (molecule.slopes - hartree) @ lift
    count = len(z)
    mask = np.repeat((np.abs(lift).sum(0) > 0.0)[None], count, axis=0)

    def padded(values: np.ndarray) -> np.ndarray:
        found = np.zeros((count, most, width))
        found[:, : len(molecule.place.elements)] = values.reshape(count, -1, width)
        return found

    return (
        padded(z),
        energy,
        padded(gradient),
        padded(mask),
        molecule.excess,
        np.full(count, number),
        np.full(count, reference),
    )


class AttentionTask:
    """Samples in float32, and the weighted errors of any rows of them."""

    def __init__(
        self, config: AttentionConfig, data: AttentionData, samples: ChannelSamples, molecules: Sequence[Prepared]
    ) -> None:
        self.config, self.data = config, data
        self.z, self.gradient, self.mask, self.energy = (
            torch.from_numpy(array).float() for array in (samples.z, samples.gradient, samples.mask, samples.energy)
        )
        self.weights = torch.from_numpy(1.0 / (data.floor + np.maximum(samples.excess, 0.0))).float()
        self.molecule = torch.from_numpy(samples.molecule)
        self.around = surroundings([m.place for m in molecules], config.layout).to(torch.float32)
        sizes = torch.tensor([len(m.place.elements) for m in molecules])
        self.num_atoms = sizes[self.molecule]

    def loss(self, network: nn.Module, rows: Tensor, *, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Relative errors: |R - label| / (floor + excess), and |gradient - label| / sqrt(floor + excess)."""
        z = self.z[rows].requires_grad_(True)
        energy = network.network(z, self.around.rows(self.molecule[rows]))
        counts = self.data.gradient_weight > 0.0
        (gradient,) = torch.autograd.grad(energy.sum(), z, create_graph=counts, retain_graph=True)
        weights = self.weights[rows]
        of_value = (weights * (energy - self.energy[rows]).abs()).mean()
        missed = ((gradient - self.gradient[rows]) * self.mask[rows]).flatten(1).norm(dim=1)
        of_slope = (weights.sqrt() * missed).mean()
        loss = self.data.energy_weight * of_value + self.data.gradient_weight * of_slope
        return loss, {"value_error": of_value.detach(), "gradient_error": of_slope.detach()}

    def save_weights(self, folder: Path, network: nn.Module) -> None:
        """Averaged weights and configuration, as `attention_functional.load` reads them."""
        save(folder, self.config, network)


def prepare(
    config: AttentionConfig, data: AttentionData, labelled: Sequence[LabelledMolecule], *, seed: int
) -> tuple[AttentionTask, AttentionModel]:
    """Reduction, samples, and a model whose quadratic form begins with that of the gradient labels."""
    labelled = without_fold(labelled, data.held_out)
    molecules = [prepare_molecule(entry, ceiling=data.ceiling, roots=config.roots) for entry in labelled]
    ridge, spread, prior = energy_fit(data, molecules)
    reduction = fit_channels(
        molecules, config.layout, floor=data.floor, energy_ridge=ridge, energy_prior=prior, energy_spread=spread
    )
    domain = tuple(dict.fromkeys(kind_of(entry.molecule) for entry in labelled))
    largest = max(int((entry.molecule.atomic_numbers > 1).sum()) for entry in labelled) if data.any_composition else 0
    config = replace(config, basis=basis_fingerprint(), domain=domain, most_heavy_atoms=largest)
    model = build(config, seed=seed)
    model.stored.store(reduction)
    samples = channel_samples(model.stored.reduction(config), molecules)
    task = AttentionTask(config, data, _counted(samples, data, molecules), molecules)
    if data.gradient_weight > 0.0:
        begin_with(model.network, task)
    return task, model


def energy_fit(data: AttentionData, molecules: Sequence[Prepared]) -> tuple[float, float, np.ndarray | None]:
    """Ridge, least spread and prior of the reference energy.

    A ridge of 0 is chosen by compositions left out of the fit, and so is the spread where it is 0 as well.
    """
    prior = published_surface(data.name) if data.published else None
    if data.energy_ridge > 0.0:
        return data.energy_ridge, data.energy_spread, prior
    spreads = (data.energy_spread,) if data.energy_spread > 0.0 else SPREADS
    features = np.stack([m.place.energy_features() for m in molecules])
    energies, formulas = [m.entry.energy for m in molecules], [m.entry.molecule.formula for m in molecules]
    return *chosen_restraint(features, np.array(energies), formulas, prior=prior, spreads=spreads), prior


def published_surface(name: str) -> np.ndarray:
    """Weights of energy features fitted to published energies of a class, [ENERGY_FEATURES], hartree: of ethanol alone,
    rMD17's, PBE in def2-SVP, of the training frames that do not serve for validation.

    Raises InvalidInput for another class.
    """
    if name != "ethanol":
        raise InvalidInput(f"energies are published for ethanol; got {name!r}")
    frames = load_rmd17("ethanol", split="train")
    count = len(frames) - VALIDATION_FRAMES
    features = np.stack([energy_features(frames.molecule(frame)) for frame in range(count)])
    return ridge_energies(features, frames.energies[:count] / HARTREE_TO_KCAL, ENERGY_RIDGE)


def _counted(samples: ChannelSamples, data: AttentionData, molecules: Sequence[Prepared]) -> ChannelSamples:
    """The samples that count in the loss; for `geometry` ground-state energies at z = 0, which no density can change.

    The reduction rests on all samples whatever `data` counts, so that ablations share their coordinates.
    """
    if data.samples == "all":
        return samples
    if data.samples == "steps":
        rows = np.flatnonzero(np.concatenate([m.sources for m in molecules]) == 0)
        return ChannelSamples(*(getattr(samples, name)[rows] for name in ChannelSamples.__dataclass_fields__))
    rows = np.searchsorted(samples.molecule, np.arange(len(molecules)))
    chosen = ChannelSamples(*(getattr(samples, name)[rows] for name in ChannelSamples.__dataclass_fields__))
    energies = np.array([m.entry.energy for m in molecules])
    references = samples.reference[rows]
    return replace(chosen, z=0.0 * chosen.z, energy=energies - references, excess=0.0 * chosen.excess)


@torch.no_grad()
def begin_with(network: AttentionNetwork, task: AttentionTask, *, smallest: float = 0.02) -> None:
    """Set L of every element to a root of the least-squares second derivative by its own channels, per l."""
    elements = task.around.elements[task.molecule]
    present = task.around.present[task.molecule]
    blocks = task.config.layout.blocks
    for element in range(network.quadratic.root.shape[0]):
        chosen = (elements == element) & (present > 0)
        if not bool(chosen.any()):
            continue
        weights = task.weights[:, None].expand_as(chosen)[chosen]
        z, slope = task.z[chosen], task.gradient[chosen]
        for momentum in {found for found, _ in blocks}:
            channels = [number for number, (found, _) in enumerate(blocks) if found == momentum]
            starts = [blocks[number][1] for number in channels]
            components = torch.tensor([[s + m for m in range(2 * momentum + 1)] for s in starts])
            network.quadratic.root[element][np.ix_(channels, channels)] = _root(
                z[:, components], slope[:, components], weights, smallest
            )


def _root(z: Tensor, slope: Tensor, weights: Tensor, smallest: float) -> Tensor:
    """Symmetric root of the matrix A with A z nearest to the slopes; z and slopes [N, channels, 2 l + 1]."""
    seconds = torch.einsum("n,nim,njm->ij", weights, z, z).double()
    crossed = torch.einsum("n,nim,njm->ij", weights, z, slope).double()
    solved = torch.linalg.pinv(seconds, rcond=1e-8) @ crossed
    values, vectors = torch.linalg.eigh(0.5 * (solved + solved.T))
    return ((vectors * values.clamp_min(smallest).sqrt()) @ vectors.T).float()


AttentionRecipe = Recipe[AttentionData, AttentionConfig]


def read_attention_recipe(path: Path) -> AttentionRecipe:
    """The recipe in a YAML file. Raises DataNotFound, or InvalidInput for an unknown section or key."""
    return read_recipe(path, AttentionData, AttentionConfig)


def train_attention(recipe: AttentionRecipe, **options: Any) -> TrainResult:
    """Train, or continue, a functional; options and errors are those of `recipes.train_recipe`."""
    return train_recipe(recipe, recipe.data.name, prepare, further=recipe.data.further, **options)
