"""One thread for the libraries under a calculation, whatever the environment says.

The matrices of a molecule are small: more threads make its energies no faster and cost many times the CPU time.
"""

import ctypes
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

# extension module -> names of the functions, in the library it is linked with, that read and set the number of threads
LIBRARIES = {
    "tblite._libtblite": ("omp_get_max_threads", "omp_set_num_threads"),
    "numpy.linalg._umath_linalg": ("scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"),
    "scipy.linalg._fblas": ("scipy_openblas_get_num_threads", "scipy_openblas_set_num_threads"),
}
Pool = tuple[Callable[[], int], Callable[[int], None]]  # number of threads now, and how to set it


@cache
def thread_pools() -> dict[str, Pool]:
    """Read and set the threads of each library by the module that uses it.

    A build linked with another library (Accelerate, MKL) is left out, and keeps its own number.
    """
    found = {}
    for module, (read, put) in LIBRARIES.items():
        library = ctypes.CDLL(importlib.import_module(module).__file__)  # looked up in what it is linked with, too
        if hasattr(library, read) and hasattr(library, put):
            found[module] = getattr(library, read), getattr(library, put)
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside the block tblite, PySCF, NumPy and SciPy use one thread in the calling thread; then as many as before.

    PySCF only where it is loaded: whoever calls it has imported it.
    """
    before = [(put, read()) for read, put in thread_pools().values()]
    if "pyscf.lib" in sys.modules:
        number = sys.modules["pyscf.lib"].num_threads
        before.append((number, number()))
    for put, _ in before:
        put(1)
    try:
        yield
    finally:
        for put, number in before:
            put(number)
