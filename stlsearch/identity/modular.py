"""Linear algebra modulo a prime, and back to fractions.

Exact questions about algorithms are asked modulo a prime below 2^31, where products fit int64: p itself over Zp, primes
p = 1 mod 4 in characteristic 0, where -1 has two square roots and the Gaussian rationals have two images each. Answers
that are rational numbers come back by the Chinese remainder theorem and by Wang's rational reconstruction ("A p-adic
algorithm for univariate partial fractions", SYMSAC 1981), and are checked in exact arithmetic by whoever asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from scipy.sparse import csr_matrix

from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix, reconstructed

CHUNK = 256  # equations solved at a time
MOST_PRIMES = 12  # of characteristic 0: enough for numerators and denominators of 180 bits


def primes() -> Iterator[int]:
    """`MOST_PRIMES` primes p = 1 mod 4 below 2^31, descending."""
    candidate, found = 2**31 - 3, 0
    while found < MOST_PRIMES:
        if candidate % 4 == 1 and _is_prime(candidate):
            found += 1
            yield candidate
        candidate -= 2


def _is_prime(odd: int) -> bool:
    """Miller-Rabin with the bases 2, 3, 5, 7, which decide every odd number below 3 10^9 beyond 7 (Jaeschke 1993)."""
    power, exponent = odd - 1, 0
    while power % 2 == 0:
        power, exponent = power // 2, exponent + 1
    for base in (2, 3, 5, 7):
        value = pow(base, power, odd)
        if value not in (1, odd - 1) and all((value := value * value % odd) != odd - 1 for _ in range(exponent - 1)):
            return False
    return True


def root_of_minus_one(prime: int) -> int:
    """The smaller square root of -1 modulo a prime p = 1 mod 4."""
    base = next(value for value in range(2, prime) if pow(value, (prime - 1) // 2, prime) == prime - 1)
    root = pow(base, (prime - 1) // 4, prime)
    return min(root, prime - root)


def residues(matrix: ExactMatrix, prime: int, root: int = 0) -> np.ndarray:
    """A matrix modulo a prime, int64 in 0..p-1; i goes to `root`.

    Raises:
        InputError: the denominator has no inverse, or an imaginary part has no image.
    """
    if matrix.denominator % prime == 0:
        raise InputError(f"the denominator {matrix.denominator} has no inverse modulo {prime}")
    values = matrix.real.astype(object)
    if matrix.imaginary is not None:
        if not root:
            raise InputError(f"complex coefficients have no image modulo {prime}")
        values = values + matrix.imaginary.astype(object) * root
    return (values * pow(matrix.denominator, -1, prime) % prime).astype(np.int64)


def ranks(matrices: np.ndarray, prime: int) -> np.ndarray:
    """The ranks of a stack of matrices modulo a prime: (k, rows, columns) -> (k,), by elimination without division."""
    work = matrices % prime
    count, rows, columns = work.shape
    if columns > rows:
        work, rows, columns = np.ascontiguousarray(work.transpose(0, 2, 1)), columns, rows
    free = np.ones((count, rows), dtype=bool)
    everyone = np.arange(count)
    found = np.zeros(count, dtype=np.int64)
    for column in range(columns):
        usable = free & (work[:, :, column] != 0)
        has = usable.any(axis=1)
        pivot = usable.argmax(axis=1)
        free[everyone[has], pivot[has]] = False
        found += has
        if column == columns - 1:
            break
        pivot_row = work[everyone, pivot][:, None, column:]
        lead = np.where(has, work[everyone, pivot, column], 1)[:, None, None]
        below = np.where(has[:, None], work[:, :, column], 0)[:, :, None]
        work[:, :, column:] = np.where(free[:, :, None], (work[:, :, column:] * lead - below * pivot_row) % prime, work[:, :, column:])
    return found


def nullspace(rows: np.ndarray, prime: int) -> np.ndarray:
    """The solutions x of rows x = 0 modulo a prime, as the rows of the one basis in reduced echelon form, shape (d, unknowns)."""
    work = rows % prime
    unknowns = work.shape[1]
    pivots: list[int] = []
    # From the right, so that each solution begins with its 1 and the basis is reduced from the left.
    for column in reversed(range(unknowns)):
        done = len(pivots)
        below = np.flatnonzero(work[done:, column])
        if not len(below):
            continue
        chosen = done + int(below[0])
        work[[done, chosen]] = work[[chosen, done]]
        work[done] = work[done] * pow(int(work[done, column]), -1, prime) % prime
        others = np.flatnonzero(work[:, column])
        others = others[others != done]
        work[others] = (work[others] - work[others, column][:, None] * work[done]) % prime
        pivots.append(column)
    chosen_columns = set(pivots)
    free = [column for column in range(unknowns) if column not in chosen_columns]
    basis = np.zeros((len(free), unknowns), dtype=np.int64)
    for index, column in enumerate(free):
        basis[index, column] = 1
        basis[index, pivots] = -work[: len(pivots), column] % prime
    return basis


def inverse(matrix: np.ndarray, prime: int) -> np.ndarray:
    """The inverse of a square matrix modulo a prime.

    Raises:
        InputError: the matrix is singular.
    """
    size = len(matrix)
    work = np.concatenate([matrix % prime, np.eye(size, dtype=np.int64)], axis=1)
    for column in range(size):
        usable = np.flatnonzero(work[column:, column])
        if not len(usable):
            raise InputError(f"the matrix is singular modulo {prime}")
        pivot = column + int(usable[0])
        work[[column, pivot]] = work[[pivot, column]]
        work[column] = work[column] * pow(int(work[column, column]), -1, prime) % prime
        others = np.arange(size) != column
        work[others] = (work[others] - work[others, column][:, None] * work[column]) % prime
    return work[:, size:]


def solutions(equations: np.ndarray, prime: int) -> np.ndarray:
    """`nullspace` of many equations: of a spread of them first, adding those that its solutions do not meet until all are met."""
    chosen = np.arange(len(equations))[:: max(1, len(equations) // CHUNK)]
    while True:
        basis = nullspace(equations[chosen], prime)
        if not len(basis):
            return basis
        missed = np.flatnonzero(product(equations, np.ascontiguousarray(basis.T), prime).any(axis=1))
        if not len(missed):
            return basis
        chosen = np.concatenate([chosen, missed[:CHUNK]])


def product(left: np.ndarray, right: np.ndarray, prime: int) -> np.ndarray:
    """The product of two matrices modulo a prime below 2^31."""
    total = np.zeros((left.shape[0], right.shape[1]), dtype=np.int64)
    for inner in range(left.shape[1]):
        total = (total + left[:, inner, None] * right[None, inner]) % prime
    return total


def sparse_product(left: np.ndarray, right: np.ndarray, prime: int) -> np.ndarray:
    """The product of two matrices with many zeros and up to 2^20 inner entries modulo a prime below 2^31, in halves that fit int64.

    Sparse because traces are, and because small dense products on several threads wait for each other on a busy machine.
    """
    halves = [[csr_matrix(matrix >> 16), csr_matrix(matrix & 0xFFFF)] for matrix in (left, right)]
    total = np.zeros((left.shape[0], right.shape[1]), dtype=np.int64)
    for i, a in enumerate(halves[0]):
        for j, b in enumerate(halves[1]):
            total = (total + (a @ b).toarray() % prime * pow(2, 16 * (2 - i - j), prime)) % prime
    return total


class Residue:
    """Integers known modulo a growing product of primes (Chinese remainders)."""

    def __init__(self) -> None:
        self.modulus = 1
        self.values: list[int] = []

    def add(self, values: list[int], prime: int) -> None:
        """Combine with what is known modulo another prime."""
        if not self.values:
            self.values = [0] * len(values)
        inverse = pow(self.modulus, -1, prime)
        self.values = [old + self.modulus * ((new - old) * inverse % prime) for old, new in zip(self.values, values, strict=True)]
        self.modulus *= prime

    def fractions(self) -> list[Fraction] | None:
        """The fractions of numerators and denominators up to sqrt(modulus/2) that have these residues; None when one has none."""
        found = []
        for value in self.values:
            fraction = reconstructed(value % self.modulus, self.modulus)
            if fraction is None:
                return None
            found.append(fraction)
        return found
