"""A two-dimensional convolution whose product is a Strassen-Tile one."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.nn.basis import Basis
from stlsearch.nn.linear import STLLinear

Pair = int | tuple[int, int]


class STLConv2d(torch.nn.Module):
    """A convolution as a product of patches: x (B, C, H, W) gives (B, N, H', W'), as `torch.nn.Conv2d` without groups.

    Every output position is a row of K = C kh kw values (`torch.nn.functional.unfold`; for 1 x 1 kernels the values themselves), so
    tiles take n neighbouring positions, row by row: within a line of the picture where n divides W'. Unless the algorithm is exact, a
    position depends on the patches of its tile, beyond its own receptive field. ``rows="batch"`` takes the same position of n
    neighbouring images instead.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, bias: as for `torch.nn.Conv2d`; zeros are padded.
        algorithm, options: as for `STLLinear`.

    Raises:
        InputError: a padding in words, other than one or two numbers, or what `STLLinear` refuses.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        algorithm: BilinearAlgorithm | Basis,
        *,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        if isinstance(padding, str):
            raise InputError(f"padding is a number of pixels or two, not {padding!r}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.padding, self.dilation = map(_pair, (kernel_size, stride, padding, dilation))
        height, width = self.kernel_size
        self.linear = STLLinear(in_channels * height * width, out_channels, algorithm, bias=bias, **options)

    @staticmethod
    def from_conv(conv: torch.nn.Conv2d, algorithm: BilinearAlgorithm | Basis, **options: Any) -> STLConv2d:
        """A layer with the encoded weight and the bias of a dense convolution.

        Raises:
            InputError: a convolution in groups, or one that pads anything but zeros, or in words.
        """
        if conv.groups != 1 or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise InputError("a convolution of one group and zero padding in pixels is needed, not " + conv.extra_repr())
        weight = conv.weight.detach()
        layer = STLConv2d(
            conv.in_channels,
            conv.out_channels,
            _pair(conv.kernel_size),
            algorithm,
            stride=_pair(conv.stride),
            padding=_pair(conv.padding),
            dilation=_pair(conv.dilation),
            bias=conv.bias is not None,
            **({"device": weight.device, "dtype": weight.dtype} | options),
        )
        layer.linear.load_dense(weight.flatten(1).T, conv.bias)
        return layer

    @property
    def weight(self) -> torch.nn.Parameter:
        """The encoded weight."""
        return self.linear.weight

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(H', W') of an image of (H, W)."""
        sizes = zip((height, width), self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        down, across = ((size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1 for size, kernel, stride, pad, dilation in sizes)
        return down, across

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) or (C, H, W) to (B, N, H', W') or (N, H', W').

        Raises:
            InputError: x of another number of axes or channels.
        """
        if x.ndim not in (3, 4) or x.shape[-3] != self.in_channels:
            raise InputError(f"images ([B,] {self.in_channels}, H, W) are needed, not x of shape {tuple(x.shape)}")
        if x.ndim == 3:
            return self(x[None])[0]
        if self.kernel_size == (1, 1) and self.padding == (0, 0):
            down, across = self.stride
            patches = x[:, :, ::down, ::across].flatten(2)
        else:
            patches = functional.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)
        size = self.output_size(*x.shape[-2:])
        return self.linear(patches.mT).mT.unflatten(2, size)

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}"


def _pair(value: Any) -> tuple[int, int]:
    try:
        down, across = (index(value),) * 2 if not isinstance(value, Sequence) else map(index, value)
    except (TypeError, ValueError):
        raise InputError(f"a size of a convolution is one whole number or two, not {value!r:.60}") from None
    return down, across
