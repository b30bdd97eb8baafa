"""Gaussian rationals read off floating-point factors: p/q + i s/t for what lies within rounding of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import lru_cache, reduce
from math import lcm

import numpy as np

from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix

LARGEST_DENOMINATOR = 10_000
OFF = 1e-11  # how far a coefficient may lie from its fraction

Whole = tuple[int, int]  # a Gaussian integer: real part, imaginary part


def gaussian_factors(factors: Sequence[np.ndarray]) -> list[ExactMatrix] | None:
    """U, V, W as Gaussian rationals, or None when one coefficient is too far from any; not verified.

    Every u and v is scaled to Gaussian integers without a common factor, so fractions are left in W only, where there must be some.

    Args:
        factors: of shapes (r, a), (r, b), (r, c), float64 or complex128.
    """
    rows = [[[_fractions(complex(value)) for value in row] for row in factor] for factor in factors]
    if any(value is None for factor in rows for row in factor for value in row):
        return None
    U, V, W = ([[value for value in row if value is not None] for row in factor] for factor in rows)
    for factor in (U, V):
        for r, row in enumerate(factor):
            below = lcm(*(part.denominator for value in row for part in value))
            whole = [(int(real * below), int(imaginary * below)) for real, imaginary in row]
            common = common_factor(whole)
            if common == (0, 0):
                continue
            factor[r] = [_quotient(value, common) for value in whole]
            scale = Fraction(common[0], below), Fraction(common[1], below)
            W[r] = [_product(value, scale) for value in W[r]]
    try:
        return [_matrix(factor) for factor in (U, V, W)]
    except InputError:  # integers beyond 2^53
        return None


def common_factor(values: Iterable[Whole]) -> Whole:
    """A greatest common divisor of Gaussian integers, by Euclid's algorithm: the one in the quadrant x > 0, y >= 0."""
    x, y = reduce(_euclid, values, (0, 0))
    while not (x > 0 and y >= 0) and (x, y) != (0, 0):
        x, y = -y, x
    return x, y


def _euclid(one: Whole, other: Whole) -> Whole:
    while other != (0, 0):
        (a, b), (x, y) = one, other
        size = x * x + y * y
        real, imaginary = ((2 * part + size) // (2 * size) for part in (a * x + b * y, b * x - a * y))  # of the nearest quotient
        one, other = other, (a - real * x + imaginary * y, b - real * y - imaginary * x)
    return one


@lru_cache(maxsize=4096)
def _fractions(value: complex) -> tuple[Fraction, Fraction] | None:
    if not np.isfinite(value):
        return None
    real, imaginary = (Fraction(part).limit_denominator(LARGEST_DENOMINATOR) for part in (value.real, value.imag))
    return (real, imaginary) if abs(complex(real, imaginary) - value) < OFF else None


def _quotient(value: Whole, divisor: Whole) -> tuple[Fraction, Fraction]:
    size = divisor[0] ** 2 + divisor[1] ** 2
    return _product((Fraction(value[0]), Fraction(value[1])), (Fraction(divisor[0], size), Fraction(-divisor[1], size)))


def _product(one: tuple[Fraction, Fraction], other: tuple[Fraction, Fraction]) -> tuple[Fraction, Fraction]:
    return one[0] * other[0] - one[1] * other[1], one[0] * other[1] + one[1] * other[0]


def _matrix(rows: list[list[tuple[Fraction, Fraction]]]) -> ExactMatrix:
    below = lcm(*(part.denominator for row in rows for value in row for part in value))
    real, imaginary = ([[int(value[k] * below) for value in row] for row in rows] for k in range(2))
    return ExactMatrix.make(real, below, imaginary)
