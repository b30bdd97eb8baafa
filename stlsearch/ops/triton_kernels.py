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
from stlsearch.ops.triton_fp8 import can_quantise, encode_fp8
from stlsearch.ops.triton_product import can_decode, candidates, multiply, product_decode
from stlsearch.ops.triton_tiles import (
    BYTES,
    Geometry,
    add_product,
    decode_tiles,
    in_factor,
    in_matrix,
    in_planes,
    supports,
    tiles_of,
)

PARTIAL_SUMS = 512  # programs that correlate, each with a sum of its own: about four on every multiprocessor of an H200
PARTIAL_VALUES = 1 << 22  # of these sums together


__all__ = [
    "can_decode",
    "can_quantise",
    "candidates",
    "correlate",
    "decode",
    "encode",
    "encode_fp8",
    "multiply",
    "product_decode",
    "supports",
]


def encode(
    matrix: Tensor, factor: Tensor, height: int, width: int, row_blocks: bool, column_blocks: bool, *, into: Tensor | None = None
) -> Tensor:
    """As `stlsearch.ops.plain.encode`; `into` is contiguous memory for the planes."""
    batch, rows, columns = matrix.shape
    planes = matrix.new_empty(factor.shape[0], batch * -(-rows // height), -(-columns // width)) if into is None else into
    if not supports(matrix.dtype, height, width):
        planes.copy_(plain.encode(matrix, factor, height, width, row_blocks, column_blocks))
    elif planes.numel():
        geometry = Geometry("encode", matrix, factor.shape[0], height, width, row_blocks, column_blocks)
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
        geometry = Geometry("decode", matrix, factor.shape[0], height, width, row_blocks, column_blocks)
        with torch.cuda.device_of(planes):
            _decode[(geometry.blocks,)](matrix, factor.contiguous(), planes.contiguous(), *geometry.arguments, **geometry.constants)
    return matrix


def correlate(matrix: Tensor, planes: Tensor, height: int, width: int, row_blocks: bool, column_blocks: bool) -> Tensor:
    """As `stlsearch.ops.plain.correlate`, and the same bits every time: every program writes a sum of its own."""
    if not supports(matrix.dtype, height, width):
        return plain.correlate(matrix, planes, height, width, row_blocks, column_blocks)
    rank, entries = planes.shape[0], height * width
    if planes.numel() == 0:
        return matrix.new_zeros(rank, entries)
    geometry = Geometry("correlate", matrix, rank, height, width, row_blocks, column_blocks, size=BYTES // 2)
    programs = max(1, min(geometry.blocks, PARTIAL_SUMS, PARTIAL_VALUES // (rank * entries)))
    sums = torch.empty(programs, rank, entries, dtype=torch.float32, device=matrix.device)
    with torch.cuda.device_of(matrix):
        grid = (programs, -(-rank // geometry.constants["TERMS"]))
        _correlate[grid](matrix, sums, planes.contiguous(), geometry.blocks, *geometry.arguments, **geometry.constants)
    return sums.sum(0).to(matrix.dtype)


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
        RANK, HEIGHT, WIDTH, ROW_BLOCKS, COLUMN_BLOCKS, WHOLE, DOWN_FIRST, PLACES, TERMS, BLOCK, 3,
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
