"""The additions of an exact algorithm: as it is written, and after common sums are shared."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from stlsearch.additions.eliminate import RESTARTS, straight_line
from stlsearch.additions.program import Program
from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix, modulus_of

Programs = tuple[Program, Program, Program]
Matrix = list[list[Fraction]]


@dataclass(frozen=True)
class Additions:
    """What the three linear maps of an algorithm take.

    Attributes:
        naive: additions without sharing, of U vec A, V vec B and the products' way to C by W^T.
        programs: straight-line programs of U (r x a), V (r x b) and W^T (c x r).
    """

    naive: tuple[int, int, int]
    programs: Programs

    @property
    def encode_a(self) -> int:
        """Additions of U vec A."""
        return self.programs[0].additions

    @property
    def encode_b(self) -> int:
        """Additions of V vec B."""
        return self.programs[1].additions

    @property
    def decode(self) -> int:
        """Additions from the products to C."""
        return self.programs[2].additions

    @property
    def total(self) -> int:
        """All additions."""
        return self.encode_a + self.encode_b + self.decode

    @property
    def scalings(self) -> int:
        """Multiplications by coefficients other than -1, 0 and 1."""
        return sum(program.scalings for program in self.programs)


def count(algorithm: BilinearAlgorithm, restarts: int = RESTARTS, seed: int = 0) -> Additions:
    """Additions of an exact algorithm before and after sharing, with the programs that take so few.

    Coefficients modulo p are taken as the integers closest to 0.

    Args:
        restarts: eliminations for each of the three maps; see `eliminate.straight_line`.

    Raises:
        InputError: an inexact algorithm, or complex coefficients.
    """
    maps = linear_maps(algorithm)
    naive = tuple(sum(max(0, sum(map(bool, row)) - 1) for row in rows) for rows in maps)
    programs = tuple(straight_line(rows, restarts, seed) for rows in maps)
    return Additions(naive, programs)  # type: ignore[arg-type]


def linear_maps(algorithm: BilinearAlgorithm) -> tuple[Matrix, Matrix, Matrix]:
    """U, V and W^T as rows of fractions.

    Raises:
        InputError: as for `count`.
    """
    if algorithm.exact is None:
        raise InputError(f"{algorithm.name} is not exact: additions are counted of exact algorithms only")
    if any(factor.imaginary is not None for factor in algorithm.exact):
        raise InputError(f"{algorithm.name} has complex coefficients: additions are counted of real algorithms only")
    u, v, w = (_fractions(factor, modulus_of(algorithm.ring)) for factor in algorithm.exact)
    return u, v, [list(column) for column in zip(*w, strict=True)]


def _fractions(factor: ExactMatrix, prime: int | None) -> Matrix:
    if prime is None:
        return [[Fraction(value, factor.denominator) for value in row] for row in factor.real.tolist()]
    values = np.asarray(factor.real, dtype=object) * pow(factor.denominator, -1, prime) % prime
    return [[Fraction(value - prime if 2 * value > prime else value) for value in row] for row in values.tolist()]
