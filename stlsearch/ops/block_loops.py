"""The loops around `stlsearch.ops.block_kernel`: a block of one plane of a batched product.

Blocks of both factors are copied to where the kernel finds them side by side, DEPTH terms of the sums at a time: the left one, and the
panel of the right one that it is multiplied by, stay in the second-level cache, the other panels in the last. What a block lacks at the
edges is filled with zeros. (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", doi 10.1145/1356052.1356053.)

Arrays are flat, with strides.
"""

from __future__ import annotations

from stlsearch.ops.block_kernel import HEIGHT, WIDTH, block_product, turn
from stlsearch.solvers.machine_code import compiled
from stlsearch.solvers.simd import BYTES, load_at, store_at

DEPTH = 512  # terms of the sums
ROWS = 8 * HEIGHT  # of the left factor copied at a time
COLUMNS = 1024  # of the right one
PAD = 16  # rows of a power of two would share a few lines of the cache
ROW_STRIDE, TURNED_STRIDE = DEPTH + PAD, ROWS + PAD

LEFT_SIZE = max(ROWS * ROW_STRIDE, DEPTH * TURNED_STRIDE)

_block = block_product(ROW_STRIDE, 1)
_turned_block = block_product(1, TURNED_STRIDE)


@compiled()
def right_size(columns, item):  # type: ignore[no-untyped-def]
    """Numbers of `item` bytes that the blocks of a right factor of so many columns take."""
    width = WIDTH * BYTES // item
    return DEPTH * min(COLUMNS, (columns + width - 1) // width * width)


@compiled()
def _copy(source, source_at, target, target_at, count, total):  # type: ignore[no-untyped-def]
    """target[:count] = source[:count], zeros up to `total`."""
    lanes = BYTES // source.itemsize
    whole = count - count % lanes
    for k in range(0, whole, lanes):
        store_at(target, target_at + k, load_at(source, source_at + k))
    for k in range(whole, count):
        target[target_at + k] = source[source_at + k]
    for k in range(count, total):
        target[target_at + k] = 0


@compiled()
def _pack_left(left, at, row_stride, column_stride, rows, depth, packed):  # type: ignore[no-untyped-def]
    """`rows` x `depth` of the left factor as the kernel takes it: by rows, or turned where it lies turned."""
    height = (rows + HEIGHT - 1) // HEIGHT * HEIGHT
    if column_stride == 1:
        for i in range(rows):
            _copy(left, at + i * row_stride, packed, i * ROW_STRIDE, depth, depth)
        for i in range(rows, height):
            packed[i * ROW_STRIDE : i * ROW_STRIDE + depth] = 0
    else:
        for k in range(depth):
            _copy(left, at + k * column_stride, packed, k * TURNED_STRIDE, rows, height)


@compiled()
def _pack_right(right, at, row_stride, column_stride, depth, columns, packed):  # type: ignore[no-untyped-def]
    """`depth` x `columns` of the right factor, panel by panel of WIDTH vectors."""
    lanes = BYTES // right.itemsize
    width = WIDTH * lanes
    for j in range(0, columns, width):
        panel, inside = j * DEPTH, min(width, columns - j)
        if column_stride == 1 and inside == width:
            for k in range(depth):
                for vector in range(0, width, lanes):
                    store_at(packed, panel + k * width + vector, load_at(right, at + k * row_stride + j + vector))
        elif column_stride == 1:
            for k in range(depth):
                _copy(right, at + k * row_stride + j, packed, panel + k * width, inside, width)
        else:
            _pack_turned(right, at + j * column_stride, column_stride, depth, inside, packed, panel)


@compiled()
def _pack_turned(right, at, column_stride, depth, columns, packed, panel):  # type: ignore[no-untyped-def]
    """A panel of a factor whose rows are neighbours in memory."""
    lanes = BYTES // right.itemsize
    width = WIDTH * lanes
    for first in range(0, width, lanes):
        start = at + first * column_stride
        inside = max(0, min(lanes, columns - first))
        whole = depth - depth % lanes if inside == lanes else 0
        for k in range(0, whole, lanes):
            turn(right, start + k, column_stride, packed, panel + k * width + first, width)
        for k in range(whole, depth):
            to = panel + k * width + first
            for column in range(inside):
                packed[to + column] = right[start + column * column_stride + k]
            for column in range(inside, lanes):
                packed[to + column] = 0


@compiled()
def multiply_block(  # type: ignore[no-untyped-def]
    left, left_at, left_row, left_column, right, right_at, right_row, right_column, out, out_at, out_row,
    rows, inner, columns, add, packed_left, packed_right, edge,
):  # fmt: skip
    """out (+)= left right, (rows, inner) times (inner, columns), from places left_at, right_at and out_at on.

    Args:
        left_row, left_column, right_row, right_column: strides, of which one of each factor is 1.
        out_row: stride of the result's rows; its columns are neighbours.
        add: whether to add to what is there.
        packed_left, packed_right, edge: memory of LEFT_SIZE and `right_size` numbers and HEIGHT x WIDTH vectors.
    """
    width = WIDTH * (BYTES // left.itemsize)
    for j0 in range(0, columns, COLUMNS):
        count = min(COLUMNS, columns - j0)
        for k0 in range(0, inner, DEPTH):
            depth, adds = min(DEPTH, inner - k0), add or k0 > 0
            _pack_right(right, right_at + k0 * right_row + j0 * right_column, right_row, right_column, depth, count, packed_right)
            for i0 in range(0, rows, ROWS):
                height = min(ROWS, rows - i0)
                _pack_left(left, left_at + i0 * left_row + k0 * left_column, left_row, left_column, height, depth, packed_left)
                for j in range(0, count, width):
                    for i in range(0, height, HEIGHT):
                        to = out_at + (i0 + i) * out_row + j0 + j
                        if i + HEIGHT <= height and j + width <= count:
                            if left_column == 1:
                                _block(packed_left, i * ROW_STRIDE, packed_right, j * DEPTH, out, to, out_row, depth, adds)
                            else:
                                _turned_block(packed_left, i, packed_right, j * DEPTH, out, to, out_row, depth, adds)
                        else:
                            if left_column == 1:
                                _block(packed_left, i * ROW_STRIDE, packed_right, j * DEPTH, edge, 0, width, depth, False)
                            else:
                                _turned_block(packed_left, i, packed_right, j * DEPTH, edge, 0, width, depth, False)
                            for row in range(min(HEIGHT, height - i)):
                                for column in range(min(width, count - j)):
                                    value = edge[row * width + column]
                                    place = to + row * out_row + column
                                    out[place] = out[place] + value if adds else value
