"""Algorithms as the operator takes them: factors as tensors of a dtype on a device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.ops.tiles import power, tile_of
from stlsearch.ops.trees import register

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The dtypes the operator computes in, by name."""


@dataclass(frozen=True, eq=False)
class Bases:
    """An algorithm's factors as tensors of one dtype on one device. Make it once with `prepare`.

    A pytree. To learn the bases, replace the tensors by parameters of the same shapes: ``dataclasses.replace(bases, U=parameter)``.

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
            InputError: what is no algorithm, one that is not a matrix product or has no meaning on real matrices
                (Z2, Zp, complex), or a dtype the operator does not compute in.
        """
        if not isinstance(algorithm, BilinearAlgorithm):
            raise InputError(f"a BilinearAlgorithm is needed, not {type(algorithm).__name__}")
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
        InputError: as for `Bases.prepare`, what is neither, or bases of another dtype, on another device or of shapes that do not
            fit their tile.
    """
    if isinstance(algorithm, BilinearAlgorithm):
        if torch.compiler.is_compiling():
            return _traced(algorithm, levels, dtype, device)
        if torch._C._len_torch_dispatch_stack():  # tensors made here may be fake
            return Bases.prepare(power(algorithm, levels), dtype=dtype, device=device)
        return _prepared(power(algorithm, levels), dtype, device)
    if not isinstance(algorithm, Bases):
        raise InputError(f"a BilinearAlgorithm or Bases are needed, not {type(algorithm).__name__}")
    if dtype not in DTYPES.values():
        raise InputError(f"the operator does not compute in {dtype}; valid: {', '.join(DTYPES)}")
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
    if key not in _compiled_for:
        raise InputError(f"this program was traced with algorithm {key[:8]}, which is not known here: trace it with Bases as inputs")
    algorithm = _compiled_for[key]
    if index == 3:
        return _prepared(algorithm, torch.float32, device).channels[None].clone()  # type: ignore[index]
    bases = _prepared(algorithm, dtype, device)
    return (bases.U, bases.V, bases.W)[index].clone()  # a graph may write into what it is given


@_factor.register_fake
def _(key, index, rows, columns, dtype, device):  # type: ignore[no-untyped-def]
    return torch.empty(rows, columns, dtype=dtype, device=device)


register(Bases, "U", "V", "W", "channels")
