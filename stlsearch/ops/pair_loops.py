"""The loops over tiles that `stlsearch.ops.compiled` runs on bfloat16 where it is multiplied in pairs, see `stlsearch.ops.bfloat16`.

Two neighbours of a sum stand side by side: places 2 p and 2 p + 1 of a tile, as they already do in memory where the width is even, or
terms s and s + 1. A pair of coefficients is left out of sums only if both are zero.

Arrays: planes (r, rows of tiles, J) and matrix flat, source (pairs) * STRIP, target (places) * STRIP.
"""

from __future__ import annotations

import numpy as np

from stlsearch.ops.strips import STRIP, combine, put_together
from stlsearch.solvers.machine_code import compiled
from stlsearch.solvers.simd import BYTES, alternate, alternate_rest, even_pairs, load_some, odd_pairs, store_at

LANES = BYTES // 2  # numbers in a vector


@compiled()
def _pair_up(array, one, inside, other, within, source, row, count):  # type: ignore[no-untyped-def]
    """source[row][k] = (array[one + k], array[other + k]) for k < count, zeros from k = inside and k = within on."""
    to = row * STRIP
    for k in range(0, count, LANES):
        x, y = load_some(array, one + k, inside - k), load_some(array, other + k, within - k)
        store_at(source, to + k, alternate(x, y))
        store_at(source, to + k + LANES // 2, alternate_rest(x, y))


@compiled()
def _take_apart(  # type: ignore[no-untyped-def]
    matrix, begin, i, first, count, rows, columns, row_stride, height, width, row_blocks, column_blocks, down, across, source
):  # fmt: skip
    """source[p][k] = places 2 p and 2 p + 1 of tile first + k < first + count in row i of the tiles of the sample at `begin`."""
    if not column_blocks and width != 1:
        halves = source.view(np.uint16)
        for a in range(height):
            number = a * down + i if row_blocks else i * height + a
            left = columns - first * width if number < rows else 0
            _take_row_apart(matrix, begin + number * row_stride + first * width, left, a, width, count, source, halves)
        if height * width % 2:
            part = halves[height * width // 2 * 2 * STRIP :]
            for k in range(count):
                part[2 * k + 1] = 0
        return
    for p in range(0, height * width, 2):
        one, inside = _place(p, i, first, count, rows, columns, row_stride, height, width, row_blocks, down, across)
        other, within = _place(p + 1, i, first, count, rows, columns, row_stride, height, width, row_blocks, down, across)
        _pair_up(matrix, begin + one, inside, begin + other, within, source, p // 2, count)


@compiled()
def _take_row_apart(matrix, row, left, a, width, count, source, halves):  # type: ignore[no-untyped-def]
    """Row a of `count` tiles, which begin at `row` and have `left` columns."""
    if width == 4:
        to = 2 * a * STRIP
        for k in range(0, count, LANES // 2):
            x, y = load_some(matrix, row + 4 * k, left - 4 * k), load_some(matrix, row + 4 * k + LANES, left - 4 * k - LANES)
            store_at(source, to + k, even_pairs(x, y))
            store_at(source, to + STRIP + k, odd_pairs(x, y))
    elif width == 2:
        for k in range(0, count, LANES // 2):
            store_at(source, a * STRIP + k, load_some(matrix, row + 2 * k, left - 2 * k))
    else:
        for c in range(width):
            place = a * width + c
            inside = min(count, max(0, (left - c + width - 1) // width))
            part = halves[place // 2 * 2 * STRIP :]
            for k in range(inside):
                part[2 * k + place % 2] = matrix[row + k * width + c]
            for k in range(inside, count):
                part[2 * k + place % 2] = 0


@compiled()
def _place(p, i, first, count, rows, columns, row_stride, height, width, row_blocks, down, across):  # type: ignore[no-untyped-def]
    """Where place p of tile `first` lies if columns come from blocks, and how many of the `count` tiles have it inside the matrix."""
    a, column = p // width, p % width * across + first
    number = a * down + i if row_blocks else i * height + a
    return number * row_stride + column, min(count, columns - column) if a < height and number < rows else 0


@compiled()
def encode_rows(  # type: ignore[no-untyped-def]
    planes, matrix, starts, entries, coefficients,
    rows, columns, batch_stride, row_stride, height, width, row_blocks, column_blocks,
    source, begin, end,
):  # fmt: skip
    """Rows begin .. end of the tiles of all batches."""
    _, tile_rows, across = planes.shape
    down = (rows + height - 1) // height
    flat = planes.reshape(planes.size)
    for tile_row in range(begin, end):
        sample, i = tile_row // down, tile_row % down
        for first in range(0, across, STRIP):
            count = min(STRIP, across - first)
            _take_apart(
                matrix, sample * batch_stride, i, first, count, rows, columns, row_stride, height, width, row_blocks, column_blocks,
                down, across, source,
            )  # fmt: skip
            combine(starts, entries, coefficients, source, count, flat, tile_row * across + first, tile_rows * across, count)


@compiled()
def decode_rows(  # type: ignore[no-untyped-def]
    planes, matrix, starts, entries, coefficients,
    rows, columns, batch_stride, row_stride, height, width, row_blocks, column_blocks,
    source, target, begin, end,
):  # fmt: skip
    """Rows begin .. end of the tiles of all batches."""
    rank, tile_rows, across = planes.shape
    down = (rows + height - 1) // height
    flat = planes.reshape(planes.size)
    for tile_row in range(begin, end):
        sample, i = tile_row // down, tile_row % down
        for first in range(0, across, STRIP):
            count = min(STRIP, across - first)
            for s in range(0, rank, 2):
                one = (s * tile_rows + tile_row) * across + first
                _pair_up(flat, one, count, one + tile_rows * across, count if s + 1 < rank else 0, source, s // 2, count)
            combine(starts, entries, coefficients, source, count, target, 0, STRIP, STRIP)
            put_together(
                matrix, sample * batch_stride, i, first, count, rows, columns, row_stride, height, width, row_blocks, column_blocks,
                down, across, target,
            )  # fmt: skip
