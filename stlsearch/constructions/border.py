"""Border-rank families by formula, and new ones from old: permutation, Kronecker product, direct sum.

Orders of the error: a permutation keeps k, a Kronecker product and a direct sum have the least of their parts
(exact algorithms count as families without error). Results are verified over Q[eps, 1/eps].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.border import BorderAlgorithm
from stlsearch.constructions.transforms import DIMENSIONS, Shape, block_columns, check_dimension, direct_sum_cells, summed_shape
from stlsearch.errors import InputError
from stlsearch.laurent import LaurentFactors, LaurentMatrix
from stlsearch.targets import Target


def bini() -> BorderAlgorithm:
    """<3,2,2;10> with error O(eps): Bini, Capovani, Lotti and Romani, Inf. Process. Lett. 8 (1979).

    Five products multiply a 2 x 2 matrix whose entry a21 is missing by a full one, up to O(eps):

        m1 = (a11 + a22)(eps b11 + b22)             c11 = (m1 + m2 - m3 + m4)/eps = a11 b11 + a12 b21 - eps a12 b11
        m2 = -a22 (b21 + b22)                       c12 = (m5 - m3)/eps           = a11 b12 + a12 b22 + eps a12 b12
        m3 = a11 b22                                c21 = m4                      = a22 b21 + O(eps)
        m4 = (eps a12 + a22)(b21 - eps b11)         c22 = m1 - m5                 = a22 b22 + O(eps)
        m5 = (a11 + eps a12)(eps b12 + b22)

    A 3 x 2 matrix is two of these: rows 1 and 2 without a21, and, with rows and columns in reverse, rows 3 and 2
    without a22. Both add to row 2 of the product.
    """
    # {exponent of eps: rows over (a11, a12, a22), (b11, b12, b21, b22) and (c11, c12, c21, c22)}
    u = {0: [[1, 0, 1], [0, 0, 1], [1, 0, 0], [0, 0, 1], [1, 0, 0]], 1: [[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 1, 0]]}
    v = {
        0: [[0, 0, 0, 1], [0, 0, -1, -1], [0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]],
        1: [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [-1, 0, 0, 0], [0, 1, 0, 0]],
    }
    w = {
        -1: [[1, 0, 0, 0], [1, 0, 0, 0], [-1, -1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]],
        0: [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, -1]],
    }
    halves = []
    # Where a11, a12, a22 (then b, then c) of the partial product lie in the 3 x 2 matrix, row-major (b: 2 x 2, c: 3 x 2).
    for places in (([0, 1, 3], [0, 1, 2, 3], [0, 1, 2, 3]), ([5, 4, 2], [2, 3, 0, 1], [4, 5, 2, 3])):
        sizes = (6, 4, 6)
        scatter = [np.eye(size, dtype=np.int64)[place] for size, place in zip(sizes, places, strict=True)]
        halves.append([LaurentMatrix.make(terms).times(matrix) for terms, matrix in zip((u, v, w), scatter, strict=True)])
    factors = [first.stack(second) for first, second in zip(*halves, strict=True)]
    provenance = {"construction": "bini", "source": "Bini, Capovani, Lotti, Romani 1979, Inf. Process. Lett. 8"}
    return BorderAlgorithm.make(Target.matmul(3, 2, 2), (factors[0], factors[1], factors[2]), provenance)


def family(algorithm: BilinearAlgorithm) -> BorderAlgorithm:
    """An exact real algorithm as a family that does not depend on eps.

    Raises:
        InputError: an algorithm that is not exact over Q.
    """
    if algorithm.exact is None or not algorithm.is_real:
        raise InputError(f"{algorithm.name} is over {algorithm.ring}; only algorithms exact over Q count as families")
    U, V, W = (LaurentMatrix.constant(factor) for factor in algorithm.exact)
    return BorderAlgorithm.make(algorithm.target, (U, V, W), {"parents": [{"id": algorithm.id, "name": algorithm.name}]})


def compose(first: BorderAlgorithm, second: BorderAlgorithm) -> BorderAlgorithm:
    """Kronecker product: <n1,m1,p1;r1> and <n2,m2,p2;r2> give <n1n2, m1m2, p1p2; r1r2>, the first working on the blocks."""
    outer, inner = _shape(first, "compose"), _shape(second, "compose")
    target = Target.matmul(*(a * b for a, b in zip(outer, inner, strict=True)))
    pairs = zip(first.factors, second.factors, strict=True)
    factors = [x.kron(y).columns(block_columns(mode, outer, inner)) for mode, (x, y) in enumerate(pairs)]
    return _result(target, factors, [first, second], "compose")


def direct_sum(first: BorderAlgorithm, second: BorderAlgorithm, dimension: str) -> BorderAlgorithm:
    """Two products side by side along n, m or p: ranks add.

    Raises:
        InputError: an unknown dimension, or shapes that differ in another one.
    """
    along = DIMENSIONS.index(check_dimension(dimension))
    shapes = _shape(first, "direct_sum"), _shape(second, "direct_sum")
    total = Target.matmul(*summed_shape(*shapes, dimension))
    factors = []
    for mode, (x, y) in enumerate(zip(first.factors, second.factors, strict=True)):
        unit = np.eye(total.dims[mode], dtype=np.int64)
        cells = direct_sum_cells(mode, shapes[0], shapes[1], along)
        factors.append(x.times(unit[cells[0]]).stack(y.times(unit[cells[1]])))
    return _result(total, factors, [first, second], "direct_sum", dimension=dimension)


def transpose(algorithm: BorderAlgorithm) -> BorderAlgorithm:
    """<n,m,p> -> <p,m,n>, from (A B)^T = B^T A^T."""
    n, m, p = _shape(algorithm, "transpose")
    U, V, W = algorithm.factors
    factors = [V.columns(_flipped(m, p)), U.columns(_flipped(n, m)), W.columns(_flipped(n, p))]
    return _result(Target.matmul(p, m, n), factors, [algorithm], "transpose")


def cyclic(algorithm: BorderAlgorithm) -> BorderAlgorithm:
    """<n,m,p> -> <m,p,n>, from trace(A B C) = trace(B C A)."""
    n, m, p = _shape(algorithm, "cyclic")
    U, V, W = algorithm.factors
    factors = [V, W.columns(_flipped(n, p)), U.columns(_flipped(n, m))]
    return _result(Target.matmul(m, p, n), factors, [algorithm], "cyclic")


def permute(algorithm: BorderAlgorithm, order: Sequence[int]) -> BorderAlgorithm:
    """Any of the six permutations of <n,m,p>: `order` (2, 3, 1) gives <m,p,n>.

    Raises:
        InputError: `order` is no permutation of 1, 2, 3.
    """
    steps: dict[tuple[int, ...], list[Callable[[BorderAlgorithm], BorderAlgorithm]]] = {
        (1, 2, 3): [],
        (2, 3, 1): [cyclic],
        (3, 1, 2): [cyclic, cyclic],
        (3, 2, 1): [transpose],
        (2, 1, 3): [transpose, cyclic],
        (1, 3, 2): [transpose, cyclic, cyclic],
    }
    if tuple(order) not in steps:
        raise InputError(f"permute needs an order of 1, 2, 3 such as 2,3,1, not {tuple(order)}")
    _shape(algorithm, "permute")
    result = algorithm
    for step in steps[tuple(order)]:
        result = step(result)
    return result.with_provenance(operation="permute", order=list(order), parents=_parents([algorithm]))


def _shape(algorithm: BorderAlgorithm, operation: str) -> Shape:
    if algorithm.target.shape is None:
        raise InputError(f"{operation} works on matrix products, not on {algorithm.target.slug}")
    return algorithm.target.shape


def _flipped(rows: int, columns: int) -> np.ndarray:
    return np.arange(rows * columns).reshape(rows, columns).T.ravel()


def _result(
    target: Target, factors: Sequence[LaurentMatrix], parents: Sequence[BorderAlgorithm], operation: str, **details: object
) -> BorderAlgorithm:
    U, V, W = factors
    joined: LaurentFactors = (U, V, W)
    inherited = _origin(parents[0]) if len(parents) == 1 else {}
    return BorderAlgorithm.make(target, joined, {**inherited, "operation": operation, **details, "parents": _parents(parents)})


def _parents(parents: Sequence[BorderAlgorithm]) -> list[dict[str, object]]:
    return [{"id": parent.id, "name": parent.name, **_origin(parent)} for parent in parents]


def _origin(parent: BorderAlgorithm) -> dict[str, object]:
    """Whose it is, which outlives what is done to it."""
    return {key: parent.provenance[key] for key in ("source", "licence") if key in parent.provenance}
