"""Multiply-accumulates and parameters of a whole model, its Strassen-Tile layers included.

PyTorch's own counter (`torch.utils.flop_counter.FlopCounterMode`) knows matrix products, convolutions and attention. Importing this
module tells it about the operators of `stlsearch.ops`, and about attention on CPUs where PyTorch's version does not know that yet: it
would count nothing of them. For (M, K) times (K, N) by
<n,m,p;r>, with I = ceil(M/n), J = ceil(K/m), L = ceil(N/p):

    padded      r nm IJ + r IJL + r np IL                  what is computed
    otherwise   r MK + r MKN/(nmp) + r MN                  tiles cut where the matrix ends, as the literature counts

Only multiplications are counted: no bias, activation, norm, nor softmax. Nothing is subtracted for causal masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

import stlsearch.ops.product  # noqa: F401  registers the operators that are counted here
from stlsearch.nn.conv import STLConv2d
from stlsearch.nn.linear import STLLinear
from stlsearch.nn.observe import evaluating, run

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LayerCount:
    """What one module computes and holds, the modules within it aside unless it is a Strassen-Tile layer.

    A learned basis is counted with each of its layers here, and once in the total.
    """

    name: str
    kind: str
    macs: int
    parameters: int


@dataclass(frozen=True)
class Count:
    """A model's counts for one example.

    Attributes:
        macs: multiply-accumulates; one is 2 FLOPs.
        parameters: values of its parameters, each counted once.
        bytes: of its parameters and buffers, each counted once.
        layers: every module that computes or holds anything itself, in the model's order.
    """

    macs: int
    parameters: int
    bytes: int
    layers: tuple[LayerCount, ...]

    def to_dict(self) -> dict[str, object]:
        """As JSON values."""
        layers = [{"name": each.name, "kind": each.kind, "macs": each.macs, "parameters": each.parameters} for each in self.layers]
        return {"macs": self.macs, "parameters": self.parameters, "bytes": self.bytes, "layers": layers}


def count(model: torch.nn.Module, example: Any, *, padded: bool = True) -> Count:
    """The counts of a model, in evaluation, for an example.

    Under `torch._subclasses.FakeTensorMode`, with a model and an example made there, nothing is computed and no memory taken.

    Args:
        example: a tensor, a tuple of arguments or a mapping of named ones.
        padded: whether a tile that is cut by the end of a matrix counts as a whole one.

    Raises:
        InputError: an example of another type.
    """
    counter = FlopCounterMode(display=False, custom_mapping=None if padded else _CUT_FORMULAS)
    with evaluating(model), counter:
        run(model, example)
    macs = {name: sum(counts.values()) // 2 for name, counts in counter.get_flop_counts().items()}
    return Count(macs.get("Global", 0), parameters_of(model), bytes_of(model), tuple(_layers(model, macs)))


def _layers(model: torch.nn.Module, macs: Mapping[str, int]) -> Iterator[LayerCount]:
    """Every module less those within it; a Strassen-Tile layer is one layer, with what it is made of."""
    root, whole = type(model).__name__, None
    for name, module in model.named_modules():
        if whole is not None and name.startswith(whole):
            continue
        key = f"{root}.{name}" if name else root
        own, parameters = macs.get(key, 0), sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if isinstance(module, STLLinear | STLConv2d):
            whole, parameters = f"{name}." if name else "", parameters_of(module)
        elif own:
            own -= sum(_within(module, key, macs))
        if own or parameters:
            yield LayerCount(name, type(module).__name__, own, parameters)


def _within(module: torch.nn.Module, key: str, macs: Mapping[str, int]) -> Iterator[int]:
    """What the modules within one have computed; a list of modules is never called itself."""
    for name, child in module.named_children():
        inner = f"{key}.{name}"
        if inner in macs:
            yield macs[inner]
        else:
            yield from _within(child, inner, macs)


def parameters_of(model: torch.nn.Module) -> int:
    """The values of a model's parameters, each counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def bytes_of(model: torch.nn.Module) -> int:
    """The bytes of a model's parameters and buffers, each counted once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))


def layer_macs(tile: tuple[int, int, int], rank: int, rows: int, inner: int, columns: int, *, padded: bool = True) -> int:
    """The MACs of (rows, inner) times (inner, columns), as the module's docstring has them; cut tiles are rounded down in total."""
    n, m, p = tile
    if not padded:
        return rank * rows * (inner + columns) + rank * rows * inner * columns // (n * m * p)
    down, along, across = -(-rows // n), -(-inner // m), -(-columns // p)
    return rank * (n * m * down * along + down * along * across + n * p * down * across)


def _product(padded: bool) -> Callable[..., int]:
    def formula(
        matrix: Shape,
        encoder: Shape,
        weight: Shape,
        decoder: Shape,
        height: int,
        width: int,
        output_width: int,
        columns: int,
        *_: Any,
        **__: Any,
    ) -> int:
        batch, rows, inner = matrix
        return 2 * batch * layer_macs((height, width, output_width), encoder[0], rows, inner, columns, padded=padded)

    return formula


def _weight_gradient(padded: bool) -> Callable[..., int]:
    def formula(
        matrix: Shape, encoder: Shape, grad: Shape, decoder: Shape, height: int, width: int, output_width: int, *_: Any, **__: Any
    ) -> int:
        batch, rows, inner = matrix  # both factors are encoded, then multiplied: as many MACs as the product itself
        return 2 * batch * layer_macs((height, width, output_width), encoder[0], rows, inner, grad[2], padded=padded)

    return formula


def _encode(matrix: Shape, factor: Shape, height: int, width: int, *_: Any, out_shape: Any = None, **__: Any) -> int:
    batch, rows, columns = matrix
    return 2 * factor[0] * height * width * batch * -(-rows // height) * -(-columns // width)


def _decode(planes: Shape, factor: Shape, *_: Any, **__: Any) -> int:
    return 2 * planes[0] * planes[1] * planes[2] * factor[1]


def _correlate(matrix: Shape, planes: Shape, height: int, width: int, *_: Any, **__: Any) -> int:
    return 2 * planes[0] * planes[1] * planes[2] * height * width


def _multiply(left: Shape, right: Shape, *_: Any, **__: Any) -> int:
    return 2 * left[0] * left[1] * left[2] * right[2]


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    batch, heads, rows, width = query
    return 2 * batch * heads * rows * key[2] * (width + value[3])


def _attention_backward(grad: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    batch, heads, rows, width = query  # scores again, and the gradients of all three factors and of the scores
    return 2 * batch * heads * rows * key[2] * (3 * width + 2 * value[3])


_OPERATORS, _ATEN = torch.ops.stlsearch, torch.ops.aten
_FORMULAS: dict[Any, Callable[..., int]] = {
    _OPERATORS.product: _product(True),
    _OPERATORS.weight_gradient: _weight_gradient(True),
    _OPERATORS.encode: _encode,
    _OPERATORS.decode: _decode,
    _OPERATORS.correlate: _correlate,
    _OPERATORS.multiply: _multiply,
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
_CUT_FORMULAS: dict[Any, Callable[..., int]] = {_OPERATORS.product: _product(False), _OPERATORS.weight_gradient: _weight_gradient(False)}
for _operator, _formula in _FORMULAS.items():
    if _operator not in flop_registry:
        register_flop_formula(_operator)(_formula)
