"""Batched matrix products in blocks of our own, for CPUs whose vectors PyTorch's BLAS leaves half empty.

PyTorch multiplies float32 and float64 with MKL, which uses vectors of 64 bytes on Intel's processors only: on an AMD Zen 5 these loops are
twice as fast. Every thread takes planes, or blocks of their rows and columns where there are few, so that none waits for another, and a
sum is in the same order whatever their number.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numba import carray
from torch import Tensor

from stlsearch.ops.block_kernel import HEIGHT, WIDTH
from stlsearch.ops.block_loops import LEFT_SIZE, multiply_block, right_size
from stlsearch.ops.jobs import buffer, pointer, take
from stlsearch.ops.threads import run_together
from stlsearch.solvers.machine_code import c_function, processor
from stlsearch.solvers.simd import BYTES

WORDS = 25  # of a job
LEAST_ROWS, LEAST_COLUMNS = 16 * HEIGHT, 256  # of a task, where there are that many: both factors are copied for each
LEAST_WORK = 1 << 22  # multiplications of all planes
TASKS = 4  # of each thread: the others go on when one is interrupted
DTYPES = {torch.float64: np.float64, torch.float32: np.float32}


@cache
def here() -> bool:
    """Whether numba compiles for a processor with vectors of 64 bytes that PyTorch's BLAS does not use."""
    name, features = processor()
    return name.startswith("znver") and "avx512f" in features


def faster(left: Tensor, right: Tensor) -> bool:
    """Whether `multiply` is the faster way here."""
    rank, rows, inner = left.shape
    return left.device.type == "cpu" and pays(rank, rows, inner, right.shape[2], left.dtype)


def pays(rank: int, rows: int, inner: int, columns: int, dtype: torch.dtype) -> bool:
    """Whether `multiply` is the faster way on this CPU: not where copying the factors takes longer than multiplying them."""
    if dtype not in DTYPES or not here():
        return False
    wide = columns * dtype.itemsize >= WIDTH * BYTES
    return rows >= 2 * HEIGHT and wide and rank * rows * inner * columns >= LEAST_WORK


def multiply(left: Tensor, right: Tensor, into: Tensor, *, add: bool = False) -> None:
    """into[s] (+)= left[s] right[s], (r, I, J) times (r, J, L), of a dtype of `DTYPES` on a CPU; rows of `into` lie in one piece."""
    (rank, rows, inner), columns = left.shape, right.shape[2]
    if not into.numel() or not inner:
        if not add:
            into.zero_()
        return
    left, right = (factor.resolve_neg() if 1 in factor.stride()[1:] else factor.contiguous() for factor in (left, right))
    threads = torch.get_num_threads()
    wanted = -(-TASKS * threads // rank)  # parts of a plane
    height = _part(rows, min(wanted, rows // LEAST_ROWS), HEIGHT)
    down = -(-rows // height)
    width = _part(columns, min(-(-wanted // down), columns // LEAST_COLUMNS), WIDTH * BYTES // left.element_size())
    across = -(-columns // width)
    tasks = rank * down * across
    arrays = tuple(map(_flat, (left, right, into)))
    addresses = [word for array in arrays for word in (array.ctypes.data, array.size)]
    strides = [stride for tensor in (left, right, into) for stride in tensor.stride()]
    job = np.array((0, tasks, down, across, height, width, rows, inner, columns, add, *addresses, *strides), dtype=np.intp)
    run_together(_entry(left.dtype).address, job, arrays, min(threads, tasks))


def _part(size: int, parts: int, step: int) -> int:
    """The size of one of so many parts, a multiple of `step`."""
    return -(-size // (max(1, parts) * step)) * step


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
        tasks, down, across, height, width = job[1], job[2], job[3], job[4], job[5]
        rows, inner, columns, add = job[6], job[7], job[8], job[9] != 0
        left = carray(pointer(job[10]), job[11], kind)
        right = carray(pointer(job[12]), job[13], kind)
        out = carray(pointer(job[14]), job[15], kind)
        left_plane, left_row, left_column = job[16], job[17], job[18]
        right_plane, right_row, right_column = job[19], job[20], job[21]
        out_plane, out_row = job[22], job[23]
        packed_left, edge = buffer(LEFT_SIZE, kind), buffer(edge_size, kind)
        packed_right = buffer(right_size(width, left.itemsize), kind)
        while True:
            task = take(data, 1)
            if task >= tasks:
                break
            plane, part = task // (down * across), task % (down * across)
            i, j = part // across * height, part % across * width
            multiply_block(
                left, plane * left_plane + i * left_row, left_row, left_column,
                right, plane * right_plane + j * right_column, right_row, right_column,
                out, plane * out_plane + i * out_row + j, out_row,
                min(height, rows - i), inner, min(width, columns - j), add, packed_left, packed_right, edge,
            )  # fmt: skip

    return c_function(body)
