"""What an example shows of a model's layers: the sizes they multiply, and how well a basis does on their own inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from stlsearch.errors import InputError
from stlsearch.nn.layers import call_of, replacement


@dataclass
class Seen:
    """What one layer did.

    Attributes:
        calls: (samples, rows) of every call, see `stlsearch.nn.layers.call_of`.
        vectors: whether x was (B, K) in any of them: its rows are samples of the batch.
        lost, total: ||y_stl - y||^2 and ||y||^2, bias aside, over all calls; zero where nothing was measured.
    """

    calls: list[tuple[int, int]] = field(default_factory=list)
    vectors: bool = False
    lost: float = 0.0
    total: float = 0.0

    def matrices(self, rows: str) -> list[tuple[int, int]]:
        """(how many matrices, of how many rows) by call: tiles never join two of them. `rows` is as for `STLLinear`."""
        return [(down, samples) for samples, down in self.calls] if rows == "batch" and not self.vectors else self.calls

    @property
    def error(self) -> float | None:
        """||y_stl - y||^2/||y||^2, None where nothing was measured."""
        return self.lost / self.total if self.total else None


def run(model: torch.nn.Module, example: Any) -> Any:
    """The model of an example."""
    args, named = arguments(example)
    return model(*args, **named)


def arguments(example: Any) -> tuple[tuple, Mapping[str, Any]]:
    """What a model is called with for an example: a tensor, a tuple of arguments or a mapping of named ones.

    Raises:
        InputError: anything else.
    """
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), example
    if isinstance(example, tuple | list):
        return tuple(example), {}
    raise InputError(f"an example is a tensor, a tuple of arguments or a mapping of named ones, not {type(example).__name__}")


class _Masks(TorchFunctionMode):
    """Notes whether any attention is told to hide later tokens."""

    causal = False

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        named = kwargs or {}
        plain = func is torch.nn.functional.scaled_dot_product_attention and len(args) > 5 and args[5] is True
        self.causal |= plain or named.get("is_causal") is True
        return func(*args, **named)


def hides_later_tokens(model: torch.nn.Module, example: Any) -> bool:
    """Whether a model of an example calls any of PyTorch's attentions with ``is_causal``; masks made by hand are not noticed."""
    with evaluating(model), _Masks() as masks:
        run(model, example)
    return masks.causal


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """The model in evaluation and without gradients; afterwards each module is in the mode it was in.

    Every layer is called as a module: PyTorch's fused operator for whole encoder layers, which nobody sees into, is off.
    """
    modes = {module: module.training for module in model.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield model.eval()  # type: ignore[misc]
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, mode in modes.items():
            module.training = mode


def observe(
    model: torch.nn.Module, example: Any, layers: Mapping[torch.nn.Module, Any], rows: str = "tokens"
) -> dict[torch.nn.Module, Seen]:
    """One run of an example: what each of the layers did, in the order in which they were called first.

    Args:
        layers: dense layers, each with the algorithm whose error on the layer's own input is to be measured, or None.
        rows: as for `STLLinear`.
    """
    seen: dict[torch.nn.Module, Seen] = {}

    def hook(module: torch.nn.Module, inputs: tuple, named: dict, output: Tensor) -> None:
        x = inputs[0] if inputs else next(iter(named.values()))
        found = seen.setdefault(module, Seen())
        found.calls.append(call_of(module, x, output))
        found.vectors |= x.ndim == 2 and not isinstance(module, torch.nn.Conv2d)
        if (algorithm := layers[module]) is None or isinstance(output, FakeTensor) or output.is_meta:
            return
        difference = replacement(module, algorithm, rows=rows)(x).double() - output.double()
        found.lost += float(difference.square().sum())
        bias: Any = module.bias
        dense = output if bias is None else output - (bias if not isinstance(module, torch.nn.Conv2d) else bias[:, None, None])
        found.total += float(dense.double().square().sum())

    with evaluating(model), _hooked(layers, hook):
        run(model, example)
    return seen


@contextmanager
def _hooked(layers: Mapping[torch.nn.Module, Any], hook: Callable) -> Iterator[None]:
    handles = [module.register_forward_hook(hook, with_kwargs=True) for module in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
