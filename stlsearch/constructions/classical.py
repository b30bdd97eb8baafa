"""Algorithms given by formula: the standard one and the classical fast matrix, polynomial and complex products.

Every algorithm is verified in exact arithmetic when it is built, and names its source in its provenance.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.rational import inverse
from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix
from stlsearch.targets import Target

Point = int | Fraction | None  # None is the point at infinity


def standard_terms(target: Target) -> BilinearAlgorithm:
    """The algorithm read off the tensor of any target, of rank `target.trivial_rank`.

    T = sum over pairs (i, j) of e_i (x) e_j (x) T[i, j, :], one term per non-zero fibre; along whichever
    mode leaves the fewest (the third on a tie). For <n,m,p> this is the standard algorithm of rank nmp. It is
    exact, but for targets whose entries are no fractions: over R there, with no error beyond rounding.
    """
    support = target.tensor != 0
    counts = [int(support.any(axis=mode).sum()) for mode in range(3)]
    fibre = min((2, 1, 0), key=lambda mode: counts[mode])
    pairs = np.argwhere(support.any(axis=fibre))
    others = [mode for mode in range(3) if mode != fibre]
    factors: list[np.ndarray] = [np.zeros((len(pairs), d), dtype=np.int64) for d in target.dims]
    for column, mode in enumerate(others):
        factors[mode][np.arange(len(pairs)), pairs[:, column]] = 1
    provenance = {"construction": "standard", "source": "definition of the target"}
    values, denominator = target.rational or (target.tensor, 1)
    factors[fibre] = np.moveaxis(values, fibre, 2)[pairs[:, 0], pairs[:, 1]]
    if target.rational is None:
        return BilinearAlgorithm.from_floats(target, *factors, provenance=provenance)
    exact = [ExactMatrix.make(factor, denominator if mode == fibre else 1) for mode, factor in enumerate(factors)]
    return BilinearAlgorithm.from_exact(target, *exact, provenance=provenance)


def standard(n: int, m: int, p: int) -> BilinearAlgorithm:
    """The standard algorithm <n,m,p; nmp>: one product a_ij b_jk for every triple (i, j, k)."""
    return standard_terms(Target.matmul(n, m, p))


def strassen() -> BilinearAlgorithm:
    """<2,2,2;7> of Strassen, "Gaussian elimination is not optimal", Numer. Math. 13 (1969)."""
    products = ["(a11+a22)(b11+b22)", "(a21+a22)(b11)", "(a11)(b12-b22)", "(a22)(b21-b11)", "(a11+a12)(b22)", "(a21-a11)(b11+b12)"]
    products.append("(a12-a22)(b21+b22)")
    outputs = ["m1+m4-m5+m7", "m3+m5", "m2+m4", "m1-m2+m3+m6"]
    return _from_formulas(Target.matmul(2, 2, 2), products, outputs, "strassen", "Strassen 1969, Gaussian elimination is not optimal")


def winograd() -> BilinearAlgorithm:
    """Winograd's variant of Strassen's algorithm, <2,2,2;7>: 15 additions once common sums are shared.

    With s1 = a21+a22, s2 = s1-a11, t1 = b12-b11, t2 = b22-t1 and u = m1+m6 computed once; Winograd,
    "On multiplication of 2 x 2 matrices", Linear Algebra Appl. 4 (1971). 15 is optimal (Probert 1976)
    in the given basis.
    """
    products = ["(a11)(b11)", "(a12)(b21)", "(a11+a12-a21-a22)(b22)", "(a22)(b11-b12-b21+b22)", "(a21+a22)(b12-b11)"]
    products += ["(a21+a22-a11)(b11-b12+b22)", "(a11-a21)(b22-b12)"]
    outputs = ["m1+m2", "m1+m3+m5+m6", "m1-m4+m6+m7", "m1+m5+m6+m7"]
    return _from_formulas(Target.matmul(2, 2, 2), products, outputs, "winograd", "Winograd 1971, On multiplication of 2x2 matrices")


def laderman() -> BilinearAlgorithm:
    """<3,3,3;23> of Laderman, "A noncommutative algorithm for multiplying 3 x 3 matrices using 23
    multiplications", Bull. AMS 82 (1976)."""
    products = [
        "(a11+a12+a13-a21-a22-a32-a33)(b22)",
        "(a11-a21)(b22-b12)",
        "(a22)(b12-b11+b21-b22-b23-b31+b33)",
        "(a21-a11+a22)(b11-b12+b22)",
        "(a21+a22)(b12-b11)",
        "(a11)(b11)",
        "(a31-a11+a32)(b11-b13+b23)",
        "(a31-a11)(b13-b23)",
        "(a31+a32)(b13-b11)",
        "(a11+a12+a13-a22-a23-a31-a32)(b23)",
        "(a32)(b13-b11+b21-b22-b23-b31+b32)",
        "(a32-a13+a33)(b22+b31-b32)",
        "(a13-a33)(b22-b32)",
        "(a13)(b31)",
        "(a32+a33)(b32-b31)",
        "(a22-a13+a23)(b23+b31-b33)",
        "(a13-a23)(b23-b33)",
        "(a22+a23)(b33-b31)",
        "(a12)(b21)",
        "(a23)(b32)",
        "(a21)(b13)",
        "(a31)(b12)",
        "(a33)(b33)",
    ]
    outputs = [
        "m6+m14+m19",
        "m1+m4+m5+m6+m12+m14+m15",
        "m6+m7+m9+m10+m14+m16+m18",
        "m2+m3+m4+m6+m14+m16+m17",
        "m2+m4+m5+m6+m20",
        "m14+m16+m17+m18+m21",
        "m6+m7+m8+m11+m12+m13+m14",
        "m12+m13+m14+m15+m22",
        "m6+m7+m8+m9+m23",
    ]
    return _from_formulas(Target.matmul(3, 3, 3), products, outputs, "laderman", "Laderman 1976, Bull. AMS 82")


def gauss() -> BilinearAlgorithm:
    """Gauss's complex product with 3 real products: (a0 + i a1)(b0 + i b1) = (m1 - m3) + i (m1 + m2)."""
    products = ["(a0+a1)(b0)", "(a0)(b1-b0)", "(a1)(b0+b1)"]
    return _from_formulas(Target.make("complex", {}), products, ["m1-m3", "m1+m2"], "gauss", "attributed to Gauss")


def karatsuba() -> BilinearAlgorithm:
    """<polymul2x2; 3>: (a0 + a1 x)(b0 + b1 x) with middle coefficient (a0+a1)(b0+b1) - a0 b0 - a1 b1; Karatsuba and Ofman 1962."""
    products = ["(a0)(b0)", "(a0+a1)(b0+b1)", "(a1)(b1)"]
    target = Target.make("polymul", {"m": 2, "n": 2})
    return _from_formulas(target, products, ["m1", "m2-m1-m3", "m3"], "karatsuba", "Karatsuba and Ofman 1962")


def toom(m: int, n: int, points: Sequence[Point] | None = None) -> BilinearAlgorithm:
    """Toom-Cook product of polynomials with m and n coefficients over Q: rank m+n-1, the least possible.

    U and V evaluate at m+n-1 distinct points (Vandermonde rows 1, x, x^2, ...; None is infinity, the
    leading coefficient), W interpolates: W = Vandermonde^-T. Toom 1963, Cook 1966.

    Raises:
        InputError: not m+n-1 distinct points, or interpolation coefficients beyond 2^53.
    """
    target = Target.make("polymul", {"m": m, "n": n})
    count = m + n - 1
    points = default_points(count) if points is None else list(points)
    if len(points) != count or len(set(points)) != count:
        raise InputError(f"Toom-Cook for {m} x {n} coefficients needs {count} distinct points")
    interpolation = inverse([_powers(point, count) for point in points])
    W = [list(column) for column in zip(*interpolation, strict=True)]
    U, V = ([_powers(point, size) for point in points] for size in (m, n))
    shown = ["inf" if point is None else str(point) for point in points]
    provenance = {"construction": f"toom({m},{n})", "source": "Toom 1963, Cook 1966", "points": shown}
    return BilinearAlgorithm.from_exact(target, U, V, W, provenance=provenance)


def default_points(count: int) -> list[Point]:
    """0, infinity, 1, -1, 2, -2, 1/2, -1/2, 3, ...: points that keep the interpolation coefficients small."""
    points: list[Point] = [0, None]
    size = 1
    while len(points) < count:
        points += [size, -size] if size == 1 else [size, -size, Fraction(1, size), Fraction(-1, size)]
        size += 1
    return points[:count]


def gram(n: int, m: int) -> BilinearAlgorithm:
    """<aat n x m> with m n(n+1)/2 squares: a_ik a_jk = ((a_ik + a_jk)^2 - a_ik^2 - a_jk^2)/2 for every k and i < j.

    As a bilinear map of A and B, symmetric in both, the same identity polarised. The bilinear definition, whose products
    are a_ik b_jk, needs m n^2.
    """
    target = Target.make("aat", {"n": n, "m": m})
    outputs = {(int(i), int(j)): place for place, (i, j) in enumerate(zip(*np.triu_indices(n), strict=True))}
    encode = np.zeros((m * len(outputs), n * m), dtype=np.int64)
    decode = np.zeros((m * len(outputs), len(outputs)), dtype=np.int64)  # over 2
    for k in range(m):
        for (i, j), place in outputs.items():
            row = k * len(outputs) + place
            encode[row, [i * m + k, j * m + k]] = 1
            if i < j:
                decode[row, place] += 1
            else:
                decode[row, [outputs[min(i, other), max(i, other)] for other in range(n) if other != i]] -= 1
                decode[row, place] += 2
    provenance = {"construction": f"gram({n},{m})", "source": "polarisation identity"}
    return BilinearAlgorithm.from_exact(target, encode, encode, ExactMatrix.make(decode, 2), provenance=provenance)


def _from_formulas(target: Target, products: Sequence[str], outputs: Sequence[str], name: str, source: str) -> BilinearAlgorithm:
    """Read products such as ``(a11+a22)(b11)`` and one sum of m1, m2, ... for every entry of the output."""
    columns = [{target.variable(mode, index): index for index in range(target.dims[mode])} for mode in range(2)]
    columns.append({f"m{index + 1}": index for index in range(len(products))})
    pairs = [product.strip("()").split(")(") for product in products]
    U, V = ([_linear_form(pair[mode], columns[mode]) for pair in pairs] for mode in range(2))
    W = list(zip(*(_linear_form(output, columns[2]) for output in outputs), strict=True))
    return BilinearAlgorithm.from_exact(target, U, V, W, provenance={"construction": name, "source": source})


def _linear_form(text: str, columns: dict[str, int]) -> list[int]:
    row = [0] * len(columns)
    for sign, name in re.findall(r"([+-]?)(\w+)", text):
        row[columns[name]] += -1 if sign == "-" else 1
    return row


def _powers(point: Point, count: int) -> list[Fraction]:
    if point is None:
        return [Fraction(int(k == count - 1)) for k in range(count)]
    return [Fraction(point) ** k for k in range(count)]
