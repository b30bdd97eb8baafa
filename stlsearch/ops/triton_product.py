"""The r matrix products of encoded planes in one Triton kernel, which decodes them too if asked.

    multiply         products[s]                            = left[s] right[s]
    product_decode   matrix[b, row(i, a), column(j, c)]     = sum_s factor[s, ac] (left[s] right[s])[(b, i), j]

Shapes: left (r, batch I, K), right (r, K, J), factor (r, h w); matrix (batch, rows, columns), I = ceil(rows/h) and J = ceil(columns/w)
as in `stlsearch.ops.plain`. The operator is that of arXiv 2503.12211. Planes in float8_e4m3fn come with scales, left_scales (r, batch I)
and right_scales (r, J), by which the sums are multiplied in float32, see `stlsearch.ops.fp8`.

A program multiplies one block of one plane, as in any matrix product. There are either as many programs as blocks, or, "persistent",
one for each multiprocessor, which goes from block to block and begins to load the next before it has written the last. Blocks next to
each other in time lie in squares, whose rows and columns are read from the second-level cache. On compute capability 9.0 and later
blocks are copied by the tensor memory accelerator where strides allow it ("descriptors"), elsewhere through pointers.

To decode, a program writes its block and counts itself in at the block's counter. The one that comes last finds all r planes of the
block finished and decodes them. Nobody waits for anybody. The sum is in the order of the terms whoever comes last, so results are the
same bits every time. The programs are ordered in teams of a few neighbouring blocks that go through all terms together: their products
are read back from the second-level cache, and while one multiprocessor decodes, the others multiply. Products are rounded to the
result's dtype as they are by a batched product.

What that can gain (a roofline estimate, nothing measured). At 8192 in bfloat16 with rank 24 and 4 x 4 tiles an H200 at 790 TFLOP/s and
4.3 TB/s multiplies in 0.52 ms and takes 0.08 ms each to encode and to decode. Here decoding leaves memory and hides behind
the products for all but about 4 %: 0.62 ms instead of 0.68, a tenth, if the product itself is as fast as cuBLAS's. In fp8 the products
take half of that, so decoding weighs twice as much; and cuBLAS has no batched product with scales of rows, only r launches of one
plane each, of which a plane of 1024 x 1024 (n = 4096) is 32 blocks for 132 multiprocessors.

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

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from stlsearch.errors import InputError
from stlsearch.ops import plain
from stlsearch.ops.triton_tiles import DTYPES, add_product, capability, decode_tiles, padded_places
from stlsearch.ops.tuning import Choice, choice

try:
    from triton.tools.tensor_descriptor import TensorDescriptor
except ImportError:  # Triton before 3.4
    TensorDescriptor = None

PLACES = 64  # in the largest padded tile: more sums than that do not fit the registers beside the products' loop
TEAM_BYTES = 24 << 20  # of products between multiplying and decoding: half of an H200's second-level cache
PROGRAMS = 256  # of large blocks at least: two for every multiprocessor, nearly
GROUP = 4  # rows of blocks in a square, which reads fewest values when it is as high as it is wide
REGISTERS = 192  # of a thread for sums, the rest being addresses


@dataclass(frozen=True)
class Blocks:
    """How the product is cut up and launched.

    Attributes:
        down, across: rows and columns of a block.
        step: values of K at a time.
        warps, stages: of a program, and blocks on the way to it.
        descriptors: copy blocks by the tensor memory accelerator.
        persistent: one program for each multiprocessor, instead of one for each block.
        team_bytes: of products between multiplying and decoding.
    """

    down: int
    across: int
    step: int
    warps: int
    stages: int
    descriptors: bool = False
    persistent: bool = False
    team_bytes: int = TEAM_BYTES

    def fits(self, item: int, device: torch.device) -> bool:
        """Whether shared memory holds the blocks on the way, of values of `item` bytes, and registers the sums."""
        on_the_way = self.stages * (self.down + self.across) * self.step * item
        return on_the_way < shared_memory(device) and self.down * self.across // (32 * self.warps) <= REGISTERS


def multiply(
    left: Tensor,
    right: Tensor,
    *,
    scales: tuple[Tensor, Tensor] | None = None,
    into: Tensor | None = None,
    add: bool = False,
) -> Tensor:
    """As `stlsearch.ops.plain.multiply`: by the vendor's batched product unless the device's table prefers the kernel.

    Args:
        scales: of the rows of left (r, I) and of the columns of right (r, J), for planes in float8_e4m3fn. These have no batched product
            of the vendor's, so the kernel is the rule.
        into: memory for the products, needed with scales, whose dtype they have.
        add: whether to add to what `into` holds, without scales.
    """
    if add:
        if into is None or scales is not None:
            raise InputError("products without scales are added, to `into`")
        return into.baddbmm_(left, right)
    rank, tile_rows, inner = left.shape
    across = right.shape[2]
    chosen = choice("multiply", left.device, left.dtype, rank, tile_rows, inner, across)
    if scales is None:
        # A transposed plane, of which there are some in gradients, would have to be copied for the kernel.
        readable = left.is_contiguous() and (right.is_contiguous() or right.mT.is_contiguous())
        if chosen.get("vendor", True) or left.dtype not in DTYPES or not readable:
            return plain.multiply(left, right) if into is None else torch.bmm(left, right, out=into)
    # With scales of rows the vendor's product writes bfloat16, and takes multiples of 16.
    elif chosen.get("vendor") and into is not None and into.dtype == torch.bfloat16 and inner % 16 == across % 16 == 0:
        for plane in range(rank):
            of_rows, of_columns = scales[0][plane, :, None], scales[1][plane, None, :]
            torch._scaled_mm(left[plane], right[plane], of_rows, of_columns, out_dtype=into.dtype, use_fast_accum=True, out=into[plane])
        return into
    products = left.new_empty(rank, tile_rows, across) if into is None else into
    if products.numel() and inner:
        _launch(left, right, scales, products, chosen)
        return products
    return products.zero_()


def product_decode(
    left: Tensor,
    right: Tensor,
    factor: Tensor,
    height: int,
    width: int,
    batch: int,
    rows: int,
    columns: int,
    row_blocks: bool,
    column_blocks: bool,
    *,
    scales: tuple[Tensor, Tensor] | None = None,
    products: Tensor | None = None,
    into: Tensor | None = None,
) -> Tensor:
    """`decode` of the products of planes in float32, float16 or bfloat16, or in float8_e4m3fn with scales. It has no derivatives.

    Args:
        scales: as for `multiply`.
        products: contiguous memory for the products.
        into: memory for the matrix, of any strides.

    Raises:
        InputError: another dtype, or a tile of more than 64 places once its sides are padded to powers of two.
    """
    rank, tile_rows, inner = left.shape
    across = right.shape[2]
    if not can_decode(factor.dtype, height, width):
        raise InputError(f"product_decode computes with neither {factor.dtype} nor tiles beyond {PLACES} places: {height} x {width}")
    matrix = factor.new_empty(batch, rows, columns) if into is None else into
    if matrix.numel() == 0 or rank * inner == 0:
        return matrix.zero_()
    products = factor.new_empty(rank, tile_rows, across) if products is None else products
    chosen = choice("product_decode", left.device, left.dtype, rank, tile_rows, inner, across)
    places = padded_places(height, width)
    _launch(
        left, right, scales, products, chosen, matrix, factor.contiguous(), (rows, columns, -(-rows // height), *matrix.stride()),
        HEIGHT=height, WIDTH=width, ROW_BLOCKS=row_blocks, COLUMN_BLOCKS=column_blocks,
        WHOLE=rows % height == 0 and columns % width == 0, PLACES=places, TERMS=max(16, min(64, triton.next_power_of_2(rank))),
    )  # fmt: skip
    return matrix


def can_decode(dtype: torch.dtype, height: int, width: int) -> bool:
    """Whether `product_decode` makes matrices of a dtype from tiles of a size."""
    return dtype in DTYPES and padded_places(height, width) <= PLACES


def _launch(
    left: Tensor,
    right: Tensor,
    scales: tuple[Tensor, Tensor] | None,
    products: Tensor,
    chosen: Choice,
    matrix: Tensor | None = None,
    factor: Tensor | None = None,
    sizes: tuple[int, ...] = (0,) * 6,
    **tile: int,
) -> None:
    rank, tile_rows, inner = left.shape
    across = right.shape[2]
    left = left.contiguous()
    inner_last = right.mT.is_contiguous() and not right.is_contiguous()
    stored = right.mT if inner_last else right.contiguous()
    parameters: dict[str, Any] = {name: value for name, value in chosen.items() if name not in ("vendor", "fused")}
    blocks = replace(rule(left, stored, across, decodes=matrix is not None), **parameters)
    if not can_describe(left, stored):  # whose class of sizes has members that cannot
        blocks = replace(blocks, descriptors=False)
    in_matrix = -(-tile_rows // blocks.down) * -(-across // blocks.across)
    team, finished = in_matrix, None  # a plane after the other
    if matrix is not None:
        team = max(1, blocks.team_bytes // (rank * blocks.down * blocks.across * products.element_size()))
        finished = torch.zeros(in_matrix, dtype=torch.int32, device=left.device)
        tile["BLOCK"] = max(blocks.across, 128)
    else:
        tile = dict.fromkeys(("HEIGHT", "WIDTH", "ROW_BLOCKS", "COLUMN_BLOCKS", "WHOLE", "PLACES", "TERMS", "BLOCK"), 0)
    programs = rank * in_matrix
    if blocks.persistent:
        programs = min(programs, multiprocessors(left.device))
    operands: tuple[Any, Any] = (left, stored)
    if blocks.descriptors:
        of_right = (blocks.across, blocks.step) if inner_last else (blocks.step, blocks.across)
        operands = (
            TensorDescriptor.from_tensor(left, [1, blocks.down, blocks.step]),
            TensorDescriptor.from_tensor(stored, [1, *of_right]),
        )
    of_rows, of_columns = (scale.contiguous() for scale in scales) if scales else (None, None)
    with torch.cuda.device_of(left):
        _product[(programs,)](
            *operands, of_rows, of_columns, products, matrix, factor, finished, inner, tile_rows, across, team, *sizes,
            RANK=rank, **tile, BLOCK_DOWN=blocks.down, BLOCK_ACROSS=blocks.across, STEP=blocks.step, WHOLE_STEPS=inner % blocks.step == 0,
            GROUP=GROUP, INNER_LAST=inner_last, DESCRIPTORS=blocks.descriptors, SCALED=scales is not None,
            DECODES=matrix is not None, OVERLAPS=blocks.persistent and matrix is None,
            # Copies of less than 16 bytes go through the first-level cache, which keeps what neighbours have written over since.
            STAGES=4 if across % 16 == 0 else 1,
            num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip


def rule(left: Tensor, right: Tensor, across: int, *, decodes: bool) -> Blocks:
    """Of what no table says: the largest blocks that fit, unless that leaves multiprocessors idle."""
    rank, tile_rows, _ = left.shape
    if left.dtype == torch.float32:
        return Blocks(64, 64, 16, 4, 3)
    described = can_describe(left, right)
    if not described and (left.shape[2] % 16 or across % 16):  # values are loaded one by one, through registers
        return Blocks(64, 64, 32, 4, 3)
    step = 128 // left.element_size()
    large = Blocks(128, 256, step, 8, 3, described, described and not decodes)
    if rank * -(-tile_rows // 128) * -(-across // 256) >= PROGRAMS and large.fits(left.element_size(), left.device):
        return large
    return Blocks(64, 128, step, 4, 3, described, described and not decodes)


def candidates(dtype: torch.dtype, device: torch.device) -> Iterator[Blocks]:
    """What `stlsearch.evaluate.tune` measures for planes of a dtype: what fits shared memory and registers."""
    if dtype == torch.float32:
        shapes, ways = [(64, 64, 16, 4, 3), (128, 64, 16, 4, 3), (128, 128, 16, 8, 3)], [(False, False)]
    else:
        cut = [(128, 256, 8, 3), (128, 256, 8, 4), (256, 128, 8, 3), (128, 128, 8, 4), (128, 128, 4, 4), (64, 128, 4, 4)]
        shapes = [(down, across, 128 // dtype.itemsize, warps, stages) for down, across, warps, stages in cut]
        ways = [(True, True), (True, False), (False, False)] if capability(device) >= (9, 0) else [(False, False)]
    for shape, way in itertools.product(shapes, ways):
        blocks = Blocks(*shape, *way)
        if blocks.fits(dtype.itemsize, device):
            yield blocks


def can_describe(left: Tensor, right: Tensor) -> bool:
    """Whether the tensor memory accelerator can copy blocks of planes: on compute capability 9.0, rows at multiples of 16 bytes."""
    if TensorDescriptor is None or left.dtype == torch.float32 or capability(left.device) < (9, 0):
        return False
    return all(tensor.data_ptr() % 16 == 0 and tensor.shape[2] * tensor.element_size() % 16 == 0 for tensor in (left, right))


@cache
def multiprocessors(device: torch.device) -> int:
    """Of a CUDA device, or a few."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


@cache
def shared_memory(device: torch.device) -> int:
    """Bytes that a program may have on a CUDA device; others stand for an H200."""
    if device.type != "cuda":
        return 227 << 10
    return getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 99 << 10)  # which any has


@triton.jit
def _product(  # type: ignore[no-untyped-def]
    left, right, left_scales, right_scales, products, matrix, factor, finished, inner, tile_rows, across, team_size, rows, columns, down,
    batch_stride, row_stride, column_stride,
    RANK: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROW_BLOCKS: tl.constexpr, COLUMN_BLOCKS: tl.constexpr,
    WHOLE: tl.constexpr, PLACES: tl.constexpr, TERMS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_DOWN: tl.constexpr,
    BLOCK_ACROSS: tl.constexpr, STEP: tl.constexpr, WHOLE_STEPS: tl.constexpr, GROUP: tl.constexpr,
    INNER_LAST: tl.constexpr, DESCRIPTORS: tl.constexpr, SCALED: tl.constexpr, DECODES: tl.constexpr, OVERLAPS: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    blocks_down, blocks_across = tl.cdiv(tile_rows, BLOCK_DOWN), tl.cdiv(across, BLOCK_ACROSS)
    blocks = blocks_down * blocks_across
    for index in tl.range(tl.program_id(0), RANK * blocks, tl.num_programs(0), flatten=OVERLAPS):
        # A team of blocks goes through all terms, a term at a time.
        first = index // (RANK * team_size) * team_size
        team = min(team_size, blocks - first)
        term = index % (RANK * team_size) // team
        block = first + index % (RANK * team_size) % team
        # Blocks next to each other in this order lie in a square of GROUP x GROUP, nearly.
        first_down = block // (GROUP * blocks_across) * GROUP
        group = min(GROUP, blocks_down - first_down)
        block_down = first_down + block % (GROUP * blocks_across) % group
        block_across = block % (GROUP * blocks_across) // group

        begin_row, begin_column = block_down * BLOCK_DOWN, block_across * BLOCK_ACROSS
        tile_row = begin_row + tl.arange(0, BLOCK_DOWN)
        j = begin_column + tl.arange(0, BLOCK_ACROSS)
        wide = tl.cast(term, tl.int64)
        row_exists, column_exists = (tile_row < tile_rows)[:, None], (j < across)[None, :]
        product = tl.zeros((BLOCK_DOWN, BLOCK_ACROSS), dtype=tl.float32)
        for start in range(0, inner, STEP):
            if DESCRIPTORS:  # which give zeros beyond a plane
                values = left.load([term, begin_row, start]).reshape(BLOCK_DOWN, STEP)
                if INNER_LAST:
                    others = tl.trans(right.load([term, begin_column, start]).reshape(BLOCK_ACROSS, STEP))
                else:
                    others = right.load([term, start, begin_column]).reshape(STEP, BLOCK_ACROSS)
            else:
                k = start + tl.arange(0, STEP)
                left_mask, right_mask = row_exists, column_exists
                if not WHOLE_STEPS:
                    left_mask, right_mask = row_exists & (k < inner)[None, :], column_exists & (k < inner)[:, None]
                values = tl.load(left + (wide * tile_rows + tile_row)[:, None] * inner + k[None, :], mask=left_mask, other=0.0)
                if INNER_LAST:
                    others = tl.load(right + (wide * across + j)[None, :] * inner + k[:, None], mask=right_mask, other=0.0)
                else:
                    others = tl.load(right + (wide * inner + k)[:, None] * across + j[None, :], mask=right_mask, other=0.0)
            product = add_product(product, values, others)
        if SCALED:
            product *= tl.load(left_scales + wide * tile_rows + tile_row, mask=tile_row < tile_rows, other=0.0)[:, None]
            product *= tl.load(right_scales + wide * across + j, mask=j < across, other=0.0)[None, :]
        target = products + (wide * tile_rows + tile_row)[:, None] * across + j[None, :]
        tl.store(target, product.to(products.dtype.element_ty), mask=row_exists & column_exists)
        if DECODES:
            tl.debug_barrier()
            if tl.atomic_add(finished + block, 1, sem="acq_rel") == RANK - 1:
                tile = tl.arange(0, BLOCK)
                column = begin_column + tile % BLOCK_ACROSS
                for row in tl.range(begin_row, min(begin_row + BLOCK_DOWN, tile_rows), BLOCK // BLOCK_ACROSS, num_stages=STAGES):
                    rows_of = row + tile // BLOCK_ACROSS
                    decode_tiles(
                        matrix, factor, products, rows_of, column, (rows_of < tile_rows) & (column < across),
                        rows, columns, down, across, tile_rows, batch_stride, row_stride, column_stride,
                        RANK, HEIGHT, WIDTH, ROW_BLOCKS, COLUMN_BLOCKS, WHOLE, False, PLACES, TERMS, BLOCK, STAGES,
                    )  # fmt: skip
