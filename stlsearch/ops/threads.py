"""Running compiled code on the threads that PyTorch's own matrix products run on.

Between two parallel products the threads of an OpenMP runtime spin for a while, waiting for more. A pool of our own would compete with
them for the cores: measured at size 2048 on two cores, encoding took twice its time right after a product. So the work is handed
to that very runtime, through the entry point that compilers use. Where there is none to be found, a pool does it.
"""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

Body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def run_together(address: int, data: int, threads: int) -> None:
    """Call the C function ``void body(void *data)`` once on each of `threads` threads at the same time, this one included.

    Args:
        address: of the function. It must not need Python, and shares out the work itself.
        data: the address it is given.
    """
    if threads == 1:
        Body(address)(data)
    elif openmp := _openmp():
        openmp.GOMP_parallel(ctypes.c_void_p(address), ctypes.c_void_p(data), ctypes.c_uint(threads), ctypes.c_uint(0))
    else:
        others = [_pool(os.getpid()).submit(Body(address), data) for _ in range(threads - 1)]
        Body(address)(data)
        for other in others:
            other.result()


@cache
def _openmp() -> ctypes.CDLL | None:
    """PyTorch's OpenMP runtime, or None where it has another kind of threads."""
    try:
        mapped = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    names = "libgomp", "libiomp", "libomp"
    runtimes = {line.split(maxsplit=5)[-1] for line in mapped.splitlines() if any(name in line for name in names)}
    ours = str(Path(torch.__file__).parent)  # .../torch and .../torch.libs
    candidates = [path for path in sorted(runtimes) if path.startswith(ours)] or sorted(runtimes)
    if len(candidates) != 1:  # which of several is PyTorch's cannot be known
        return None
    library = ctypes.CDLL(candidates[0])
    return library if hasattr(library, "GOMP_parallel") else None


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """A pool for this process: a forked child has none of its parent's threads."""
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="stlsearch")
