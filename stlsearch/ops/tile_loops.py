"""The loops over tiles that `stlsearch.ops.compiled` runs: strips of tiles taken apart, combined and put together.

A strip is STRIP tiles side by side, held as one row of STRIP numbers for each place in a tile (or each term), so that every step is
over neighbouring numbers. Arrays: planes (r, rows of tiles, J), matrix flat, source and target (places or terms) * STRIP.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types

from stlsearch.solvers.machine_code import compiled
from stlsearch.solvers.simd import BYTES, intrinsic, load, plus_product, splat, store

STRIP = 512  # tiles side by side in the buffers
ROWS = 4  # of a factor combined at once where they have no zeros


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


@compiled()
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


@compiled()
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


@compiled()
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


@compiled()
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


@compiled()
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


@compiled()
def encode_rows(  # type: ignore[no-untyped-def]
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


@compiled()
def decode_rows(  # type: ignore[no-untyped-def]
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
