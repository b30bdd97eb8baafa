"""Which layers of a network are products of matrices, and how one takes another's place.

A dense layer multiplies rows x (M, K) by a weight (K, N):

    "linear"  `torch.nn.Linear`, weight stored (N, K)
    "conv1d"  transformers' `Conv1D` of GPT-2, weight stored (K, N)
    "conv"    `torch.nn.Conv2d` of one group, rows being patches of K = C kh kw values

Each is known by its exact class: a subclass may read its weight, or call itself, in ways of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.nn.basis import Basis
from stlsearch.nn.conv import STLConv2d
from stlsearch.nn.linear import STLLinear
from stlsearch.ops import DTYPES

KINDS = ("linear", "conv1d", "conv")


class Transposed(torch.nn.Module):
    """A stand-in for `Conv1D` where transformers is not at hand: a weight (K, N) and a bias, which multiply nothing."""

    def __init__(self, inner: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(inner, outputs))
        self.register_parameter("bias", torch.nn.Parameter(torch.empty(outputs)) if bias else None)


def kind_of(module: torch.nn.Module) -> str | None:
    """One of `KINDS`, also for a subclass or a convolution that cannot be replaced (`obstacle` says why); None for anything else."""
    if isinstance(module, torch.nn.Linear):
        return "linear"
    if isinstance(module, torch.nn.Conv2d):
        return "conv"
    return "conv1d" if _is_conv1d(module) else None


def obstacle(module: torch.nn.Module) -> str:
    """Why a layer of a known kind cannot be replaced, whatever the algorithm; empty if it can."""
    if type(module) not in (torch.nn.Linear, torch.nn.Conv2d) and not _is_conv1d(module):
        return f"a subclass, {type(module).__name__}"
    if isinstance(module, torch.nn.Conv2d):
        if module.groups != 1:
            return f"a convolution of {module.groups} groups"
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            return f"padding {module.padding_mode if isinstance(module.padding, tuple) else module.padding}"
    if "forward" in vars(module):
        return "its forward was replaced"
    # A hook would be lost, and those of weight_norm or spectral_norm make the weight.
    if module._forward_pre_hooks or module._forward_hooks or module._backward_hooks or module._backward_pre_hooks:
        return "it has hooks"
    if not isinstance(module.weight, torch.nn.Parameter) or module.weight.dtype not in DTYPES.values():
        return f"a weight of dtype {module.weight.dtype}" if isinstance(module.weight, Tensor) else "no weight of its own"
    return ""


def matrix(module: torch.nn.Module) -> Tensor:
    """The weight (K, N) of a dense layer of a known kind, a view.

    Raises:
        InputError: the layer is a lazy one that has not been called yet.
    """
    weight: Tensor = module.weight  # type: ignore[assignment]
    if is_lazy(weight):
        raise InputError(f"a {type(module).__name__} has no size before its first call: run the model once")
    return weight.detach() if _is_conv1d(module) else weight.detach().flatten(1).T


def rows_of(module: torch.nn.Module, x: Tensor) -> Tensor:
    """What a dense layer of a known kind multiplies for an input x: x itself, or its patches (B, H'W', K)."""
    if not isinstance(module, torch.nn.Conv2d):
        return x
    # The words "same" and "valid" are of layers that are never replaced.
    return torch.nn.functional.unfold(x if x.ndim == 4 else x[None], module.kernel_size, module.dilation, module.padding, module.stride).mT  # type: ignore[arg-type]


def call_of(module: torch.nn.Module, x: Tensor, output: Tensor) -> tuple[int, int]:
    """(samples, rows) of one call: how many matrices of how many rows; x (B, K) is one matrix of B rows."""
    if isinstance(module, torch.nn.Conv2d):
        return (output.shape[0] if output.ndim == 4 else 1), output.shape[-1] * output.shape[-2]
    return (1, 1) if x.ndim == 1 else (x.shape[:-2].numel(), x.shape[-2])


def replacement(module: torch.nn.Module, algorithm: BilinearAlgorithm | Basis, **options: Any) -> STLLinear | STLConv2d:
    """A Strassen-Tile layer with the encoded weight of a dense one, in its mode, on its device and in its dtype; frozen where it is.

    The state of the global random generator is left alone.
    """
    dense: Any = module
    # A layer begins at random, before it is given a weight.
    with torch.random.fork_rng(devices=[]):
        if isinstance(module, torch.nn.Conv2d):
            layer: STLLinear | STLConv2d = STLConv2d.from_conv(module, algorithm, **options)
        else:
            weight = matrix(module)
            factory: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype, "bias": dense.bias is not None}
            layer = STLLinear(weight.shape[0], weight.shape[1], algorithm, **factory | options).load_dense(weight, dense.bias)
    product = layer.linear if isinstance(layer, STLConv2d) else layer
    product.encoded.tensor.requires_grad_(dense.weight.requires_grad)
    if product.bias is not None:
        product.bias.requires_grad_(dense.bias.requires_grad)
    return layer.train(module.training)


def names_of(model: torch.nn.Module) -> dict[torch.nn.Module, list[str]]:
    """Every module with all its names, for a module may have several."""
    names: dict[torch.nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return names


def swap(model: torch.nn.Module, names: list[str], layer: torch.nn.Module) -> None:
    """Put a layer in the place of the module that has these names.

    PyTorch's encoder layers, which in evaluation pass the weights of their linear layers to one fused operator, are told to
    call them instead.
    """
    for name in names:
        path, _, last = name.rpartition(".")
        parent = model.get_submodule(path)
        parent._modules[last] = layer
        if isinstance(parent, torch.nn.TransformerEncoderLayer):
            parent.activation_relu_or_gelu = 0
            for above in model.modules():  # its encoder would pass on nested tensors, which are for the fused operator only
                if isinstance(above, torch.nn.TransformerEncoder) and any(each is parent for each in above.layers):
                    above.use_nested_tensor = False


def _is_conv1d(module: torch.nn.Module) -> bool:
    named = type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"
    return named or isinstance(module, Transposed)
