"""How fast encoded weights should learn.

A tile B of a dense weight is encoded as E = V vec B, so gradients are related by G_B = V^T G_E. A step of gradient descent on the
dense weight, B - eta V^T G_E, moves its encoding to

    E - eta V V^T G_E:

gradient descent on E preconditioned by V V^T (r x r, of rank mp at most) *is* training the dense weight, momentum and weight decay
included, for they are linear (places that pad the weight stay zero, as they are no part of it). Training E itself, without that
matrix, moves in all r dimensions per tile instead of mp: that is the larger model of arXiv 2503.12211.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from stlsearch.errors import InputError
from stlsearch.nn.linear import STLLinear
from stlsearch.ops import encode_weights

ENCODED_RATE = 1.0
"""Of AdamW's learning rate, for encoded weights beside other parameters."""


def stl_layers(model: torch.nn.Module) -> Iterator[tuple[str, STLLinear]]:
    """Names and Strassen-Tile products of a model, those within convolutions too."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, STLLinear))


@torch.no_grad()
def precondition(model: torch.nn.Module) -> None:
    """Multiply the gradients of all encoded weights by V V^T, between ``backward()`` and a step of SGD.

    The step is then the one that SGD takes on the dense weights.
    """
    for _, layer in stl_layers(model):
        gradient, bases = layer.encoded.tensor.grad, layer.basis()
        if gradient is None:
            continue
        with torch.enable_grad():
            dense = torch.zeros(layer.in_features, layer.out_features, dtype=gradient.dtype, device=gradient.device, requires_grad=True)
            (of_dense,) = torch.autograd.grad(encode_weights(dense, bases, layout=layer.layout).tensor, dense, gradient)
        gradient.copy_(encode_weights(of_dense, bases, layout=layer.layout).tensor)


def parameter_groups(
    model: torch.nn.Module, rate: float, *, decay: float = 0.0, encoded: float = ENCODED_RATE, bases: float = 0.1
) -> list[dict]:
    """Groups for AdamW: encoded weights, learned bases, and all other parameters, each with its rate; only matrices decay.

    Args:
        rate: the learning rate of all other parameters.
        decay: weight decay of matrices; vectors (biases, norms) and bases have none.
        encoded, bases: the rates of encoded weights and of learned bases, as multiples of `rate`.

    Raises:
        InputError: a negative number.
    """
    if min(rate, decay, encoded, bases) < 0:
        raise InputError(f"rates and weight decay are not negative, unlike one of {rate}, {decay}, {encoded}, {bases}")
    layers = [layer for _, layer in stl_layers(model)]
    of_weights = {id(layer.encoded.tensor) for layer in layers}
    of_bases = {id(parameter) for layer in layers for parameter in layer.basis.parameters()}
    groups: dict[tuple[float, float], list] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        key = (rate * encoded, decay) if id(parameter) in of_weights else (rate * bases, 0.0) if id(parameter) in of_bases else None
        groups.setdefault(key or (rate, decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [{"params": parameters, "lr": lr, "weight_decay": wd} for (lr, wd), parameters in groups.items()]
