"""A trained EDM on disk and in memory: configuration, network, schedule."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from molkit.config import from_dict, read_yaml, to_dict
from molkit.edm.compiled import compile_for
from molkit.edm.config import EdmConfig
from molkit.edm.engine import Precision, accelerate, gains_from_bfloat16
from molkit.edm.gdm import GdmNetwork
from molkit.edm.network import EdmNetwork
from molkit.edm.schedule import log_snr_table
from molkit.errors import DataNotFound, InvalidInput
from molkit.training.files import whole_file, write_yaml

DENSE_MOLECULES = 1024  # molecules in one dense call of a sampler on a GPU
WEIGHTS_ROOT = Path(__file__).resolve().parents[2] / "data" / "weights"


@dataclass(frozen=True)
class Edm:
    """A noise predictor with its configuration and its schedule log_snr [T + 1] (float64)."""

    config: EdmConfig
    network: EdmNetwork | GdmNetwork
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


def require_diffusion(edm: Edm, what: str) -> None:
    """Raise InvalidInput for a flow model, which has no noise levels of its own to walk through."""
    if edm.config.process != "diffusion":
        raise InvalidInput(f"{what} needs a diffusion model; {edm.name} was trained by flow matching")


def build(config: EdmConfig, *, seed: int = 0, name: str = "untrained") -> Edm:
    """An EDM with fresh weights drawn from `seed`; PyTorch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        network = GdmNetwork(config) if config.architecture == "gdm" else EdmNetwork(config)
    return Edm(config, network, log_snr_table(config), name)


def resolve(path_or_name: str | Path) -> Path:
    """The folder of a run or of published weights. Raises DataNotFound with the names that exist."""
    for folder in (Path(path_or_name), WEIGHTS_ROOT / str(path_or_name)):
        if (folder / "weights.safetensors").is_file() and (folder / "config.yaml").is_file():
            return folder
    known = sorted(entry.parent.name for entry in WEIGHTS_ROOT.glob("*/config.yaml"))
    raise DataNotFound(
        f"{path_or_name}: no folder with config.yaml and weights.safetensors; published weights: "
        f"{', '.join(known) or 'none'}"
    )


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


def read_weights(path: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a safetensors file in float32, checked against the expected names and shapes."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InvalidInput(
            f"{path}: not a readable safetensors file ({error}); restore it from the repository"
        ) from error
    if set(tensors) != set(expected):
        odd = sorted(set(tensors) ^ set(expected))[0]
        raise InvalidInput(f"{path}: weights of another model (tensor {odd!r} does not fit the configuration)")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise InvalidInput(
                f"{path}: weights of another model ({name} has shape {tuple(tensor.shape)}, "
                f"the configuration needs {tuple(expected[name].shape)})"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidInput(f"{path}: tensor {name} holds values that are not finite")
    return {name: tensor.float() for name, tensor in tensors.items()}


def save(edm: Edm, folder: Path, *, half: bool = False, metadata: dict | None = None) -> None:
    """Write config.yaml and weights.safetensors (half precision if asked) into a folder, each by rename.

    Raises InvalidInput when a weight is not finite in the precision written, RunError when the disk refuses.
    """
    write_weights(folder / "weights.safetensors", edm.network.state_dict(), half=half, metadata=metadata)
    write_yaml(folder / "config.yaml", to_dict(edm.config))


def write_weights(path: Path, tensors: dict[str, Tensor], *, half: bool = False, metadata: dict | None = None) -> None:
    """Write tensors to a safetensors file by temporary name and rename; metadata is one key of sorted JSON."""
    ready = {
        name: (t.half() if half and t.is_floating_point() else t).cpu().contiguous() for name, t in tensors.items()
    }
    for name, tensor in ready.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidInput(f"{path}: weight {name} is not finite" + (" in half precision" if half else ""))
    with whole_file(path) as temporary:
        save_file(ready, temporary, metadata={"molkit": json.dumps(metadata or {}, sort_keys=True)})
