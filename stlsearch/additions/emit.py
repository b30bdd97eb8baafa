"""Straight-line programs as readable code: Python, C and LaTeX.

Sums of entries of A are s1, s2, ..., of B t1, t2, ..., of products q1, q2, .... Every product is one sum (or entry) times another, its sign
moved to where it is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from stlsearch.additions.counting import Additions
from stlsearch.additions.program import Coefficient, Program
from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.exact import modulus_of

Terms = list[tuple[Coefficient, str]]
Line = tuple[str, Terms]


@dataclass(frozen=True)
class _Code:
    """An algorithm as lines, name = sum: the encoders, the products (name, left, right) and the decoder."""

    encode_a: list[Line]
    encode_b: list[Line]
    products: list[tuple[str, Terms, Terms]]
    decode: list[Line]
    inputs: tuple[list[str], list[str]]
    outputs: list[str]


def emit(algorithm: BilinearAlgorithm, additions: Additions, language: str) -> str:
    """The algorithm as code that shares sums.

    Args:
        additions: its `count`.
        language: one of `LANGUAGES`.

    Raises:
        InputError: another language, or an algorithm over Zp.
    """
    if language not in LANGUAGES:
        raise InputError(f"unknown language {language!r:.20}; valid: {', '.join(LANGUAGES)}")
    if modulus_of(algorithm.ring) is not None:
        raise InputError(f"{algorithm.name} is over {algorithm.ring}: its program would be wrong for numbers")
    return LANGUAGES[language](algorithm, _title(algorithm, additions), _code(algorithm, additions))


def _title(algorithm: BilinearAlgorithm, additions: Additions) -> str:
    scalings = f", {additions.scalings} scalings" if additions.scalings else ""
    parts = f"{additions.encode_a} + {additions.encode_b} + {additions.decode}"
    return f"{algorithm.name}: {algorithm.rank} multiplications, {additions.total} additions ({parts}){scalings}."


def _code(algorithm: BilinearAlgorithm, additions: Additions) -> _Code:
    names = [[algorithm.target.variable(mode, index) for index in range(size)] for mode, size in enumerate(algorithm.target.dims)]
    signs = [1] * algorithm.rank
    encoded: list[tuple[list[Line], list[Terms]]] = []
    for mode, letter in ((0, "s"), (1, "t")):
        program = additions.programs[mode].tidied()
        values = names[mode] + [f"{letter}{k + 1}" for k in range(len(program.instructions))]
        lines = [(values[program.inputs + k], [(c, values[v]) for c, v in terms]) for k, terms in enumerate(program.instructions)]
        results: list[Terms] = []
        for row, (coefficient, value) in enumerate(program.outputs):
            signs[row] *= -1 if coefficient < 0 else 1
            results.append([(abs(Fraction(coefficient)), values[value])])
        encoded.append((lines, results))
    products = [f"p{k + 1}" for k in range(algorithm.rank)]
    multiplied = list(zip(products, encoded[0][1], encoded[1][1], strict=True))
    decode = _decoded(additions.programs[2].tidied(signs), products, names[2])
    return _Code(encoded[0][0], encoded[1][0], multiplied, decode, (names[0], names[1]), names[2])


def _decoded(program: Program, products: list[str], outputs: list[str]) -> list[Line]:
    """The lines of the decoder; a sum that is an entry of C gets its name."""
    values, number = list(products), 0
    own = {value: name for (coefficient, value), name in reversed(list(zip(program.outputs, outputs, strict=True))) if coefficient == 1}
    for value in range(program.inputs, program.inputs + len(program.instructions)):
        number += value not in own
        values.append(own.get(value, f"q{number}"))
    lines: list[Line] = [(values[program.inputs + k], [(c, values[v]) for c, v in terms]) for k, terms in enumerate(program.instructions)]
    made = {name for name, _ in lines}
    for (coefficient, value), name in zip(program.outputs, outputs, strict=True):
        if name not in made:
            lines.append((name, [(coefficient, values[value])]))
    return lines


def _sum(terms: Terms, scaled: Callable[[Fraction, str], str]) -> str:
    """``a11 - 2 * b12``, by a function that writes a positive coefficient times a name."""
    text = ""
    for coefficient, name in terms:
        part = name if abs(coefficient) == 1 else scaled(abs(Fraction(coefficient)), name)
        sign = "-" if coefficient < 0 else "+"
        text += f" {sign} {part}" if text else f"{'-' if coefficient < 0 else ''}{part}"
    return text


def _scaled_python(size: Fraction, name: str) -> str:
    if size == 0:
        return f"0 * {name}"
    return (f"{size.numerator} * " if size.numerator != 1 else "") + name + (f" / {size.denominator}" if size.denominator != 1 else "")


def _scaled_c(size: Fraction, name: str) -> str:
    if size == 0:
        return f"0.0 * {name}"
    return (f"{size.numerator}.0 * " if size.numerator != 1 else "") + name + (f" / {size.denominator}.0" if size.denominator != 1 else "")


def _scaled_latex(size: Fraction, name: str) -> str:
    number = f"\\tfrac{{{size.numerator}}}{{{size.denominator}}}" if size.denominator != 1 else str(size.numerator)
    return f"{number}\\,{name}"


def _factor(text: str) -> str:
    return f"({text})" if " " in text else text


def _python(algorithm: BilinearAlgorithm, title: str, code: _Code) -> str:
    shape = algorithm.target.shape
    lines = [f'"""{title} Written by stlsearch."""', "", "from operator import mul", "", "", "def multiply(A, B, product=mul):"]
    if shape is not None:
        n, m, p = shape
        lines.append(
            f'    """A ({n} x {m}) times B ({m} x {p}), sequences of rows of numbers or of blocks; `product` multiplies two of those."""'
        )
        for matrix, names, rows in (("A", code.inputs[0], n), ("B", code.inputs[1], m)):
            width = len(names) // rows
            for row in range(rows):
                lines.append(f"    {', '.join(names[row * width : row * width + width])}{',' if width == 1 else ''} = {matrix}[{row}]")
    else:
        lines.append('    """The bilinear map of two sequences of numbers or blocks; `product` multiplies two of those."""')
        for matrix, names in (("A", code.inputs[0]), ("B", code.inputs[1])):
            lines.append(f"    {', '.join(names)}{',' if len(names) == 1 else ''} = {matrix}")
    for name, terms in code.encode_a + code.encode_b:
        lines.append(f"    {name} = {_sum(terms, _scaled_python)}")
    for name, left, right in code.products:
        lines.append(f"    {name} = product({_sum(left, _scaled_python)}, {_sum(right, _scaled_python)})")
    for name, terms in code.decode:
        lines.append(f"    {name} = {_sum(terms, _scaled_python)}")
    if shape is None:
        lines.append(f"    return [{', '.join(code.outputs)}]")
    else:
        width = shape[2]
        rows_text = [f"[{', '.join(code.outputs[start : start + width])}]" for start in range(0, len(code.outputs), width)]
        lines.append(f"    return [{', '.join(rows_text)}]")
    return "\n".join([*lines, ""])


def _c(algorithm: BilinearAlgorithm, title: str, code: _Code) -> str:
    a, b, c = algorithm.target.dims
    what = "row-major" if algorithm.target.shape is not None else "vectors"
    lines = [f"/* {title} Written by stlsearch. */", ""]
    lines += [f"/* A has {a} entries, B {b}, C {c}, {what}; C must not overlap them. */"]
    lines += ["static void multiply(const double *A, const double *B, double *C)", "{"]
    for matrix, names in (("A", code.inputs[0]), ("B", code.inputs[1])):
        lines += [f"    const double {name} = {matrix}[{index}];" for index, name in enumerate(names)]
    for name, terms in code.encode_a + code.encode_b:
        lines.append(f"    const double {name} = {_sum(terms, _scaled_c)};")
    for name, left, right in code.products:
        lines.append(f"    const double {name} = {_factor(_sum(left, _scaled_c))} * {_factor(_sum(right, _scaled_c))};")
    for name, terms in code.decode:
        lines.append(f"    const double {name} = {_sum(terms, _scaled_c)};")
    lines += [f"    C[{index}] = {name};" for index, name in enumerate(code.outputs)]
    return "\n".join([*lines, "}", ""])


def _latex(algorithm: BilinearAlgorithm, title: str, code: _Code) -> str:
    def name_of(name: str) -> str:
        return re.sub(r"^([a-z]+)(.+)$", r"\1_{\2}", name.replace("_", ","))

    def total(terms: Terms) -> str:
        return _sum([(coefficient, name_of(name)) for coefficient, name in terms], _scaled_latex)

    lines = [f"  {name_of(name)} &= {total(terms)}" for name, terms in code.encode_a + code.encode_b]
    lines += [f"  {name_of(name)} &= {_factor(total(left))}\\,{_factor(total(right))}" for name, left, right in code.products]
    lines += [f"  {name_of(name)} &= {total(terms)}" for name, terms in code.decode]
    return "\n".join([f"% {title}", "\\begin{align*}", " \\\\\n".join(lines), "\\end{align*}", ""])


LANGUAGES: dict[str, Callable[[BilinearAlgorithm, str, _Code], str]] = {"python": _python, "c": _c, "latex": _latex}
"""What `emit` writes."""
