"""How a Strassen-Tile layer is made, as plain JSON values: what its tensors alone do not say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.nn.basis import LEARNABLE, Basis
from stlsearch.nn.conv import STLConv2d
from stlsearch.nn.layers import kind_of, matrix, obstacle
from stlsearch.nn.linear import STLLinear
from stlsearch.ops import Layout
from stlsearch.registry import codec
from stlsearch.registry.text import dumps

Layer = STLLinear | STLConv2d


def layers_of(model: torch.nn.Module) -> dict[str, Layer]:
    """Strassen-Tile layers by their first names; the product within a convolution is none of its own."""
    found: dict[str, Layer] = {}
    for name, module in model.named_modules():
        within = isinstance(found.get(name.removesuffix(".linear")), STLConv2d)
        if isinstance(module, STLConv2d) or (isinstance(module, STLLinear) and not within):
            found[name] = module
    return found


def describe(model: torch.nn.Module) -> tuple[dict[str, dict], dict[str, object]]:
    """The Strassen-Tile layers of a model by name, and their algorithms by id."""
    layers: dict[str, dict] = {}
    bases: dict[str, object] = {}
    first: dict[Basis, str] = {}
    for name, layer in layers_of(model).items():
        product = layer.linear if isinstance(layer, STLConv2d) else layer
        basis, layout = product.basis, product.layout
        bases[basis.algorithm_id] = codec.encode(basis.algorithm)
        layers[name] = {
            "kind": "conv" if isinstance(layer, STLConv2d) else "linear",
            "inner": product.in_features,
            "outputs": product.out_features,
            "bias": product.bias is not None,
            "rows": product.rows,
            "group_axis": product.group_axis,
            "layout": [layout.rows, layout.channels, layout.outputs],
            "ordered": product.encoded.channels is not None,
            "causal_safe": product.causal_safe,
            "learn": basis.learn,
            "basis": basis.algorithm_id,
            "basis_of": first.setdefault(basis, name),
        }
    return layers, bases


def check_same(name: str, entry: object, own: Mapping[str, object]) -> None:
    """Raise `InputError` unless a layer that a model has already computes what its description in a file says."""
    for key in ("kind", "inner", "outputs", "bias", "rows", "group_axis", "layout", "basis"):
        if not isinstance(entry, dict) or entry.get(key) != own[key]:
            saved = entry.get(key) if isinstance(entry, dict) else entry
            raise InputError(f"{name} is saved with {key} {saved!r:.80}, the model's has {own[key]!r:.80}")


class Builder:
    """Makes layers from their descriptions; those that shared a basis share it again.

    Args:
        layers, bases: as `describe` gives them.
        tensors: the state they belong to, whose shapes have to agree.

    Raises:
        InputError: an algorithm that is damaged or has another id than it is called by.
    """

    def __init__(self, layers: Mapping[str, dict], bases: Mapping[str, object], tensors: Mapping[str, Tensor]) -> None:
        self.layers, self.tensors = layers, tensors
        self.algorithms: dict[str, BilinearAlgorithm] = {}
        self.made: dict[str, Basis] = {}
        for key, document in bases.items():
            algorithm = codec.loads(dumps(document))
            if algorithm.id != key:
                raise InputError(f"the basis called {key:.8} has the id {algorithm.id:.8}")
            self.algorithms[key] = algorithm

    def build(self, name: str, module: torch.nn.Module) -> Layer:
        """The layer that takes the place of a dense module: in its mode and dtype, on its device, with values still to be loaded.

        Raises:
            InputError: the module is of another kind or size, or the description or its tensors do not fit together.
        """
        entry = self.layers[name]
        if kind_of(module) and (reason := obstacle(module)):
            raise InputError(f"{name}: the model's layer cannot be replaced: {reason}")
        if not isinstance(entry, dict):
            raise InputError(f"{name}: its description is no JSON object")
        kind = {"conv1d": "linear"}.get(known := kind_of(module) or "", known)
        sizes = tuple(matrix(module).shape) if known else ()
        wanted = (entry.get("kind"), (entry.get("inner"), entry.get("outputs")), entry.get("bias"))
        bias = getattr(module, "bias", None) is not None
        if (kind, sizes, bias) != wanted:
            raise InputError(
                f"{name} is saved as {wanted[0]} {_size(*wanted[1])} {_bias(wanted[2])}, "
                f"the model has {f'{kind} {_size(*sizes)} {_bias(bias)}' if kind else type(module).__name__} there"
            )
        weight: Any = module.weight
        basis = self._basis(name, entry, weight)
        inner, outputs = sizes
        _, m, p = basis.tile
        planes, prefix = (basis.rank, -(-inner // m), -(-outputs // p)), "linear." if kind == "conv" else ""
        stored = self.tensors.get(f"{name}.{prefix}encoded.tensor")
        if stored is None or tuple(stored.shape) != planes:
            raise InputError(f"{name}: its encoded weight has to be {planes}, not {'missing' if stored is None else tuple(stored.shape)}")
        options = self._options(name, entry, inner)
        with torch.random.fork_rng(devices=[]):
            if isinstance(module, torch.nn.Conv2d):
                sizes_of: Any = {key: getattr(module, key) for key in ("stride", "padding", "dilation")}
                kernel: Any = module.kernel_size
                layer: Layer = STLConv2d(module.in_channels, outputs, kernel, basis, bias=bias, **sizes_of, **options)
            else:
                layer = STLLinear(inner, outputs, basis, bias=bias, **options)
        product = layer.linear if isinstance(layer, STLConv2d) else layer
        product.encoded.tensor.requires_grad_(weight.requires_grad)
        for part, state in ((product.encoded, f"{prefix}encoded"), (basis, f"{prefix}basis")):
            if (extra := self.tensors.get(f"{name}.{state}._extra_state")) is not None:
                part.set_extra_state(extra)  # that is: check that it belongs to the same algorithm
        return layer.train(module.training)

    def _options(self, name: str, entry: dict, inner: int) -> dict[str, Any]:
        layout, axis = entry.get("layout"), entry.get("group_axis")
        if not (isinstance(layout, list) and len(layout) == 3 and (axis is None or type(axis) is int)):
            raise InputError(f"{name}: its layout is three words and its group_axis a number or null")
        order = torch.arange(inner) if entry.get("ordered") is True else None  # the real one comes with the tensors
        options = {"rows": str(entry.get("rows")), "group_axis": axis, "causal_safe": entry.get("causal_safe") is True, "channels": order}
        return options | {"layout": Layout(*layout)}

    def _basis(self, name: str, entry: dict, weight: Tensor) -> Basis:
        shared, key, learn = entry.get("basis_of"), entry.get("basis"), entry.get("learn")
        if not isinstance(shared, str) or not isinstance(key, str) or key not in self.algorithms or learn not in LEARNABLE:
            raise InputError(f"{name}: the file holds no basis of its id")
        if shared not in self.made:
            self.made[shared] = Basis(self.algorithms[key], learn=learn, dtype=weight.dtype, device=weight.device)
        basis = self.made[shared]
        if basis.algorithm_id != key or basis.learn != learn:
            raise InputError(f"{name}: it is to share the basis of {shared}, which is another one")
        return basis


def _size(inner: object, outputs: object) -> str:
    return f"{inner} x {outputs}"


def _bias(bias: object) -> str:
    return "with a bias" if bias else "without bias"
