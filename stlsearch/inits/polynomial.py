"""Evaluation and interpolation: encoders evaluate an embedded polynomial product, the decoder interpolates.

Give every entry of A and of B an exponent: A(x) = sum_i a_i x^alpha(i), B(x) = sum_j b_j x^beta(j). One term is
the product A(x_t) B(x_t) at a point x_t, so the rows of U and V are monomials at x_t, and W reads C off the
values. With as many points as A B has coefficients this is the Toom-Cook product, Karatsuba's for two points
and infinity; a matrix product embeds by Kronecker substitution.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor

from stlsearch.inits.decoder import accurate, decoded
from stlsearch.inits.request import NotApplicable, Request, Start

MAX_DEGREE = 40  # beyond it real Vandermonde rows are numerically dependent


def polynomial(request: Request) -> Start:
    """Vandermonde encoders at r points of the real projective line, decoder by least squares.

    Toom 1963, Cook 1966, Karatsuba and Ofman 1962 for polynomials (exact from rank m+n-1, also folded: cyclic
    convolution from 2n-1, complex product from 3). A matrix product is embedded as in polynomial codes for
    distributed computing (Yu, Maddah-Ali and Avestimehr, arXiv 1801.07487):
    a_ij -> x^(alpha i + beta j), b_jk -> x^(beta (m-1-j) + gamma k), so that every product of c_ik has the
    exponent alpha i + beta (m-1) + gamma k. With alpha, beta, gamma = m, 1, nm nothing else has it, which takes
    nmp+m-1 points: no univariate embedding beats the standard algorithm exactly. Below that rank the exponents
    have to overlap. Half the restarts draw alpha, beta, gamma with at most r coefficients in the product; the
    others draw an exponent for every entry. Why it should help: the rows lie on a curve of low degree, so many
    terms share the same few sums of entries (as in Strassen's algorithm), which random rows never do.

    Points are r equidistant directions of the projective line, x = tan(pi (t + offset) / r), the
    best-conditioned choice: 0, 1, infinity, -1 for r = 4. Restarts differ in offset and exponents; the first
    has offset 0.

    Raises:
        NotApplicable: a target given by its tensor alone, which has no exponents.
    """
    target = request.problem.target
    if target.kind == "tensor":
        raise NotApplicable(f"init polynomial is for matrix, polynomial, cyclic and complex products, not for {target.slug}")
    encoders = [_encoders(request, index) for index in range(request.restarts)]
    problem = accurate(request.problem)
    U, V = (torch.stack([pair[mode] for pair in encoders]).to(problem.tensor) for mode in range(2))
    U, V, _ = problem.whiten((U, V, V))
    U, V, W = (factor.to(request.problem.tensor) for factor in decoded(problem, U, V, request.penalty))
    return Start((U, V, W), {"points": "equidistant directions"})


def _encoders(request: Request, index: int) -> tuple[Tensor, Tensor]:
    """U (r, a) and V (r, b) of one restart, in float64 on the CPU."""
    if request.problem.target.shape is None:
        exponents = torch.arange(request.problem.target.dims[0]), torch.arange(request.problem.target.dims[1])
    elif index % 2:
        exponents = kronecker_exponents(request.problem.target.shape, *_multipliers(request))
    else:
        exponents = _free_exponents(request)
    offset = torch.rand((), generator=request.generator, dtype=torch.float64) if index else 0.0
    directions = math.pi * (torch.arange(request.rank, dtype=torch.float64) + offset) / request.rank
    U, V = (_monomials(directions, powers) for powers in exponents)
    return U, V


def kronecker_exponents(shape: tuple[int, int, int], alpha: int, beta: int, gamma: int) -> tuple[Tensor, Tensor]:
    """Exponents (a,) and (b,) of a_ij -> x^(alpha i + beta j) and b_jk -> x^(beta (m-1-j) + gamma k), row-major.

    >>> [powers.tolist() for powers in kronecker_exponents((2, 2, 1), 2, 1, 1)]
    [[0, 1, 2, 3], [1, 0]]
    """
    i, j, k = (torch.arange(extent) for extent in shape)
    first = alpha * i[:, None] + beta * j
    second = beta * (shape[1] - 1 - j)[:, None] + gamma * k
    return first.flatten(), second.flatten()


def _multipliers(request: Request) -> tuple[int, int, int]:
    """alpha, beta, gamma whose product polynomial has at most r coefficients, and more than half as many if possible."""
    n, m, p = request.matmul_shape("polynomial")
    most = min(request.rank, MAX_DEGREE)
    # Extents of 1 leave a multiplier without effect; the bound keeps the list short for long tiles.
    ranges = [range(1, min(bound, MAX_DEGREE) + 1) for bound in (m, n, n * m)]
    found: dict[tuple[int, int, int], int] = {}
    for alpha, beta, gamma in product(*ranges):
        coefficients = alpha * (n - 1) + 2 * beta * (m - 1) + gamma * (p - 1) + 1
        if coefficients <= most:
            found[alpha, beta, gamma] = coefficients
    wide = [choice for choice, coefficients in found.items() if 2 * coefficients > most] or list(found) or [(1, 1, 1)]
    return wide[int(torch.randint(len(wide), (), generator=request.generator))]


def _free_exponents(request: Request) -> tuple[Tensor, Tensor]:
    """An exponent below d for every entry, d such that the product has between 2r/3 and r coefficients."""
    a, b, _ = request.problem.target.dims
    low, high = max(2, request.rank // 3), max(2, (request.rank + 1) // 2)
    count = int(torch.randint(min(low, MAX_DEGREE // 2), min(high, MAX_DEGREE // 2) + 1, (), generator=request.generator))
    first, second = (torch.randint(count, (extent,), generator=request.generator) for extent in (a, b))
    return first, second


def _monomials(directions: Tensor, exponents: Tensor) -> Tensor:
    """Homogeneous monomials cos^(d-e) sin^e at every direction, d the largest exponent: shape (r, entries)."""
    degree = int(exponents.max())
    cosine, sine = directions.cos(), directions.sin()
    return cosine[:, None] ** (degree - exponents) * sine[:, None] ** exponents
