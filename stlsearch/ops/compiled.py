"""The operator's linear maps compiled for CPUs: `stlsearch.ops.plain` at the speed of memory.

Each tile is read once. A strip of tiles is taken apart into one row per place in the tile, in a buffer that stays in the cache;
every term is then a sum of those rows, kept in registers, and is written once. Plain PyTorch writes and reads the permuted
matrix in between. Coefficients that are zero are left out, so a sparse exact basis costs its additions only.

float32 and float64 are computed as they are; bfloat16 is stored, but summed in float32 and rounded once. Processors that multiply
bfloat16 themselves do so with two numbers at a time (`stlsearch.ops.bfloat16`): there a zero is left out only beside another zero, and
denormal numbers count as zero.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numba import carray
from torch import Tensor
from torch.nn import functional

from stlsearch.errors import InputError
from stlsearch.ops import blocked, pair_loops, tile_loops
from stlsearch.ops.bfloat16 import multiplies_pairs
from stlsearch.ops.jobs import buffer, pointer, take
from stlsearch.ops.memory import empty
from stlsearch.ops.strips import STRIP
from stlsearch.ops.threads import run_together
from stlsearch.solvers.machine_code import c_function

WORDS = 23  # of a job
PORTIONS = 4  # of each thread: the others go on when one is interrupted
WORTH_SHARING = 1 << 22  # multiplications of a plane below which a product of its own costs more than it saves
WORTH_A_THREAD = 1 << 16  # values below which a second thread costs more than it saves

PAIRED = multiplies_pairs()
"""Whether bfloat16 is multiplied two numbers at a time, see `stlsearch.ops.bfloat16`."""

SUMMED_IN = {torch.float64: np.float64, torch.float32: np.float32, torch.bfloat16: np.float32}
"""What each dtype is summed in."""


def encode(
    matrix: Tensor, factor: Tensor, height: int, width: int, row_blocks: bool, column_blocks: bool, *, into: Tensor | None = None
) -> Tensor:
    """As `stlsearch.ops.plain.encode`, for the dtypes of `SUMMED_IN` on a CPU; `into` is memory for the planes."""
    batch, rows, columns = matrix.shape
    down, across = -(-rows // height), -(-columns // width)
    planes = empty(matrix, factor.shape[0], batch * down, across) if into is None else into
    _check(matrix, planes, factor, (batch * down, across), height * width)
    if planes.numel() == 0:
        return planes
    values, strides = _memory(matrix)
    geometry = (rows, columns, *strides, height, width, row_blocks, column_blocks)
    _in_threads(True, batch * down, planes.numel(), factor, height * width, values, _numbers(planes), geometry)
    return planes


def decode(
    planes: Tensor,
    factor: Tensor,
    height: int,
    width: int,
    batch: int,
    rows: int,
    columns: int,
    row_blocks: bool,
    column_blocks: bool,
    *,
    into: Tensor | None = None,
) -> Tensor:
    """As `stlsearch.ops.plain.decode`, for the dtypes of `SUMMED_IN` on a CPU; `into` is memory whose columns are neighbours."""
    matrix = empty(planes, batch, rows, columns) if into is None else into
    _check(matrix, planes, factor, (batch * -(-rows // height), -(-columns // width)), height * width)
    if matrix.numel() == 0:
        return matrix
    planes = planes.contiguous()
    values, strides = _memory(matrix)
    geometry = (rows, columns, *strides, height, width, row_blocks, column_blocks)
    tile_rows = batch * -(-rows // height)
    _in_threads(False, tile_rows, planes.numel(), factor.T, factor.shape[0], _numbers(planes), values, geometry)
    return matrix


def _check(matrix: Tensor, planes: Tensor, factor: Tensor, tiles: tuple[int, int], places: int) -> None:
    """Compiled code believes what it is told: wrong sizes would have it read and write anywhere."""
    rank = factor.shape[0]
    if tuple(factor.shape) != (rank, places) or tuple(planes.shape) != (rank, *tiles) or not matrix.dtype == planes.dtype == factor.dtype:
        given = ", ".join(f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in (matrix, planes, factor))
        raise InputError(f"matrix, planes and factor do not fit each other: {given}")


def _check_product(left: Tensor, right: Tensor, products: Tensor) -> None:
    rank, rows, inner = left.shape
    fits = tuple(right.shape[:2]) == (rank, inner) and tuple(products.shape) == (rank, rows, right.shape[2])
    if not fits or not left.dtype == right.dtype == products.dtype:
        given = ", ".join(f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in (left, right, products))
        raise InputError(f"factors and products do not fit each other: {given}")


def multiply(left: Tensor, right: Tensor, *, into: Tensor | None = None, add: bool = False) -> Tensor:
    """As `stlsearch.ops.plain.multiply`; `into` is memory for the products, and with `add` they are added to what it holds.

    PyTorch's batched product gives every thread planes of its own and leaves some idle at the end, a seventh of the time for seven
    planes on two threads. So the planes that are left over are multiplied one by one, by all threads together.

    Raises:
        InputError: sizes or dtypes that do not fit each other, or `add` without `into`.
    """
    if add and into is None:
        raise InputError("there is nothing to add the products to: give `into`")
    rank, rows, inner = left.shape
    columns = right.shape[2]
    products = empty(left, rank, rows, columns) if into is None else into
    _check_product(left, right, products)
    if blocked.faster(left, right) and products.stride(2) == 1:
        blocked.multiply(left, right, products, add=add)
    elif add:
        products.baddbmm_(left, right)
    else:
        threads = torch.get_num_threads()
        together = rank - rank % threads if threads <= rank and rows * inner * columns >= WORTH_SHARING else rank
        if together:
            torch.bmm(left[:together], right[:together], out=products[:together])
        for s in range(together, rank):
            torch.mm(left[s], right[s], out=products[s])
    return products


def _memory(matrix: Tensor) -> tuple[np.ndarray, tuple[int, int]]:
    """The matrix as flat memory, with the strides of batches and rows; its columns must be neighbours."""
    if matrix.stride(2) != 1:
        matrix = matrix.contiguous()
    batch, rows, columns = matrix.shape
    strides = (matrix.stride(0), matrix.stride(1))
    span = (batch - 1) * strides[0] + (rows - 1) * strides[1] + columns
    return _numbers(matrix.as_strided((max(span, 0),), (1,))), strides


def _numbers(tensor: Tensor) -> np.ndarray:
    """The tensor's memory; bfloat16, which NumPy does not know, as its 16 bits."""
    tensor = tensor.detach()
    return tensor.view(torch.int16).numpy().view(np.uint16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


def _in_threads(encoding: bool, tile_rows: int, size: int, factor: Tensor, inputs: int, source: Any, target: Any, geometry: tuple) -> None:
    """Run `encode_rows` or `decode_rows` on all rows of tiles, shared out over PyTorch's number of threads."""
    paired = PAIRED and factor.dtype == torch.bfloat16
    if paired:
        inputs = -(-inputs // 2)
        coefficients = _numbers(functional.pad(factor, (0, factor.shape[1] % 2)).contiguous()).view(np.uint32)
        nonzero = coefficients & 0x7FFF7FFF != 0  # but for the signs
    else:
        coefficients = factor.detach().to(torch.float64 if factor.dtype == torch.float64 else torch.float32).numpy()
        nonzero = coefficients != 0
    starts = np.concatenate([[0], np.cumsum(nonzero.sum(axis=1))]).astype(np.intp)
    entries, numbers = np.nonzero(nonzero)[1].astype(np.intp), coefficients[nonzero]
    planes, matrix = (source, target) if source.ndim == 3 else (target, source)
    threads = max(1, min(torch.get_num_threads(), tile_rows, -(-size // WORTH_A_THREAD)))
    portion = max(1, tile_rows // (threads * PORTIONS))
    arrays = (planes, matrix, starts, entries, numbers)
    sizes = (*planes.shape, matrix.size, len(starts), len(entries))
    job = np.array((0, portion, tile_rows, inputs, *sizes, *(array.ctypes.data for array in arrays), *geometry), dtype=np.intp)
    run_together(_entry(encoding, factor.dtype, paired).address, job, arrays, threads)


@cache
def _entry(encoding: bool, dtype: torch.dtype, paired: bool) -> Any:
    """The C function that takes portions of a job's rows of tiles until none is left, see `job` in `_in_threads`."""
    summed: Any = SUMMED_IN[dtype]
    stored: Any = np.uint16 if dtype == torch.bfloat16 else summed
    coefficient: Any = np.uint32 if paired else summed

    def body(data):  # type: ignore[no-untyped-def]
        job = carray(data, WORDS, np.intp)
        portion, tile_rows, inputs, rank, down, across = job[1], job[2], job[3], job[4], job[5], job[6]
        planes = carray(pointer(job[10]), (rank, down, across), stored)
        matrix = carray(pointer(job[11]), job[7], stored)
        starts = carray(pointer(job[12]), job[8], np.intp)
        entries = carray(pointer(job[13]), job[9], np.intp)
        numbers = carray(pointer(job[14]), job[9], coefficient)
        source = buffer(inputs * STRIP, coefficient)
        target = buffer(0 if encoding else (job[8] - 1) * STRIP, stored)
        while True:
            first = take(data, portion)
            if first >= tile_rows:
                break
            last = min(first + portion, tile_rows)
            geometry = job[15], job[16], job[17], job[18], job[19], job[20], job[21] != 0, job[22] != 0
            if paired and encoding:
                pair_loops.encode_rows(planes, matrix, starts, entries, numbers, *geometry, source, first, last)
            elif paired:
                pair_loops.decode_rows(planes, matrix, starts, entries, numbers, *geometry, source, target, first, last)
            elif encoding:
                tile_loops.encode_rows(planes, matrix, starts, entries, numbers, *geometry, source, first, last)
            else:
                tile_loops.decode_rows(planes, matrix, starts, entries, numbers, *geometry, source, target, first, last)

    return c_function(body)
