"""Each stage of the operator timed alone, to say where its time goes beyond what the roofline allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from stlsearch.evaluate.timing import time_alone
from stlsearch.ops import Bases, EncodedWeight, decode, encode_activations, multiply


def time_stages(
    x: Tensor, encoded: EncodedWeight, bases: Bases, direction: str = "forward", *, time_limit: float = 2.0
) -> dict[str, float]:
    """Seconds of each stage of a pass, the fastest of some calls, named as in `stlsearch.evaluate.cost.Cost.work`.

    The stages of the gradients are those that autograd runs. Stages find their inputs in whatever cache the call before left
    them in, so their sum is near the time of the operator, not equal to it.

    Args:
        x: (M, K); whether it requires gradients does not matter.
        time_limit: seconds per stage after which no further call begins.
    """

    def seconds(function: Callable[[], object]) -> float:
        return time_alone(function, device=x.device, time_limit=time_limit)

    rows, columns = x.shape[0], encoded.shape[1]
    with torch.inference_mode():
        planes = encode_activations(x, bases, layout=encoded.layout)
        products = multiply(planes, encoded)
        found = {
            "encode_activations": seconds(lambda: encode_activations(x, bases, layout=encoded.layout)),
            "multiply": seconds(lambda: multiply(planes, encoded)),
            "decode": seconds(lambda: decode(products, bases, rows, columns, layout=encoded.layout)),
        }
    if direction == "forward":
        return found

    # The same stages once more with a graph, cut apart at every intermediate so that each gradient can be taken alone: an operator
    # computes those of all inputs that require one.
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        constant = replace(encoded, tensor=encoded.tensor.detach())
        encoded = replace(encoded, tensor=encoded.tensor.detach().requires_grad_())
        planes = encode_activations(x, bases, layout=encoded.layout)
        cut_planes = planes.detach().requires_grad_()
        by_activations, by_weights = multiply(cut_planes, constant), multiply(planes.detach(), encoded)
        cut_products = by_activations.detach().requires_grad_()
        result = decode(cut_products, bases, rows, columns, layout=encoded.layout)
    gradient = torch.ones_like(result)
    encoded_gradient = torch.ones_like(products)
    planes_gradient = torch.ones_like(planes)

    def timed_gradient(of: Tensor, by: Tensor, gradient: Tensor) -> float:
        return seconds(lambda: torch.autograd.grad(of, by, gradient, retain_graph=True))

    return found | {
        "encode_gradient": timed_gradient(result, cut_products, gradient),
        "multiply_activations": timed_gradient(by_activations, cut_planes, encoded_gradient),
        "multiply_weights": timed_gradient(by_weights, encoded.tensor, encoded_gradient),
        "decode_gradient": timed_gradient(planes, x, planes_gradient),
    }
