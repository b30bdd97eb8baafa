"""Matrices of Laurent polynomials in eps with rational coefficients, and the exact expansion of [[U,V,W]] in eps.

M(eps) = (sum_q eps^q N_q)/D with integer matrices N_q and one positive D. Nothing here rounds: products of entries are
Python integers wherever int64 could overflow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd, lcm

import numpy as np

from stlsearch.errors import InputError
from stlsearch.exact import MAX_INTEGER, ExactMatrix

MAX_EXPONENT = 64  # |q|; the Kronecker product of three families of border rank stays within
MAX_OPERATIONS = 2**34  # integer multiplications of one expansion
MAX_OPERATIONS_BIG = 2**27  # beyond 62 bits they are Python integers, some hundred times slower
MAX_HELD = 2**26  # numbers held by one expansion


@dataclass(frozen=True, eq=False)
class LaurentMatrix:
    """(sum_q eps^exponents[q] numerators[q])/denominator in lowest terms, without zero matrices. Make one with `make`.

    Attributes:
        exponents: ascending; (0,) for the zero matrix.
        numerators: int64, shape (len(exponents), r, d), read-only.
        denominator: positive.
    """

    exponents: tuple[int, ...]
    numerators: np.ndarray
    denominator: int

    @staticmethod
    def make(terms: Mapping[int, object], denominator: int = 1) -> LaurentMatrix:
        """From {exponent: integer matrix} over one denominator: checked, reduced and frozen.

        Raises:
            InputError: exponents beyond `MAX_EXPONENT`, shapes that differ, integers beyond 2^53, a denominator below 1.
        """
        if not terms:
            raise InputError("a factor needs at least one power of eps")
        for exponent in terms:
            if type(exponent) is not int or abs(exponent) > MAX_EXPONENT:
                raise InputError(f"exponents of eps are integers from -{MAX_EXPONENT} to {MAX_EXPONENT}, not {exponent!r:.40}")
        checked = {exponent: ExactMatrix.make(terms[exponent]).real for exponent in sorted(terms)}
        if len({matrix.shape for matrix in checked.values()}) > 1:
            raise InputError("the matrices of the powers of eps must have one shape")
        if type(denominator) is not int or not 1 <= denominator <= MAX_INTEGER:
            raise InputError(f"a denominator must be an integer from 1 to 2^53, not {denominator!r:.40}")
        common = gcd(denominator, *(int(np.gcd.reduce(matrix, axis=None)) for matrix in checked.values()))
        kept = {exponent: matrix // common for exponent, matrix in checked.items() if matrix.any()}
        if not kept:
            kept, denominator, common = {0: next(iter(checked.values()))}, 1, 1
        numerators = np.stack(list(kept.values()))
        numerators.setflags(write=False)
        return LaurentMatrix(tuple(kept), numerators, denominator // common)

    @staticmethod
    def constant(matrix: ExactMatrix) -> LaurentMatrix:
        """A matrix without eps.

        Raises:
            InputError: it has an imaginary part.
        """
        if matrix.imaginary is not None:
            raise InputError("a family in eps has rational coefficients, not complex ones")
        return LaurentMatrix.make({0: matrix.real}, matrix.denominator)

    @property
    def shape(self) -> tuple[int, int]:
        """(r, d)."""
        return self.numerators.shape[1], self.numerators.shape[2]

    @property
    def terms(self) -> dict[int, np.ndarray]:
        """{exponent: numerators}."""
        return dict(zip(self.exponents, self.numerators, strict=True))

    def at(self, eps: float) -> np.ndarray:
        """The matrix at one eps other than 0, float64, shape (r, d)."""
        powers = np.float64(eps) ** np.array(self.exponents, dtype=np.float64)
        return np.tensordot(powers, self.numerators / self.denominator, axes=1)

    def square_norms(self) -> dict[int, np.ndarray]:
        """|row(eps)|^2 as polynomials: {exponent: its coefficient for every row, shape (r,)}."""
        values = self.numerators / self.denominator
        result: dict[int, np.ndarray] = {}
        for p, first in zip(self.exponents, values, strict=True):
            for q, second in zip(self.exponents, values, strict=True):
                result[p + q] = result.get(p + q, 0) + (first * second).sum(axis=1)
        return result

    def columns(self, order: Sequence[int] | np.ndarray) -> LaurentMatrix:
        """The chosen columns, in that order."""
        return LaurentMatrix.make({exponent: matrix[:, list(order)] for exponent, matrix in self.terms.items()}, self.denominator)

    def times(self, integers: np.ndarray) -> LaurentMatrix:
        """The product with an integer matrix (d, d')."""
        right = np.asarray(integers).astype(object)
        return LaurentMatrix.make({exponent: matrix.astype(object) @ right for exponent, matrix in self.terms.items()}, self.denominator)

    def kron(self, other: LaurentMatrix) -> LaurentMatrix:
        """Kronecker product: shape (r1 r2, d1 d2), exponents added."""
        result: dict[int, np.ndarray] = {}
        for p, first in self.terms.items():
            for q, second in other.terms.items():
                result[p + q] = result.get(p + q, 0) + np.kron(first.astype(object), second.astype(object))
        return LaurentMatrix.make(result, self.denominator * other.denominator)

    def stack(self, other: LaurentMatrix) -> LaurentMatrix:
        """The rows of both, one after the other."""
        common = lcm(self.denominator, other.denominator)
        rows = []
        for part, zeros in ((self, np.zeros(self.shape, object)), (other, np.zeros(other.shape, object))):
            scaled = {exponent: matrix.astype(object) * (common // part.denominator) for exponent, matrix in part.terms.items()}
            rows.append((scaled, zeros))
        exponents = {*self.exponents, *other.exponents}
        joined = {q: np.concatenate([scaled.get(q, zeros) for scaled, zeros in rows]) for q in exponents}
        return LaurentMatrix.make(joined, common)


LaurentFactors = tuple[LaurentMatrix, LaurentMatrix, LaurentMatrix]


def expand(factors: LaurentFactors) -> tuple[dict[int, np.ndarray], int]:
    """[[U,V,W]](eps) = (sum_j eps^j X_j)/scale: ({j: integer tensor X_j of shape (a, b, c)}, scale), without zero tensors.

    Raises:
        InputError: it would take too long or too much memory.
    """
    U, V, W = factors
    rank, a = U.shape
    b, c = V.shape[1], W.shape[1]
    bound = float(rank)
    for factor in factors:
        bound *= max(1.0, float(np.abs(factor.numerators.astype(np.float64)).sum(axis=0).max()))
    dtype: type = np.float64 if bound < 2**53 else np.int64 if bound < 2**62 else object
    pair_orders = {p + q for p in V.exponents for q in W.exponents}
    orders = {p + q for p in U.exponents for q in pair_orders}
    operations = rank * b * c * (len(V.exponents) * len(W.exponents) + a * len(U.exponents) * len(pair_orders))
    held = len(pair_orders) * rank * b * c + len(orders) * a * b * c
    if held > MAX_HELD or operations > (MAX_OPERATIONS_BIG if dtype is object else MAX_OPERATIONS):
        raise InputError(f"rank {rank} with dims {[a, b, c]} and {len(orders)} powers of eps is too large to expand")
    pairs: dict[int, np.ndarray] = {}
    for p, v in V.terms.items():
        for q, w in W.terms.items():
            product: np.ndarray = (v.astype(dtype)[:, :, None] * w.astype(dtype)[:, None, :]).reshape(rank, -1)
            pairs[p + q] = pairs[p + q] + product if p + q in pairs else product
    result: dict[int, np.ndarray] = {}
    for p, u in U.terms.items():
        for q, pair in pairs.items():
            product = (u.astype(dtype).T @ pair).reshape(a, b, c)
            result[p + q] = result[p + q] + product if p + q in result else product
    as_integers: Callable[[np.ndarray], np.ndarray] = lambda x: x if dtype is object else x.astype(np.int64)  # noqa: E731
    kept = {order: as_integers(result[order]) for order in sorted(result) if result[order].any()}
    return kept, U.denominator * V.denominator * W.denominator
