"""A trained EDM on disk and in memory: configuration, network, schedule."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from molkit.config import from_dict, read_yaml, to_dict
from molkit.edm.config import EdmConfig
from molkit.edm.dense import compile_for
from molkit.edm.engine import Precision, accelerate, gains_from_bfloat16
from molkit.edm.network import EdmNetwork, GdmNetwork, PreconditionedNetwork
from molkit.edm.schedule import log_snr_table
from molkit.errors import InvalidInput
from molkit.training.files import write_yaml
from molkit.training.weights import WEIGHTS_ROOT, read_weights, resolve, write_weights

__all__ = ["WEIGHTS_ROOT", "Edm", "build", "load", "quickest", "read_weights", "resolve", "save", "write_weights"]
DENSE_MOLECULES = 1024  # molecules in one dense call of a sampler on a GPU


@dataclass(frozen=True)
class Edm:
    """A noise predictor with its configuration and its schedule log_snr [T + 1] (float64)."""

    config: EdmConfig
    network: EdmNetwork | GdmNetwork | PreconditionedNetwork
    log_snr: Tensor
    name: str = "untrained"

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return next(self.network.parameters()).device

    def draw_sizes(self, count: int, *, generator: torch.Generator) -> Tensor:
        """Numbers of atoms drawn from the training set's histogram, [count]."""
        sizes = torch.tensor([size for size, _ in self.config.sizes])
        weights = torch.tensor([float(number) for _, number in self.config.sizes], dtype=torch.float64)
        return sizes[torch.multinomial(weights, count, replacement=True, generator=generator)]


def build(config: EdmConfig, *, seed: int = 0, name: str = "untrained") -> Edm:
    """An EDM with fresh weights drawn from `seed`; PyTorch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        network = GdmNetwork(config) if config.architecture == "gdm" else EdmNetwork(config)
    if config.parametrisation == "preconditioned":
        network = PreconditionedNetwork(network)
    return Edm(config, network, log_snr_table(config), name)


def load(
    path_or_name: str | Path,
    *,
    device: str | torch.device = "cpu",
    fast: bool = True,
    precision: Precision | Literal["auto"] = "float32",
) -> Edm:
    """The EDM in a run folder, or published under that name; weights in float32, network in evaluation mode.

    `fast` runs it through the quickest engine that works there: the kernel on CPUs; on a GPU torch.compile with matrix
    products in bfloat16, good for sampling and checked on loading (about a minute where nothing is compiled yet).
    Likelihoods on a GPU want fast=False, the readable network in float32. `precision` is that of the kernel's matrix
    products: float32; or "auto", bfloat16 where the CPU gains from it, which does for sampling.

    Raises DataNotFound, or InvalidInput when the weights belong to another model or are not finite.
    """
    folder = resolve(path_or_name)
    values = read_yaml(folder / "config.yaml")
    if "method" in values:  # the other kinds of model say what they are
        raise InvalidInput(f"{folder.name} is a model of the method {values['method']!r}, not one that makes molecules")
    config = from_dict(EdmConfig, values, source=str(folder / "config.yaml"))
    edm = build(config, name=folder.name)
    edm.network.load_state_dict(read_weights(folder / "weights.safetensors", edm.network.state_dict()))
    edm.network.to(device).eval().requires_grad_(False)
    return replace(edm, network=quickest(edm.network, torch.device(device), precision=precision)) if fast else edm


def quickest(
    network: EdmNetwork, device: torch.device, *, precision: Precision | Literal["auto"] = "float32"
) -> EdmNetwork:
    """The network behind the engine for calls without gradients; parameters are shared."""
    if device.type == "cpu":
        chosen = "bfloat16" if precision == "auto" and gains_from_bfloat16() else precision
        return accelerate(network, precision="float32" if chosen == "auto" else chosen)
    return compile_for(network, device, training=False, molecules=DENSE_MOLECULES) if device.type == "cuda" else network


def save(edm: Edm, folder: Path, *, half: bool = False, metadata: dict | None = None) -> None:
    """Write config.yaml and weights.safetensors (half precision if asked) into a folder, each by rename.

    Raises InvalidInput when a weight is not finite in the precision written, RunError when the disk refuses.
    """
    write_weights(folder / "weights.safetensors", edm.network.state_dict(), half=half, metadata=metadata)
    write_yaml(folder / "config.yaml", to_dict(edm.config))
