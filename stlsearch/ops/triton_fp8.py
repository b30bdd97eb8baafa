"""Encoding to float8_e4m3fn in Triton, in one pass over memory: `stlsearch.ops.fp8.encode` for CUDA devices.

A program owns a row of tiles. It encodes it twice: the first time for the largest value of every plane's row, the second time to
divide by it, round and write. The second time the row of x, 64 KiB at 8192 channels in bfloat16, comes from a cache. So x crosses memory
once and the planes at half the bytes of bfloat16: with rank 24 and 4 x 4 tiles 56 bytes a tile instead of 80.

Checked through Triton's interpreter and compiled for compute capability 9.0; not measured on a GPU yet.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from stlsearch.ops.encoded import FP8
from stlsearch.ops.triton_tiles import INTERPRETED, Geometry, add_product, capability, in_factor, in_matrix, in_planes, supports


def can_quantise(matrix: Tensor, height: int, width: int) -> bool:
    """Whether the kernels take a matrix in tiles of a size to fp8: from compute capability 8.9 on."""
    return supports(matrix.dtype, height, width) and capability(matrix.device) >= (8, 9)


def encode_fp8(matrix: Tensor, factor: Tensor, height: int, width: int, row_blocks: bool, column_blocks: bool) -> tuple[Tensor, Tensor]:
    """As `stlsearch.ops.fp8.encode`: planes (r, I, J) in float8_e4m3fn and the scales (r, I) of their rows."""
    batch, rows, columns = matrix.shape
    rank, tile_rows = factor.shape[0], batch * -(-rows // height)
    planes = torch.empty(rank, tile_rows, -(-columns // width), dtype=FP8, device=matrix.device)
    scales = torch.ones(rank, tile_rows, dtype=torch.float32, device=matrix.device)
    if planes.numel():
        geometry = Geometry("encode_fp8", matrix, rank, height, width, row_blocks, column_blocks)
        constants = geometry.constants
        constants["BLOCK"] = min(constants["BLOCK"], max(16, triton.next_power_of_2(planes.shape[2])))
        grid = (tile_rows, -(-rank // constants["TERMS"]))
        with torch.cuda.device_of(matrix):
            _encode_fp8[grid](matrix, factor.contiguous(), planes, scales, *geometry.arguments, **constants)
    return planes, scales


@triton.jit
def _values(  # type: ignore[no-untyped-def]
    matrix, coefficients, tile_row, j, exists, rows, columns, down, across, batch_stride, row_stride, column_stride,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROW_BLOCKS: tl.constexpr, COLUMN_BLOCKS: tl.constexpr, WHOLE: tl.constexpr,
    DOWN_FIRST: tl.constexpr, PLACES: tl.constexpr, TERMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Encoded values (TERMS, BLOCK) of tiles, zeros where there is no tile."""
    offsets, mask = in_matrix(
        tile_row, j, exists, rows, columns, down, across, batch_stride, row_stride, column_stride,
        HEIGHT, WIDTH, ROW_BLOCKS, COLUMN_BLOCKS, WHOLE, DOWN_FIRST, PLACES,
    )  # fmt: skip
    return add_product(tl.zeros((TERMS, BLOCK), dtype=tl.float32), coefficients, tl.load(matrix + offsets, mask=mask, other=0.0))


@triton.jit
def _rounded(values):  # type: ignore[no-untyped-def]
    """Values as a cast to float8_e4m3fn takes them."""
    if INTERPRETED:  # which loses the carry where rounding reaches the next power of two: round to 4 bits in float32 first
        bits = values.to(tl.int32, bitcast=True)
        values = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & ~0xFFFFF).to(tl.float32, bitcast=True)
    return values


@triton.jit
def _encode_fp8(  # type: ignore[no-untyped-def]
    matrix, factor, planes, scales, rows, columns, down, across, tile_rows, batch_stride, row_stride, column_stride,
    RANK: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROW_BLOCKS: tl.constexpr, COLUMN_BLOCKS: tl.constexpr,
    WHOLE: tl.constexpr, DOWN_FIRST: tl.constexpr, PLACES: tl.constexpr, TERMS: tl.constexpr, BLOCK: tl.constexpr, ACROSS: tl.constexpr,
):  # fmt: skip
    term = tl.program_id(1) * TERMS + tl.arange(0, TERMS)
    place_in_factor, is_place = in_factor(term, RANK, HEIGHT, WIDTH, DOWN_FIRST, PLACES)
    coefficients = tl.load(factor + place_in_factor, mask=is_place, other=0.0)
    tile = tl.arange(0, BLOCK)
    tile_row = tl.program_id(0) + tile * 0
    largest = tl.zeros((TERMS, BLOCK), dtype=tl.float32)
    for first in range(0, across, BLOCK):
        values = _values(
            matrix, coefficients, tile_row, first + tile, first + tile < across, rows, columns, down, across,
            batch_stride, row_stride, column_stride,
            HEIGHT, WIDTH, ROW_BLOCKS, COLUMN_BLOCKS, WHOLE, DOWN_FIRST, PLACES, TERMS, BLOCK,
        )  # fmt: skip
        largest = tl.maximum(largest, tl.abs(values))
    scale = tl.maximum(tl.max(largest, axis=1), 1e-30) / 448.0
    tl.store(scales + term.to(tl.int64) * tile_rows + tl.program_id(0), scale, mask=term < RANK)
    for first in range(0, across, BLOCK):
        values = _values(
            matrix, coefficients, tile_row, first + tile, first + tile < across, rows, columns, down, across,
            batch_stride, row_stride, column_stride,
            HEIGHT, WIDTH, ROW_BLOCKS, COLUMN_BLOCKS, WHOLE, DOWN_FIRST, PLACES, TERMS, BLOCK,
        )  # fmt: skip
        place_in_planes, is_tile = in_planes(term, tile_row, first + tile, first + tile < across, tile_rows, across, RANK)
        tl.store(planes + place_in_planes, _rounded(values / scale[:, None]).to(planes.dtype.element_ty), mask=is_tile)
