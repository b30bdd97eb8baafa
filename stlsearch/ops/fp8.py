"""Products of encoded planes in 8-bit floating point (e4m3), summed in float32. For inference: nothing here has derivatives.

A row of encoded activations and a column of an encoded weight are divided by scales of their own, so that the largest of their values
becomes 448, the largest of the format:

    planes[s, i, :] ~ scale[s, i] quantised[s, i, :]          products[s, i, j] = scale[s, i] scale[s, j] sum_k quantised quantised

What that costs is measured in docs/operator.md: every value is rounded by u = 2^-4, which the amplification g of the basis magnifies.
Scales of rows lose a few per cent less than one scale a plane, more where activations have outliers, and they are found while a row
of tiles is encoded; a plane's largest value is not known before all of x has been read.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stlsearch.errors import InputError
from stlsearch.ops import plain
from stlsearch.ops.encoded import FP8, EncodedWeight, check_encoded
from stlsearch.ops.library import fuses, module_for, transformed
from stlsearch.ops.parameter import EncodedParameter
from stlsearch.ops.product import automatic_chunk, chunks

LARGEST = 448.0
SMALLEST = 1e-30  # largest value of a row, so that no scale is zero


def quantise(encoded: EncodedWeight | EncodedParameter) -> EncodedWeight:
    """The encoded weight in float8_e4m3fn, at a half (a quarter) of the bytes, for `stlsearch.ops.stl_matmul` without gradients.

    x stays in float32, float16 or bfloat16; it is encoded, divided by a scale for every row of tiles and rounded in every call.
    `EncodedWeight.to` with another dtype is the way back.

    Raises:
        InputError: what is no encoded weight, or one that is quantised already.
    """
    encoded = encoded.value if isinstance(encoded, EncodedParameter) else encoded
    check_encoded(encoded)
    if encoded.scales is not None:
        raise InputError("the encoded weight is quantised already")
    with torch.no_grad():
        planes, scales = quantise_rows(encoded.tensor.detach().mT)
        return replace(encoded, tensor=planes.contiguous(), scales=scales)


def quantise_rows(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Planes (r, I, J) in float8_e4m3fn, and the scales (r, I) to multiply them by, in float32."""
    wide = planes.to(summed_in(planes.dtype))
    scales = wide.abs().amax(2).clamp_min(SMALLEST).div(LARGEST) if planes.shape[2] else wide.new_ones(planes.shape[:2])
    return (wide / scales[..., None]).to(FP8), scales.float()


def summed_in(dtype: torch.dtype) -> torch.dtype:
    """float64 for itself, else float32."""
    return dtype if dtype == torch.float64 else torch.float32


def encode(matrix: Tensor, factor: Tensor, height: int, width: int, row_blocks: bool, column_blocks: bool) -> tuple[Tensor, Tensor]:
    """`stlsearch.ops.plain.encode`, quantised by rows before it is rounded to the dtype of the matrix."""
    wide = summed_in(matrix.dtype)
    return quantise_rows(plain.encode(matrix.to(wide), factor.to(wide), height, width, row_blocks, column_blocks))


def multiply(left: Tensor, right: Tensor, scales: tuple[Tensor, Tensor], dtype: torch.dtype) -> Tensor:
    """The products of quantised planes (r, I, K) and (r, K, J) with scales (r, I) and (r, J), by PyTorch's own operators."""
    wide = summed_in(dtype)
    of_rows, of_columns = (scale.to(wide) for scale in scales)
    return (plain.times(left.to(wide), right.to(wide)) * of_rows[:, :, None] * of_columns[:, None, :]).to(dtype)


def product(
    matrix: Tensor,
    encoder: Tensor,
    weight: Tensor,
    scales: Tensor,
    decoder: Tensor,
    tile: tuple[int, int, int],
    columns: int,
    blocks: tuple[bool, bool, bool],
    chunk: int = 0,
) -> Tensor:
    """`stlsearch.ops.product.product` with a weight (r, ceil(N/p), ceil(C/w)) in float8_e4m3fn and its scales (r, ceil(N/p)).

    Raises:
        InputError: gradients of x or of the bases are wanted, or derivatives or batches by torch.func.
    """
    if transformed():
        raise InputError("products in fp8 know neither torch.func nor forward mode: use the weight before it was quantised")
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (matrix, encoder, decoder)):
        raise InputError("products in fp8 have no gradients: use torch.no_grad(), or the weight before it was quantised")
    return _product(matrix, encoder, weight, scales, decoder, *tile, columns, *blocks, chunk)


@torch.library.custom_op("stlsearch::product_fp8", mutates_args=())
def _product(
    matrix: Tensor,
    encoder: Tensor,
    weight: Tensor,
    scales: Tensor,
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
    result = matrix.new_empty(batch, rows, columns)
    module = module_for(matrix)
    kernels = module if getattr(module, "can_quantise", None) and module.can_quantise(matrix, height, width) else None
    right = weight.mT
    for piece in chunks(batch, rows, height, row_blocks, chunk or automatic_chunk(matrix, right, height)):
        part = matrix[piece]
        samples, lines, _ = part.shape
        output = (height, output_width, samples, lines, columns, row_blocks, output_blocks)
        if kernels is None:
            planes, of_rows = encode(part, encoder, height, width, row_blocks, column_blocks)
            products = multiply(planes, right, (of_rows, scales), matrix.dtype)
            result[piece] = plain.decode(products, decoder, *output)
            continue
        planes, of_rows = kernels.encode_fp8(part, encoder, height, width, row_blocks, column_blocks)
        products = matrix.new_empty(*planes.shape[:2], right.shape[2])
        if fuses(planes, right, decoder, height, output_width):
            kernels.product_decode(planes, right, decoder, *output, scales=(of_rows, scales), products=products, into=result[piece])
        else:
            kernels.multiply(planes, right, scales=(of_rows, scales), into=products)
            kernels.decode(products, decoder, *output, into=result[piece])
    return result


@_product.register_fake
def _(matrix, encoder, weight, scales, decoder, height, width, output_width, columns, *rest):  # type: ignore[no-untyped-def]
    return plain.output_like(matrix, *matrix.shape[:2], columns)
