"""The r matrix products and their decoding in one Triton kernel: an alternative to a batched product followed by `decode`.

    product_decode   matrix[b, row(i, a), column(j, c)] = sum_s factor[s, ac] sum_k activations[s, (b, i), k] encoded[s, k, j]

Shapes: activations (r, batch I, K), encoded (r, K, J), factor (r, h w); matrix (batch, rows, columns), I = ceil(rows/h) and
J = ceil(columns/w) as in `stlsearch.ops.plain`. The operator is that of arXiv 2503.12211.

A program multiplies one block of one plane, as in any matrix product, writes it, and counts itself in at the block's counter. The
one that comes last finds all r planes of the block finished and decodes them. Nobody waits for anybody. The sum is in the order of
the terms whoever comes last, so results are the same bits every time. The programs are ordered in teams of a few neighbouring blocks
that go through all terms together: their products are read back from the second-level cache, and while one multiprocessor
decodes, the others multiply. Products are rounded to the planes' dtype as they are by a batched product.

What that can gain (a roofline estimate, nothing measured). At 8192 in bfloat16 with rank 24 and 4 x 4 tiles an H200 at 790 TFLOP/s and
4.3 TB/s multiplies in 0.52 ms and takes 0.08 ms each to encode and to decode. Here decoding leaves memory and hides behind
the products for all but about 4 %: 0.62 ms instead of 0.68, a tenth, if the product itself is as fast as cuBLAS's.

Two other ways to fuse lose by the same estimate, and are not here:
- The decoded block in registers, the planes never leaving the chip. The h w = 16 sums of a tile take 64 bytes in float32, so a
  multiprocessor has room for a block of 64 x 32 tiles (207 registers for each of 256 threads; 64 x 64 spills). That does
  64 * 32 / (64 + 32) = 21 FLOPs for every byte from the second-level cache, where 128 x 256 does 85: at 6 to 7 TB/s about 140 TFLOP/s,
  a fifth of the rate that the batched product reaches.
- Encoding as the product's operands are loaded. Every plane's value is a sum of 16 entries, made again for each block of columns:
  16 multiply-adds outside the tensor cores for 256 inside them, which are 15 times faster, and 16 values loaded for one.

Checked through Triton's interpreter and compiled for compute capability 9.0; not measured on a GPU yet.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from stlsearch.errors import InputError
from stlsearch.ops.triton_kernels import DTYPES, add_product, decode_tiles, padded_places

PLACES = 64  # in the largest padded tile: more sums than that do not fit the registers beside the products' loop
TEAM_BYTES = 24 << 20  # of products between multiplying and decoding: half of an H200's second-level cache
PROGRAMS = 256  # of large blocks at least: two for every multiprocessor, nearly
GROUP = 4  # rows of blocks in a team, which reads fewest values when it is as high as it is wide


def product_decode(
    activations: Tensor,
    encoded: Tensor,
    factor: Tensor,
    height: int,
    width: int,
    batch: int,
    rows: int,
    columns: int,
    row_blocks: bool,
    column_blocks: bool,
) -> Tensor:
    """`decode` of ``activations @ encoded``, of float32, float16 or bfloat16 planes. It has no derivatives.

    Raises:
        InputError: another dtype, or a tile of more than 64 places once its sides are padded to powers of two.
    """
    places = padded_places(height, width)
    if activations.dtype not in DTYPES or places > PLACES:
        raise InputError(f"product_decode computes with neither {activations.dtype} nor tiles beyond {PLACES} places: {height} x {width}")
    rank, tile_rows, inner = activations.shape
    across = encoded.shape[2]
    matrix = activations.new_empty(batch, rows, columns)
    if matrix.numel() == 0 or rank * inner == 0:
        return matrix.zero_()
    block_down, block_across, step, warps = _block(activations.dtype, rank, tile_rows, inner, across)
    blocks = -(-tile_rows // block_down) * -(-across // block_across)
    block_bytes = rank * block_down * block_across * activations.element_size()
    products = activations.new_empty(rank, tile_rows, across)
    finished = torch.zeros(blocks, dtype=torch.int32, device=activations.device)
    with torch.cuda.device_of(activations):
        _product_decode[(rank * blocks,)](
            matrix, factor.contiguous(), products, activations.contiguous(), encoded.contiguous(), finished,
            inner, rows, columns, -(-rows // height), across, tile_rows, *matrix.stride(),
            RANK=rank, HEIGHT=height, WIDTH=width, ROW_BLOCKS=row_blocks, COLUMN_BLOCKS=column_blocks,
            WHOLE=rows % height == 0 and columns % width == 0, PLACES=places, TERMS=max(16, min(64, triton.next_power_of_2(rank))),
            BLOCK=max(block_across, 128), BLOCK_DOWN=block_down, BLOCK_ACROSS=block_across, STEP=step, WHOLE_STEPS=inner % step == 0,
            GROUP=GROUP, TEAM=max(1, TEAM_BYTES // block_bytes), num_warps=warps, num_stages=3,
        )  # fmt: skip
    return matrix


def _block(dtype: torch.dtype, rank: int, tile_rows: int, inner: int, across: int) -> tuple[int, int, int, int]:
    """Rows and columns of a block, values of K a step, warps: the largest that fits, unless that leaves multiprocessors idle."""
    if dtype == torch.float32:
        return 64, 64, 16, 4
    if inner % 16 or across % 16:  # values are loaded one by one, through registers
        return 64, 64, 32, 4
    if rank * -(-tile_rows // 128) * -(-across // 256) >= PROGRAMS:
        return 128, 256, 64, 8
    return 64, 128, 64, 4


@triton.jit
def _product_decode(  # type: ignore[no-untyped-def]
    matrix, factor, products, activations, encoded, finished, inner, rows, columns, down, across, tile_rows,
    batch_stride, row_stride, column_stride,
    RANK: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROW_BLOCKS: tl.constexpr, COLUMN_BLOCKS: tl.constexpr,
    WHOLE: tl.constexpr, PLACES: tl.constexpr, TERMS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_DOWN: tl.constexpr,
    BLOCK_ACROSS: tl.constexpr, STEP: tl.constexpr, WHOLE_STEPS: tl.constexpr, GROUP: tl.constexpr, TEAM: tl.constexpr,
):  # fmt: skip
    blocks_down, blocks_across = tl.cdiv(tile_rows, BLOCK_DOWN), tl.cdiv(across, BLOCK_ACROSS)
    blocks = blocks_down * blocks_across
    program = tl.program_id(0)
    # A team of blocks goes through all terms, a term at a time.
    first = program // (RANK * TEAM) * TEAM
    team = min(TEAM, blocks - first)
    term = program % (RANK * TEAM) // team
    block = first + program % (RANK * TEAM) % team
    # Blocks next to each other in this order lie in a square of GROUP x GROUP, nearly.
    first_down = block // (GROUP * blocks_across) * GROUP
    group = min(GROUP, blocks_down - first_down)
    block_down = first_down + block % (GROUP * blocks_across) % group
    block_across = block % (GROUP * blocks_across) // group

    tile_row = block_down * BLOCK_DOWN + tl.arange(0, BLOCK_DOWN)
    j = block_across * BLOCK_ACROSS + tl.arange(0, BLOCK_ACROSS)
    k = tl.arange(0, STEP)
    wide = tl.cast(term, tl.int64)
    left = activations + (wide * tile_rows + tile_row)[:, None] * inner + k[None, :]
    right = encoded + (wide * inner + k)[:, None] * across + j[None, :]
    row_exists, column_exists = (tile_row < tile_rows)[:, None], (j < across)[None, :]
    product = tl.zeros((BLOCK_DOWN, BLOCK_ACROSS), dtype=tl.float32)
    for start in range(0, inner, STEP):
        if WHOLE_STEPS:
            left_mask, right_mask = row_exists, column_exists
        else:
            left_mask, right_mask = row_exists & (start + k < inner)[None, :], column_exists & (start + k < inner)[:, None]
        product = add_product(product, tl.load(left, mask=left_mask, other=0.0), tl.load(right, mask=right_mask, other=0.0))
        left += STEP
        right += STEP * across
    target = products + (wide * tile_rows + tile_row)[:, None] * across + j[None, :]
    tl.store(target, product.to(products.dtype.element_ty), mask=row_exists & column_exists)
    tl.debug_barrier()
    if tl.atomic_add(finished + block, 1, sem="acq_rel") == RANK - 1:
        tile = tl.arange(0, BLOCK)
        column = block_across * BLOCK_ACROSS + tile % BLOCK_ACROSS
        begin = block_down * BLOCK_DOWN
        for row in tl.range(begin, min(begin + BLOCK_DOWN, tile_rows), BLOCK // BLOCK_ACROSS, num_stages=4):
            rows_of = row + tile // BLOCK_ACROSS
            decode_tiles(
                matrix, factor, products, rows_of, column, (rows_of < tile_rows) & (column < across),
                rows, columns, down, across, tile_rows, batch_stride, row_stride, column_stride,
                RANK, HEIGHT, WIDTH, ROW_BLOCKS, COLUMN_BLOCKS, WHOLE, False, PLACES, TERMS, BLOCK,
            )  # fmt: skip
