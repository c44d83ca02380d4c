"""The same network, faster on a CPU: its pair networks run, forward and backward, in a compiled kernel.

The kernel (`kernels/pair_mlp.c`, plain C) is built on first use by the C compiler of the machine and kept in a cache
folder. Where there is no compiler, or the CPU has no AVX2, the readable network runs instead and one warning says so.
"""

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from molkit.edm.network import CoordinateLayer, EdmNetwork, EquivariantBlock, MessageLayer, PairMlp

Precision = Literal["float32", "bfloat16"]
SOURCE = Path(__file__).with_name("kernels") / "pair_mlp.c"
FLAGS = ("-O3", "-fPIC", "-shared", "-Wno-psabi")
COMPILERS = ("cc", "gcc")
MAX_WIDTH = 512
GATED, SUMMED, LENGTH = 0, 1, 2
ERRORS = {1: MemoryError("no memory for the pair kernel"), 2: IndexError("edge_index names an atom that is not there")}

logger = logging.getLogger(__name__)


class PairCall(ctypes.Structure):
    """The arguments of the kernel; the same fields in the same order as `pair_call` in the C file."""

    _fields_ = [(name, ctypes.c_int64) for name in ("mode", "num_atoms", "num_edges", "width")] + [
        (name, ctypes.c_void_p)
        for name in (
            *("receiver", "sender", "edge", "receiver_part", "sender_part", "edge_weight", "weight", "bias"),
            *("head", "head_bias", "out", "grad_out", "grad_edge", "grad_receiver_part", "grad_sender_part"),
            *("grad_edge_weight", "grad_weight", "grad_bias", "grad_head", "grad_head_bias"),
        )
    ]


class EngineUnavailable(Exception):
    """Why the kernel cannot run here, in one line."""


def cache_folder() -> Path:
    """Where compiled kernels are kept: MOLKIT_CACHE, or ~/.cache/molkit."""
    return Path(os.environ.get("MOLKIT_CACHE") or Path.home() / ".cache" / "molkit")


def find_compiler() -> str:
    """Path of the C compiler. Raises EngineUnavailable when there is none."""
    for name in COMPILERS:
        if path := shutil.which(name):
            return path
    raise EngineUnavailable("no C compiler (looked for cc and gcc)")


def library_path(compiler: str) -> Path:
    """Name of the built kernel in the cache; it changes with the source, the flags and the machine's architecture."""
    key = hashlib.sha256(SOURCE.read_bytes())
    key.update(" ".join((compiler, *FLAGS, os.uname().machine)).encode())
    return cache_folder() / f"pair_mlp-{key.hexdigest()[:20]}.so"


def build(compiler: str, target: Path) -> None:
    """Compile the kernel to `target`, by way of a temporary name so that no other process sees half a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(suffix=".so", prefix=f"{target.stem}-", dir=target.parent)
    os.close(handle)
    try:
        done = subprocess.run([compiler, *FLAGS, "-o", temporary, str(SOURCE)], capture_output=True, text=True)
        if done.returncode:
            first_line = (done.stderr.strip().splitlines() or ["no message"])[0]
            raise EngineUnavailable(f"{compiler} could not build {SOURCE.name}: {first_line}")
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)


def open_library(path: Path) -> ctypes.CDLL:
    """The kernel's functions, typed. Raises OSError for a file that is not a library or lacks one of them."""
    library = ctypes.CDLL(str(path))
    try:
        for name in ("pair_mlp_forward", "pair_mlp_backward"):
            getattr(library, name).argtypes = [ctypes.POINTER(PairCall), ctypes.c_int]
        library.pair_mlp_level.argtypes = []
    except AttributeError as error:
        raise OSError(f"{path}: {error}") from error
    return library


def load_library() -> tuple[ctypes.CDLL, int]:
    """The kernel, built if the cache has no sound copy, and the instruction set to use. Raises EngineUnavailable."""
    compiler = find_compiler()
    try:
        path = library_path(compiler)
        if not path.exists():
            build(compiler, path)
        try:
            library = open_library(path)
        except OSError:  # damaged in the cache
            build(compiler, path)
            library = open_library(path)
    except OSError as error:
        raise EngineUnavailable(f"the kernel cannot be built or opened: {error}") from error
    level = library.pair_mlp_level()
    if level == 0:
        raise EngineUnavailable("this CPU has no AVX2")
    return library, level


@functools.cache
def load() -> tuple[ctypes.CDLL | None, int, str]:
    """Library, instruction set and, when there is no library, the reason; made once per process."""
    try:
        return *load_library(), ""
    except EngineUnavailable as error:
        logger.warning("the fast EDM engine is off, plain PyTorch runs instead: %s", error)
        return None, 0, str(error)


def available() -> bool:
    """Whether the compiled kernel runs on this machine; the first call may build it (about two seconds)."""
    return load()[0] is not None


def why_not() -> str:
    """Why the kernel is not available; empty when it is."""
    return load()[2]


def pointer(tensor: Tensor | None) -> int | None:
    """Address of a contiguous tensor's data."""
    return None if tensor is None else tensor.data_ptr()


def call_kernel(function: str, call: PairCall) -> None:
    """Run a function of the library, which releases the GIL meanwhile."""
    library, level, _ = load()
    status = getattr(library, function)(ctypes.byref(call), level)
    if status:
        raise ERRORS.get(status, ValueError(f"{function} refused its arguments"))


class FusedPair(torch.autograd.Function):
    """A PairMlp and what follows it on edges: a gated or plain sum per receiver [A, F], or a length per edge [E, 1]."""

    @staticmethod
    def forward(ctx, mode, features, edge_index, edge, first_weight, first_bias, weight, bias, head, head_bias):
        """features [A, F], edge [E, 2]; the parameters of a PairMlp and of the read-out behind it."""
        width = features.shape[1]
        receiver_part = torch.addmm(first_bias, features, first_weight[:, :width].t())
        sender_part = features @ first_weight[:, width : 2 * width].t()
        edge_weight = first_weight[:, 2 * width :].t().contiguous()
        edge_index, edge = edge_index.contiguous(), edge.contiguous()
        shape = (edge.shape[0], 1) if mode == LENGTH else features.shape
        out = features.new_empty(shape)
        call = PairCall(mode, len(features), len(edge), width, edge_index.data_ptr(), edge_index[1].data_ptr())
        inputs = (edge, receiver_part, sender_part, edge_weight, weight, bias, head, head_bias)
        names = [name for name, _ in PairCall._fields_[6:14]]
        for name, tensor in zip(names, inputs, strict=True):
            setattr(call, name, pointer(tensor))
        call.out = out.data_ptr()
        call_kernel("pair_mlp_forward", call)
        ctx.mode = mode
        ctx.save_for_backward(features, edge_index, first_weight, *inputs)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        """Gradients of everything but mode and edge_index."""
        features, edge_index, first_weight, *inputs = ctx.saved_tensors
        width = features.shape[1]
        grad_out = grad_out.contiguous()
        call = PairCall(ctx.mode, len(features), len(inputs[0]), width, edge_index.data_ptr(), edge_index[1].data_ptr())
        names = [name for name, _ in PairCall._fields_[6:14]]
        for name, tensor in zip(names, inputs, strict=True):
            setattr(call, name, pointer(tensor))
        call.grad_out = grad_out.data_ptr()
        grads = [None if tensor is None else torch.empty_like(tensor) for tensor in inputs]
        for name, tensor in zip(names, grads, strict=True):
            setattr(call, f"grad_{name}", pointer(tensor))
        call_kernel("pair_mlp_backward", call)
        grad_edge, grad_receiver, grad_sender, grad_edge_weight, *grad_rest = grads
        grad_first = torch.empty_like(first_weight)
        torch.mm(grad_receiver.t(), features, out=grad_first[:, :width])
        torch.mm(grad_sender.t(), features, out=grad_first[:, width : 2 * width])
        grad_first[:, 2 * width :] = grad_edge_weight.t()
        grad_features = grad_receiver @ first_weight[:, :width]
        grad_features.addmm_(grad_sender, first_weight[:, width : 2 * width])
        return None, grad_features, None, grad_edge, grad_first, grad_receiver.sum(0), *grad_rest


def fused_pair(
    mode: int, pair: PairMlp, read_out: nn.Linear | None, features: Tensor, edge_index: Tensor, edge: Tensor
) -> Tensor:
    """A PairMlp followed by its read-out, through the kernel; see `FusedPair`."""
    head, head_bias = (None, None) if read_out is None else (read_out.weight, read_out.bias)
    first, second = pair.first, pair.second
    return FusedPair.apply(
        mode, features, edge_index, edge, first.weight, first.bias, second.weight, second.bias, head, head_bias
    )


def fused_pool(layer: MessageLayer, features: Tensor, edge_index: Tensor, edge: Tensor) -> Tensor:
    """`MessageLayer.pool` through the kernel, [A, F]."""
    return fused_pair(SUMMED if layer.gate is None else GATED, layer.pair, layer.gate, features, edge_index, edge)


def fused_length(layer: CoordinateLayer, features: Tensor, edge_index: Tensor, edge: Tensor) -> Tensor:
    """`CoordinateLayer.raw_length` through the kernel, [E, 1]."""
    return fused_pair(LENGTH, layer.pair, layer.length, features, edge_index, edge)


class FusedEdmNetwork(EdmNetwork):
    """An EdmNetwork that shares the modules of another one and runs its blocks through the kernel.

    Anything but float32 on a CPU outside autocast takes the readable path. Second derivatives raise an error.
    """

    def __init__(self, network: EdmNetwork) -> None:
        nn.Module.__init__(self)
        self.config = network.config
        self.embed, self.blocks, self.read_out = network.embed, network.blocks, network.read_out

    def run_block(
        self,
        block: EquivariantBlock,
        features: Tensor,
        positions: Tensor,
        edge_index: Tensor,
        first_squared: Tensor,
        scale: Tensor | float,
    ) -> tuple[Tensor, Tensor]:
        """features [A, F], positions [A, 3], first_squared [E, 1] -> new features and positions."""
        if not fits(features, positions, self.read_out.weight):
            return block(features, positions, edge_index, first_squared, scale)
        receiver, sender = edge_index
        displacement = positions[receiver] - positions[sender]
        squared = displacement.square().sum(-1, keepdim=True)
        edge = torch.cat([squared, first_squared], dim=-1)
        for layer in block.messages:
            pooled = fused_pool(layer, features, edge_index, edge) / scale
            features = features + layer.update(torch.cat([features, pooled], dim=-1))
        direction = displacement / (torch.sqrt(squared + 1e-8) + block.norm_constant)
        length = fused_length(block.coordinates, features, edge_index, edge)
        if block.coordinates.step_range is not None:
            length = torch.tanh(length) * block.coordinates.step_range
        move = torch.zeros_like(positions).index_add(0, receiver, direction * length)
        return features, positions + move / scale


def fits(*tensors: Tensor) -> bool:
    """Whether the kernel can work on these tensors."""
    return not torch.is_autocast_enabled("cpu") and all(
        tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors
    )


def accelerate(network: EdmNetwork, *, precision: Precision = "float32") -> EdmNetwork:
    """The same network with the same parameters (shared, not copied) and the same outputs to rounding, but faster.

    Returns `network` itself, after one warning, where the kernel does not apply.
    """
    config = network.config
    if not available():
        return network
    if config.sine_embedding or config.width % 16 or config.width > MAX_WIDTH:
        logger.warning("the fast EDM engine wants plain distances and a width that is a multiple of 16, up to 512")
        return network
    return FusedEdmNetwork(network)
