"""A Python module that needs NumPy alone: the factors and a `multiply` function."""

from __future__ import annotations

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.exact import modulus_of
from stlsearch.registry.codec import encode
from stlsearch.registry.formulas import formula_lines

_MULTIPLY_MATRICES = '''\
def multiply(a, b):
    """The product of a (..., {n}, {m}) and b (..., {m}, {p}), shape (..., {n}, {p}): one {n}x{m}x{p} tile."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape[-2:] != ({n}, {m}) or b.shape[-2:] != ({m}, {p}):
        raise ValueError(f"expected (..., {n}, {m}) and (..., {m}, {p}), not {{a.shape}} and {{b.shape}}")
    products = (a.reshape(*a.shape[:-2], {a}) @ U.T) * (b.reshape(*b.shape[:-2], {b}) @ V.T)
    c = {combine}
    return c.reshape(*c.shape[:-1], {n}, {p})
'''

_MULTIPLY_VECTORS = '''\
def multiply(a, b):
    """The product of a (..., {a}) and b (..., {b}), shape (..., {c})."""
    products = (np.asarray(a) @ U.T) * (np.asarray(b) @ V.T)
    return {combine}
'''


def write(algorithm: BilinearAlgorithm) -> bytes:
    """The module's source. Exact factors stay integers, over one DENOMINATOR where they are fractions."""
    a, b, c = algorithm.target.dims
    lines = [
        f'"""{algorithm.name}: relative squared error e = {algorithm.error:.6g}, amplification g = {algorithm.amplification:.6g}.',
        "",
        "C = W.T @ ((U @ vec A) * (V @ vec B)), row-major. Written by stlsearch.",
        "",
        *formula_lines(algorithm),
        '"""',
        "",
        "import numpy as np",
        "",
        f"ID = {algorithm.id!r}",
        f"TARGET = {algorithm.target.describe()!r}",
        f"RING = {algorithm.ring!r}",
        f"PROVENANCE = {encode(algorithm)['provenance']!r}",
        "",
    ]
    combine = "products @ W"
    if algorithm.exact is None:
        for name, factor in zip("UVW", (algorithm.U, algorithm.V, algorithm.W), strict=True):
            parts = (factor.real, factor.imag if np.iscomplexobj(factor) else None)
            lines += _assignment(name, *parts, dtype="float64")
    else:
        for name, exact in zip("UVW", algorithm.exact, strict=True):
            lines += _assignment(name, exact.real, exact.imaginary, dtype="int64")
        denominator = algorithm.exact[0].denominator * algorithm.exact[1].denominator * algorithm.exact[2].denominator
        prime = modulus_of(algorithm.ring)
        if denominator != 1:
            lines += [f"DENOMINATOR = {denominator}  # of the three factors together", ""]
            combine += " / DENOMINATOR"
        elif prime is not None:
            combine += f" % {prime}"
    sizes = {"a": a, "b": b, "c": c, "combine": combine}
    if algorithm.target.shape is None:
        source = _MULTIPLY_VECTORS.format(**sizes)
    else:
        n, m, p = algorithm.target.shape
        source = _MULTIPLY_MATRICES.format(n=n, m=m, p=p, **sizes)
    return "\n".join([*lines, "", source]).encode()


def _assignment(name: str, real: np.ndarray, imaginary: np.ndarray | None, dtype: str) -> list[str]:
    lines = _array(f"{name} = ", real, dtype)
    if imaginary is not None:
        lines += _array(f"{name} = {name} + 1j * ", imaginary, dtype)
    return [*lines, ""]


def _array(start: str, matrix: np.ndarray, dtype: str) -> list[str]:
    return [f"{start}np.array(", "    [", *(f"        {row!r}," for row in matrix.tolist()), "    ],", f"    dtype=np.{dtype},", ")"]
