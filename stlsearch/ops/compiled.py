"""The operator's linear maps compiled for CPUs: `stlsearch.ops.plain` at the speed of memory.

Each tile is read once. A strip of tiles is taken apart into one row per place in the tile, in a buffer that stays in the cache;
every term is then a sum of those rows, kept in registers, and is written once. Plain PyTorch writes and reads the permuted
matrix in between. Coefficients that are zero are left out, so a sparse exact basis costs its additions only.

float32 and float64 are computed as they are; bfloat16 is stored, but summed in float32 and rounded once.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, types
from torch import Tensor

from stlsearch.errors import InputError
from stlsearch.ops.memory import empty
from stlsearch.ops.threads import run_together
from stlsearch.solvers.kernels import FAST, compiled
from stlsearch.solvers.simd import BYTES, intrinsic, load, plus_product, splat, store

STRIP = 512  # tiles side by side in the buffers
ROWS = 4  # of a factor combined at once where they have no zeros
WORDS = 23  # of a job
PORTIONS = 4  # of each thread: the others go on when one is interrupted
WORTH_SHARING = 1 << 22  # multiplications of a plane below which a product of its own costs more than it saves
WORTH_A_THREAD = 1 << 16  # values below which a second thread costs more than it saves

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


def multiply(left: Tensor, right: Tensor, *, into: Tensor | None = None) -> Tensor:
    """As `stlsearch.ops.plain.multiply`; `into` is memory for the products.

    A batched product gives every thread planes of its own and leaves some idle at the end, a seventh of the time for seven planes on
    two threads. So the planes that are left over are multiplied one by one, by all threads together.
    """
    rank, rows, inner = left.shape
    columns = right.shape[2]
    products = empty(left, rank, rows, columns) if into is None else into
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
    """Run `_encode` or `_decode` on all rows of tiles, shared out over PyTorch's number of threads."""
    kind = SUMMED_IN[factor.dtype]
    coefficients = factor.detach().to(torch.float64 if kind is np.float64 else torch.float32).numpy()
    nonzero = coefficients != 0
    starts = np.concatenate([[0], np.cumsum(nonzero.sum(axis=1))]).astype(np.intp)
    entries, numbers = np.nonzero(nonzero)[1].astype(np.intp), coefficients[nonzero]
    planes, matrix = (source, target) if source.ndim == 3 else (target, source)
    threads = min(torch.get_num_threads(), tile_rows, -(-size // WORTH_A_THREAD))
    portion = max(1, tile_rows // (threads * PORTIONS))
    arrays = (planes, matrix, starts, entries, numbers)
    sizes = (*planes.shape, matrix.size, len(starts), len(entries))
    job = np.array((0, portion, tile_rows, inputs, *sizes, *(array.ctypes.data for array in arrays), *geometry), dtype=np.intp)
    run_together(_entry(encoding, factor.dtype).address, job, arrays, threads)


@cache
def _entry(encoding: bool, dtype: torch.dtype) -> Any:
    """The C function that takes portions of a job's rows of tiles until none is left, see `job` in `_in_threads`."""
    summed: Any = SUMMED_IN[dtype]
    stored: Any = np.uint16 if dtype == torch.bfloat16 else summed

    def body(data):  # type: ignore[no-untyped-def]
        job = carray(data, WORDS, np.intp)
        portion, tile_rows, inputs, rank, down, across = job[1], job[2], job[3], job[4], job[5], job[6]
        planes = carray(_pointer(job[10]), (rank, down, across), stored)
        matrix = carray(_pointer(job[11]), job[7], stored)
        starts = carray(_pointer(job[12]), job[8], np.intp)
        entries = carray(_pointer(job[13]), job[9], np.intp)
        numbers = carray(_pointer(job[14]), job[9], summed)
        source = np.empty(inputs * STRIP, summed)
        target = np.empty((job[8] - 1) * STRIP, summed)
        while True:
            first = _take(data, portion)
            if first >= tile_rows:
                break
            last = min(first + portion, tile_rows)
            geometry = job[15], job[16], job[17], job[18], job[19], job[20], job[21] != 0, job[22] != 0
            if encoding:
                _encode(planes, matrix, starts, entries, numbers, *geometry, source, target, first, last)
            else:
                _decode(planes, matrix, starts, entries, numbers, *geometry, source, target, first, last)

    try:
        return cfunc(types.void(types.voidptr), cache=True)(body)
    except RuntimeError:  # no place to keep the machine code, see `stlsearch.solvers.kernels.compiled`
        return cfunc(types.void(types.voidptr))(body)


@intrinsic
def _pointer(typing, address):  # type: ignore[no-untyped-def]
    """The address as a pointer."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(address), generate


@intrinsic
def _take(typing, data, portion):  # type: ignore[no-untyped-def]
    """Add `portion` to the first word of a job, which all threads share, and return what it was."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        counter = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", counter, arguments[1], "seq_cst")

    return types.intp(data, portion), generate


@intrinsic
def _widen(typing, value):  # type: ignore[no-untyped-def]
    """A stored number as it is summed: the 16 bits of a bfloat16 are the upper half of a float32."""
    if isinstance(value, types.Float):
        return value(value), lambda context, builder, signature, arguments: arguments[0]

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        bits = builder.shl(builder.zext(arguments[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(value), generate


@intrinsic
def _narrow(typing, array, value):  # type: ignore[no-untyped-def]
    """A sum as `array` stores it: bfloat16 to the nearest, ties to even, NaN stays NaN."""
    if isinstance(array.dtype, types.Float):
        return value(array, value), lambda context, builder, signature, arguments: arguments[1]

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        word = ir.IntType(32)

        def number(value: int) -> ir.Constant:
            return ir.Constant(word, value)

        bits = builder.bitcast(arguments[1], word)
        odd = builder.and_(builder.lshr(bits, number(16)), number(1))
        nearest = builder.add(builder.add(bits, number(0x7FFF)), odd)
        quiet = builder.or_(bits, number(0x400000))
        is_nan = builder.fcmp_unordered("uno", arguments[1], arguments[1])
        upper = builder.lshr(builder.select(is_nan, quiet, nearest), number(16))
        return builder.trunc(upper, ir.IntType(16))

    return array.dtype(array, value), generate


@compiled(fastmath=FAST)
def _combine(starts, entries, coefficients, source, target, count):  # type: ignore[no-untyped-def]
    """target[s] = sum_e coefficients[e] source[entries[e]], e from starts[s] to starts[s + 1], at the first `count` places."""
    inputs, outputs = source.size // STRIP, starts.size - 1
    s = 0
    while s < outputs:
        if s + ROWS <= outputs and starts[s + ROWS] - starts[s] == ROWS * inputs:
            _combine_rows(starts[s], coefficients, source, target, s, inputs, count)
            s += ROWS
        else:
            _combine_row(starts[s], starts[s + 1], entries, coefficients, source, target, s, count)
            s += 1


@compiled(fastmath=FAST)
def _combine_rows(first, coefficients, source, target, s, inputs, count):  # type: ignore[no-untyped-def]
    """Four rows without zeros: what is loaded is used four times, so that arithmetic and not loading is the limit."""
    lanes = BYTES // source.itemsize
    stride = STRIP // lanes
    vectors = (count + lanes - 1) // lanes
    for place in range(0, vectors, 2):
        zero = splat(source, 0.0)
        a, b, c, d, e, f, g, h = zero, zero, zero, zero, zero, zero, zero, zero
        for term in range(inputs):
            at = term * stride + place
            x, y = load(source, at), load(source, at + 1)
            coefficient = splat(source, coefficients[first + term])
            a, b = plus_product(x, coefficient, a), plus_product(y, coefficient, b)
            coefficient = splat(source, coefficients[first + inputs + term])
            c, d = plus_product(x, coefficient, c), plus_product(y, coefficient, d)
            coefficient = splat(source, coefficients[first + 2 * inputs + term])
            e, f = plus_product(x, coefficient, e), plus_product(y, coefficient, f)
            coefficient = splat(source, coefficients[first + 3 * inputs + term])
            g, h = plus_product(x, coefficient, g), plus_product(y, coefficient, h)
        to = s * stride + place
        store(target, to, a)
        store(target, to + 1, b)
        store(target, to + stride, c)
        store(target, to + stride + 1, d)
        store(target, to + 2 * stride, e)
        store(target, to + 2 * stride + 1, f)
        store(target, to + 3 * stride, g)
        store(target, to + 3 * stride + 1, h)


@compiled(fastmath=FAST)
def _combine_row(begin, end, entries, coefficients, source, target, s, count):  # type: ignore[no-untyped-def]
    """One row, its zeros left out."""
    lanes = BYTES // source.itemsize
    stride = STRIP // lanes
    vectors = (count + lanes - 1) // lanes
    for place in range(0, vectors, 4):
        zero = splat(source, 0.0)
        a, b, c, d = zero, zero, zero, zero
        for term in range(begin, end):
            coefficient = splat(source, coefficients[term])
            at = entries[term] * stride + place
            a = plus_product(load(source, at), coefficient, a)
            b = plus_product(load(source, at + 1), coefficient, b)
            c = plus_product(load(source, at + 2), coefficient, c)
            d = plus_product(load(source, at + 3), coefficient, d)
        to = s * stride + place
        store(target, to, a)
        store(target, to + 1, b)
        store(target, to + 2, c)
        store(target, to + 3, d)


@compiled(fastmath=FAST)
def _take_apart(row, first, columns, column_blocks, across, width, count, places):  # type: ignore[no-untyped-def]
    """places[c][k] = row[column(first + k, c)], zeros beyond the row, for tiles first .. first + count."""
    if column_blocks:
        for c in range(width):
            begin = c * across + first
            inside = max(0, min(count, columns - begin))
            part, values = places[c * STRIP : c * STRIP + count], row[begin : begin + inside]
            for k in range(inside):
                part[k] = _widen(values[k])
            part[inside:] = 0
        return
    whole = min(count, columns // width - first)
    values = row[first * width : (first + whole) * width]
    if width == 4:  # constant strides become shuffles of vectors
        p, q, r, s = places[:whole], places[STRIP : STRIP + whole], places[2 * STRIP : 2 * STRIP + whole], places[3 * STRIP :]
        for k in range(whole):
            p[k] = _widen(values[4 * k])
            q[k] = _widen(values[4 * k + 1])
            r[k] = _widen(values[4 * k + 2])
            s[k] = _widen(values[4 * k + 3])
    elif width == 2:
        p, q = places[:whole], places[STRIP : STRIP + whole]
        for k in range(whole):
            p[k] = _widen(values[2 * k])
            q[k] = _widen(values[2 * k + 1])
    else:
        for c in range(width):
            part = places[c * STRIP : c * STRIP + whole]
            for k in range(whole):
                part[k] = _widen(values[k * width + c])
    if whole < count:  # the last tile reaches beyond the row
        for c in range(width):
            column = (first + whole) * width + c
            places[c * STRIP + whole] = _widen(row[column]) if column < columns else 0


@compiled(fastmath=FAST)
def _put_together(row, first, columns, column_blocks, across, width, count, places):  # type: ignore[no-untyped-def]
    """row[column(first + k, c)] = places[c][k] where the row has that column: the way back from `_take_apart`."""
    if column_blocks:
        for c in range(width):
            begin = c * across + first
            inside = max(0, min(count, columns - begin))
            part, values = places[c * STRIP : c * STRIP + inside], row[begin : begin + inside]
            for k in range(inside):
                values[k] = _narrow(row, part[k])
        return
    whole = min(count, columns // width - first)
    values = row[first * width : (first + whole) * width]
    if width == 4:
        p, q, r, s = places[:whole], places[STRIP : STRIP + whole], places[2 * STRIP : 2 * STRIP + whole], places[3 * STRIP :]
        for k in range(whole):
            values[4 * k] = _narrow(row, p[k])
            values[4 * k + 1] = _narrow(row, q[k])
            values[4 * k + 2] = _narrow(row, r[k])
            values[4 * k + 3] = _narrow(row, s[k])
    elif width == 2:
        p, q = places[:whole], places[STRIP : STRIP + whole]
        for k in range(whole):
            values[2 * k] = _narrow(row, p[k])
            values[2 * k + 1] = _narrow(row, q[k])
    else:
        for c in range(width):
            part = places[c * STRIP : c * STRIP + whole]
            for k in range(whole):
                values[k * width + c] = _narrow(row, part[k])
    if whole < count:
        for c in range(width):
            column = (first + whole) * width + c
            if column < columns:
                row[column] = _narrow(row, places[c * STRIP + whole])


@compiled(fastmath=FAST)
def _encode(  # type: ignore[no-untyped-def]
    planes, matrix, starts, entries, coefficients,
    rows, columns, batch_stride, row_stride, height, width, row_blocks, column_blocks,
    source, target, begin, end,
):  # fmt: skip
    """Rows begin .. end of the tiles of all batches."""
    rank, _, across = planes.shape
    down = (rows + height - 1) // height
    for tile_row in range(begin, end):
        sample, i = tile_row // down, tile_row % down
        for first in range(0, across, STRIP):
            count = min(STRIP, across - first)
            for a in range(height):
                number = a * down + i if row_blocks else i * height + a
                places = source[a * width * STRIP : (a + 1) * width * STRIP]
                if number < rows:
                    start = sample * batch_stride + number * row_stride
                    _take_apart(matrix[start : start + columns], first, columns, column_blocks, across, width, count, places)
                else:
                    places[:] = 0
            _combine(starts, entries, coefficients, source, target, count)
            for s in range(rank):
                to, sums = planes[s, tile_row, first : first + count], target[s * STRIP : s * STRIP + count]
                for k in range(count):
                    to[k] = _narrow(planes, sums[k])


@compiled(fastmath=FAST)
def _decode(  # type: ignore[no-untyped-def]
    planes, matrix, starts, entries, coefficients,
    rows, columns, batch_stride, row_stride, height, width, row_blocks, column_blocks,
    source, target, begin, end,
):  # fmt: skip
    """Rows begin .. end of the tiles of all batches."""
    rank, _, across = planes.shape
    down = (rows + height - 1) // height
    for tile_row in range(begin, end):
        sample, i = tile_row // down, tile_row % down
        for first in range(0, across, STRIP):
            count = min(STRIP, across - first)
            # A copy: at sizes that are powers of two, all planes would fall into the same few cache lines.
            for s in range(rank):
                values, part = planes[s, tile_row, first : first + count], source[s * STRIP : s * STRIP + count]
                for k in range(count):
                    part[k] = _widen(values[k])
            _combine(starts, entries, coefficients, source, target, count)
            for a in range(height):
                number = a * down + i if row_blocks else i * height + a
                if number < rows:
                    start = sample * batch_stride + number * row_stride
                    places = target[a * width * STRIP : (a + 1) * width * STRIP]
                    _put_together(matrix[start : start + columns], first, columns, column_blocks, across, width, count, places)
