"""The same network, faster on a CPU: its layers run, forward and backward, in a compiled kernel.

The kernel (`kernels/layer.c`, plain C) is built on first use by the C compiler of the machine and kept in a cache
folder. Where there is no compiler, or the CPU has no AVX2, the readable network runs instead and one warning says so.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from molkit.edm.config import EdmConfig
from molkit.edm.network import (
    CoordinateLayer,
    EdmNetwork,
    EquivariantBlock,
    GdmNetwork,
    MessageLayer,
    PreconditionedNetwork,
)
from molkit.graphs import Graph
from molkit.training.precision import GAIN, OVERRIDE, Precision, precision_override, speed_ratio

Network = TypeVar("Network", EdmNetwork, GdmNetwork, PreconditionedNetwork)
SOURCE = Path(__file__).with_name("kernels") / "layer.c"
FLAGS = ("-O3", "-fPIC", "-shared", "-Wno-psabi")
COMPILERS = ("cc", "gcc")
MAX_WIDTH = 512
MESSAGE, MOVE = 0, 1
LEVELS = {"avx2": 1, "avx512": 2, "avx512_bf16": 3, "amx_bf16": 4}  # as `layer_level` of the C file counts them
NUM_TIMED, TIMED_ATOMS, TYPICAL_WIDTH = 8, 18, 96  # molecules and atoms of a measurement; the width of `edm_qm9`
FLOAT_LEVEL = LEVELS["avx512"]  # the highest instruction set with float32 products only
ERRORS = {1: MemoryError("no memory for the pair kernel"), 2: IndexError("edge_index names an atom that is not there")}

logger = logging.getLogger(__name__)


PARAMETERS = (
    *("first_weight", "first_bias", "weight", "bias", "head", "head_bias"),
    *("update_weight", "update_bias", "last_weight", "last_bias"),
)


def pointers(*names: str) -> list[tuple[str, type]]:
    """Fields of a C structure that are pointers."""
    return [(name, ctypes.c_void_p) for name in names]


class LayerCall(ctypes.Structure):
    """The arguments of the kernel; the same fields in the same order as `layer_call` in the C file."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("kind", "bounded", "num_atoms", "num_edges", "width")),
        *((name, ctypes.c_double) for name in ("step_range", "norm_constant")),
        *pointers("receiver", "sender", "features", "positions", "first_squared", "inverse_scale"),
        *pointers(*PARAMETERS),
        *pointers("out", "saved", "kept", "grad_out", "grad_features", "grad_positions", "grad_first_squared"),
        *pointers(*(f"grad_{name}" for name in PARAMETERS)),
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
    key.update(" ".join((compiler, *FLAGS, platform.machine())).encode())
    return cache_folder() / f"layer-{key.hexdigest()[:20]}.so"


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
        for name in ("layer_forward", "layer_backward"):
            getattr(library, name).argtypes = [ctypes.POINTER(LayerCall), ctypes.c_int]
        library.layer_level.argtypes = []
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
    level = min(library.layer_level(), level_limit())
    if level == 0:
        raise EngineUnavailable("this CPU has no AVX2")
    return library, level


def level_limit() -> int:
    """The highest instruction set to use: that named by MOLKIT_MAX_ISA (a key of LEVELS), else any.

    It lets a machine show what a lesser one would do. Raises EngineUnavailable for another name.
    """
    name = os.environ.get("MOLKIT_MAX_ISA")
    if name and name not in LEVELS:
        raise EngineUnavailable(f"MOLKIT_MAX_ISA must be one of {', '.join(LEVELS)}; got {name!r}")
    return LEVELS[name] if name else max(LEVELS.values())


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


@dataclass(frozen=True, kw_only=True)
class LayerOptions:
    """What a layer is, apart from its parameters."""

    kind: int  # MESSAGE or MOVE
    precision: Precision
    step_range: float = 0.0  # angstrom; 0 for steps without bound
    norm_constant: float = 0.0


def layer_call(
    options: LayerOptions,
    features: Tensor,
    positions: Tensor,
    edge_index: Tensor,
    first_squared: Tensor,
    inverse_scale: Tensor,
    parameters: Sequence[Tensor | None],
) -> LayerCall:
    """The inputs of a layer as the kernel wants them; all tensors must be contiguous and stay alive during the call."""
    edges = edge_index.shape[1]
    receiver = edge_index.data_ptr()
    return LayerCall(
        *(options.kind, options.step_range != 0.0, len(features), edges, features.shape[1]),
        *(options.step_range, options.norm_constant),
        *(receiver, receiver + 8 * edges, features.data_ptr(), positions.data_ptr()),
        *(first_squared.data_ptr(), inverse_scale.data_ptr()),
        *(None if tensor is None else tensor.data_ptr() for tensor in parameters),
    )


def instruction_set(precision: Precision) -> int:
    """What `layer_level` of the C file counts; bfloat16 products fall back to float32 on CPUs without them."""
    level = load()[1]
    return level if precision == "bfloat16" else min(level, FLOAT_LEVEL)


def has_bfloat16() -> bool:
    """Whether the kernel has bfloat16 products here: the CPU has them, and no cap forbids them."""
    return available() and instruction_set("bfloat16") > FLOAT_LEVEL


def gains_from_bfloat16(width: int = TYPICAL_WIDTH, *, training: bool = False) -> bool:
    """Whether "auto" means bfloat16 products here: as MOLKIT_PRECISION says, else where they are measured to be faster.

    Raises InvalidInput for a wrong word in MOLKIT_PRECISION.
    """
    if not has_bfloat16():
        return False
    asked = precision_override()
    return bfloat16_gain(width, training=training) >= GAIN if asked is None else asked == "bfloat16"


@functools.cache
def bfloat16_gain(width: int = TYPICAL_WIDTH, *, training: bool = False) -> float:
    """How many times faster a message layer of that width is with bfloat16 products than with float32 ones.

    Measured with the kernel itself on molecules of QM9's size in a tenth of a second, once a process; `training` with
    the backward pass.
    """
    graph = Graph.from_sizes(torch.full((NUM_TIMED,), TIMED_ATOMS))
    with torch.random.fork_rng(devices=[]):
        layer = MessageLayer(EdmConfig(width=width), 2).requires_grad_(training)
        features, positions = torch.randn(NUM_TIMED * TIMED_ATOMS, width), torch.randn(NUM_TIMED * TIMED_ATOMS, 3)
    receiver, sender = graph.edge_index
    first_squared = (positions[receiver] - positions[sender]).square().sum(-1, keepdim=True)
    given = (features, positions, graph.edge_index, first_squared, torch.ones(len(positions)))

    def step(precision: Precision) -> None:
        options = LayerOptions(kind=MESSAGE, precision=precision)
        with torch.set_grad_enabled(training):
            out = FusedLayer.apply(options, *given, *message_parameters(layer))
            if training:
                torch.autograd.grad(out.sum(), list(layer.parameters()))

    return speed_ratio(lambda: step("float32"), lambda: step("bfloat16"))


def products() -> str:
    """Which products "auto" means here, and why, in words."""
    if not has_bfloat16():
        return "float32 products (there are no others here)"
    chosen = "bfloat16" if gains_from_bfloat16() else "float32"
    why = f"{OVERRIDE} says so; " if precision_override() else ""
    return f"{chosen} products ({why}bfloat16 measured {bfloat16_gain():.2f} times as fast as float32)"


class Buffer:
    """Memory [count] of a call and its backward pass; it returns to a pool when the graph lets go of it.

    Fresh memory from the system costs a page fault per 4 KiB, which is several percent of a training step.
    """

    pool: ClassVar[list[Tensor]] = []

    def __init__(self, count: int) -> None:
        self.memory = self.pool.pop() if self.pool else torch.empty(0)
        if self.memory.numel() < count:
            self.memory = torch.empty(count + count // 8)

    def __del__(self) -> None:
        self.pool.append(self.memory)


def run_kernel(function: str, call: LayerCall, precision: Precision) -> None:
    """Run a function of the library, which releases the GIL meanwhile."""
    status = getattr(load()[0], function)(ctypes.byref(call), instruction_set(precision))
    if status:
        raise ERRORS.get(status, ValueError(f"{function} refused its arguments"))


class FusedLayer(torch.autograd.Function):
    """A message layer, features -> features [A, F], or a move, positions -> positions [A, 3]."""

    @staticmethod
    def forward(ctx, options, features, positions, edge_index, first_squared, inverse_scale, *parameters):
        """The parameters are those of PARAMETERS, in that order, None where the layer lacks one."""
        tensors = [features, positions, edge_index, first_squared, inverse_scale]
        tensors = [tensor.contiguous() for tensor in tensors]
        call = layer_call(options, *tensors, parameters)
        atoms, width = features.shape
        message = options.kind == MESSAGE
        out = torch.empty_like(features if message else positions, memory_format=torch.contiguous_format)
        saved = (5 if message else 2) * atoms * width
        kept = edge_index.shape[1] * width if any(ctx.needs_input_grad) else 0
        ctx.buffer = Buffer(saved + kept)
        call.out, call.saved = out.data_ptr(), ctx.buffer.memory.data_ptr()
        call.kept = call.saved + 4 * saved if kept else None
        run_kernel("layer_forward", call, options.precision)
        ctx.options = options
        ctx.kept = call.kept
        ctx.save_for_backward(*tensors, *parameters)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        """Gradients of features, positions, first_squared and the parameters."""
        inputs, parameters = ctx.saved_tensors[:5], ctx.saved_tensors[5:]
        features, positions, _, first_squared, _ = inputs
        call = layer_call(ctx.options, *inputs, parameters)
        grad_out = grad_out.contiguous()
        grads = [torch.empty_like(features), torch.empty_like(positions)]
        grads.append(torch.empty_like(first_squared) if ctx.needs_input_grad[4] else None)
        grads.extend(None if tensor is None else torch.empty_like(tensor) for tensor in parameters)
        call.saved, call.kept, call.grad_out = ctx.buffer.memory.data_ptr(), ctx.kept, grad_out.data_ptr()
        for (name, _), grad in zip(LayerCall._fields_[-len(grads) :], grads, strict=True):
            setattr(call, name, None if grad is None else grad.data_ptr())
        run_kernel("layer_backward", call, ctx.options.precision)
        return None, grads[0], grads[1], None, grads[2], None, *grads[3:]


def weight_and_bias(layer: nn.Linear | None) -> tuple[Tensor | None, Tensor | None]:
    """Both parameters of a Linear, None where there is none."""
    return (None, None) if layer is None else (layer.weight, layer.bias)


def message_parameters(layer: MessageLayer) -> list[Tensor | None]:
    """In the order of PARAMETERS."""
    linears = (layer.pair.first, layer.pair.second, layer.gate, layer.update[0], layer.update[2])
    return [tensor for linear in linears for tensor in weight_and_bias(linear)]


def move_parameters(layer: CoordinateLayer) -> list[Tensor | None]:
    """In the order of PARAMETERS."""
    linears = (layer.pair.first, layer.pair.second, layer.length, None, None)
    return [tensor for linear in linears for tensor in weight_and_bias(linear)]


class FusedEdmNetwork(EdmNetwork):
    """An EdmNetwork that shares the modules of another one and runs its blocks through the kernel.

    Anything but float32 on a CPU outside autocast takes the readable path. Second derivatives raise an error.
    """

    def __init__(self, network: EdmNetwork, precision: Precision) -> None:
        nn.Module.__init__(self)
        self.config = network.config
        self.precision = precision
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
        inverse_scale = (
            (1.0 / scale) if isinstance(scale, Tensor) else positions.new_full((len(positions),), 1.0 / scale)
        )
        geometry = (edge_index, first_squared, inverse_scale)
        options = LayerOptions(kind=MESSAGE, precision=self.precision)
        for layer in block.messages:
            features = FusedLayer.apply(options, features, positions, *geometry, *message_parameters(layer))
        options = LayerOptions(
            kind=MOVE,
            precision=self.precision,
            step_range=block.coordinates.step_range or 0.0,
            norm_constant=block.norm_constant,
        )
        moved = FusedLayer.apply(options, features, positions, *geometry, *move_parameters(block.coordinates))
        return features, moved


class FusedGdmNetwork(GdmNetwork):
    """A GdmNetwork that shares the modules of another one and runs its layers through the kernel.

    The kernel's distances get weights of zero. Anything but float32 on a CPU takes the readable path.
    """

    def __init__(self, network: GdmNetwork, precision: Precision) -> None:
        nn.Module.__init__(self)
        self.config = network.config
        self.precision = precision
        self.embed, self.layers, self.read_out = network.embed, network.layers, network.read_out

    def run_layer(
        self, layer: MessageLayer, hidden: Tensor, positions: Tensor, edge_index: Tensor, scale: Tensor | float
    ) -> Tensor:
        """hidden [A, F] -> [A, F]."""
        if not fits(hidden, positions, self.read_out.weight):
            return super().run_layer(layer, hidden, positions, edge_index, scale)
        inverse = 1.0 / scale if isinstance(scale, Tensor) else positions.new_full((len(positions),), 1.0 / scale)
        first, *others = message_parameters(layer)
        first = torch.cat([first, first.new_zeros(len(first), 2)], dim=1)
        still, apart = torch.zeros_like(positions), positions.new_zeros(edge_index.shape[1], 1)
        options = LayerOptions(kind=MESSAGE, precision=self.precision)
        return FusedLayer.apply(options, hidden, still, edge_index, apart, inverse, first, *others)


def fits(*tensors: Tensor) -> bool:
    """Whether the kernel can work on these tensors."""
    return not torch.is_autocast_enabled("cpu") and all(
        tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors
    )


def accelerate(network: Network, *, precision: Precision = "float32") -> Network:
    """The same network with the same parameters (shared, not copied) and the same outputs to rounding, but faster.

    Returns `network` itself, after one warning, where the kernel does not apply.
    """
    config = network.config
    if not available():
        return network
    if isinstance(network, PreconditionedNetwork):
        return PreconditionedNetwork(accelerate(network.inner, precision=precision))
    if config.sine_embedding or config.width % 16 or config.width > MAX_WIDTH:
        logger.warning("the fast EDM engine wants plain distances and a width that is a multiple of 16, up to 512")
        return network
    kind = FusedGdmNetwork if isinstance(network, GdmNetwork) else FusedEdmNetwork
    return kind(network, precision)
