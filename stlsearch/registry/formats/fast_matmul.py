"""The text format of Benson and Ballard's fast-matmul collection (arXiv:1409.2908), exact algorithms and families in eps.

Three blocks, U, V and W, split by lines that hold `#` alone; a `#` followed by text is a comment. Each row is one entry of a
matrix in column-major order, each column one product. Entries are sums such as 1, -1/2, x, -x2, 5/4xi, (1+-x): x is eps,
x2 its square, xi its inverse and x2i its inverse square.
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import isqrt

from stlsearch.border import BorderAlgorithm
from stlsearch.errors import InputError
from stlsearch.registry.formats.eps_entries import Entry, exact_number, family_of
from stlsearch.targets import Target

_TERM = re.compile(r"([+-]*)([0-9]+(?:/[0-9]+)?|[0-9]+\.[0-9]*)?(x([0-9]{0,3})(i?))?")
MAX_ENTRY = 200  # characters


def read(data: bytes) -> BorderAlgorithm:
    """The family in such a text; an algorithm without eps counts as one that is exact at every eps.

    Raises:
        InputError: one line that names the first fault.
    """
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text: byte {error.start} is invalid") from None
    blocks: list[list[list[Entry]]] = [[]]
    for count, line in enumerate(lines, 1):
        text = line.strip()
        if text == "#":
            blocks.append([])
        elif text and not text.startswith("#"):
            try:
                blocks[-1].append([_entry(word) for word in text.split()])
            except InputError as error:
                raise InputError(f"line {count}: {error}") from None
    if len(blocks) != 3 or not all(blocks):
        raise InputError(f"expected three blocks split by lines that hold '#' alone, found {len([block for block in blocks if block])}")
    widths = {len(row) for block in blocks for row in block}
    if len(widths) != 1:
        raise InputError(f"every row must have one entry for each product, these have {sorted(widths)[:5]}")
    target = Target.matmul(*_shape([len(block) for block in blocks]))
    columns = [[list(column) for column in zip(*block, strict=True)] for block in blocks]
    return family_of(target, columns, {"imported": "fast-matmul text"})


def _shape(sizes: list[int]) -> tuple[int, int, int]:
    """n, m, p from nm, mp and np."""
    a, b, c = sizes
    shape = isqrt(a * c // b), isqrt(a * b // c), isqrt(b * c // a)
    n, m, p = shape
    if (n * m, m * p, n * p) != (a, b, c):
        raise InputError(f"blocks of {a}, {b} and {c} rows are of no matrix product: they must be nm, mp and np")
    return shape


def _entry(text: str) -> Entry:
    inner = text[1:-1] if text.startswith("(") and text.endswith(")") else text
    result: dict[int, Fraction] = {}
    place = 0
    while place < len(inner) <= MAX_ENTRY:
        match = _TERM.match(inner, place)
        if match is None or not (match[2] or match[3]) or (place and not match[1]):
            break
        coefficient = exact_number(float(match[2]) if "." in (match[2] or "") else match[2] or "1")
        exponent = (int(match[4] or 1) * (-1 if match[5] else 1)) if match[3] else 0
        result[exponent] = result.get(exponent, Fraction(0)) + coefficient * (-1) ** match[1].count("-")
        place = match.end()
    if not inner or place != len(inner):
        raise InputError(f"{text!r:.40} is no polynomial in x, such as 1, -1/2, x, 5/4x2i or (1+-x)")
    return result
