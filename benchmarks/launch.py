"""Starts a measurement in a process of its own, with caps on instruction sets in the environment. Needs no PyTorch."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from molkit.errors import CalculationFailed, InvalidInput

PROGRESS = "# "  # how the measurement begins the lines that are meant for people
CAPS = {  # what each library must be told before it is loaded: oneDNN, MKL, PyTorch's own kernels, our engine
    "auto": {},
    "amx_bf16": {
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512_E4",
        "MOLKIT_MAX_ISA": "amx_bf16",
    },
    "avx512_bf16": {
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        "MOLKIT_MAX_ISA": "avx512_bf16",
    },
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_ENABLE_INSTRUCTIONS": "AVX512", "MOLKIT_MAX_ISA": "avx512"},
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MOLKIT_MAX_ISA": "avx2",
    },
}
CAP_NAMES = sorted({name for cap in CAPS.values() for name in cap})


def environment(isa: str, start: Mapping[str, str]) -> dict[str, str]:
    """`start` with one thread a process, this checkout on the path, and the caps of `isa`.

    Raises InvalidInput for a cap that is not in CAPS.
    """
    if isa not in CAPS:
        raise InvalidInput(f"unknown instruction set {isa!r}; known are {', '.join(CAPS)}")
    path = [str(Path(__file__).resolve().parents[1]), *filter(None, [start.get("PYTHONPATH")])]
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return {**start, **threads, **CAPS[isa], "PYTHONPATH": os.pathsep.join(path)}


def run(module: str, request: Mapping[str, object], *, isa: str, report: Callable[[str], None]) -> dict:
    """The JSON that `python -m module REQUEST` prints; its progress goes to `report` line by line.

    Raises InvalidInput when the measurement refuses the request, CalculationFailed when it stops for another reason.
    """
    command = [sys.executable, "-P", "-m", module, json.dumps(dict(request))]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as printed,
        subprocess.Popen(
            command, stdout=printed, stderr=subprocess.PIPE, text=True, env=environment(isa, os.environ)
        ) as process,
    ):
        try:
            last = _follow(process, report)
        finally:
            process.kill()  # nothing once it has ended; ends it when we are interrupted
        if process.returncode == 2:
            raise InvalidInput(last)
        if process.returncode:
            raise CalculationFailed(f"the measurement stopped (exit code {process.returncode}): {last or 'no message'}")
        printed.seek(0)
        return json.load(printed)


def _follow(process: subprocess.Popen, report: Callable[[str], None]) -> str:
    """Report progress until the process ends; returns its last line that was no progress."""
    last = ""
    for line in map(str.rstrip, process.stderr):
        if line.startswith(PROGRESS):
            report(line.removeprefix(PROGRESS))
        elif line:
            last = line
    process.wait()
    return last
