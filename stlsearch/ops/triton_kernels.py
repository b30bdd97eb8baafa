"""The operator's three linear maps in Triton, each in one pass over memory: `stlsearch.ops.plain` for CUDA devices.

    encode     planes[s, (b, i), j]             = sum_ac  factor[s, ac] matrix[b, row(i, a), column(j, c)]
    decode     matrix[b, row(i, a), column(j, c)] = sum_s   factor[s, ac] planes[s, (b, i), j]
    correlate  factor[s, ac]                    = sum_bij planes[s, (b, i), j] matrix[b, row(i, a), column(j, c)]

Shapes, layouts and padding are those of `stlsearch.ops.plain`; the product they belong to is arXiv 2503.12211.

A program owns a block of tiles. It reads them straight from the matrix, whatever its strides, as an array (places, tiles), so no
permuted copy of the matrix is ever written, and multiplies that on the tensor cores by the factor, which is loaded once and padded
with zeros to powers of two of at least 16, the least a tensor core takes. The same tiles lie side by side in every plane. So the
matrix and the planes cross memory once each and nothing else does: in bfloat16 at rank 24 with 4 x 4 tiles that is 80 bytes and
1,024 padded FLOPs a tile, 13 FLOPs a byte where an H200 does about 200.

Sums are float32 whatever the dtype, and float32 is multiplied as such, not as TF32. Offsets are 64 bits wide.

Checked through Triton's interpreter and compiled for compute capability 9.0; not measured on a GPU yet.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from stlsearch.ops import plain

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What the kernels compute with."""

BYTES = 1 << 14  # of a block in registers, padded: 64 values of 16 bits for each of 128 threads
COEFFICIENTS = 4096  # of the factor at once, padded: a few such chunks, and as many of planes, fit any GPU's shared memory
PLACES = 256  # in the largest padded tile for which that is so
PARTIAL_SUMS = 512  # programs that correlate, each with a sum of its own: about four on every multiprocessor of an H200
PARTIAL_VALUES = 1 << 22  # of these sums together


def supports(dtype: torch.dtype, height: int, width: int) -> bool:
    """Whether the kernels compute with a dtype and a tile. What they do not, the functions below leave to plain PyTorch."""
    return dtype in DTYPES and padded_places(height, width) <= PLACES


def encode(
    matrix: Tensor, factor: Tensor, height: int, width: int, row_blocks: bool, column_blocks: bool, *, into: Tensor | None = None
) -> Tensor:
    """As `stlsearch.ops.plain.encode`; `into` is contiguous memory for the planes."""
    batch, rows, columns = matrix.shape
    planes = matrix.new_empty(factor.shape[0], batch * -(-rows // height), -(-columns // width)) if into is None else into
    if not supports(matrix.dtype, height, width):
        planes.copy_(plain.encode(matrix, factor, height, width, row_blocks, column_blocks))
    elif planes.numel():
        geometry = _Geometry(matrix, factor.shape[0], height, width, row_blocks, column_blocks)
        with torch.cuda.device_of(matrix):
            _encode[(geometry.blocks,)](matrix, factor.contiguous(), planes, *geometry.arguments, **geometry.constants)
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
    """As `stlsearch.ops.plain.decode`; `into` is memory for the matrix, of any strides."""
    matrix = planes.new_empty(batch, rows, columns) if into is None else into
    if not supports(planes.dtype, height, width):
        matrix.copy_(plain.decode(planes, factor, height, width, batch, rows, columns, row_blocks, column_blocks))
    elif matrix.numel():
        geometry = _Geometry(matrix, factor.shape[0], height, width, row_blocks, column_blocks)
        with torch.cuda.device_of(planes):
            _decode[(geometry.blocks,)](matrix, factor.contiguous(), planes.contiguous(), *geometry.arguments, **geometry.constants)
    return matrix


def multiply(left: Tensor, right: Tensor, *, into: Tensor | None = None) -> Tensor:
    """As `stlsearch.ops.plain.multiply`, by the vendor's batched product; `into` is memory for the products."""
    return plain.multiply(left, right) if into is None else torch.bmm(left, right, out=into)


def correlate(matrix: Tensor, planes: Tensor, height: int, width: int, row_blocks: bool, column_blocks: bool) -> Tensor:
    """As `stlsearch.ops.plain.correlate`, and the same bits every time: every program writes a sum of its own."""
    if not supports(matrix.dtype, height, width):
        return plain.correlate(matrix, planes, height, width, row_blocks, column_blocks)
    rank, entries = planes.shape[0], height * width
    if planes.numel() == 0:
        return matrix.new_zeros(rank, entries)
    geometry = _Geometry(matrix, rank, height, width, row_blocks, column_blocks, size=BYTES // 2)
    programs = max(1, min(geometry.blocks, PARTIAL_SUMS, PARTIAL_VALUES // (rank * entries)))
    sums = torch.empty(programs, rank, entries, dtype=torch.float32, device=matrix.device)
    with torch.cuda.device_of(matrix):
        grid = (programs, -(-rank // geometry.constants["TERMS"]))
        _correlate[grid](matrix, sums, planes.contiguous(), geometry.blocks, *geometry.arguments, **geometry.constants)
    return sums.sum(0).to(matrix.dtype)


class _Geometry:
    """How tiles lie in a matrix and how they are dealt out in blocks, as the arguments all kernels share."""

    def __init__(
        self, matrix: Tensor, rank: int, height: int, width: int, row_blocks: bool, column_blocks: bool, size: int = BYTES
    ) -> None:
        batch, rows, columns = matrix.shape
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
        }


def padded_places(height: int, width: int) -> int:
    """Places of a tile whose sides are padded to powers of two, at least 16 in all."""
    return max(16, triton.next_power_of_2(height) * triton.next_power_of_2(width))


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
):  # fmt: skip
    """Sum the terms of BLOCK tiles and write these."""
    tiles = tl.zeros((PLACES, BLOCK), dtype=tl.float32)
    for first in range(0, RANK, TERMS):
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


@triton.jit
def _encode(  # type: ignore[no-untyped-def]
    matrix, factor, planes, rows, columns, down, across, tile_rows, batch_stride, row_stride, column_stride,
    RANK: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROW_BLOCKS: tl.constexpr, COLUMN_BLOCKS: tl.constexpr,
    WHOLE: tl.constexpr, DOWN_FIRST: tl.constexpr, PLACES: tl.constexpr, TERMS: tl.constexpr, BLOCK: tl.constexpr, ACROSS: tl.constexpr,
):  # fmt: skip
    tile_row, j, exists = tiles_of(tl.program_id(0), across, tile_rows, BLOCK, ACROSS)
    offsets, mask = in_matrix(
        tile_row, j, exists, rows, columns, down, across, batch_stride, row_stride, column_stride,
        HEIGHT, WIDTH, ROW_BLOCKS, COLUMN_BLOCKS, WHOLE, DOWN_FIRST, PLACES,
    )  # fmt: skip
    tiles = tl.load(matrix + offsets, mask=mask, other=0.0)
    for first in range(0, RANK, TERMS):
        term = first + tl.arange(0, TERMS)
        place_in_factor, is_place = in_factor(term, RANK, HEIGHT, WIDTH, DOWN_FIRST, PLACES)
        coefficients = tl.load(factor + place_in_factor, mask=is_place, other=0.0)
        values = add_product(tl.zeros((TERMS, BLOCK), dtype=tl.float32), coefficients, tiles)
        place_in_planes, is_tile = in_planes(term, tile_row, j, exists, tile_rows, across, RANK)
        tl.store(planes + place_in_planes, values.to(planes.dtype.element_ty), mask=is_tile)


@triton.jit
def _decode(  # type: ignore[no-untyped-def]
    matrix, factor, planes, rows, columns, down, across, tile_rows, batch_stride, row_stride, column_stride,
    RANK: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROW_BLOCKS: tl.constexpr, COLUMN_BLOCKS: tl.constexpr,
    WHOLE: tl.constexpr, DOWN_FIRST: tl.constexpr, PLACES: tl.constexpr, TERMS: tl.constexpr, BLOCK: tl.constexpr, ACROSS: tl.constexpr,
):  # fmt: skip
    tile_row, j, exists = tiles_of(tl.program_id(0), across, tile_rows, BLOCK, ACROSS)
    decode_tiles(
        matrix, factor, planes, tile_row, j, exists, rows, columns, down, across, tile_rows, batch_stride, row_stride, column_stride,
        RANK, HEIGHT, WIDTH, ROW_BLOCKS, COLUMN_BLOCKS, WHOLE, DOWN_FIRST, PLACES, TERMS, BLOCK,
    )  # fmt: skip


@triton.jit
def _correlate(  # type: ignore[no-untyped-def]
    matrix, sums, planes, blocks, rows, columns, down, across, tile_rows, batch_stride, row_stride, column_stride,
    RANK: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROW_BLOCKS: tl.constexpr, COLUMN_BLOCKS: tl.constexpr,
    WHOLE: tl.constexpr, DOWN_FIRST: tl.constexpr, PLACES: tl.constexpr, TERMS: tl.constexpr, BLOCK: tl.constexpr, ACROSS: tl.constexpr,
):  # fmt: skip
    term = tl.program_id(1) * TERMS + tl.arange(0, TERMS)
    total = tl.zeros((TERMS, PLACES), dtype=tl.float32)
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        tile_row, j, exists = tiles_of(block, across, tile_rows, BLOCK, ACROSS)
        offsets, mask = in_matrix(
            tile_row, j, exists, rows, columns, down, across, batch_stride, row_stride, column_stride,
            HEIGHT, WIDTH, ROW_BLOCKS, COLUMN_BLOCKS, WHOLE, DOWN_FIRST, PLACES,
        )  # fmt: skip
        tiles = tl.load(matrix + offsets, mask=mask, other=0.0)
        place_in_planes, is_tile = in_planes(term, tile_row, j, exists, tile_rows, across, RANK)
        values = tl.load(planes + place_in_planes, mask=is_tile, other=0.0)
        total = add_product(total, values, tl.trans(tiles))
    place_in_factor, is_place = in_factor(term, RANK, HEIGHT, WIDTH, DOWN_FIRST, PLACES)
    own = tl.program_id(0).to(tl.int64) * (RANK * HEIGHT * WIDTH)
    tl.store(sums + own + place_in_factor, total, mask=is_place)
