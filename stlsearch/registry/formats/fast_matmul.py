"""The text format of Benson and Ballard's fast-matmul collection (arXiv:1409.2908), exact algorithms and families in eps.

Three blocks, U, V and W, split by lines that hold `#` alone; a `#` followed by text is a comment. Each row is one entry of a
matrix in column-major order, each column one product. Entries are sums such as 1, -1/2, x, -x2, 5/4xi, (1+-x): x is eps,
x2 its square, xi its inverse and x2i its inverse square.
"""

from __future__ import annotations

import re
from fractions import Fraction

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.border import BorderAlgorithm
from stlsearch.errors import InputError
from stlsearch.registry.formats.coefficients import factor_of
from stlsearch.registry.formats.eps_entries import Entry, exact_number, family_of, refuse_family
from stlsearch.registry.formats.layout import check_held, entries
from stlsearch.registry.formats.scheme import Scheme, Source, shape_of
from stlsearch.targets import Target

NAME = "fast-matmul text"
_TERM = re.compile(r"([+-]*)([0-9]+\.[0-9]*|[0-9]+(?:/[0-9]+)?)?(x([0-9]{0,3})(i?))?")
MAX_ENTRY = 200  # characters


def read(data: bytes) -> BorderAlgorithm:
    """The family in such a text; an algorithm without eps counts as one that is exact at every eps.

    Raises:
        InputError: one line that names the first fault.
    """
    factors = _factors(Source(data).text)
    target = Target.matmul(*shape_of([len(factor[0]) for factor in factors]))
    return family_of(target, factors, {"imported": NAME})


def read_source(source: Source) -> list[Scheme]:
    """The algorithm in such a text, not yet verified.

    Raises:
        InputError: one line that names the first fault; a family in eps.
    """
    factors = _factors(source.text)
    if any(value and exponent for factor in factors for row in factor for entry in row for exponent, value in entry.items()):
        raise refuse_family()
    constants = [[[entry.get(0, Fraction(0)) for entry in row] for row in factor] for factor in factors]
    U, V, W = (factor_of(name, rows) for name, rows in zip("UVW", constants, strict=True))
    return [Scheme((U, V, W), provenance={"imported": NAME})]


def write(algorithm: BilinearAlgorithm) -> bytes:
    """The text of an algorithm without eps."""
    check_held(algorithm, "fast-matmul", "fractions")
    blocks = []
    for factor in entries(algorithm, "column-major"):
        blocks.append("\n".join(" ".join(map(str, column)) for column in zip(*factor, strict=True)))
    return ("\n#\n".join(blocks) + "\n").encode()


def _factors(text: str) -> list[list[list[Entry]]]:
    """Entries of U, V and W, a row per product."""
    blocks: list[list[list[Entry]]] = [[]]
    for count, line in enumerate(text.splitlines(), 1):
        words = line.strip()
        if words == "#":
            blocks.append([])
        elif words and not words.startswith("#"):
            try:
                blocks[-1].append([_entry(word) for word in words.split()])
            except InputError as error:
                raise InputError(f"line {count}: {error}") from None
    if len(blocks) != 3 or not all(blocks):
        raise InputError(f"expected three blocks split by lines that hold '#' alone, found {len([block for block in blocks if block])}")
    widths = {len(row) for block in blocks for row in block}
    if len(widths) != 1:
        raise InputError(f"every row must have one entry for each product, these have {sorted(widths)[:5]}")
    return [[list(column) for column in zip(*block, strict=True)] for block in blocks]


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
