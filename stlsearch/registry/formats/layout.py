"""Our factors in the layouts of other programs, and what a format cannot hold refused.

`entries` gives plain numbers, rows per product: W as ours (C, row-major), or that of C^T; or all three matrices column-major.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix
from stlsearch.registry.formats.coefficients import Entry, Factor

Layout = Literal["C", "C^T", "column-major"]
Holds = Literal["integers", "dyadic fractions", "fractions", "Gaussian rationals", "complex numbers"]
CONTENTS: tuple[Holds, ...] = ("integers", "dyadic fractions", "fractions", "Gaussian rationals", "complex numbers")


def entries(algorithm: BilinearAlgorithm, layout: Layout) -> tuple[list[list[Entry]], ...]:
    """U, V and W as rows of integers, fractions, floats, or pairs (real, imaginary); W (or all three) turned as asked.

    Raises:
        InputError: not a matrix product.
    """
    n, m, p = sizes(algorithm)
    factors: tuple[Factor, ...] = algorithm.exact or (algorithm.U, algorithm.V, algorithm.W)
    flips = {"C": (False, False, False), "C^T": (False, False, True), "column-major": (True, True, True)}[layout]
    return tuple(
        _rows(factor, (rows, columns) if flip else None)
        for factor, (rows, columns), flip in zip(factors, ((n, m), (m, p), (n, p)), flips, strict=True)
    )


def sizes(algorithm: BilinearAlgorithm) -> tuple[int, int, int]:
    """(n, m, p).

    Raises:
        InputError: not a matrix product.
    """
    if algorithm.target.shape is None:
        raise InputError(f"the format is for matrix products only, not for {algorithm.target.slug}: json holds every algorithm")
    return algorithm.target.shape


def check_held(algorithm: BilinearAlgorithm, format_name: str, most: Holds) -> None:
    """Refuse what a format cannot hold.

    Raises:
        InputError: coefficients beyond `most`, or no matrix product.
    """
    sizes(algorithm)
    if algorithm.exact is None:
        needed: Holds = "complex numbers"
    elif any(factor.imaginary is not None for factor in algorithm.exact):
        needed = "Gaussian rationals"
    elif all(factor.denominator == 1 for factor in algorithm.exact):
        needed = "integers"
    else:
        needed = "dyadic fractions" if algorithm.ring == "Z[1/2]" else "fractions"
    if CONTENTS.index(needed) > CONTENTS.index(most):
        found = "floating-point numbers" if algorithm.exact is None else needed
        raise InputError(f"{format_name} holds {most} only, and {algorithm.name} has {found}: json, npz and safetensors hold them")


def _rows(factor: Factor, turned: tuple[int, int] | None) -> list[list[Entry]]:
    if not isinstance(factor, ExactMatrix):
        factor = _turned(factor, turned)
        return [[(value.real, value.imag) if isinstance(value, complex) else value for value in row] for row in factor.tolist()]
    real = _divided(_turned(factor.real, turned), factor.denominator)
    if factor.imaginary is None:
        return real
    imaginary = _divided(_turned(factor.imaginary, turned), factor.denominator)
    return [
        [(x, y) if y else x for x, y in zip(first, second, strict=True)]  # type: ignore[misc]
        for first, second in zip(real, imaginary, strict=True)
    ]


def _turned(matrix: np.ndarray, shape: tuple[int, int] | None) -> np.ndarray:
    return matrix if shape is None else matrix.reshape(-1, *shape).transpose(0, 2, 1).reshape(len(matrix), -1)


def _divided(matrix: np.ndarray, denominator: int) -> list[list[Entry]]:
    if denominator == 1:
        return matrix.tolist()
    rows = [[Fraction(value, denominator) for value in row] for row in matrix.tolist()]
    return [[value.numerator if value.denominator == 1 else value for value in row] for row in rows]
