"""The tensor form of the FMM catalogue (fmm.univ-lille.fr), a Maple text: TriadSet of Triads of matrices n x m, m x p, p x n.

    Tensor:=TriadSet([Triad([Matrix(2, 2, [[1,0],[0,1]]), Matrix(2, 2, [[..]]), Matrix(2, 2, [[..]])]), ...]):

Entries are integers, fractions such as 1/8, and Gaussian rationals such as 1/2*I. W is that of C^T.
"""

from __future__ import annotations

import re

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.registry.formats.coefficients import Entry
from stlsearch.registry.formats.layout import check_held
from stlsearch.registry.formats.nested import parse_nested
from stlsearch.registry.formats.scheme import Scheme, Source
from stlsearch.registry.formats.triads import scheme_of, triads_of

NAME = "FMM catalogue tensor"
_MATRIX = re.compile(r"Matrix\(\s*([0-9]{1,4})\s*,\s*([0-9]{1,4})\s*,\s*(\[\s*\[[^()]*?\]\s*\])\s*\)")


def read(source: Source) -> list[Scheme]:
    """The algorithm of such a text, not yet verified.

    Raises:
        InputError: one line that names the first fault.
    """
    text = source.text.replace("\\\n", "")  # Maple breaks long lines with a backslash
    if "Triad" not in text:
        raise InputError("no Triad([Matrix(...), Matrix(...), Matrix(...)]) in it")
    matrices: list[list[list[str]]] = []
    for match in _MATRIX.finditer(text):
        try:
            matrix = parse_nested(match[3], "[]")
        except InputError as error:
            raise InputError(f"matrix {len(matrices) + 1}: {error}") from None
        if len(matrix) != int(match[1]) or any(not isinstance(row, list) or len(row) != int(match[2]) for row in matrix):
            raise InputError(f"matrix {len(matrices) + 1} is not {match[1]} x {match[2]} as it says")
        matrices.append(matrix)
    written = text.count("Matrix(")
    if len(matrices) != written or len(matrices) % 3 or not matrices:
        raise InputError(f"expected three matrices a product, Matrix(n, m, [[...]]): {len(matrices)} of {written} could be read")
    if len(re.findall(r"Triad\(", text)) * 3 != len(matrices):
        raise InputError(f"{text.count('Triad(')} Triads with {len(matrices)} matrices: every one must have three")
    return [scheme_of([matrices[start : start + 3] for start in range(0, len(matrices), 3)], NAME)]


def write(algorithm: BilinearAlgorithm) -> bytes:
    """The text of one tensor."""
    check_held(algorithm, "maple", "Gaussian rationals")
    products = []
    for triad in triads_of(algorithm):
        matrices = (f"Matrix({len(matrix)}, {len(matrix[0])}, [{','.join(_row(row) for row in matrix)}])" for matrix in triad)
        products.append(f"Triad([{', '.join(matrices)}])")
    return f"Tensor:=TriadSet([{', '.join(products)}]):\n".encode()


def _row(row: list[Entry]) -> str:
    return f"[{','.join(map(_text, row))}]"


def _text(value: Entry) -> str:
    if not isinstance(value, tuple):
        return str(value)
    real, imaginary = value
    return f"{real if real else ''}{'+' if real and imaginary > 0 else ''}{imaginary}*I"
