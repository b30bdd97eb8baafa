"""Algorithms written as one triple of matrices a product: n x m, m x p and p x n (C^T). Maple and Mathematica texts share this."""

from __future__ import annotations

from collections.abc import Sequence

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.registry.formats.coefficients import Entry, coefficient, factor_of
from stlsearch.registry.formats.layout import entries, sizes
from stlsearch.registry.formats.scheme import Scheme

Triad = Sequence[Sequence[Sequence[str]]]  # three matrices of texts


def scheme_of(triads: Sequence[Triad], imported: str) -> Scheme:
    """The algorithm of such triples, not yet verified.

    Raises:
        InputError: matrices that do not fit one another, or texts that are no numbers.
    """
    shapes = []
    for matrix in triads[0]:
        shapes.append((len(matrix), len(matrix[0]) if matrix else 0))
    (n, m), (m2, p), (p2, n2) = shapes
    if (m2, p2, n2) != (m, p, n):
        raise InputError(f"product 1: matrices of {n}x{m}, {m2}x{p} and {p2}x{n2}; they must be n x m, m x p and p x n")
    rows: list[list[list[Entry]]] = [[], [], []]
    for index, triad in enumerate(triads, 1):
        for mode, (matrix, (height, width)) in enumerate(zip(triad, shapes, strict=True)):
            if len(matrix) != height or any(len(row) != width for row in matrix):
                raise InputError(f"product {index}: its {('first', 'second', 'third')[mode]} matrix is not {height} x {width}")
            try:
                rows[mode].append([coefficient(text) for row in matrix for text in row])
            except InputError as error:
                raise InputError(f"product {index}: {error}") from None
    U, V, W = (factor_of(name, factor) for name, factor in zip("UVW", rows, strict=True))
    return Scheme((U, V, W), (n, m, p), provenance={"imported": imported})


def triads_of(algorithm: BilinearAlgorithm) -> list[list[list[list[Entry]]]]:
    """The triples of an algorithm: for each product three matrices, the third in the C^T form."""
    n, m, p = sizes(algorithm)
    factors = entries(algorithm, "C^T")
    return [
        [[list(row[start : start + width]) for start in range(0, len(row), width)] for row, width in zip(product, (m, p, n), strict=True)]
        for product in zip(*factors, strict=True)
    ]
