"""Algorithms and weights as the operator takes them: `Bases` and `EncodedWeight`.

Both are pytrees: they pass through torch.compile, torch.func and torch.utils.checkpoint like tuples of tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.ops.layout import Layout
from stlsearch.ops.library import encode
from stlsearch.ops.tiles import power, tile_of

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The dtypes the operator computes in, by name."""


@dataclass(frozen=True, eq=False)
class Bases:
    """An algorithm's factors as tensors of one dtype on one device. Make it once with `prepare`.

    To learn the bases, replace the tensors by parameters of the same shapes: ``dataclasses.replace(bases, U=parameter)``.

    Attributes:
        U, V, W: (r, nm), (r, mp), (r, np).
        shape: (n, m, p), the tile.
        algorithm_id: `BilinearAlgorithm.id` of where they come from.
        channels: (K,), the order in which channels are cut into tiles if the algorithm was fitted to one, else None.
    """

    U: Tensor
    V: Tensor
    W: Tensor
    shape: tuple[int, int, int]
    algorithm_id: str
    channels: Tensor | None = None

    @staticmethod
    def prepare(algorithm: BilinearAlgorithm, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Bases:
        """Round the factors to `dtype` and move them to `device`.

        Raises:
            InputError: an algorithm that is not a matrix product, has no meaning on real matrices
                (Z2, Zp, complex), or a dtype the operator does not compute in.
        """
        tile = tile_of(algorithm)
        if dtype not in DTYPES.values():
            raise InputError(f"the operator does not compute in {dtype}; valid: {', '.join(DTYPES)}")
        U, V, W = (torch.tensor(factor, dtype=dtype, device=device) for factor in (algorithm.U, algorithm.V, algorithm.W))
        order = None if algorithm.metric is None else algorithm.metric.channels
        channels = None if order is None else torch.tensor(order, device=device)
        return Bases(U, V, W, tile, algorithm.id, channels)

    def to(self, dtype: torch.dtype) -> Bases:
        """In another dtype."""
        return replace(self, U=self.U.to(dtype), V=self.V.to(dtype), W=self.W.to(dtype))

    @property
    def rank(self) -> int:
        """r, the number of planes."""
        return self.U.shape[0]


def bases_of(algorithm: BilinearAlgorithm | Bases, dtype: torch.dtype, device: torch.device, *, levels: int = 1) -> Bases:
    """The bases of an algorithm, kept from call to call; `Bases` are returned as they are.

    Args:
        levels: more than one for those of a power of an algorithm, see `stlsearch.ops.tiles.power`.

    Raises:
        InputError: as for `Bases.prepare`, or bases of another dtype, on another device or of shapes that do not fit their tile.
    """
    if isinstance(algorithm, BilinearAlgorithm):
        if torch.compiler.is_compiling():
            return _traced(algorithm, levels, dtype, device)
        if torch._C._len_torch_dispatch_stack():  # tensors made here may be fake
            return Bases.prepare(power(algorithm, levels), dtype=dtype, device=device)
        return _prepared(power(algorithm, levels), dtype, device)
    n, m, p = algorithm.shape
    for name, factor, places in (("U", algorithm.U, n * m), ("V", algorithm.V, m * p), ("W", algorithm.W, n * p)):
        if (factor.dtype, factor.device) != (dtype, device):
            raise InputError(f"the matrix is {dtype} on {device}, the bases' {name} {factor.dtype} on {factor.device}")
        if tuple(factor.shape) != (algorithm.rank, places):
            raise InputError(
                f"{name} of rank-{algorithm.rank} bases of {n}x{m}x{p} tiles is ({algorithm.rank}, {places}), not {tuple(factor.shape)}"
            )
    return algorithm


@lru_cache(maxsize=64)
def _prepared(algorithm: BilinearAlgorithm, dtype: torch.dtype, device: torch.device) -> Bases:
    with torch.inference_mode(False):  # they outlive the call
        return Bases.prepare(algorithm, dtype=dtype, device=device)


# torch.compile takes an algorithm for what it is, a constant: another one is another graph. NumPy arrays cannot be constants of a
# graph, so it calls an operator for the factors.
pytree.register_constant(BilinearAlgorithm)
_compiled_for: dict[str, BilinearAlgorithm] = {}


def _traced(algorithm: BilinearAlgorithm, levels: int, dtype: torch.dtype, device: torch.device) -> Bases:
    tile, algorithm_id, key, rank, sizes, inner = _description(algorithm, levels)
    U, V, W = (_factor(key, index, rank, size, dtype, device) for index, size in enumerate(sizes))
    channels = _factor(key, 3, 1, inner, torch.int64, device)[0] if inner else None
    return Bases(U, V, W, tile, algorithm_id, channels)


@torch.compiler.assume_constant_result
def _description(algorithm: BilinearAlgorithm, levels: int) -> tuple:
    algorithm = power(algorithm, levels)
    order = None if algorithm.metric is None else algorithm.metric.channels
    key = algorithm.id if order is None else f"{algorithm.id} {sha256(order.tobytes()).hexdigest()}"  # of all that `_factor` gives
    _compiled_for[key] = algorithm
    return tile_of(algorithm), algorithm.id, key, algorithm.rank, algorithm.target.dims, 0 if order is None else len(order)


@torch.library.custom_op("stlsearch::factor", mutates_args=())
def _factor(key: str, index: int, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    algorithm = _compiled_for[key]
    if index == 3:
        return _prepared(algorithm, torch.float32, device).channels[None].clone()  # type: ignore[index]
    bases = _prepared(algorithm, dtype, device)
    return (bases.U, bases.V, bases.W)[index].clone()  # a graph may write into what it is given


@_factor.register_fake
def _(key, index, rows, columns, dtype, device):  # type: ignore[no-untyped-def]
    return torch.empty(rows, columns, dtype=dtype, device=device)


@dataclass(frozen=True, eq=False)
class EncodedWeight:
    """A weight encoded for one algorithm.

    Attributes:
        tensor: (r, ceil(K/m), ceil(N/p)), contiguous planes.
        shape: (K, N) of the weight before padding.
        algorithm_id: the algorithm it was encoded with; no other can decode it.
        layout: how it and its activations are cut into tiles.
        channels: (K,), the order in which channels are cut into tiles, or None as they stand.
    """

    tensor: Tensor
    shape: tuple[int, int]
    algorithm_id: str
    layout: Layout = field(default_factory=Layout)
    channels: Tensor | None = None

    def to(self, *arguments: Any, **options: Any) -> EncodedWeight:
        """With the tensor in another dtype or on another device, as `Tensor.to`."""
        tensor = self.tensor.to(*arguments, **options)
        return replace(self, tensor=tensor, channels=None if self.channels is None else self.channels.to(tensor.device))


def encode_weights(weight: Tensor, algorithm: BilinearAlgorithm | Bases, *, layout: Layout | None = None) -> EncodedWeight:
    """The encoded weight of weight (K, N), to be made once and used for every x.

    ``tensor[s] = sum_bc V[s, bc] weight[b, c]`` over the places (b, c) of all m x p tiles. Differentiable in the weight and in V.

    Args:
        layout: how matrices are cut into tiles; None is the interleaved tiles of arXiv 2503.12211, with the channels in the
            order that the algorithm was fitted to, if it was. A `Layout` takes the channels as they stand.

    Raises:
        InputError: the weight is not a matrix, its dtype is none of `DTYPES`, the bases are of another dtype or device, or the
            algorithm was fitted to another number of channels.
    """
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
        InputError: the algorithm was fitted to another number of channels.
    """
    if bases.channels is None or layout is not None:
        return None
    if len(bases.channels) != inner:
        raise InputError(f"the basis orders {len(bases.channels)} channels, the matrix has {inner}; pass layout=Layout() to leave them")
    return bases.channels


class EncodedParameter(torch.nn.Module):
    """An encoded weight as a parameter: assign it to a module's attribute, and optimisers, `to` and `state_dict` see it.

    ``state_dict`` holds the tensor, and beside it the algorithm's id, the sizes and the layout, which have to agree when it is
    loaded. Pass `value` to `stl_matmul`, or the module itself.
    """

    channels: Tensor | None

    def __init__(self, encoded: EncodedWeight, *, requires_grad: bool = True) -> None:
        super().__init__()
        self.tensor = torch.nn.Parameter(encoded.tensor.detach(), requires_grad)
        self.register_buffer("channels", encoded.channels)
        self._fixed = (encoded.shape, encoded.algorithm_id, encoded.layout)

    @property
    def value(self) -> EncodedWeight:
        """The encoded weight, its tensor being the parameter."""
        return EncodedWeight(self.tensor, *self._fixed, self.channels)

    def get_extra_state(self) -> dict[str, Any]:
        """What the tensor alone does not say, as plain values that `torch.load` reads without unpickling code."""
        shape, algorithm_id, layout = self._fixed
        return {"algorithm_id": algorithm_id, "shape": list(shape), "layout": [layout.rows, layout.channels, layout.outputs]}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Check that a loaded state belongs to the same algorithm, sizes and layout.

        Raises:
            InputError: it does not.
        """
        for key, value in self.get_extra_state().items():
            if state.get(key) != value:
                raise InputError(f"the state was saved for {key} {state.get(key)}, not {value}")

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *rest: Any) -> None:
        if (extra := state_dict.get(f"{prefix}_extra_state")) is not None:
            self.set_extra_state(extra)  # before the tensor is overwritten
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        shape, algorithm_id, _ = self._fixed
        return f"shape={shape}, algorithm={algorithm_id[:8]}, planes={tuple(self.tensor.shape)}"


def _register(kind: type, *tensors: str) -> None:
    """Make a dataclass a pytree whose leaves are the named fields. None is no leaf: torch.func takes tensors only."""
    others = [field.name for field in fields(kind) if field.name not in tensors]

    def flatten_with_keys(value: Any) -> tuple[list, tuple]:
        present = tuple(name for name in tensors if getattr(value, name) is not None)
        leaves = [(pytree.GetAttrKey(name), getattr(value, name)) for name in present]
        return leaves, (present, tuple(getattr(value, name) for name in others))

    def flatten(value: Any) -> tuple[list, tuple]:
        leaves, rest = flatten_with_keys(value)
        return [leaf for _, leaf in leaves], rest

    def unflatten(leaves: Iterable, rest: tuple) -> Any:
        present, values = rest
        return kind(**{**dict.fromkeys(tensors), **dict(zip(present, leaves, strict=True)), **dict(zip(others, values, strict=True))})

    pytree.register_pytree_node(kind, flatten, unflatten, flatten_with_keys_fn=flatten_with_keys)


_register(Bases, "U", "V", "W", "channels")
_register(EncodedWeight, "tensor", "channels")
