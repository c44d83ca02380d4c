"""The direct network of one class of molecules: distances in, energy out, no density."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from molkit.errors import InvalidInput


class DirectNetwork(nn.Module):
    """Energy (hartree, about a mean) of scaled distances u; the average over renamed images is the caller's."""

    def __init__(self, num_distances: int, width: int) -> None:
        super().__init__()
        if width < 1:
            raise InvalidInput(f"need a width >= 1, got {width}")
        self.network = nn.Sequential(
            nn.Linear(num_distances, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )

    def forward(self, descriptors: Tensor) -> Tensor:
        """u [..., D] -> energy [...]."""
        return self.network(descriptors)[..., 0]


@dataclass(frozen=True, eq=False)
class DirectModel:
    """A trained direct network and the scales of its input and output."""

    network: DirectNetwork
    mean: np.ndarray  # [D], bohr
    scale: np.ndarray  # [D]
    energy_mean: float  # hartree
    energy_scale: float

    @property
    def num_parameters(self) -> int:
        """Trained numbers."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @torch.no_grad()
    def energies(self, descriptors: np.ndarray) -> np.ndarray:
        """Energies [B] (hartree) of distances of all images [B, K, D] in bohr."""
        u = torch.from_numpy((descriptors - self.mean) / self.scale)
        return self.network(u).mean(1).numpy() * self.energy_scale + self.energy_mean


def width_for(num_parameters: int, num_distances: int) -> int:
    """Width of the direct network whose number of parameters is nearest to the given one."""
    sizes = {w: w * (num_distances + 1) + w * (w + 1) + w + 1 for w in range(1, 1025)}
    return min(sizes, key=lambda width: abs(sizes[width] - num_parameters))


def train_direct(descriptors: np.ndarray, energies: np.ndarray, *, width: int, steps: int, seed: int) -> DirectModel:
    """Least squares on energies [B] of distances [B, K, D]: Adam on all geometries at once, cosine to zero.

    Everything in float64; PyTorch's global generator is left as it was.
    """
    flat = descriptors.reshape(-1, descriptors.shape[-1])
    mean, scale = flat.mean(0), flat.std(0)
    energy_mean, energy_scale = float(energies.mean()), float(energies.std())
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        network = DirectNetwork(descriptors.shape[-1], width).double()
    u = torch.from_numpy((descriptors - mean) / scale)
    wanted = torch.from_numpy((energies - energy_mean) / energy_scale)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    with torch.enable_grad():
        for _ in range(steps):
            optimiser.zero_grad()
            (network(u).mean(1) - wanted).square().mean().backward()
            optimiser.step()
            schedule.step()
    return DirectModel(network.requires_grad_(False), mean, scale, energy_mean, energy_scale)
