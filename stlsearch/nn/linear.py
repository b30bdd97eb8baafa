"""A linear layer that multiplies by a bilinear algorithm, its weight stored and trained encoded."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.nn.basis import Basis
from stlsearch.nn.initial import random_encoded
from stlsearch.ops import EncodedParameter, EncodedWeight, Layout, encode_weights, stl_matmul
from stlsearch.samples import check_permutation

ROWS = ("tokens", "blocks", "batch", "group")


class STLLinear(torch.nn.Module):
    """``y = x weight + bias`` by the Strassen-Tile product of arXiv 2503.12211: x (..., M, K) gives (..., M, N).

    The parameter is the encoded weight, ceil(K/m) ceil(N/p) r values instead of K N: about r/(mp) times as many.

    **Which rows share a tile.** Unless the algorithm is exact, a row of y depends on all n rows of its tile:

    - ``"tokens"``: n neighbours along the axis before the channels. In a causal model they leak the future; for x (B, K) they are
      samples of the batch.
    - ``"blocks"``: tokens far apart, see `stlsearch.ops.Layout`. Leaks over the whole sample.
    - ``"batch"``: the same token of n neighbouring samples. Nothing leaks in time, but a sample's result depends on its neighbours
      in the batch, and on the padding where there are none.
    - ``"group"``: n neighbours along `group_axis`, such as the heads or the views of one token.

    Args:
        in_features, out_features: K and N.
        algorithm: an <n,m,p> algorithm, or a `Basis` to share between layers.
        bias: whether to add one, shape (N,).
        rows: one of `ROWS`.
        layout: how channels and outputs are cut into tiles; its rows have to agree with `rows`.
        channels: (K,) the order of channels that are cut into tiles; by default the one the algorithm was fitted to, if it was.
        group_axis: the axis of x whose neighbours share a tile when rows is ``"group"``.
        learn: factors of the basis that are parameters, "" or "U", "W", "UW"; a given `Basis` knows itself.
        causal_safe: refuse what lets a token depend on later ones.
        start: how the encoded weight starts, see `stlsearch.nn.initial.STARTS`.

    Raises:
        InputError: sizes below 1, an unknown option, channels that are no permutation or that the algorithm orders for another K,
            or a layout that leaks the future when it must not.
    """

    bias: torch.nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        algorithm: BilinearAlgorithm | Basis,
        *,
        bias: bool = True,
        rows: str = "tokens",
        layout: Layout | None = None,
        channels: Any = None,
        group_axis: int | None = None,
        learn: str = "",
        causal_safe: bool = False,
        start: str = "encoded",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if min(in_features, out_features) < 1:
            raise InputError(f"a layer needs at least one channel and one output, not {in_features} and {out_features}")
        if isinstance(algorithm, Basis) and learn not in ("", algorithm.learn):
            raise InputError(f"the shared basis learns {algorithm.learn!r}; that cannot be changed to {learn!r} by one of its layers")
        basis = algorithm if isinstance(algorithm, Basis) else Basis(algorithm, learn=learn, device=device, dtype=dtype)
        self.in_features, self.out_features = in_features, out_features
        self.rows, self.group_axis, self.causal_safe = rows, group_axis, causal_safe
        self.basis = basis
        self.layout = _layout(rows, layout, group_axis)
        if causal_safe and not basis.exact and (rows in ("tokens", "blocks") or group_axis == -2):
            raise InputError(
                f"rows={rows!r} lets a token depend on later ones of its tile; a causal model needs rows='batch', "
                "rows='group' along another axis, or an exact algorithm whose factors are fixed"
            )
        order = _order(channels, basis, in_features, bare=layout is None)
        planes = random_encoded(basis, in_features, out_features, self.layout, start).to(basis.V)
        place = None if order is None else order.to(basis.V.device)
        self.encoded = EncodedParameter(EncodedWeight(planes, (in_features, out_features), basis.algorithm_id, self.layout, place))
        if bias:
            bound = 1 / math.sqrt(in_features)
            self.bias = torch.nn.Parameter(torch.empty(out_features).uniform_(-bound, bound).to(basis.V))
        else:
            self.register_parameter("bias", None)

    @staticmethod
    def from_linear(linear: torch.nn.Linear, algorithm: BilinearAlgorithm | Basis, **options: Any) -> STLLinear:
        """A layer with the encoded weight and the bias of a dense one, on its device and in its dtype."""
        weight = linear.weight.detach()
        options.setdefault("device", weight.device)
        options.setdefault("dtype", weight.dtype)
        layer = STLLinear(linear.in_features, linear.out_features, algorithm, bias=linear.bias is not None, **options)
        return layer.load_dense(weight.T, linear.bias)

    @torch.no_grad()
    def load_dense(self, weight: Tensor, bias: Tensor | None = None) -> STLLinear:
        """Encode a dense weight (K, N) into the parameter, exactly as it is; take over a bias (N,), or none.

        Raises:
            InputError: a weight or a bias of another shape, or a bias for a layer without one.
        """
        shape = (self.in_features, self.out_features)
        if tuple(weight.shape) != shape:
            raise InputError(f"a weight (K, N) of shape {shape} is needed, not {tuple(weight.shape)}")
        if bias is not None and (self.bias is None or bias.shape != self.bias.shape):
            raise InputError(f"a bias of shape {tuple(bias.shape)} does not fit a layer {'without one' if self.bias is None else shape}")
        factors = self.basis()
        weight = weight.to(factors.V.device, factors.V.dtype)
        if self.encoded.channels is not None:
            weight = weight.index_select(0, self.encoded.channels)
        self.encoded.tensor.copy_(encode_weights(weight, factors, layout=self.layout).tensor)
        if self.bias is not None:
            if bias is None:
                self.bias.zero_()
            else:
                self.bias.copy_(bias)
        return self

    @property
    def weight(self) -> torch.nn.Parameter:
        """The encoded weight, for code that asks a layer's weight for its dtype or its device."""
        return self.encoded.tensor

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) to (..., N); a vector is one row."""
        if x.ndim == 1:
            return self(x[None])[0]
        if self.group_axis is not None:
            axis = self.axis_of(x)
            if self.causal_safe and axis == x.ndim - 2 and not self.basis.exact:
                raise InputError(f"group_axis={self.group_axis} of x {tuple(x.shape)} is its axis of tokens: it would leak the future")
            return self._product(x.movedim(axis, -2)).movedim(-2, axis)
        if self.rows == "batch" and x.ndim == 2:
            return self._product(x[:, None])[:, 0]
        return self._product(x)

    def axis_of(self, x: Tensor) -> int:
        """Which axis of x its `group_axis` is, counted from 0.

        Raises:
            InputError: x has no such axis, or its channels are there.
        """
        axis = self.group_axis or 0
        axis += x.ndim if axis < 0 else 0
        if not 0 <= axis < x.ndim - 1:
            raise InputError(f"group_axis={self.group_axis} is no axis of x {tuple(x.shape)} other than its channels")
        return axis

    def _product(self, x: Tensor) -> Tensor:
        y = stl_matmul(x, self.encoded.value, self.basis())
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        group = f", group_axis={self.group_axis}" if self.group_axis is not None else ""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, rows={self.rows!r}{group}"


def _layout(rows: str, layout: Layout | None, group_axis: int | None) -> Layout:
    if rows not in ROWS:
        raise InputError(f"unknown rows {rows!r}; valid: {', '.join(ROWS)}")
    if (rows == "group") != (group_axis is not None) or group_axis == -1:
        raise InputError(f"rows='group' needs a group_axis of x other than its channels, other rows need none; got {rows!r}, {group_axis}")
    along = "tokens" if rows == "group" else rows
    if layout is not None and layout.rows not in (along, "tokens"):
        raise InputError(f"the layout takes rows from {layout.rows}, the layer from {rows}")
    return Layout(along, layout.channels, layout.outputs) if layout else Layout(along)


def _order(channels: Any, basis: Basis, inner: int, *, bare: bool) -> Tensor | None:
    """The order of channels as a tensor, or None. The basis' own counts unless a layout or another order is given."""
    if channels is None:
        if basis.channels is None or not bare:
            return None
        if len(basis.channels) != inner:
            raise InputError(f"the basis orders {len(basis.channels)} channels, the layer has {inner}; pass layout=Layout() to leave them")
        channels = basis.channels
    order = channels.numpy(force=True) if isinstance(channels, Tensor) else channels
    return torch.from_numpy(check_permutation(order, inner))
