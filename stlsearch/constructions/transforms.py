"""New algorithms from old: Kronecker product, direct sum, permutation, change of basis, dropped terms.

Results are exact, and verified, when all parents are; of an inexact parent they are inexact. An exact
parent over Zp keeps the result over Zp. A parent's metric is not carried over: the result counts as
made for white inputs. The provenance of a result names the operation and its parents.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import lcm

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.rational import inverse
from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix, modulus_of
from stlsearch.targets import Target

Matrix = ExactMatrix | np.ndarray
Basis = Sequence[Sequence[int | Fraction]] | np.ndarray
Shape = tuple[int, int, int]
DIMENSIONS = ("n", "m", "p")
_LAYOUT = ((0, 1), (1, 2), (0, 2))  # rows and columns of A, B and C among n, m, p


def compose(first: BilinearAlgorithm, second: BilinearAlgorithm) -> BilinearAlgorithm:
    """Kronecker product: <n1,m1,p1;r1> and <n2,m2,p2;r2> give <n1n2, m1m2, p1p2; r1r2>.

    `first` works on the blocks and `second` inside them: entry (i1 n2 + i2, j1 m2 + j2) of A is entry
    (i2, j2) of block (i1, j1).

    Raises:
        InputError: a target that is no matrix product, or rings that do not go together.
    """
    outer, inner = _shape(first, "compose"), _shape(second, "compose")
    target = Target.matmul(*(a * b for a, b in zip(outer, inner, strict=True)))
    factors = []
    for mode, (x, y) in enumerate(zip(*_common_factors(first, second), strict=True)):
        factors.append(_columns(_kron(x, y), block_columns(mode, outer, inner)))
    return _result(target, factors, [first, second], "compose")


def check_dimension(dimension: str) -> str:
    """One of n, m, p.

    Raises:
        InputError: any other text.
    """
    if dimension not in DIMENSIONS:
        raise InputError(f"unknown dimension {dimension!r:.20}; valid: n, m, p")
    return dimension


def summed_shape(first: Shape, second: Shape, dimension: str) -> Shape:
    """(n, m, p) of two products side by side along a dimension.

    Raises:
        InputError: shapes that differ in another one.
    """
    along = DIMENSIONS.index(dimension)
    if any(first[d] != second[d] for d in range(3) if d != along):
        texts = ["x".join(map(str, shape)) for shape in (first, second)]
        raise InputError(f"{texts[0]} and {texts[1]} cannot be summed along {dimension}: the other two sizes must agree")
    n, m, p = (size + (second[d] if d == along else 0) for d, size in enumerate(first))
    return n, m, p


def direct_sum(first: BilinearAlgorithm, second: BilinearAlgorithm, dimension: str) -> BilinearAlgorithm:
    """Two products side by side along n, m or p: ranks add.

    Along n the rows of A (and C) are split between the two, along p the columns of B (and C), along m
    the inner dimension, and the two results are added.

    Raises:
        InputError: an unknown dimension, or shapes that differ in another one.
    """
    along = DIMENSIONS.index(check_dimension(dimension))
    shapes = _shape(first, "direct_sum"), _shape(second, "direct_sum")
    total = summed_shape(*shapes, dimension)
    factors = []
    for mode, (x, y) in enumerate(zip(*_common_factors(first, second), strict=True)):
        cells = direct_sum_cells(mode, shapes[0], shapes[1], along)
        unit = np.eye(total[_LAYOUT[mode][0]] * total[_LAYOUT[mode][1]], dtype=np.int64)
        factors.append(_stack(_times(x, unit[cells[0]]), _times(y, unit[cells[1]])))
    return _result(Target.matmul(*total), factors, [first, second], "direct_sum", dimension=dimension)


def block_columns(mode: int, outer: Shape, inner: Shape) -> np.ndarray:
    """The column order that turns a Kronecker product's (i1, j1, i2, j2) into the row-major (i1, i2, j1, j2) of blocks."""
    (rows1, columns1), (rows2, columns2) = ([shape[d] for d in _LAYOUT[mode]] for shape in (outer, inner))
    order = np.arange(rows1 * columns1 * rows2 * columns2).reshape(rows1, columns1, rows2, columns2)
    return order.transpose(0, 2, 1, 3).ravel()


def direct_sum_cells(mode: int, first: Shape, second: Shape, along: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the entries of the two parts of a direct sum lie in the whole matrix A, B or C, as row-major places."""
    total = [size + (second[d] if d == along else 0) for d, size in enumerate(first)]
    cells = np.arange(total[_LAYOUT[mode][0]] * total[_LAYOUT[mode][1]]).reshape([total[d] for d in _LAYOUT[mode]])
    low = tuple(slice(first[d]) for d in _LAYOUT[mode])
    high = tuple(slice(total[d] - second[d], None) for d in _LAYOUT[mode])
    return cells[low].ravel(), cells[high].ravel()


def cyclic(algorithm: BilinearAlgorithm) -> BilinearAlgorithm:
    """<n,m,p> -> <m,p,n>, from trace(A B C) = trace(B C A): (U, V, W') -> (V, W', U) in the C^T form W'."""
    n, m, p = _shape(algorithm, "cyclic")
    U, V, W = _factors(algorithm)
    factors = [V, _columns(W, _flipped(n, p)), _columns(U, _flipped(n, m))]
    return _result(Target.matmul(m, p, n), factors, [algorithm], "cyclic")


def transpose(algorithm: BilinearAlgorithm) -> BilinearAlgorithm:
    """<n,m,p> -> <p,m,n>, from (A B)^T = B^T A^T: U and V trade places, all three transposed."""
    n, m, p = _shape(algorithm, "transpose")
    U, V, W = _factors(algorithm)
    factors = [_columns(V, _flipped(m, p)), _columns(U, _flipped(n, m)), _columns(W, _flipped(n, p))]
    return _result(Target.matmul(p, m, n), factors, [algorithm], "transpose")


def permute(algorithm: BilinearAlgorithm, order: Sequence[int]) -> BilinearAlgorithm:
    """Any of the six permutations of <n,m,p>: `order` (2, 3, 1) gives <m,p,n>; by cyclic shifts and transposition.

    Raises:
        InputError: `order` is no permutation of 1, 2, 3.
    """
    steps = {(1, 2, 3): 0, (2, 3, 1): 1, (3, 1, 2): 2, (3, 2, 1): 0, (2, 1, 3): 1, (1, 3, 2): 2}
    order = tuple(order)
    if order not in steps:
        raise InputError(f"permute needs an order of 1, 2, 3 such as 2,3,1, not {order}")
    _shape(algorithm, "permute")
    result = algorithm
    if order in ((3, 2, 1), (2, 1, 3), (1, 3, 2)):
        result = transpose(result)
    for _ in range(steps[order]):
        result = cyclic(result)
    return result.with_provenance(operation="permute", order=list(order), parents=_parents([algorithm]))


def permute_to(algorithm: BilinearAlgorithm, shape: tuple[int, int, int]) -> BilinearAlgorithm:
    """The algorithm for `shape`, a permutation of its own (itself when nothing is to do).

    Raises:
        InputError: no permutation of the algorithm's <n,m,p> is `shape`.
    """
    own = _shape(algorithm, "permute")
    for order in ((1, 2, 3), (2, 3, 1), (3, 1, 2), (3, 2, 1), (2, 1, 3), (1, 3, 2)):
        if tuple(own[d - 1] for d in order) == tuple(shape):
            return algorithm if order == (1, 2, 3) else permute(algorithm, order)
    raise InputError(f"{shape} is no permutation of {own}")


def sandwich(algorithm: BilinearAlgorithm, X: Basis, Y: Basis, Z: Basis) -> BilinearAlgorithm:
    """Change of basis: the algorithm applied to X A Y^-1 and Y B Z^-1, its result C' turned back into X^-1 C' Z.

    U' = U (X (x) Y^-T), V' = V (Y (x) Z^-T), W' = W (X^-T (x) Z); de Groote 1978. Exact stays exact under
    matrices of integers or fractions. Orthogonal X, Y, Z leave e and g of any algorithm unchanged; others
    change g, and e unless it is 0.

    Args:
        X, Y, Z: invertible, of sizes n, m and p; integers and fractions, or floats (the result is then inexact).

    Raises:
        InputError: wrong sizes, singular, or not finite.
    """
    shape = _shape(algorithm, "sandwich")
    for name, basis, size in zip("XYZ", (X, Y, Z), shape, strict=True):
        if len(basis) != size or any(len(row) != size for row in basis):
            raise InputError(f"{name} must be a {size} x {size} matrix")
    rational = all(isinstance(value, int | np.integer | Fraction) for basis in (X, Y, Z) for row in basis for value in row)
    matrices: list[Matrix]
    inverses: list[Matrix]
    if rational and algorithm.exact is not None:
        matrices = [ExactMatrix.from_fractions(_python(basis)) for basis in (X, Y, Z)]
        inverses = [ExactMatrix.from_fractions(list(zip(*inverse(_python(basis)), strict=True))) for basis in (X, Y, Z)]
        U, V, W = _factors(algorithm)
    else:
        arrays = [np.asarray(basis) for basis in (X, Y, Z)]
        floats = [array.astype(np.complex128 if np.iscomplexobj(array) else np.float64) for array in arrays]
        try:
            inverses = [np.linalg.inv(basis).T for basis in floats]
        except np.linalg.LinAlgError:
            raise InputError("a change of basis must be invertible, this matrix is singular") from None
        matrices = list(floats)
        U, V, W = _real_floats(algorithm)
    x, y, z = matrices
    x_inverse, y_inverse, z_inverse = inverses
    factors = [_matmul(U, _kron(x, y_inverse)), _matmul(V, _kron(y, z_inverse)), _matmul(W, _kron(x_inverse, z))]
    return _result(algorithm.target, factors, [algorithm], "sandwich")


def drop(algorithm: BilinearAlgorithm, terms: Sequence[int]) -> BilinearAlgorithm:
    """Without the given terms (0-based): rank r - len(terms), and inexact, over R or C.

    Raises:
        InputError: a term that does not exist or none left, or an algorithm over Zp.
    """
    dropped = sorted({int(term) for term in terms})
    if any(not 0 <= term < algorithm.rank for term in dropped) or len(dropped) == algorithm.rank:
        raise InputError(f"cannot drop {dropped} of the terms 0..{algorithm.rank - 1}: they must exist and one must stay")
    kept = [term for term in range(algorithm.rank) if term not in dropped]
    factors: list[Matrix] = [factor[kept] for factor in _real_floats(algorithm)]
    return _result(algorithm.target, factors, [algorithm], "drop", terms=dropped)


def cyclic_form(algorithm: BilinearAlgorithm) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(U, V, W') with W' for C^T, shape (r, pn): the view in which the matrix product is cyclically symmetric."""
    n, _, p = _shape(algorithm, "cyclic_form")
    return algorithm.U, algorithm.V, algorithm.W[:, _flipped(n, p)]


def _shape(algorithm: BilinearAlgorithm, operation: str) -> tuple[int, int, int]:
    if algorithm.target.shape is None:
        raise InputError(f"{operation} works on matrix products, not on {algorithm.target.slug}")
    return algorithm.target.shape


def _flipped(rows: int, columns: int) -> np.ndarray:
    """The column order that turns vec M into vec M^T, M of shape (rows, columns)."""
    return np.arange(rows * columns).reshape(rows, columns).T.ravel()


def _factors(algorithm: BilinearAlgorithm) -> tuple[Matrix, Matrix, Matrix]:
    return algorithm.exact or (algorithm.U, algorithm.V, algorithm.W)


def _real_floats(algorithm: BilinearAlgorithm) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if modulus_of(algorithm.ring) is not None:
        raise InputError(f"an algorithm over {algorithm.ring} has no meaning over the real numbers")
    return algorithm.U, algorithm.V, algorithm.W


def _common_factors(first: BilinearAlgorithm, second: BilinearAlgorithm) -> tuple[tuple[Matrix, ...], tuple[Matrix, ...]]:
    if first.exact is not None and second.exact is not None:
        return first.exact, second.exact
    return _real_floats(first), _real_floats(second)


def _result(
    target: Target, factors: Sequence[Matrix], parents: Sequence[BilinearAlgorithm], operation: str, **details: object
) -> BilinearAlgorithm:
    provenance = {"operation": operation, **details, "parents": _parents(parents)}
    exact = [factor for factor in factors if isinstance(factor, ExactMatrix)]
    if len(exact) < 3:
        return BilinearAlgorithm.from_floats(target, *factors, provenance=provenance)  # type: ignore[arg-type]
    finite = {parent.ring for parent in parents if modulus_of(parent.ring)}
    if len(finite) > 1:
        raise InputError(f"algorithms over {' and '.join(sorted(finite))} do not go together")
    ring = finite.pop() if finite else None
    if ring is not None:
        exact = [ExactMatrix.make(factor.real % modulus_of(ring), factor.denominator, factor.imaginary) for factor in exact]
    return BilinearAlgorithm.from_exact(target, *exact, ring=ring, provenance=provenance)


def _parents(parents: Sequence[BilinearAlgorithm]) -> list[dict[str, str]]:
    return [{"id": parent.id, "name": parent.name} for parent in parents]


def _columns(matrix: Matrix, order: np.ndarray) -> Matrix:
    return matrix.columns(order) if isinstance(matrix, ExactMatrix) else matrix[:, order]


def _kron(x: Matrix, y: Matrix) -> Matrix:
    if isinstance(x, ExactMatrix) and isinstance(y, ExactMatrix):
        return x.kron(y)
    assert isinstance(x, np.ndarray) and isinstance(y, np.ndarray)
    return np.kron(x, y)


def _matmul(x: Matrix, y: Matrix) -> Matrix:
    if isinstance(x, ExactMatrix) and isinstance(y, ExactMatrix):
        return x @ y
    assert isinstance(x, np.ndarray) and isinstance(y, np.ndarray)
    return x @ y


def _times(x: Matrix, integers: np.ndarray) -> Matrix:
    return _matmul(x, ExactMatrix.make(integers) if isinstance(x, ExactMatrix) else integers)


def _stack(x: Matrix, y: Matrix) -> Matrix:
    if not (isinstance(x, ExactMatrix) and isinstance(y, ExactMatrix)):
        assert isinstance(x, np.ndarray) and isinstance(y, np.ndarray)
        return np.concatenate([x, y])
    common = lcm(x.denominator, y.denominator)
    scales = common // x.denominator, common // y.denominator
    real = np.concatenate([part.real.astype(object) * scale for part, scale in zip((x, y), scales, strict=True)])
    imaginary = [np.zeros_like(part.real) if part.imaginary is None else part.imaginary for part in (x, y)]
    return ExactMatrix.make(real, common, np.concatenate([part.astype(object) * s for part, s in zip(imaginary, scales, strict=True)]))


def _python(basis: Basis) -> list[list[int | Fraction]]:
    """Rows of Python numbers: `Fraction` does not take numpy integers."""
    return [[value if isinstance(value, Fraction) else int(value) for value in row] for row in basis]
