"""Sums over a strip of tiles, and how the numbers of a strip are read and written.

A strip is STRIP tiles side by side, held as one row of STRIP numbers for each place in a tile (or each term), so that every step is
over neighbouring numbers. Where bfloat16 is multiplied in pairs, see `stlsearch.ops.bfloat16`, it is a row of STRIP pairs for every two
places, the last with a zero where their number is odd.
"""

from __future__ import annotations

from stlsearch.ops.bfloat16 import no_sums, plus_products, write_sums
from stlsearch.solvers.machine_code import compiled
from stlsearch.solvers.simd import (
    alternate,
    alternate_pairs,
    alternate_pairs_rest,
    alternate_rest,
    broadcast,
    lanes,
    load_at,
    store_some,
)

STRIP = 512  # tiles side by side
ROWS = 4  # of a factor combined at once where they have no zeros


@compiled()
def combine(starts, entries, coefficients, source, count, target, begin, stride, room):  # type: ignore[no-untyped-def]
    """target[begin + s stride + k] = sum_e coefficients[e] source[entries[e]][k], e from starts[s] to starts[s + 1].

    For k < count, or further, but not beyond `room`: registers are filled. Everything is written from them directly.
    """
    inputs, outputs = source.size // STRIP, starts.size - 1
    s = 0
    while s < outputs:
        if s + ROWS <= outputs and starts[s + ROWS] - starts[s] == ROWS * inputs:
            _combine_rows(starts[s], coefficients, source, inputs, count, target, begin + s * stride, stride, room)
            s += ROWS
        else:
            _combine_row(starts[s], starts[s + 1], entries, coefficients, source, count, target, begin + s * stride, room)
            s += 1


@compiled()
def _combine_rows(first, coefficients, source, inputs, count, target, begin, stride, room):  # type: ignore[no-untyped-def]
    """Four rows without zeros: what is loaded is used four times, so that arithmetic and not loading is the limit."""
    step = lanes(source)
    for k in range(0, count, 2 * step):
        zero = no_sums(source)
        a, b, c, d, e, f, g, h = zero, zero, zero, zero, zero, zero, zero, zero
        for term in range(inputs):
            at = term * STRIP + k
            x, y = load_at(source, at), load_at(source, at + step)
            coefficient = broadcast(coefficients, first + term)
            a, b = plus_products(x, coefficient, a), plus_products(y, coefficient, b)
            coefficient = broadcast(coefficients, first + inputs + term)
            c, d = plus_products(x, coefficient, c), plus_products(y, coefficient, d)
            coefficient = broadcast(coefficients, first + 2 * inputs + term)
            e, f = plus_products(x, coefficient, e), plus_products(y, coefficient, f)
            coefficient = broadcast(coefficients, first + 3 * inputs + term)
            g, h = plus_products(x, coefficient, g), plus_products(y, coefficient, h)
        to, left = begin + k, room - k
        write_sums(target, to, left, source, a, b)
        write_sums(target, to + stride, left, source, c, d)
        write_sums(target, to + 2 * stride, left, source, e, f)
        write_sums(target, to + 3 * stride, left, source, g, h)


@compiled()
def _combine_row(first, last, entries, coefficients, source, count, target, begin, room):  # type: ignore[no-untyped-def]
    """One row, its zeros left out."""
    step = lanes(source)
    for k in range(0, count, 4 * step):
        zero = no_sums(source)
        a, b, c, d = zero, zero, zero, zero
        for term in range(first, last):
            coefficient = broadcast(coefficients, term)
            at = entries[term] * STRIP + k
            a = plus_products(load_at(source, at), coefficient, a)
            b = plus_products(load_at(source, at + step), coefficient, b)
            c = plus_products(load_at(source, at + 2 * step), coefficient, c)
            d = plus_products(load_at(source, at + 3 * step), coefficient, d)
        write_sums(target, begin + k, room - k, source, a, b)
        write_sums(target, begin + k + 2 * step, room - k - 2 * step, source, c, d)


@compiled()
def put_together(  # type: ignore[no-untyped-def]
    matrix, begin, i, first, count, rows, columns, row_stride, height, width, row_blocks, column_blocks, down, across, source
):  # fmt: skip
    """Tiles first to first + count in row i of the tiles, to the sample at `begin`; source[a width + c][k] is place (a, c) of one."""
    start = first if column_blocks else first * width
    for a in range(height):
        number = a * down + i if row_blocks else i * height + a
        if number < rows:
            row, places = begin + number * row_stride + start, source[a * width * STRIP :]
            _put_row_together(matrix, row, columns - start, across, width, column_blocks, count, places)


@compiled()
def _put_row_together(matrix, row, left, across, width, column_blocks, count, places):  # type: ignore[no-untyped-def]
    """One row of the places of `count` tiles to the matrix, where it begins at `row` and `left` columns are left."""
    step = lanes(matrix)
    if column_blocks or width == 1:
        for c in range(width):
            to, inside = row + c * across, min(count, left - c * across)
            for k in range(0, inside, step):
                store_some(matrix, to + k, inside - k, load_at(places, c * STRIP + k))
    elif width == 4:
        inside = min(left, 4 * count)
        for k in range(0, count, step):
            p, q, r, s = load_at(places, k), load_at(places, STRIP + k), load_at(places, 2 * STRIP + k), load_at(places, 3 * STRIP + k)
            to, room = row + 4 * k, inside - 4 * k
            pq, rs = alternate(p, q), alternate(r, s)
            store_some(matrix, to, room, alternate_pairs(pq, rs))
            store_some(matrix, to + step, room - step, alternate_pairs_rest(pq, rs))
            pq, rs = alternate_rest(p, q), alternate_rest(r, s)
            store_some(matrix, to + 2 * step, room - 2 * step, alternate_pairs(pq, rs))
            store_some(matrix, to + 3 * step, room - 3 * step, alternate_pairs_rest(pq, rs))
    elif width == 2:
        inside = min(left, 2 * count)
        for k in range(0, count, step):
            p, q = load_at(places, k), load_at(places, STRIP + k)
            to, room = row + 2 * k, inside - 2 * k
            store_some(matrix, to, room, alternate(p, q))
            store_some(matrix, to + step, room - step, alternate_rest(p, q))
    else:
        for c in range(width):
            part = places[c * STRIP :]
            for k in range(min(count, (left - c + width - 1) // width)):
                matrix[row + k * width + c] = part[k]
