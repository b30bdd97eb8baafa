"""What the Triton kernels share: where tiles lie in matrices, planes and factors, and a product of blocks summed in float32.

Shapes, layouts and padding are those of `stlsearch.ops.plain`. Offsets are 64 bits wide.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from stlsearch.ops.tuning import choice

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What the kernels compute with."""

BYTES = 1 << 14  # of a block in registers, padded: 64 values of 16 bits for each of 128 threads
COEFFICIENTS = 4096  # of the factor at once, padded: a few such chunks, and as many of planes, fit any GPU's shared memory
PLACES = 256  # in the largest padded tile for which that is so


def supports(dtype: torch.dtype, height: int, width: int) -> bool:
    """Whether the kernels compute with a dtype and a tile. What they do not, the functions below leave to plain PyTorch."""
    return dtype in DTYPES and padded_places(height, width) <= PLACES


@cache
def capability(device: torch.device) -> tuple[int, int]:
    """Of a CUDA device; others stand for an H200, in Triton's interpreter and in what only compiles."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


def padded_places(height: int, width: int) -> int:
    """Places of a tile whose sides are padded to powers of two, at least 16 in all."""
    return max(16, triton.next_power_of_2(height) * triton.next_power_of_2(width))


class Geometry:
    """How tiles lie in a matrix and how they are dealt out in blocks, as the arguments all kernels share.

    A block has as many bytes and a program as many warps as the table of `stlsearch.ops.tuning` says of the operation, else `size` and 4.
    """

    def __init__(
        self, operation: str, matrix: Tensor, rank: int, height: int, width: int, row_blocks: bool, column_blocks: bool, size: int = BYTES
    ) -> None:
        batch, rows, columns = matrix.shape
        tuned = choice(operation, matrix.device, matrix.dtype, rank, batch * rows, columns)
        size = tuned.get("bytes", size)
        down, across = -(-rows // height), -(-columns // width)
        places = padded_places(height, width)
        terms = max(16, min(64, triton.next_power_of_2(rank), COEFFICIENTS // places))
        block = max(16, size // matrix.element_size() // max(places, terms))
        # In a transposed matrix a column's values are neighbours: read it down, in blocks more square.
        down_first = matrix.stride(1) < matrix.stride(2)
        side_by_side = 16 if down_first else _side_by_side(block, across)
        self.blocks = -(-batch * down // (block // side_by_side)) * -(-across // side_by_side)
        self.arguments = (rows, columns, down, across, batch * down, *matrix.stride())
        self.constants = {
            "RANK": rank,
            "HEIGHT": height,
            "WIDTH": width,
            "ROW_BLOCKS": row_blocks,
            "COLUMN_BLOCKS": column_blocks,
            "WHOLE": rows % height == 0 and columns % width == 0,
            "DOWN_FIRST": down_first,
            "PLACES": places,
            "TERMS": terms,
            "BLOCK": block,
            "ACROSS": side_by_side,
            "num_warps": tuned.get("warps", 4),
        }


def _side_by_side(block: int, across: int) -> int:
    """Tiles of a block in one row of tiles: as many as waste no more than an eighth beyond the last column."""
    while block > 16 and -(-across // block) * block * 8 > across * 9:
        block //= 2
    return block


@triton.jit
def add_product(total, left, right):  # type: ignore[no-untyped-def]
    """total + left @ right in float32."""
    if INTERPRETED:  # which multiplies the bits of bfloat16 as integers; float32 has the very same products
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total, input_precision="ieee")


INTERPRETED = tl.constexpr(not isinstance(add_product, triton.JITFunction))


@triton.jit
def places_of(HEIGHT: tl.constexpr, WIDTH: tl.constexpr, DOWN_FIRST: tl.constexpr, PLACES: tl.constexpr):  # type: ignore[no-untyped-def]
    """Row, column and existence of every place in a padded tile, in the order in which memory has them."""
    place = tl.arange(0, PLACES)
    if DOWN_FIRST:
        row, column = place % triton.next_power_of_2(HEIGHT), place // triton.next_power_of_2(HEIGHT)
    else:
        row, column = place // triton.next_power_of_2(WIDTH), place % triton.next_power_of_2(WIDTH)
    return row, column, (row < HEIGHT) & (column < WIDTH)


@triton.jit
def positions(tile, place, tiles, EXTENT: tl.constexpr, BLOCKS: tl.constexpr):  # type: ignore[no-untyped-def]
    """row(i, a), or column(j, c), which is linear in both, so it can be taken apart into tile's and place's."""
    return place * tiles + tile if BLOCKS else tile * EXTENT + place


@triton.jit
def tiles_of(block, across, tile_rows, BLOCK: tl.constexpr, ACROSS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Row of tiles, column of tiles and existence of every tile of a block, ACROSS of them in a row."""
    blocks_across = tl.cdiv(across, ACROSS)
    tile = tl.arange(0, BLOCK)
    tile_row = block // blocks_across * (BLOCK // ACROSS) + tile // ACROSS
    j = block % blocks_across * ACROSS + tile % ACROSS
    return tile_row, j, (tile_row < tile_rows) & (j < across)


@triton.jit
def in_matrix(  # type: ignore[no-untyped-def]
    tile_row, j, exists, rows, columns, down, across, batch_stride, row_stride, column_stride,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROW_BLOCKS: tl.constexpr, COLUMN_BLOCKS: tl.constexpr, WHOLE: tl.constexpr,
    DOWN_FIRST: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Offsets and mask (PLACES, tiles) of the entries of tiles in a matrix."""
    batch, i = (tile_row // down).to(tl.int64), tile_row % down
    a, c, in_tile = places_of(HEIGHT, WIDTH, DOWN_FIRST, PLACES)
    row_of_tile, row_of_place = positions(i, 0, down, HEIGHT, ROW_BLOCKS), positions(0, a, down, HEIGHT, ROW_BLOCKS)
    column_of_tile, column_of_place = positions(j, 0, across, WIDTH, COLUMN_BLOCKS), positions(0, c, across, WIDTH, COLUMN_BLOCKS)
    # A tile's offset and a place's, so that arithmetic with 64 bits is one addition an entry.
    of_tile = batch * batch_stride + row_of_tile.to(tl.int64) * row_stride + column_of_tile.to(tl.int64) * column_stride
    of_place = row_of_place.to(tl.int64) * row_stride + column_of_place.to(tl.int64) * column_stride
    mask = in_tile[:, None] & exists[None, :]
    if not WHOLE:
        mask &= row_of_place[:, None] + row_of_tile[None, :] < rows
        mask &= column_of_place[:, None] + column_of_tile[None, :] < columns
    return of_place[:, None] + of_tile[None, :], mask


@triton.jit
def in_planes(term, tile_row, j, exists, tile_rows, across, RANK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Offsets and mask (terms, tiles) of tiles in planes."""
    plane = term.to(tl.int64) * tile_rows * across
    return plane[:, None] + (tile_row.to(tl.int64) * across + j)[None, :], (term < RANK)[:, None] & exists[None, :]


@triton.jit
def in_factor(  # type: ignore[no-untyped-def]
    term, RANK: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, DOWN_FIRST: tl.constexpr, PLACES: tl.constexpr
):
    """Offsets and mask (terms, PLACES) of coefficients in a factor."""
    a, c, in_tile = places_of(HEIGHT, WIDTH, DOWN_FIRST, PLACES)
    return term[:, None] * (HEIGHT * WIDTH) + (a * WIDTH + c)[None, :], (term < RANK)[:, None] & in_tile[None, :]


@triton.jit
def decode_tiles(  # type: ignore[no-untyped-def]
    matrix, factor, planes, tile_row, j, exists, rows, columns, down, across, tile_rows, batch_stride, row_stride, column_stride,
    RANK: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROW_BLOCKS: tl.constexpr, COLUMN_BLOCKS: tl.constexpr,
    WHOLE: tl.constexpr, DOWN_FIRST: tl.constexpr, PLACES: tl.constexpr, TERMS: tl.constexpr, BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Sum the terms of BLOCK tiles and write these; of many terms, STAGES chunks are on the way at a time."""
    tiles = tl.zeros((PLACES, BLOCK), dtype=tl.float32)
    for first in tl.range(0, RANK, TERMS, num_stages=STAGES):
        term = first + tl.arange(0, TERMS)
        place_in_factor, is_place = in_factor(term, RANK, HEIGHT, WIDTH, DOWN_FIRST, PLACES)
        coefficients = tl.load(factor + place_in_factor, mask=is_place, other=0.0)
        place_in_planes, is_tile = in_planes(term, tile_row, j, exists, tile_rows, across, RANK)
        # Past the first-level cache, which another multiprocessor's writes do not reach: `product_decode` needs that.
        values = tl.load(planes + place_in_planes, mask=is_tile, other=0.0, cache_modifier=".cg")
        tiles = add_product(tiles, tl.trans(coefficients), values)
    offsets, mask = in_matrix(
        tile_row, j, exists, rows, columns, down, across, batch_stride, row_stride, column_stride,
        HEIGHT, WIDTH, ROW_BLOCKS, COLUMN_BLOCKS, WHOLE, DOWN_FIRST, PLACES,
    )  # fmt: skip
    tl.store(matrix + offsets, tiles.to(matrix.dtype.element_ty), mask=mask)
