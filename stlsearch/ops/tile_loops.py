"""The loops over tiles that `stlsearch.ops.compiled` runs: strips of tiles taken apart, combined and put together.

Arrays: planes (r, rows of tiles, J) and matrix flat as they are stored, source (places or terms) * STRIP as they are summed, target
(places) * STRIP as they are stored.
"""

from __future__ import annotations

from stlsearch.ops.bfloat16 import widened
from stlsearch.ops.strips import STRIP, combine, put_together
from stlsearch.solvers.machine_code import compiled


@compiled()
def _take_apart(row, first, columns, column_blocks, across, width, count, places):  # type: ignore[no-untyped-def]
    """places[c][k] = row[column(first + k, c)], zeros beyond the row, for tiles first .. first + count."""
    if column_blocks:
        for c in range(width):
            begin = c * across + first
            inside = max(0, min(count, columns - begin))
            part, values = places[c * STRIP : c * STRIP + count], row[begin : begin + inside]
            for k in range(inside):
                part[k] = widened(values[k])
            part[inside:] = 0
        return
    whole = min(count, columns // width - first)
    values = row[first * width : (first + whole) * width]
    if width == 4:  # constant strides become shuffles of vectors
        p, q, r, s = places[:whole], places[STRIP : STRIP + whole], places[2 * STRIP : 2 * STRIP + whole], places[3 * STRIP :]
        for k in range(whole):
            p[k] = widened(values[4 * k])
            q[k] = widened(values[4 * k + 1])
            r[k] = widened(values[4 * k + 2])
            s[k] = widened(values[4 * k + 3])
    elif width == 2:
        p, q = places[:whole], places[STRIP : STRIP + whole]
        for k in range(whole):
            p[k] = widened(values[2 * k])
            q[k] = widened(values[2 * k + 1])
    else:
        for c in range(width):
            part = places[c * STRIP : c * STRIP + whole]
            for k in range(whole):
                part[k] = widened(values[k * width + c])
    if whole < count:  # the last tile reaches beyond the row
        for c in range(width):
            column = (first + whole) * width + c
            places[c * STRIP + whole] = widened(row[column]) if column < columns else 0


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
            for a in range(height):
                number = a * down + i if row_blocks else i * height + a
                places = source[a * width * STRIP : (a + 1) * width * STRIP]
                if number < rows:
                    start = sample * batch_stride + number * row_stride
                    _take_apart(matrix[start : start + columns], first, columns, column_blocks, across, width, count, places)
                else:
                    places[:] = 0
            combine(starts, entries, coefficients, source, count, flat, tile_row * across + first, tile_rows * across, count)


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
                    part[k] = widened(values[k])
            combine(starts, entries, coefficients, source, count, target, 0, STRIP, STRIP)
            put_together(
                matrix, sample * batch_stride, i, first, count, rows, columns, row_stride, height, width, row_blocks, column_blocks,
                down, across, target,
            )  # fmt: skip
