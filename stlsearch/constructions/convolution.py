"""Cyclic convolution over Q with the least possible number of products: 2n minus the number of divisors of n."""

from __future__ import annotations

from fractions import Fraction

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.classical import toom
from stlsearch.constructions.rational import inverse
from stlsearch.exact import ExactMatrix
from stlsearch.targets import Target

Polynomial = list[int]  # lowest degree first, monic


def convolution(n: int) -> BilinearAlgorithm:
    """Cyclic convolution of length n by the Chinese remainder theorem, rank 2n - (number of divisors of n).

    x^n - 1 is the product of the cyclotomic polynomials Phi_d, d | n. Both inputs are reduced modulo each
    Phi_d, multiplied there by Toom-Cook with 2 deg(Phi_d) - 1 products, and put together again. Optimal
    over Q: Winograd, "On computing the discrete Fourier transform", Math. Comp. 32 (1978).

    Raises:
        InputError: n below 1, or so large that coefficients exceed 2^53.
    """
    target = Target.make("cyclic", {"n": n})
    moduli = [_cyclotomic(d) for d in range(1, n + 1) if n % d == 0]
    reductions = [_reduction(n, modulus) for modulus in moduli]
    # vec c times all reductions side by side gives every residue; its inverse puts c together from them.
    together = inverse([[value for reduction in reductions for value in reduction[k]] for k in range(n)])
    U: list[list[Fraction]] = []
    V: list[list[Fraction]] = []
    W: list[list[Fraction]] = []
    first = 0
    for modulus, reduction in zip(moduli, reductions, strict=True):
        degree = len(modulus) - 1
        product = toom(degree, degree)
        assert product.exact is not None
        encode = [list(column) for column in zip(*reduction, strict=True)]
        decode = _times(_reduction(2 * degree - 1, modulus), together[first : first + degree])
        for rows, factor, matrix in zip((U, V, W), product.exact, (encode, encode, decode), strict=True):
            rows += _times(_fractions(factor), matrix)
        first += degree
    provenance = {"construction": f"convolution({n})", "source": "Winograd 1978, Math. Comp. 32"}
    return BilinearAlgorithm.from_exact(target, U, V, W, provenance=provenance)


def _cyclotomic(d: int) -> Polynomial:
    """Phi_d: x^d - 1 divided by Phi_k for every proper divisor k of d."""
    result = [-1, *[0] * (d - 1), 1]
    for k in range(1, d):
        if d % k == 0:
            result = _quotient(result, _cyclotomic(k))
    return result


def _quotient(dividend: Polynomial, divisor: Polynomial) -> Polynomial:
    remainder, degree = list(dividend), len(divisor) - 1
    quotient = [0] * (len(dividend) - degree)
    for shift in reversed(range(len(quotient))):
        quotient[shift] = remainder[shift + degree]
        for k, value in enumerate(divisor):
            remainder[shift + k] -= quotient[shift] * value
    return quotient


def _reduction(count: int, modulus: Polynomial) -> list[list[int]]:
    """Row k holds the coefficients of x^k modulo a monic polynomial, for k < count."""
    degree = len(modulus) - 1
    row = [1, *[0] * (degree - 1)]
    rows = []
    for _ in range(count):
        rows.append(row)
        row = [low - row[-1] * value for low, value in zip([0, *row[:-1]], modulus[:-1], strict=True)]
    return rows


def _times(x: list[list], y: list[list]) -> list[list]:
    return [[sum(a * b for a, b in zip(row, column, strict=True)) for column in zip(*y, strict=True)] for row in x]


def _fractions(factor: ExactMatrix) -> list[list[Fraction]]:
    return [[Fraction(value, factor.denominator) for value in row] for row in factor.real.tolist()]
