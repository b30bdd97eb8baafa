"""Batched matrix products in blocks of our own, for CPUs whose vectors PyTorch's BLAS leaves half empty.

PyTorch multiplies float32 and float64 with MKL, which uses vectors of 64 bytes on Intel's processors only: on an AMD Zen 5 these loops are
twice as fast. Every thread takes whole planes or blocks of their rows, so that none waits for another, and a sum is in the same order
whatever their number.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numba import carray
from torch import Tensor

from stlsearch.ops.block_kernel import HEIGHT, WIDTH
from stlsearch.ops.block_loops import LEFT_SIZE, RIGHT_SIZE, multiply_rows
from stlsearch.ops.jobs import pointer, take
from stlsearch.ops.strips import buffer
from stlsearch.ops.threads import run_together
from stlsearch.solvers.machine_code import c_function, processor
from stlsearch.solvers.simd import BYTES

WORDS = 23  # of a job
LEAST_ROWS = 16 * HEIGHT  # of a task: the right factor is copied for each
LEAST_WORK = 1 << 22  # multiplications of all planes
TASKS = 4  # of each thread: the others go on when one is interrupted
DTYPES = {torch.float64: np.float64, torch.float32: np.float32}


@cache
def here() -> bool:
    """Whether numba compiles for a processor with vectors of 64 bytes that PyTorch's BLAS does not use."""
    name, features = processor()
    return name.startswith("znver") and "avx512f" in features


def faster(left: Tensor, right: Tensor) -> bool:
    """Whether `multiply` is the faster way here: not where copying the factors takes longer than multiplying them."""
    (rank, rows, inner), columns = left.shape, right.shape[2]
    large = rows >= HEIGHT and columns * left.element_size() >= WIDTH * BYTES and rank * rows * inner * columns >= LEAST_WORK
    return large and left.dtype in DTYPES and left.device.type == "cpu" and here()


def multiply(left: Tensor, right: Tensor, into: Tensor, *, add: bool = False) -> None:
    """into[s] (+)= left[s] right[s], (r, I, J) times (r, J, L), of a dtype of `DTYPES` on a CPU; rows of `into` lie in one piece."""
    (rank, rows, inner), columns = left.shape, right.shape[2]
    if not into.numel() or not inner:
        if not add:
            into.zero_()
        return
    left, right = (factor if 1 in factor.stride()[1:] else factor.contiguous() for factor in (left, right))
    threads = torch.get_num_threads()
    parts = max(1, min(-(-TASKS * threads // rank), rows // LEAST_ROWS))
    height = -(-rows // (parts * HEIGHT)) * HEIGHT
    parts = -(-rows // height)
    threads = min(threads, rank * parts)
    arrays = tuple(map(_flat, (left, right, into)))
    addresses = [word for array in arrays for word in (array.ctypes.data, array.size)]
    strides = [stride for tensor in (left, right, into) for stride in tensor.stride()]
    job = np.array((0, rank * parts, parts, height, rows, inner, columns, add, *addresses, *strides), dtype=np.intp)
    run_together(_entry(left.dtype).address, job, arrays, threads)


def _flat(tensor: Tensor) -> np.ndarray:
    """All memory from a tensor's first number to its last."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.detach().as_strided((last + 1,), (1,)).numpy()


@cache
def _entry(dtype: torch.dtype) -> Any:
    """The C function that takes tasks of a job until none is left, see `job` in `multiply`."""
    kind: Any = DTYPES[dtype]
    edge_size = HEIGHT * WIDTH * BYTES // np.dtype(kind).itemsize

    def body(data):  # type: ignore[no-untyped-def]
        job = carray(data, WORDS, np.intp)
        parts, height, rows, inner, columns, add = job[2], job[3], job[4], job[5], job[6], job[7] != 0
        left = carray(pointer(job[8]), job[9], kind)
        right = carray(pointer(job[10]), job[11], kind)
        out = carray(pointer(job[12]), job[13], kind)
        packed_left, packed_right, edge = buffer(LEFT_SIZE, kind), buffer(RIGHT_SIZE, kind), buffer(edge_size, kind)
        while True:
            task = take(data, 1)
            if task >= job[1]:
                break
            plane, first = task // parts, task % parts * height
            multiply_rows(
                left, plane * job[14] + first * job[15], job[15], job[16],
                right, plane * job[17], job[18], job[19],
                out, plane * job[20] + first * job[21], job[21],
                min(height, rows - first), inner, columns, add, packed_left, packed_right, edge,
            )  # fmt: skip

    return c_function(body)
