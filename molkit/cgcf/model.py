"""A CGCF flow on disk and in memory."""

from dataclasses import dataclass
from pathlib import Path

import torch

from molkit.cgcf.config import FlowConfig
from molkit.cgcf.flow import Flow
from molkit.config import from_dict, read_yaml, to_dict
from molkit.errors import InvalidInput
from molkit.training.files import write_yaml
from molkit.training.weights import read_weights, resolve, write_weights

METHOD = "cgcf"


@dataclass(frozen=True)
class Cgcf:
    """A trained flow with its name."""

    flow: Flow
    name: str = "untrained"

    @property
    def config(self) -> FlowConfig:
        """The flow's configuration."""
        return self.flow.config


def build_flow(config: FlowConfig, *, seed: int = 0) -> Flow:
    """A flow with fresh weights drawn from `seed`; PyTorch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        return Flow(config)


def load_flow(path_or_name: str | Path) -> Cgcf:
    """The flow in a run folder, or published under that name, in float32 and evaluation mode.

    Raises DataNotFound, or InvalidInput when the weights are those of another method or are not finite.
    """
    folder = resolve(path_or_name)
    flow = build_flow(read_config(folder))
    flow.load_state_dict(read_weights(folder / "weights.safetensors", flow.state_dict()))
    return Cgcf(flow.eval().requires_grad_(False), folder.name)


def read_config(folder: Path) -> FlowConfig:
    """The configuration of a flow in a folder. Raises InvalidInput for weights of another method."""
    values = read_yaml(folder / "config.yaml")
    if (method := values.pop("method", "edm")) != METHOD:
        raise InvalidInput(f"{folder}: these weights belong to method {method}; name weights of method {METHOD}")
    return from_dict(FlowConfig, values, source=str(folder / "config.yaml"))


def save_flow(flow: Flow, folder: Path, *, metadata: dict | None = None) -> None:
    """Write config.yaml and weights.safetensors (float32) into a folder. Raises as `write_weights` does."""
    write_weights(folder / "weights.safetensors", flow.state_dict(), metadata=metadata)
    write_yaml(folder / "config.yaml", {"method": METHOD, **to_dict(flow.config)})
