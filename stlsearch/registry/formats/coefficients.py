"""Coefficients as files write them, and matrices of them: exact wherever they are fractions.

A coefficient is an integer, a `Fraction`, a float that is no small fraction, or a pair (real, imaginary) of these.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from math import lcm

import numpy as np

from stlsearch.errors import InputError
from stlsearch.exact import MAX_INTEGER, ExactMatrix

MAX_DYADIC = 2**20  # the largest denominator of floats that are taken as fractions: 0.375 is meant exactly, 0.1 is not
MAX_TEXT = 120  # characters of one coefficient

Number = int | Fraction | float
Entry = Number | tuple[Number, Number]  # a pair is real and imaginary part
Factor = ExactMatrix | np.ndarray  # of floats: float64, or complex128

_TERM = re.compile(
    r"(?P<sign>[+-]?)(?:(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?)(?:/(?P<below>[0-9]{1,16}))?)?"
    r"(?P<unit>\*?[ijIJ](?:/(?P<under>[0-9]{1,16}))?)?"
)


def number(value: object) -> Number:
    """An integer, a fraction as text such as "-3/8", or a float; floats with small denominators count as fractions.

    Raises:
        InputError: anything else, or integers beyond 2^53.
    """
    if isinstance(value, str) and (match := re.fullmatch(r"([+-]?[0-9]{1,16})(?:/([0-9]{1,16}))?", value.strip())):
        if int(match[2] or 1) == 0:
            raise InputError(f"a coefficient is {value!r:.40}: its denominator is 0")
        return Fraction(int(match[1]), int(match[2] or 1))
    if type(value) is int and abs(value) <= MAX_INTEGER:
        return Fraction(value)
    if type(value) is float and math.isfinite(value):
        exact = Fraction(value)
        return exact if exact.denominator <= MAX_DYADIC and abs(value) <= MAX_INTEGER else value
    shown = "an integer of thousands of digits" if type(value) is int and value.bit_length() > 10_000 else f"{value!r:.40}"
    raise InputError(f'a coefficient must be an integer up to 2^53, a fraction such as "1/8", or a float, not {shown}')


def coefficient(text: str) -> Entry:
    """The number that a text such as -1, 3/8, 0.5, 0.5-0.5j, -I/2 or 1/2*I writes.

    Raises:
        InputError: it writes none, or integers beyond 2^53.
    """
    if re.fullmatch(r"[+-]?[0-9]{1,15}", text):  # nearly all are
        return int(text)
    if len(text) > MAX_TEXT:
        raise InputError(f"{text!r:.40}... is too long for a coefficient")
    inner = re.sub(r"\s*([-+*/])\s*", r"\1", text.strip())
    parts: list[Number] = [0, 0]
    place = 0
    while place < len(inner):
        match = _TERM.match(inner, place)
        if match is None or not (match["number"] or match["unit"]) or (place and not match["sign"]):
            break
        value = _fraction(match["number"] or "1", match["below"])
        if match["under"]:
            value = _divided(value, match["under"])
        index = 1 if match["unit"] else 0
        parts[index] += -value if match["sign"] == "-" else value
        place = match.end()
    if not inner or place != len(inner):
        raise InputError(f"{text!r:.40} is no coefficient, such as -1, 3/8, 0.5 or 0.5-0.5j")
    return (parts[0], parts[1]) if parts[1] else parts[0]


def factor_of(name: str, rows: Sequence[Sequence[Entry]]) -> Factor:
    """A matrix, exact when every entry is a fraction.

    Raises:
        InputError: rows of different lengths, none, or denominators that multiply up beyond 2^53.
    """
    if not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        raise InputError(f"{name} must be a matrix: its rows are missing or have different lengths")
    try:
        if all(type(entry) is int for row in rows for entry in row):
            return ExactMatrix.make(rows)
        pairs = [[entry if isinstance(entry, tuple) else (entry, 0) for entry in row] for row in rows]
        if all(isinstance(part, int | Fraction) for row in pairs for pair in row for part in pair):
            parts = [[[Fraction(pair[part]) for pair in row] for row in pairs] for part in (0, 1)]
            numerators, denominator = over_one_denominator([*parts[0], *parts[1]])
            return ExactMatrix.make(numerators[: len(rows)], denominator, numerators[len(rows) :])
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    real, imaginary = (np.array([[float(pair[part]) for pair in row] for row in pairs]) for part in (0, 1))
    return real + 1j * imaginary if imaginary.any() else real


def over_one_denominator(rows: list[list[Fraction]]) -> tuple[list[list[int]], int]:
    """Integers over the least common denominator.

    Raises:
        InputError: it exceeds 2^53 (stopping there: the denominators of a hostile file multiply up for ever).
    """
    denominator = 1
    for value in {value.denominator for row in rows for value in row}:
        denominator = lcm(denominator, value)
        if denominator > MAX_INTEGER:
            raise InputError("the least common denominator of a factor exceeds 2^53")
    return [[int(value * denominator) for value in row] for row in rows], denominator


def floats(factor: Factor) -> np.ndarray:
    """float64, or complex128 when there is an imaginary part."""
    return factor.to_float() if isinstance(factor, ExactMatrix) else factor


def transposed(factor: Factor) -> Factor:
    """The transpose: a file may hold a column per product."""
    if not isinstance(factor, ExactMatrix):
        return factor.T
    return ExactMatrix.make(factor.real.T, factor.denominator, None if factor.imaginary is None else factor.imaginary.T)


def _fraction(text: str, below: str | None) -> Number:
    whole = text.isdigit()
    if whole and len(text) > 16:
        raise InputError(f"a coefficient is {text:.20}...: integers may be as large as 2^53")
    value = number(int(text) if whole else float(text))
    return _divided(value, below) if below else value


def _divided(value: Number, below: str) -> Number:
    if int(below) == 0:
        raise InputError("a coefficient has the denominator 0")
    return value / int(below) if isinstance(value, float) else Fraction(value) / int(below)
