"""Kauers and Moosbauer's files (.m), a Mathematica list of products {u, v, w}, u n x m, v m x p, w p x n (C^T).

{{{{1, 0}, {0, 1}}, {{1, 0}, {0, 1}}, {{1, 0}, {0, 1}}}, ...}
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.registry.formats.layout import check_held
from stlsearch.registry.formats.nested import parse_nested
from stlsearch.registry.formats.scheme import Scheme, Source
from stlsearch.registry.formats.triads import scheme_of, triads_of

NAME = "Kauers' nested lists"


def read(source: Source) -> list[Scheme]:
    """The algorithm of such a text, not yet verified.

    Raises:
        InputError: one line that names the first fault.
    """
    text = re.sub(r"\(\*.*?\*\)", "", source.text, flags=re.DOTALL)  # Mathematica's comments
    products = parse_nested(text.strip().rstrip(";"), "{}")
    if not products:
        raise InputError("an empty list has no products")
    for index, product in enumerate(products, 1):
        if not isinstance(product, list) or len(product) != 3 or not all(_is_matrix(item) for item in product):
            raise InputError(f"product {index} must be three matrices: {{{{{{1, 0}}, {{0, 1}}}}, ...}}")
    return [scheme_of(products, NAME)]


def write(algorithm: BilinearAlgorithm) -> bytes:
    """The text, a product a line."""
    check_held(algorithm, "kauers", "fractions")
    lines = [_braces([_braces([_braces(map(str, row)) for row in matrix]) for matrix in triad]) for triad in triads_of(algorithm)]
    return ("{" + ",\n ".join(lines) + "}\n").encode()


def _braces(items: Iterable[str]) -> str:
    return "{" + ", ".join(items) + "}"


def _is_matrix(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_row(row) for row in value)


def _is_row(row: object) -> bool:
    return isinstance(row, list) and bool(row) and all(isinstance(item, str) for item in row)
