"""Exact algorithms from those of neighbouring sizes: a row or column dropped, or a standard slab added.

In <n,m,p> every index of a dimension belongs to one slab of two of the three matrices: row i of A and of C for n, column j of A and
row j of B for m, column k of B and of C for p. With the slab set to zero the product that is left is the one without that index, and
so is the algorithm: its terms lose those entries, some of them vanish, and some come to share two factors and are added up. The
other way the standard algorithm of a slab, or any algorithm, is put beside another (`transforms.direct_sum`). Walks on the flip
graph start lower from such algorithms than from the standard one (Arai, Ichikawa and Hukushima, arXiv 2312.16960).
"""

from __future__ import annotations

from math import gcd

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.classical import standard
from stlsearch.constructions.transforms import DIMENSIONS, check_dimension, direct_sum
from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix, modulus_of
from stlsearch.targets import Target

Row = tuple[int, ...]
Term = tuple[Row, Row, Row]
_LAYOUT = ((0, 1), (1, 2), (0, 2))  # rows and columns of A, B and C among n, m, p


def project(algorithm: BilinearAlgorithm, dimension: str, index: int) -> BilinearAlgorithm:
    """<n,m,p> without one index of a dimension: <n-1,m,p>, <n,m-1,p> or <n,m,p-1>, of at most the same rank.

    Entries of that index are dropped, terms that vanish too, and terms that share two factors up to a scalar are added up, unless
    coefficients of a ternary algorithm would leave {-1, 0, 1}.

    Args:
        dimension: n, m or p.
        index: of the row or column that goes, from 0.

    Raises:
        InputError: not an exact matrix product without imaginary coefficients, an unknown dimension, an index that does not exist, or a
            dimension of size 1.
    """
    shape, along = _shape(algorithm), DIMENSIONS.index(check_dimension(dimension))
    if shape[along] == 1 or not 0 <= index < shape[along]:
        limits = f"from 0 to {shape[along] - 1}" if shape[along] > 1 else f"of which none can go: {dimension} is 1"
        raise InputError(f"{algorithm.name} has no index {index} along {dimension} to drop; valid are those {limits}")
    assert algorithm.exact is not None
    if any(factor.imaginary is not None for factor in algorithm.exact):
        raise InputError(f"project works on real or modular coefficients, {algorithm.name} has complex ones")
    factors = []
    for layout, factor in zip(_LAYOUT, algorithm.exact, strict=True):
        cells = np.arange(factor.shape[1]).reshape([shape[d] for d in layout])
        if along in layout:
            cells = np.delete(cells, index, axis=layout.index(along))
        factors.append([tuple(row) for row in factor.real[:, cells.ravel()].tolist()])
    terms: list[Term] = [(u, v, w) for u, v, w in zip(*factors, strict=True) if any(u) and any(v) and any(w)]
    terms = _merged(terms, modulus_of(algorithm.ring), algorithm.is_ternary)
    exact = [ExactMatrix.make(rows, factor.denominator) for rows, factor in zip(zip(*terms, strict=True), algorithm.exact, strict=True)]
    n, m, p = (size - (d == along) for d, size in enumerate(shape))
    provenance = {
        "operation": "project",
        "dimension": dimension,
        "index": index,
        "parents": [{"id": algorithm.id, "name": algorithm.name}],
    }
    ring = algorithm.ring if modulus_of(algorithm.ring) else None
    return BilinearAlgorithm.from_exact(Target.matmul(n, m, p), *exact, ring=ring, provenance=provenance)


def extend(algorithm: BilinearAlgorithm, dimension: str, by: int = 1) -> BilinearAlgorithm:
    """An algorithm and the standard one beside it: `by` more rows or columns along n, m or p.

    The rank grows by the products of the slab: by m p for n, by n p for m, by n m for p, each times `by`.

    Raises:
        InputError: not an exact matrix product, an unknown dimension, or `by` below 1.
    """
    shape, along = _shape(algorithm), DIMENSIONS.index(check_dimension(dimension))
    if by < 1:
        raise InputError(f"an algorithm is extended by at least 1 along {dimension}, not by {by}")
    n, m, p = (by if d == along else size for d, size in enumerate(shape))
    return direct_sum(algorithm, standard(n, m, p), dimension)


def _shape(algorithm: BilinearAlgorithm) -> tuple[int, int, int]:
    if algorithm.target.shape is None or algorithm.exact is None:
        raise InputError(f"sizes of exact matrix products can be changed, not those of {algorithm.name}")
    return algorithm.target.shape


def _merged(terms: list[Term], prime: int | None, ternary: bool) -> list[Term]:
    """Terms that share two factors up to a scalar added up, until there are none, in the order of the first of each."""
    mode, since = 0, 0  # modes looked at since the last merge
    while since < 3:
        left: list[Term | None] = []
        places: dict[tuple[Row, Row], list[int]] = {}
        for term in terms:
            a, b, free = _normal(term, mode, prime)
            for place in places.setdefault((a, b), []):
                other = left[place]
                if other is None:
                    continue
                total = _added(_normal(other, mode, prime)[2], free, prime)
                if not (ternary and prime is None) or all(value in (-1, 0, 1) for value in total):
                    left[place] = _with(a, b, total, mode) if any(total) else None
                    break
            else:
                places[a, b].append(len(left))
                left.append(term)
        kept = [term for term in left if term is not None]
        since = 0 if len(kept) < len(terms) else since + 1
        terms, mode = kept, (mode + 1) % 3
    return terms


def _normal(term: Term, mode: int, prime: int | None) -> tuple[Row, Row, Row]:
    """A term's factors after `mode` made primitive, and that of `mode` with their scalars."""
    (a, alpha), (b, beta) = (_primitive(term[(mode + step) % 3], prime) for step in (1, 2))
    return a, b, _scaled(term[mode], alpha * beta, prime)


def _with(a: Row, b: Row, free: Row, mode: int) -> Term:
    rows = {mode: free, (mode + 1) % 3: a, (mode + 2) % 3: b}
    return rows[0], rows[1], rows[2]


def _primitive(row: Row, prime: int | None) -> tuple[Row, int]:
    """(primitive row, scalar) with row = scalar * primitive row, whose first entry that is not 0 is positive, or 1 modulo a prime."""
    lead = next(value for value in row if value)
    if prime is not None:
        return _scaled(row, pow(lead, -1, prime), prime), lead
    scalar = gcd(*row) if lead > 0 else -gcd(*row)
    return tuple(value // scalar for value in row), scalar


def _scaled(row: Row, scalar: int, prime: int | None) -> Row:
    return tuple(value * scalar if prime is None else value * scalar % prime for value in row)


def _added(first: Row, second: Row, prime: int | None) -> Row:
    return tuple(x + y if prime is None else (x + y) % prime for x, y in zip(first, second, strict=True))
