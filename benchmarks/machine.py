"""What this machine can do: instruction sets, and measured peaks of matrix products and activations."""

import os
from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import linear, silu

from benchmarks.timing import Times, seconds

ROWS = (512, 1024, 3072)  # rows of the matrices: pairs of about 2, 3 and 10 QM9 molecules
REPEATS = 8  # calls in one timing
REPORTED = ("cpu_name", "avx2", "avx512_f", "avx512_bf16", "amx_bf16")


def capabilities(device: torch.device) -> dict[str, object]:
    """Instruction sets of the CPU, the one PyTorch's own kernels use (a cap shows here), or the GPU's name."""
    if device.type == "cuda":
        return {"gpu": torch.cuda.get_device_name(device)}
    found = torch.cpu.get_capabilities()
    known = {name: found[name] for name in REPORTED if name in found}
    return known | {"pytorch_kernels": torch.backends.cpu.get_cpu_capability()}


def has_bfloat16(device: torch.device, isa: str) -> bool:
    """Whether bfloat16 products run in hardware: on a GPU, or on a CPU under the cap `isa`."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    found = torch.cpu.get_capabilities()
    native = found.get("amx_bf16", False) or found.get("avx512_bf16", False)
    return bool(native) and isa in ("auto", "amx_bf16", "avx512_bf16")


def has_amx(isa: str) -> bool:
    """Whether the CPU has bfloat16 matrix tiles and may use them."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False)) and isa in ("auto", "amx_bf16")


def peak_works(width: int, device: torch.device, *, bfloat16: bool) -> dict[str, Callable[[], float]]:
    """Measurements by name; each gives products in FLOP/s (2 rows width^2 a product) or activations in elements/s.

    The best of a few matrix heights, all of them such as the network sees.
    """
    works = {
        "gemm_float32": partial(_best, partial(_gemm_rate, width, torch.float32, device)),
        "silu_float32": partial(_best, partial(_silu_rate, width, device)),
    }
    if bfloat16:
        works["gemm_bfloat16"] = partial(_best, partial(_gemm_rate, width, torch.bfloat16, device))
    return works


def measure_peaks(width: int, device: torch.device, *, bfloat16: bool, rounds: int) -> dict[str, Times]:
    """Rates of `peak_works` in every round."""
    works = peak_works(width, device, bfloat16=bfloat16)
    taken = {name: [work() for _ in range(rounds)] for name, work in works.items()}
    return {name: Times(tuple(values)) for name, values in taken.items()}


def description() -> dict[str, object]:
    """Processor, cores, threads in use and scheduling priority of this process."""
    return {
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "nice": os.nice(0),
    }


def _best(rate: Callable[[int], float]) -> float:
    return max(rate(rows) for rows in ROWS)


def _gemm_rate(width: int, dtype: torch.dtype, device: torch.device, rows: int) -> float:
    inputs, weight, bias = (
        torch.randn(shape, device=device).to(dtype) for shape in ((rows, width), (width, width), (width,))
    )
    taken = _repeated(partial(linear, inputs, weight, bias), device)
    return 2.0 * rows * width**2 / taken


def _silu_rate(width: int, device: torch.device, rows: int) -> float:
    inputs = torch.randn(rows, width, device=device)
    return inputs.numel() / _repeated(partial(silu, inputs), device)


def _repeated(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call: the least of three timings of REPEATS calls."""

    def several() -> None:
        for _ in range(REPEATS):
            work()

    several()
    return min(seconds(several, device) for _ in range(3)) / REPEATS
