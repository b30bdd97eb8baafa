"""LaTeX: the formulas in an align* environment (package amsmath)."""

from __future__ import annotations

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.registry.formulas import LATEX, formulas


def write(algorithm: BilinearAlgorithm) -> bytes:
    """The environment as text; coefficients of an inexact algorithm are rounded to 4 digits."""
    lines = [f"  {left} &= {right}" for left, right in formulas(algorithm, LATEX)]
    comment = f"% {algorithm.name}: e = {algorithm.error:.6g}, g = {algorithm.amplification:.6g}"
    return "\n".join([comment, "\\begin{align*}", " \\\\\n".join(lines), "\\end{align*}", ""]).encode()
