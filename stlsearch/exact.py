"""Exact arithmetic on factors: storage over one denominator, verification in every ring.

An exact factor is an integer matrix over one positive denominator, with an optional imaginary part
(Gaussian rationals). Nothing here rounds: products of entries are Python integers whenever int64
could overflow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, isqrt, lcm

import numpy as np

from stlsearch.errors import InputError
from stlsearch.targets import Target

MAX_INTEGER = 2**53  # every numerator is exact as a float64 too
SHOWN_MISMATCHES = 20
EXACT_RINGS = ("Z", "Z[1/2]", "Q", "Q(i)")  # of characteristic 0, each inside the next


@dataclass(frozen=True, eq=False)
class ExactMatrix:
    """A matrix (real + i imaginary)/denominator in lowest terms.

    Attributes:
        real: int64, shape (r, d).
        denominator: positive.
        imaginary: int64 of the same shape, or None when it is zero.
    """

    real: np.ndarray
    denominator: int = 1
    imaginary: np.ndarray | None = None

    @staticmethod
    def make(real: object, denominator: int = 1, imaginary: object = None) -> ExactMatrix:
        """Check, reduce to lowest terms and freeze.

        Raises:
            InputError: not an integer matrix, a denominator below 1, or integers beyond 2^53.
        """
        parts = [_integer_matrix(real)]
        if imaginary is not None:
            parts.append(_integer_matrix(imaginary))
            if parts[1].shape != parts[0].shape:
                raise InputError(f"the imaginary part has shape {parts[1].shape}, the real part {parts[0].shape}")
        if not isinstance(denominator, int) or isinstance(denominator, bool) or not 1 <= denominator <= MAX_INTEGER:
            raise InputError(f"a denominator must be an integer from 1 to 2^53, not {denominator!r:.40}")
        common = gcd(denominator, *(int(np.gcd.reduce(part, axis=None)) for part in parts))
        parts = [part // common for part in parts]
        for part in parts:
            part.setflags(write=False)
        has_imaginary = len(parts) == 2 and bool(parts[1].any())
        return ExactMatrix(parts[0], denominator // common, parts[1] if has_imaginary else None)

    @staticmethod
    def from_fractions(rows: Sequence[Sequence[int | Fraction]] | np.ndarray) -> ExactMatrix:
        """From rows of integers or fractions: entries are put over their least common denominator."""
        values = [[Fraction(value) for value in row] for row in rows]
        denominator = lcm(*(value.denominator for row in values for value in row))
        return ExactMatrix.make([[int(value * denominator) for value in row] for row in values], denominator)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.real.shape

    def to_float(self) -> np.ndarray:
        """float64, or complex128 when there is an imaginary part; shape (r, d)."""
        values = self.real / self.denominator
        return values if self.imaginary is None else values + 1j * (self.imaginary / self.denominator)

    def take(self, rows: Sequence[int] | np.ndarray) -> ExactMatrix:
        """The chosen rows, in that order."""
        imaginary = None if self.imaginary is None else self.imaginary[list(rows)]
        return ExactMatrix.make(self.real[list(rows)], self.denominator, imaginary)

    def columns(self, order: Sequence[int] | np.ndarray) -> ExactMatrix:
        """The chosen columns, in that order."""
        imaginary = None if self.imaginary is None else self.imaginary[:, list(order)]
        return ExactMatrix.make(self.real[:, list(order)], self.denominator, imaginary)

    def __matmul__(self, other: ExactMatrix) -> ExactMatrix:
        return self._product(other, lambda x, y: x @ y)

    def kron(self, other: ExactMatrix) -> ExactMatrix:
        """Kronecker product: shape (r1 r2, d1 d2)."""
        return self._product(other, np.kron)

    def _product(self, other: ExactMatrix, multiply: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> ExactMatrix:
        a, b = self.real.astype(object), other.real.astype(object)  # Python integers: no overflow
        real, imaginary = multiply(a, b), None
        if self.imaginary is not None or other.imaginary is not None:
            x, y = _or_zeros(self.imaginary, a).astype(object), _or_zeros(other.imaginary, b).astype(object)
            real, imaginary = real - multiply(x, y), multiply(a, y) + multiply(x, b)
        return ExactMatrix.make(real, self.denominator * other.denominator, imaginary)


Factors = tuple[ExactMatrix, ExactMatrix, ExactMatrix]


def without_null_terms(factors: Sequence[ExactMatrix]) -> list[ExactMatrix]:
    """U (r, a), V (r, b), W (r, c) without the terms of which a factor is zero: the same bilinear map with fewer products.

    Raises:
        InputError: no term is left.
    """
    kept = np.flatnonzero(np.all([(factor.to_float() != 0).any(axis=1) for factor in factors], axis=0))
    return [factor.take(kept) for factor in factors]


def modulus_of(ring: str) -> int | None:
    """The prime p of a ring named Zp (Z2, Z3, ...), None for rings of characteristic 0."""
    match = re.fullmatch(r"Z([1-9][0-9]{0,5})", ring)
    return int(match[1]) if match else None


def check_ring(ring: object) -> str:
    """The ring's name when it is one we know.

    Raises:
        InputError: an unknown name, or Zp with p not a prime.
    """
    if isinstance(ring, str):
        prime = modulus_of(ring)
        if ring in (*EXACT_RINGS, "R", "C") or (prime and prime > 1 and all(prime % d for d in range(2, int(prime**0.5) + 1))):
            return ring
    raise InputError(f"unknown ring {ring!r:.40}; valid: Z2, Z3, ... Zp (p prime), {', '.join(EXACT_RINGS)}, R, C")


def smallest_ring(factors: Factors) -> str:
    """The smallest of Z, Z[1/2], Q, Q(i) that holds every coefficient."""
    if any(factor.imaginary is not None for factor in factors):
        return "Q(i)"
    denominators = [factor.denominator for factor in factors]
    if all(denominator == 1 for denominator in denominators):
        return "Z"
    return "Z[1/2]" if all(denominator & (denominator - 1) == 0 for denominator in denominators) else "Q"


@dataclass(frozen=True)
class Mismatch:
    """Where an algorithm misses its target: how many coefficients are wrong, and the first few of them.

    Attributes:
        count: wrong tensor entries; 0 when the algorithm is exact.
        examples: (i, j, k, "got x, expected y") of at most `SHOWN_MISMATCHES` of them.
    """

    count: int
    examples: tuple[tuple[int, int, int, str], ...]


def mismatch(target: Target, factors: Factors, ring: str) -> Mismatch:
    """Check the Brent equations sum_r U[r,i] V[r,j] W[r,k] = T[i,j,k] in `ring`.

    They are multiplied by the three denominators and checked in integers; modulo p for Zp (no
    denominators or imaginary parts there).

    Raises:
        InputError: fractions or imaginary parts under Zp, or coefficients outside the named ring.
    """
    prime = modulus_of(ring)
    held = smallest_ring(factors)
    if prime is not None and held != "Z":
        raise InputError(f"an algorithm over {ring} needs integer factors, these lie in {held}")
    if ring in EXACT_RINGS and EXACT_RINGS.index(held) > EXACT_RINGS.index(ring):
        raise InputError(f"the factors lie in {held}, outside the ring {ring} that is claimed")
    if target.rational is None:
        raise InputError(f"the entries of {target.slug} are no fractions of small denominators: nothing is exact for it")
    wanted, below = target.rational
    if prime is not None and below != 1:
        raise InputError(f"{target.slug} has fractions in it, which algorithms over {ring} do not compute")
    scale = 1
    for factor in factors:
        scale *= factor.denominator
    largest = scale * int(np.abs(wanted).max(initial=0))  # a Python integer: it may be far beyond int64
    real, imaginary = _product_sum(factors, largest, below)
    difference = real * below - wanted.astype(real.dtype) * scale
    if prime is not None:
        difference = difference % prime
    wrong = (difference != 0) if imaginary is None else (difference != 0) | (imaginary != 0)
    if not wrong.any():
        return Mismatch(0, ())
    places = np.argwhere(wrong)
    expected = [Fraction(int(wanted[tuple(place)]), below) for place in places[:SHOWN_MISMATCHES]]
    examples = (
        (int(i), int(j), int(k), f"got {_shown(real, imaginary, scale, (i, j, k), prime)}, expected {value}")
        for (i, j, k), value in zip(places[:SHOWN_MISMATCHES], expected, strict=True)
    )
    return Mismatch(len(places), tuple(examples))


def valid_rings(target: Target, factors: Factors, ring: str) -> list[str]:
    """Every ring named here over which the algorithm is exact: of Z2, Z3, the claimed Zp, and Z .. Q(i).

    An algorithm over Z[1/2] reduces modulo every odd prime, one over Q modulo primes outside its
    denominators; only rings where its coefficients exist as written are listed.
    """
    held = smallest_ring(factors)
    candidates = list(EXACT_RINGS[EXACT_RINGS.index(held) :])
    if held == "Z" and target.rational is not None and target.rational[1] == 1:
        candidates = [*dict.fromkeys([*(name for name in (ring,) if modulus_of(name)), "Z2", "Z3"]), *candidates]
    return [name for name in candidates if mismatch(target, factors, name).count == 0]


def reconstructed(residue: int, modulus: int) -> Fraction | None:
    """The fraction n/d = residue modulo `modulus` with |n|, d <= sqrt(modulus/2); there is at most one.

    By Euclid's algorithm on modulus and residue, stopped half-way.
    """
    bound = isqrt(modulus // 2)
    before, now, below_before, below = modulus, residue % modulus, 0, 1
    while now > bound:
        quotient = before // now
        before, now, below_before, below = now, before - quotient * now, below, below_before - quotient * below
    if abs(below) > bound or gcd(now, below) != 1:
        return None
    return Fraction(now, below)


def _product_sum(factors: Factors, largest: int, below: int) -> tuple[np.ndarray, np.ndarray | None]:
    """sum_r u (x) v (x) w of the numerators: real part and imaginary part (None when all are real).

    The dtype holds every partial sum times `below`, `largest`, and their difference without rounding or overflow. Below 2^53
    every partial sum is an integer that float64 holds exactly, and float products are by far the fastest.
    """
    bound = float(factors[0].shape[0]) * 4.0 * below
    for factor in factors:
        bound *= max(1.0, float(np.abs(factor.real).max(initial=0)), float(np.abs(_or_zeros(factor.imaginary, factor.real)).max(initial=0)))
    bound += largest
    dtype: type = np.float64 if bound < 2**53 else np.int64 if bound < 2**62 else object
    real: tuple[np.ndarray, ...] = tuple(factor.real.astype(dtype) for factor in factors)
    if all(factor.imaginary is None for factor in factors):
        return _triple(*real), None
    imag: tuple[np.ndarray, ...] = tuple(_or_zeros(factor.imaginary, factor.real).astype(dtype) for factor in factors)
    (a, b, c), (x, y, z) = real, imag
    return (
        _triple(a, b, c) - _triple(a, y, z) - _triple(x, b, z) - _triple(x, y, c),
        _triple(x, b, c) + _triple(a, y, c) + _triple(a, b, z) - _triple(x, y, z),
    )


def _triple(u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
    pairs = (v[:, :, None] * w[:, None, :]).reshape(len(v), -1)
    return (u.T @ pairs).reshape(u.shape[1], v.shape[1], w.shape[1])


def _shown(real: np.ndarray, imaginary: np.ndarray | None, scale: int, index: tuple, prime: int | None) -> str:
    value = Fraction(int(real[index]), scale)
    if prime is not None:
        return str(int(real[index]) % prime)
    return str(value) if imaginary is None else f"{value} + {Fraction(int(imaginary[index]), scale)}i"


def _or_zeros(part: np.ndarray | None, like: np.ndarray) -> np.ndarray:
    return np.zeros_like(like) if part is None else part


def _integer_matrix(values: object) -> np.ndarray:
    try:
        array = np.array(values, dtype=object)
    except ValueError:
        raise InputError("a factor must be a matrix: its rows have different lengths") from None
    if array.ndim != 2 or array.size == 0:
        raise InputError(f"a factor must be a matrix with at least one row and column, not of shape {array.shape}")
    for value in array.ravel():
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or abs(int(value)) > MAX_INTEGER:
            raise InputError(f"an exact factor holds integers up to 2^53 in size, not {value!r:.40}")
    return array.astype(np.int64)
