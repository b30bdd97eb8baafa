"""Linear algebra over the rationals, for the small matrices that constructions need."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from stlsearch.errors import InputError


def inverse(rows: Sequence[Sequence[int | Fraction]]) -> list[list[Fraction]]:
    """The inverse of a square matrix by Gauss-Jordan elimination.

    Raises:
        InputError: the matrix is not square or is singular.
    """
    size = len(rows)
    if size == 0 or any(len(row) != size for row in rows):
        raise InputError("only a square matrix has an inverse")
    work = [[*map(Fraction, row), *(Fraction(int(i == j)) for j in range(size))] for i, row in enumerate(rows)]
    for column in range(size):
        pivot = next((row for row in range(column, size) if work[row][column]), None)
        if pivot is None:
            raise InputError("the matrix is singular")
        work[column], work[pivot] = work[pivot], work[column]
        lead = work[column][column]
        work[column] = [value / lead for value in work[column]]
        for row in range(size):
            if row != column and (factor := work[row][column]):
                work[row] = [x - factor * y for x, y in zip(work[row], work[column], strict=True)]
    return [row[size:] for row in work]
