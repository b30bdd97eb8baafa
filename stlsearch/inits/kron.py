"""Kronecker products of optimal truncated bases of a smaller tile, terms dropped.

<n1 n2, m1 m2, p1 p2> is the Kronecker product of <n1,m1,p1> and <n2,m2,p2>, so approximations of the two
with retained fractions 1 - e1 and 1 - e2 multiply to one with e = 1 - (1 - e1)(1 - e2) at rank r1 r2. The
optimal truncated <2,2,2> bases keep much at few products (rank 5: e = .25, rank 6: .125), so r = 5 x 5 already keeps
9/16 of <4,4,4>.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from stlsearch.inits.request import NotApplicable, Request, Start
from stlsearch.solvers import als, lm
from stlsearch.solvers.deflation import deflate, spread_temperatures
from stlsearch.solvers.problem import Factors, Problem, take
from stlsearch.targets import Target

PAIRS = 4  # rank pairs tried, best predicted error first
SMALL_RESTARTS = 32


def kron(request: Request) -> Start:
    """Products of the best bases of two smaller tiles with r1 r2 >= r, deflated to r.

    Restarts cycle through the rank pairs of least predicted error and through drop temperatures.

    Raises:
        NotApplicable: the tile has no factorisation into two smaller tiles.
    """
    left, right = split_shape(request.matmul_shape("kron"))
    bases = {shape: _small_bases(Target.matmul(*shape), request) for shape in dict.fromkeys((left, right))}
    pairs = _best_pairs(bases[left], bases[right], request.rank)
    if not pairs:
        raise NotApplicable(f"init kron has no pair of smaller bases with at least {request.rank} products")
    counts = [len(range(index, request.restarts, len(pairs))) for index in range(len(pairs))]
    batches = []
    for (r1, r2), count in zip(pairs, counts, strict=True):
        if count == 0:
            continue
        start = request.problem.whiten(product_basis(bases[left][r1][1], bases[right][r2][1], left, right))
        U, V, W = (factor.expand(count, -1, -1).clone() for factor in start)
        batches.append(
            deflate(
                request.problem,
                (U, V, W),
                request.rank,
                penalty=request.penalty,
                temperature=spread_temperatures(count),
                generator=request.generator,
                monitor=request.monitor,
            )
        )
    U, V, W = (torch.cat([batch[mode] for batch in batches]) for mode in range(3))
    used = [f"{r1}*{r2}" for (r1, r2), count in zip(pairs, counts, strict=True) if count]
    return Start((U, V, W), {"tiles": ["x".join(map(str, left)), "x".join(map(str, right))], "rank_pairs": used})


def split_shape(shape: tuple[int, int, int]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Two smaller tiles whose Kronecker product is <n,m,p>: as balanced as the factors of n, m, p allow.

    >>> split_shape((4, 4, 6))
    ((2, 2, 2), (2, 2, 3))

    Raises:
        NotApplicable: one of the two would be <1,1,1> or hold at most one extent above 1.
    """
    left = tuple(max(d for d in range(1, extent + 1) if extent % d == 0 and d * d <= extent) for extent in shape)
    right = tuple(extent // d for extent, d in zip(shape, left, strict=True))
    if sum(extent > 1 for extent in left) < 2 or sum(extent > 1 for extent in right) < 2:
        tile = "x".join(map(str, shape))
        raise NotApplicable(f"init kron needs a product of two smaller tiles, two extents above 1 in each (as 4x4x4 is), not {tile}")
    return (left[0], left[1], left[2]), (right[0], right[1], right[2])


def product_basis(left: Factors, right: Factors, shape1: tuple[int, int, int], shape2: tuple[int, int, int]) -> Factors:
    """The Kronecker product of two bases: factors (r1 r2, ...) with row-major vec on the composed tile."""
    sides = ((0, 1), (1, 2), (0, 2))
    U, V, W = (
        _interleave(a, b, [shape1[k] for k in side], [shape2[k] for k in side]) for a, b, side in zip(left, right, sides, strict=True)
    )
    return U, V, W


def _interleave(a: Tensor, b: Tensor, outer: list[int], inner: list[int]) -> Tensor:
    blocks = torch.einsum("rij,skl->rsikjl", a.reshape(-1, *outer), b.reshape(-1, *inner))
    return blocks.reshape(len(a) * len(b), outer[0] * inner[0] * outer[1] * inner[1])


def _small_bases(target: Target, request: Request) -> dict[int, tuple[float, Factors]]:
    """By rank: (e, factors (r, ...)) of the best basis of a small tile at the request's penalty."""
    problem = Problem.of(target, request.problem.tensor.device, request.problem.tensor.dtype)
    bases = {}
    for rank in range(1, target.trivial_rank + 1):
        U, V, W = (request.normal(SMALL_RESTARTS, rank, extent) for extent in target.dims)
        factors = als.solve(problem, (U, V, W), penalty=request.penalty, iterations=300, monitor=request.monitor)
        best = take(factors, problem.objective(factors, request.penalty).argsort()[:4])
        best = lm.solve(problem, best, penalty=request.penalty, iterations=40, monitor=request.monitor)
        winner = problem.objective(best, request.penalty).argmin()
        error = float(problem.error(best)[winner])
        bases[rank] = (error, take(best, winner))
        if error < 10 * request.penalty:  # exact but for the penalty: more terms cannot help
            break
    return bases


def _best_pairs(left: dict, right: dict, rank: int) -> list[tuple[int, int]]:
    """Rank pairs with r1 r2 >= rank by predicted error; dropping d of r1 r2 terms keeps about (1 - d / r1 r2)."""

    def predicted(pair: tuple[int, int]) -> float:
        r1, r2 = pair
        return 1 - (1 - left[r1][0]) * (1 - right[r2][0]) * rank / (r1 * r2)

    pairs = [pair for pair in product(left, right) if pair[0] * pair[1] >= rank]
    return sorted(pairs, key=lambda pair: (predicted(pair), pair))[:PAIRS]
