"""A run on disk, written by temporary name and rename, so that a kill leaves it whole."""

import json
import os
import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import molkit
from molkit.errors import InvalidInput, RunError
from molkit.training.files import whole_file, write_text
from molkit.training.precision import Precision

STATE = "training/state.safetensors"


def has_run(folder: Path) -> bool:
    """Whether a run can be continued there."""
    return (folder / STATE).is_file()


def require_run(folder: Path) -> None:
    """Raise InvalidInput unless a run can be continued there."""
    if not has_run(folder):
        raise InvalidInput(f"{folder}: no checkpoint to continue there; leave out --resume to begin a run")


def append_json(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON line. Raises RunError when the disk refuses."""
    try:
        with open(path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(record) + "\n")
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error}); the last good checkpoint is kept") from error


def keep_lines_until(path: Path, step: int) -> None:
    """Drop the JSON lines of steps after `step`, which a resumed run takes again, and a line that a kill tore."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["step"] <= step:
            kept.append(line + "\n")
    write_text(path, "".join(kept))


def save_state(folder: Path, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    """Write everything needed to continue into one file; a failure leaves the last good one.

    Raises RunError when the disk refuses.
    """
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(folder / STATE) as temporary:
        temporary.write_bytes(save(ready, metadata={"molkit": json.dumps(numbers, sort_keys=True)}))


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and numbers of the last checkpoint. Raises InvalidInput when the file is damaged."""
    path = folder / STATE
    try:
        with safe_open(path, framework="pt") as handle:
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
            return tensors, json.loads((handle.metadata() or {})["molkit"])
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise InvalidInput(f"{path}: the checkpoint is damaged ({error}); start a new run folder") from error


def stored_precision(folder: Path) -> Precision | None:
    """The precision of matrix products in the last session of a run; None where the run does not tell."""
    path = folder / "provenance.jsonl"
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with suppress(json.JSONDecodeError):  # a line that a kill tore
            records.append(json.loads(line))
    if not records or "autocast_bfloat16" not in records[-1]:
        return None
    own = records[-1].get("network_precision", "float32") == "bfloat16"
    return "bfloat16" if own or records[-1]["autocast_bfloat16"] else "float32"


def provenance(**more: Any) -> dict[str, Any]:
    """Where and with what a run was made."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "molkit": molkit.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        **more,
    }


def _processor() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
