"""Algorithms of every ring, and their files in every format, that the tests of exchange share."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from samples import definition, strassen

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.transforms import direct_sum, sandwich
from stlsearch.exact import ExactMatrix
from stlsearch.registry.formats import EXPORTERS, READERS, finished
from stlsearch.registry.formats.scheme import Source

OWN = ("json", "npz", "safetensors")
FOREIGN = [name for name in READERS if name not in OWN]
C_OF_TRANSPOSE, ROW_MAJOR, COLUMN_MAJOR = "W of C^T", "row-major", "U of A^T, V of B^T, W of C^T"
CONVENTIONS = {"fast-matmul": COLUMN_MAJOR, "plinopt": ROW_MAJOR, "flip-cpd": ROW_MAJOR}


def read(data: bytes, name: str = "json") -> BilinearAlgorithm:
    """The only algorithm of a file."""
    (item,) = READERS[name](Source(data))
    return finished(item, name).algorithm


def over(denominator: int) -> BilinearAlgorithm:
    """Strassen's algorithm in a basis that brings in fractions of a denominator."""
    shear = [[1, Fraction(1, denominator)], [0, 1]]
    return sandwich(strassen(), shear, [[1, 0], [1, 1]], [[1, 0], [0, 1]])


def winograd_like() -> BilinearAlgorithm:
    return sandwich(strassen(), [[1, 1], [0, 1]], [[1, 0], [1, 1]], [[0, 1], [1, 1]])


def tall() -> BilinearAlgorithm:
    """<2,3,4;22>: two of Strassen's side by side, and the products of the third column. Its sizes are all different."""
    return direct_sum(direct_sum(strassen(), strassen(), "p"), definition(2, 1, 4), "m")


def gaussian_strassen() -> BilinearAlgorithm:
    """Strassen's algorithm, one term scaled by i and 1/i and another by (1+i)/2 and 1-i."""
    algorithm = strassen()
    U, V, W = algorithm.exact or ()
    left, right = np.zeros((7, 4), dtype=int), np.zeros((7, 4), dtype=int)
    real_left, real_right = 2 * U.real, V.real.copy()
    left[0], right[0] = 2 * U.real[0], -V.real[0]
    real_left[0], real_right[0] = 0, 0
    left[1], right[1] = U.real[1], -V.real[1]
    real_left[1] = U.real[1]
    parts = ExactMatrix.make(real_left, 2, left), ExactMatrix.make(real_right, 1, right), W
    return BilinearAlgorithm.from_exact(algorithm.target, *parts)


def rough(size: complex) -> BilinearAlgorithm:
    """Strassen's algorithm with an error."""
    U = strassen().U + size * np.random.default_rng(0).normal(size=(7, 4))
    return BilinearAlgorithm.from_floats(strassen().target, U, strassen().V, strassen().W)


def mod_3() -> BilinearAlgorithm:
    factors = [(factor.real % 3).tolist() for factor in strassen().exact or ()]
    return BilinearAlgorithm.from_exact(strassen().target, *factors, ring="Z3")


def files_of(algorithm: BilinearAlgorithm, name: str, folder: Path, stem: str = "x") -> Path:
    """Write an algorithm, and the path to read."""
    data = EXPORTERS[name].write(algorithm)
    if not isinstance(data, dict):
        path = folder / f"{stem}{EXPORTERS[name].extension}"
        path.write_bytes(data)
        return path
    for ending, content in data.items():
        (folder / f"{stem}{ending}").write_bytes(content)
    return folder / f"{stem}_L.sms"
