"""Weights on disk: a folder with config.yaml and weights.safetensors, published under data/weights or in a run."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from molkit.errors import DataNotFound, InvalidInput
from molkit.training.files import whole_file, write_text

MAX_CURVE_LINES = 400
WEIGHTS_ROOT = Path(__file__).resolve().parents[2] / "data" / "weights"


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


def weight_files(path_or_name: str | Path) -> list[Path]:
    """Weights and configuration of a run or of published weights: the files that results of it depend on.

    Raises DataNotFound as `resolve`.
    """
    folder = resolve(path_or_name)
    return [folder / "weights.safetensors", folder / "config.yaml"]


def fingerprint(path_or_name: str | Path, *more: str) -> str:
    """The name of a model and a hash of its configuration, weights and `more` files beside them, where there are any.

    For results that must not be mixed with another model's. Raises DataNotFound.
    """
    folder = resolve(path_or_name).resolve()
    found = hashlib.sha256()
    for name in ("config.yaml", "weights.safetensors", *more):
        if (folder / name).is_file():
            found.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return f"{folder.name} {found.hexdigest()[:16]}"


def portable(path_or_name: str | Path) -> str:
    """A run folder with its whole path, for workers that stand elsewhere; the name of published weights as it is."""
    return str(Path(path_or_name).resolve()) if Path(path_or_name).is_dir() else str(path_or_name)


def folder_to_publish(name: str, root: Path = WEIGHTS_ROOT) -> Path:
    """root/name, which need not exist yet. Raises InvalidInput for a name that is no plain word."""
    if not name or Path(name).name != name:
        raise InvalidInput(f"the name of published weights must be a plain word, got {name!r}")
    return root / name


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


def write_weights(path: Path, tensors: dict[str, Tensor], *, half: bool = False, metadata: dict | None = None) -> None:
    """Write tensors to a safetensors file by temporary name and rename; metadata is one key of sorted JSON."""
    ready = {
        name: (t.half() if half and t.is_floating_point() else t).cpu().contiguous() for name, t in tensors.items()
    }
    for name, tensor in ready.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidInput(f"{path}: weight {name} is not finite" + (" in half precision" if half else ""))
    with whole_file(path) as temporary:
        temporary.write_bytes(save(ready, metadata={"molkit": json.dumps(metadata or {}, sort_keys=True)}))


def copy_thinned(source: Path, target: Path) -> None:
    """Copy at most MAX_CURVE_LINES log lines, evenly spread, the last one among them."""
    lines = source.read_text(encoding="utf-8").splitlines()
    stride = max(1, -(-len(lines) // MAX_CURVE_LINES))
    write_text(target, "\n".join(lines[::-1][::stride][::-1]) + "\n")
