"""The whole product as one PyTorch operator that holds a few rows of tiles at a time, and its derivatives.

    matrix (batch, R, C)  --encode-->  r planes (., C/w)  --times weight (r, C/w, L)-->  r products (., L)  --decode-->  (batch, R, N)

The gradient for the matrix is the same product again, encoder and decoder exchanged and the weight transposed. Nothing but the
inputs is kept for the gradients: encoding again costs less than the memory it saves, so training holds what the ordinary product
holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from stlsearch.ops import plain
from stlsearch.ops.library import correlate, encode, fuses, module_for, multiply, transformed
from stlsearch.ops.memory import empty, scratch

CHUNK_BYTES = 1 << 27
"""On a CPU, encoded activations and products held at once, unless asked otherwise: less would read the weight more often, more would be
cleared by the system anew in every call."""


SMALL = 1 << 20
"""Encoded activations and products, in values, up to which a CPU is faster with PyTorch's own operators: two to four times where the
fixed cost of a call is all there is, even at this size. See benchmarks/small.py."""


def product(
    matrix: Tensor,
    encoder: Tensor,
    weight: Tensor,
    decoder: Tensor,
    tile: tuple[int, int, int],
    columns: int,
    blocks: tuple[bool, bool, bool],
    chunk: int = 0,
) -> Tensor:
    """``decode(bmm(encode(matrix, encoder), weight), decoder)``, differentiable in all four tensors.

    Args:
        matrix: (batch, R, C).
        encoder, decoder: (r, h w) and (r, h p).
        weight: (r, ceil(C/w), ceil(N/p)).
        tile: (h, w, p).
        columns: N.
        blocks: whether rows, columns and outputs of a tile come from blocks, see `stlsearch.ops.plain`.
        chunk: rows of tiles held at once; 0 leaves it to the device: all of them, on a CPU as many as `CHUNK_BYTES` hold.

    Returns:
        (batch, R, N).
    """
    if transformed() or (not chunk and _is_small(matrix, weight, tile[0])):
        return _composed(matrix, encoder, weight, decoder, tile, columns, blocks)
    return _product(matrix, encoder, weight, decoder, *tile, columns, *blocks, chunk)


def _is_small(matrix: Tensor, weight: Tensor, height: int) -> bool:
    """Whether PyTorch's own operators, and their gradients, are the faster way. Graphs and counters of operators see one node always."""
    if matrix.device.type != "cpu" or matrix.dtype not in (torch.float32, torch.float64):
        return False
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return False
    return is_small(len(weight), -(-matrix.shape[0] * matrix.shape[1] // height), *weight.shape[1:])


def is_small(rank: int, tile_rows: int, inner: int, columns: int) -> bool:
    """Whether planes of so many rows of tiles, (r, I, J) encoded and (r, I, L) multiplied, hold `SMALL` values or less."""
    return rank * tile_rows * (inner + columns) <= SMALL


@torch.library.custom_op("stlsearch::product", mutates_args=())
def _product(
    matrix: Tensor,
    encoder: Tensor,
    weight: Tensor,
    decoder: Tensor,
    height: int,
    width: int,
    output_width: int,
    columns: int,
    row_blocks: bool,
    column_blocks: bool,
    output_blocks: bool,
    chunk: int,
) -> Tensor:
    batch, rows, _ = matrix.shape
    result = empty(matrix, batch, rows, columns)
    module = module_for(matrix)
    pieces = list(chunks(batch, rows, height, row_blocks, chunk or automatic_chunk(matrix, weight, height)))
    if module is plain:
        tile, blocks = (height, width, output_width), (row_blocks, column_blocks, output_blocks)
        for piece in pieces:
            result[piece] = _composed(matrix[piece], encoder, weight, decoder, tile, columns, blocks)
        return result
    with _planes(matrix, weight, pieces, height) as views:
        for piece in pieces:
            planes, products = views(piece)
            module.encode(matrix[piece], encoder, height, width, row_blocks, column_blocks, into=planes)
            samples, lines, _ = matrix[piece].shape
            output = (height, output_width, samples, lines, columns, row_blocks, output_blocks)
            if fuses(planes, weight, decoder, height, output_width):
                module.product_decode(planes, weight, decoder, *output, products=products, into=result[piece])
            else:
                module.multiply(planes, weight, into=products)
                module.decode(products, decoder, *output, into=result[piece])
    return result


Piece = tuple[slice, slice]


@contextmanager
def _planes(matrix: Tensor, weight: Tensor, pieces: list[Piece], height: int) -> Iterator[Callable[[Piece], tuple[Tensor, Tensor]]]:
    """The planes on either side of the weight for any piece of the matrix, all in the same memory."""
    rank, *widths = weight.shape

    def tile_rows(piece: Piece) -> int:
        samples, lines, _ = matrix[piece].shape
        return samples * -(-lines // height)

    largest = max(map(tile_rows, pieces))
    with scratch(matrix, *((rank * largest * width,) for width in widths)) as memories:

        def views(piece: Piece) -> tuple[Tensor, Tensor]:
            count = tile_rows(piece)
            first, second = (
                memory[: rank * count * width].view(rank, count, width) for memory, width in zip(memories, widths, strict=True)
            )
            return first, second

        yield views


def automatic_chunk(matrix: Tensor, weight: Tensor, height: int) -> int:
    """The rows of tiles that `CHUNK_BYTES` hold."""
    if matrix.device.type != "cpu" or torch.compiler.is_compiling():  # a graph would hold one copy of the loop's body for each chunk
        return 0
    return max(1, CHUNK_BYTES // max(1, len(weight) * sum(weight.shape[1:]) * weight.element_size()))


def chunks(batch: int, rows: int, height: int, row_blocks: bool, chunk: int) -> Iterator[tuple[slice, slice]]:
    """Samples and rows whose tiles number `chunk` rows at most, 0 being all; a sample whose tiles come from blocks is never cut."""
    down = -(-rows // height)
    if not chunk or chunk >= batch * down:
        yield slice(None), slice(None)
    elif chunk >= down or row_blocks:
        together = _evenly(batch, max(1, chunk // max(1, down)))
        for first in range(0, batch, together):
            yield slice(first, first + together), slice(None)
    else:
        lines = _evenly(down, chunk) * height
        for sample in range(batch):
            for first in range(0, rows, lines):
                yield slice(sample, sample + 1), slice(first, first + lines)


def _evenly(total: int, largest: int) -> int:
    """The size of as few parts as possible, none over `largest`: a short one would cost nearly as much as a long one."""
    return -(-total // -(-total // largest))


def _part(matrix: Tensor, samples: slice, lines: slice) -> Tensor:
    """All of a matrix as it is: PyTorch cannot take batches of gradients of an alias."""
    return matrix if samples == lines == slice(None) else matrix[samples, lines]


@_product.register_fake
def _(matrix, encoder, weight, decoder, height, width, output_width, columns, *rest):  # type: ignore[no-untyped-def]
    return plain.output_like(matrix, *matrix.shape[:2], columns)


def _context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    matrix, *others = inputs[:4]
    ctx.shape = matrix.shape
    ctx.save_for_backward(matrix if any(ctx.needs_input_grad[1:4]) else None, *others)  # its own gradient does not need it
    height, width, output_width, columns, *blocks, ctx.chunk = inputs[4:]
    ctx.tile, ctx.columns, ctx.blocks = (height, width, output_width), columns, tuple(blocks)


def _backward(ctx: Any, grad: Tensor) -> tuple:
    matrix, encoder, weight, decoder = ctx.saved_tensors
    (height, width, output_width), (row_blocks, column_blocks, output_blocks) = ctx.tile, ctx.blocks
    for_matrix, for_encoder, for_weight, for_decoder = ctx.needs_input_grad[:4]
    grads: list[Tensor | None] = [None] * 4
    if for_matrix:
        there_and_back = ((height, output_width, width), ctx.shape[2], (row_blocks, output_blocks, column_blocks), ctx.chunk)
        grads[0] = product(grad, decoder, weight.mT, encoder, *there_and_back)
    if for_weight:
        grads[2] = weight_gradient(matrix, encoder, grad, decoder, ctx.tile, ctx.blocks, ctx.chunk)
    if for_encoder or for_decoder:
        batch, rows, _ = ctx.shape
        chunk = ctx.chunk or automatic_chunk(grad, weight, height)
        for samples, lines in chunks(batch, rows, height, row_blocks, chunk):
            piece, grad_piece = _part(matrix, samples, lines), _part(grad, samples, lines)
            if for_encoder:
                incoming = encode(grad_piece, decoder, height, output_width, row_blocks, output_blocks)
                _add(grads, 1, correlate(piece, multiply(incoming, weight.mT), height, width, row_blocks, column_blocks))
            if for_decoder:
                planes = encode(piece, encoder, height, width, row_blocks, column_blocks)
                _add(grads, 3, correlate(grad_piece, multiply(planes, weight), height, output_width, row_blocks, output_blocks))
    return *grads, *(None,) * 8


def _add(grads: list[Tensor | None], place: int, part: Tensor) -> None:
    total = grads[place]
    grads[place] = part if total is None else total + part


_product.register_autograd(_backward, setup_context=_context)


def weight_gradient(
    matrix: Tensor,
    encoder: Tensor,
    grad: Tensor,
    decoder: Tensor,
    tile: tuple[int, int, int],
    blocks: tuple[bool, bool, bool],
    chunk: int = 0,
) -> Tensor:
    """``encode(matrix, encoder)^T encode(grad, decoder)``: the gradient of `product` by its weight for a gradient of its result."""
    if transformed():
        return _composed_weight_gradient(matrix, encoder, grad, decoder, tile, blocks)
    return _weight_gradient(matrix, encoder, grad, decoder, *tile, *blocks, chunk)


@torch.library.custom_op("stlsearch::weight_gradient", mutates_args=())
def _weight_gradient(
    matrix: Tensor,
    encoder: Tensor,
    grad: Tensor,
    decoder: Tensor,
    height: int,
    width: int,
    output_width: int,
    row_blocks: bool,
    column_blocks: bool,
    output_blocks: bool,
    chunk: int,
) -> Tensor:
    batch, rows, columns = matrix.shape
    result = empty(matrix, len(encoder), -(-columns // width), -(-grad.shape[2] // output_width))
    module = module_for(matrix)
    pieces = list(chunks(batch, rows, height, row_blocks, chunk or automatic_chunk(matrix, result, height)))
    if module is plain:
        tile, blocks = (height, width, output_width), (row_blocks, column_blocks, output_blocks)
        result.zero_()
        for piece in pieces:
            result += _composed_weight_gradient(matrix[piece], encoder, grad[piece], decoder, tile, blocks)
        return result
    with _planes(matrix, result, pieces, height) as views:
        for number, piece in enumerate(pieces):
            planes, incoming = views(piece)
            module.encode(matrix[piece], encoder, height, width, row_blocks, column_blocks, into=planes)
            module.encode(grad[piece], decoder, height, output_width, row_blocks, output_blocks, into=incoming)
            module.multiply(planes.mT, incoming, into=result, add=number > 0)
    return result


@_weight_gradient.register_fake
def _(matrix, encoder, grad, decoder, height, width, output_width, *rest):  # type: ignore[no-untyped-def]
    return plain.output_like(matrix, encoder.shape[0], -(-matrix.shape[2] // width), -(-grad.shape[2] // output_width))


def _weight_gradient_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.tile, ctx.blocks, ctx.chunk = inputs[4:7], inputs[7:10], inputs[10]


def _weight_gradient_backward(ctx: Any, cotangent: Tensor) -> tuple:
    matrix, encoder, grad, decoder = ctx.saved_tensors
    (height, width, output_width), (row_blocks, column_blocks, output_blocks) = ctx.tile, ctx.blocks
    grads: list[Tensor | None] = [None] * 4
    if ctx.needs_input_grad[0]:
        there_and_back = ((height, output_width, width), matrix.shape[2], (row_blocks, output_blocks, column_blocks), ctx.chunk)
        grads[0] = product(grad, decoder, cotangent.mT, encoder, *there_and_back)
    if ctx.needs_input_grad[1]:
        incoming = encode(grad, decoder, height, output_width, row_blocks, output_blocks)
        grads[1] = correlate(matrix, multiply(incoming, cotangent.mT), height, width, row_blocks, column_blocks)
    if ctx.needs_input_grad[2]:
        grads[2] = product(matrix, encoder, cotangent, decoder, ctx.tile, grad.shape[2], ctx.blocks, ctx.chunk)
    if ctx.needs_input_grad[3]:
        planes = encode(matrix, encoder, height, width, row_blocks, column_blocks)
        grads[3] = correlate(grad, multiply(planes, cotangent), height, output_width, row_blocks, output_blocks)
    return *grads, *(None,) * 7


_weight_gradient.register_autograd(_weight_gradient_backward, setup_context=_weight_gradient_context)


def _composed(
    matrix: Tensor,
    encoder: Tensor,
    weight: Tensor,
    decoder: Tensor,
    tile: tuple[int, int, int],
    columns: int,
    blocks: tuple[bool, ...],
) -> Tensor:
    """The product from PyTorch's own operators, see `transformed`."""
    (height, width, output_width), (row_blocks, column_blocks, output_blocks) = tile, blocks
    batch, rows, _ = matrix.shape
    products = plain.times(plain.encode(matrix, encoder, height, width, row_blocks, column_blocks), weight)
    return plain.decode(products, decoder, height, output_width, batch, rows, columns, row_blocks, output_blocks)


def _composed_weight_gradient(
    matrix: Tensor, encoder: Tensor, grad: Tensor, decoder: Tensor, tile: tuple[int, int, int], blocks: tuple[bool, ...]
) -> Tensor:
    """The gradient by the weight from PyTorch's own operators."""
    (height, width, output_width), (row_blocks, column_blocks, output_blocks) = tile, blocks
    planes = plain.encode(matrix, encoder, height, width, row_blocks, column_blocks)
    return plain.multiply(planes.mT, plain.encode(grad, decoder, height, output_width, row_blocks, output_blocks))
