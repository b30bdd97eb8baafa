"""How encoded weights start: from dense ones, or at random with the variance of a dense layer.

Let x be white and the dense weight B (K, N) independent of zero mean and variance s^2, so that an entry of x B has the variance
K s^2 E[x^2]. With I, J, L tiles and ||T||^2 = nmp, the same entry of ``decode(encode(x) E)`` has, on average over a tile's places,

    independent E, plane rho of variance s_rho^2:   (K/m) sum_rho |u_rho|^2 |w_rho|^2 s_rho^2 / (np) E[x^2]
    encoded E = V B of a random B:                   K s^2 ||[[U,V,W]]||^2 / ||T||^2 E[x^2]

An encoded value of B has the variance |v_rho|^2 s^2. Independent values of that size would give g K s^2 E[x^2], g the
amplification; so divide them by sqrt(g). The encoded random weight has to be divided by the root of ||[[U,V,W]]||^2/||T||^2, which
is 1 - e for a least-squares basis: what an inexact basis loses, the scale gives back.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stlsearch.errors import InputError
from stlsearch.nn.basis import Basis
from stlsearch.ops import Layout, encode_weights

STARTS = ("encoded", "independent")
"""Random starts of an encoded weight, see the module's docstring."""


def random_encoded(
    basis: Basis, inner: int, outputs: int, layout: Layout, start: str = "encoded", *, gain: float = 1 / math.sqrt(3)
) -> Tensor:
    """An encoded weight (r, ceil(K/m), ceil(N/p)) at random: its layer has the variance of a dense one of deviation gain/sqrt(K).

    The default gain is that of `torch.nn.Linear`. Drawn on the CPU in float32, so that a seed means the same everywhere.

    Args:
        start: ``"encoded"`` encodes a uniform dense weight, as `torch.nn.Linear` draws it, and rescales; ``"independent"`` draws
            the encoded values themselves, normal.

    Raises:
        InputError: an unknown start.
    """
    if start not in STARTS:
        raise InputError(f"unknown start {start!r}; valid: {', '.join(STARTS)}")
    _, m, p = basis.tile
    deviation = gain / math.sqrt(max(inner, 1))
    V = basis.V.detach().to("cpu", torch.float32)
    if start == "independent":
        sizes = V.norm(dim=1)[:, None, None] * deviation / math.sqrt(basis.amplification)
        return sizes * torch.randn(basis.rank, -(-inner // m), -(-outputs // p))
    bound = math.sqrt(3) * deviation
    dense = torch.empty(inner, outputs).uniform_(-bound, bound)
    bases = basis().to(torch.float32)
    planes = encode_weights(dense, type(bases)(bases.U.cpu(), V, bases.W.cpu(), bases.shape, bases.algorithm_id), layout=layout).tensor
    return planes.detach() / math.sqrt(basis.energy)
