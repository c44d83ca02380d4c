"""A trained attention functional: its energy of one molecule's densities, and its files."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from molkit.config import to_dict
from molkit.molecule import Molecule
from molkit.ofdft.attention import AttentionConfig, AttentionNetwork, surroundings
from molkit.ofdft.channels import (
    CENTRES,
    ELEMENTS,
    ENERGY_FEATURES,
    LARGEST_SHELLS,
    ChannelReduction,
    Neighbourhood,
    neighbourhood,
)
from molkit.ofdft.domain import Domain, read_domain
from molkit.ofdft.functional_files import stored_config
from molkit.ofdft.integrals import DensityIntegrals, density_integrals
from molkit.training.files import write_yaml
from molkit.training.publishing import Publication
from molkit.training.run_folder import load_state
from molkit.training.weights import read_weights, resolve, write_weights

METHOD = "ofdft_attention"


class StoredReduction(nn.Module):
    """The numbers of a `ChannelReduction` as buffers beside the weights; energies in float64 on disk as two parts."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        features = 1 + len(ELEMENTS) * len(CENTRES)
        for momentum, size in enumerate(LARGEST_SHELLS):
            self.register_buffer(f"reference_{momentum}", torch.zeros(len(ELEMENTS), features, size))
        for momentum, count in enumerate(config.counts):
            size = LARGEST_SHELLS[momentum]
            self.register_buffer(f"lift_{momentum}", torch.zeros(len(ELEMENTS), size, count))
            self.register_buffer(f"drop_{momentum}", torch.zeros(len(ELEMENTS), count, size))
        for name in ("energies", "energies_rest"):
            self.register_buffer(name, torch.zeros(ENERGY_FEATURES))

    def store(self, reduction: ChannelReduction) -> None:
        """Keep the numbers of a reduction, rounded to float32 except for the energies."""
        for kind, tables in (("reference", reduction.reference), ("lift", reduction.lift), ("drop", reduction.drop)):
            for momentum, table in enumerate(tables):
                getattr(self, f"{kind}_{momentum}").copy_(torch.from_numpy(table))
        rounded = reduction.energies.astype(np.float32)
        self.energies.copy_(torch.from_numpy(rounded))
        self.energies_rest.copy_(torch.from_numpy(reduction.energies - rounded))

    def reduction(self, config: AttentionConfig) -> ChannelReduction:
        """The stored reduction in float64."""

        def tables(kind: str, count: int) -> list[np.ndarray]:
            return [getattr(self, f"{kind}_{momentum}").double().numpy() for momentum in range(count)]

        momenta = len(config.counts)
        energies = self.energies.double() + self.energies_rest.double()
        return ChannelReduction(
            config.layout,
            tables("reference", len(LARGEST_SHELLS)),
            tables("lift", momenta),
            tables("drop", momenta),
            energies.numpy(),
            config.roots,
        )


class AttentionModel(nn.Module):
    """Network and reduction, as they are trained and stored together."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        self.network, self.stored = AttentionNetwork(config), StoredReduction(config)


@dataclass(frozen=True, eq=False)
class AttentionFunctional:
    """A functional of H, C, N, O, F in float64."""

    config: AttentionConfig
    reduction: ChannelReduction
    network: AttentionNetwork
    name: str = "untrained"
    domain: Domain | None = None  # what held-out molecules say; None for weights that none were held out of

    def energy_of(self, molecule: Molecule) -> "AttentionEnergy":
        """The energy of densities of one molecule. Raises InvalidInput for one that is not supported."""
        return AttentionEnergy(self, density_integrals(molecule))

    def on_reference_energy(self, weights: np.ndarray) -> "AttentionFunctional":
        """The same answer to a moved density, counted from another reference energy, linear with these weights.

        At z = 0 the energy is the reference energy; the network says nothing of the geometry alone.
        """
        config, reduction = replace(self.config, from_reference=True), replace(self.reduction, energies=weights)
        return replace(self, config=config, reduction=reduction)


class AttentionEnergy:
    """Energy (hartree, nuclei included) of one molecule's channels z [A K], and its derivative by z.

    `constraint` is the derivative of the number of electrons by z. Channels that an element lacks say nothing.
    """

    def __init__(self, functional: AttentionFunctional, integrals: DensityIntegrals) -> None:
        self.functional, self.integrals = functional, integrals
        reduction, size = functional.reduction, len(integrals.external)
        self.place: Neighbourhood = neighbourhood(integrals.molecule)
        self.to_natural, self.from_natural = integrals.natural(reduction.roots)
        self.reference = reduction.reference_density(self.place, size)
        self.lift, self.drop = reduction.matrices(self.place)
        self.reference_energy = reduction.reference_energy(self.place)
        self.present = torch.from_numpy((np.abs(self.lift).sum(0) > 0.0).astype(float))
        coulomb = self.from_natural @ integrals.coulomb @ self.from_natural
        self.curvature = self.lift.T @ coulomb @ self.lift
        natural_integrals = self.from_natural @ integrals.basis_integrals
        self.constraint = self.lift.T @ natural_integrals
        self.reference_electrons = float(natural_integrals @ self.reference)
        self.around = surroundings([self.place], reduction.layout)
        self.offset = 0.0
        if functional.config.from_reference:
            self.offset = self(np.zeros(len(self.constraint)))[0] - self.reference_energy

    def __call__(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy and derivative at z [A K]."""
        with torch.enable_grad():
            variable = torch.from_numpy(np.array(z, dtype=np.float64)).requires_grad_(True)
            present = (variable * self.present).reshape(1, len(self.place.elements), -1)
            learned = self.functional.network(present, self.around)[0]
            (slope,) = torch.autograd.grad(learned, variable)
        pull = self.curvature @ z
        energy = self.reference_energy + 0.5 * float(z @ pull) + float(learned.detach()) - self.offset
        return energy, pull + slope.numpy()

    def reduce(self, coefficients: np.ndarray) -> np.ndarray:
        """z of density coefficients [M]."""
        return self.drop @ (self.to_natural @ coefficients - self.reference)

    def coefficients(self, z: np.ndarray) -> np.ndarray:
        """Density coefficients [M] of z."""
        return self.from_natural @ (self.reference + self.lift @ z)

    def on_constraint(self, z: np.ndarray) -> np.ndarray:
        """z moved to exactly N electrons."""
        missing = self.integrals.num_electrons - self.reference_electrons - float(self.constraint @ z)
        return z + self.constraint * missing / float(self.constraint @ self.constraint)


def build(config: AttentionConfig, *, seed: int = 0) -> AttentionModel:
    """A model with fresh weights drawn from `seed`; PyTorch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        return AttentionModel(config)


def assemble(config: AttentionConfig, model: AttentionModel, *, name: str = "untrained") -> AttentionFunctional:
    """The functional of a model, everything in float64."""
    double = AttentionNetwork(config).double()
    double.load_state_dict({key: value.double() for key, value in model.network.state_dict().items()})
    reduction = model.stored.reduction(config)
    return AttentionFunctional(config, reduction, double.eval().requires_grad_(False), name)


def save(folder: Path, config: AttentionConfig, model: AttentionModel) -> None:
    """Write config.yaml and weights.safetensors. Raises what `write_weights` raises."""
    write_weights(folder / "weights.safetensors", model.state_dict())
    write_yaml(folder / "config.yaml", {"method": METHOD, **to_dict(config)})


def save_functional(folder: Path, functional: AttentionFunctional) -> None:
    """Write a functional as `load` reads it, weights in single precision. Raises what `write_weights` raises."""
    model = AttentionModel(functional.config)
    model.network.load_state_dict({key: value.float() for key, value in functional.network.state_dict().items()})
    model.stored.store(functional.reduction)
    save(folder, functional.config, model)


def load(path_or_name: str | Path) -> AttentionFunctional:
    """The functional in a run folder, in a snapshot, or published under that name.

    Raises DataNotFound, or InvalidInput for weights of another method, model or density basis.
    """
    folder = resolve(path_or_name)
    config = stored_config(folder, AttentionConfig, method=METHOD, what="an attention functional")
    model = AttentionModel(config)
    model.load_state_dict(read_weights(folder / "weights.safetensors", model.state_dict()))
    return replace(assemble(config, model), name=folder.name, domain=read_domain(folder))


def publication(run: Path, *, remarks: Sequence[str] = ()) -> Publication:
    """The averaged weights of a run, or of one of its snapshots, with a card. Raises what `load` raises."""
    functional = load(run)
    origin = run.parents[1] if run.parent.name == "snapshots" else run
    if origin != run:
        remarks = (f"The weights are those of snapshot {run.name} of that run.", *remarks)
    config = functional.config
    subject = "density functional of several compositions" if len(config.domain) > 1 else "density functional"
    told = [*told_of(functional, load_state(origin)[1]), *remarks]

    def copy_into(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for part in ("config.yaml", "weights.safetensors"):
            shutil.copyfile(run / part, folder / part)

    return Publication(run=origin, save=copy_into, subject=subject, told=told, limits=[limits_of(config)])


def told_of(functional: AttentionFunctional, numbers: Mapping[str, float]) -> list[str]:
    """What a user must know of a functional."""
    count = sum(parameter.numel() for parameter in functional.network.parameters())
    channels = ", ".join(f"{number} of l = {momentum}" for momentum, number in enumerate(functional.config.counts))
    return [
        f"T_s + E_xc of PBE / 6-31G(2df,p) densities of H, C, N, O, F; channels of an atom: {channels}; {count:,} "
        "parameters.",
        f"Training: {numbers['step']} steps, {numbers['passes']:,} sample passes, {numbers['seconds']:.0f} s wall time "
        "on one CPU thread. Labels: `molkit labels`; recipe: `training.yaml` and `data/recipes`.",
    ]


def limits_of(config: AttentionConfig) -> str:
    """The molecules that a functional is for."""
    limits = "molecules with the atoms and bonds of its training set, near its geometries: "
    limits += "; ".join(config.domain) or "not recorded"
    if config.most_heavy_atoms:
        limits = (
            f"connected molecules of the elements of its {len(config.domain)} kinds of training molecules, at most "
            f"{config.most_heavy_atoms} heavy atoms, near equilibrium"
        )
    return f"Neutral closed-shell {limits}. Others are refused."
