"""An algorithm as formulas: ``m3 = (a11 + a22)(b21 - b11)`` and ``c11 = m1 + m4 - m5``.

Exact coefficients are written as they are (2, 1/2, i), with the factor common to a sum pulled out in
front of the product; inexact ones are rounded to 4 digits for display.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from math import gcd

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.exact import ExactMatrix

DIGITS = 4


@dataclass(frozen=True)
class Style:
    """How to write fractions, names such as a12 or m3, and the space between factors of a product."""

    latex: bool = False

    def fraction(self, value: Fraction) -> str:
        if self.latex and value.denominator != 1:
            sign = "-" if value < 0 else ""
            return f"{sign}\\tfrac{{{abs(value.numerator)}}}{{{value.denominator}}}"
        return str(value)

    def name(self, name: str) -> str:
        return re.sub(r"^([a-z]+)(.+)$", r"\1_{\2}", name.replace("_", ",")) if self.latex else name

    @property
    def space(self) -> str:
        return "\\," if self.latex else " "


TEXT, LATEX = Style(), Style(latex=True)


def formulas(algorithm: BilinearAlgorithm, style: Style = TEXT) -> list[tuple[str, str]]:
    """(left side, right side) of every formula: first the products m1..mr, then the entries of C."""
    name = algorithm.target.variable
    encoders = [[_coefficients(algorithm, mode, row) for row in range(algorithm.rank)] for mode in (0, 1)]
    lines = []
    for row in range(algorithm.rank):
        sums = [[(value, style.name(name(mode, index))) for index, value in encoders[mode][row]] for mode in (0, 1)]
        lines.append((style.name(f"m{row + 1}"), _product(sums[0], sums[1], style)))
    for index in range(algorithm.target.dims[2]):
        terms = [(value, style.name(f"m{row + 1}")) for row, value in _coefficients(algorithm, 2, index)]
        lines.append((style.name(name(2, index)), _sum(terms, style)))
    return lines


def formula_lines(algorithm: BilinearAlgorithm) -> list[str]:
    """The formulas as lines of text, ``left = right``."""
    return [f"{left} = {right}" for left, right in formulas(algorithm)]


Coefficient = Fraction | float | tuple[Fraction, Fraction] | complex
Terms = list[tuple[Coefficient, str]]


def _coefficients(algorithm: BilinearAlgorithm, mode: int, index: int) -> list[tuple[int, Coefficient]]:
    """Non-zero coefficients of one row of U or V, or of one column of W."""
    if algorithm.exact is None:
        values = _line((algorithm.U, algorithm.V, algorithm.W)[mode], mode, index)
        return [(place, value) for place, value in enumerate(values) if value]
    exact: ExactMatrix = algorithm.exact[mode]
    real = _line(exact.real, mode, index)
    if exact.imaginary is None:
        return [(place, Fraction(value, exact.denominator)) for place, value in enumerate(real) if value]
    pairs = enumerate(zip(real, _line(exact.imaginary, mode, index), strict=True))
    return [(place, (Fraction(x, exact.denominator), Fraction(y, exact.denominator))) for place, (x, y) in pairs if x or y]


def _line(matrix: np.ndarray, mode: int, index: int) -> list:
    return (matrix[:, index] if mode == 2 else matrix[index]).tolist()


def _product(left: Terms, right: Terms, style: Style) -> str:
    if not left or not right:
        return "0"
    scale = Fraction(1)
    sides = []
    for terms in (left, right):
        content = _content(terms)
        scale *= content
        terms = terms if content == 1 else [(value / content, name) for value, name in terms]  # type: ignore[operator]
        bare = len(terms) == 1 and terms[0][0] == 1
        sides.append((terms[0][1] if bare else f"({_sum(terms, style)})", bare))
    gap = "" if not sides[0][1] and not sides[1][1] else style.space
    front = {Fraction(1): "", Fraction(-1): "-"}.get(scale, style.fraction(scale) + style.space)
    return f"{front}{sides[0][0]}{gap}{sides[1][0]}"


def _content(terms: Terms) -> Fraction:
    """The rational number that divides every coefficient and leaves coprime integers; the sign of a lone term goes with it."""
    values = [value for value, _ in terms if isinstance(value, Fraction)]
    if len(values) < len(terms):
        return Fraction(1)
    common = max(value.denominator for value in values)
    for value in values:
        common = common * value.denominator // gcd(common, value.denominator)
    content = Fraction(gcd(*(int(value * common) for value in values)), common)
    return -content if len(values) == 1 and values[0] < 0 else content


def _sum(terms: Terms, style: Style) -> str:
    text = ""
    lead = next((place for place, (value, _) in enumerate(terms) if not _magnitude(value, style)[0]), 0)
    for value, name in [*terms[lead : lead + 1], *terms[:lead], *terms[lead + 1 :]]:  # a positive term first: b21 - b11
        negative, size = _magnitude(value, style)
        sign = ("-" if negative else "") if not text else (" - " if negative else " + ")
        text += f"{sign}{size}{style.space if size else ''}{name}"
    return text or "0"


def _magnitude(value: Coefficient, style: Style) -> tuple[bool, str]:
    """(is negative, absolute value as text, empty for 1)."""
    if isinstance(value, complex):
        return False, f"({value.real:.{DIGITS}g}{value.imag:+.{DIGITS}g}i)"
    if isinstance(value, tuple):
        real, imaginary = value
        if imaginary == 0:
            return _magnitude(real, style)
        negative, size = _magnitude(imaginary, style)
        if real == 0:
            return negative, f"{size}i"
        return False, f"({style.fraction(real)} {'-' if negative else '+'} {size}i)"
    size = style.fraction(abs(value)) if isinstance(value, Fraction) else _rounded(abs(value), style)
    return value < 0, "" if size == "1" else size


def _rounded(value: float, style: Style) -> str:
    text = f"{value:.{DIGITS}g}"
    return re.sub(r"e([+-])0*(\d+)$", lambda match: f" \\cdot 10^{{{match[1].strip('+')}{match[2]}}}", text) if style.latex else text
