"""How fast encoded weights should learn.

A tile B of a dense weight is encoded as E = V vec B, so gradients are related by G_B = V^T G_E. A step of gradient descent on the
dense weight, B - eta V^T G_E, moves its encoding to

    E - eta V V^T G_E:

gradient descent on E preconditioned by V V^T (r x r, of rank mp at most) *is* training the dense weight, momentum and weight decay
included, for they are linear (places that pad the weight stay zero, as they are no part of it). Training E itself, without that
matrix, moves in all r dimensions per tile instead of mp: that is the larger model of arXiv 2503.12211.

AdamW moves every value by about its rate eta. For white inputs and moves independent of each other that changes the variance of a dense
layer's output by K eta^2, and that of a Strassen-Tile layer by (K/m) sum_rho |u_rho|^2 |w_rho|^2 eta^2 / (np) on average over the places of
a tile. Both are equal at the *steady rate* eta c, c = sqrt(nmp / sum_rho |u_rho|^2 |w_rho|^2): about 0.12 for a rank-24 basis of g = 1000.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from stlsearch.errors import InputError
from stlsearch.nn.basis import Basis
from stlsearch.nn.linear import STLLinear
from stlsearch.ops import encode_weights

ENCODED_RATE, BASES_RATE = 1.0, 0.3
"""What AdamW's rates are best multiplied by: steady rates for encoded weights, the common rate for learned bases. Both were measured, to
about a factor of 3 (docs/claims.md)."""


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


def steady_rate(basis: Basis) -> float:
    """The multiple c of a rate at which AdamW's steps on an encoded weight move a layer's output as much as those on a dense one."""
    U, W = basis.U.detach().double(), basis.W.detach().double()
    return math.sqrt(math.prod(basis.tile) / float((U.square().sum(1) * W.square().sum(1)).sum()))


def parameter_groups(
    model: torch.nn.Module, rate: float, *, decay: float = 0.0, encoded: float = ENCODED_RATE, bases: float = BASES_RATE
) -> list[dict]:
    """Groups for AdamW: encoded weights, learned bases, and all other parameters, each with its rate; only matrices decay.

    AdamW's decay is a share of its rate, so that of encoded weights shrinks with it.

    Args:
        rate: the learning rate of all other parameters.
        decay: weight decay of matrices; vectors (biases, norms) and bases have none.
        encoded: the rates of encoded weights, as multiples of `rate` times each layer's `steady_rate`.
        bases: the rate of learned bases as a multiple of `rate`.

    Raises:
        InputError: a negative number.
    """
    if not all(value >= 0 for value in (rate, decay, encoded, bases)):  # nor NaN
        raise InputError(f"rates and weight decay are not negative, unlike one of {rate}, {decay}, {encoded}, {bases}")
    layers = [layer for _, layer in stl_layers(model)]
    of_weights = {id(layer.encoded.tensor): layer.basis for layer in layers}
    of_bases = {id(parameter) for layer in layers for parameter in layer.basis.parameters()}
    groups: dict[tuple[float, float], list] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if (basis := of_weights.get(id(parameter))) is not None:
            key = (rate * encoded * steady_rate(basis), decay)
        elif id(parameter) in of_bases:
            key = (rate * bases, 0.0)
        else:
            key = (rate, decay if parameter.ndim > 1 else 0.0)
        groups.setdefault(key, []).append(parameter)
    return [{"params": parameters, "lr": lr, "weight_decay": wd} for (lr, wd), parameters in groups.items()]
