"""Text of the same catalogue and its flip-graph programs: a line `n m p rank`, then U, V and W, a line of numbers each.

Numbers are row after row, a row per product, W of C^T; fractions are written as pairs, numerator and denominator, all of them
or none. A file of several algorithms begins with a line that holds their number.
"""

from __future__ import annotations

import re
from fractions import Fraction

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.registry.formats.coefficients import Entry, factor_of, number
from stlsearch.registry.formats.layout import check_held, entries, sizes
from stlsearch.registry.formats.scheme import Scheme, Source, checked_target

NAME = "Perminov's text"
_HEADER = re.compile(r"[0-9]{1,4}\s+[0-9]{1,4}\s+[0-9]{1,4}\s+[0-9]{1,7}")


def is_text(text: str) -> bool:
    """Whether a text begins as this format does."""
    lines = [line.strip() for line in text[:4000].splitlines() if line.strip()][:2]
    if lines and re.fullmatch(r"[0-9]{1,9}", lines[0]):
        lines = lines[1:]
    return bool(lines) and _HEADER.fullmatch(lines[0]) is not None


def read(source: Source) -> list[Scheme]:
    """The algorithms of such a text, not yet verified.

    Raises:
        InputError: one line that names the first fault.
    """
    lines = [(count, line.split()) for count, line in enumerate(source.text.splitlines(), 1) if line.strip()]
    if not lines:
        raise InputError("an empty file")
    several = len(lines[0][1]) == 1
    promised = 1
    if several:
        count, (word,) = lines.pop(0)
        if not re.fullmatch(r"[0-9]{1,9}", word) or not int(word):
            raise InputError(f"line {count}: expected the number of algorithms, or n m p rank, not {word!r:.40}")
        promised = int(word)
    if len(lines) != 4 * promised:
        raise InputError(f"{promised} algorithm(s) would be {4 * promised} lines, n m p rank, U, V and W for each; found {len(lines)}")
    return [_scheme(lines[start : start + 4], f"scheme {start // 4 + 1}" if several else "") for start in range(0, len(lines), 4)]


def write(algorithm: BilinearAlgorithm) -> bytes:
    """The text of one algorithm."""
    check_held(algorithm, "perminov-txt", "fractions")
    factors = entries(algorithm, "C^T")
    pairs = any(isinstance(value, Fraction) for rows in factors for row in rows for value in row)
    lines = [" ".join(map(str, (*sizes(algorithm), algorithm.rank)))]
    lines += [" ".join(_text(value, pairs) for row in rows for value in row) for rows in factors]
    return "\n".join([*lines, ""]).encode()


def _scheme(lines: list[tuple[int, list[str]]], label: str) -> Scheme:
    count, head = lines[0]
    if not _HEADER.fullmatch(" ".join(head)):
        raise InputError(f"line {count}: expected n m p rank, not {' '.join(head)!r:.40}")
    n, m, p, rank = map(int, head)
    target = checked_target((n, m, p), rank)
    factors = []
    for name, extent, (line, words) in zip("UVW", target.dims, lines[1:], strict=True):
        if len(words) not in (rank * extent, 2 * rank * extent):
            raise InputError(f"line {line}: {name} must be {rank} x {extent} numbers, or as many pairs of them, not {len(words)}")
        try:
            values = _values(words, len(words) == 2 * rank * extent)
        except InputError as error:
            raise InputError(f"line {line}: {error}") from None
        factors.append(factor_of(name, [values[start : start + extent] for start in range(0, len(values), extent)]))
    return Scheme((factors[0], factors[1], factors[2]), (n, m, p), provenance={"imported": NAME}, label=label)


def _values(words: list[str], pairs: bool) -> list[Entry]:
    numbers: list[Entry] = []
    for word in words:
        numbers.append(int(word) if re.fullmatch(r"[+-]?[0-9]{1,15}", word) else number(word))
    if not pairs:
        return numbers
    result: list[Entry] = []
    for above, below in zip(numbers[::2], numbers[1::2], strict=True):
        if not isinstance(above, int) or not isinstance(below, int) or below == 0:
            raise InputError(f"{above} {below} is no pair of numerator and denominator")
        result.append(above if below == 1 else Fraction(above, below))
    return result


def _text(value: Entry, pairs: bool) -> str:
    if not pairs:
        return str(value)
    fraction = Fraction(value)  # type: ignore[arg-type]
    return f"{fraction.numerator} {fraction.denominator}"
