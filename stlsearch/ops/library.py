"""`encode`, `multiply`, `decode` and `correlate` as PyTorch operators: torch.compile, autograd and CUDA graphs see one node each.

Formulas and shapes are in `stlsearch.ops.plain`, whose functions are the fallback; a CPU runs `stlsearch.ops.compiled`, a CUDA
device `stlsearch.ops.triton_kernels` where Triton is installed. Their derivatives are the same operators again, so they can be
differentiated any number of times. torch.func and forward mode take the plain functions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from stlsearch.errors import InputError
from stlsearch.ops import compiled, plain
from stlsearch.ops.tuning import choice

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton kernels run on CPUs, slowly: Triton decides that when it is imported."""

BACKENDS = ("auto", "plain", "unfused", "fused")
_backend = "auto"


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Within it, operators run on ``"auto"``, the fastest code known for each device, or on ``"plain"`` PyTorch.

    ``"unfused"`` and ``"fused"`` are ``"auto"`` too, but on a GPU products are never, or wherever it is possible, decoded in the kernel
    that multiplies. ``"auto"`` does that where the device's table says that it is faster, see `stlsearch.ops.tuning`. With
    TRITON_INTERPRET=1 these two go through the Triton kernels on a CPU, for tests.

    For the whole process: backward passes on a GPU run in threads of their own.

    Raises:
        InputError: any other name.
    """
    if name not in BACKENDS:
        raise InputError(f"unknown backend {name!r}; valid: {', '.join(BACKENDS)}")
    global _backend
    before, _backend = _backend, name
    try:
        yield
    finally:
        _backend = before


@cache
def triton_path() -> ModuleType | None:
    """The Triton kernels, or None where Triton is not installed or the CUDA device is older than it supports."""
    if not INTERPRETED and (not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0)):  # where bfloat16 begins
        return None
    try:
        from stlsearch.ops import triton_kernels  # Triton is optional, and slow to import
    except ImportError:
        return None
    return triton_kernels


def module_for(tensor: Tensor) -> ModuleType:
    """The module to run on a tensor's device and dtype."""
    if _backend != "plain":
        on_triton = tensor.device.type == "cuda" or (INTERPRETED and _backend in ("unfused", "fused"))
        if on_triton and tensor.dtype != torch.float64 and (kernels := triton_path()):
            return kernels
        if tensor.device.type == "cpu" and tensor.dtype in compiled.SUMMED_IN:
            return compiled
    return plain


def fuses(planes: Tensor, weight: Tensor, decoder: Tensor, height: int, width: int) -> bool:
    """Whether the products of planes and an encoded weight are decoded in the kernel that multiplies them."""
    if _backend == "unfused" or (module := module_for(decoder)) is not triton_path() or not module.can_decode(decoder.dtype, height, width):
        return False
    rank, tile_rows, inner = planes.shape
    found = choice("product_decode", planes.device, planes.dtype, rank, tile_rows, inner, weight.shape[2])
    return _backend == "fused" or bool(found.get("fused"))


@torch.library.custom_op("stlsearch::encode", mutates_args=())
def _encode(matrix: Tensor, factor: Tensor, height: int, width: int, row_blocks: bool, column_blocks: bool) -> Tensor:
    return module_for(matrix).encode(matrix, factor, height, width, row_blocks, column_blocks)


@torch.library.custom_op("stlsearch::decode", mutates_args=())
def _decode(
    planes: Tensor, factor: Tensor, height: int, width: int, batch: int, rows: int, columns: int, row_blocks: bool, column_blocks: bool
) -> Tensor:
    return module_for(planes).decode(planes, factor, height, width, batch, rows, columns, row_blocks, column_blocks)


@torch.library.custom_op("stlsearch::correlate", mutates_args=())
def _correlate(matrix: Tensor, planes: Tensor, height: int, width: int, row_blocks: bool, column_blocks: bool) -> Tensor:
    module = module_for(matrix)
    # On a CPU two wide matrix products are as fast as anything: bases are learned in training only.
    return (plain if module is compiled else module).correlate(matrix, planes, height, width, row_blocks, column_blocks)


@torch.library.custom_op("stlsearch::multiply", mutates_args=())
def _multiply(left: Tensor, right: Tensor) -> Tensor:
    return module_for(left).multiply(left, right)


@_encode.register_fake
def _(matrix, factor, height, width, row_blocks, column_blocks):  # type: ignore[no-untyped-def]
    batch, rows, columns = matrix.shape
    return plain.output_like(matrix, factor.shape[0], batch * -(-rows // height), -(-columns // width))


@_decode.register_fake
def _(planes, factor, height, width, batch, rows, columns, row_blocks, column_blocks):  # type: ignore[no-untyped-def]
    return plain.output_like(planes, batch, rows, columns)


@_correlate.register_fake
def _(matrix, planes, height, width, row_blocks, column_blocks):  # type: ignore[no-untyped-def]
    return plain.output_like(matrix, planes.shape[0], height * width)


@_multiply.register_fake
def _(left, right):  # type: ignore[no-untyped-def]
    return plain.output_like(left, left.shape[0], left.shape[1], right.shape[2])


# Backward. Only what a wanted gradient needs is kept: the matrix for the factor's, the factor for the matrix's.


def _keep(ctx: Any, first: Tensor, second: Tensor) -> None:
    ctx.save_for_backward(first if ctx.needs_input_grad[1] else None, second if ctx.needs_input_grad[0] else None)


def _encode_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    matrix, factor, *ctx.tile = inputs
    ctx.shape = matrix.shape
    _keep(ctx, matrix, factor)


def _encode_backward(ctx: Any, grad: Tensor) -> tuple:
    matrix, factor = ctx.saved_tensors
    height, width, *blocks = ctx.tile
    return (
        None if factor is None else decode(grad, factor, height, width, *ctx.shape, *blocks),
        None if matrix is None else correlate(matrix, grad, height, width, *blocks),
        *(None,) * 4,
    )


def _decode_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    planes, factor, height, width, _, _, _, *blocks = inputs
    ctx.tile = (height, width, *blocks)
    _keep(ctx, planes, factor)


def _decode_backward(ctx: Any, grad: Tensor) -> tuple:
    planes, factor = ctx.saved_tensors
    return (
        None if factor is None else encode(grad, factor, *ctx.tile),
        None if planes is None else correlate(grad, planes, *ctx.tile),
        *(None,) * 7,
    )


def _correlate_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    matrix, planes, *ctx.tile = inputs
    ctx.shape = matrix.shape
    _keep(ctx, matrix, planes)


def _correlate_backward(ctx: Any, grad: Tensor) -> tuple:
    matrix, planes = ctx.saved_tensors
    height, width, *blocks = ctx.tile
    return (
        None if planes is None else decode(planes, grad, height, width, *ctx.shape, *blocks),
        None if matrix is None else encode(matrix, grad, *ctx.tile),
        *(None,) * 4,
    )


def _multiply_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _keep(ctx, *inputs)


def _multiply_backward(ctx: Any, grad: Tensor) -> tuple:
    left, right = ctx.saved_tensors
    return None if right is None else multiply(grad, right.mT), None if left is None else multiply(left.mT, grad)


_encode.register_autograd(_encode_backward, setup_context=_encode_context)
_decode.register_autograd(_decode_backward, setup_context=_decode_context)
_correlate.register_autograd(_correlate_backward, setup_context=_correlate_context)
_multiply.register_autograd(_multiply_backward, setup_context=_multiply_context)


def transformed() -> bool:
    """Whether derivatives or batches are being taken by torch.func or in forward mode.

    PyTorch's custom operators know reverse mode and torch.compile only; compositions of its own operators know everything.
    """
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def _choose(operator: Callable, composite: Callable) -> Callable:
    def call(*arguments: Any) -> Tensor:
        return (composite if transformed() else operator)(*arguments)

    call.__doc__ = composite.__doc__
    return call


encode = _choose(_encode, plain.encode)
decode = _choose(_decode, plain.decode)
correlate = _choose(_correlate, plain.correlate)
multiply = _choose(_multiply, plain.multiply)
