"""The compact functional: a quadratic form and a network in reduced coordinates, symmetric under renaming and mirror.

It serves one class of molecules (same atoms, any geometry). A model for many compositions needs local frames and
attention; this one shows what makes any learned functional survive its own minimisation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from molkit.config import to_dict
from molkit.errors import InvalidInput
from molkit.molecule import Molecule
from molkit.ofdft.basis import density_mole
from molkit.ofdft.classes import MolecularClass, class_named, monomials
from molkit.ofdft.domain import Domain, read_domain
from molkit.ofdft.functional_files import stored_config
from molkit.ofdft.integrals import density_integrals
from molkit.ofdft.reduction import NaturalFrame, Reduction, natural_frame
from molkit.training.files import write_yaml
from molkit.training.publishing import Publication
from molkit.training.run_folder import load_state
from molkit.training.weights import read_weights, resolve, write_weights

METHOD = "ofdft_compact"
LIMITS = (
    "This one class of molecules, geometries like those it was trained on, closed shells. The energy at the density "
    "predicted from the geometry is as good as the minimised one: with one composition the geometry says everything.",
)


@dataclass(frozen=True, kw_only=True)
class CompactConfig:
    """Size of a compact functional; energy_offset (hartree) and basis are set by its training data."""

    name: str = "water"
    num_components: int = 40
    hidden: tuple[int, ...] = (128, 128)
    reference_degree: int = 3
    energy_degree: int = 4
    energy_offset: float = 0.0
    basis: str = ""

    def __post_init__(self) -> None:
        if self.num_components < 1 or not self.hidden or min(self.hidden) < 1:
            raise InvalidInput(f"need components and hidden widths >= 1, got {self.num_components} and {self.hidden}")
        if min(self.reference_degree, self.energy_degree) < 0:
            raise InvalidInput("degrees of polynomials must not be negative")


class CompactNetwork(nn.Module):
    """R(z, u) = b(u).z + |L(u)^T z|^2 / 2 + network(z, u), hartree; buffers hold the reduction.

    b is linear and L linear in the descriptors u, so the quadratic form is never negative.
    """

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        kind = class_named(config.name)
        m, terms = config.num_components, 1 + len(kind.pairs)
        self.slope = nn.Parameter(torch.zeros(terms, m))
        self.root = nn.Parameter(torch.zeros(terms, m, m))
        widths = [m + len(kind.pairs), *config.hidden]
        layers = [part for a, b in zip(widths, widths[1:], strict=False) for part in (nn.Linear(a, b), nn.SiLU())]
        self.network = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
        nn.init.zeros_(self.network[-1].weight)
        nn.init.zeros_(self.network[-1].bias)
        for name, shape in _reduction_shapes(config, kind).items():
            self.register_buffer(name, torch.zeros(shape))

    def forward(self, z: Tensor, descriptors: Tensor) -> Tensor:
        """z [S, m], scaled distances [S, D] -> R [S]."""
        u = torch.cat([torch.ones_like(descriptors[:, :1]), descriptors], dim=1)
        root = torch.einsum("st,tab->sab", u, self.root)
        quadratic = 0.5 * torch.einsum("sa,sab->sb", z, root).square().sum(1)
        return (u @ self.slope * z).sum(1) + quadratic + self.network(torch.cat([z, descriptors], dim=1))[:, 0]

    def store(self, reduction: Reduction) -> None:
        """Keep the numbers of a reduction beside the weights."""
        for name in REDUCTION_ARRAYS:
            getattr(self, name).copy_(torch.from_numpy(np.ascontiguousarray(getattr(reduction, name))))

    def begin_with(self, quadratic: np.ndarray) -> None:
        """Set the quadratic form [m, m] of the mean geometry; negative directions become flat."""
        values, vectors = np.linalg.eigh(quadratic)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        with torch.no_grad():
            self.root[0] = torch.from_numpy(root)


REDUCTION_ARRAYS = (
    *("descriptor_mean", "descriptor_scale", "reference", "energies"),
    *("lift", "drop", "operations", "mean_density"),
)


def _reduction_shapes(config: CompactConfig, kind: MolecularClass) -> dict[str, tuple[int, ...]]:
    size, m, pairs = density_mole(kind.example).nao, config.num_components, len(kind.pairs)
    terms = [monomials(np.zeros((1, pairs)), degree).shape[1] for degree in _degrees(config)]
    shapes = (
        (pairs,),
        (pairs,),
        (terms[0], size),
        (terms[1],),
        (size, m),
        (m, size),
        (len(kind.operations), m, m),
        (size,),
    )
    return dict(zip(REDUCTION_ARRAYS, shapes, strict=True))


def _degrees(config: CompactConfig) -> tuple[int, int]:
    return config.reference_degree, config.energy_degree


@dataclass(frozen=True, eq=False)
class CompactFunctional:
    """A trained compact functional in float64."""

    config: CompactConfig
    kind: MolecularClass
    reduction: Reduction
    network: CompactNetwork
    name: str = "untrained"
    domain: Domain | None = None  # what held-out molecules say; None for weights that none were held out of

    def energy_of(self, molecule: Molecule) -> "CompactEnergy":
        """The energy of densities of one molecule. Raises InvalidInput for one of another class."""
        return CompactEnergy(self, natural_frame(density_integrals(molecule), self.kind))


class CompactEnergy:
    """Energy (hartree, nuclei included) of one molecule's reduced densities z [m], and its derivative by z.

    The average over renamed and mirrored images makes it symmetric. `constraint` is the derivative of the number of
    electrons by z; that of the reference density is kept.
    """

    def __init__(self, functional: CompactFunctional, frame: NaturalFrame) -> None:
        reduction = functional.reduction
        self.functional, self.frame = functional, frame
        self.integrals, self.to_natural = frame.integrals, frame.to_natural
        self.images = reduction.descriptors(frame.descriptors)  # [K, D]
        self.reference = reduction.reference_density(self.images[:1])[0]
        self.reference_energy = float(reduction.reference_energy(self.images).mean())
        self.lift = reduction.lift
        self.curvature = self.lift.T @ frame.coulomb @ self.lift
        self.constraint = self.lift.T @ frame.basis_integrals
        self.operations = torch.from_numpy(reduction.operations)
        self.descriptors = torch.from_numpy(self.images)

    def __call__(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy and derivative at z [m]."""
        with torch.enable_grad():
            variable = torch.from_numpy(np.asarray(z, dtype=np.float64)).requires_grad_(True)
            learned = self.functional.network(self.operations @ variable, self.descriptors).mean()
            (slope,) = torch.autograd.grad(learned, variable)
        pull = self.curvature @ z
        energy = self.reference_energy + 0.5 * float(z @ pull) + float(learned.detach())
        return energy, pull + slope.numpy()

    def reduce(self, coefficients: np.ndarray) -> np.ndarray:
        """z of density coefficients [M]."""
        return self.functional.reduction.reduce(self.to_natural @ coefficients, self.reference)

    def mean(self) -> np.ndarray:
        """z of the mean density of the training."""
        reduction = self.functional.reduction
        return reduction.reduce(reduction.mean_density, self.reference)

    def coefficients(self, z: np.ndarray) -> np.ndarray:
        """Density coefficients [M] of z."""
        return self.frame.from_natural @ (self.reference + self.lift @ z)

    def on_constraint(self, z: np.ndarray) -> np.ndarray:
        """z moved to the reference's number of electrons."""
        return z - self.constraint * float(self.constraint @ z) / float(self.constraint @ self.constraint)


def build(config: CompactConfig, *, seed: int = 0) -> CompactNetwork:
    """A network with fresh weights drawn from `seed`; PyTorch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        return CompactNetwork(config)


def assemble(config: CompactConfig, network: CompactNetwork, *, name: str = "untrained") -> CompactFunctional:
    """The functional around a network whose buffers are filled, everything in float64."""
    arrays = {entry: getattr(network, entry).double().numpy() for entry in REDUCTION_ARRAYS}
    reduction = Reduction(**arrays, energy_offset=config.energy_offset, degrees=_degrees(config))
    double = CompactNetwork(config).double()
    double.load_state_dict({key: value.double() for key, value in network.state_dict().items()})
    return CompactFunctional(config, class_named(config.name), reduction, double.eval().requires_grad_(False), name)


def save(folder: Path, config: CompactConfig, network: CompactNetwork) -> None:
    """Write config.yaml and weights.safetensors. Raises what `write_weights` raises."""
    write_weights(folder / "weights.safetensors", network.state_dict())
    write_yaml(folder / "config.yaml", {"method": METHOD, **to_dict(config)})


def load(path_or_name: str | Path) -> CompactFunctional:
    """The functional in a run folder or published under that name.

    Raises DataNotFound, or InvalidInput for weights of another method, model or density basis.
    """
    folder = resolve(path_or_name)
    config = stored_config(folder, CompactConfig, method=METHOD, what="a compact density functional")
    network = CompactNetwork(config)
    network.load_state_dict(read_weights(folder / "weights.safetensors", network.state_dict()))
    return replace(assemble(config, network), name=folder.name, domain=read_domain(folder))


def publication(run: Path, *, remarks: Sequence[str] = ()) -> Publication:
    """The averaged weights of a run, in single precision, with its card. Raises what `load` raises."""
    functional = load(run)
    told = [*told_of(functional, load_state(run)[1]), *remarks]

    def save_into(folder: Path) -> None:
        save(folder, functional.config, functional.network.float())

    return Publication(run=run, save=save_into, subject="a compact functional", told=told, limits=LIMITS)


def told_of(functional: CompactFunctional, numbers: Mapping[str, float]) -> list[str]:
    """What a user must know of a functional."""
    config = functional.config
    count = sum(parameter.numel() for parameter in functional.network.parameters())
    return [
        f"T_s + E_xc of PBE / 6-31G(2df,p) densities of {config.name}, {config.num_components} coordinates, {count:,} "
        "parameters.",
        f"Training: {numbers['step']} steps, {numbers['passes']:,} sample passes, {numbers['seconds']:.0f} s wall time "
        "on one CPU thread. Labels: `molkit labels`; recipe: `training.yaml` and `data/recipes`.",
    ]
