"""Running compiled code on the threads that PyTorch's own matrix products run on.

Between two parallel products the threads of an OpenMP runtime spin for a while, waiting for more. A pool of our own would compete with
them for the cores: measured at size 2048 on two cores, encoding took twice its time right after a product. So the work is handed
to that very runtime, through the entry point that compilers use. Where there is none to be found, a pool does it.
"""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path

import numpy as np
import torch

Body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def run_together(address: int, job: np.ndarray, alive: object, threads: int) -> None:
    """Call the C function ``void body(void *job)`` on `threads` threads or more at the same time, this one included.

    Args:
        address: of the function. It must not need Python, shares out the work itself, and does nothing once none is left.
        job: what it is given the address of.
        alive: what the job points to.
    """
    if threads == 1:
        Body(address)(job.ctypes.data)
    elif openmp := _openmp():
        # All of PyTorch's threads: the runtime ends those that a smaller team has no use for, and starts them anew for the next product.
        team = torch.get_num_threads()
        openmp.GOMP_parallel(ctypes.c_void_p(address), ctypes.c_void_p(job.ctypes.data), ctypes.c_uint(team), ctypes.c_uint(0))
    else:

        def body(job: np.ndarray, alive: object) -> None:  # holds the memory even if Ctrl-C ends the waiting
            Body(address)(job.ctypes.data)

        others = [_pool(os.getpid()).submit(body, job, alive) for _ in range(threads - 1)]
        try:
            body(job, alive)
        finally:
            wait(others)


@cache
def _openmp() -> ctypes.CDLL | None:
    """PyTorch's OpenMP runtime, or None where it has another kind of threads."""
    try:
        mapped = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    names = "libgomp", "libiomp", "libomp"
    runtimes = {line.split(maxsplit=5)[-1] for line in mapped.splitlines() if any(name in line for name in names)}
    ours = str(Path(torch.__file__).resolve().parent)
    candidates = [path for path in sorted(runtimes) if path.startswith((f"{ours}/", f"{ours}.libs/"))] or sorted(runtimes)
    if len(candidates) != 1:  # which of several is PyTorch's cannot be known
        return None
    try:
        library = ctypes.CDLL(candidates[0])
    except OSError:  # the file has been replaced since
        return None
    return library if hasattr(library, "GOMP_parallel") else None


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """A pool for this process: a forked child has none of its parent's threads."""
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="stlsearch")
