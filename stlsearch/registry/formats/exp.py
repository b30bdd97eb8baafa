"""Flip-graph text of Kauers and Moosbauer (.exp, arXiv:2212.01175): a product a line, variables with row and column.

    (a11 + a22)*(b11 + b22)*(c11 + c22)
    (-a11 + 2 a21)*(b11 + b12)*(c22)

The third is c_ki for the entry (i, k) of the product, that of C^T. Indices above 9 are written a(10,2) here, since a102 could
be read in two ways. "mod2" in a file's name says Z2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.registry.formats.coefficients import Entry, Number, coefficient, factor_of
from stlsearch.registry.formats.layout import check_held, entries, sizes
from stlsearch.registry.formats.scheme import Scheme, Source, checked_target

NAME = "flip-graph text"
MAX_LINE = 20_000  # characters
MAX_PRODUCTS = 20_000
_SIGNS = re.compile(r"\s*[+-](?:\s*[+-])*\s*|\s*")
_TERM = re.compile(
    r"(?P<coefficient>[0-9][0-9./]{0,40})?\s*\*?\s*(?P<letter>[abc])"
    r"(?:(?P<i>[1-9])_?(?P<j>[1-9])(?![0-9])|\((?P<row>[0-9]{1,4}),(?P<column>[0-9]{1,4})\))"
)

Terms = dict[tuple[int, int], Number]


def read(source: Source) -> list[Scheme]:
    """The algorithm of such a text, not yet verified.

    Raises:
        InputError: one line that names the first fault.
    """
    products: list[list[Terms]] = []
    for count, line in enumerate(source.text.splitlines(), 1):
        text = line.strip().rstrip(",;")
        if not text or text.startswith(("#", "//")):
            continue
        if len(products) == MAX_PRODUCTS:
            raise InputError(f"more than {MAX_PRODUCTS} products")
        try:
            products.append(_product(text))
        except InputError as error:
            raise InputError(f"line {count}: {error}") from None
    if not products:
        raise InputError("no products such as (a11 + a22)*(b11 + b22)*(c11 + c22) in it")
    extents = [[max((place[axis] for product in products for place in product[mode]), default=0) for axis in (0, 1)] for mode in range(3)]
    n, m, p = extents[0][0], max(extents[0][1], extents[1][0]), extents[1][1]
    if extents[2] not in ([p, n], [n, p]):
        raise InputError(f"the indices of a, b and c go up to {extents}: they must be n x m, m x p and p x n (C^T), or n x p")
    checked_target((n, m, p), len(products))
    widths = (m, p, extents[2][1])
    factors = []
    for mode, (name, extent, width) in enumerate(zip("UVW", (n * m, m * p, n * p), widths, strict=True)):
        rows: list[list[Entry]] = []
        for product in products:
            row: list[Entry] = [0] * extent
            for (i, j), value in product[mode].items():
                row[(i - 1) * width + j - 1] = value
            rows.append(row)
        factors.append(factor_of(name, rows))
    ring = "Z2" if re.search(r"mod_?2(?![0-9])", source.path.name) else None
    return [Scheme((factors[0], factors[1], factors[2]), (n, m, p), ring, {"imported": NAME})]


def write(algorithm: BilinearAlgorithm) -> bytes:
    """The text, a product a line."""
    check_held(algorithm, "exp", "fractions")
    n, m, p = sizes(algorithm)
    lines = []
    for product in zip(*entries(algorithm, "C^T"), strict=True):
        sums = (_sum(letter, row, width) for letter, row, width in zip("abc", product, (m, p, n), strict=True))
        lines.append("*".join(f"({text})" for text in sums))
    return "\n".join([*lines, ""]).encode()


def _sum(letter: str, row: list[Entry], width: int) -> str:
    text = ""
    for index, value in enumerate(row):
        if value:
            assert not isinstance(value, tuple)
            i, j = index // width + 1, index % width + 1
            name = f"{letter}{i}{j}" if max(i, j) < 10 else f"{letter}({i},{j})"
            text += ("-" if value < 0 else "+" if text else "") + ("" if abs(value) == 1 else f"{abs(value)} ") + name
    return text or f"0 {letter}11"


def _product(text: str) -> list[Terms]:
    """The three sums of a line, scaled by the numbers that stand among them."""
    if len(text) > MAX_LINE:
        raise InputError(f"longer than {MAX_LINE} characters")
    sums: dict[str, Terms] = {}
    scale: Number = 1
    for part in _factors(text):
        inner, sign = part.strip(), 1
        while inner[:1] in ("-", "+"):
            sign, inner = (-sign if inner[0] == "-" else sign), inner[1:].strip()
        if inner.startswith("(") and inner.endswith(")"):
            inner = inner[1:-1].strip()
        scale = scale * sign
        if not re.search("[abc]", inner):
            found = coefficient(inner)
            if isinstance(found, tuple):
                raise InputError(f"{inner!r:.40} is complex")
            scale = scale * found
            continue
        letter, terms = _terms(inner)
        if letter in sums:
            raise InputError(f"two sums of {letter}")
        sums[letter] = terms
    if len(sums) != 3:
        raise InputError(f"expected a sum of a, one of b and one of c, found {', '.join(sorted(sums)) or 'none'}")
    sums["a"] = {place: value * scale for place, value in sums["a"].items()}
    return [sums[letter] for letter in "abc"]


def _factors(text: str) -> Iterator[str]:
    """What stands between the asterisks outside parentheses, a coefficient's own asterisk (2*a11) left within."""
    depth = start = 0
    for match in re.finditer(r"[()*]", text):
        depth += {"(": 1, ")": -1, "*": 0}[match[0]]
        if depth < 0:
            raise InputError("')' without its '('")
        if match[0] == "*" and depth == 0:
            yield text[start : match.start()]
            start = match.end()
    if depth:
        raise InputError("'(' without its ')'")
    yield text[start:]


def _terms(text: str) -> tuple[str, Terms]:
    terms: Terms = {}
    letters = set()
    place = 0
    while place < len(text):
        signs = _SIGNS.match(text, place)
        assert signs is not None
        match = _TERM.match(text, signs.end())
        if match is None or (place and not signs[0].strip()):
            raise InputError(f"{text[place : place + 20].strip()!r} is no term such as a11, -b12 or 2 c21")
        value = coefficient(match["coefficient"] or "1")
        if isinstance(value, tuple):
            raise InputError(f"{match['coefficient']!r} is complex")
        at = int(match["i"] or match["row"]), int(match["j"] or match["column"])
        if min(at) < 1:
            raise InputError(f"{match[0]!r:.40}: rows and columns count from 1")
        letters.add(match["letter"])
        terms[at] = terms.get(at, 0) + (-value if signs[0].count("-") % 2 else value)
        place = match.end()
        while place < len(text) and text[place] == " ":
            place += 1
    if len(letters) != 1:
        raise InputError(f"a sum of {' and '.join(sorted(letters))}: {text!r:.40}")
    return letters.pop(), terms
