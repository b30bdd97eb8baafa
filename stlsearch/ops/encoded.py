"""Weights as the operator takes them: encoded once, for every x."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.ops.bases import Bases, bases_of
from stlsearch.ops.layout import Layout, check_layout
from stlsearch.ops.library import encode
from stlsearch.ops.trees import register

FP8 = torch.float8_e4m3fn


@dataclass(frozen=True, eq=False)
class EncodedWeight:
    """A weight encoded for one algorithm. A pytree; torch.func takes derivatives by its `tensor`.

    Attributes:
        tensor: (r, ceil(K/m), ceil(N/p)), contiguous planes.
        shape: (K, N) of the weight before padding.
        algorithm_id: the algorithm it was encoded with; no other can decode it.
        layout: how it and its activations are cut into tiles.
        channels: (K,), the order in which channels are cut into tiles, or None as they stand.
        scales: None, or (r, ceil(N/p)) if it was quantised, see `stlsearch.ops.quantise`: the tensor is then in float8_e4m3fn and, as
            tensor cores read that, (r, ceil(N/p), ceil(K/m)), its rows to be multiplied by the scales.
    """

    tensor: Tensor
    shape: tuple[int, int]
    algorithm_id: str
    layout: Layout = field(default_factory=Layout)
    channels: Tensor | None = None
    scales: Tensor | None = None

    def to(self, *arguments: Any, **options: Any) -> EncodedWeight:
        """With the tensor in another dtype or on another device, as `Tensor.to`. A quantised one in another dtype is quantised no more.

        Raises:
            InputError: to float8_e4m3fn, which takes scales.
        """
        tensor, scales = self.tensor.to(*arguments, **options), self.scales
        if tensor.dtype == FP8 != self.tensor.dtype:
            raise InputError("an encoded weight needs scales in float8_e4m3fn: see stlsearch.ops.quantise")
        if scales is not None:
            scales = scales.to(tensor.device)
            if tensor.dtype != FP8:
                tensor, scales = (tensor.float() * scales[..., None]).to(tensor.dtype).mT.contiguous(), None
        return replace(self, tensor=tensor, scales=scales, channels=None if self.channels is None else self.channels.to(tensor.device))


def encode_weights(weight: Tensor, algorithm: BilinearAlgorithm | Bases, *, layout: Layout | None = None) -> EncodedWeight:
    """The encoded weight of weight (K, N), to be made once and used for every x.

    ``tensor[s] = sum_bc V[s, bc] weight[b, c]`` over the places (b, c) of all m x p tiles. Differentiable in the weight and in V.

    Args:
        layout: how matrices are cut into tiles; None is the interleaved tiles of arXiv 2503.12211, with the channels in the
            order that the algorithm was fitted to, if it was. A `Layout` takes the channels as they stand.

    Raises:
        InputError: the weight is not a matrix, its dtype is none of `DTYPES`, the bases are of another dtype or device, the
            algorithm was fitted to another number of channels, or an argument is of another type.
    """
    check_tensor("weight", weight)
    if weight.ndim != 2:
        raise InputError(f"a weight is a matrix (K, N), not a tensor of shape {tuple(weight.shape)}")
    bases = bases_of(algorithm, weight.dtype, weight.device)
    inner, columns = weight.shape
    channels = channel_order(bases, inner, layout)
    layout = layout or Layout()
    if channels is not None:
        weight = weight.index_select(0, channels)
    _, m, p = bases.shape
    tensor = encode(weight[None], bases.V, m, p, layout.channels == "blocked", layout.outputs == "blocked")
    return EncodedWeight(tensor, (inner, columns), bases.algorithm_id, layout, channels)


def channel_order(bases: Bases, inner: int, layout: Layout | None) -> Tensor | None:
    """The order in which K = `inner` channels are cut into tiles, None as they stand.

    Raises:
        InputError: the algorithm was fitted to another number of channels, or what is no layout.
    """
    check_layout(layout)
    if bases.channels is None or layout is not None:
        return None
    if len(bases.channels) != inner:
        raise InputError(f"the basis orders {len(bases.channels)} channels, the matrix has {inner}; pass layout=Layout() to leave them")
    return bases.channels


def check_tensor(name: str, value: object) -> None:
    """Raise `InputError` unless an argument is a dense tensor."""
    if not isinstance(value, Tensor):
        raise InputError(f"{name} is a torch.Tensor, not {type(value).__name__}")
    if value.layout != torch.strided:
        raise InputError(f"{name} is a dense tensor, not one of layout {value.layout}")


def check_not_quantised(encoded: EncodedWeight) -> None:
    """Raise `InputError` where a weight in fp8 cannot be used."""
    if encoded.scales is not None:
        raise InputError("an encoded weight in float8_e4m3fn is for stl_matmul alone; encoded.to(torch.bfloat16) undoes it")


def check_encoded(value: object) -> None:
    """Raise `InputError` unless an argument is an encoded weight."""
    if not isinstance(value, EncodedWeight):
        raise InputError(f"an encoded weight is needed, see encode_weights, not {type(value).__name__}")


register(EncodedWeight, "tensor", "channels", "scales")
