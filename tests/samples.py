"""Small algorithms that the tests of storage share."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.transforms import sandwich
from stlsearch.exact import ExactMatrix
from stlsearch.metric import Metric
from stlsearch.targets import Target

STRASSEN_U = [[1, 0, 0, 1], [0, 0, 1, 1], [1, 0, 0, 0], [0, 0, 0, 1], [1, 1, 0, 0], [-1, 0, 1, 0], [0, 1, 0, -1]]
STRASSEN_V = [[1, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, -1], [-1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1]]
STRASSEN_W = [[1, 0, 0, 1], [0, 0, 1, -1], [0, 1, 0, 1], [1, 0, 1, 0], [-1, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]]


def strassen(**provenance: object) -> BilinearAlgorithm:
    return BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), STRASSEN_U, STRASSEN_V, STRASSEN_W, provenance=provenance)


def strassen_mod_2() -> BilinearAlgorithm:
    parts = [np.abs(factor).tolist() for factor in (STRASSEN_U, STRASSEN_V, STRASSEN_W)]
    return BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), *parts, ring="Z2")


def definition(n: int, m: int, p: int) -> BilinearAlgorithm:
    """The algorithm of rank nmp that the definition of the matrix product is."""
    target = Target.matmul(n, m, p)
    i, j, k = np.indices((n, m, p)).reshape(3, -1)
    places = (i * m + j, j * p + k, i * p + k)
    factors = [np.eye(extent, dtype=int)[place].tolist() for place, extent in zip(places, target.dims, strict=True)]
    return BilinearAlgorithm.from_exact(target, *factors)


def karatsuba() -> BilinearAlgorithm:
    rows = [[1, 0], [1, 1], [0, 1]]
    return BilinearAlgorithm.from_exact(Target.make("polymul", {"m": 2, "n": 2}), rows, rows, [[1, -1, 0], [0, 1, 0], [0, -1, 1]])


def halves() -> BilinearAlgorithm:
    """Cyclic convolution of length 2 by its Fourier transform: fractions in W, ring Z[1/2]."""
    rows = [[1, 1], [1, -1]]
    half = [[Fraction(value, 2) for value in row] for row in rows]
    return BilinearAlgorithm.from_exact(Target.make("cyclic", {"n": 2}), rows, rows, half)


def gaussian() -> BilinearAlgorithm:
    """Complex multiplication by conjugate evaluation, (a0 + a1 i)(b0 + b1 i) and its conjugate: rank 2 over Q(i)."""
    encode = ExactMatrix.make([[1, 0], [1, 0]], 1, [[0, 1], [0, -1]])
    decode = ExactMatrix.make([[1, 0], [1, 0]], 2, [[0, -1], [0, 1]])
    return BilinearAlgorithm.from_exact(Target.make("complex", {}), encode, encode, decode)


def noisy(target: Target | None = None, rank: int = 5, seed: int = 0, complex_valued: bool = False) -> BilinearAlgorithm:
    target = target or Target.matmul(2, 2, 2)
    random = np.random.default_rng(seed)
    factors = [random.normal(size=(rank, extent)) for extent in target.dims]
    if complex_valued:
        factors = [factor + 1j * random.normal(size=factor.shape) for factor in factors]
    return BilinearAlgorithm.from_floats(target, *factors, provenance={"seed": seed})


def with_metric(algorithm: BilinearAlgorithm, seed: int = 0) -> BilinearAlgorithm:
    random = np.random.default_rng(seed)
    moments = []
    for extent in algorithm.target.dims[:2]:
        rows = random.normal(size=(3 * extent, extent))
        moment = rows.T @ rows / len(rows)
        moments.append((moment + moment.T) / 2)
    return replace(algorithm, metric=Metric(moments[0], moments[1], {"tokens": "neighbouring"}))


def every_kind() -> list[BilinearAlgorithm]:
    tensor = np.zeros((2, 1, 2), dtype=int)
    tensor[0, 0, 1], tensor[1, 0, 0] = 2, -1
    explicit = BilinearAlgorithm.from_exact(Target.explicit(tensor), [[1, 0], [0, 1]], [[1], [1]], [[0, 2], [-1, 0]])
    return [
        strassen(source="Strassen, 1969"),
        strassen_mod_2(),
        definition(1, 2, 3),
        karatsuba(),
        halves(),
        gaussian(),
        explicit,
        noisy(),
        noisy(Target.matmul(2, 3, 1), 4, complex_valued=True),
        with_metric(noisy(Target.matmul(2, 2, 3), 6)),
        with_metric(strassen()),
    ]


def in_another_basis(algorithm: BilinearAlgorithm, seed: int = 0, orthogonal: bool = True) -> BilinearAlgorithm:
    """The same algorithm in another basis, its terms reordered and rescaled."""
    rng = np.random.default_rng(seed)
    bases = []
    for size in algorithm.target.shape or ():
        basis = rng.normal(size=(size, size))
        bases.append(np.linalg.qr(basis)[0] if orthogonal else basis + 2 * np.eye(size))
    floats = BilinearAlgorithm.from_floats(algorithm.target, algorithm.U, algorithm.V, algorithm.W)
    turned = sandwich(floats, *bases)
    order = rng.permutation(algorithm.rank)
    a, b = rng.normal(size=(2, algorithm.rank, 1))
    return BilinearAlgorithm.from_floats(algorithm.target, turned.U[order] * a, turned.V[order] * b, turned.W[order] / a / b, balance=False)
