"""A stand-in for a model whose class is not at hand: its tensors under their names, and its dense layers as modules that cannot be run.

`stlsearch.nn.plan` and `convert` treat it as any other; what it becomes has the names and tensors of the model itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from stlsearch.errors import InputError
from stlsearch.nn.layers import KINDS, Transposed, kind_of
from stlsearch.nn.observe import Seen

EMBEDDINGS = ("embed", "wte", "wpe", "position")


def guess_table(tensors: Mapping[str, Tensor]) -> dict[str, dict]:
    """The layers of a state that says nothing of itself: matrices called weight, (N, K) as `torch.nn.Linear` keeps them, not embeddings."""
    table = {}
    within = Counter(".".join(parts[:depth]) for parts in (name.split(".") for name in tensors) for depth in range(len(parts)))
    for name, tensor in tensors.items():
        owner, _, last = name.rpartition(".")
        bias = f"{owner}.bias" in tensors
        plain = within[owner] == 1 + bias and not any(word in name for word in EMBEDDINGS)  # no scales, no adapters beside the weight
        if last == "weight" and owner and plain and tensor.ndim == 2 and tensor.is_floating_point():
            outputs, inner = tensor.shape
            table[owner] = {"kind": "linear", "inner": inner, "outputs": outputs, "bias": bias, "aliases": [], "calls": None}
    return table


def build_skeleton(tensors: Mapping[str, Tensor], table: Mapping[str, dict]) -> torch.nn.Module:
    """The stand-in.

    Raises:
        InputError: a table that does not fit the tensors, or names that are no names.
    """
    root = torch.nn.Module()
    for name, entry in table.items():
        weight = tensors.get(f"{name}.weight")
        if weight is None:
            raise InputError(f"the table has a layer {name}, whose weight is not there")
        layer, aliases = _layer(name, entry, weight), entry.get("aliases", [])
        if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
            raise InputError(f"the aliases of {name} are names")
        for each in (name, *aliases):
            _place(root, each, layer)
    made: dict[int, torch.nn.Parameter] = {}  # a tensor under two names is one parameter
    for name, tensor in tensors.items():
        path, _, last = name.rpartition(".")
        parent = _module(root, path)
        known = parent._parameters.get(last)
        if kind_of(parent) and last not in ("weight", "bias"):
            raise InputError(f"{name} lies within a layer of the table, which has a weight and a bias only")
        if known is not None and known.shape != tensor.shape:
            raise InputError(f"{name} is {tuple(tensor.shape)}, its table has it {tuple(known.shape)}")
        if tensor.is_floating_point():
            parent._parameters[last] = made.setdefault(id(tensor), torch.nn.Parameter(tensor))
        else:
            parent._buffers[last] = tensor
    return root


def seen_of(table: Mapping[str, dict], batch: int, tokens: int) -> dict[str, Seen]:
    """What each layer of a table does: as it was noted, else a batch of so many tokens each.

    Raises:
        InputError: calls that are no pairs of numbers.
    """
    return {
        name: Seen(list(_calls(name, entry.get("calls"), batch, tokens)), vectors=entry.get("vectors") is True)
        for name, entry in table.items()
    }


def _calls(name: str, noted: object, batch: int, tokens: int) -> Iterator[tuple[int, int]]:
    if noted is None:
        yield batch, tokens
        return
    for call in noted if isinstance(noted, list) else [noted]:
        if not (isinstance(call, list) and len(call) == 2 and all(isinstance(size, int) and 0 <= size < 2**63 for size in call)):
            raise InputError(f"the calls of {name} are pairs of numbers, (samples, rows)")
        yield call[0], call[1]


def _layer(name: str, entry: object, weight: Tensor) -> torch.nn.Module:
    kind = entry.get("kind") if isinstance(entry, dict) else None
    if kind not in KINDS or not isinstance(entry, dict):
        raise InputError(f"the table's entry for {name} is of kind {kind!r:.40}; valid: {', '.join(KINDS)}")
    bias = entry.get("bias") is True
    with torch.device("meta"):  # no memory: the tensors come next
        if kind == "linear" and weight.ndim == 2:
            return torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias)
        if kind == "conv1d" and weight.ndim == 2:
            return Transposed(weight.shape[0], weight.shape[1], bias)
        if kind == "conv" and weight.ndim == 4:
            outputs, inner, height, width = weight.shape
            return torch.nn.Conv2d(inner, outputs, (height, width), bias=bias)
    raise InputError(f"{name}, a layer of kind {kind}, has a weight of shape {tuple(weight.shape)}")


def _place(root: torch.nn.Module, name: str, layer: torch.nn.Module) -> None:
    path, _, last = name.rpartition(".")
    parent = _module(root, path)
    if not last or kind_of(parent):
        raise InputError(f"{name!r:.80} is no name of a module")
    parent._modules[last] = layer


def _module(root: torch.nn.Module, path: str) -> torch.nn.Module:
    """The module at a path, made where it is not there yet."""
    for name in path.split(".") if path else ():
        if not name or (name not in root._modules and hasattr(root, name)) or kind_of(root):
            raise InputError(f"{path!r:.80} is no name of a module")
        root._modules.setdefault(name, torch.nn.Module())
        root = root._modules[name]  # type: ignore[assignment]
    return root
