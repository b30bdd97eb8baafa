"""Dataclasses of tensors that pass through torch.compile, torch.func and torch.utils.checkpoint like tuples of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from torch.utils import _pytree as pytree


def register(kind: type, *tensors: str) -> None:
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
