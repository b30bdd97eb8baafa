"""Group algebras: encoders are characters of a finite abelian group, the decoder is a least-squares inverse transform.

Place the entries of A and B on elements of a group G; multiplying in the group algebra R[G] convolves them, and
the Fourier transform turns the convolution into one product per character: 1 real product for a real
character, 3 for a pair of complex conjugates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from stlsearch.inits.decoder import accurate, decoded
from stlsearch.inits.request import NotApplicable, Request, Start
from stlsearch.solvers.deflation import deflate
from stlsearch.solvers.problem import Factors

Orders = tuple[int, ...]

MAX_GROUPS = 8  # of different groups in one batch of starts


def fourier(request: Request) -> Start:
    """Real Fourier encoders of an abelian group of about r real products, decoder by least squares.

    Cohn and Umans, "A group-theoretic approach to fast matrix multiplication" (FOCS 2003, arXiv math/0307321):
    place a_ij on f_i - g_j and b_jk on g_j - h_k, then c_ik lies on f_i - h_k; it is read off alone if the index
    sets satisfy the triple product property: f_i - f_i' + g_j - g_j' + h_k - h_k' = 0 only for equal indices. An
    abelian group that has it holds at least nmp elements, so below rank nmp the maps collide and the decoder
    separates what it can. Why it should help: every c_ik starts with its whole inner sum aligned in the rows, and
    characters are orthogonal, so the start is well conditioned and amplifies little.

    Polynomial products lie in Z_(m+n-1) and cyclic convolutions of length n in Z_n, exact from the rank of the
    group: s + 3 (|G| - s) / 2 with s real characters, which for cyclic convolution is the least possible over R
    (Winograd, Math. Systems Theory 10, 1977). Restarts differ in the group (matmul), the maps f, g, h and the
    phases. A group of more than r products loses those of least marginal loss; one of fewer is completed by random terms.

    Raises:
        NotApplicable: a target that is neither a matrix, a polynomial nor a cyclic product.
    """
    target = request.problem.target
    if target.kind == "matmul":
        groups = candidate_groups(request.rank)
    elif target.kind in ("polymul", "cyclic"):
        groups = [(target.dims[2],)]
    else:
        raise NotApplicable(f"init fourier is for matrix, polynomial and cyclic products, not for {target.slug}")
    order = torch.randperm(len(groups), generator=request.generator)[: min(MAX_GROUPS, request.restarts)].tolist()
    batches = []
    for place, chosen in enumerate(order):
        count = len(range(place, request.restarts, len(order)))
        batches.append(_group_starts(request, groups[chosen], count))
    U, V, W = (torch.cat([batch[mode] for batch in batches]).to(request.problem.tensor) for mode in range(3))
    return Start((U, V, W), {"groups": ["x".join(f"Z{n}" for n in groups[chosen]) for chosen in order]})


def real_products(orders: Orders) -> int:
    """Real products of multiplying in R[Z_n1 x Z_n2 x ...]: 1 per real character, 3 per conjugate pair.

    >>> real_products((5,)), real_products((2, 2))
    (7, 4)
    """
    size = math.prod(orders)
    real = math.prod(2 - n % 2 for n in orders)
    return real + 3 * (size - real) // 2


def candidate_groups(rank: int) -> list[Orders]:
    """Z_k, Z_j x Z_k and Z_i x Z_j x Z_k of at least `rank` real products, at most a quarter more (or the least Z_k)."""
    most = max(rank + 2, rank * 5 // 4)  # some Z_k has at most rank + 2
    found: list[Orders] = [(k,) for k in range(1, most + 1)]
    found += [(j, k) for j in range(2, most + 1) for k in range(j, most // j + 1)]
    found += [(i, j, k) for i in range(2, 5) for j in range(i, most + 1) for k in range(j, most // (i * j) + 1)]
    return [orders for orders in found if rank <= real_products(orders) <= most]


def _group_starts(request: Request, orders: Orders, count: int) -> Factors:
    """`count` starts from one group, shapes (count, r, ...), in float64 on the problem's device."""
    problem = accurate(request.problem)
    left, right = _placement(request, orders, count)
    U, V = _characters(request, orders, left, right)
    if U.shape[1] < request.rank:
        spare = request.rank - U.shape[1]
        U, V = (
            torch.cat([factor, torch.randn(count, spare, factor.shape[2], generator=request.generator, dtype=torch.float64)], 1)
            for factor in (U, V)
        )
    U, V, _ = problem.whiten((U.to(problem.tensor), V.to(problem.tensor), V))
    factors = decoded(problem, U, V, request.penalty)
    while factors[0].shape[1] > request.rank:
        U, V, _ = deflate(problem, factors, factors[0].shape[1] - 1, penalty=request.penalty, sweeps=0, monitor=request.monitor)
        factors = decoded(problem, U, V, request.penalty)
    return factors


def _placement(request: Request, orders: Orders, count: int) -> tuple[Tensor, Tensor]:
    """The group elements of the entries of A and B, shapes (count, a, len(orders)) and (count, b, len(orders))."""
    target = request.problem.target
    if target.shape is None:
        left, right = (torch.arange(extent).expand(count, -1).unsqueeze(-1) for extent in target.dims[:2])
        return left, right
    f, g, h = (torch.stack([torch.randint(n, (count, extent), generator=request.generator) for n in orders], -1) for extent in target.shape)
    return (f[:, :, None] - g[:, None]).flatten(1, 2), (g[:, :, None] - h[:, None]).flatten(1, 2)


def _characters(request: Request, orders: Orders, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Real encoders U (B, R, a), V (B, R, b): Re(e^(i phase) chi) for one of every pair of conjugate characters chi.

    Two complex numbers z, z' multiply by the three real products Re(e^(i phi) z) Re(e^(i psi) z') at phases
    advancing together by 60 degrees: Karatsuba's product in its best-conditioned form, for any phi and psi.
    """
    U: list[Tensor] = []
    V: list[Tensor] = []
    for frequency in product(*(range(n) for n in orders)):
        conjugate = tuple(-value % n for value, n in zip(frequency, orders, strict=True))
        if frequency > conjugate:
            continue
        start = torch.zeros(2, len(left), 1, dtype=torch.float64)
        steps: Sequence[float] = (0.0,)
        if frequency != conjugate:
            start = math.pi * torch.rand(start.shape, generator=request.generator, dtype=torch.float64)
            steps = (0.0, math.pi / 3, 2 * math.pi / 3)
        for encoders, places, phase in ((U, left, start[0]), (V, right, start[1])):
            turns = sum(value / n * places[..., axis].double() for axis, (value, n) in enumerate(zip(frequency, orders, strict=True)))
            encoders.extend(torch.cos(2 * math.pi * turns + phase + step) for step in steps)
    return torch.stack(U, 1), torch.stack(V, 1)
